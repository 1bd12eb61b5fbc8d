"""What the operating system refuses, as a line with the path, the reason and what to do.

Disks fill up, shares go away, folders belong to somebody else: that is no bug, and its traceback
helps nobody. So an OSError travels up from wherever it arises, in any thread, to the end of the
process (`pipeline.ending`), and only there becomes words. Code that owns a bare descriptor, whose
errors know no path, gives them one with `naming`.
"""

from __future__ import annotations

import errno
import itertools
import os
import pwd
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError

AGAIN = "then run the same command again to resume"
STDOUT = "standard output"

_ROOM = f"make room or choose another place ({{place}}), {AGAIN}"
_RIGHT = "get the right to read or write there, or choose another place ({place})"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: f"raise the limit of a file's size (ulimit -f), {AGAIN}",
    errno.EMFILE: f"raise the limit of open files, e.g. `ulimit -n 4096`, {AGAIN}",
    errno.ENFILE: f"other programs of this machine hold too many: end some, {AGAIN}",
    errno.EIO: f"the disk or the network file system fails: have it looked after, {AGAIN}",
    errno.ESTALE: f"its server has replaced it: mount it anew or wait, {AGAIN}",
    errno.EROFS: "choose a place that can be written ({place})",
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.ENAMETOOLONG: "choose a shorter name, or a folder nearer to the root",
    errno.ELOOP: "its links go in a circle: set them right",
    errno.EISDIR: "a file belongs there: remove or rename the folder, or name a file",
    errno.ENOTDIR: "remove or rename it, or choose another folder",
    errno.EEXIST: "remove or rename it, or choose another folder",
    errno.ENOTEMPTY: "move the folder away",
    errno.ENOENT: "correct the path, or put it back",
    errno.ENOLCK: "choose a run.dir on a file system with locks",
    errno.EOPNOTSUPP: "choose a run.dir on another file system",
    errno.ENOMEM: f"free memory or ask for more, {AGAIN}",
    errno.EAGAIN: f"raise the limit of processes (ulimit -u), {AGAIN}",
    errno.EXDEV: "choose a run.dir that lies on one disk",
}
# of a GPU; torch is not imported to find out
_SMALLER = (
    "lower algorithm.micro_batch or compute.vllm_memory for training, engine.batch_size or "
    f"engine.gpu_memory_utilization for sampling (dry_run=true says what each takes), {AGAIN}"
)
# What a library's error of another kind may stem from; the rest of them could hide a bug.
_SURROUNDINGS = {errno.EPIPE, *_REMEDIES} - {errno.ENOENT, errno.EEXIST, errno.EPERM, errno.EAGAIN}
_FROM_RUST = re.compile(r"\(os error (\d+)\)(?: at path \"(.+?)\")?")
_FROM_PYTHON = re.compile(r"\[Errno (\d+)\] [^:]+(?:: '(.+?)')?")
_TORCH_WRITER = re.compile(r"inline_container\.cc:\d+\] \. (unexpected pos|.*write)")


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """A context in which errors that know no path are given this one.

    An OSError gets it as its file name; errors of another kind carry it as a note.
    """
    try:
        yield
    except OSError as error:
        name_path(error, path)
        raise
    except BaseException as error:
        if not isinstance(error, PipelineError):
            error.add_note(str(path))
        raise


def name_path(error: OSError, path: Path | str) -> None:
    """Give the error its path, if it has none; for loops in which a context would cost time."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)


def describe(error: BaseException) -> str | None:
    """The line for a PipelineError, an OSError, or a library's error that comes of one."""
    if isinstance(error, PipelineError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory: {_REMEDIES[errno.ENOMEM]}"
    if (torch := sys.modules.get("torch")) and isinstance(error, torch.OutOfMemoryError):
        said = ". ".join(" ".join(str(error).split()).split(". ")[:2])
        return f"{said}: {_SMALLER}"
    for link in _chain(error):
        found = link if isinstance(link, OSError) else _carried(link)
        if found is None or not (link is error or found.errno in _SURROUNDINGS):
            continue
        line = _line(found, next(iter(getattr(link, "__notes__", [])), None))
        return line.replace("\n", "\\n")
    return None


def is_local(error: BaseException) -> bool:
    """True for this machine's refusals, which a message about the hub would misname."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _SURROUNDINGS and number != errno.EPIPE


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _carried(error: BaseException) -> OSError | None:
    """The operating system's error inside a library's own: safetensors', torch's, a child's."""
    text = str(error)
    for pattern in (_FROM_RUST, _FROM_PYTHON):
        match = pattern.search(text)
        if match is not None:
            return OSError(int(match[1]), os.strerror(int(match[1])), match[2])
    if _TORCH_WRITER.search(text):  # it does not say why; the disk is full, or gone
        return OSError(errno.ENOSPC, "torch could not write to the end of a file")
    return None


def _line(error: OSError, note: str | None) -> str:
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, target, why = error.args[0][0]  # the first of the files that could not be copied
        match = _FROM_PYTHON.search(str(why))
        number = int(match[1]) if match is not None else None
        return _words(str(target), number, str(why).partition("] ")[2] or str(why))
    names = (error.filename2, error.filename, note)  # a rename fails for what it would replace
    path = next((name for name in names if name is not None), None)
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    reason = error.strerror or (str(error).strip() or type(error).__name__).splitlines()[0]
    return _words(None if path is None else str(path), error.errno, reason)


def _words(path: str | None, number: int | None, reason: str) -> str:
    remedy = "" if number is None else _REMEDIES.get(number, AGAIN.removeprefix("then "))
    remedy = remedy.format(place=_place(path))
    reason = reason[:1].lower() + reason[1:]
    if path == STDOUT or (path is None and number == errno.EPIPE):
        return f"{STDOUT}: {reason}; send it elsewhere, {AGAIN}"
    if path is None:
        if number == errno.ENOENT and _lost():
            return "the working folder has been removed; change to another and run again"
        return "; ".join(filter(None, (reason, remedy)))
    return "; ".join(filter(None, (f"{path}: {_detail(Path(path), number) or reason}", remedy)))


def _place(path: str | None) -> str:
    """What says where such files lie."""
    for part, variable in (("huggingface", "HF_HOME"), ("wandb", "WANDB_DIR, WANDB_CACHE_DIR")):
        if path is not None and part in Path(path).parts:
            return variable
    return "run.dir, run.cache"


def _lost() -> bool:
    try:
        Path.cwd()
    except OSError:
        return True
    return False


def _detail(path: Path, number: int | None) -> str | None:
    """What the path itself tells about the reason, where it can still be looked at."""
    try:
        if number in (errno.ENOSPC, errno.EDQUOT):
            return _disk(path, number)
        if number in (errno.EACCES, errno.EPERM):
            return _owner(path)
        if number in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
            return _odd_part(path)
    except OSError:
        return None
    return None


def _disk(path: Path, number: int) -> str:
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    reason = os.strerror(number)
    return f"{reason[:1].lower()}{reason[1:]} ({free:.3g} GB free)"


def _owner(path: Path) -> str | None:
    """Whose right is missing: the first part of the path that cannot be searched, read, written."""
    parts = [*reversed(path.absolute().parents), path.absolute()]
    for folder, below in itertools.pairwise(parts):
        if not os.access(folder, os.X_OK) or not (os.path.lexists(below) or _writable(folder)):
            return _belongs(folder)
    barred = path if not os.access(path, os.R_OK) or not _writable(path) else path.parent
    return _belongs(barred)


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK)


def _belongs(path: Path) -> str:
    found = path.stat()
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    mode = stat.filemode(found.st_mode)
    return f"permission denied ({path} belongs to {owner}, {mode}; this is user {os.geteuid()})"


def is_there(path: Path) -> bool:
    """True if the file exists.

    Raises:
        PipelineError: it is a link that leads nowhere, which was meant to be there.
    """
    if path.is_symlink() and not path.exists():
        raise PipelineError(f"{path}: {why_missing(path)}; copy or download it again")
    return path.exists()


def why_missing(path: Path, wanted: str = "file") -> str:
    """Why there is no such file (or folder): words that follow its path."""
    try:
        return _odd_part(path) or ("is a folder" if path.is_dir() else f"no such {wanted}")
    except OSError as error:
        return str(error.strerror)


def _odd_part(path: Path) -> str | None:
    """The part of the path that is a dead link, or a file where a folder belongs."""
    for part in (*reversed(path.absolute().parents), path.absolute()):
        if part.is_symlink() and _circular(part):
            return "its links go in a circle"
        if part.is_symlink() and not part.exists():
            return f"{_this(part, path)}is a link to {part.readlink()}, which is not there"
        if part.is_file():
            return f"{_this(part, path)}is a file where a folder belongs"
    return None


def _circular(link: Path) -> bool:
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _this(part: Path, path: Path) -> str:
    return "" if part == path.absolute() else f"{part} "
