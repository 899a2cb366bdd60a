"""The benchmark's arithmetic and its order of play; the clock itself is not tested."""

import io
import time

import pytest
import torch
from rich.console import Console

from llmr_ref.bench import harness, reference
from llmr_ref.bench.harness import Comparison, compare, measured, show


def printed(comparison):
    out = io.StringIO()
    show(comparison, Console(file=out, width=140))
    return out.getvalue()


def test_ratios_are_medians_against_the_baselines():
    values = {"peer": [4.0, 2.0, 6.0], "ours": [1.0, 2.0, 9.0], "slow": [8.0, 8.0, 8.0]}
    rows = measured("work", values, baseline="peer", targets={"ours": 2.0, "slow": 0.6}).rows
    assert [(row.name, row.ratio) for row in rows] == [("peer", 1.0), ("ours", 2.0), ("slow", 0.5)]
    assert [row.reached for row in rows] == [None, True, False]


def test_where_more_is_better_the_ratio_turns_round():
    values = {"peer": [10.0], "ours": [15.0]}
    rows = measured("rate", values, baseline="peer", bigger_is_better=True).rows
    assert [row.ratio for row in rows] == [1.0, 1.5]


def test_competitors_run_in_turn_and_none_always_first():
    played = []
    competitors = {name: (lambda name=name: played.append(name)) for name in "abc"}
    compare("work", competitors, baseline="a", rounds=3, warmup=1)
    rounds = [played[start : start + 3] for start in range(0, len(played), 3)]
    assert len(rounds) == 4
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert {turn[0] for turn in rounds[1:]} == {"a", "b", "c"}


def test_the_warm_up_is_not_counted():
    calls = []
    comparison = compare("work", {"a": lambda: calls.append(1)}, baseline="a", rounds=5, warmup=2)
    assert len(calls) == 7
    assert len(comparison.rows[0].values) == 5


def test_what_takes_longer_is_measured_as_longer():
    competitors = {"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.02)}
    rows = compare("work", competitors, baseline="long", rounds=3, warmup=0).rows
    assert rows[0].ratio > 1


@pytest.mark.parametrize("wrong", [{"baseline": "x"}, {"baseline": "a", "targets": {"x": 1.0}}])
def test_a_name_that_competes_nowhere_is_refused(wrong):
    with pytest.raises(KeyError, match="no competitor is named \\['x'\\]"):
        measured("work", {"a": [1.0]}, **wrong)


def test_the_table_shows_median_range_ratio_and_whether_it_was_reached():
    values = {"peer": [0.004, 0.002, 0.006], "ours": [0.001, 0.002, 0.003]}
    text = printed(measured("work", values, baseline="peer", targets={"ours": 1.5}))
    assert "work" in text and "4 ms" in text and "6 ms" in text
    assert "2.00x" in text and "1.50x" in text and "reached" in text
    assert "not reached" in printed(measured("w", values, baseline="peer", targets={"ours": 3.0}))
    assert "400 MB" in printed(
        Comparison("m", "MB", "a", measured("m", {"a": [400.0]}, baseline="a").rows)
    )


def test_the_load_of_others_is_a_number_of_cores():
    assert 0 <= harness.load_of_others(0.05) < 4096


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"only": ["astrology"]}, ValueError, r"no topic \['astrology'\]; there are training"),
        ({"rounds": 2}, ValueError, r"at least 3, got 2"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        reference.main(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_cuda_the_benchmark_says_that_it_did_not_run():
    with pytest.raises(RuntimeError, match=r"no CUDA device.*did not run"):
        reference.main(device="cuda")


def test_every_topic_yields_comparisons_that_can_be_shown(monkeypatch, capsys):
    tiny = measured("work", {"a": [1.0], "b": [2.0]}, baseline="a", targets={"b": 1.0})
    asked = []

    class Topic:
        @staticmethod
        def run(*, rounds, device):
            asked.append((rounds, device))
            yield tiny

    monkeypatch.setattr(reference.importlib, "import_module", lambda name: Topic)
    threads = torch.get_num_threads()
    try:
        assert reference.main(rounds=3) == 1
    finally:
        torch.set_num_threads(threads)
    assert asked == [(3, "cpu")] * len(reference.TOPICS)
    out = capsys.readouterr().out
    assert "not reached work: b 0.50x of 1.00x" in out
    assert "other processes keep" in out
