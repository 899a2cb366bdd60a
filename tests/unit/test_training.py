"""The loss against torch and closed forms; evaluation against counting; the settings of a run."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmr_ref.config import TransformerConfig
from llmr_ref.data import IGNORE, sequential_batches
from llmr_ref.distributed import OneProcess
from llmr_ref.training import (
    Evaluation,
    TrainingConfig,
    evaluate,
    loss_by_position,
    next_token_loss,
    token_losses,
)
from llmr_ref.transformer import Transformer

BOTH = pytest.mark.parametrize("implementation", ["fused", "explicit"])


def draw(*shape, V=7, seed=0, dtype=torch.float64, ignored=0.3):
    """Logits (..., V) and targets (...), some of them ignored, the first one never."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(*shape, V, generator=generator, dtype=torch.float64)).to(dtype)
    targets = torch.randint(V, shape, generator=generator)
    out = torch.rand(shape, generator=generator) < ignored
    out.view(-1)[0] = False
    return logits, targets.masked_fill(out, IGNORE)


# --- loss ---------------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    V=st.integers(1, 9),
    seed=st.integers(0, 2**20),
)
def test_both_paths_are_the_mean_of_scipys_log_softmax_over_what_counts(shape, V, seed):
    logits, targets = draw(*shape, V=V, seed=seed)
    log_p = scipy.special.log_softmax(logits.numpy(), axis=-1)
    losses = [-log_p[at][w] for at, w in np.ndenumerate(targets.numpy()) if w != IGNORE]
    for implementation in ("fused", "explicit"):
        loss = next_token_loss(logits, targets, implementation=implementation)
        assert_close(loss.item(), float(np.mean(losses)), rtol=1e-12, atol=1e-12)


@BOTH
def test_a_uniform_guess_loses_the_logarithm_of_the_vocabulary(implementation):
    logits, targets = torch.full((2, 3, 50), 7.0), torch.arange(6).view(2, 3)
    loss = next_token_loss(logits, targets, implementation=implementation)
    assert_close(loss.item(), math.log(50), rtol=1e-6, atol=0)


@BOTH
def test_the_gradient_is_probability_minus_one_hot_over_the_number_of_targets(implementation):
    logits, targets = draw(2, 5, seed=1)
    logits.requires_grad_()
    next_token_loss(logits, targets, implementation=implementation).backward()
    counted = targets != IGNORE
    one_hot = nn.functional.one_hot(targets.clamp(min=0), 7)
    expected = (logits.softmax(-1) - one_hot) * counted[..., None] / counted.sum()
    assert_close(logits.grad, expected)
    assert (logits.grad[~counted] == 0).all() and counted.sum() < counted.numel()


@BOTH
def test_logits_of_any_size_give_a_finite_loss(implementation):
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    loss = next_token_loss(logits, torch.tensor([1]), implementation=implementation)
    assert loss.item() == 2e4


def test_the_loss_of_a_position_is_its_own_and_zero_where_ignored():
    logits, targets = draw(3, 4, seed=2)
    losses = token_losses(logits, targets)
    assert losses.shape == (3, 4) and (losses[targets == IGNORE] == 0).all()
    for b, t in torch.nonzero(targets != IGNORE).tolist():
        assert_close(losses[b, t], next_token_loss(logits[b, t : t + 1], targets[b, t : t + 1]))


def test_loss_by_position_averages_over_sequences_and_counts_only_targets():
    logits, targets = draw(2, 3, 4, seed=3)
    targets[..., 2] = IGNORE
    found = loss_by_position(logits, targets)
    assert found.shape == (4,) and found[2].isnan()
    for t in (0, 1, 3):
        column = next_token_loss(logits[:, :, t], targets[:, :, t], implementation="explicit")
        assert_close(found[t], column)


@BOTH
def test_another_ignore_index_is_ignored_instead(implementation):
    logits, targets = draw(2, 5, ignored=0, seed=4)
    kept = targets != 3
    assert kept.sum() < kept.numel()
    loss = next_token_loss(logits, targets, ignore_index=3, implementation=implementation)
    assert_close(loss, next_token_loss(logits[kept], targets[kept]))
    assert_close(token_losses(logits, targets, ignore_index=3).sum() / kept.sum(), loss)
    by_position = loss_by_position(logits, targets, ignore_index=3)
    assert_close((by_position.nan_to_num() * kept.sum(0)).sum() / kept.sum(), loss)


@BOTH
def test_without_a_target_there_is_no_mean(implementation):
    targets = torch.full((2, 3), IGNORE)
    assert next_token_loss(torch.zeros(2, 3, 4), targets, implementation=implementation).isnan()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_logits_are_summed_and_returned_in_32_bits(implementation, dtype):
    logits, targets = draw(2, 40, dtype=dtype, seed=5)
    loss = next_token_loss(logits, targets, implementation=implementation)
    assert loss.dtype == torch.float32
    expected = next_token_loss(logits.float(), targets, implementation=implementation)
    assert torch.equal(loss, expected)
    assert token_losses(logits, targets).dtype == torch.float32


@BOTH
def test_the_loss_leaves_its_inputs_alone_and_reads_strided_ones(implementation):
    logits, targets = draw(4, 6, seed=6)
    before = logits.clone(), targets.clone()
    expected = next_token_loss(logits, targets, implementation=implementation)
    assert torch.equal(logits, before[0]) and torch.equal(targets, before[1])
    strided = logits.transpose(0, 1).contiguous().transpose(0, 1)
    columns = targets.T.contiguous().T
    assert not strided.is_contiguous() and not columns.is_contiguous()
    assert_close(next_token_loss(strided, columns, implementation=implementation), expected)


@BOTH
def test_the_loss_is_computed_where_the_logits_are(implementation):
    logits = torch.zeros(2, 3, 5, device="meta")
    targets = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    assert next_token_loss(logits, targets, implementation=implementation).is_meta
    assert loss_by_position(logits, targets).is_meta


LOGITS, TARGETS = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (LOGITS, TARGETS[:, :2], ValueError, r"got \(2, 3, 5\) and \(2, 2\)"),
        (LOGITS[0, 0], TARGETS[0, 0], ValueError, r"got \(5,\) and \(\)"),
        (LOGITS.long(), TARGETS, TypeError, r"floating point, got torch\.int64"),
        (LOGITS, TARGETS.int(), TypeError, r"int64, got torch\.int32"),
        (LOGITS, TARGETS + 5, ValueError, r"0\.\.4 or be -100, got 5"),
        (LOGITS, TARGETS - 1, ValueError, r"0\.\.4 or be -100, got -1"),
    ],
)
def test_a_loss_that_cannot_be_names_what_does_not_fit(logits, targets, error, message):
    for call in (
        next_token_loss,
        token_losses,
        loss_by_position,
        lambda *args: next_token_loss(*args, implementation="explicit"),
    ):
        with pytest.raises(error, match=message):
            call(logits, targets)


def test_an_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="implementation is 'fast'"):
        next_token_loss(LOGITS, TARGETS, implementation="fast")


# --- evaluation ---------------------------------------------------------------------------------


class Bigram(nn.Module):
    """Logits that depend on the last token alone: losses can be counted by hand."""

    def __init__(self, V=5, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(V, V, dtype=dtype)
        self.table.weight.data = torch.randn(V, V, generator=generator, dtype=dtype)

    def forward(self, tokens):
        return self.table(tokens)


TOKENS = torch.randint(5, (103,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("batch_size", "length"), [(4, 10), (3, 7), (100, 200), (1, 1)])
def test_every_held_out_token_is_predicted_once(batch_size, length):
    model = Bigram()
    log_p = model.table.weight.log_softmax(-1).detach()
    expected = -sum(log_p[a, b].item() for a, b in pairwise(TOKENS)) / 102
    found = evaluate(model, TOKENS, batch_size=batch_size, length=length)
    assert found.n_tokens == 102
    assert_close(found.loss, expected, rtol=1e-12, atol=0)


def test_max_batches_reads_the_first_ones():
    inputs, targets = next(iter(sequential_batches(TOKENS, 4, 10)))
    found = evaluate(Bigram(), TOKENS, batch_size=4, length=10, max_batches=1)
    assert found.n_tokens == 40
    assert_close(found.loss, next_token_loss(Bigram()(inputs), targets).item())
    for wrong in (0, -3):
        with pytest.raises(
            ValueError, match=f"max_batches must be at least 1 or None, got {wrong}"
        ):
            evaluate(Bigram(), TOKENS, max_batches=wrong)


class Share(OneProcess):
    """One of several processes, with nobody to exchange with."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_the_shares_of_processes_add_up_to_all_batches_with_equal_work(size):
    whole = evaluate(Bigram(), TOKENS, batch_size=2, length=10)
    totals, calls = [], []

    class Counting(Share):
        def sum(self, x):
            totals.append(x)
            return x + torch.tensor([0.0, 1e-9])  # a share without a batch has 0 tokens

    for rank in range(size):
        model = Bigram()
        model.register_forward_hook(lambda *_: calls.append(1))
        evaluate(model, TOKENS, batch_size=2, length=10, processes=Counting(rank, size))
    nats, n_tokens = sum(totals).tolist()
    assert n_tokens == whole.n_tokens
    assert_close(nats / n_tokens, whole.loss, rtol=1e-12, atol=0)
    assert len(calls) % size == 0 and len(calls) >= 6


def test_evaluation_leaves_the_model_as_it_was_and_able_to_train():
    model = Transformer(TransformerConfig(5, 8, 1, 2, dropout=0.5, max_length=16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    first = evaluate(model, TOKENS, batch_size=4, length=10)
    assert model.training and first == evaluate(model, TOKENS, batch_size=4, length=10)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    next_token_loss(model(TOKENS[None, :8]), TOKENS[None, 1:9]).backward()
    model.eval()
    evaluate(model, TOKENS, batch_size=4, length=10)
    assert not model.training


def test_evaluation_in_16_bits_computes_in_16_bits():
    model = Transformer(TransformerConfig(5, 8, 1, 2, max_length=16))
    seen = []
    model.lm_head.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    exact = evaluate(model, TOKENS, batch_size=4, length=10)
    rough = evaluate(model, TOKENS, batch_size=4, length=10, precision="bfloat16")
    assert set(seen[: len(seen) // 2]) == {torch.float32}
    assert set(seen[len(seen) // 2 :]) == {torch.bfloat16}
    assert rough.loss != exact.loss
    assert abs(rough.loss - exact.loss) < 0.05  # bfloat16 has 8 bits, and losses here are about 1.6


def test_perplexity_and_bits_follow_from_the_loss():
    found = Evaluation(2.0, 10, characters_per_token=4.0, bytes_per_token=5.0)
    assert_close(found.perplexity, math.exp(2.0))
    assert_close(found.bits_per_character, 2.0 / math.log(2) / 4)
    assert_close(found.bits_per_byte, 2.0 / math.log(2) / 5)
    assert Evaluation(2.0, 10).bits_per_character is Evaluation(2.0, 10).bits_per_byte is None
    assert Evaluation(1e6, 10).perplexity == math.inf
    units = evaluate(Bigram(), TOKENS, characters_per_token=3.0, bytes_per_token=4.0)
    assert (units.characters_per_token, units.bytes_per_token) == (3.0, 4.0)


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, r"batch_size must be a whole number of at least 1, got 2\.0"),
        ({"length": -1}, "length .* got -1"),
        ({"accumulation": True}, "accumulation .* got True"),
        ({"eval_every": 0}, "eval_every .* got 0"),
        ({"eval_batches": 0}, "eval_batches .* got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every .* got 0"),
        ({"keep": 0}, "keep .* got 0"),
        ({"max_skipped": 0}, "max_skipped .* got 0"),
        (
            {"precision": "float8"},
            "precision is 'float8'; choose one of float32, bfloat16, float16",
        ),
        ({"batch_size": 9, "accumulation": 2}, "divide batch_size = 9, got 2"),
        ({"clip": 0.0}, r"clip must be positive \(inf for none\), got 0\.0"),
        ({"max_lr": -1.0}, "max_lr"),
        ({"min_lr": 1.0}, "min_lr"),
        ({"steps": 10, "warmup": 11}, "total_steps must be at least warmup_steps = 11, got 10"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_a_setting_out_of_range_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**changes)


def test_none_is_a_choice_for_what_may_be_everything():
    assert TrainingConfig(eval_batches=None, clip=math.inf).eval_batches is None


def test_the_learning_rate_rises_to_its_peak_and_ends_at_its_lowest():
    config = TrainingConfig(steps=100, max_lr=2.0, min_lr=0.5)
    rates = [config.learning_rate(step) for step in range(1, 101)]
    assert rates[0] == 2.0 / 5 and rates[4] == 2.0 and rates[-1] == 0.5
    assert rates[:5] == sorted(rates[:5]) and rates[4:] == sorted(rates[4:], reverse=True)
    assert TrainingConfig(steps=100, warmup=10, max_lr=2.0).learning_rate(1) == 0.2
    assert TrainingConfig(steps=100, warmup=0, max_lr=2.0).learning_rate(1) > 1.99
