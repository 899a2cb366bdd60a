"""The book's experiments: each runs, gives the same twice, and what is stored is what the chapters say."""

import json
import math

import pytest
import torch
from click.testing import CliRunner

from llmr_ref import experiments
from llmr_ref.cli import llmr
from llmr_ref.experiments import RESULTS, Experiment, over_seeds, result
from llmr_ref.experiments.catalogue import EXPERIMENTS
from llmr_ref.experiments.language import plays

# Small enough for a second each.
SMALL = {
    "positions": {"length": 16, "longest": 32, "parts": 4, "steps": 3, "batch": 4, "rate": 1e-3},
    "norms": {"layers": 2, "rates": [1e-3], "warmups": [0, 2], "steps": 4, "every": 2, "batch": 2,
              "length": 8},
    "accumulation": {"steps": 3, "parts": 2, "batch": 8, "length": 12, "rate": 1e-3},
    "ladder": {"orders": [1, 2], "steps": 4, "every": 2, "batch": 2, "length": 16, "rate": 1e-3,
               "width": 16},
    "bits": {"bits": [8, 4], "groups": [None, 16], "steps": 2, "batch": 2, "length": 16, "rate": 1e-3,
             "width": 16},
    "saturation": {"widths": [4, 64], "keys": 8, "queries": 16},
    "nope": {"steps": 40, "batch": 16, "length": 8, "rate": 1e-2, "width": 8, "layers": 1},
    "rewards": {"digits": 3, "steps": 4, "every": 2, "group": 2, "rate": 1e-2},
}  # fmt: skip


def leaves(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree


def test_every_experiment_is_tried():
    assert SMALL.keys() == EXPERIMENTS.keys()
    assert all(SMALL[name].keys() == EXPERIMENTS[name].settings.keys() for name in SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_gives_finite_numbers_and_the_same_ones_twice(name):
    torch.set_num_threads(1)
    run = EXPERIMENTS[name].run
    first = experiments._rounded(run(3, **SMALL[name]))
    numbers = [x for x in leaves(first) if isinstance(x, float)]
    assert numbers and all(math.isfinite(x) for x in numbers)
    assert experiments._rounded(run(3, **SMALL[name])) == first
    assert experiments._rounded(run(4, **SMALL[name])) != first


def counted(calls):
    def run(seed, scale):
        calls.append(seed)
        return {"curve": [seed * scale + 1 / 3, 2.0]}

    return run


def test_what_is_stored_is_not_run_again_and_says_how_it_was_made(tmp_path):
    calls = []
    two = Experiment("demo", "Why?", {"scale": 10}, (0, 1), counted(calls))
    two.carry_out(tmp_path, say=lambda _: None)
    more = Experiment("demo", "Why?", {"scale": 10}, (0, 1, 2), counted(calls))
    more.carry_out(tmp_path, say=lambda _: None)
    assert calls == [0, 1, 2]
    stored = result("demo", tmp_path)
    assert stored["results"]["1"] == {"curve": [10.333, 2.0]}
    assert {"settings", "seconds", "date", "versions", "machine"} <= stored.keys()
    assert over_seeds("demo", "curve", folder=tmp_path).tolist() == [
        [pytest.approx(s * 10 + 0.333, abs=1e-3), 2.0] for s in range(3)
    ]
    Experiment("demo", "Why?", {"scale": 20}, (0,), counted(calls)).carry_out(
        tmp_path, say=lambda _: None
    )
    assert calls == [0, 1, 2, 0] and list(result("demo", tmp_path)["results"]) == ["0"]


def test_a_result_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="llmr experiment nothing"):
        result("nothing", tmp_path)


def test_the_command_lists_and_refuses():
    listed = CliRunner().invoke(llmr, ["experiment"])
    assert listed.exit_code == 0 and all(name in listed.output for name in EXPERIMENTS)
    refused = CliRunner().invoke(llmr, ["experiment", "nonsense"])
    assert refused.exit_code == 1 and "'nonsense'; there are: positions" in refused.output


def test_running_again_tells_the_difference(tmp_path, monkeypatch):
    stored = tmp_path / "stored"
    monkeypatch.setattr(experiments, "RESULTS", stored)
    monkeypatch.setattr("llmr_ref.cli.ROOT", tmp_path)
    monkeypatch.setattr(experiments.result, "__defaults__", (stored,))
    demo = Experiment("demo", "Why?", {"scale": 10}, (0, 1), counted([]))
    monkeypatch.setitem(EXPERIMENTS, "demo", demo)
    demo.carry_out(stored, say=lambda _: None)
    path = stored / "demo.json"
    path.write_text(path.read_text().replace("10.333", "10.433"))
    ran = CliRunner().invoke(llmr, ["experiment", "demo", "--again"])
    assert ran.exit_code == 0 and "demo: at most 0.1 from the stored result" in ran.output
    assert (tmp_path / "_build" / "results" / "demo.json").is_file()
    assert "10.433" in path.read_text()
    assert experiments.largest_difference({"a": [1.0, 2]}, {"a": [1.0]}) == math.inf
    assert experiments.largest_difference({"a": [1.0, 2]}, {"a": [1.5, 2]}) == 0.5


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_stored_result_is_of_the_experiment_as_it_is(name):
    stored = json.loads((RESULTS / f"{name}.json").read_text())
    assert stored["settings"] == EXPERIMENTS[name].settings
    assert list(stored["results"]) == [str(seed) for seed in EXPERIMENTS[name].seeds]
    assert (RESULTS / f"{name}.json").stat().st_size < 100_000


def test_the_corpus_is_the_plays():
    assert plays().source == "shakespeare"
