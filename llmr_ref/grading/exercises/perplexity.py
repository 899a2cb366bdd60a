"""Exercise: the perplexity of a batch of texts, padding left out."""

import math

import torch
from torch import Tensor

from llmr_ref import ngram
from llmr_ref.grading.exercise import Case, Draw, Exercise

TOLERANCE = 1e-4  # relative; float32 is enough, 16 bits are not


def perplexity(log_p: Tensor, mask: Tensor | None = None) -> float:
    """exp of minus the mean log-probability of the tokens where the mask is True."""
    return ngram.perplexity(-(log_p if mask is None else log_p[mask]).double())


exercise = Exercise(
    "perplexity",
    points=3,
    difficulty=2,
    minutes=15,
    reference=perplexity,
    chapter="perplexity#perplexity",
)


def scored(log_p, mask=None, note=""):
    args = (log_p,) if mask is None else (log_p, mask)
    return Case(args, note=note, tolerance=TOLERANCE)


def log_probabilities(draw: Draw, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Between about -5 and 0."""
    return -draw.normal(*shape).abs().clamp(max=2.5).mul(2).add(0.05).to(dtype)


@exercise.property("perplexity is exp of minus the mean log-probability", weight=2)
def means(draw: Draw):
    v = draw.integer(3, 9)
    yield scored(torch.full((4,), -math.log(v)), note="four tokens of equal probability")
    yield scored(log_probabilities(draw, 3), note="three tokens")
    yield scored(torch.zeros(3), note="tokens that are certain")
    yield scored(log_probabilities(draw, 2, draw.integer(3, 5)), note="two sequences of one length")


@exercise.property("padding is not counted, and every token counts alike", weight=1.5)
def padding(draw: Draw):
    log_p = log_probabilities(draw, 2, 4) - torch.tensor([[0.0], [2.0]])
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    yield scored(log_p, mask, "sequences of 4 tokens and of 1")
    mask = torch.arange(6) >= torch.tensor([[0], [4], [1]])
    yield scored(log_probabilities(draw, 3, 6), mask, "padding on the left")
    hidden = log_probabilities(draw, 2, 3)
    hidden[1, 2] = -math.inf
    mask = torch.tensor([[True, True, True], [True, True, False]])
    yield scored(hidden, mask, "minus infinity where the padding is")


@exercise.property("long texts and impossible tokens have a perplexity")
def extremes(draw: Draw):
    # Their product is too small for a float64.
    yield scored(log_probabilities(draw, 75) - 12, note="75 unlikely tokens")
    impossible = log_probabilities(draw, 4)
    impossible[draw.integer(0, 3)] = -math.inf
    yield scored(impossible, note="a token of probability 0")


@exercise.property("log-probabilities may have 16 bits", weight=0.5)
def sixteen_bits(draw: Draw):
    for n in (7, 50, 70):
        yield scored(log_probabilities(draw, n, dtype=torch.bfloat16), note="bfloat16")
    yield scored(log_probabilities(draw, 60, dtype=torch.float16), note="float16")


@exercise.wrong(
    "counts the padding",
    hint="Where in your code does the mask appear? What the model says about padding is no part of "
    "the text.",
    see="perplexity#padding",
)
def counts_padding(log_p, mask=None):
    return torch.exp(-log_p.double().mean()).item()


@exercise.wrong(
    "leaves the padding out of the sum but not out of the number of tokens",
    hint="You set the padding to 0, and then divided by all places. How many tokens were scored?",
    see="perplexity#padding",
)
def divides_by_all(log_p, mask=None):
    log_p = log_p.double()
    if mask is not None:
        log_p = log_p.masked_fill(~mask, 0.0)
    return torch.exp(-log_p.mean()).item()


@exercise.wrong(
    "averages every sequence by itself first",
    hint="A sequence of one token weighs as much as one of four in your mean. Perplexity gives every "
    "token the same weight.",
    see="perplexity#padding",
)
def mean_of_means(log_p, mask=None):
    log_p = log_p.double()
    if mask is None:
        mask = torch.ones_like(log_p, dtype=torch.bool)
    per_sequence = log_p.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)
    return torch.exp(-per_sequence.mean()).item()


@exercise.wrong(
    "averages the perplexities of the sequences",
    hint="A perplexity is an exponential, and the mean of exponentials is not the exponential of the "
    "mean. Average the logarithms of all tokens, then take exp once.",
    see="perplexity#perplexity",
)
def mean_of_perplexities(log_p, mask=None):
    log_p = log_p.double()
    if mask is None:
        mask = torch.ones_like(log_p, dtype=torch.bool)
    per_sequence = log_p.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)
    return torch.exp(-per_sequence).mean().item()


@exercise.wrong(
    "forgets the minus sign",
    hint="A perplexity is never below 1. Which sign have log-probabilities, and what does the "
    "exponent -1/n of the formula do to it?",
    see="perplexity#perplexity",
)
def no_minus(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[mask]
    return torch.exp(log_p.mean()).item()


@exercise.wrong(
    "returns the mean loss without the exponential",
    hint="For tokens that are certain your result is 0; the smallest perplexity is 1. Which step is "
    "missing?",
    see="perplexity#perplexity",
)
def no_exponential(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[mask]
    return -log_p.mean().item()


@exercise.wrong(
    "raises 2 to a power that is in nats",
    hint="Base and logarithm belong together: bits go with 2, nats with e. Try four tokens of "
    "probability 1/V: the perplexity is V.",
    see="perplexity#nats-and-bits",
)
def base_two(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[mask]
    return 2 ** -log_p.mean().item()


@exercise.wrong(
    "takes the sum instead of the mean",
    hint="Your number grows with the length of the text. What does the n in the exponent -1/n do?",
    see="perplexity#why-not-the-probability",
)
def no_length(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[mask]
    return torch.exp(-log_p.sum()).item()


@exercise.wrong(
    "averages the inverse probabilities",
    hint="You took the exponential of every token first. The formula has a root of a product, so "
    "average the logarithms first.",
    see="perplexity#perplexity",
)
def arithmetic_mean(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[mask]
    return torch.exp(-log_p).mean().item()


@exercise.wrong(
    "inverts the mean probability",
    hint="Two tokens with probabilities 1 and 0.01 multiply to 0.01: the square root of its inverse "
    "is 10. What does your mean make of them?",
    see="perplexity#perplexity",
)
def inverse_of_mean(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[mask]
    return (1 / log_p.exp().mean()).item()


@exercise.wrong(
    "multiplies the probabilities of the text",
    hint="The probability of a long text is 0 for a computer. Stay with logarithms until one number "
    "per token is left.",
    see="perplexity#why-not-the-probability",
)
def product(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[mask]
    p = log_p.exp().prod().item()
    return p ** (-1 / log_p.numel()) if p > 0 else math.inf


@exercise.wrong(
    "counts the padding and nothing else",
    hint="The mask is True where a token is real. Which places did you keep?",
    see="perplexity#padding",
)
def mask_inverted(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[~mask]
    return torch.exp(-log_p.mean()).item()


@exercise.wrong(
    "multiplies by the mask, so that minus infinity becomes nan",
    hint="Minus infinity times 0 is nan. Select the places that count instead of multiplying the "
    "others away.",
    see="perplexity#padding",
)
def multiplies_by_mask(log_p, mask=None):
    log_p = log_p.double()
    mask = torch.ones_like(log_p) if mask is None else mask.double()
    return torch.exp(-(log_p * mask).sum() / mask.sum()).item()


@exercise.wrong(
    "computes in 16 bits when the input has 16 bits",
    hint="A bfloat16 number has three digits, and the exponential makes the error of the mean larger "
    "still. In which dtype do you average?",
    see="perplexity#nats-and-bits",
)
def in_sixteen_bits(log_p, mask=None):
    log_p = log_p if mask is None else log_p[mask]
    return torch.exp(-log_p.mean()).item()


@exercise.wrong(
    "returns a tensor instead of a number",
    hint="The value is right. The exercise asks for a Python number; which method of a tensor with "
    "one element gives it?",
    see="perplexity#perplexity",
)
def tensor(log_p, mask=None):
    log_p = log_p.double() if mask is None else log_p.double()[mask]
    return torch.exp(-log_p.mean())


@exercise.right("the chosen tokens, their mean, exp")
def chosen(log_p, mask=None):
    if mask is not None:
        log_p = log_p[mask]
    return log_p.float().mean().neg().exp().item()


@exercise.right("a sum over the number of real tokens")
def sum_and_number(log_p, mask=None):
    if mask is None:
        mask = torch.ones(log_p.shape, dtype=torch.bool)
    total = torch.where(mask, log_p.double(), 0.0).sum()
    return float(torch.exp(-total / mask.sum()))


@exercise.right("plain Python numbers")
def plain(log_p, mask=None):
    values = log_p.flatten().tolist()
    keep = [True] * len(values) if mask is None else mask.flatten().tolist()
    kept = [value for value, k in zip(values, keep, strict=True) if k]
    mean = sum(kept) / len(kept)
    return math.exp(-mean) if mean > -math.inf else math.inf
