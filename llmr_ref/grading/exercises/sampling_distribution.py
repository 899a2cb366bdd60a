"""Exercise: all the steps of a sampler, in the order that is stated."""

import math

import torch
from torch import Tensor

from llmr_ref import sampling
from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    return sampling.distribution(
        logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )


exercise = Exercise(
    "sampling_distribution",
    points=4,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="sampling#order-of-operations",
)


def shuffled(draw: Draw, *probabilities: float) -> Tensor:
    """The logarithms of these probabilities in random order, two decimals."""
    scores = torch.tensor(probabilities, dtype=torch.float64).log()
    return scores.mul(100).round().div(100).float()[draw.permutation(len(probabilities))]


FIVE = (0.42, 0.28, 0.16, 0.09, 0.05)


@exercise.property("each step alone does what it says", weight=1.5)
def single(draw: Draw):
    yield Case((shuffled(draw, *FIVE),), note="no step at all")
    yield Case((shuffled(draw, *FIVE),), {"temperature": 0.5}, note="a temperature")
    yield Case((shuffled(draw, *FIVE),), {"top_k": 3}, note="top_k = 3")
    yield Case((shuffled(draw, *FIVE),), {"top_p": 0.8}, note="top_p = 0.8")
    yield Case((shuffled(draw, *FIVE),), {"min_p": 0.3}, note="min_p = 0.3")
    yield Case((torch.zeros(4),), {"top_p": 0.5}, note="equal scores and top_p = 0.5")
    yield Case((torch.tensor([1.0, 0.0, 1.0]),), {"min_p": 1.0}, note="min_p = 1")
    scores = draw.integers(0, 2, 40).float()
    yield Case((scores,), {"top_p": 0.6}, note="many ties and top_p")


@exercise.property("the temperature comes before the cuts", weight=1.5)
def temperature_first(draw: Draw):
    # At T = 0.5 the five have 0.61, 0.27, 0.09, 0.03 and 0.01.
    settings = {"temperature": 0.5, "top_p": 0.8}
    yield Case((shuffled(draw, *FIVE),), settings, note="a low temperature and top_p")
    settings = {"temperature": 2.0, "top_p": 0.6}
    yield Case((shuffled(draw, *FIVE),), settings, note="a high temperature and top_p")
    settings = {"temperature": 2.0, "min_p": 0.5}
    yield Case((shuffled(draw, *FIVE),), settings, note="a high temperature and min_p")


@exercise.property("top-k comes before top-p, which sees the k tokens as the whole", weight=1.5)
def k_before_p(draw: Draw):
    settings = {"top_k": 3, "top_p": 0.75}
    yield Case((shuffled(draw, *FIVE),), settings, note="top_k and top_p")
    settings = {"top_k": 2, "top_p": 0.55}
    yield Case((shuffled(draw, *FIVE),), settings, note="top_k and top_p")
    settings = {"temperature": 1.5, "top_k": 4, "top_p": 0.6, "min_p": 0.4}
    yield Case((shuffled(draw, *FIVE),), settings, note="all of them")


@exercise.property("what is left sums to 1, in every row of a batch")
def batches(draw: Draw):
    rows = torch.stack([shuffled(draw, *FIVE) for _ in range(3)])
    yield Case((rows,), {"top_k": 2}, note="a batch and top_k")
    settings = {"temperature": 0.8, "top_p": 0.77}
    yield Case((rows,), settings, note="a batch, a temperature and top_p")
    yield Case((rows.reshape(3, 1, 5),), {"min_p": 0.5}, note="two leading dimensions")
    half = torch.tensor([1.5, -0.5, 0.25], dtype=torch.bfloat16)
    yield Case((half,), {"temperature": 0.7}, note="bfloat16 scores", tolerance=1e-4)


@exercise.property("temperature 0 is greedy, whatever else is set")
def greedy(draw: Draw):
    yield Case((shuffled(draw, *FIVE),), {"temperature": 0.0}, note="T = 0")
    settings = {"temperature": 0.0, "top_k": 3, "top_p": 0.9}
    rows = torch.stack([shuffled(draw, *FIVE) for _ in range(2)])
    yield Case((rows,), settings, note="T = 0 and cuts")
    yield Case((torch.tensor([0.0, 1.0, 1.0]),), {"temperature": 0.0}, note="T = 0 and ties")


@exercise.wrong(
    "applies the temperature last",
    hint="Your cuts see the distribution at temperature 1, and the temperature then sharpens "
    "or flattens what they left. In which order does the statement list the steps?",
    see="sampling#order-of-operations",
)
def temperature_last(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    z = z / temperature
    return z.softmax(-1)


@exercise.wrong(
    "cuts by top-p before top-k",
    hint="Your nucleus is measured in the full distribution. It should see the k tokens as the"
    " whole, with probabilities that sum to 1 again.",
    see="sampling#order-of-operations",
)
def p_before_k(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z.softmax(-1)


@exercise.wrong(
    "ignores the temperature",
    hint="Two temperatures give the same distribution. Where does the argument meet the scores?",
    see="sampling#temperature",
)
def no_temperature(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z.softmax(-1)


@exercise.wrong(
    "multiplies by the temperature",
    hint="A low temperature should sharpen the distribution. Did you divide?",
    see="sampling#temperature",
)
def multiplies(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z * temperature
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z.softmax(-1)


@exercise.wrong(
    "leaves top-k out",
    hint="Your answer gives every token a weight under top_k = 2. Where does your code read "
    "the argument?",
    see="sampling#top-k",
)
def no_top_k(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z.softmax(-1)


@exercise.wrong(
    "leaves top-p out",
    hint="Your answer gives every token a weight under a small top_p. Where does your code "
    "read the argument?",
    see="sampling#top-p",
)
def no_top_p(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z.softmax(-1)


@exercise.wrong(
    "leaves min-p out",
    hint="Your answer gives every token a weight under a large min_p. Where does your code "
    "read the argument?",
    see="sampling#min-p",
)
def no_min_p(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    return z.softmax(-1)


@exercise.wrong(
    "leaves out the token that crosses the line of top-p",
    hint="The nucleus must hold at least p, so the token that carries it over belongs to it.",
    see="sampling#boundary-token",
)
def no_boundary_token(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        beyond = P.cumsum(-1) > top_p
        beyond[..., 0] = False
        z = z.masked_fill(outside.scatter(-1, order, beyond), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z.softmax(-1)


@exercise.wrong(
    "does not share out what was ruled out",
    hint="Your probabilities sum to less than 1. Where does the last normalisation belong?",
    see="sampling#order-of-operations",
)
def not_normalised(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    before = z.softmax(-1)
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return before.masked_fill(z == -math.inf, 0.0)


@exercise.wrong(
    "divides by zero at temperature 0",
    hint="A score divided by 0 is infinite, or nan. Greedy decoding needs a case of its own.",
    see="sampling#greedy",
)
def divides_by_zero(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    z = z / temperature
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z.softmax(-1)


@exercise.wrong(
    "returns scores",
    hint="The caller wants probabilities that a die can be rolled with. Which function comes last?",
    see="sampling#order-of-operations",
)
def scores(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z


@exercise.wrong(
    "compares the scores of ruled-out tokens as zeros",
    hint="You set ruled-out scores to 0, so they take part in every later step and in the "
    "softmax. What has the weight 0?",
    see="sampling#minus-infinity",
)
def zeros(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, 0.0)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), 0.0)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, 0.0)
    return z.softmax(-1)


@exercise.right("step by step")
def step_by_step(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    z = logits.float()
    if temperature == 0:
        return torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = z / temperature
    if top_k is not None:
        cut = z.topk(top_k).values[..., -1:]
        z = z.masked_fill(z < cut, -math.inf)
    if top_p is not None:
        P, order = z.softmax(-1).sort(descending=True, stable=True)
        outside = torch.zeros_like(z, dtype=torch.bool)
        z = z.masked_fill(outside.scatter(-1, order, P.cumsum(-1) - P >= top_p), -math.inf)
    if min_p is not None:
        P = z.softmax(-1)
        z = z.masked_fill(min_p * P.amax(-1, keepdim=True) > P, -math.inf)
    return z.softmax(-1)


@exercise.right("on probabilities that are normalised after every cut")
def on_probabilities(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    if temperature == 0:
        P = torch.zeros_like(logits, dtype=torch.float32)
        return P.scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    P = torch.softmax(logits.double() / temperature, dim=-1)
    P, order = P.sort(dim=-1, descending=True, stable=True)

    def normalised(P):
        return P / P.sum(-1, keepdim=True)

    if top_k is not None:
        P = normalised(P * (torch.arange(P.shape[-1]) < top_k))
    if top_p is not None:
        P = normalised(P * (P.cumsum(-1) - P < top_p))
    if min_p is not None:
        P = normalised(P * (min_p * P[..., :1] <= P))
    return torch.zeros_like(P).scatter(-1, order, P).float()


@exercise.right("row by row, in plain Python")
def row_by_row(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    out = torch.zeros_like(logits, dtype=torch.float32)
    for row, result in zip(
        logits.reshape(-1, logits.shape[-1]), out.view(-1, logits.shape[-1]), strict=True
    ):
        ids = sorted(range(len(row)), key=lambda i: (-row[i].item(), i))
        if temperature == 0:
            result[ids[0]] = 1.0
            continue
        best = row[ids[0]].item()
        weight = {i: math.exp((row[i].item() - best) / temperature) for i in ids}
        ids = ids[:top_k]
        if top_p is not None:
            total, mass, kept = sum(weight[i] for i in ids), 0.0, []
            for i in ids:
                if mass >= top_p * total:
                    break
                kept.append(i)
                mass += weight[i]
            ids = kept
        if min_p is not None:
            ids = [i for i in ids if weight[i] >= min_p]
        total = sum(weight[i] for i in ids)
        for i in ids:
            result[i] = weight[i] / total
    return out
