"""Exercise: advantages from a group of answers to one prompt."""

import torch
from torch import Tensor

from llmr_ref import policy_gradient
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(rewards: Tensor, baseline: str = "mean", standardize: bool = False) -> Tensor:
    return policy_gradient.group_advantages(
        rewards, baseline="mean" if baseline == "mean" else "leave one out", standardize=standardize
    )


exercise = Exercise(
    "group_advantages",
    points=4,
    difficulty=3,
    minutes=30,
    reference=reference,
    chapter="policy-gradients#groups",
)


@exercise.driver
def use(group_advantages, what, x, logits=None, **settings):
    """The advantages of rewards x, or the gradient that two answers give on average, over all pairs."""
    if what == "advantages":
        return group_advantages(x, **settings)
    P, average = logits.softmax(0), torch.zeros_like(logits)
    score = torch.eye(len(x)) - P  # row a is d log pi(a) / d logits
    for i in range(len(x)):
        for j in range(len(x)):
            A = group_advantages(x[[i, j]], **settings)
            average += P[i] * P[j] * (A[0] * score[i] + A[1] * score[j]) / 2
    return average


def rewards(x: Tensor, baseline: str = "", standardize: bool = False, **about) -> Case:
    settings = {"baseline": baseline} if baseline else {}
    return Case(
        ("advantages", x), settings | ({"standardize": True} if standardize else {}), **about
    )


def some(draw: Draw, *shape: int) -> Tensor:
    """Rewards of 0 and 1, of which every group has both."""
    x = draw.booleans(*shape).float()
    x[..., 0], x[..., 1] = 1.0, 0.0
    return x[..., draw.permutation(shape[-1])]


@exercise.property("an advantage is the reward minus the mean of its group", weight=1.5)
def mean(draw: Draw):
    yield rewards(torch.tensor([1.0, 0.0, 0.0]), note="one right answer of three")
    yield rewards(draw.normal(5), note="five rewards")
    yield rewards(draw.normal(4, 4, scale=2), note="four prompts with four answers each")
    yield rewards(draw.normal(2, 3, draw.integer(3, 6)), note="two leading dimensions")


@exercise.property("leaving one out, an answer is compared with the mean of the others", weight=1.5)
def leave_one_out(draw: Draw):
    yield rewards(torch.tensor([1.0, 0.0, 0.0]), "leave one out", note="leave one out")
    yield rewards(draw.normal(2), "leave one out", note="two answers, leave one out")
    yield rewards(draw.normal(3, draw.integer(3, 6)), "leave one out", note="three prompts")


@exercise.property("standardized, they are divided by the group's sample deviation", weight=1.5)
def standardized(draw: Draw):
    yield rewards(torch.tensor([3.0, 0.0, 0.0]), "mean", True, note="standardized")
    yield rewards(some(draw, 3, 4), "mean", True, note="three prompts, standardized")
    yield rewards(some(draw, 2, 5), "leave one out", True, note="leave one out, standardized")
    tiny = torch.tensor([2e-6, 0.0, 0.0, 0.0])
    yield rewards(tiny, "mean", True, note="differences of a millionth, standardized")


@exercise.property("a group whose answers are all alike teaches nothing", weight=1)
def alike(draw: Draw):
    yield rewards(torch.ones(4), note="all right")
    yield rewards(torch.zeros(4), "mean", True, note="all wrong, standardized")
    both = torch.stack((torch.ones(3), torch.tensor([0.0, 1.0, 0.0])))
    yield rewards(both, "mean", True, note="one group all right, one mixed, standardized")
    yield rewards(torch.full((3,), 5.0), "leave one out", True, note="all 5, leave one out")


@exercise.property("leaving one out keeps the average gradient exact; the mean makes it shorter")
def average(draw: Draw):
    two = torch.tensor([1.0, 0.0])
    loo = {"baseline": "leave one out"}
    logits = torch.tensor([0.5, 0.0])
    yield Case(("average", two, logits), loo, note="all pairs, leave one out")
    logits = draw.normal(3)
    yield Case(("average", draw.normal(3), logits), loo)
    yield Case(("average", draw.normal(3), logits), note="all pairs, mean")


@exercise.property("the dtype stays, and 16 bits lose no digits on the way", weight=0.5)
def dtypes(draw: Draw):
    half = torch.tensor([200.0, 201.0, 203.0, 200.0, 202.0], dtype=torch.bfloat16)
    yield rewards(half, "leave one out", note="bfloat16")
    yield rewards(half, "mean", True, note="bfloat16, standardized")


@exercise.wrong(
    "subtracts the mean of the whole batch",
    hint="A hard prompt makes all its answers look bad here. Which answers is one to be compared "
    "with, and along which dimension do they lie?",
    see="policy-gradients#groups",
)
def batch_mean(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    b = r.mean() if baseline == "mean" else (r.sum(-1, keepdim=True) - r) / (G - 1)
    scale = r.std(-1, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "averages over the prompts",
    hint="Rows are prompts, columns the answers to one prompt. You compare the first answers of all "
    "prompts with one another.",
    see="policy-gradients#groups",
)
def over_prompts(rewards, baseline="mean", standardize=False):
    r = rewards.float()
    G = r.shape[0]
    b = r.mean(0, keepdim=True) if baseline == "mean" else (r.sum(0, keepdim=True) - r) / (G - 1)
    scale = r.std(0, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "lines the means up with the columns",
    hint="With as many prompts as answers there is no error, only wrong numbers: the mean of prompt i "
    "is subtracted from column i. What does keepdim do?",
    see="policy-gradients#groups",
)
def no_keepdim(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    b = r.mean(-1) if baseline == "mean" else (r.sum(-1, keepdim=True) - r) / (G - 1)
    scale = r.std(-1, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "compares an answer with a group that it belongs to",
    hint="Leaving one out changes nothing in your result. Whose reward has to go from the sum, and "
    "how many are left?",
    see="policy-gradients#a-baseline-that-leaves-one-out",
)
def never_left_out(rewards, baseline="mean", standardize=False):
    r = rewards.float()
    scale = r.std(-1, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - r.mean(-1, keepdim=True)) / scale).to(rewards.dtype)


@exercise.wrong(
    "divides the sum of the others by G",
    hint="You take the own reward out of the sum but still count it. How many others are there?",
    see="policy-gradients#a-baseline-that-leaves-one-out",
)
def divided_by_G(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    total = r.sum(-1, keepdim=True)
    b = total / G if baseline == "mean" else (total - r) / G
    scale = r.std(-1, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "leaves one out always",
    hint="The default compares with the mean of all G answers, the own one included. You leave it "
    "out whatever is asked.",
    see="policy-gradients#a-baseline-that-leaves-one-out",
)
def always_left_out(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    b = (r.sum(-1, keepdim=True) - r) / (G - 1)
    scale = r.std(-1, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "standardizes whether it is asked to or not",
    hint="With `standardize=False` the differences keep their size. Where is that argument used?",
    see="policy-gradients#groups",
)
def always_standardized(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    total = r.sum(-1, keepdim=True)
    b = total / G if baseline == "mean" else (total - r) / (G - 1)
    return ((r - b) / (r.std(-1, keepdim=True) + 1e-6)).to(rewards.dtype)


@exercise.wrong(
    "leaves the differences as long as they are when asked to standardize",
    hint="With `standardize=True` the differences are also divided. By which number, and of which "
    "answers?",
    see="policy-gradients#groups",
)
def never_standardized(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    total = r.sum(-1, keepdim=True)
    b = total / G if baseline == "mean" else (total - r) / (G - 1)
    return (r - b).to(rewards.dtype)


@exercise.wrong(
    "divides by the deviation of a population",
    hint="The G answers are a sample, so their squares are averaged over G - 1. torch's default and "
    "numpy's are not the same.",
    see="policy-gradients#groups",
)
def population(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    total = r.sum(-1, keepdim=True)
    b = total / G if baseline == "mean" else (total - r) / (G - 1)
    scale = r.std(-1, keepdim=True, correction=0) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "divides by the variance",
    hint="Double all rewards: standardized advantages should stay as they are. Yours are halved.",
    see="policy-gradients#groups",
)
def variance(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    total = r.sum(-1, keepdim=True)
    b = total / G if baseline == "mean" else (total - r) / (G - 1)
    scale = r.var(-1, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "divides by 0 when all answers are alike",
    hint="All right or all wrong: the deviation is 0, and 0 / 0 is nan. What small number does the "
    "statement add, and where?",
    see="policy-gradients#when-all-answers-are-alike",
)
def nan_when_alike(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    total = r.sum(-1, keepdim=True)
    b = total / G if baseline == "mean" else (total - r) / (G - 1)
    scale = r.std(-1, keepdim=True) if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "compares with the best answer of the group",
    hint="Then no advantage is ever positive, and a group of right answers is never better than "
    "expected. What reward does one expect of an answer?",
    see="policy-gradients#baselines",
)
def minus_best(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    best = r.amax(-1, keepdim=True)
    b = best if baseline == "mean" else (r.sum(-1, keepdim=True) - r) / (G - 1)
    scale = r.std(-1, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.wrong(
    "centres the caller's rewards in place",
    hint="After the call the rewards that were passed in are different. Which operator of yours "
    "writes into its left side?",
    see="policy-gradients#groups",
)
def in_place(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    total = r.sum(-1, keepdim=True)
    b = total / G if baseline == "mean" else (total - r) / (G - 1)
    scale = r.std(-1, keepdim=True) + 1e-6 if standardize else 1.0
    rewards -= b
    return (rewards.float() / scale).to(rewards.dtype)


@exercise.right("both baselines from the sum")
def from_the_sum(rewards, baseline="mean", standardize=False):
    r, G = rewards.float(), rewards.shape[-1]
    total = r.sum(-1, keepdim=True)
    b = total / G if baseline == "mean" else (total - r) / (G - 1)
    scale = r.std(-1, keepdim=True) + 1e-6 if standardize else 1.0
    return ((r - b) / scale).to(rewards.dtype)


@exercise.right("leaving one out is the mean's advantage times G / (G - 1)")
def scaled(rewards, baseline="mean", standardize=False):
    r = rewards.double()
    A = r - r.mean(dim=-1, keepdim=True)
    deviation = (A.square().sum(-1, keepdim=True) / (r.shape[-1] - 1)).sqrt()
    if baseline == "leave one out":
        A = A * r.shape[-1] / (r.shape[-1] - 1)
    if standardize:
        A = A / (deviation + 1e-6)
    return A.to(rewards.dtype)


@exercise.right("a matrix of who is compared with whom")
def as_a_matrix(rewards, baseline="mean", standardize=False):
    G = rewards.shape[-1]
    weights = torch.ones(G, G, dtype=torch.float64)
    if baseline != "mean":
        weights.fill_diagonal_(0.0)
    r = rewards.double()
    A = r - r @ (weights / weights.sum(0))
    if standardize:
        A = A / (r.std(dim=-1, keepdim=True) + 1e-6)
    return A.to(rewards.dtype)
