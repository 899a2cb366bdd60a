"""Token ids on disk, memory-mapped: a stream of them may be larger than memory."""

import bisect
import copy
import itertools
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

ShardDtype = Literal["uint16", "uint32"]
INDEX = "index.json"


def write_shards(
    tokens: Iterable[int] | NDArray[np.integer] | Int[Tensor, " N"],
    folder: str | os.PathLike[str],
    *,
    vocab_size: int,
    dtype: ShardDtype | None = None,
    shard_size: int = 2**22,
) -> "TokenShards":
    """Write a stream of ids as files of `shard_size` ids each, little-endian, and an index.

    The folder appears whole or not at all, and one shard is in memory at a time. `dtype` None takes
    the smaller that holds vocab_size.
    Raises: FileExistsError for a folder that is there; FileNotFoundError when its parent is not;
    ValueError for an id outside 0 .. vocab_size - 1, no ids, a vocab_size or shard_size below 1, or
    a vocab_size that dtype cannot hold.
    """
    folder = Path(folder)
    if dtype is None:
        dtype = "uint16" if vocab_size <= 2**16 else "uint32"
    _check_dtype(dtype)
    if not 1 <= vocab_size <= np.iinfo(dtype).max + 1:
        raise ValueError(
            f"vocab_size must lie in 1..{np.iinfo(dtype).max + 1} for {dtype}, got {vocab_size}"
        )
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or name another folder")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.parent} to write {folder.name} in")
    # Written beside its place, then renamed: a reader never sees half of it.
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        shards = []
        for number, chunk in enumerate(_chunks(tokens, shard_size)):
            if chunk.min() < 0 or chunk.max() >= vocab_size:
                wrong = chunk[(chunk < 0) | (chunk >= vocab_size)][0]
                raise ValueError(f"ids must lie in 0..{vocab_size - 1}, got {wrong}")
            data = chunk.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
            name = f"shard-{number:05d}.bin"
            (building / name).write_bytes(data)
            shards.append({"file": name, "length": len(chunk), "crc32": zlib.crc32(data)})
        if not shards:
            raise ValueError("tokens must hold at least one id, got none")
        index = {"dtype": dtype, "vocab_size": vocab_size, "shards": shards}
        (building / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        building.chmod(0o755)  # a temporary folder is its owner's alone
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building)
        raise
    return TokenShards(folder)


def _check_dtype(dtype: str) -> str:
    if dtype not in get_args(ShardDtype):
        raise ValueError(f"dtype is {dtype!r}; choose 'uint16' or 'uint32'")
    return dtype


def _chunks(tokens: object, size: int) -> Iterator[NDArray[np.integer]]:
    if isinstance(tokens, Tensor):
        tokens = tokens.detach().cpu().numpy()
    if isinstance(tokens, np.ndarray):
        check_stream(tokens)
        yield from (tokens[i : i + size] for i in range(0, len(tokens), size))
        return
    stream = iter(tokens)  # type: ignore[call-overload]
    while len(chunk := np.fromiter(itertools.islice(stream, size), dtype=np.int64)):
        yield chunk


class TokenShards:
    """A stream of token ids that stays on disk: `len`, one id, or a slice as an array.

    Opening reads the index and the sizes of the files; `verify` reads everything.
    Raises: FileNotFoundError for a folder, index or shard that is not there; ValueError for an
    index that is not one of `write_shards`, or a shard of another size than the index says.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        index_path = self.folder / INDEX
        if not index_path.is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no token shards: there is no {index_path}; "
                "write them with write_shards"
            )
        try:
            index = json.loads(index_path.read_text(encoding="utf-8"))
            self.dtype = np.dtype(_check_dtype(index["dtype"]))
            self.vocab_size = int(index["vocab_size"])
            shards = [(s["file"], int(s["length"]), int(s["crc32"])) for s in index["shards"]]
            if not shards:
                raise ValueError("it names no shards")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{index_path} is not an index of token shards ({error!r}); write them again"
            ) from error
        self._checksums = {}
        self._arrays: list[NDArray[np.integer]] = []
        for name, length, checksum in shards:
            path = self.folder / name
            if not path.is_file():
                raise FileNotFoundError(f"the shard {path} is missing; write the shards again")
            expected, size = length * self.dtype.itemsize, path.stat().st_size
            if size != expected:
                raise ValueError(
                    f"the shard {path} must have {expected} bytes, got {size}; "
                    "write the shards again"
                )
            self._checksums[path] = checksum
            on_disk = self.dtype.newbyteorder("<")
            self._arrays.append(np.memmap(path, dtype=on_disk, mode="r", shape=(length,)))
        self._set_ends()

    def _set_ends(self) -> None:
        self._ends = list(itertools.accumulate(map(len, self._arrays)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, where: int | slice) -> NDArray[np.integer]:
        """One id, or the ids of a slice, as a new array in the shards' dtype.

        Raises: IndexError for an id beyond the end; ValueError for a slice with a step.
        """
        if not isinstance(where, slice):
            at = where + len(self) if where < 0 else where
            if not 0 <= at < len(self):
                raise IndexError(f"there are {len(self)} tokens, got index {where}")
            return self._read(at, at + 1)[0]
        start, stop, step = where.indices(len(self))
        if step != 1:
            raise ValueError(f"a slice of token shards has step 1, got {step}")
        return self._read(start, max(start, stop))

    def _read(self, start: int, stop: int) -> NDArray[np.integer]:
        return np.concatenate(list(self._pieces(start, stop))).astype(self.dtype)

    def _pieces(self, start: int, stop: int) -> Iterator[NDArray[np.integer]]:
        """The stretch from start to stop, shard by shard, still on disk."""
        shard = min(bisect.bisect_right(self._ends, start), len(self._ends) - 1)
        while True:
            end = self._ends[shard]
            begin = end - len(self._arrays[shard])
            yield self._arrays[shard][start - begin : stop - begin]
            if stop <= end:
                return
            start, shard = end, shard + 1

    def part(self, start: int, stop: int) -> "TokenShards":
        """The ids from start to stop as shards of their own, still on disk.

        Raises: ValueError unless 0 <= start < stop <= len.
        """
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"need 0 <= start < stop <= {len(self)}, got {start} and {stop}")
        part = copy.copy(self)
        part._arrays = list(self._pieces(start, stop))
        part._set_ends()
        return part

    def verify(self) -> None:
        """Read every file. Raises: ValueError for one whose content has changed."""
        for path, checksum in self._checksums.items():
            if zlib.crc32(path.read_bytes()) != checksum:
                raise ValueError(
                    f"the shard {path} does not hold what was written (its checksum differs); "
                    "write the shards again"
                )


def check_stream(tokens: Int[Tensor, " N"] | NDArray[np.integer]) -> None:
    """Raise TypeError for tokens that are not integers, ValueError for more than one dimension."""
    if isinstance(tokens, Tensor):
        integer = not (
            tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool
        )
    else:
        integer = np.issubdtype(tokens.dtype, np.integer)
    if not integer:
        raise TypeError(f"tokens must be integer ids, got {tokens.dtype}")
    if tokens.ndim != 1:
        raise ValueError(f"tokens must be one stream, (N,), got {tuple(tokens.shape)}")
