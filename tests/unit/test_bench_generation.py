"""The generating benchmarks compare like with like; on a toy, since the clock is not tested."""

import pytest
import torch

from llmr_ref.bench import generation, harness, memory


@pytest.fixture
def toy(monkeypatch):
    work = generation.Work(64, 1, 50, batch=2, wanted=1.7)
    monkeypatch.setattr(generation, "WORKS", [work])
    monkeypatch.setattr(generation, "PROMPT", 5)
    monkeypatch.setattr(generation, "NEW", 4)
    monkeypatch.setattr(memory, "LARGER", 0)
    return work


def test_every_competitor_generates_the_same_text_from_the_same_weights(toy):
    texts = {name: run() for name, run in generation.competitors(toy, "cpu").items()}
    assert list(texts) == ["Hugging Face", "generate", "through the modules", "no cache"]
    for text in texts.values():
        assert text.shape == (2, 9)
        assert torch.equal(text, texts["Hugging Face"])


def test_a_competitor_that_generates_something_else_does_not_compete(toy, monkeypatch):
    monkeypatch.setattr(
        generation, "through_the_modules", lambda model, prompt: prompt.new_zeros(2, 9)
    )
    with pytest.raises(AssertionError, match="through the modules agrees with Hugging Face on"):
        generation.competitors(toy, "cpu")


def test_each_work_is_one_comparison_with_its_target(toy):
    (comparison,) = generation.run(rounds=1, device="cpu")
    assert toy.name in comparison.title and "5 + 4 tokens" in comparison.title
    assert comparison.baseline == "Hugging Face"
    targets = {row.name: row.target for row in comparison.rows}
    assert targets["generate"] == 1.7
    assert [name for name, target in targets.items() if target is not None] == ["generate"]


def test_the_works_have_the_shapes_that_were_measured_before():
    shapes = [
        (w.d_model, w.n_layers, w.config().n_heads, w.vocab_size, w.batch) for w in generation.WORKS
    ]
    assert shapes == [
        (256, 4, 4, 4096, 1),
        (256, 4, 4, 4096, 8),
        (512, 8, 8, 8192, 1),
        (512, 8, 8, 8192, 8),
    ]
    assert generation.WORKS[memory.LARGER].batch == 1


@pytest.mark.parametrize("name", ["generate", "Hugging Face"])
def test_a_process_tells_its_peak(toy, capsys, name):
    threads = torch.get_num_threads()
    try:
        memory.generate_once(name)
    finally:
        torch.set_num_threads(threads)
    assert float(capsys.readouterr().out) > 50  # MB, with torch in it


def test_peaks_are_compared_in_megabytes(toy, monkeypatch):
    peaks = {"generate": 300.0, "Hugging Face": 400.0}
    monkeypatch.setattr(memory, "peak_memory", lambda module, name: peaks[name])
    (comparison,) = memory.run(rounds=7, device="cpu")
    ours = next(row for row in comparison.rows if row.name == "generate")
    assert comparison.unit == "MB"
    assert ours.ratio == pytest.approx(4 / 3)
    assert ours.reached
    assert not list(memory.run(rounds=7, device="cuda"))


def test_the_peak_comes_from_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(harness.sys, "executable", "/bin/echo")
    with pytest.raises(ValueError, match="generate"):  # echo says what it was to run: no number
        harness.peak_memory("llmr_ref.bench.memory", "generate")
