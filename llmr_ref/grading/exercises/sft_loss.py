"""Exercise: the loss of supervised fine-tuning, over the tokens of answers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.posttraining import answer_targets, token_log_probabilities


def reference(logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    targets = answer_targets(tokens, counted)
    log_p = token_log_probabilities(logits[..., :-1, :], targets)
    return -log_p.sum() / counted[..., 1:].sum().clamp(min=1)


exercise = Exercise(
    "sft_loss",
    points=4,
    difficulty=3,
    minutes=25,
    reference=reference,
    chapter="post-training#which-tokens-count",
)


def batch(draw: Draw, *shape: int, V: int = 6, counted: Tensor | None = None, **about) -> Case:
    """Scores and tokens (..., T); without `counted`, a few positions after the first count."""
    if counted is None:
        counted = draw.booleans(*shape, p=0.4)
        counted[..., -2] = True
    scale, dtype = about.pop("scale", 1.0), about.pop("dtype", torch.float32)
    logits = draw.normal(*shape, V, scale=scale, dtype=dtype)
    return Case((logits, draw.integers(0, V - 1, *shape), counted), **about)


def answer(prompt: int, length: int, T: int) -> Tensor:
    at = torch.arange(T)
    return (at >= prompt) & (at < length)


@exercise.property(
    "the mean loss of the answer's tokens, each predicted one position earlier", weight=3
)
def one_answer(draw: Draw):
    yield batch(draw, 3, V=3, counted=answer(1, 3, 3), note="a prompt of one token")
    yield batch(draw, 5, counted=answer(2, 4, 5), note="a prompt, an answer and padding")
    yield batch(draw, 7, counted=torch.tensor([0, 1, 0, 0, 1, 1, 0]).bool(), note="two answers")
    yield batch(draw, draw.integer(6, 9), V=9)


@exercise.property("nothing predicts the first token, so it never counts")
def first(draw: Draw):
    yield batch(draw, 3, V=3, counted=answer(0, 2, 3), note="an answer from the first token on")
    yield batch(draw, 5, counted=answer(0, 5, 5), note="all tokens counted")


@exercise.property("in a batch every counted token weighs the same", weight=1.5)
def batches(draw: Draw):
    rows = torch.stack((answer(1, 2, 5), answer(1, 5, 5)))
    yield batch(draw, 2, 5, counted=rows, note="a short and a long answer")
    rows = torch.stack((answer(1, 4, 4), answer(4, 4, 4)))
    yield batch(draw, 2, 4, counted=rows, note="a row without an answer")
    yield batch(draw, 2, 3, 4, note="two leading dimensions")


@exercise.property("without any answer the loss is 0")
def nothing(draw: Draw):
    yield batch(draw, 3, counted=answer(3, 3, 3), note="no token counted")
    yield batch(draw, 2, 3, counted=answer(0, 1, 3).expand(2, 3), note="only the first counted")


@exercise.property("large and 16-bit scores keep their digits")
def extremes(draw: Draw):
    tokens = draw.integers(0, 5, 4)
    logits = draw.normal(4, 6).scatter(-1, tokens[1:, None], -300.0)
    yield Case((logits, tokens, answer(1, 4, 4)), note="an answer that is all but impossible")
    yield batch(draw, 4, scale=200, note="scores of a few hundred")
    yield batch(draw, 2, 5, dtype=torch.bfloat16, note="bfloat16 scores", tolerance=1e-4)


@exercise.property("gradients reach the scores that predict an answer, and no others")
def gradients(draw: Draw):
    yield batch(draw, 4, V=3, counted=answer(2, 4, 4), gradients=True, note="gradients")
    yield batch(draw, 2, 5, gradients=True, note="gradients of a batch")


@exercise.wrong(
    "compares the scores with the token they stand on",
    hint="The scores at position t were computed from token t: predicting it is no work. Which token "
    "do they predict?",
    see="post-training#shift-by-one",
)
def unshifted(logits, tokens, counted):
    counted = counted & (torch.arange(tokens.shape[-1]) > 0)
    log_p = logits.float().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    return -(log_p * counted).sum() / counted.sum().clamp(min=1)


@exercise.wrong(
    "shifts the tokens, not what counts",
    hint="The target at position t is token t + 1, so whether it counts stands at t + 1 as well. Your "
    "loss begins one token late and ends one token late.",
    see="post-training#shift-by-one",
)
def mask_unshifted(logits, tokens, counted):
    log_p = logits[..., :-1, :].float().log_softmax(-1)
    nll = -log_p.gather(-1, tokens[..., 1:, None]).squeeze(-1)
    keep = counted[..., :-1]
    return (nll * keep).sum() / keep.sum().clamp(min=1)


@exercise.wrong(
    "counts the prompt too",
    hint="The third argument changes nothing. This is the loss of pretraining; which tokens should a "
    "fine-tuned model learn to write?",
    see="post-training#which-tokens-count",
)
def counts_the_prompt(logits, tokens, counted):
    return F.cross_entropy(logits[..., :-1, :].float().flatten(0, -2), tokens[..., 1:].flatten())


@exercise.wrong(
    "divides by all positions",
    hint="The sum holds only the answer's tokens, the divisor counts prompt and padding as well. A long "
    "prompt makes your loss small.",
    see="post-training#which-tokens-count",
)
def divides_by_all(logits, tokens, counted):
    log_p = logits[..., :-1, :].float().log_softmax(-1)
    nll = -log_p.gather(-1, tokens[..., 1:, None]).squeeze(-1)
    return (nll * counted[..., 1:]).mean()


@exercise.wrong(
    "adds the losses up",
    hint="Twice as long an answer gives twice your loss. The lecture's loss is a mean; over what?",
    see="post-training#which-tokens-count",
)
def sums(logits, tokens, counted):
    log_p = logits[..., :-1, :].float().log_softmax(-1)
    nll = -log_p.gather(-1, tokens[..., 1:, None]).squeeze(-1)
    return (nll * counted[..., 1:]).sum()


@exercise.wrong(
    "averages each sequence before the batch",
    hint="In your mean of means a token of a short answer weighs more than one of a long answer. Every "
    "counted token should weigh the same.",
    see="post-training#which-tokens-count",
)
def mean_of_means(logits, tokens, counted):
    log_p = logits[..., :-1, :].float().log_softmax(-1)
    nll = -log_p.gather(-1, tokens[..., 1:, None]).squeeze(-1)
    keep = counted[..., 1:]
    return ((nll * keep).sum(-1) / keep.sum(-1).clamp(min=1)).mean()


@exercise.wrong(
    "gives nan where no token counts",
    hint="A batch may hold no answer at all, and 0 / 0 is nan. One such batch destroys every weight "
    "of the model.",
    see="post-training#which-tokens-count",
)
def nan_for_nothing(logits, tokens, counted):
    targets = tokens[..., 1:].masked_fill(~counted[..., 1:], -100)
    return F.cross_entropy(logits[..., :-1, :].float().flatten(0, -2), targets.flatten())


@exercise.wrong(
    "takes token 0 as the target of what does not count",
    hint="Multiplying a target by 0 does not remove it: 0 is a token. Leave the position out of the "
    "loss, not out of the targets.",
    see="post-training#which-tokens-count",
)
def token_zero(logits, tokens, counted):
    targets = tokens[..., 1:] * counted[..., 1:]
    return F.cross_entropy(logits[..., :-1, :].float().flatten(0, -2), targets.flatten())


@exercise.wrong(
    "sets the scores that do not count to 0",
    hint="Equal scores still have a loss, log V at each such position. Remove the position's loss, "
    "not its scores.",
    see="post-training#which-tokens-count",
)
def scores_to_zero(logits, tokens, counted):
    scores = logits[..., :-1, :].float() * counted[..., 1:, None]
    return F.cross_entropy(scores.flatten(0, -2), tokens[..., 1:].flatten())


@exercise.wrong(
    "takes the logarithm of a softmax that has become 0",
    hint="With scores of a few hundred your loss is infinite. The logarithm and the softmax belong "
    "together in one stable step.",
    see="post-training#which-tokens-count",
)
def unstable(logits, tokens, counted):
    p = logits[..., :-1, :].float().softmax(-1).gather(-1, tokens[..., 1:, None]).squeeze(-1)
    keep = counted[..., 1:]
    return -p.log().masked_fill(~keep, 0.0).sum() / keep.sum().clamp(min=1)


@exercise.wrong(
    "predicts the token before",
    hint="You compare the scores at t with token t - 1, which the model has already read. A causal "
    "model predicts in the other direction.",
    see="post-training#shift-by-one",
)
def shifted_back(logits, tokens, counted):
    log_p = logits[..., 1:, :].float().log_softmax(-1)
    nll = -log_p.gather(-1, tokens[..., :-1, None]).squeeze(-1)
    keep = counted[..., 1:]
    return (nll * keep).sum() / keep.sum().clamp(min=1)


@exercise.right("log-probabilities, gathered and masked")
def gathered(logits, tokens, counted):
    log_p = logits[..., :-1, :].float().log_softmax(-1)
    nll = -log_p.gather(-1, tokens[..., 1:, None]).squeeze(-1)
    keep = counted[..., 1:]
    return nll.masked_fill(~keep, 0.0).sum() / keep.sum().clamp(min=1)


@exercise.right("cross_entropy that ignores -100")
def ignored(logits, tokens, counted):
    targets = tokens[..., 1:].masked_fill(~counted[..., 1:], -100)
    scores = logits[..., :-1, :].float().flatten(0, -2)
    total = F.cross_entropy(scores, targets.flatten(), reduction="sum")
    return total / max(int((targets != -100).sum()), 1)


@exercise.right("only the positions that count are looked at")
def selected(logits, tokens, counted):
    keep = counted[..., 1:]
    scores, targets = logits[..., :-1, :][keep].float(), tokens[..., 1:][keep]
    if not len(targets):
        return 0.0 * logits.float().sum()
    return (scores.logsumexp(-1) - scores[torch.arange(len(targets)), targets]).mean()


exercise.equivalent(
    "logits[..., :-1, :] -> logits",
    because="gather reads as many positions as it is given targets, so the last scores stay unread",
)
