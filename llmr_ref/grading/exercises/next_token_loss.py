"""Exercise: the cross-entropy of every position, its sum and its mean, without the padding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref import training
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    losses = training.token_losses(logits, targets)
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total / (targets != training.IGNORE).sum()


exercise = Exercise(
    "next_token_loss",
    points=4,
    difficulty=2,
    minutes=20,
    reference=reference,
    chapter="training-a-language-model#the-loss",
    forbids=(
        *(
            f"torch.nn.functional.{name}"
            for name in ("cross_entropy", "nll_loss", "binary_cross_entropy", "kl_div")
        ),
        *(f"torch.nn.{name}" for name in ("CrossEntropyLoss", "NLLLoss", "KLDivLoss")),
    ),
    rule="Build the loss from `log_softmax` or `logsumexp`; torch's own cross-entropy is what you are"
    " rebuilding.",
)


def scored(logits: Tensor, targets: Tensor, reduction: str, note: str, **about) -> Case:
    return Case((logits, targets, reduction), note=note, **about)


def padded(draw: Draw, B: int, T: int, V: int) -> Tensor:
    """Targets of rows of different lengths: the first row is full, the last has one target."""
    lengths = torch.tensor([T, *draw.integers(1, T - 1, B - 2).tolist(), 1])
    return draw.integers(0, V - 1, B, T).masked_fill(torch.arange(T) >= lengths[:, None], -100)


@exercise.property("each position costs minus the logarithm of its target's probability", weight=2)
def positions(draw: Draw):
    yield scored(torch.tensor([[0.0, 1.1]]), torch.tensor([1]), "none", "one position, two tokens")
    yield scored(draw.normal(3, 4), draw.integers(0, 3, 3), "none", "three positions")
    yield scored(draw.normal(2, 4, 4), draw.integers(0, 3, 2, 4), "none", "a batch")
    n = draw.integer(2, 4)
    yield scored(draw.normal(n, 3, 5), draw.integers(0, 4, n, 3), "none", "a batch")
    yield scored(draw.normal(2, n, 3, 4), draw.integers(0, 3, 2, n, 3), "none", "two batch dims")


@exercise.property("an ignored target costs nothing and is not counted", weight=2)
def ignored(draw: Draw):
    targets = torch.tensor([2, -100, 0])
    for reduction in ("none", "sum", "mean"):
        yield scored(draw.normal(3, 3), targets, reduction, f"one ignored, reduction={reduction!r}")
    for reduction in ("none", "sum", "mean"):
        yield scored(
            draw.normal(3, 5, 4), padded(draw, 3, 5, 4), reduction,
            f"rows of different lengths, reduction={reduction!r}",
        )  # fmt: skip


@exercise.property("sum and mean are over all targets of the batch, the mean by default")
def reductions(draw: Draw):
    yield scored(draw.normal(2, 3, 5), draw.integers(0, 4, 2, 3), "sum", "reduction='sum'")
    yield scored(draw.normal(2, 3, 5), draw.integers(0, 4, 2, 3), "mean", "reduction='mean'")
    yield Case((draw.normal(2, 4, 3), padded(draw, 2, 4, 3)), note="the default")
    nothing = torch.full((2, 2), -100)
    yield scored(draw.normal(2, 2, 3), nothing, "sum", "every target ignored, reduction='sum'")


@exercise.property("logits of any size give a finite loss")
def extremes(draw: Draw):
    # Neighbours of 1000 in float32 are 0.00006 apart.
    far = torch.tensor([[1000.0, 0.0, -1000.0], [0.0, 500.0, 0.0]])
    yield scored(far, torch.tensor([1, 0]), "none", "logits of 1000", tolerance=1e-4)
    hidden = draw.normal(2, 4)
    hidden[:, 3] = -math.inf
    yield scored(hidden, torch.tensor([0, 2]), "mean", "a token that is ruled out")
    yield scored(
        draw.normal(3, 4) - 300, torch.tensor([0, 3, 1]), "sum", "logits near -300", tolerance=2e-4
    )


@exercise.property("16-bit logits give a loss in float32")
def sixteen_bits(draw: Draw):
    logits = draw.normal(3, 6, scale=3, dtype=torch.bfloat16)
    yield scored(logits, draw.integers(0, 5, 3), "none", "bfloat16", tolerance=1e-5)
    yield scored(logits.half(), draw.integers(0, 5, 3), "mean", "float16", tolerance=1e-5)


@exercise.property("the gradient reaches the logits, and none comes from ignored targets")
def gradients(draw: Draw):
    yield scored(draw.normal(2, 3), torch.tensor([1, -100]), "mean", "gradients", gradients=True)
    yield scored(draw.normal(2, 4, 3), padded(draw, 2, 4, 3), "none", "gradients", gradients=True)


@exercise.wrong(
    "divides by all positions, the ignored ones too",
    hint="Padding adds 0 to your sum and 1 to your number of targets. Append a padded place to a row:"
    " the loss must stay.",
    see="training-a-language-model#the-loss",
)
def divides_by_all(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.float(), -1)
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


@exercise.wrong(
    "counts ignored targets as token 0",
    hint="You made -100 a valid index to be able to look it up. Afterwards its loss has to go again.",
    see="training-a-language-model#padding",
)
def as_token_0(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.float(), -1)
    losses = -log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


@exercise.wrong(
    "takes the mean of the means of the rows",
    hint="A row with one target weighs as much as a full one. Every target of the batch counts the"
    " same.",
    see="training-a-language-model#the-loss",
)
def mean_of_means(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.float(), -1)
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return (losses.sum(-1) / (~ignored).sum(-1)).mean()


@exercise.wrong(
    "takes the logarithm of a softmax, which may be 0",
    hint="With logits of 1000 the other probabilities round to 0, and the logarithm of 0 is minus"
    " infinity. One function does both steps.",
    see="training-a-language-model#the-loss",
)
def log_of_softmax(logits, targets, reduction="mean"):
    log_p = torch.softmax(logits.float(), -1).log()
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.wrong(
    "forgets the minus sign",
    hint="A log-probability is at most 0; a loss is at least 0. What does training do with a loss?",
    see="training-a-language-model#the-loss",
)
def no_minus(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.float(), -1)
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.wrong(
    "takes the logit for the log-probability",
    hint="Add 5 to all logits of a position: the distribution is the same, your loss is not. What"
    " makes logits log-probabilities?",
    see="training-a-language-model#the-loss",
)
def raw_logit(logits, targets, reduction="mean"):
    ignored = targets == -100
    picked = logits.float().gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.wrong(
    "shifts the targets once more",
    hint="The batch has its targets shifted already: the target of logits[t] is targets[t]. You skip"
    " one place.",
    see="training-a-language-model#shifted-targets",
)
def shifted_again(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.float(), -1)[..., :-1, :]
    targets = targets[..., 1:]
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.wrong(
    "normalises over positions instead of tokens",
    hint="The probabilities of the V tokens at one place sum to 1. Which dimension is V in a tensor"
    " (..., T, V)?",
    see="training-a-language-model#the-loss",
)
def over_positions(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.float(), -2)
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.wrong(
    "computes in 16 bits when the logits have 16 bits",
    hint="A bfloat16 number has three digits. In which dtype do you take the logarithm?",
    see="training-a-language-model#the-loss",
)
def in_sixteen_bits(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits, -1)
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.wrong(
    "cuts the graph, so that nothing can be learned",
    hint="A Python number has no gradient, and neither has a detached tensor. Stay with tensors from"
    " the logits to the loss.",
    see="training-a-language-model#the-loss",
)
def detached(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.detach().float(), -1)
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.wrong(
    "measures in bits",
    hint="Four equally likely tokens cost ln 4 = 1.386 here. Which logarithm gives 2?",
    see="training-a-language-model#the-loss",
)
def bits(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.float(), -1) / math.log(2)
    ignored = targets == -100
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0)[..., None])[..., 0]
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.right("log-softmax, gathered at the targets")
def gathered(logits, targets, reduction="mean"):
    ignored = targets == -100
    log_p = torch.log_softmax(logits.float(), -1)
    picked = log_p.gather(-1, targets.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1)
    losses = -picked.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (~ignored).sum()


@exercise.right("logsumexp less the target's logit")
def from_logsumexp(logits, targets, reduction="mean"):
    logits = logits.to(torch.float32)
    counted = targets >= 0
    index = torch.where(counted, targets, torch.zeros_like(targets))
    target_logits = torch.take_along_dim(logits, index.unsqueeze(-1), dim=-1).squeeze(-1)
    losses = torch.where(counted, torch.logsumexp(logits, dim=-1) - target_logits, 0.0)
    if reduction == "none":
        return losses
    total = losses.sum()
    return total / counted.sum() if reduction == "mean" else total


@exercise.right("the counted positions alone, put back where they came from")
def selected(logits, targets, reduction="mean"):
    counted = targets != -100
    log_p = logits.float()[counted].log_softmax(-1)
    some = -log_p[torch.arange(len(log_p)), targets[counted]]
    if reduction == "none":
        return torch.zeros(targets.shape).masked_scatter(counted, some)
    return some.sum() if reduction == "sum" else some.mean()


@exercise.shortcut("F.cross_entropy")
def functional(logits, targets, reduction="mean"):
    losses = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction=reduction)
    return losses.reshape(targets.shape) if reduction == "none" else losses


@exercise.shortcut("F.nll_loss of a log-softmax")
def negative_log_likelihood(logits, targets, reduction="mean"):
    log_p = torch.log_softmax(logits.float(), -1)
    losses = F.nll_loss(log_p.flatten(0, -2), targets.flatten(), reduction=reduction)
    return losses.reshape(targets.shape) if reduction == "none" else losses


exercise.equivalent(
    "targets.masked_fill(ignored, 0) -> targets.masked_fill(ignored, 1)",
    because="any token that exists may stand in for an ignored target: its loss is dropped",
)
