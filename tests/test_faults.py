"""The operating system's refusals as one line: path, reason, remedy; and bugs that stay bugs."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.faults import describe, is_local, naming, why_missing


def spoken(act: Callable[[], object]) -> str:
    """The line for what `act` raises."""
    with pytest.raises((OSError, RuntimeError, SafetensorError)) as caught:
        act()
    line = describe(caught.value)
    assert line is not None
    assert "\n" not in line
    return line


def test_real_refusals_name_path_and_reason(tmp_path: Path) -> None:
    """Catches a reason that is the errno's alone where the path itself tells more."""
    file = tmp_path / "file"
    file.write_text("")
    dead, loop = tmp_path / "dead", tmp_path / "loop"
    dead.symlink_to("/nowhere/at/all")
    loop.symlink_to(loop)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: (file / "x").mkdir(), f"{file} is a file where a folder belongs"),
        (lambda: (file / "x" / "y").mkdir(parents=True), f"{file} is a file where a folder"),
        (lambda: file.mkdir(exist_ok=True), f"{file}: is a file where a folder belongs"),
        (lambda: tmp_path.read_bytes(), f"{tmp_path}: is a directory; a file belongs there"),
        (lambda: dead.read_bytes(), f"{dead}: is a link to /nowhere/at/all, which is not there"),
        (lambda: (dead / "x").read_bytes(), f"{dead} is a link to /nowhere/at/all"),
        (lambda: loop.read_bytes(), "its links go in a circle"),
        (lambda: (tmp_path / ("x" * 300)).touch(), "file name too long; choose a shorter"),
        (lambda: (tmp_path / "no").read_bytes(), f"{tmp_path / 'no'}: no such file"),
    ]
    for act, words in cases:
        assert words in spoken(act)


REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EMFILE: "ulimit -n",
    errno.EFBIG: "ulimit -f",
    errno.EIO: "have it looked after",
    errno.ESTALE: "mount it anew",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "get the right",
    errno.ENOLCK: "locks",
    errno.ETXTBSY: "run the same command again",
}


@pytest.mark.parametrize("number", REMEDIES)
def test_every_errno_has_its_remedy(number: int, tmp_path: Path) -> None:
    """Catches an errno without advice, or a path lost on the way through another process."""
    error = OSError(number, os.strerror(number), str(tmp_path / "x"))
    for one in (error, pickle.loads(pickle.dumps(error))):
        line = describe(one)
        assert line is not None
        assert line.startswith(f"{tmp_path / 'x'}: ")
        assert REMEDIES[number] in line


def test_a_path_is_given_to_errors_that_have_none(tmp_path: Path) -> None:
    """Catches `[Errno 28]` without a word where: descriptors and locks know no path."""
    path = tmp_path / "of the descriptor"

    def fail(filename: str | None) -> None:
        with naming(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), filename)

    def library() -> None:
        with naming(path), open("/dev/full", "wb") as file:
            torch.save({"x": torch.zeros(100_000)}, file)

    assert spoken(lambda: fail(None)).startswith(f"{path}: input/output error")
    assert spoken(lambda: fail("/its/own")).startswith("/its/own: ")
    assert spoken(library).startswith(f"{path}: no space left")


def test_libraries_own_errors_are_understood(tmp_path: Path) -> None:
    """Catches a traceback where safetensors or torch wrap what the system said."""
    missing = tmp_path / "none" / "x.safetensors"
    assert str(tmp_path / "none") in spoken(lambda: save_file({"x": torch.zeros(1)}, missing))
    wrapped = RuntimeError("worker failed: [Errno 13] Permission denied: '/a/b'")
    assert str(describe(wrapped)).startswith("/a/b: ")
    torch_says = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576")
    assert "make room" in str(describe(torch_says))
    failed = ValueError("cannot save")
    failed.__context__ = OSError(errno.EDQUOT, "Disk quota exceeded", "/q")
    assert str(describe(failed)).startswith("/q: ")


def test_copying_a_folder_names_the_file(tmp_path: Path) -> None:
    """Catches shutil's list of tuples printed as it is."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "dead").symlink_to("/nowhere")
    line = spoken(lambda: shutil.copytree(source, tmp_path / "copy"))
    assert line.startswith(f"{tmp_path / 'copy' / 'dead'}: no such file")


def test_a_gpu_that_is_full_is_no_bug() -> None:
    """A screen of traceback and allocator statistics for a batch that is too large."""
    said = describe(
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 9.27 GiB. GPU 0 has a total capacity of 79.11 "
            "GiB of which 4.10 GiB is free. Including non-PyTorch memory, this process has ..."
        )
    )
    assert said is not None
    assert said.startswith("CUDA out of memory. Tried to allocate 9.27 GiB: lower algorithm.micro")


def test_bugs_are_not_explained_away() -> None:
    """Catches a bug that looks like a user's mistake: it must keep its traceback."""
    assert describe(KeyError("x")) is None
    assert describe(RuntimeError("shapes do not match")) is None
    bug = KeyError("while handling it")
    bug.__context__ = FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere")
    assert describe(bug) is None


def test_one_line_whatever_the_path_holds() -> None:
    """Catches a message that a newline in a name makes two of."""
    assert describe(PipelineError("a\nb")) == "a b"
    assert "\n" not in str(describe(FileNotFoundError(2, "No such file", "/a\nb")))
    assert describe(OSError("a library's message\nand its advice")) == "a library's message"


def test_errors_of_this_machine_are_not_the_hubs() -> None:
    """Catches "the hub did not answer" where the disk is full."""
    assert is_local(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_local(ConnectionError("no route"))
    assert not is_local(FileNotFoundError("in the cache"))


def test_why_missing(tmp_path: Path) -> None:
    """Catches "no such folder" for a file, a dead link or a circle."""
    (tmp_path / "file").touch()
    (tmp_path / "dead").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    assert why_missing(tmp_path / "no", "folder") == "no such folder"
    assert why_missing(tmp_path / "file", "folder") == "is a file where a folder belongs"
    assert why_missing(tmp_path / "dead") == "is a link to gone, which is not there"
    assert "circle" in why_missing(tmp_path / "loop")
