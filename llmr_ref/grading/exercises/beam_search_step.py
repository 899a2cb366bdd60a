"""Exercise: one step of beam search: extend every beam, keep the best."""

import math

import torch
from torch import Tensor

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(scores: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    beams, V = log_p.shape[-2:]
    totals = (scores[..., None] + log_p).flatten(-2)  # (..., beams * V)
    best = totals.topk(beams, dim=-1)
    return best.values, best.indices // V, best.indices % V


exercise = Exercise(
    "beam_search_step",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="fast-inference#beam-search",
)


def step(draw: Draw, *lead: int, beams: int, V: int, near=0.5) -> tuple[Tensor, Tensor]:
    """Scores of the beams and log-probabilities of their continuations; no two sums are equal."""
    scores = (near * draw.normal(*lead, beams, dtype=torch.float64) - 3).sort(-1, True).values
    shape = (*lead, beams, V)
    n = math.prod(shape)
    log_p = (4 / n * draw.permutation(n).double()).reshape(shape).log_softmax(-1)
    return scores.mul(100).round().div(100).float(), log_p.float()


@exercise.property("the best sums win, whichever beam they come from", weight=2)
def rows(draw: Draw):
    p = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.06, 0.04]])
    yield Case((torch.tensor([-1.0, -1.2]), p.log()), note="two beams and three tokens")
    yield Case(step(draw, beams=3, V=5), note="three beams and five tokens")
    yield Case(step(draw, beams=4, V=4), note="as many beams as tokens")
    yield Case(step(draw, beams=draw.integer(2, 4), V=draw.integer(6, 9)))
    yield Case(step(draw, beams=5, V=2), note="more beams than tokens")
    yield Case(step(draw, beams=1, V=4), note="a single beam")


@exercise.property("a beam may have several successors, or none", weight=1.5)
def extremes(draw: Draw):
    scores, log_p = step(draw, beams=3, V=4, near=0.1)
    yield Case((scores - torch.tensor([0.0, 9.0, 9.5]), log_p), note="one beam far ahead")
    yield Case((scores.flip(0) - torch.tensor([9.0, 8.0, 0.0]), log_p), note="the last one ahead")
    first = torch.tensor([0.0, -torch.inf, -torch.inf])
    yield Case((first, log_p[:1].expand(3, 4).clone()), note="the first step, when all are alike")


@exercise.property("every sequence of a batch has beams of its own")
def batches(draw: Draw):
    scores, log_p = step(draw, 2, beams=3, V=4)
    yield Case((scores - torch.tensor([[0.0], [5.0]]), log_p), note="two sequences")
    yield Case(step(draw, 2, 2, beams=2, V=3), note="two leading dimensions")
    yield Case(step(draw, 3, beams=3, V=3), note="one size for all")


@exercise.wrong(
    "forgets what the beams have scored so far",
    hint="A beam is as good as all of its tokens together. What did the tokens before this one"
    " add up to?",
    see="fast-inference#beam-search",
)
def no_history(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (log_p).flatten(-2)
    new, index = totals.topk(beams)
    return new, index // V, index % V


@exercise.wrong(
    "multiplies log-probabilities",
    hint="Probabilities of successive tokens multiply, so their logarithms do something else.",
    see="fast-inference#beam-search",
)
def multiplies(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) * log_p).flatten(-2)
    new, index = totals.topk(beams)
    return new, index // V, index % V


@exercise.wrong(
    "adds probabilities to log-probabilities",
    hint="The continuations arrive as logarithms already. Leave them as they are until they "
    "are compared.",
    see="fast-inference#beam-search",
)
def adds_probabilities(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p.exp()).flatten(-2)
    new, index = totals.topk(beams)
    return new, index // V, index % V


@exercise.wrong(
    "lets every beam keep its own best token",
    hint="All continuations of all beams compete for the places. A beam may have two "
    "successors, and another one none.",
    see="fast-inference#beam-search",
)
def one_each(scores, log_p):
    best, token = log_p.max(-1)
    new, order = (scores + best).sort(-1, descending=True)
    return new, order, token.gather(-1, order)


@exercise.wrong(
    "divides by the number of beams to find the beam",
    hint="In a flattened (beams, V) table every row has V entries. What do you divide the "
    "index by?",
    see="fast-inference#beam-search",
)
def divides_by_beams(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    new, index = totals.topk(beams)
    return new, (index // beams).clamp(max=beams - 1), index % V


@exercise.wrong(
    "takes the remainder by the number of beams for the token",
    hint="In a flattened (beams, V) table every row has V entries. What is the place inside a row?",
    see="fast-inference#beam-search",
)
def remainder_by_beams(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    new, index = totals.topk(beams)
    return new, index // V, index % beams


@exercise.wrong(
    "returns beam and token in each other's place",
    hint="Where beams and tokens are equally many nothing tells. Which one does the statement "
    "name first?",
    see="fast-inference#beam-search",
)
def swapped(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    new, index = totals.topk(beams)
    return new, index % V, index // V


@exercise.wrong(
    "adds a beam's score to the wrong rows",
    hint="Broadcasting lines scores up with the last dimension, which counts tokens. Where do "
    "the beams stand?",
    see="fast-inference#beam-search",
)
def wrong_axis(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-2) + log_p).flatten(-2)
    new, index = totals.topk(beams)
    return new, index // V, index % V


@exercise.wrong(
    "keeps the worst continuations",
    hint="Log-probabilities are negative: the best is the one nearest to 0. Which end did you "
    "take?",
    see="fast-inference#beam-search",
)
def worst(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    new, index = totals.topk(beams, largest=False)
    return new, index // V, index % V


@exercise.wrong(
    "returns the beams from worst to best",
    hint="The order is falling, so that beam 0 is the best one. Which way does your sort run?",
    see="fast-inference#beam-search",
)
def rising(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    new, index = totals.topk(beams)
    new, index = new.flip(-1), index.flip(-1)
    return new, index // V, index % V


@exercise.wrong(
    "keeps as many continuations as there are tokens",
    hint="The number of beams stays the same from step to step.",
    see="fast-inference#beam-search",
)
def as_many_as_tokens(scores, log_p):
    V = log_p.shape[-1]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    new, index = totals.topk(V)
    return new, index // V, index % V


@exercise.wrong(
    "keeps one beam too few",
    hint="Count the beams that come out.",
    see="fast-inference#beam-search",
)
def one_too_few(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    new, index = totals.topk(max(beams - 1, 1))
    return new, index // V, index % V


@exercise.wrong(
    "lets the sequences of a batch compete",
    hint="A sequence with poor scores would lose all its beams to another one. Which "
    "dimensions may you flatten?",
    see="fast-inference#beam-search",
)
def one_competition(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten()
    new, index = totals.topk(scores.numel())
    index = index % (beams * V)
    return (x.reshape(scores.shape) for x in (new, index // V, index % V))


@exercise.wrong(
    "returns the scores of the new tokens alone",
    hint="The next step needs the score of the whole beam. What does it start from if you hand"
    " it the last token's only?",
    see="fast-inference#beam-search",
)
def last_token_only(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    index = totals.topk(beams).indices
    return log_p.flatten(-2).gather(-1, index), index // V, index % V


@exercise.right("one flat competition")
def flat(scores, log_p):
    beams, V = log_p.shape[-2:]
    totals = (scores.unsqueeze(-1) + log_p).flatten(-2)
    new, index = totals.topk(beams)
    return new, index // V, index % V


@exercise.right("a sort of the flat table, taken apart with divmod")
def sorted_table(scores, log_p):
    beams, V = log_p.shape[-2], log_p.shape[-1]
    table = torch.reshape(scores[..., None] + log_p, (*scores.shape[:-1], beams * V))
    values, places = torch.sort(table, dim=-1, descending=True)
    values, places = values[..., :beams], places[..., :beams]
    parent = torch.div(places, V, rounding_mode="floor")
    return values, parent, places - parent * V


@exercise.right("the best of each beam first, then the best of those")
def in_two_rounds(scores, log_p):
    beams, V = log_p.shape[-2:]
    n = min(beams, V)
    best, tokens = log_p.topk(n, dim=-1)
    totals = (best + scores.unsqueeze(-1)).flatten(-2)
    values, places = totals.topk(beams, dim=-1)
    return values, places // n, tokens.flatten(-2).gather(-1, places)
