"""Checkpoints are whole or absent, damage is named, and a metrics file has every step once."""

import json
import math
import os
import random

import numpy as np
import pytest
import torch

from llmr_ref import checkpoints
from llmr_ref.checkpoints import (
    MetricsLog,
    best_checkpoint,
    check_same,
    checkpoint_path,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    mark_best,
    random_state,
    read_metrics,
    remove_old,
    save_checkpoint,
    set_random_state,
)

STATE = {
    "model": {"w": torch.arange(5000.0)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    "progress": {"steps_done": 3, "betas": (0.9, 0.95), "name": "run", "none": None},
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "step-00000003.pt"
    save_checkpoint(path, STATE)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- one checkpoint -----------------------------------------------------------------------------


def test_what_was_saved_comes_back(path):
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["w"], STATE["model"]["w"])
    assert state["progress"] == STATE["progress"] and state["format"] == checkpoints.FORMAT
    assert state["optimizer"] == STATE["optimizer"]
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("fails_in", ["save", "fsync", "replace"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(path, monkeypatch, fails_in):
    def fail(*args, **kwargs):
        if fails_in == "save":
            args[1].write(b"half of it")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch if fails_in == "save" else os, fails_in, fail)
    with pytest.raises(OSError, match="the disk is full"):
        save_checkpoint(path, {**STATE, "model": {}})
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(path)["model"]["w"], STATE["model"]["w"])
    assert names(path.parent) == [path.name]


def test_content_and_name_are_forced_to_the_disk_in_this_order(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    save_checkpoint(tmp_path / "a.pt", STATE)
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_checkpoint_that_was_cut_short_is_called_damaged(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=rf"{path.name} is damaged or cut short; remove it"):
        load_checkpoint(path)


@pytest.mark.parametrize("where", [0.3, 0.5, 0.7])
def test_a_changed_byte_of_the_weights_is_noticed(path, where):
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)


def test_bytes_that_are_no_checkpoint_are_called_damaged(path):
    path.write_bytes(b"never a checkpoint\n" * 100)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)


def test_a_checkpoint_cannot_run_code(path, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    torch.save(Attack(), path)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)
    assert not (tmp_path / "attacked").exists()


def test_another_file_of_torch_is_not_a_checkpoint(path):
    for other in (torch.zeros(3), {"w": torch.zeros(3)}, {**STATE, "format": 1, "more": 1}):
        torch.save(other, path)
        with pytest.raises(ValueError, match=rf"{path.name} is not a checkpoint of a training run"):
            load_checkpoint(path)
    torch.save({**STATE, "format": 99}, path)
    with pytest.raises(ValueError, match="has format 99, and this version reads 1"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    for missing in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"there is no checkpoint {missing}"):
            load_checkpoint(missing)


def test_settings_that_differ_are_named_with_both_values_and_the_remedy():
    saved = {"length": 64, "betas": [0.9, 0.95], "keep": 2, "name": "a"}
    check_same("c.pt", saved, {**saved, "betas": (0.9, 0.95)})
    check_same("c.pt", saved, {**saved, "keep": 5, "name": "b"}, but=["keep", "name"])
    with pytest.raises(
        ValueError,
        match=r"c\.pt was made with length = 64, and this run has length = 128; set length to 64 "
        "to go on, or start anew in another folder",
    ):
        check_same("c.pt", saved, {**saved, "length": 128})
    with pytest.raises(ValueError, match=r"betas = \[0\.9, 0\.95\], .* betas = \[0\.9, 0\.99\]"):
        check_same("c.pt", saved, {**saved, "betas": (0.9, 0.99)})
    for one, other in ((saved, {**saved, "new": 1}), ({**saved, "new": 1}, saved)):
        with pytest.raises(ValueError, match="new = "):
            check_same("c.pt", one, other)


# --- a folder of them ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10, 900, 1000):
        path = checkpoint_path(tmp_path, step)
        if step == 10:  # in shards
            path.mkdir()
            (path / "shard").touch()
        else:
            path.with_suffix(".pt").touch()
    (tmp_path / ".step-00002000.pt.partial").touch()
    return tmp_path


def test_checkpoints_are_listed_oldest_first(folder):
    found = [path.name for path in list_checkpoints(folder)]
    assert found == ["step-00000005.pt", "step-00000010", "step-00000900.pt", "step-00001000.pt"]
    assert latest_checkpoint(folder).name == "step-00001000.pt"


def test_an_empty_folder_has_no_latest_checkpoint(tmp_path):
    for look in (latest_checkpoint, best_checkpoint):
        with pytest.raises(FileNotFoundError, match=f"there is no checkpoint in {tmp_path}"):
            look(tmp_path)


def test_the_best_is_the_one_marked_last_or_else_the_latest(folder):
    assert best_checkpoint(folder).name == "step-00001000.pt"
    for best in ("step-00000900.pt", "step-00000010"):
        mark_best(folder / best)
        assert best_checkpoint(folder) == (folder / best).resolve()


def test_a_mark_that_was_left_half_made_does_no_harm(folder):
    (folder / ".best.partial").touch()
    mark_best(folder / "step-00000900.pt")
    assert best_checkpoint(folder).name == "step-00000900.pt"


@pytest.mark.parametrize("best", ["step-00000005.pt", "step-00000010", "step-00001000.pt"])
def test_the_newest_and_the_best_are_kept(folder, best):
    mark_best(folder / best)
    remove_old(folder, 2)
    kept = {path.name for path in list_checkpoints(folder)}
    assert kept == {best, "step-00000900.pt", "step-00001000.pt"}
    remove_old(folder, 1)
    assert {path.name for path in list_checkpoints(folder)} == {best, "step-00001000.pt"}


def test_without_a_best_the_newest_are_kept(folder):
    remove_old(folder, 3)
    assert len(list_checkpoints(folder)) == 3 and not (folder / "step-00000005.pt").exists()


# --- random numbers -----------------------------------------------------------------------------


def test_every_global_generator_goes_on_where_it_was(tmp_path):
    def some():
        return torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist(), random.gauss()

    some()
    save_checkpoint(tmp_path / "a.pt", {**STATE, "progress": random_state()})
    first = some()
    assert some() != first
    set_random_state(load_checkpoint(tmp_path / "a.pt")["progress"])
    assert some() == first


# --- metrics ------------------------------------------------------------------------------------


def test_every_line_is_one_step_in_strict_json(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1, "loss": 2.5, "skipped": False})
    log.write({"step": 2, "loss": math.nan, "norm": math.inf, "note": None})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    parsed = [json.loads(line, parse_constant=refuse) for line in lines]
    assert parsed == read_metrics(tmp_path / "metrics.jsonl")
    assert parsed[0] == {"step": 1, "loss": 2.5, "skipped": False}
    assert parsed[1] == {"step": 2, "loss": None, "norm": None, "note": None}


def test_steps_after_the_checkpoint_are_forgotten_and_a_cut_line_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(1, 6):
        log.write({"step": step, "loss": step / 2})
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5]
    log = MetricsLog(path, last_step=3)
    log.write({"step": 4, "loss": 9.0})
    assert read_metrics(path) == [{"step": s, "loss": s / 2} for s in (1, 2, 3)] + [
        {"step": 4, "loss": 9.0}
    ]
    assert names(tmp_path) == ["metrics.jsonl"]
    assert MetricsLog(path) and read_metrics(path) == []


def test_no_file_has_no_metrics(tmp_path):
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nstep 2\n{"step": 3}\n')
    with pytest.raises(ValueError, match=rf"line 2 of {path} is not JSON"):
        read_metrics(path)
