"""Exercise: REINFORCE, whose gradient is right on average (the score-function estimator)."""

import torch
from torch import Tensor

from llmr_ref import policy_gradient
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(logits: Tensor, actions: Tensor, rewards: Tensor, baseline: float = 0.0) -> Tensor:
    log_p = logits.float().log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return policy_gradient.reinforce_loss(log_p, rewards.float() - baseline)


exercise = Exercise(
    "reinforce_loss",
    points=4,
    difficulty=4,
    minutes=30,
    reference=reference,
    chapter="policy-gradients#the-score-function",
)


@exercise.driver
def use(reinforce_loss, what, logits, rewards, n=1, baseline=None, actions=None):
    """The loss of given samples, or the gradient that n samples give on average, over all V^n of them."""
    settings = {} if baseline is None else {"baseline": baseline}
    if what == "loss":
        return reinforce_loss(logits, actions, rewards, **settings)
    V, average = len(logits), torch.zeros_like(logits)
    for drawn in torch.cartesian_prod(*[torch.arange(V)] * n).reshape(-1, n):
        z = logits.clone().requires_grad_()
        loss = reinforce_loss(z.expand(n, V), drawn, rewards[drawn], **settings)
        (gradient,) = torch.autograd.grad(loss, z)
        average += logits.softmax(0)[drawn].prod() * gradient
    return average


def sampled(draw: Draw, *shape: int, V: int = 4, **about) -> Case:
    """Scores (..., V), and an action and a reward for each."""
    names = {k: about.pop(k) for k in ("baseline",) if k in about}
    logits = draw.normal(*shape, V, scale=about.pop("scale", 1.0))
    actions = draw.integers(0, V - 1, *shape)
    return Case(("loss", logits, draw.normal(*shape)), {"actions": actions} | names, **about)


def averaged(draw: Draw, V: int, n: int, baseline: float | None = None, **about) -> Case:
    """A policy of V answers, the reward of each, and samples of n answers."""
    return Case(("average", draw.normal(V), draw.normal(V), n, baseline), **about)


@exercise.property("it is -mean of r log pi(a) over the sampled answers", weight=2)
def loss(draw: Draw):
    one = torch.tensor([[0.5, 0.0]]), torch.tensor([2.0])
    yield Case(("loss", *one), {"actions": torch.tensor([1])}, note="one answer of two")
    yield sampled(draw, 3, V=3, note="three samples")
    yield sampled(draw, 2, 3, V=draw.integer(4, 6), note="a batch")
    some = draw.normal(4, 3), torch.tensor([1.0, 0.0, 0.0, 1.0])
    yield Case(("loss", *some), {"actions": draw.integers(0, 2, 4)}, note="rewards of 0 and 1")


@exercise.property("averaged over all answers, its gradient is the exact one of -E[r]", weight=2)
def unbiased(draw: Draw):
    two = torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0])
    yield Case(("average", *two), note="two answers, one of them right")
    yield averaged(draw, 3, 1, note="every answer of a policy of three")
    yield averaged(draw, 3, 2, note="every pair of answers")
    yield averaged(draw, draw.integer(4, 5), 2)


@exercise.property("a baseline is subtracted from the reward, and the average gradient stays")
def with_baseline(draw: Draw):
    one = torch.tensor([[0.5, 0.0]]), torch.tensor([2.0])
    settings = {"actions": torch.tensor([1]), "baseline": 0.5}
    yield Case(("loss", *one), settings, note="one answer and a baseline of 0.5")
    yield sampled(draw, 4, baseline=draw.integer(1, 9) / 4, note="four samples and a baseline")
    yield averaged(draw, 3, 1, 1.5, note="a baseline of 1.5, on average")
    yield averaged(draw, 3, 2, -2.0, note="a baseline of -2, on average over pairs")


@exercise.property("scores of a few hundred stay finite", weight=0.5)
def large(draw: Draw):
    actions = draw.integers(0, 2, 4)
    logits = draw.normal(4, 3).scatter(-1, actions[:, None], -300.0)
    settings = {"actions": actions}
    yield Case(
        ("loss", logits, draw.normal(4)), settings, note="answers that are all but impossible"
    )
    yield sampled(draw, 4, scale=150, note="large scores")


@exercise.wrong(
    "goes downhill",
    hint="An optimizer makes the loss small. What has to stand in front so that it makes the reward "
    "large?",
    see="policy-gradients#the-score-function",
)
def no_minus(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return ((rewards - baseline) * log_p).mean()


@exercise.wrong(
    "weighs with the probability instead of its logarithm",
    hint="Sampling already brings in a factor pi: likely answers are drawn more often. Differentiating "
    "pi once more counts it twice. Which function has the derivative pi' / pi?",
    see="policy-gradients#the-score-function",
)
def probability(logits, actions, rewards, baseline=0.0):
    p = logits.softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -((rewards - baseline) * p).mean()


@exercise.wrong(
    "takes the scores for log-probabilities",
    hint="Raising one score raises its probability only compared with the others. Your gradient never "
    "touches the answers that were not drawn.",
    see="policy-gradients#the-score-function",
)
def unnormalized(logits, actions, rewards, baseline=0.0):
    z = logits.gather(-1, actions[..., None]).squeeze(-1)
    return -((rewards - baseline) * z).mean()


@exercise.wrong(
    "adds the samples up",
    hint="With twice as many samples your step is twice as long. An estimate of an expectation is a "
    "mean.",
    see="policy-gradients#the-score-function",
)
def sums(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -((rewards - baseline) * log_p).sum()


@exercise.wrong(
    "multiplies two means",
    hint="The mean of the rewards times the mean of the logarithms: no answer is held responsible for "
    "its own reward. Multiply first.",
    see="policy-gradients#the-score-function",
)
def product_of_means(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -(rewards - baseline).mean() * log_p.mean()


@exercise.wrong(
    "imitates every answer, whatever its reward",
    hint="This is fine-tuning on the policy's own samples: on average its gradient is 0. Where do the "
    "rewards enter?",
    see="policy-gradients#the-score-function",
)
def imitates_all(logits, actions, rewards, baseline=0.0):
    return -logits.log_softmax(-1).gather(-1, actions[..., None]).mean()


@exercise.wrong(
    "learns from rewards above the baseline alone",
    hint="Answers that did worse than the baseline should become less likely. You drop them, and on "
    "average the gradient is no longer the exact one.",
    see="policy-gradients#baselines",
)
def drops_the_bad(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -((rewards - baseline).clamp(min=0) * log_p).mean()


@exercise.wrong(
    "adds the baseline",
    hint="An answer as good as the baseline should have weight 0. With yours it has twice the reward.",
    see="policy-gradients#baselines",
)
def adds_the_baseline(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -((rewards + baseline) * log_p).mean()


@exercise.wrong(
    "ignores the baseline",
    hint="On average your gradient is right with every baseline, because none is used. What is the "
    "fourth argument subtracted from?",
    see="policy-gradients#baselines",
)
def no_baseline(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -(rewards * log_p).mean()


@exercise.wrong(
    "subtracts the baseline from the logarithm",
    hint="A baseline says what reward to expect. You take it away from log pi, where it has no "
    "gradient and changes nothing.",
    see="policy-gradients#baselines",
)
def baseline_of_the_logarithm(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -(rewards * (log_p - baseline)).mean()


@exercise.wrong(
    "looks at the most probable answer, not at the one drawn",
    hint="The reward belongs to the answer in `actions`. You push on another one.",
    see="policy-gradients#the-score-function",
)
def most_probable(logits, actions, rewards, baseline=0.0):
    return -((rewards - baseline) * logits.log_softmax(-1).amax(-1)).mean()


@exercise.wrong(
    "normalises over the samples",
    hint="Each sample has a distribution over its V answers. Along which dimension do yours sum to 1?",
    see="policy-gradients#the-score-function",
)
def over_samples(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(0).gather(-1, actions[..., None]).squeeze(-1)
    return -((rewards - baseline) * log_p).mean()


@exercise.wrong(
    "takes the logarithm of a probability that has become 0",
    hint="With scores of a few hundred your loss is infinite. The softmax and its logarithm belong in "
    "one step.",
    see="policy-gradients#the-score-function",
)
def unstable(logits, actions, rewards, baseline=0.0):
    p = logits.softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -((rewards - baseline) * p.log()).mean()


@exercise.right("log_softmax and gather")
def gathered(logits, actions, rewards, baseline=0.0):
    log_p = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
    return -((rewards - baseline) * log_p).mean()


@exercise.right("torch's categorical distribution")
def categorical(logits, actions, rewards, baseline=0.0):
    policy = torch.distributions.Categorical(logits=logits)
    return (policy.log_prob(actions) * (baseline - rewards)).mean()


@exercise.right("the cross-entropy of fine-tuning, weighted by the advantages")
def weighted_cross_entropy(logits, actions, rewards, baseline=0.0):
    flat = logits.reshape(-1, logits.shape[-1])
    nll = torch.nn.functional.cross_entropy(flat, actions.reshape(-1), reduction="none")
    return (nll * (rewards - baseline).reshape(-1)).sum() / rewards.numel()
