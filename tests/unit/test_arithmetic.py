"""Generated sums: the verifier against Python's own, samples and measures against enumeration."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llmr_ref import arithmetic
from llmr_ref.arithmetic import (
    BASE,
    END,
    TOKENIZER,
    Problems,
    accuracy,
    answer_logits,
    check_counts,
    counted,
    descend,
    is_right,
    measure,
    pretrain,
    sample_answers,
    sums,
    verify,
)
from llmr_ref.config import TransformerConfig
from llmr_ref.data import IGNORE
from llmr_ref.generation import generate
from llmr_ref.optim import AdamW
from llmr_ref.transformer import Transformer


def encode(*texts):
    return torch.tensor([TOKENIZER.encode(text) for text in texts])


def random_policy(seed=0, **changes):
    """Untrained, with weights wide enough that its tokens are far from equally likely."""
    config = TransformerConfig(
        **{
            "vocab_size": 13,
            "d_model": 12,
            "n_layers": 1,
            "n_heads": 2,
            "d_ff": 16,
            "max_length": 16,
        }
        | changes
    )
    torch.manual_seed(seed)
    policy = Transformer(config, dtype=torch.float64)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return policy


def every_answer(n=3):
    """All answers of n tokens, filled up with "$" after their end."""
    every = itertools.product(range(13), repeat=n)
    ended = {a[: a.index(END)] + (END,) * (n - a.index(END)) if END in a else a for a in every}
    return torch.tensor(sorted(ended))


def exact_log_probabilities(policy, prompt, answers):
    """log pi(answer | prompt) token by token, up to the first "$"."""
    tokens = torch.cat([torch.tensor(prompt).expand(len(answers), -1), answers], dim=-1)
    log_p = policy(tokens[:, :-1])[:, len(prompt) - 1 :].log_softmax(-1).detach()
    own = [a.index(END) + 1 if END in a else len(a) for a in answers.tolist()]
    by_token = log_p.gather(-1, answers[..., None])[..., 0]
    return torch.stack([row[:n].sum() for row, n in zip(by_token, own, strict=True)])


# --- the task -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("digits", "n"), [(1, 81), (2, 8100)])
def test_every_sum_occurs_once_and_its_answer_is_right(digits, n):
    train, held_out = sums(digits, held_out=20)
    assert (len(train), len(held_out)) == (n - 20, 20)
    seen = set()
    for problems in (train, held_out):
        assert problems.prompts.shape[1:] == (2 * digits + 2,)
        assert problems.answers.shape[1:] == (digits + 2,)
        for prompt, answer in zip(problems.prompts, problems.answers, strict=True):
            text, result = TOKENIZER.decode(prompt), TOKENIZER.decode(answer)
            a, b = text.removesuffix("=").split("+")
            assert len(a) == len(b) == digits
            assert int(result.rstrip("$")) == int(a) + int(b)
            assert result.endswith("$")
            seen.add(text)
    assert len(seen) == n


def test_the_seed_chooses_what_is_held_out():
    def prompts(**changes):
        return sums(1, held_out=20, **changes)[1].prompts

    assert torch.equal(prompts(), prompts(seed=0))
    assert not torch.equal(prompts(), prompts(seed=1))
    assert len(sums()[1]) == 512


def test_sums_live_on_the_device_asked_for():
    train, _ = sums(1, held_out=9, device="auto")
    assert train.prompts.device.type in ("cpu", "cuda", "mps")
    assert all(p.prompts.is_meta and p.answers.is_meta for p in sums(1, held_out=9, device="meta"))


def test_problems_are_drawn_with_replacement_by_the_generator():
    train, _ = sums(1, held_out=1)
    few = train[:3]

    def draw(seed):
        return few.draw(200, torch.Generator().manual_seed(seed))

    drawn = draw(0)
    assert len(drawn) == 200
    assert torch.equal(drawn.prompts, draw(0).prompts)
    assert not torch.equal(drawn.prompts, draw(1).prompts)
    counts = [(drawn.prompts == few.prompts[i]).all(-1).sum().item() for i in range(3)]
    assert sum(counts) == 200
    assert min(counts) > 40
    assert verify(drawn.prompts, drawn.answers).all()


@given(a=st.integers(0, 999), b=st.integers(0, 999), said=st.integers(0, 1999))
def test_the_verifier_agrees_with_python(a, b, said):
    assert is_right(f"{a}+{b}=", f"{a + b}$")
    assert is_right(f"{a}+{b}=", f"{a + b}$$+9=")
    assert is_right(f"{a}+{b}=", f"{said}$") == (said == a + b)
    assert not is_right(f"{a}+{b}=", f"{a + b}")
    assert not is_right(f"{a}+{b}=", f"0{a + b}$")
    assert not is_right(f"{a}+{b}=", f"{a + b}=$")
    assert not is_right(f"{a}+{b}=", "$")


def test_rewards_are_one_and_zero():
    prompts = encode("37+58=", "10+20=", "99+99=")
    rewards = verify(prompts, encode("95$$", "31$$", "198$"))
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == [1, 0, 1]


# --- a policy on it -----------------------------------------------------------------------------


def test_an_answer_ends_with_its_first_end():
    answers = encode("95$$", "198$", "41+2", "$$$$")
    assert counted(answers).tolist() == [
        [True, True, True, False],
        [True, True, True, True],
        [True, True, True, True],
        [True, False, False, False],
    ]


def test_answer_logits_are_those_that_predict_the_answer():
    policy = random_policy()
    prompts, answers = encode("37+58=", "10+20="), encode("95$$", "198$")
    logits, targets = answer_logits(policy, prompts, answers)
    everything = policy(torch.cat([prompts, answers], dim=-1))
    assert_close(logits, everything[:, 5:9])
    assert targets.tolist() == [[9, 5, END, IGNORE], [1, 9, 8, END]]


def test_sampled_answers_follow_the_policys_probabilities():
    policy, prompt, n = random_policy(), TOKENIZER.encode("3+5="), 20_000
    answers = every_answer(2)
    exact = exact_log_probabilities(policy, prompt, answers).exp()
    assert_close(exact.sum().item(), 1.0)
    prompts = torch.tensor([prompt]).expand(n, -1)
    drawn = sample_answers(policy, prompts, 2, torch.Generator().manual_seed(0))
    found = (drawn[:, None] == answers).all(-1).sum(0)
    assert found.sum() == n  # what follows an end is "$"
    # Five standard deviations of a count, and one more for the rarest.
    bound = 5 * (n * exact * (1 - exact)).sqrt() + 1
    assert ((found - n * exact).abs() <= bound).all()
    assert found.max() < 0.9 * n


def test_samples_are_the_generators_and_always_as_long_as_asked():
    policy = random_policy()
    with torch.no_grad():
        policy.lm_head.weight[END] = 50 * policy.hidden(encode("3+5="))[0, -1]  # "$" at once
    prompts = encode("3+5=")
    answers = sample_answers(policy, prompts, 5, torch.Generator().manual_seed(0))
    assert answers.tolist() == [[END] * 5]
    policy, prompts = random_policy(), encode("3+5=").expand(50, -1)

    def draw(seed):
        return sample_answers(policy, prompts, 3, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not draw(1).requires_grad


def test_accuracy_is_exact():
    policy = random_policy()
    _, problems = sums(1, held_out=30)
    expected = []
    for prompt, answer in zip(problems.prompts.tolist(), problems.answers, strict=True):
        expected.append(exact_log_probabilities(policy, prompt, answer[None]).exp().item())
    greedy = generate(policy, problems.prompts, max_new_tokens=3, temperature=0, stop_tokens=END)
    # One problem is answered as the policy does, so that both shares are above zero.
    problems = Problems(problems.prompts, problems.answers.clone())
    problems.answers[0] = greedy[0, 4:]
    right = verify(problems.prompts[1:], greedy[1:, 4:]).sum().item() + 1
    expected[0] = (
        exact_log_probabilities(policy, problems.prompts[0].tolist(), problems.answers[:1])
        .exp()
        .item()
    )
    at_temperature_1, greedily = accuracy(policy, problems)
    assert_close(at_temperature_1, sum(expected) / 30)
    assert_close(greedily, right / 30)


def test_measures_estimate_the_exact_reward_and_kl():
    policy, reference = random_policy(0), random_policy(1)
    n, answers = 4000, every_answer()
    prompt = encode("3+5=")
    problems = Problems(prompt.expand(n, -1), encode("8$$").expand(n, -1))

    def score(prompts, answers):
        assert torch.equal(prompts, problems.prompts)
        return (answers[:, 0] < 4).double() * 3

    log_p, log_ref = (
        exact_log_probabilities(m, prompt[0].tolist(), answers) for m in (policy, reference)
    )
    record = measure(policy, reference, problems, score, step=7, seed=0)
    assert record.step == 7
    assert (record.accuracy, record.greedy_accuracy) == accuracy(policy, problems)
    reward = (log_p.exp() * score(problems.prompts, answers)).sum().item()
    kl = (log_p.exp() * (log_p - log_ref)).sum().item()
    assert kl > 0.1
    # A reward deviates by at most 1.5; the kl of a path by about its mean.
    assert abs(record.reward - reward) < 5 * 1.5 / math.sqrt(n)
    assert abs(record.kl - kl) < 5 * kl / math.sqrt(n)
    assert record == measure(policy, reference, problems, score, step=7, seed=0)
    assert record != measure(policy, reference, problems, score, step=7, seed=1)


def test_a_policy_is_at_no_distance_from_itself():
    policy, (_, problems) = random_policy(), sums(1, held_out=30)
    record = measure(policy, policy, problems, verify, step=0, seed=0)
    assert record.kl == 0


# --- the base model -----------------------------------------------------------------------------


def test_the_base_model_adds_to_the_skill_asked_for_and_then_reads_other_text():
    train, _ = sums(1, held_out=1)
    seen = []
    base = pretrain(
        train,
        train,
        skill=0.3,
        answered=0.5,
        mixed_steps=40,
        progress=lambda step, reached: seen.append((step, reached)),
    )
    steps, reached = zip(*seen, strict=True)
    assert list(steps) == list(range(10, 10 * len(steps) + 1, 10))
    assert reached[-1] >= 0.3
    assert all(r < 0.3 for r in reached[:-1])
    generator = torch.Generator().manual_seed(0)
    answers = sample_answers(base, train.prompts.repeat(20, 1), 3, generator)
    texts = [TOKENIZER.decode(answer) for answer in answers]
    # About half of its continuations are the beginning of a question: "4+7".
    share = sum("+" in text for text in texts) / len(texts)
    assert 0.3 < share < 0.7


def test_the_base_model_is_its_seeds_and_leaves_the_global_generator_alone():
    train, _ = sums(1, held_out=1)
    settings = {"max_steps": 12, "mixed_steps": 3}
    state = torch.random.get_rng_state()
    first, same = pretrain(train, train, **settings), pretrain(train, train, **settings, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = pretrain(train, train, **settings, seed=1)
    assert first.config == BASE
    for name, p in first.state_dict().items():
        assert torch.equal(p, same.state_dict()[name])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_another_shape_and_every_setting_is_used(monkeypatch):
    train, _ = sums(1, held_out=1)
    config = TransformerConfig(vocab_size=13, d_model=8, n_layers=1, n_heads=2, max_length=16)
    rates, sizes, gradients = [], [], []

    def spy(optimizer, loss, lr):
        rates.append(lr)
        sizes.append(optimizer.param_groups[0]["params"][0].shape)
        gradients.append(loss.requires_grad)

    monkeypatch.setattr(arithmetic, "descend", spy)
    model = pretrain(train, train, config=config, max_steps=100, mixed_steps=4, lr=0.5)
    assert model.config == config
    # Warm-up over 50 steps, constant until it can add (here never), then down to zero.
    expected = [0.01 * n for n in range(1, 51)] + [0.5] * 50 + [0.5, 0.375, 0.25, 0.125]
    assert rates == pytest.approx(expected)
    assert all(gradients)


def test_a_step_goes_down_a_clipped_gradient_at_the_rate_given():
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    optimizer = AdamW(
        [x], lr=1.0, eps=1e6, weight_decay=0.0
    )  # so large an eps: the step is g / eps
    x.grad = torch.tensor([100.0, 100.0])  # left over
    before = x.detach().clone()
    descend(optimizer, x.square().sum(), lr=2e6)
    # The gradient (6, 8) has norm 10; the first moment is undone of its bias, so the step is 2 g / 10.
    assert_close(before - x.detach(), torch.tensor([1.2, 1.6]), rtol=1e-5, atol=0)
    descend(optimizer, x.square().sum() * 1e-3, lr=0.0)
    assert optimizer.param_groups[0]["lr"] == 0.0


# --- errors name the value ----------------------------------------------------------------------

TRAIN = sums(1, held_out=1)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sums(0), r"digits .*got 0"),
        (lambda: sums(4), r"digits .*got 4"),
        (lambda: sums(1, held_out=0), r"held_out must lie in 1\.\.80, got 0"),
        (lambda: sums(1, held_out=81), "got 81"),
        (lambda: sums(1, held_out=9, device="gpu"), "'gpu'"),
        (lambda: is_right("3+5", "8$"), r"'37\+58=', got '3\+5'"),
        (lambda: is_right("35=", "8$"), "got '35='"),
        (lambda: is_right("+5=", "8$"), "got"),
        (lambda: is_right("3+=", "8$"), "got"),
        (lambda: pretrain(TRAIN, TRAIN, answered=1.1), r"answered .*got 1\.1"),
        (lambda: pretrain(TRAIN, TRAIN, answered=-0.1), r"answered .*got -0\.1"),
        (lambda: pretrain(TRAIN, TRAIN, max_steps=0), "max_steps must be at least 1, got 0"),
        (lambda: pretrain(TRAIN, TRAIN, mixed_steps=0), "mixed_steps"),
        (lambda: pretrain(TRAIN, TRAIN, batch_size=0), "batch_size"),
        (lambda: check_counts(a=1, b=-2), "b must be at least 1, got -2"),
        (
            lambda: sample_answers(random_policy(), TRAIN.prompts, -1, torch.Generator()),
            "max_new_tokens",
        ),
    ],
)
def test_an_error_names_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
