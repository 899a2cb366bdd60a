"""Exercise: the nucleus, with the token that crosses the line."""

import math

import torch
from torch import Tensor

from llmr_ref import sampling
from llmr_ref.grading.exercise import Case, Draw, Exercise

exercise = Exercise(
    "keep_top_p",
    points=4,
    difficulty=4,
    minutes=25,
    reference=sampling.keep_top_p,
    chapter="sampling#top-p",
)


def shuffled(draw: Draw, *probabilities: float) -> Tensor:
    """Scores of these probabilities, in random order, shifted so that they are not their logarithms."""
    scores = torch.tensor(probabilities, dtype=torch.float64).log() + 1.5
    return scores.mul(100).round().div(100).float()[draw.permutation(len(probabilities))]


@exercise.property("the smallest set of tokens that holds at least p stays", weight=2)
def rows(draw: Draw):
    yield Case((torch.tensor([1.0, 2.0, 0.0]), 0.8), note="three tokens and p = 0.8")
    yield Case((shuffled(draw, 0.5, 0.3, 0.15, 0.05), 0.7), note="a token that crosses the line")
    yield Case(
        (shuffled(draw, 0.4, 0.3, 0.2, 0.07, 0.03), 0.8), note="a token that crosses the line"
    )
    yield Case((shuffled(draw, 0.35, 0.25, 0.2, 0.15, 0.05), draw.integer(65, 75) / 100))


@exercise.property("every row of a batch has a nucleus of its own")
def batches(draw: Draw):
    flat, peaked = shuffled(draw, 0.3, 0.28, 0.22, 0.2), shuffled(draw, 0.9, 0.05, 0.03, 0.02)
    yield Case((torch.stack((flat, peaked)), 0.75), note="a flat and a peaked row")
    other = shuffled(draw, 0.6, 0.25, 0.1, 0.05)
    rows = torch.stack((peaked, flat, other, flat.flip(0)))
    yield Case((rows, 0.7), note="as many rows as tokens")
    yield Case((rows.reshape(2, 2, 4), 0.7), note="two leading dimensions")


@exercise.property("the most probable token always stays, and p = 1 keeps all")
def edges(draw: Draw):
    yield Case((shuffled(draw, 0.6, 0.3, 0.1), 0.01), note="p = 0.01")
    yield Case((shuffled(draw, 0.6, 0.3, 0.1), 1.0), note="p = 1")
    yield Case((torch.tensor([0.5]), 0.5), note="a single token")
    hidden = torch.tensor([1.0, -math.inf, 0.0, 2.0])
    yield Case((hidden, 0.8), note="a token that is ruled out already")


@exercise.property(
    "equal scores go by their ids, and a set that holds exactly p is enough", weight=1.5
)
def ties(draw: Draw):
    yield Case((torch.zeros(4), 0.5), note="four equal scores and p = 0.5")
    yield Case((torch.full((2,), 1.5), 0.5), note="two equal scores and p = 0.5")
    yield Case((torch.zeros(8), 0.6), note="eight equal scores and p = 0.6")
    yield Case((torch.tensor([0.0, 2.0, 2.0, 0.0, 2.0]), 0.5), note="ties at the line")
    yield Case((draw.integers(0, 2, 40).float(), 0.6), note="many ties")


@exercise.property("the result has the dtype of the scores", weight=0.5)
def dtypes(draw: Draw):
    yield Case((shuffled(draw, 0.6, 0.3, 0.1).double(), 0.7), note="float64 scores")
    yield Case((shuffled(draw, 0.6, 0.3, 0.1).bfloat16(), 0.7), note="bfloat16 scores")


@exercise.wrong(
    "leaves out the token that crosses the line",
    hint="Add up the probabilities that you keep: they fall short of p. The set must hold at "
    "least p, so the token that carries it over belongs to it.",
    see="sampling#boundary-token",
)
def no_boundary_token(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = P.cumsum(-1)
    first = torch.arange(P.shape[-1]) == 0
    before = torch.where(first, 0.0, before)
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before > p)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "rules out everything when one token holds more than p",
    hint="The first token alone crosses the line, and your comparison drops it. A distribution"
    " needs at least one token.",
    see="sampling#boundary-token",
)
def may_keep_nothing(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = P.cumsum(-1)
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before > p)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "keeps one token beyond the line",
    hint="The set that you keep without its last token holds p already. The smallest set is "
    "wanted.",
    see="sampling#boundary-token",
)
def one_too_many(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = (P.cumsum(-1) - P).roll(1, -1)
    before[..., 0] = 0
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "keeps another token when the set holds exactly p",
    hint="Four equal scores and p = 0.5: two tokens hold exactly a half. Is a third needed to "
    "hold at least p?",
    see="sampling#boundary-token",
)
def strict(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = P.cumsum(-1) - P
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before > p)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "forgets to bring the decision back to the order of the ids",
    hint="You decide in falling order and apply the decision in the order of the ids. "
    "`scatter` along the order that the sort returned puts it back.",
    see="sampling#top-p",
)
def not_scattered(logits, p):
    P, _ = logits.softmax(-1).sort(descending=True, stable=True)
    before = P.cumsum(-1) - P
    outside = before >= p
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "gathers where it should scatter",
    hint="`gather` reads from the place that an index names, `scatter` writes to it. Follow "
    "one token by hand through a row of three.",
    see="sampling#top-p",
)
def gathers(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = P.cumsum(-1) - P
    outside = (before >= p).gather(-1, order)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "adds up from the least probable token",
    hint="The nucleus is the head of the distribution. In which order are the probabilities added?",
    see="sampling#top-p",
)
def ascending(logits, p):
    P, order = logits.softmax(-1).sort(descending=False, stable=True)
    before = P.cumsum(-1) - P
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "rules out tokens with less than p",
    hint="p is a share of the whole mass, not a bar for each token. What would p = 0.8 leave "
    "of four even tokens?",
    see="sampling#top-p",
)
def bar_for_each(logits, p):
    P = logits.softmax(-1)
    top = P.amax(-1, keepdim=True) == P
    return logits.masked_fill((1 - p > P) & ~top, -math.inf)


@exercise.wrong(
    "adds up in the order of the ids",
    hint="The first ids are not the most probable tokens. What must happen before the "
    "cumulative sum?",
    see="sampling#top-p",
)
def unsorted(logits, p):
    P = logits.softmax(-1)
    return logits.masked_fill(P.cumsum(-1) - P >= p, -math.inf)


@exercise.wrong(
    "adds up scores instead of probabilities",
    hint="p is a share of the probability mass, and scores do not sum to 1. Which function "
    "comes first?",
    see="sampling#top-p",
)
def adds_scores(logits, p):
    P, order = logits.sort(descending=True, stable=True)
    before = P.cumsum(-1) - P
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "prefers high ids among equal scores",
    hint="Of equal scores the lowest ids should stay. A sort that is flipped afterwards also "
    "flips the ties.",
    see="sampling#ties",
)
def high_ids(logits, p):
    P, order = (x.flip(-1) for x in logits.softmax(-1).sort(stable=True))
    before = P.cumsum(-1) - P
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, -math.inf)


@exercise.wrong(
    "sets scores to zero instead of minus infinity",
    hint="A score of 0 has the weight exp(0) = 1. Which score has the weight 0?",
    see="sampling#minus-infinity",
)
def zeros(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = P.cumsum(-1) - P
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    if p == 1:
        return logits.clone()
    return logits.masked_fill(outside, 0.0)


@exercise.wrong(
    "keeps as many tokens in every row as in the first",
    hint="Peaked rows need few tokens and flat ones many; that is the point of the nucleus. "
    "Count for each row.",
    see="sampling#top-p",
)
def count_of_first(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = (P.cumsum(-1) - P).reshape(-1, P.shape[-1])
    n = P.shape[-1] if p == 1 else int((before[0] < p).sum())
    keep = torch.zeros_like(P, dtype=torch.bool).scatter(-1, order[..., :n], True)
    return logits.masked_fill(~keep, -math.inf)


@exercise.wrong(
    "returns probabilities",
    hint="The caller may want to cut further before the softmax. Return scores, changed only "
    "where tokens are ruled out.",
    see="sampling#order-of-operations",
)
def probabilities(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = P.cumsum(-1) - P
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    if p == 1:
        return logits.softmax(-1)
    return logits.masked_fill(outside, -math.inf).softmax(-1)


@exercise.right("the mass before each token, scattered back")
def mass_before(logits, p):
    P, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = P.cumsum(-1) - P
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(outside, -math.inf)


@exercise.right("token by token")
def token_by_token(logits, p):
    out = torch.full_like(logits, -math.inf)
    for row, kept in zip(
        logits.reshape(-1, logits.shape[-1]), out.reshape(-1, logits.shape[-1]), strict=True
    ):
        P = torch.softmax(row.double(), 0)
        mass = 0.0
        for i in sorted(range(len(row)), key=lambda i: (-row[i].item(), i)):
            kept[i] = row[i]
            mass += P[i].item()
            if mass >= p - 1e-12:
                break
    return out


@exercise.right("the mass of all tokens that come earlier, by comparison")
def by_comparison(logits, p):
    P = torch.softmax(logits.double(), dim=-1)
    a, b = P.unsqueeze(-1), P.unsqueeze(-2)
    earlier = torch.ones(P.shape[-1], P.shape[-1], dtype=torch.bool).tril(-1)
    ahead = (b > a) | ((b == a) & earlier)
    before = torch.where(ahead, b, 0.0).sum(-1)
    keep = before < p
    return torch.where(keep, logits, float("-inf"))
