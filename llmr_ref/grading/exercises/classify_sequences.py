"""Exercise: a class for a whole sequence, from the state after its last real token."""

import torch
import torch.nn.functional as F

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.rnn_states import FORBIDDEN, RULE
from llmr_ref.recurrent import elman_step


def reference(tokens, lengths, E, W_ih, W_hh, b, W, c):
    """Logits of the classes from the last state. Source: L5 "Sequence classification"."""
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = elman_step(E[tokens[..., t]], h, W_ih, W_hh, b, torch.zeros_like(b))
        h = torch.where((t < lengths)[..., None], new, h)
    return F.linear(h, W, c)


exercise = Exercise(
    "classify_sequences",
    points=3,
    difficulty=3,
    minutes=20,
    reference=reference,
    chapter="recurrent-networks#the-last-state",
    forbids=FORBIDDEN,
    rule=RULE,
)


def classified(
    draw: Draw, *shape: int, lengths, classes=3, V=6, d=2, H=3, gradients=False, note=""
):
    weights = (
        draw.normal(V, d),
        draw.normal(H, d, scale=0.8),
        draw.normal(H, H, scale=0.6),
        draw.normal(H, scale=0.5),
        draw.normal(classes, H),
        draw.normal(classes),
    )
    tokens = draw.integers(1, V - 1, *shape)
    return Case((tokens, torch.tensor(lengths), *weights), note=note, gradients=gradients)


@exercise.property("the last state decides", weight=2)
def last(draw: Draw):
    yield classified(draw, 2, lengths=2, note="one sequence of two tokens")
    yield classified(draw, 1, lengths=1, note="a single token")
    T = draw.integer(4, 6)
    yield classified(draw, 3, T, lengths=[T, T, T], note="a batch without padding")


@exercise.property("what lies behind a sequence's end changes nothing", weight=1.5)
def padded(draw: Draw):
    yield classified(draw, 3, lengths=2, note="one sequence with padding")
    yield classified(draw, 2, 4, lengths=[2, 4], note="lengths 2 and 4")
    yield classified(draw, 3, 5, lengths=[3, 1, 4], note="padding in every row")
    yield classified(draw, 3, 3, lengths=[1, 3, 2], classes=4, note="as many rows as positions")


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    yield classified(draw, 2, 2, 4, lengths=[[4, 1], [2, 3]], note="two leading dimensions")


@exercise.property("gradients reach table and weights", weight=0.5)
def gradients(draw: Draw):
    yield classified(draw, 2, 4, lengths=[2, 4], gradients=True)


@exercise.wrong(
    "takes the state after the padding",
    hint="The short sequences were over before. Which state does each of them end with?",
    see="recurrent-networks#padding",
)
def through_padding(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = new
    return h @ W.T + c


@exercise.wrong(
    "sets the state to zero on padding",
    hint="The state at the end has to be kept until the loop is over. What should a "
    "padded step do to it?",
    see="recurrent-networks#padding",
)
def zeroed(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = new * (t < lengths)[..., None]
    return h @ W.T + c


@exercise.wrong(
    "reads zeros on padding",
    hint="Even with an input of zeros the state goes on changing.",
    see="recurrent-networks#padding",
)
def zero_inputs(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] * (t < lengths)[..., None] @ W_ih.T + h @ W_hh.T + b)
        h = new
    return h @ W.T + c


@exercise.wrong(
    "stops one token early",
    hint="A sequence of length 2 has tokens 0 and 1.",
    see="recurrent-networks#padding",
)
def one_early(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths - 1)[..., None], new, h)
    return h @ W.T + c


@exercise.wrong(
    "stops one token late",
    hint="A sequence of length 2 has tokens 0 and 1.",
    see="recurrent-networks#padding",
)
def one_late(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t <= lengths)[..., None], new, h)
    return h @ W.T + c


@exercise.wrong(
    "stops where the longest ends",
    hint="Every sequence of the batch ends by itself.",
    see="recurrent-networks#padding",
)
def longest(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths.max()), new, h)
    return h @ W.T + c


@exercise.wrong(
    "stops where the first sequence ends",
    hint="Every sequence of the batch ends by itself.",
    see="recurrent-networks#padding",
)
def first_length(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths.reshape(-1)[0]), new, h)
    return h @ W.T + c


@exercise.wrong(
    "classifies by the first state",
    hint="The first state has read one token. Which one has read them all?",
    see="recurrent-networks#the-last-state",
)
def first_state(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where(((t < lengths) & (t == 0))[..., None], new, h)
    return h @ W.T + c


@exercise.wrong(
    "averages the states",
    hint="A mean is a way to do it too; here the last state decides.",
    see="recurrent-networks#the-last-state",
)
def mean_state(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    total = h
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths)[..., None], new, h)
        total = total + torch.where((t < lengths)[..., None], new, 0)
    return total / lengths[..., None] @ W.T + c


@exercise.wrong(
    "takes the largest value that any state had",
    hint="Pooling is a way to do it too; here the last state decides.",
    see="recurrent-networks#the-last-state",
)
def max_state(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    best = h - 1
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths)[..., None], new, h)
        best = torch.maximum(best, h)
    return best @ W.T + c


@exercise.wrong(
    "reads the last token alone",
    hint="The state carries what was read before. Does yours go into the next step?",
    see="neural-language-models#a-recurrent-state",
)
def no_memory(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + 0 * h @ W_hh.T + b)
        h = torch.where((t < lengths)[..., None], new, h)
    return h @ W.T + c


@exercise.wrong(
    "returns scores for every position",
    hint="One class for a whole sequence.",
    see="recurrent-networks#the-last-state",
)
def all_positions(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    states = []
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths)[..., None], new, h)
        states.append(h)
    return torch.stack(states, dim=-2) @ W.T + c


@exercise.wrong(
    "returns probabilities",
    hint="Scores are asked for; the loss takes the softmax.",
    see="recurrent-networks#the-last-state",
)
def probabilities(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths)[..., None], new, h)
    return (h @ W.T + c).softmax(-1)


@exercise.wrong(
    "leaves out the bias of the output",
    hint="The output layer has a bias.",
    see="recurrent-networks#the-last-state",
)
def no_bias(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths)[..., None], new, h)
    return h @ W.T


@exercise.wrong(
    "reads from the end",
    hint="The last state is the one after the last token, not after the first.",
    see="recurrent-networks#the-last-state",
)
def backwards(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in reversed(range(tokens.shape[-1])):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths)[..., None], new, h)
    return h @ W.T + c


@exercise.right("a state that padding leaves as it is")
def kept(tokens, lengths, E, W_ih, W_hh, b, W, c):
    h = E.new_zeros(*tokens.shape[:-1], len(b))
    for t in range(tokens.shape[-1]):
        new = torch.tanh(E[tokens[..., t]] @ W_ih.T + h @ W_hh.T + b)
        h = torch.where((t < lengths)[..., None], new, h)
    return h @ W.T + c


@exercise.right("all states, and the one at the end picked out")
def gathered(tokens, lengths, E, W_ih, W_hh, b, W, c):
    inputs = F.linear(F.embedding(tokens, E), W_ih, b)
    h, states = torch.zeros(*tokens.shape[:-1], b.numel()), []
    for z in inputs.unbind(-2):
        h = torch.tanh(z + h @ W_hh.T)
        states.append(h)
    stacked = torch.stack(states, dim=-2)
    place = (lengths - 1)[..., None, None].expand(*lengths.shape, 1, stacked.shape[-1])
    return F.linear(stacked.gather(-2, place).squeeze(-2), W, c)


@exercise.right("every sequence by itself, cut to its length")
def one_by_one(tokens, lengths, E, W_ih, W_hh, b, W, c):
    results = []
    rows = tokens.reshape(-1, tokens.shape[-1])
    for row, n in zip(rows, lengths.reshape(-1).tolist(), strict=True):
        h = torch.zeros(len(b))
        for token in row[:n].tolist():
            h = (W_ih @ E[token] + W_hh @ h + b).tanh()
        results.append(W @ h + c)
    return torch.stack(results).reshape(*lengths.shape, -1)


exercise.equivalent(
    "tokens.shape[:-1] -> tokens.shape[:0]",
    "tokens.shape[:-1] -> tokens.shape[:-2]",
    because="a state of zeros takes its leading dimensions from the first input that is "
    "added to it",
)
