"""SFT, reward models and DPO against torch, scikit-learn, scipy, closed forms and enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from llmr_ref.config import TransformerConfig
from llmr_ref.data import IGNORE
from llmr_ref.masks import document_mask
from llmr_ref.posttraining import (
    ScalarModel,
    answer_mask,
    answer_targets,
    at_least_32_bits,
    dpo_loss,
    implicit_rewards,
    optimal_policy,
    pack_examples,
    preference_loss,
    preference_probability,
    require_alike,
    require_range,
    sequence_log_probabilities,
    task_sequences,
    token_log_probabilities,
)
from llmr_ref.training import next_token_loss
from llmr_ref.transformer import Transformer

SEEDS = st.integers(0, 2**32 - 1)
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def randn(*shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randint(high, *shape, seed):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def tiny_model(seed=0, *, vocab_size=7, dtype=torch.float64, **changes):
    """A transformer whose logits differ clearly between tokens: norm weights off 1, wide weights."""
    config = TransformerConfig(
        vocab_size=vocab_size, d_model=12, n_layers=2, n_heads=3, d_ff=20, max_length=32, **changes
    )
    torch.manual_seed(seed)
    model = Transformer(config, dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model


def minimise(objective, x, steps=100):
    """x where the objective is least, by torch's LBFGS."""
    x = x.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=steps, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = objective(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    return x.detach()


# --- inputs for fine-tuning ---------------------------------------------------------------------

MARKS = {"start": 90, "delimiter": 91, "extract": 92}


def test_every_task_of_the_figure_becomes_the_sequences_it_shows():
    a, b, c = [1, 2], [3], [4, 5, 6]
    assert task_sequences("classification", a, **MARKS) == [[90, 1, 2, 92]]
    assert task_sequences("entailment", a, b, **MARKS) == [[90, 1, 2, 91, 3, 92]]
    both = [[90, 1, 2, 91, 3, 92], [90, 3, 91, 1, 2, 92]]
    assert task_sequences("similarity", a, b, **MARKS) == both
    choices = [[90, 1, 2, 91, 3, 92], [90, 1, 2, 91, 4, 5, 6, 92]]
    assert task_sequences("multiple choice", a, b, c, **MARKS) == choices
    three = task_sequences("multiple choice", a, b, c, b, **MARKS)
    assert three == [*choices, choices[0]]


# --- supervised fine-tuning ---------------------------------------------------------------------


@given(data=st.data(), n=st.integers(1, 9), B=st.integers(1, 4))
def test_the_answer_lies_between_the_prompt_and_the_padding(data, n, B):
    bounds = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for _ in range(B)]
    prompt_lengths, lengths = torch.tensor(bounds).T
    mask = answer_mask(prompt_lengths, lengths, n)
    assert mask.tolist() == [[p <= t < length for t in range(n)] for p, length in bounds]
    assert torch.equal(answer_mask(prompt_lengths[0], lengths[0], n), mask[0])


def test_only_the_answers_tokens_have_a_loss_and_a_gradient():
    tokens = randint(7, 2, 3, 8, seed=0)
    prompt_lengths = torch.tensor([[3, 1, 5], [2, 4, 6]])
    lengths = torch.tensor([[8, 4, 7], [5, 8, 7]])
    targets = answer_targets(tokens, answer_mask(prompt_lengths, lengths, 8))
    assert targets.shape == (2, 3, 7)
    logits = randn(2, 3, 7, 7, seed=1).requires_grad_()
    loss = next_token_loss(logits, targets)
    expected, has_loss = [], torch.zeros(2, 3, 7, dtype=torch.bool)
    log_p = log_softmax(logits.detach().numpy(), axis=-1)
    for i, j in itertools.product(range(2), range(3)):
        for t in range(int(prompt_lengths[i, j]), int(lengths[i, j])):
            expected.append(-log_p[i, j, t - 1, tokens[i, j, t]])
            has_loss[i, j, t - 1] = True
    assert_close(loss.item(), float(np.mean(expected)))
    loss.backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, has_loss)


EXAMPLES = [
    ([1, 2, 3], [4, 6]),
    ([5], [1, 1, 6]),
    ([2, 2, 4, 5], [3, 6]),
    ([6, 1], [2, 3, 4, 5, 6]),
    ([3, 3], [1]),
]


@pytest.mark.parametrize("length", [6, 9, 10, 40])
def test_packed_rows_hold_whole_examples_in_order(length):
    inputs, targets, ids, positions = pack_examples(EXAMPLES, length)
    assert inputs.shape == targets.shape == ids.shape == positions.shape
    assert inputs.shape[1] == length
    found = []
    for row in range(len(inputs)):
        for document in ids[row].unique().tolist():
            if document == -1:
                assert (targets[row][ids[row] == -1] == IGNORE).all()
                continue
            at = ids[row] == document
            n = int(at.sum())
            assert positions[row, at].tolist() == list(range(n))
            answer = targets[row, at][targets[row, at] != IGNORE].tolist()
            # The last token is only a target where the next example or the row's end cuts it off.
            tokens = inputs[row, at].tolist()
            found.append((tokens, answer))
    assert len(found) == len(EXAMPLES)
    for (tokens, answer), (prompt, full_answer) in zip(found, EXAMPLES, strict=True):
        assert answer == full_answer
        assert tokens in ([*prompt, *full_answer], [*prompt, *full_answer][:-1])


def test_a_row_is_filled_before_the_next_begins():
    # Examples of 5, 4, 6, 7 and 3 tokens; a row's last target needs no place in its inputs.
    n_rows = {length: len(pack_examples(EXAMPLES, length).inputs) for length in (7, 8, 9, 23, 24)}
    assert n_rows == {7: 5, 8: 4, 9: 3, 23: 2, 24: 1}


@pytest.mark.parametrize("positions", ["rope", "learned"])
@pytest.mark.parametrize("length", [7, 12, 30])
def test_packed_loss_and_gradients_equal_the_unpacked(positions, length):
    model = tiny_model(positions=positions)
    inputs, targets, ids, at = pack_examples(EXAMPLES, length)
    packed = next_token_loss(model(inputs, mask=document_mask(ids), positions=at), targets)
    packed_gradients = torch.autograd.grad(packed, list(model.parameters()))

    total = torch.zeros((), dtype=torch.float64)
    for prompt, answer in EXAMPLES:
        tokens = torch.tensor([*prompt, *answer])
        logits = model(tokens[:-1])[len(prompt) - 1 :]
        total = total + F.cross_entropy(logits, torch.tensor(answer), reduction="sum")
    unpacked = total / sum(len(answer) for _, answer in EXAMPLES)
    assert_close(packed, unpacked)
    for ours, theirs in zip(
        packed_gradients, torch.autograd.grad(unpacked, list(model.parameters())), strict=True
    ):
        assert_close(ours, theirs)


def test_examples_may_be_tensors_and_land_on_the_device_asked_for():
    tensors = [(torch.tensor(prompt), torch.tensor(answer)) for prompt, answer in EXAMPLES]
    for ours, theirs in zip(pack_examples(tensors, 9), pack_examples(EXAMPLES, 9), strict=True):
        assert torch.equal(ours, theirs)
    assert all(x.is_meta for x in pack_examples(EXAMPLES, 9, device="meta"))


# --- reward model -------------------------------------------------------------------------------


def test_two_items_get_the_log_odds_of_their_wins():
    # 7 wins to 3: the difference of strengths is log(7 / 3), in closed form.
    def loss(x):
        return preference_loss(x[[0] * 7 + [1] * 3], x[[1] * 7 + [0] * 3])

    strengths = minimise(loss, torch.zeros(2, dtype=torch.float64))
    assert_close((strengths[0] - strengths[1]).item(), math.log(7 / 3))
    assert_close(preference_probability(*strengths).item(), 0.7)


def games(strengths, n, seed):
    """Pairs of different players, winner first, by the Bradley-Terry law."""
    generator = np.random.default_rng(seed)
    a = generator.integers(len(strengths), size=n)
    b = (a + generator.integers(1, len(strengths), size=n)) % len(strengths)
    a_wins = generator.random(n) < 1 / (1 + np.exp(strengths[b] - strengths[a]))
    return np.where(a_wins, a, b), np.where(a_wins, b, a)


def test_strengths_are_recovered_and_equal_logistic_regression():
    true = np.array([-1.2, -0.3, 0.0, 0.6, 1.5])
    winners, losers = games(true, 20_000, seed=0)
    ours = minimise(
        lambda x: preference_loss(x[winners], x[losers]), torch.zeros(5, dtype=torch.float64)
    )
    design = np.eye(5)[winners] - np.eye(5)[losers]
    # Every game twice, from either side, so that there are two classes.
    theirs = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(
        np.concatenate([design, -design]), np.repeat([1, 0], len(design))
    )
    ours = (ours - ours.mean()).numpy()
    coefficients = theirs.coef_[0]
    np.testing.assert_allclose(ours, coefficients - coefficients.mean(), atol=1e-4)
    # 20,000 games: a strength is known to about 2 / sqrt(20000 * 2 / 5) = 0.022; four of them.
    np.testing.assert_allclose(ours, true - true.mean(), atol=0.09)


@given(seed=SEEDS, scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_preference_loss_is_torchs_binary_cross_entropy_of_the_difference(seed, scale):
    a, b = (randn(3, 4, seed=seed + i) * scale for i in range(2))
    expected = F.binary_cross_entropy_with_logits(a - b, torch.ones_like(a))
    assert_close(preference_loss(a, b), expected)
    assert_close(preference_probability(a, b), 1 / (1 + torch.exp(b - a)))
    assert_close(-preference_probability(a, b).log().mean(), expected)


def test_preference_loss_stays_finite_for_hopeless_pairs():
    a = torch.tensor([-500.0, 500.0]).requires_grad_()
    loss = preference_loss(a, -a)
    assert loss.item() == 500.0
    loss.backward()
    assert_close(a.grad, torch.tensor([-1.0, 0.0]))


def test_a_scalar_model_reads_the_hidden_vectors_and_leaves_the_base_alone():
    base = tiny_model()
    before = {name: p.clone() for name, p in base.state_dict().items()}
    model = ScalarModel(base)
    tokens = randint(7, 2, 3, 6, seed=0)
    assert torch.equal(model(tokens), torch.zeros(2, 3, 6, dtype=torch.float64))
    with torch.no_grad():
        model.body.lm_head.weight.copy_(randn(1, 12, seed=1))
        model.body.lm_head.bias.copy_(randn(1, seed=2))
    expected = base.hidden(tokens) @ randn(12, seed=1) + randn(1, seed=2)
    assert_close(model(tokens), expected)
    model(tokens).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    for name, p in base.state_dict().items():
        assert torch.equal(p, before[name])
    assert all(p.grad is None for p in base.parameters())


def test_a_reward_is_the_number_at_the_last_token_whatever_follows():
    model = ScalarModel(tiny_model())
    with torch.no_grad():
        model.body.lm_head.weight.copy_(randn(1, 12, seed=1))
    tokens = randint(7, 2, 3, 6, seed=0)
    lengths = torch.tensor([[1, 6, 3], [4, 2, 5]])
    rewards = model.reward(tokens, lengths)
    for i, j in itertools.product(range(2), range(3)):
        alone = tokens[i, j, : lengths[i, j]]
        assert_close(rewards[i, j], model(alone)[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scalar_model_keeps_dtype_and_device(dtype):
    model = ScalarModel(tiny_model(dtype=dtype))
    assert model(torch.zeros(1, 3, dtype=torch.int64)).dtype == dtype
    with torch.device("meta"):
        config = TransformerConfig(vocab_size=7, d_model=8, n_layers=1, n_heads=2)
    model = ScalarModel(Transformer(config, device="meta"))
    assert all(p.is_meta for p in model.parameters())
    assert model(torch.zeros(1, 3, dtype=torch.int64, device="meta")).is_meta


def test_a_reward_model_learns_an_order_that_the_pairs_show():
    # Sequences with more of token 3 are preferred; new pairs are ranked as the training pairs were.
    model = ScalarModel(tiny_model(dtype=torch.float32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    lengths = torch.full((64,), 6)

    def pairs(seed):
        a, b = randint(7, 2, 64, 6, seed=seed)
        swap = ((a == 3).sum(-1) < (b == 3).sum(-1))[:, None]
        return torch.where(swap, b, a), torch.where(swap, a, b)

    for step in range(120):
        chosen, rejected = (model.reward(x, lengths) for x in pairs(step))
        optimizer.zero_grad()
        preference_loss(chosen, rejected).backward()
        optimizer.step()
    a, b = pairs(10_000)
    differ = (a == 3).sum(-1) > (b == 3).sum(-1)
    right = model.reward(a, lengths) > model.reward(b, lengths)
    assert right[differ].float().mean() > 0.9


# --- log-probabilities --------------------------------------------------------------------------


@given(seed=SEEDS)
def test_log_probabilities_are_scipys_and_zero_where_ignored(seed):
    logits, targets = randn(2, 4, 7, seed=seed) * 5, randint(7, 2, 4, seed=seed)
    ignored = randint(2, 2, 4, seed=seed + 1).bool()
    log_p = np.take_along_axis(
        log_softmax(logits.numpy(), axis=-1), targets[..., None].numpy(), axis=-1
    )[..., 0]
    expected = torch.from_numpy(log_p).masked_fill(ignored, 0.0)
    targets = targets.masked_fill(ignored, IGNORE)
    assert_close(token_log_probabilities(logits, targets), expected)
    assert_close(sequence_log_probabilities(logits, targets), expected.sum(-1))


def test_probabilities_of_all_sequences_sum_to_one():
    model, prompt, V, n = tiny_model(vocab_size=4), [2, 0, 3], 4, 3
    answers = torch.tensor(list(itertools.product(range(V), repeat=n)))
    tokens = torch.cat([torch.tensor([prompt]).expand(len(answers), -1), answers], dim=1)
    mask = answer_mask(torch.full((len(tokens),), 3), torch.full((len(tokens),), 6), 6)
    log_p = sequence_log_probabilities(model(tokens[:, :-1]), answer_targets(tokens, mask))
    assert log_p.std() > 0.1
    assert_close(log_p.exp().sum().item(), 1.0)


# --- preferences without a reward model ---------------------------------------------------------


@given(seed=SEEDS, beta=st.sampled_from([0.05, 0.3, 2.0]))
def test_dpo_is_its_formula(seed, beta):
    win, lose, ref_win, ref_lose = (randn(5, seed=seed + i) * 4 - 6 for i in range(4))
    terms = [
        math.log(1 + math.exp(-(beta * (a - c) - beta * (b - d))))
        for a, b, c, d in zip(*(x.tolist() for x in (win, lose, ref_win, ref_lose)), strict=True)
    ]
    assert_close(dpo_loss(win, lose, ref_win, ref_lose, beta=beta).item(), float(np.mean(terms)))
    assert_close(implicit_rewards(win, ref_win, beta=beta), beta * (win - ref_win))


def test_dpo_begins_at_log_2_with_its_default_beta():
    win, lose = randn(5, seed=0), randn(5, seed=1)
    assert_close(dpo_loss(win, lose, win, lose).item(), math.log(2))
    ref = torch.zeros(5, dtype=torch.float64)
    assert_close(dpo_loss(win, lose, ref, ref), dpo_loss(win, lose, ref, ref, beta=0.1))


def test_dpo_gradient_weighs_by_how_wrong_the_implicit_rewards_are():
    beta = 0.7
    model, reference = tiny_model(0), tiny_model(1)
    tokens = randint(7, 2, 4, 6, seed=0)  # chosen and rejected, 4 pairs
    mask = torch.arange(6).expand(2, 4, 6) >= 2

    def log_p(model):
        return sequence_log_probabilities(model(tokens[..., :-1]), answer_targets(tokens, mask))

    new, ref = log_p(model), log_p(reference).detach()
    parameters = list(model.parameters())
    ours = torch.autograd.grad(dpo_loss(*new, *ref, beta=beta), parameters, retain_graph=True)
    r_w, r_l = beta * (new - ref)
    weights = (beta * torch.sigmoid(r_l - r_w)).detach()
    assert weights.std() > 1e-3
    expected = torch.autograd.grad(-(weights * (new[0] - new[1])).mean(), parameters)
    for a, b in zip(ours, expected, strict=True):
        assert_close(a, b)


def test_no_gradient_reaches_the_reference():
    win, lose, ref_win, ref_lose = (randn(3, seed=i).requires_grad_() for i in range(4))
    dpo_loss(win, lose, ref_win, ref_lose).backward()
    assert win.grad is not None
    assert lose.grad is not None
    assert ref_win.grad is None
    assert ref_lose.grad is None


REF = torch.tensor([0.5, 0.2, 0.05, 0.25], dtype=torch.float64).log()
REWARDS = torch.tensor([0.1, 1.0, -0.5, 0.7], dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.2, 1.0, 3.0])
def test_the_optimal_policy_maximises_reward_minus_kl(beta):
    optimum = optimal_policy(REF, REWARDS, beta=beta)
    assert_close(optimum.exp().sum().item(), 1.0)

    def objective(log_pi):
        return (log_pi.exp() * (REWARDS - beta * (log_pi - REF))).sum()

    found = minimise(lambda z: -objective(z.log_softmax(-1)), torch.zeros_like(REF)).log_softmax(-1)
    assert_close(optimum, found, atol=1e-6, rtol=0)  # flat at the optimum: half of the digits
    log_Z = math.log(sum((REF + REWARDS / beta).exp().tolist()))
    assert_close(objective(optimum).item(), beta * log_Z)


@pytest.mark.parametrize("beta", [0.2, 1.0, 3.0])
def test_dpos_optimum_is_the_optimum_of_rl_with_a_kl_penalty(beta):
    """All pairs of four answers, each weighed by how often Bradley-Terry prefers it."""

    def objective(z):
        log_pi = z.log_softmax(-1)
        total = torch.zeros((), dtype=torch.float64)
        for win, lose in itertools.permutations(range(4), 2):
            preferred = preference_probability(REWARDS[win], REWARDS[lose])
            total = total + preferred * dpo_loss(
                log_pi[win], log_pi[lose], REF[win], REF[lose], beta=beta
            )
        return total

    found = minimise(objective, torch.zeros_like(REF)).log_softmax(-1)
    assert_close(found, optimal_policy(REF, REWARDS, beta=beta), atol=1e-6, rtol=0)


def test_the_optimal_policys_implicit_reward_is_the_reward_up_to_a_constant():
    implicit = implicit_rewards(optimal_policy(REF, REWARDS, beta=0.4), REF, beta=0.4)
    assert_close(implicit - implicit[0], REWARDS - REWARDS[0])


def test_optimal_policies_are_computed_row_by_row():
    ref, r = randn(2, 3, 4, seed=0).log_softmax(-1), randn(2, 3, 4, seed=1)
    whole = optimal_policy(ref, r, beta=0.5)
    for i, j in itertools.product(range(2), range(3)):
        assert_close(whole[i, j], optimal_policy(ref[i, j], r[i, j], beta=0.5))


# --- dtypes, inputs and devices -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_losses_are_in_32_bits_at_least_and_the_rest_keeps_its_dtype(dtype):
    a, b, c, d = (randn(5, seed=i, dtype=torch.float64).to(dtype) for i in range(4))
    wide = torch.promote_types(dtype, torch.float32)
    assert preference_probability(a, b).dtype == dtype
    assert implicit_rewards(a, b, beta=0.5).dtype == dtype
    assert optimal_policy(a, b, beta=0.5).dtype == dtype
    assert dpo_loss(a, b, c, d).dtype == preference_loss(a, b).dtype == wide
    assert token_log_probabilities(a[None], torch.tensor([2])).dtype == wide
    assert at_least_32_bits(a).dtype == wide
    assert torch.equal(preference_loss(a, b), preference_loss(a.to(wide), b.to(wide)))
    exact = optimal_policy(a.double(), b.double(), beta=0.5)
    # One rounding to dtype of numbers of a few, after float32 arithmetic.
    assert_close(
        optimal_policy(a, b, beta=0.5).double(),
        exact,
        rtol=torch.finfo(dtype).eps,
        atol=8 * torch.finfo(wide).eps,
    )


def test_inputs_are_only_read():
    a, b, c, d = (randn(4, 6, seed=i) for i in range(4))
    tokens, targets = randint(6, 2, 4, seed=0), randint(6, 4, seed=1)
    mask = tokens > 2
    kept = [x.clone() for x in (a, b, c, d, tokens, targets, mask)]
    preference_loss(a, b)
    preference_probability(a, b)
    dpo_loss(a, b, c, d)
    optimal_policy(a, b, beta=1.0)
    token_log_probabilities(a, targets)
    answer_targets(tokens, mask)
    for before, after in zip(kept, (a, b, c, d, tokens, targets, mask), strict=True):
        assert torch.equal(before, after)


def test_non_contiguous_inputs_give_the_same_result():
    logits, targets = randn(3, 7, 5, seed=0), randint(7, 5, 3, seed=1)
    strided = logits.mT
    assert not strided.is_contiguous()
    expected = token_log_probabilities(strided.contiguous(), targets.T.contiguous())
    assert_close(token_log_probabilities(strided, targets.T), expected)


def test_the_mask_lives_where_the_lengths_do():
    tokens = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    mask = torch.zeros(2, 5, dtype=torch.bool, device="meta")
    assert answer_targets(tokens, mask).is_meta
    x = torch.zeros(2, device="meta")
    assert dpo_loss(x, x, x, x).is_meta
    assert optimal_policy(x, x, beta=1.0).is_meta


# --- errors name the value ----------------------------------------------------------------------

X = torch.zeros(3)
WHOLE = torch.zeros(3, dtype=torch.int64)
MODEL = tiny_model()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: task_sequences("ranking", [1], **MARKS), ValueError, "task is 'ranking'"),
        (lambda: task_sequences("classification", [1], [2], **MARKS), ValueError, "1 text, got 2"),
        (lambda: task_sequences("entailment", [1], **MARKS), ValueError, "2 texts, got 1"),
        (lambda: task_sequences("similarity", [1], [2], [3], **MARKS), ValueError, "texts, got 3"),
        (lambda: task_sequences("multiple choice", [1], [2], **MARKS), ValueError, "got 2"),
        (
            lambda: answer_mask(torch.tensor([3]), torch.tensor([2]), 5),
            ValueError,
            r"prompt_lengths = \[3\] and lengths = \[2\]",
        ),
        (lambda: answer_mask(torch.tensor([-1]), torch.tensor([2]), 5), ValueError, r"\[-1\]"),
        (lambda: answer_mask(torch.tensor([1]), torch.tensor([6]), 5), ValueError, "n = 5"),
        (
            lambda: answer_mask(torch.tensor([1]), torch.tensor([6, 2]), 9),
            ValueError,
            r"got \(1,\)",
        ),
        (lambda: answer_targets(WHOLE, WHOLE), TypeError, r"boolean .*got torch\.int64"),
        (
            lambda: answer_targets(WHOLE, torch.ones(2, dtype=torch.bool)),
            ValueError,
            r"must be \(3,\).*got \(2,\)",
        ),
        (lambda: pack_examples([], 4), ValueError, "at least one example, got none"),
        (lambda: pack_examples([([], [1])], 4), ValueError, "got 0 and 1 tokens"),
        (lambda: pack_examples([([1], [])], 4), ValueError, "got 1 and 0 tokens"),
        (lambda: pack_examples([([1] * 4, [2, 2])], 4), ValueError, "6 tokens .* length = 4"),
        (lambda: ScalarModel(MODEL).reward(WHOLE, torch.tensor(4)), ValueError, "got 4"),
        (lambda: ScalarModel(MODEL).reward(WHOLE, torch.tensor(0)), ValueError, "T = 3, got 0"),
        (lambda: preference_probability(WHOLE, X), TypeError, r"a must be .*torch\.int64"),
        (lambda: preference_probability(X, X[:2]), ValueError, r"a \(3,\), b \(2,\)"),
        (lambda: preference_loss(X, WHOLE), TypeError, "rejected must be floating"),
        (lambda: preference_loss(X, X[:2]), ValueError, r"chosen \(3,\), rejected \(2,\)"),
        (lambda: token_log_probabilities(X[None], torch.tensor([9])), ValueError, "got 9"),
        (lambda: sequence_log_probabilities(X, WHOLE), ValueError, "need targets"),
        (lambda: implicit_rewards(X, X, beta=0.0), ValueError, r"beta must be positive, got 0\.0"),
        (lambda: implicit_rewards(X, X[:1], beta=1.0), ValueError, r"ref_log_probabilities \(1,\)"),
        (lambda: dpo_loss(X, X, X, X, beta=-1.0), ValueError, r"beta .*got -1\.0"),
        (lambda: dpo_loss(X, X[:2], X, X[:2]), ValueError, "shapes must agree"),
        (lambda: optimal_policy(X, X, beta=math.nan), ValueError, "beta .*got nan"),
        (lambda: optimal_policy(X, WHOLE, beta=1.0), TypeError, "rewards must be floating"),
        (lambda: require_alike(x=X, y=WHOLE), TypeError, "y must be floating"),
        (lambda: require_alike(X, x=X), TypeError, "boolean"),
        (lambda: require_alike(X > 0, x=X[:2]), ValueError, r"x \(2,\), mask \(3,\)"),
        (lambda: require_range(False, "k", 3.0, "below 2"), ValueError, "k must be below 2, got 3"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
def test_cuda_packs_and_scores_as_the_cpu():
    model = tiny_model(dtype=torch.float32)
    inputs, targets, ids, at = pack_examples(EXAMPLES, 12)
    expected = next_token_loss(model(inputs, mask=document_mask(ids), positions=at), targets)
    model.cuda()
    inputs, targets, ids, at = pack_examples(EXAMPLES, 12, device="cuda")
    on_cuda = next_token_loss(model(inputs, mask=document_mask(ids), positions=at), targets)
    assert_close(on_cuda.cpu(), expected, rtol=1e-4, atol=1e-5)
    rewards = ScalarModel(model).reward(inputs, torch.full((len(inputs),), 12, device="cuda"))
    assert rewards.is_cuda
