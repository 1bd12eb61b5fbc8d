"""Where the tensors of a `torch.save` file lie, found without running anything in it.

A pickle is a program. This reader executes none of it: every class or function that the file names
becomes an inert `Opaque`, except the few that rebuild tensors, which become records of a byte
range. The file is a zip whose storages are stored, not packed, so those ranges can be read like
any other file's.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.trajectory.entries import Entry, Extent

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class Storage:
    """A run of elements in a file."""

    path: Path
    offset: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: `strides` and `start` count elements of its storage."""

    storage: Storage
    dtype: torch.dtype
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def extent(self, begin: int = 0, count: int | None = None) -> Extent:
        """The bytes of `count` elements (default: all) from element `begin`.

        Raises:
            PipelineError: the tensor is a view whose elements do not lie in order.
        """
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                raise PipelineError(
                    f"{self.storage.path}: a tensor of shape {list(self.shape)} is a strided view; "
                    "save the checkpoint with contiguous tensors"
                )
            expected *= size
        size = self.dtype.itemsize
        length = (expected - begin if count is None else count) * size
        offset = self.storage.offset + (self.start + begin) * size
        return Extent(self.storage.path, offset, length)

    def entry(self, name: str) -> Entry:
        return Entry(name, self.dtype, self.shape, (self.extent(),))


class Opaque:
    """What stands for any object that is not a tensor: its class name, arguments and state."""

    name = ""

    def __init__(self, *args: Any, **_: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def attributes(self) -> dict[str, Any]:
        """Its state by name: a dict, or a pair of dicts where the class has slots."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}

    def __hash__(self) -> int:  # as a key of a dict in the file
        return id(self)

    def append(self, _: Any) -> None:
        """Subclasses of list in the file."""

    def extend(self, _: Any) -> None:
        """Subclasses of list in the file."""

    def __setitem__(self, *_: Any) -> None:
        """Subclasses of dict in the file."""


def load_records(path: Path) -> Any:
    """The object in a `torch.save` file, with `Stored` for tensors and `Opaque` for classes.

    Raises:
        PipelineError: missing, truncated, or of the old format that is not a zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Unpickler(path, archive).load()
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; copy the missing shard here") from None
    except (zipfile.BadZipFile, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise PipelineError(
            f"{path}: truncated, or not a torch file of version 1.6 or later ({error}); "
            "copy it again or save it as safetensors"
        ) from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        pickled = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
        if pickled is None:
            raise KeyError("no data.pkl in it")
        super().__init__(io.BytesIO(archive.read(pickled)))
        self._path = path
        self._archive = archive
        self._prefix = pickled.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) in REBUILD:
            return REBUILD[module, name]
        return type(name, (Opaque,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Storage:
        _, dtype, key, _, _ = pid
        if not isinstance(dtype, torch.dtype):  # complex or quantised
            raise PipelineError(
                f"{self._path}: a tensor lies in a {dtype.name}, which is not read; convert the "
                "checkpoint to bf16 first"
            )
        info = self._archive.getinfo(f"{self._prefix}data/{key}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError("its tensors are compressed")
        with open(self._path, "rb") as file:
            file.seek(info.header_offset + 26)  # lengths of the local header's name and extra field
            lengths = file.read(4)
        skip = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        return Storage(self._path, info.header_offset + 30 + skip, dtype)


def _tensor(storage: Storage, start: int, shape: Any, strides: Any, *_: Any) -> Stored:
    return Stored(storage, storage.dtype, start, tuple(shape), tuple(strides))


def _tensor_v3(storage: Storage, start: int, shape: Any, strides: Any, *more: Any) -> Stored:
    _requires_grad, _hooks, dtype, *_ = more
    return Stored(storage, dtype, start, tuple(shape), tuple(strides))


def _first(value: Any, *_: Any) -> Any:
    return value


def _from_type(function: Callable[..., Any], kind: Any, args: Any, state: Any) -> Any:
    value = function(*args)
    if isinstance(value, Opaque):
        value.state = state
        value.name = kind.name  # the tensor's class, not what rebuilds it
    return value


def _nested(kind: Any, name: str) -> Any:
    """A class inside another: inert as well."""
    return type(name, (Opaque,), {"name": f"{kind.name}.{name}"})


REBUILD: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "getattr"): _nested,
    ("__builtin__", "set"): set,  # the name in pickles of protocol 2, which torch writes
    ("__builtin__", "getattr"): _nested,
}
