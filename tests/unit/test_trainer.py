"""The loop: equal to torch's own pieces, resumable to the bit, and stopped by nothing silent."""

import dataclasses
import functools
import json
import math
import os
import signal
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from llmr_ref import trainer as trainer_module
from llmr_ref.checkpoints import list_checkpoints, read_metrics
from llmr_ref.config import TransformerConfig
from llmr_ref.data import IGNORE, get_batch
from llmr_ref.trainer import Trainer, TrainingDiverged, train
from llmr_ref.training import TrainingConfig, next_token_loss
from llmr_ref.transformer import Transformer

V = 11
TOKENS = torch.randint(V, (400,), generator=torch.Generator().manual_seed(3))
HELD_OUT = torch.randint(V, (60,), generator=torch.Generator().manual_seed(4))
CONFIG = TrainingConfig(
    steps=8,
    batch_size=4,
    length=6,
    max_lr=1e-2,
    eval_every=2,
    eval_batches=2,
    checkpoint_every=3,
    clip=0.5,
    device="cpu",
)


@dataclass(frozen=True)
class Shape:
    width: int = 6


class Tiny(nn.Module):
    """A matrix and a bias that learn, with dropout."""

    def __init__(self, config=Shape(), dropout=0.2, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(1)
        self.config = config
        self.embedding = nn.Embedding(V, config.width, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.width, V, dtype=dtype)

    def forward(self, tokens):
        return self.head(self.dropout(torch.tanh(self.embedding(tokens))))


def changed(**changes):
    return dataclasses.replace(CONFIG, **changes)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def steps(folder):
    return [
        path.name.removesuffix(".pt").removeprefix("step-") for path in list_checkpoints(folder)
    ]


# --- a step -------------------------------------------------------------------------------------


def test_steps_equal_torchs_loss_clipping_and_adamw():
    ours, theirs = Tiny(dropout=0), Tiny(dropout=0)
    trainer = Trainer(ours, TOKENS, changed(clip=0.4))
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs.embedding.weight, theirs.head.weight], "weight_decay": 0.1},
            {"params": [theirs.head.bias], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    generator = torch.Generator().manual_seed(CONFIG.seed)
    clipped = []
    for step in range(1, 6):
        inputs, targets = get_batch(TOKENS, 4, 6, generator=generator)
        loss = nn.CrossEntropyLoss()(theirs(inputs).mT, targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.4)
        clipped.append(bool(norm > 0.4))
        for group in optimizer.param_groups:
            group["lr"] = CONFIG.learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
        record = trainer.step()
        assert record.step == step and record.lr == CONFIG.learning_rate(step)
        assert_close(record.loss, loss.item(), rtol=1e-12, atol=0)
        assert_close(record.grad_norm, norm.item(), rtol=1e-12, atol=0)
        assert record.tokens_per_second > 0 and not record.skipped
        assert_close(weights(ours), weights(theirs), rtol=1e-10, atol=1e-12)
    assert set(clipped) == {True, False} and all(p.grad is None for p in ours.parameters())


def padded(generator):
    """Sequences of very different lengths: the parts of a batch have different numbers of targets."""
    inputs, targets = get_batch(TOKENS, 8, 6, generator=generator)
    targets = targets.clone()  # inputs and targets are two views of one window
    for row, length in enumerate((6, 6, 5, 1, 6, 0, 2, 0)):
        targets[row, length:] = IGNORE
    return inputs, targets


@pytest.mark.parametrize("data", [TOKENS, padded], ids=["whole", "padded"])
@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(data, accumulation):
    whole, parts = Tiny(dropout=0), Tiny(dropout=0)
    one = Trainer(whole, data, changed(batch_size=8))
    other = Trainer(parts, data, changed(batch_size=8, accumulation=accumulation))
    for _ in range(4):
        a, b = one.step(), other.step()
        assert_close(a.loss, b.loss, rtol=1e-13, atol=0)
        assert_close(a.grad_norm, b.grad_norm, rtol=1e-12, atol=0)
    assert_close(weights(whole), weights(parts), rtol=1e-11, atol=1e-13)


def test_the_loss_of_a_padded_batch_is_the_mean_over_its_targets():
    model = Tiny(dropout=0)
    trainer = Trainer(model, padded, changed(batch_size=8, accumulation=4))
    inputs, targets = padded(torch.Generator().manual_seed(CONFIG.seed))
    expected = next_token_loss(model(inputs), targets).item()
    assert_close(trainer.step().loss, expected, rtol=1e-12, atol=0)


def test_it_learns_a_text_that_can_be_known():
    text = torch.arange(400) % V
    model = Tiny(dropout=0)
    first = train(model, text, changed(steps=1), validation=text).evaluation.loss
    config = changed(steps=150, max_lr=0.1, min_lr=0.01, eval_every=150)
    assert train(model, text, config, validation=text).evaluation.loss < 0.1 < 2 < first


def test_the_seed_decides():
    def trained(**changes):
        model = Tiny()
        train(model, TOKENS, changed(steps=3, **changes))
        return weights(model)

    assert torch.equal(trained(), trained())
    assert not torch.equal(trained(), trained(seed=1))


def test_the_data_are_left_alone():
    before = TOKENS.clone(), HELD_OUT.clone()
    train(Tiny(), TOKENS, changed(steps=2), validation=HELD_OUT)
    assert torch.equal(TOKENS, before[0]) and torch.equal(HELD_OUT, before[1])


# --- precision and compilation ------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bit_training_follows_32_bit_training(precision):
    def trained(precision):
        losses, model = [], Tiny(dropout=0, dtype=torch.float32)
        config = changed(steps=12, precision=precision, max_lr=0.05)
        train(model, TOKENS, config, callbacks=[lambda record: losses.append(record.loss)])
        assert all(p.dtype == torch.float32 for p in model.parameters())
        return torch.tensor(losses)

    exact, rough = trained("float32"), trained(precision)
    assert not torch.equal(exact, rough)
    # The products have 8 or 11 bits; losses are about 2.4.
    assert_close(rough, exact, rtol=0.02 if precision == "bfloat16" else 0.005, atol=0)


def test_an_overflow_of_the_float16_scale_is_skipped_and_is_no_divergence():
    model = Tiny(dropout=0, dtype=torch.float32)
    model.head.weight.data *= 3000
    records = []
    trainer = Trainer(model, TOKENS, changed(precision="float16", max_skipped=1))
    trainer.callbacks = [records.append]
    before = weights(model)
    record = trainer.step()
    assert record.skipped and math.isfinite(record.loss) and torch.equal(weights(model), before)
    scale = trainer.scaler.get_scale()
    assert scale == 2.0**15
    assert trainer.run().finished
    assert trainer.skipped >= 1 and not records[-1].skipped


def test_only_float16_scales_its_gradients():
    enabled = {
        precision: Trainer(Tiny(), TOKENS, changed(precision=precision)).scaler.is_enabled()
        for precision in ("float32", "bfloat16", "float16")
    }
    assert enabled == {"float32": False, "bfloat16": False, "float16": True}


def test_the_compiled_step_is_one_graph_and_equals_the_eager_one(monkeypatch):
    def trained(**changes):
        torch.manual_seed(0)
        model = Transformer(TransformerConfig(V, 8, 2, 2, max_length=6))
        train(model, TOKENS, changed(steps=3, **changes), validation=HELD_OUT)
        return weights(model)

    calls = []

    def compile(function):
        calls.append(function)
        # A graph is made and not turned into machine code; a break in it would raise.
        return torch._dynamo.optimize("eager", nopython=True)(function)

    monkeypatch.setattr(trainer_module.torch, "compile", compile)
    eager = trained()
    assert not calls
    assert_close(trained(compile=True), eager)
    assert len(calls) == 1


def test_compiling_without_a_compiler_is_refused_before_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(trainer_module.torch, "compile", lambda function: function)
    Trainer(Tiny(), TOKENS, changed(compile=True))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"g\+\+ and clang\+\+ are not on PATH; install one"):
        Trainer(Tiny(), TOKENS, changed(compile=True))
    Trainer(Tiny(), TOKENS, CONFIG)
    monkeypatch.setenv("CXX", "icpx")
    with pytest.raises(ValueError, match="icpx are not on PATH"):
        Trainer(Tiny(), TOKENS, changed(compile=True))


# --- going on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resumed_run_makes_the_same_steps_to_the_last_bit(tmp_path, precision, stop):
    dtype = torch.float64 if precision == "float32" else torch.float32
    config = changed(precision=precision)
    straight, first, second = (Tiny(dtype=dtype) for _ in range(3))
    one = train(straight, TOKENS, config, validation=HELD_OUT, folder=tmp_path / "one")
    interrupted = Trainer(first, TOKENS, config, validation=HELD_OUT, folder=tmp_path / "two")
    for _ in range(stop):
        interrupted.step()
    interrupted.save()
    torch.manual_seed(999)
    for p in second.parameters():
        p.data.add_(1)
    other = Trainer(
        second, TOKENS, config, validation=HELD_OUT, folder=tmp_path / "two", resume=True
    )
    assert other.steps_done == stop and torch.equal(weights(first), weights(second))
    two = other.run()
    assert torch.equal(weights(straight), weights(second))
    assert one.evaluation == two.evaluation and two.finished and two.step == 8
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for line in (*lines[0], *lines[1]):
        del line["tokens_per_second"]
    assert lines[0][stop:] == lines[1]


def test_a_killed_run_leaves_every_step_once(tmp_path):
    class Killed(Exception):
        pass

    def kill(record):
        if record.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(Tiny(), TOKENS, CONFIG, folder=tmp_path, callbacks=[kill])
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert steps(tmp_path / "checkpoints") == ["00000003"]
    outcome = train(Tiny(), TOKENS, CONFIG, folder=tmp_path, resume=True)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 9)) and outcome.finished


def test_a_finished_run_has_nothing_more_to_do(tmp_path):
    model = Tiny()
    train(model, TOKENS, CONFIG, folder=tmp_path)
    again = train(Tiny(), TOKENS, CONFIG, folder=tmp_path, resume=True)
    assert again.finished and again.step == 8 and again.checkpoint is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint_to_go_on_from(tmp_path, number):
    before = signal.getsignal(number)

    def interrupt(record):
        if record.step == 2:
            os.kill(os.getpid(), number)

    model = Tiny()
    outcome = train(model, TOKENS, CONFIG, folder=tmp_path / "a", callbacks=[interrupt])
    assert not outcome.finished and outcome.step == 3
    assert outcome.checkpoint.name == "step-00000003.pt" and outcome.checkpoint.exists()
    assert signal.getsignal(number) == before
    resumed, straight = Tiny(), Tiny()
    assert train(resumed, TOKENS, CONFIG, folder=tmp_path / "a", resume=True).finished
    train(straight, TOKENS, CONFIG)
    assert torch.equal(weights(resumed), weights(straight))


def test_a_second_signal_ends_it_at_once():
    def interrupt(record):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), TOKENS, CONFIG, callbacks=[interrupt])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_trains_without_listening_to_signals():
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(Tiny(), TOKENS, CONFIG)))
    thread.start()
    thread.join()
    assert outcomes[0].finished


# --- what a run leaves --------------------------------------------------------------------------


def test_every_step_is_a_line_and_evaluations_are_in_theirs(tmp_path):
    records = []
    outcome = train(
        Tiny(),
        TOKENS,
        CONFIG,
        validation=HELD_OUT,
        folder=tmp_path,
        callbacks=[records.append],
        characters_per_token=2.0,
        bytes_per_token=4.0,
    )
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [r.step for r in records] == list(range(1, 9))
    for line, record in zip(lines, records, strict=True):
        assert line == json.loads(json.dumps(record.line()))
        assert {"loss", "lr", "grad_norm", "tokens_per_second", "skipped"} <= set(line)
        assert ("validation_loss" in line) == (record.step % 2 == 0)
    last = lines[-1]
    assert last["validation_loss"] == outcome.evaluation.loss
    assert last["perplexity"] == math.exp(outcome.evaluation.loss)
    assert_close(last["bits_per_character"], last["validation_loss"] / math.log(2) / 2)
    assert_close(last["bits_per_byte"], last["validation_loss"] / math.log(2) / 4)


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path):
    losses = iter([5.0, 3.0, 4.0, 6.0])  # after steps 2, 4, 6 and 8
    trainer = Trainer(
        Tiny(),
        TOKENS,
        changed(checkpoint_every=1, keep=2),
        validation=HELD_OUT,
        folder=tmp_path,
    )
    trainer.evaluate = lambda: trainer_module.Evaluation(next(losses), 10)
    trainer.run()
    assert steps(tmp_path / "checkpoints") == ["00000004", "00000007", "00000008"]
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-00000004.pt"
    assert trainer.best_loss == 3.0


def test_a_better_evaluation_is_saved_between_the_regular_checkpoints(tmp_path):
    trainer = Trainer(
        Tiny(), TOKENS, changed(checkpoint_every=100), validation=HELD_OUT, folder=tmp_path
    )
    losses = iter([5.0, 6.0, 6.0, 6.0])
    trainer.evaluate = lambda: trainer_module.Evaluation(next(losses), 10)
    trainer.run()
    assert steps(tmp_path / "checkpoints") == ["00000002", "00000008"]


def test_the_last_step_is_evaluated_and_saved_whatever_the_period(tmp_path):
    config = changed(eval_every=100, checkpoint_every=100)
    outcome = train(Tiny(), TOKENS, config, validation=HELD_OUT, folder=tmp_path)
    assert outcome.evaluation.n_tokens == 48 and outcome.checkpoint.name == "step-00000008.pt"


def test_evaluation_reads_as_many_batches_as_it_is_told():
    for eval_batches, n_tokens in ((2, 48), (None, 59)):
        config = changed(eval_batches=eval_batches)
        found = Trainer(
            Tiny(), TOKENS, config, validation=HELD_OUT, characters_per_token=3.0
        ).evaluate()
        assert found.n_tokens == n_tokens and found.characters_per_token == 3.0


# --- what is not finite -------------------------------------------------------------------------


def poisoned(when):
    """Batches whose loss is nan at the steps in `when`: token 0 stands for the poison."""
    step = 0

    def batch(generator):
        nonlocal step
        step += 1
        inputs, targets = get_batch(1 + TOKENS % 9, 4, 6, generator=generator)
        return (inputs * 0 if step in when else inputs), targets

    return batch


def with_nan_for_token_0(gradient=False):
    model = Tiny(dropout=0)
    model.embedding.weight.data[0] = math.nan
    return model


def test_a_step_that_is_not_finite_is_skipped_counted_and_forgotten(tmp_path):
    records, seen = [], []
    model = with_nan_for_token_0()
    clean = with_nan_for_token_0()
    outcome = train(
        model,
        poisoned({3, 4, 6}),
        changed(max_skipped=3),
        folder=tmp_path,
        callbacks=[records.append, lambda record: seen.append(weights(model)[V:].clone())],
    )
    assert [record.step for record in records if record.skipped] == [3, 4, 6]
    assert outcome.skipped == 3 and outcome.finished
    assert torch.equal(seen[2], seen[1]) and torch.equal(seen[3], seen[1])
    assert not torch.equal(seen[4], seen[3]) and seen[-1].isfinite().all()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines[2]["loss"] is None and lines[2]["skipped"] and not lines[4]["skipped"]
    train(clean, poisoned(set()), changed(max_skipped=3))
    assert not torch.equal(weights(clean)[V:], weights(model)[V:])


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is():
    model = Tiny(dropout=0)
    model.head.bias.register_hook(lambda gradient: gradient * math.inf)
    before = weights(model)
    record = Trainer(model, TOKENS, CONFIG).step()
    assert record.skipped and math.isfinite(record.loss) and not math.isfinite(record.grad_norm)
    assert torch.equal(weights(model), before)


def test_training_stops_after_some_such_steps_in_a_row_and_says_where(tmp_path):
    config = changed(max_skipped=3, checkpoint_every=2)
    with pytest.raises(
        TrainingDiverged,
        match=r"stopped at step 7: 3 steps in a row had no finite loss and gradient \(loss nan, "
        r"gradient norm nan, learning rate .*\); the last good checkpoint is .*step-00000006\.pt; "
        "lower max_lr",
    ):
        train(with_nan_for_token_0(), poisoned({2, 5, 6, 7}), config, folder=tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 7
    with pytest.raises(TrainingDiverged, match="the last good checkpoint is none"):
        train(with_nan_for_token_0(), poisoned({1, 2, 3}), config)


def test_the_count_of_skipped_steps_survives_a_checkpoint(tmp_path):
    trainer = Trainer(with_nan_for_token_0(), poisoned({1, 2}), CONFIG, folder=tmp_path)
    trainer.step(), trainer.step()
    trainer.save()
    again = Trainer(with_nan_for_token_0(), poisoned({1}), CONFIG, folder=tmp_path, resume=True)
    assert (again.skipped, again.skipped_in_a_row) == (2, 2)
    again.step()
    assert (again.skipped, again.skipped_in_a_row) == (3, 3)
    again.step()
    assert (again.skipped, again.skipped_in_a_row) == (3, 0)


# --- refusals -----------------------------------------------------------------------------------


def test_another_setting_or_another_model_cannot_go_on(tmp_path):
    train(Tiny(), TOKENS, changed(steps=2), folder=tmp_path)
    resume = functools.partial(train, folder=tmp_path, resume=True)
    with pytest.raises(
        ValueError, match=r"step-00000002\.pt was made with length = 6, and this run"
    ):
        resume(Tiny(), TOKENS, changed(steps=2, length=7))
    with pytest.raises(ValueError, match="steps = 2, and this run has steps = 8; set steps to 2"):
        resume(Tiny(), TOKENS, CONFIG)
    with pytest.raises(ValueError, match="width = 6, and this run has width = 8"):
        resume(Tiny(Shape(8)), TOKENS, changed(steps=2))
    for name, value in {
        "accumulation": 2,
        "eval_every": 1,
        "eval_batches": None,
        "checkpoint_every": 1,
        "keep": 1,
        "max_skipped": 1,
        "compile": True,
        "device": "auto",
    }.items():
        assert resume(Tiny(), TOKENS, changed(steps=2, **{name: value})).finished


def test_a_model_without_a_configuration_is_compared_by_its_weights(tmp_path):
    def model(width):
        return nn.Sequential(nn.Embedding(V, width), nn.Linear(width, V))

    train(model(4), TOKENS, changed(steps=2), folder=tmp_path)
    assert train(model(4), TOKENS, changed(steps=2), folder=tmp_path, resume=True).finished
    with pytest.raises(ValueError, match=r"is of another model: size mismatch for 0\.weight"):
        train(model(5), TOKENS, changed(steps=2), folder=tmp_path, resume=True)


def test_a_run_is_not_written_over(tmp_path):
    train(Tiny(), TOKENS, changed(steps=1), folder=tmp_path)
    with pytest.raises(FileExistsError, match=f"{tmp_path} holds the checkpoints of a run; resume"):
        Trainer(Tiny(), TOKENS, CONFIG, folder=tmp_path)


def test_nothing_to_resume_and_a_damaged_checkpoint_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        Trainer(Tiny(), TOKENS, CONFIG, folder=tmp_path, resume=True)
    outcome = train(Tiny(), TOKENS, CONFIG, folder=tmp_path)
    outcome.checkpoint.write_bytes(outcome.checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"step-00000008\.pt is damaged or cut short; remove it"):
        Trainer(Tiny(), TOKENS, CONFIG, folder=tmp_path, resume=True)
    outcome.checkpoint.unlink()
    assert Trainer(Tiny(), TOKENS, CONFIG, folder=tmp_path, resume=True).steps_done == 6


def test_a_batch_that_does_not_fit_is_named():
    def wrong(generator):
        return get_batch(TOKENS, 3, 6, generator=generator)

    def empty(generator):
        inputs, targets = get_batch(TOKENS, 4, 6, generator=generator)
        return inputs, torch.full_like(targets, IGNORE)

    with pytest.raises(ValueError, match="data must give batch_size = 4 sequences, got 3"):
        Trainer(Tiny(), wrong, CONFIG).step()
    with pytest.raises(ValueError, match="step 1 has a batch without a target"):
        Trainer(Tiny(), empty, CONFIG).step()


def test_evaluating_or_saving_needs_something_to_do_it_with():
    trainer = Trainer(Tiny(), TOKENS, CONFIG)
    with pytest.raises(ValueError, match="give validation"):
        trainer.evaluate()
    with pytest.raises(ValueError, match="give folder"):
        trainer.save()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("compile", [False, True])
def test_cuda_trains_and_resumes(tmp_path, precision, compile):
    config = changed(precision=precision, compile=compile, device="cuda")
    straight, model = (Tiny(dtype=torch.float32) for _ in range(2))
    train(straight, TOKENS, config)
    trainer = Trainer(model, TOKENS, config, folder=tmp_path)
    for _ in range(3):
        trainer.step()
    trainer.save()
    resumed = Tiny(dtype=torch.float32)
    outcome = train(resumed, TOKENS, config, validation=HELD_OUT, folder=tmp_path, resume=True)
    assert outcome.finished and math.isfinite(outcome.evaluation.loss)
    assert next(resumed.parameters()).is_cuda
    assert_close(weights(resumed), weights(straight))
