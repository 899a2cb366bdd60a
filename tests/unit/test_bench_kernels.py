"""The benchmarks of top-p and of rotation compare like with like; on toys, the clock is not tested."""

import pytest
import torch

from llmr_ref.bench import rotary, sampling


def recorded(monkeypatch, module):
    """What each competitor gives, by title; nothing is timed."""
    results = {}

    def compare(title, competitors, *, baseline, rounds, device, targets=None):
        assert baseline in competitors and set(targets or {}) <= set(competitors)
        results[title] = {name: run() for name, run in competitors.items()}

    monkeypatch.setattr(module, "compare", compare)
    list(module.run(rounds=1, device="cpu"))
    return results


def test_every_competitor_keeps_the_same_tokens(monkeypatch):
    monkeypatch.setattr(sampling, "ROWS", 5)
    monkeypatch.setattr(sampling, "VOCABULARY", 200)
    results = recorded(monkeypatch, sampling)
    assert [title.split(", ")[1].split(" rows")[0] for title in results] == [
        "peaked",
        "Zipf",
        "flat",
    ]
    for kept in results.values():
        assert list(kept) == ["Hugging Face", "fused", "explicit"]
        for name, logits in kept.items():
            assert torch.equal(logits.isinf(), kept["Hugging Face"].isinf()), name
            assert 0 < logits.isinf().sum() < logits.numel()


def test_every_competitor_turns_by_the_same_angles(monkeypatch):
    for name, size in {"BATCH": 2, "HEADS": 3, "LENGTH": 5, "WIDTH": 8}.items():
        monkeypatch.setattr(rotary, name, size)
    results = recorded(monkeypatch, rotary)
    assert len(results) == 3
    for turned in results.values():
        assert len(turned) == 5
        for q, k in turned.values():
            assert q.shape == k.shape == (2, 3, 5, 8)
        for layout, reference in (
            ("half", "Hugging Face"),
            ("interleaved", "interleaved, explicit"),
        ):
            for path in ("fused", "explicit"):
                for ours, theirs in zip(
                    turned[f"{layout}, {path}"], turned[reference], strict=True
                ):
                    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("module", [rotary, sampling])
def test_each_work_is_one_comparison_with_its_peer(monkeypatch, module):
    for name, size in {"BATCH": 1, "HEADS": 1, "LENGTH": 3, "WIDTH": 4, "ROWS": 2}.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, size)
    found = list(module.run(rounds=1, device="cpu"))
    assert len(found) == 3
    assert {comparison.baseline for comparison in found} == {"Hugging Face"}
