"""The training benchmark compares like with like; on a toy, since the clock is not tested."""

import pytest
import torch

from llmr_ref.bench import training


@pytest.fixture
def toy(monkeypatch):
    work = training.Work(
        "a toy", 64, 1, 16, 50, 2, wanted={"fused": 1.0, "explicit": 0.75}, utilisation=0.6
    )
    monkeypatch.setattr(training, "SMALL", work)
    monkeypatch.setattr(training, "LARGER", work)
    monkeypatch.setattr(training, "SGEMM", 64)
    monkeypatch.setattr(torch, "compile", lambda model: model)  # it takes half a minute
    return work


def test_every_competitor_takes_the_same_steps_from_the_same_weights(toy):
    steps = training.competitors(toy, "cpu")
    assert list(steps) == ["Hugging Face", "fused", "compiled", "explicit"]
    losses = {name: [float(step()) for _ in range(3)] for name, step in steps.items()}
    assert losses["fused"][2] < losses["fused"][0]
    for name, loss in losses.items():
        assert loss == pytest.approx(losses["Hugging Face"], abs=1e-4), name


def test_a_competitor_with_other_weights_does_not_compete(toy, monkeypatch):
    monkeypatch.setattr(training, "llama_weights", lambda model: training.hugging_face(
        toy.config(), "cpu").state_dict())  # fmt: skip
    with pytest.raises(AssertionError, match=r"fused|compiled|explicit"):
        training.competitors(toy, "cpu")


def test_each_work_is_timed_and_set_against_the_matrix_product(toy, monkeypatch):
    peaks = {"fused": 900.0, "Hugging Face": 1000.0}
    monkeypatch.setattr(training, "peak_memory", lambda module, name: peaks[name])
    found = list(training.run(rounds=1, device="cpu"))
    titles = [comparison.title.split(",")[0] for comparison in found]
    product = "6N tokens/s over the rate of a 64^3 sgemm"
    memory = "peak memory of a training process"
    assert titles == ["training step", product, "training step", product, memory]
    wanted = {row.name: row.target for row in found[0].rows}
    assert wanted == {"Hugging Face": None, "fused": 1.0, "compiled": None, "explicit": 0.75}
    fused = next(row for row in found[-1].rows if row.name == "fused")
    assert fused.ratio == pytest.approx(10 / 9) and fused.reached


def test_the_share_of_a_matrix_product_is_flops_over_flops(toy):
    n = sum(p.numel() for p in training.Transformer(toy.config()).parameters())
    flops = 6 * n * toy.batch * toy.length
    # Twice the time that a perfect machine would take: one half.
    comparison = training.utilisation(toy, {"fused": [2 * flops]}, [2 * 64**3])
    fused = next(row for row in comparison.rows if row.name == "fused")
    assert fused.median == pytest.approx(0.5)
    assert fused.ratio == pytest.approx(0.5 / 0.6) and not fused.reached


def test_a_process_that_trains_tells_its_peak(toy, capsys):
    threads = torch.get_num_threads()
    try:
        for name in ("fused", "Hugging Face"):
            training.train_a_little(name)
            assert float(capsys.readouterr().out) > 50  # MB, with torch in it
    finally:
        torch.set_num_threads(threads)


def test_the_works_have_the_shapes_that_were_measured_before():
    small, larger = training.SMALL, training.LARGER
    assert (small.d_model, small.n_layers, small.n_heads, small.vocab_size) == (256, 4, 4, 4096)
    assert (small.length, small.batch) == (256, 8)
    assert (larger.d_model, larger.n_layers, larger.n_heads, larger.vocab_size) == (512, 8, 8, 8192)
    assert (larger.length, larger.batch) == (512, 2)
