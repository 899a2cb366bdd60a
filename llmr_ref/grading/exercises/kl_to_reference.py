"""Exercise: how far a policy has moved from the model that it began as, a token of the answer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.policy_gradient import kl_divergence, masked_mean


def reference(logits: Tensor, ref_logits: Tensor, counted: Tensor) -> Tensor:
    return masked_mean(kl_divergence(logits, ref_logits.detach()), counted)


exercise = Exercise(
    "kl_to_reference",
    points=3,
    difficulty=3,
    minutes=25,
    reference=reference,
    chapter="post-training#far-from-the-reference",
)


def pair(draw: Draw, *shape: int, V: int = 4, counted: Tensor | None = None, **about) -> Case:
    """Two sets of scores (..., T, V); without `counted` all tokens count."""
    if counted is None:
        counted = torch.ones(shape, dtype=torch.bool)
    dtype, scale = about.pop("dtype", torch.float32), about.pop("scale", 1.0)
    scores = [draw.normal(*shape, V, scale=scale, dtype=dtype) for _ in range(2)]
    return Case((*scores, counted), **about)


@exercise.property("at each token it is sum p (log p - log q), with p the policy's", weight=2)
def tokens(draw: Draw):
    scores = torch.tensor([[1.1, 0.0]])
    one = torch.ones(1, dtype=torch.bool)
    yield Case((scores, torch.zeros(1, 2), one), note="a reference that knows nothing")
    yield Case((torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[1.0, 0.5, 0.0]]), one))
    yield pair(draw, 3, V=3, note="three tokens")
    yield pair(draw, 2, 3, V=draw.integer(4, 7), note="a batch")


@exercise.property("a policy that has not moved is at distance 0")
def unmoved(draw: Draw):
    scores = draw.normal(3, 4)
    yield Case((scores, scores + 2, torch.ones(3, dtype=torch.bool)), note="shifted scores")


@exercise.property("the mean is over the tokens that count, all alike", weight=1.5)
def counted_tokens(draw: Draw):
    yield pair(draw, 3, counted=torch.tensor([False, True, False]), note="one token of three")
    rows = torch.tensor([[True, False, False, False], [True, True, True, False]])
    yield pair(draw, 2, 4, counted=rows, note="a short and a long answer")
    yield pair(draw, 2, counted=torch.zeros(2, dtype=torch.bool), note="no token that counts")


@exercise.property("large scores, tokens that are ruled out and 16 bits keep it finite")
def extremes(draw: Draw):
    counted = torch.ones(2, dtype=torch.bool)
    ruled_out = torch.tensor([[0.5, -torch.inf, 1.0], [2.0, 0.0, -torch.inf]])
    yield Case((ruled_out, draw.normal(2, 3), counted), note="a token ruled out by the policy")
    far = draw.normal(2, 3) - torch.tensor([0.0, 150.0, 300.0])
    yield Case((draw.normal(2, 3), far, counted), note="a reference that is sure of one token")
    yield pair(draw, 2, scale=100, note="scores of a hundred and more")
    yield pair(draw, 2, 3, dtype=torch.bfloat16, note="bfloat16 scores", tolerance=1e-4)


@exercise.property("gradients reach the policy")
def gradients(draw: Draw):
    yield pair(draw, 1, V=2, gradients=True, note="the gradient of one token")
    rows = torch.tensor([[True, False, True], [True, True, False]])
    yield pair(draw, 2, 3, counted=rows, gradients=True, note="gradients of a batch")


@exercise.wrong(
    "measures from the reference to the policy",
    hint="KL is not symmetric. Which of the two do you weigh the logarithms with, and which one "
    "wrote the answer?",
    see="post-training#far-from-the-reference",
)
def reverse(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    kl = (log_q.exp() * (log_q - log_p)).sum(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "gives the cross-entropy",
    hint="For two equal models yours is not 0: the policy's own entropy is still in it. Which term "
    "is missing?",
    see="post-training#far-from-the-reference",
)
def cross_entropy(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    kl = -(log_p.exp() * log_q).sum(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "averages over the vocabulary",
    hint="An expectation is a sum over tokens, weighted by p. Yours shrinks as the vocabulary "
    "grows.",
    see="post-training#far-from-the-reference",
)
def mean_over_vocabulary(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    ratio = (log_p - log_q).masked_fill(log_p == -torch.inf, 0.0)
    kl = (log_p.exp() * ratio).mean(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "forgets to weigh with the policy's probabilities",
    hint="Every token of the vocabulary counts alike in your sum, the likely and the hopeless one. "
    "An expectation under the policy needs its probabilities.",
    see="post-training#far-from-the-reference",
)
def unweighted(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    kl = (log_p - log_q).sum(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "compares scores that are not normalised",
    hint="Add 2 to all scores of one model: its distribution stays, and your distance changes. What "
    "turns scores into log-probabilities?",
    see="post-training#far-from-the-reference",
)
def unnormalized(logits, ref_logits, counted):
    logits, ref_logits = logits.float(), ref_logits.float()
    gap = (logits - ref_logits).masked_fill(logits == -torch.inf, 0.0)
    kl = (logits.softmax(-1) * gap).sum(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "makes nan of a token that is ruled out",
    hint="0 times minus infinity is nan. What does a token add to the sum that the policy never "
    "writes?",
    see="post-training#a-token-that-is-ruled-out",
)
def nan_for_zero(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "takes logarithms of probabilities that have become 0",
    hint="In float32 a probability below about 1e-45 is 0. Take the logarithm and the softmax in "
    "one step.",
    see="post-training#a-token-that-is-ruled-out",
)
def log_of_softmax(logits, ref_logits, counted):
    p, q = logits.float().softmax(-1), ref_logits.float().softmax(-1)
    kl = (p * (p.log() - q.log())).masked_fill(p == 0, 0.0).sum(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "counts every position",
    hint="Your mean holds prompts and padding too. What is the third argument for?",
    see="post-training#which-tokens-count",
)
def counts_everything(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    ratio = (log_p - log_q).masked_fill(log_p == -torch.inf, 0.0)
    return (log_p.exp() * ratio).sum(-1).mean()


@exercise.wrong(
    "divides by all positions",
    hint="The sum is right, the divisor counts positions that are not in it. The mean is over the "
    "tokens that count.",
    see="post-training#which-tokens-count",
)
def divides_by_all(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    ratio = (log_p - log_q).masked_fill(log_p == -torch.inf, 0.0)
    return (log_p.exp() * ratio).sum(-1).masked_fill(~counted, 0.0).mean()


@exercise.wrong(
    "averages each sequence before the batch",
    hint="In a mean of means a token of a short answer weighs more. Here every counted token weighs "
    "the same.",
    see="post-training#which-tokens-count",
)
def mean_of_means(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    ratio = (log_p - log_q).masked_fill(log_p == -torch.inf, 0.0)
    kl = (log_p.exp() * ratio).sum(-1).masked_fill(~counted, 0.0)
    return (kl.sum(-1) / counted.sum(-1).clamp(min=1)).mean()


@exercise.wrong(
    "gives bits",
    hint="You took logarithms to base 2. Losses of this course are in nats, so that they can be "
    "added.",
    see="post-training#far-from-the-reference",
)
def bits(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    ratio = (log_p - log_q).masked_fill(log_p == -torch.inf, 0.0) / 0.6931471805599453
    kl = (log_p.exp() * ratio).sum(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "stops the gradient at the policy's probabilities",
    hint="The value is right, the gradient is not: it passes through the logarithm only. The "
    "weights p belong to the policy too.",
    see="post-training#far-from-the-reference",
)
def weights_detached(logits, ref_logits, counted):
    log_p, log_q = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    ratio = (log_p - log_q).masked_fill(log_p == -torch.inf, 0.0)
    kl = (log_p.exp().detach() * ratio).sum(-1).masked_fill(~counted, 0.0)
    return kl.sum() / counted.sum().clamp(min=1)


@exercise.right("the formula, with what is ruled out left out")
def formula(logits, ref_logits, counted):
    log_p = logits.float().log_softmax(-1)
    log_q = ref_logits.float().log_softmax(-1)
    ratio = (log_p - log_q).masked_fill(log_p == -torch.inf, 0.0)
    kl = (log_p.exp() * ratio).sum(-1)
    return kl.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


@exercise.right("F.kl_div, whose arguments are the other way round")
def built_in(logits, ref_logits, counted):
    p = logits.float().softmax(-1)
    log_q = ref_logits.float().log_softmax(-1)
    kl = F.kl_div(log_q, p, reduction="none").sum(-1)
    return (kl * counted).sum() / counted.sum().clamp(min=1)


@exercise.right("cross-entropy minus entropy, of the counted tokens alone")
def two_sums(logits, ref_logits, counted):
    log_p = logits[counted].double().log_softmax(-1)
    log_q = ref_logits[counted].double().log_softmax(-1)
    if not len(log_p):
        return torch.zeros(())
    cross = -(log_p.exp() * log_q).sum(-1)
    entropy = -(log_p.exp() * log_p.nan_to_num(neginf=0.0)).sum(-1)
    return (cross - entropy).mean().float()


exercise.equivalent(
    "(log_p - log_q).masked_fill(log_p == -torch.inf, 0.0) -> "
    "(log_p - log_q).masked_fill(log_p == -torch.inf, 1.0)",
    because="any finite number does, for it is multiplied by the probability 0",
)
