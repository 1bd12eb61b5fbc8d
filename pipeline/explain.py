"""Hydra's and OmegaConf's exceptions as the one line that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.errors import (
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from pipeline.arguments import (
    all_keys,
    field_type,
    find,
    is_text,
    rewritten,
    split,
)
from pipeline.config import CONF
from pipeline.fields import nearest
from pipeline.trajectory.renamed import RENAMED

_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*)'$", re.MULTILINE)
_READ_OTHERWISE = set("[{$")  # what begins a list, a map, a reference to another value
_OPTION = re.compile(r"(?!null$)[A-Za-z_][\w/-]*")  # what a group's option is called
_MAPS = (  # type of the entries, group, map
    ("TaskConfig", "task", "eval_tasks"),
    ("MethodConfig", "extrapolation", "extrapolations"),
)
_FULL_KEY = re.compile(r"full_key: (\S+)")


def explain(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """One line: what is wrong, and the nearest thing that would be right.

    Args:
        arguments: of the command line, to show how one of them must be quoted.
    """
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, str(error))
    ambiguous = _AMBIGUOUS.match(str(error))
    if ambiguous is not None:
        return _ambiguous(ambiguous[1])
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException):
        return _first_line(error)
    key = cause.full_key or ""
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"{key}: no such key{nearest(key, all_keys())}"
    for kind, group, several in _MAPS:
        if f"not a subclass of {kind}" in str(cause):
            key = f"{several}.{key.removeprefix(f'{several}.')}"
            return f"{key}: no such {group}; add one with +{group}@{key}=NAME"
    if isinstance(cause, MissingMandatoryValue):
        return f"{key}: needs a value; give {key}=..."
    line = f"{key}: {_first_line(cause)}" if key else _first_line(cause)
    return line + _meant(key, arguments)


def explain_composing(error: BaseException, arguments: Sequence[str]) -> str:
    """Errors of other kinds that arguments make Hydra stumble over: which one may it have been?"""
    named = _FULL_KEY.search(str(error))
    key = named[1] if named is not None else ""
    pairs = {argument: split(argument) or ("", "") for argument in arguments}
    groups = {a: o for a, (k, o) in pairs.items() if k and (CONF / k.partition("@")[0]).is_dir()}
    suspects = (
        [a for a, (set_key, _) in pairs.items() if key and set_key.startswith(key)]
        or [a for a, option in groups.items() if not _OPTION.fullmatch(option)]
        or [a for a in arguments if a.startswith("+") and a not in groups]
    )
    of = f" of {', '.join(suspects)}" if suspects else ""
    return f"no configuration can be composed{of}: {_first_line(error)}; correct the arguments"


def _meant(key: str, arguments: Sequence[str]) -> str:
    """How to give a text that was read as a list, a map or a reference to another value."""
    argument = find(arguments, key)
    if argument is None or not is_text(key):
        return ""
    if not _READ_OTHERWISE & set(argument.partition("=")[2]):
        return ""
    given = rewritten(argument)
    return f"; if it is meant as it stands, quote it: {given}" if given is not None else ""


def _unreadable(argument: str, message: str) -> str:
    """An argument that Hydra's grammar does not allow."""
    pair, given = split(argument), rewritten(argument)
    if pair is not None and given is not None:
        return f"{pair[0]}: special characters in {pair[1]} must be quoted: {given}"
    if pair is None:
        return f"argument {argument!r}: give key=value (--help shows the keys)"
    if field_type(pair[0]) is None and not (CONF / pair[0].split("@")[0]).is_dir():
        return f"{pair[0]}: no such key{nearest(pair[0], all_keys())}"
    reason = next((line for line in message.splitlines() if " input " in line), "")
    reason = f" ({reason})" if reason else ""
    return f"{pair[0]}: the value {pair[1]!r} cannot be read{reason}; put text in quotes"


def _ambiguous(argument: str) -> str:
    """A value with a comma in it, which Hydra takes for several."""
    key, value = split(argument) or (argument, "")
    given = rewritten(argument)
    if given is not None:
        return f"{key}: special characters in {value} must be quoted: {given}; or add --multirun"
    several = f"{key}: {value} is several values; "
    if (CONF / key).is_dir():
        return f"{several}choose one, or add --multirun to run them all"
    return f'{several}put them into brackets, "{key}=[{value}]", or add --multirun'


def _missing_file(error: MissingConfigException) -> str:
    wanted = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = wanted.rpartition("/")
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group else []
    if not options:
        return _first_line(error)
    if group == "extrapolation" and name in RENAMED:
        return f"{group}={name}: is now called {RENAMED[name]}; give {group}={RENAMED[name]}"
    return f"{group}={name}: no such option; there are {', '.join(options)}{nearest(name, options)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0]
    if len(lines) > 1 and line.endswith(":"):  # only where it happened
        return f"{line} {lines[1]}"
    return line
