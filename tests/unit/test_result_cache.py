"""The cache of results: whole or not at all, never stale, never wrong, never in the way."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmr_ref.grading import cache
from llmr_ref.grading.cache import Cache, exercise_fingerprint, grader_fingerprint, key
from llmr_ref.grading.exercises import get_exercise

VALUE = {"score": 2.5, "note": "ünïcode \ud83d", "cells": [1, None]}
NAME = key("verdict", "softmax")


@pytest.fixture
def store(tmp_path):
    return Cache(tmp_path)


def files(store):
    return [p for p in store.folder.rglob("*") if p.is_file()]


def test_what_was_put_comes_back_and_nothing_else(store):
    assert store.get(NAME) is None
    store.put(NAME, VALUE)
    assert store.get(NAME) == VALUE and store.get(key("another")) is None
    assert Cache(store.folder.parents[1]).get(NAME) == VALUE


def test_entries_are_json_in_the_courses_own_folder(store, tmp_path):
    store.put(NAME, VALUE)
    (file,) = files(store)
    assert file.relative_to(tmp_path).parts[:2] == (".llmr", "cache")
    assert json.loads(file.read_text().split("\n", 1)[1]) == VALUE


@pytest.mark.parametrize("damage", [
    lambda b: b[:-1], lambda b: b"", lambda b: b[:70], lambda b: b.replace(b"2.5", b"9.9"),
    lambda b: b"\xff" + b, lambda b: b.replace(b"\n", b""), lambda b: b + b" ",
], ids=["cut", "empty", "only the digest", "changed", "not UTF-8", "one line", "longer"])  # fmt: skip
def test_a_damaged_entry_counts_as_none_and_is_replaced(store, damage):
    store.put(NAME, VALUE)
    (file,) = files(store)
    file.write_bytes(damage(file.read_bytes()))
    assert store.get(NAME) is None
    store.put(NAME, VALUE)
    assert store.get(NAME) == VALUE


def test_an_entry_under_another_name_is_not_this_one(store):
    store.put(NAME, VALUE)
    (file,) = files(store)
    other = key("another")
    target = store.folder / other[:2] / f"{other}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(file.read_bytes())
    assert store.get(other) is None


def test_writers_at_the_same_time_leave_one_whole_entry(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(NAME, {"n": n, "pad": "x" * 50_000}), range(64)))
    assert store.get(NAME)["pad"] == "x" * 50_000 and len(files(store)) == 1


def test_a_writer_that_is_killed_leaves_nothing_that_counts(store, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.put(NAME, VALUE)
    assert store.get(NAME) is None and files(store) == []


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), PermissionError(13, "no")]
)
def test_a_disk_that_takes_nothing_does_not_stop_grading(store, monkeypatch, fault):
    monkeypatch.setattr(cache.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(fault))
    store.put(NAME, VALUE)
    assert store.get(NAME) is None


def test_pruning_keeps_what_was_of_use_last_and_clears_up_after_the_killed(store):
    names = [key(n) for n in range(4)]
    for n, name in enumerate(names):
        store.put(name, "x" * 1000)
        os.utime(store._path(name), (n, n))
    assert store.get(names[0]) is not None  # used now: the newest
    (store.folder / names[1][:2] / "left.part").write_text("half")
    store.prune(max_bytes=2300)
    assert [store.get(name) is not None for name in names] == [True, False, False, True]
    assert not list(store.folder.rglob("*.part"))


def test_every_part_of_a_key_counts():
    parts = ("verdict", "softmax", ["a", None], 7, 2, {"wall": 1.0})
    keys = {key(*parts)}
    for at, other in enumerate(("pictures", "relu", ["a", "b"], 8, 1, {"wall": 2.0})):
        keys.add(key(*parts[:at], other, *parts[at + 1 :]))
    assert len(keys) == len(parts) + 1
    assert (
        key(["ab"], ["c"]) != key(["a"], ["bc"]) and key(1) != key("1") and key(None) != key("None")
    )


def test_a_fingerprint_changes_with_the_bank_the_reference_and_the_grader_alone(monkeypatch):
    files = {}

    def fingerprints():
        exercise_fingerprint.cache_clear()
        grader_fingerprint.cache_clear()
        return [exercise_fingerprint(get_exercise(n)) for n in ("softmax", "causal_mask")]

    contents = cache._contents
    monkeypatch.setattr(cache, "_contents", lambda fs: [
        *contents(fs), *(files.get(f.relative_to(cache.PACKAGE).as_posix(), "") for f in sorted(fs))
    ])  # fmt: skip
    before = fingerprints()
    assert before == fingerprints() and before[0] != before[1]
    for file, changed in {
        "grading/exercises/softmax.py": (True, False), "attention.py": (True, None),
        "masks.py": (None, True), "grading/verdict.py": (True, True), "grading/worker.py": (True, True),
        "grading/stand_in/llmr_ref/__init__.py": (True, True), "grading/shell.py": (True, True),
        "grading/report.py": (False, False), "grading/autograde.py": (False, False),
        "cli.py": (False, False),
    }.items():  # fmt: skip
        assert (cache.PACKAGE / file).is_file(), file
        files.clear()
        files[file] = "changed"
        after = fingerprints()
        for one, other, expected in zip(before, after, changed, strict=True):
            assert expected is None or (one != other) == expected, file
    monkeypatch.undo()
    fingerprints()


def test_another_process_finds_the_same_fingerprint():
    code = (
        "from llmr_ref.grading.cache import exercise_fingerprint\n"
        "from llmr_ref.grading.exercises import get_exercise\n"
        "print(exercise_fingerprint(get_exercise('softmax')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == exercise_fingerprint(get_exercise("softmax"))
