"""Exercise: a decoder looks at the source: scores e, weights alpha, contexts c."""

import math

import torch

from llmr_ref.attention import masked_softmax
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.masks import padding_mask
from llmr_ref.seq2seq import additive_scores


def reference(s, h, W_s, W_h, v, lengths):
    """e, alpha and c. Source: L5 "RNN variants: attention"; Bahdanau et al. 2015, A.1.2."""
    e = additive_scores(s, h, W_s, W_h, v)
    alpha = masked_softmax(e, padding_mask(lengths, h.shape[-2]))
    return e, alpha, alpha @ h


exercise = Exercise(
    "attend_to_source",
    points=4,
    difficulty=3,
    minutes=25,
    reference=reference,
    chapter="attention#the-bottleneck",
)


def looked(draw: Draw, *lead: int, T, S, lengths, H_s=3, H_h=2, d=4, scale=1.0, note="") -> Case:
    weights = draw.normal(d, H_s), draw.normal(d, H_h), draw.normal(d, scale=scale)
    states = draw.normal(*lead, T, H_s), draw.normal(*lead, S, H_h)
    # Weights follow differences of scores, whose last digits are lost when the scores are large.
    case = (*states, *weights, torch.tensor(lengths))
    return Case(case, note=note, tolerance=1e-3 if scale > 1 else 1e-4)


@exercise.property("each state of the decoder weighs all states of the source", weight=2)
def weighs(draw: Draw):
    yield looked(draw, T=1, S=2, lengths=2, d=2, note="one state and a source of two")
    yield looked(draw, T=2, S=3, lengths=3, note="two states and a source of three")
    yield looked(draw, 2, T=3, S=3, lengths=[3, 3], H_s=3, H_h=3, d=3, note="square weights")
    S = draw.integer(4, 6)
    yield looked(draw, 2, T=3, S=S, lengths=[S, S])


@exercise.property("padding of the source gets no weight; its scores are not changed")
def padding(draw: Draw):
    yield looked(draw, T=2, S=3, lengths=2, note="a source with padding")
    yield looked(draw, 3, T=2, S=4, lengths=[1, 4, 2], note="lengths 1, 4 and 2")
    yield looked(draw, 3, T=3, S=3, lengths=[2, 1, 2], note="padding in every row")
    yield looked(draw, 2, 2, T=2, S=4, lengths=[[4, 1], [2, 3]], note="two leading dimensions")


@exercise.property("large scores stay finite", weight=0.5)
def large(draw: Draw):
    yield looked(draw, T=2, S=3, lengths=3, scale=300.0, note="scores of a few hundred")
    yield looked(draw, 2, T=2, S=4, lengths=[3, 2], scale=300.0, note="large scores and padding")


@exercise.wrong(
    "normalises over the states of the decoder",
    hint="The weights of one state of the decoder sum to 1, over the source. Along which "
    "dimension does the source lie?",
    see="attention#scores-weights-contexts",
)
def over_targets(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-2)
    return e, alpha, alpha @ h


@exercise.wrong(
    "gives weight to padding",
    hint="Behind a source's length there is nothing to look at. Where do you use the lengths?",
    see="masking#padding",
)
def no_mask(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    alpha = torch.softmax(e, dim=-1)
    return e, alpha, alpha @ h


@exercise.wrong(
    "sets the weights of padding to zero and leaves the rest",
    hint="The weights of what is left must sum to 1 again. What if padding never enters "
    "the softmax?",
    see="masking#padding",
)
def masked_after(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e, dim=-1) * real
    return e, alpha, alpha @ h


@exercise.wrong(
    "gives padding the score 0",
    hint="A score of 0 is a score like others: exp(0) is 1.",
    see="masking#padding",
)
def score_zero(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, 0.0), dim=-1)
    return e, alpha, alpha @ h


@exercise.wrong(
    "hides what is real",
    hint="`masked_fill` fills where the mask is True.",
    see="masking#padding",
)
def mask_inverted(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(real, -math.inf), dim=-1)
    return e, alpha, alpha @ h


@exercise.wrong(
    "hides the last real position",
    hint="A length of 2 means positions 0 and 1.",
    see="masking#padding",
)
def one_short(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None] - 1
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e, alpha, alpha @ h


@exercise.wrong(
    "returns masked scores",
    hint="Scores are returned as they are; the mask belongs to the weights.",
    see="masking#padding",
)
def masked_scores(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e.masked_fill(~real, -math.inf), alpha, alpha @ h


@exercise.wrong(
    "leaves out the tanh",
    hint="Without it the score is a sum of a part of the decoder and a part of the "
    "source, and the first one cancels in the softmax.",
    see="attention#scores-weights-contexts",
)
def no_tanh(s, h, W_s, W_h, v, lengths):
    e = ((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e, alpha, alpha @ h


@exercise.wrong(
    "applies the tanh to the score",
    hint="The tanh comes before v, so that v can weigh what it has made.",
    see="attention#scores-weights-contexts",
)
def tanh_last(s, h, W_s, W_h, v, lengths):
    e = torch.tanh(((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v)
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e, alpha, alpha @ h


@exercise.wrong(
    "multiplies the two projections",
    hint="Here a small network compares the two: their sum goes through a tanh.",
    see="attention#scores-weights-contexts",
)
def dot_product(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] * (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e, alpha, alpha @ h


@exercise.wrong(
    "divides by the root of the width",
    hint="The root belongs to dot products. These scores are bounded by v.",
    see="attention#scores-weights-contexts",
)
def scaled(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v / len(v) ** 0.5
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e, alpha, alpha @ h


@exercise.wrong(
    "averages the projected states",
    hint="The projection serves the comparison. What is averaged are the states h themselves.",
    see="attention#scores-weights-contexts",
)
def projected_context(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e, alpha, alpha @ (h @ W_h.T)


@exercise.wrong(
    "adds up the source without weights",
    hint="The context of a state weighs the source by its alphas.",
    see="attention#scores-weights-contexts",
)
def sum_of_states(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e, alpha, real.float().expand(alpha.shape) @ h


@exercise.wrong(
    "looks at the best position only",
    hint="Soft attention averages. An argmax has no gradient.",
    see="attention#scores-weights-contexts",
)
def hardest(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    alpha = (
        e.masked_fill(~real, -math.inf).argmax(-1, keepdim=True) == torch.arange(h.shape[-2])
    ).float()
    return e, alpha, alpha @ h


@exercise.wrong(
    "exponentiates without care",
    hint="exp of a few hundred is infinite in 32 bits. What can be subtracted from all scores?",
    see="masking#softmax-safely",
)
def unstable(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = e.exp() * real / (e.exp() * real).sum(-1, keepdim=True)
    return e, alpha, alpha @ h


@exercise.wrong(
    "lets the source look at the decoder",
    hint="Rows are states of the decoder, columns are positions of the source.",
    see="attention#scores-weights-contexts",
)
def wrong_way(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e.mT, alpha.mT, alpha @ h


@exercise.right("all pairs by broadcasting")
def by_broadcast(s, h, W_s, W_h, v, lengths):
    e = torch.tanh((s @ W_s.T)[..., :, None, :] + (h @ W_h.T)[..., None, :, :]) @ v
    real = torch.arange(h.shape[-2]) < lengths[..., None, None]
    alpha = torch.softmax(e.masked_fill(~real, -math.inf), dim=-1)
    return e, alpha, alpha @ h


@exercise.right("one state of the decoder after the other")
def state_by_state(s, h, W_s, W_h, v, lengths):
    keys = torch.einsum("...sj,dj->...sd", h, W_h)
    hidden = torch.where(torch.arange(h.shape[-2]) < lengths.unsqueeze(-1), 0.0, -math.inf)
    rows = []
    for state in s.unbind(-2):
        e = (keys + (state @ W_s.T).unsqueeze(-2)).tanh() @ v
        alpha = (e + hidden).softmax(-1)
        rows.append((e, alpha, (alpha.unsqueeze(-1) * h).sum(-2)))
    return tuple(torch.stack(parts, dim=-2) for parts in zip(*rows, strict=True))


@exercise.right("weights from logarithms")
def by_log(s, h, W_s, W_h, v, lengths):
    T, S = s.shape[-2], h.shape[-2]
    queries = (s @ W_s.mT).unsqueeze(-2).expand(*s.shape[:-1], S, len(v))
    keys = (h @ W_h.mT).unsqueeze(-3).expand(*h.shape[:-2], T, S, len(v))
    e = torch.einsum("...d,d->...", torch.tanh(queries + keys), v)
    length = lengths.reshape(*lengths.shape, 1, 1)
    scores = torch.where(torch.arange(S).expand(e.shape) >= length, -math.inf, e)
    alpha = torch.exp(scores - scores.logsumexp(-1, keepdim=True))
    return e, alpha, torch.einsum("...ts,...sh->...th", alpha, h)
