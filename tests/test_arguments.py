"""Arguments with characters of Hydra's grammar: what is shown must be what works in a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline.arguments import field_type, is_text, rewritten
from pipeline.config import MemberConfig, PipelineConfig
from pipeline.quoting import assignment, literal
from pipeline.run_dirs import expand_home
from tests.command_line import Refused, refused  # noqa: F401

EXPERIMENT = "+experiment=from_checkpoints"
CHARACTERS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
ODD = st.text(st.sampled_from(list("ab/\\\"'${}[](),=:~#%*?! дом中🙂")), min_size=1, max_size=12)


def read_back(argument: str) -> object:
    """The value that Hydra and then OmegaConf make of an argument."""
    value = OverridesParser.create().parse_override(argument).value()
    found = OmegaConf.to_container(OmegaConf.create({"x": value}), resolve=True)
    assert isinstance(found, dict)
    return found["x"]


@settings(max_examples=200, deadline=None)
@given(st.one_of(ODD, CHARACTERS))
def test_a_written_argument_is_read_back_as_it_was(value: str) -> None:
    """Catches an escape that is missing, or one too many, for any text there is."""
    (argument,) = shlex.split(assignment("snapshot.source", value))
    assert read_back(argument) == value
    (argument,) = shlex.split(assignment("snapshot.checkpoints", {10: value, 20: "b"}))
    assert read_back(argument) == {10: value, 20: "b"}
    assert OmegaConf.create({"x": literal(value)})["x"] == value


PATHS = [
    *["/a/b=c", "/a,b", "/a(b", "/a(b)", "{a}", "/a{b}", "/a#b", "/a~b", "/дом", "/中🙂", "/a[1]"],
    *["/it's", '/a"b', "/a${b}", "/a${b", "/a&b", "/a!b;c", "f(x)", "/a^b", "/a>b", "/a\\=${b}"],
    *["/a`b`", "=a", "[a]", "/a b=c d", "${nope}", "/q?x=1&y=[2]", "/v1,v2/step", "1e3", "2024_05"],
]


@pytest.mark.parametrize("path", PATHS)
def test_the_quoting_that_is_shown_works(refused: Refused, path: str) -> None:  # noqa: F811
    """Catches a parser's message that names no argument, and advice that the shell or Hydra reads
    otherwise than as this path."""
    line = refused(EXPERIMENT, f"snapshot.source={path}")
    assert line.startswith("snapshot.source: ")
    shown = shlex.split(line[line.index("'snapshot.source=") :])[0].removesuffix(";")
    assert read_back(shown) == path
    again = refused(EXPERIMENT, shown, "tracking.mode=disabled", "dry_run=true")
    assert "no such folder" in again
    assert "quoted" not in again


@pytest.mark.parametrize(
    ("argument", "texts"),
    [
        ("snapshot.checkpoints={10: /a=b}", {10: "/a=b"}),
        ("snapshot.checkpoints={10:/a/b,20:/дом}", {10: "/a/b", 20: "/дом"}),
        ("+evaluate.models.m=/a=b", "/a=b"),
        ("task.dataset.path=/a=b", "/a=b"),
        ("extrapolation.hold=[*norm*,a=b]", ["*norm*", "a=b"]),
    ],
)
def test_texts_inside_maps_and_lists_are_quoted(
    refused: Refused,  # noqa: F811
    argument: str,
    texts: object,
) -> None:
    """Catches advice for whole values only, where a map of steps holds the path."""
    line = refused(EXPERIMENT, argument)
    shown = shlex.split(line[line.index("must be quoted: ") + len("must be quoted: ") :])[0]
    assert read_back(shown.removesuffix(";")) == texts


MISTAKES = {
    "model=null": ("model=null", "Config group"),
    "engine=5": ("engine=5", "int"),
    "task.dataset={a: 1}": ("task.dataset={a: 1}",),
    "+evaluate.temprature=0.6": ("evaluate.temprature", "did you mean 'evaluate.temperature'"),
    "+engine.foo=bar": ("engine.foo: no such key",),
    "+a.b=1": ("a: no such key",),
    "extrapolation=gated,rank1": ("extrapolation", "--multirun"),
    "tracking.tags=a,b": ("tracking.tags=[a,b]",),
    "/a/b": ("'/a/b'", "key=value"),
    "дом=1": ("дом: no such key",),
    "snapshot..source=a": ("no such key", "did you mean 'snapshot.source'"),
    "weight_extrap.write=5": ("weight_extrap.write", "neither true nor false"),
    "name=a/b": ("name: 'a/b'", "no /"),
    "snapshot.source=": ("snapshot.source: is empty",),
    "evaluate.models=5": ("evaluate.models=5", "{name: model}"),
    "snapshot.checkpoints={10: a, 010: b}": ("snapshot.checkpoints", "stands twice"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_odd_arguments_are_named(refused: Refused, mistake: str) -> None:  # noqa: F811
    """Catches Hydra's own tracebacks, keys that `+` adds for nobody to read, and paths that mean
    the current folder."""
    line = refused(EXPERIMENT, "tracking.mode=disabled", "dry_run=true", mistake)
    for words in MISTAKES[mistake]:
        assert words in line


def test_types_of_keys() -> None:
    """Catches a text key that is not known as one, whose quoting would not be shown."""
    assert is_text("snapshot.source")
    assert is_text("run.dir")
    assert is_text("task.dataset.path")
    assert is_text("eval_tasks.any.dataset.path")
    assert not is_text("weight_extrap.targets")
    assert not is_text("nothing.at.all")
    assert field_type("weight_extrap.targets") == list[int]
    assert rewritten("rl_train.steps=1#2") is None


def test_references_to_other_values_still_work(refused: Refused) -> None:  # noqa: F811
    """Catches arguments that are resolved before there is a configuration to resolve them in."""
    line = refused(EXPERIMENT, "snapshot.source=/nowhere/${name}", "tracking.mode=disabled")
    assert line.startswith("/nowhere/from_checkpoints: no such folder")


def test_advice_is_not_given_where_quotes_would_not_do(refused: Refused) -> None:  # noqa: F811
    """Catches advice that makes nonsense of a list of maps: its texts are cut at every comma."""
    members = "logit_extrap.members=[{model: ~/a, coefficient: 1}, {model: 3, coefficient: 1}]"
    assert "must be quoted" not in refused(EXPERIMENT, members)


def test_the_home_folder_is_read_in_every_path(tmp_path: Path) -> None:
    """Catches a `~` that stays as it is: the shell does not read one behind `=`."""
    config = PipelineConfig()
    config.run.shared = config.snapshot.source = config.model.path = "~/a"
    config.snapshot.checkpoints = {1: "~/a"}
    config.evaluate.models = {"mine": "~/a"}
    config.logit_extrap.members = [MemberConfig("~/a"), MemberConfig("3")]
    expand_home(config)
    home = str(Path.home() / "a")
    paths = [config.run.shared, config.snapshot.source, config.model.path]
    assert paths == [home] * 3
    assert config.snapshot.checkpoints == {1: home}
    assert config.evaluate.models == {"mine": home}
    assert [member.model for member in config.logit_extrap.members] == [home, "3"]
