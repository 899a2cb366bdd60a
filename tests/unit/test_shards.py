"""Shards on disk against the lists that they hold; whatever is broken is named."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmr_ref.shards import TokenShards, write_shards


@pytest.fixture
def shards(tmp_path):
    """23 ids in shards of 5."""
    ids = np.random.default_rng(0).integers(0, 300, 23)
    return ids, write_shards(ids, tmp_path / "shards", vocab_size=300, shard_size=5)


@given(
    ids=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=30),
    shard_size=st.integers(1, 12),
    bounds=st.tuples(st.integers(-35, 35) | st.none(), st.integers(-35, 35) | st.none()),
)
def test_shards_slice_like_the_list_they_hold(tmp_path_factory, ids, shard_size, bounds):
    folder = tmp_path_factory.mktemp("data") / "shards"
    shards = write_shards(iter(ids), folder, vocab_size=2**16, shard_size=shard_size)
    assert len(shards) == len(ids)
    piece = shards[slice(*bounds)]
    assert piece.dtype == np.uint16
    assert piece.tolist() == ids[slice(*bounds)]
    assert [int(shards[i]) for i in range(-len(ids), len(ids))] == ids * 2
    assert len(list(folder.glob("shard-*.bin"))) == math.ceil(len(ids) / shard_size)
    shards.verify()


@pytest.mark.parametrize("kind", [list, iter, np.array, torch.tensor])
def test_every_kind_of_stream_is_written_the_same(tmp_path, kind):
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    shards = write_shards(kind(ids), tmp_path / "s", vocab_size=10, shard_size=3)
    assert shards[:].tolist() == ids
    assert shards.vocab_size == 10
    assert TokenShards(str(tmp_path / "s"))[:].tolist() == ids


@pytest.mark.parametrize(
    ("vocab_size", "dtype", "expected"),
    [
        (2**16, None, "uint16"),
        (2**16 + 1, None, "uint32"),
        (100, "uint32", "uint32"),
        (2**32, None, "uint32"),
    ],
)
def test_ids_take_two_bytes_where_two_are_enough(tmp_path, vocab_size, dtype, expected):
    ids = [0, min(vocab_size, 2**40) - 1]
    shards = write_shards(ids, tmp_path / "s", vocab_size=vocab_size, dtype=dtype)
    assert shards.dtype == expected
    assert shards[:].dtype == expected
    assert shards[:].tolist() == ids
    size = np.dtype(expected).itemsize
    assert (tmp_path / "s" / "shard-00000.bin").stat().st_size == 2 * size


def test_shards_are_little_endian_on_disk(tmp_path):
    write_shards([258], tmp_path / "s", vocab_size=300)
    assert (tmp_path / "s" / "shard-00000.bin").read_bytes() == b"\x02\x01"


def test_shards_stay_on_disk(shards):
    _, shards = shards
    assert all(isinstance(array, np.memmap) for array in shards._arrays)
    assert all(isinstance(array, np.memmap) for array in shards.part(3, 17)._arrays)


def test_a_slice_is_a_copy(shards):
    ids, shards = shards
    for stretch in (slice(1, 4), slice(3, 12)):
        shards[stretch][:] = 0
        assert shards[stretch].tolist() == ids[stretch].tolist()


@given(a=st.integers(0, 22), b=st.integers(1, 23))
def test_a_part_of_shards_is_shards(tmp_path_factory, a, b):
    a, b = min(a, b - 1), b
    folder = tmp_path_factory.mktemp("data") / "shards"
    part = write_shards(range(23), folder, vocab_size=23, shard_size=5).part(a, b)
    assert len(part) == b - a
    assert part[:].tolist() == list(range(a, b))
    assert part[-1] == b - 1
    inner = part.part(0, max(1, len(part) - 3))
    assert inner[:].tolist() == part[: max(1, len(part) - 3)].tolist()


def test_only_one_shard_is_read_ahead_from_a_stream(tmp_path):
    seen = []

    def stream():
        for i in range(12):
            seen.append(i)
            written = len(list(tmp_path.glob(".s-*/shard-*")))
            assert written >= i // 4  # everything before the present shard is on disk
            yield i

    write_shards(stream(), tmp_path / "s", vocab_size=12, shard_size=4)
    assert seen == list(range(12))


def test_a_failed_write_leaves_nothing(tmp_path):
    def broken():
        yield from range(10)
        raise RuntimeError("the disk of the source failed")

    with pytest.raises(RuntimeError, match="the disk of the source"):
        write_shards(broken(), tmp_path / "s", vocab_size=10, shard_size=3)
    with pytest.raises(ValueError, match=r"ids must lie in 0\.\.9, got 11"):
        write_shards([1, 2, 3, 4, 11, 12], tmp_path / "s", vocab_size=10, shard_size=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tokens": [-1]}, ValueError, r"0\.\.9, got -1"),
        ({"tokens": [10]}, ValueError, r"0\.\.9, got 10"),
        ({"tokens": []}, ValueError, "at least one id"),
        ({"tokens": np.zeros((2, 2), dtype=int)}, ValueError, r"one stream, \(N,\), got \(2, 2\)"),
        ({"tokens": np.zeros(3)}, TypeError, "integer ids, got float64"),
        ({"tokens": torch.zeros(3)}, TypeError, "integer ids, got float32"),
        ({"dtype": "int8"}, ValueError, "dtype is 'int8'; choose 'uint16' or 'uint32'"),
        ({"vocab_size": 0}, ValueError, r"1\.\.65536 for uint16, got 0"),
        ({"vocab_size": 70_000, "dtype": "uint16"}, ValueError, r"1\.\.65536 for uint16.* 70000"),
        ({"vocab_size": 2**32 + 1}, ValueError, r"1\.\.4294967296 for uint32"),
        ({"shard_size": 0}, ValueError, "shard_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, arguments, error, message):
    arguments = {"tokens": [1, 2], "vocab_size": 10} | arguments
    with pytest.raises(error, match=message):
        write_shards(folder=tmp_path / "s", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_written_over(shards, tmp_path):
    ids, _ = shards
    with pytest.raises(FileExistsError, match="shards exists; remove it"):
        write_shards([1], tmp_path / "shards", vocab_size=2)
    assert TokenShards(tmp_path / "shards")[:].tolist() == ids.tolist()
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent to write s in"):
        write_shards([1], tmp_path / "absent" / "s", vocab_size=2)


def test_missing_and_truncated_shards_are_named(shards, tmp_path):
    folder = tmp_path / "shards"
    second = folder / "shard-00001.bin"
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"shard-00001\.bin must have 10 bytes, got 9"):
        TokenShards(folder)
    second.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001\.bin is missing"):
        TokenShards(folder)
    with pytest.raises(FileNotFoundError, match="holds no token shards"):
        TokenShards(tmp_path)


def test_verify_finds_a_changed_byte(shards, tmp_path):
    path = tmp_path / "shards" / "shard-00002.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00002\.bin does not hold what was written"):
        TokenShards(tmp_path / "shards").verify()


@pytest.mark.parametrize(
    "change", ["not json", "[]", "no dtype", "dtype", "float", "shards", "empty"]
)
def test_an_index_that_is_none_is_refused(shards, tmp_path, change):
    path = tmp_path / "shards" / "index.json"
    index = json.loads(path.read_text())
    if change == "no dtype":
        del index["dtype"]
    elif change == "empty":
        index["shards"] = []
    elif change == "float":
        index["dtype"] = "float16"
    else:
        index[change] = 7
    text = change if change in ("not json", "[]") else json.dumps(index)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is not an index of token shards"):
        TokenShards(tmp_path / "shards")


def test_an_index_outside_is_named(shards):
    _, shards = shards
    for index in (23, -24):
        with pytest.raises(IndexError, match=f"there are 23 tokens, got index {index}"):
            shards[index]
    with pytest.raises(ValueError, match="step 1, got 2"):
        shards[::2]
    for bounds in ((-1, 3), (3, 3), (4, 24)):
        with pytest.raises(ValueError, match="need 0 <= start < stop <= 23"):
            shards.part(*bounds)
