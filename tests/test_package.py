"""The project as a package: what a wheel holds, and a run from one outside of any checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.artifacts import read_json
from tests.conftest import ROOT

SOURCES = ("pipeline", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.{}(sys.argv[1]))"


def quiet(*command: str | Path, cwd: Path) -> str:
    """Run without PYTHONPATH, as only what is installed may be found; the last line of stdout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def files(folder: Path) -> set[str]:
    """What git would know: no caches."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)) for p in found if "__pycache__" not in p.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as an index gets it: the wheel from the source distribution, that from the tree."""
    root = tmp_path_factory.mktemp("build")
    tree = root / "tree"
    tree.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree)
    source = root / quiet(sys.executable, "-c", BUILD.format("build_sdist"), root, cwd=tree)
    with tarfile.open(source) as archive:
        archive.extractall(root, filter="data")
    unpacked = root / source.name.removesuffix(".tar.gz")
    return root / quiet(sys.executable, "-c", BUILD.format("build_wheel"), root, cwd=unpacked)


@dataclass(frozen=True)
class Installed:
    """An environment of its own, in the repository of another project, with only the wheel."""

    bin: Path
    site_packages: Path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The dependencies come from the running environment, whose own installation of the project
    is not seen: a .pth file adds a folder, not the .pth files in that folder."""
    project = tmp_path_factory.mktemp("project")
    quiet("git", "init", "--quiet", cwd=project)
    person = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    quiet("git", *person, "commit", "--quiet", "--allow-empty", "-m", "Another", cwd=project)
    home = project / ".venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    quiet(sys.executable, "-m", "pip", *options, cwd=home)
    return Installed(home / "bin", site_packages)


def test_a_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Would catch a file of the tree that a wheel lacks, or a top-level name beside `pipeline`."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    code = {f"pipeline/{name}" for name in files(ROOT / "pipeline")}
    values = {f"pipeline/conf/{name}" for name in files(ROOT / "conf")}
    assert {name for name in names if ".dist-info/" not in name} == code | values


def test_an_installation_adds_one_folder_to_site_packages(installed: Installed) -> None:
    """Would catch `conf` or `tests` as packages of everybody."""
    found = {path.name for path in installed.site_packages.iterdir()}
    assert {name for name in found if not name.endswith((".dist-info", ".pth"))} == {"pipeline"}


def test_it_runs_outside_the_checkout(installed: Installed, tmp_path: Path) -> None:
    """Would catch YAML files that only the checkout has, and a folder `conf` of the user's own
    that is taken for the pipeline's; or the commit of another project recorded as this one's."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("name: another project's\n")
    short = ("tracking.mode=disabled", "stages=[sft_train,report]", "sft_train.steps=2")
    quiet(installed.bin / "rlx-pipeline", "+experiment=pico", *short, cwd=tmp_path)
    run = next((tmp_path / "outputs" / "pico").iterdir())
    assert (run / "sft_train" / "model" / "model.safetensors").exists()
    assert (run / "report" / "index.html").exists()
    assert read_json(run / "report" / "done.json")["git"] is None
