"""Exercise: a recurrent network in both directions over sequences of several lengths."""

import torch

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.grading.exercises.rnn_states import FORBIDDEN, RULE
from llmr_ref.recurrent import Recurrent


def reference(x, lengths, forward, backward):
    """Forward and backward states side by side. Source: L5; Schuster and Paliwal 1997."""
    H, d = forward[0].shape
    model = Recurrent(d, H, cell="elman", bidirectional=True, implementation="explicit")
    weights: dict[str, torch.Tensor] = {}
    for suffix, (W_ih, W_hh, b) in (("", forward), ("_reverse", backward)):
        weights |= {
            f"rnn.weight_ih_l0{suffix}": W_ih,
            f"rnn.weight_hh_l0{suffix}": W_hh,
            f"rnn.bias_ih_l0{suffix}": b,
            f"rnn.bias_hh_l0{suffix}": torch.zeros_like(b),
        }
    model.load_state_dict(weights)
    return model(x, lengths=lengths)[0].detach()


exercise = Exercise(
    "bidirectional_states",
    points=4,
    difficulty=4,
    minutes=30,
    reference=reference,
    chapter="recurrent-networks#both-directions",
    forbids=FORBIDDEN,
    rule=RULE,
)


def network(draw: Draw, *shape: int, lengths, H=2, note="") -> Case:
    """lengths: a list, or how short the shortest is."""
    *lead, T, d = shape

    def weights():
        return draw.normal(H, d, scale=0.8), draw.normal(H, H, scale=0.6), draw.normal(H, scale=0.5)

    n = draw.integers(lengths, T, *lead) if isinstance(lengths, int) else torch.tensor(lengths)
    return Case((draw.normal(*shape), n, weights(), weights()), note=note)


@exercise.property("one network reads forward, the other from the end", weight=2)
def directions(draw: Draw):
    yield network(draw, 2, 2, lengths=2, note="two positions")
    yield network(draw, 3, 2, lengths=3, H=3, note="three positions")
    T = draw.integer(4, 6)
    yield network(draw, 3, T, 3, lengths=T, note="no padding")


@exercise.property("the backward network begins at the last real position")
def shorter(draw: Draw):
    yield network(draw, 3, 2, lengths=2, note="one sequence, which may end in padding")
    yield network(draw, 2, 4, 2, lengths=[2, 4], note="lengths 2 and 4")
    yield network(draw, 3, 5, 2, lengths=[5, 1, 3], note="lengths 5, 1 and 3")
    yield network(draw, 3, 3, 3, lengths=[2, 1, 2], note="padding in every row")


@exercise.property("leading dimensions are free", weight=0.5)
def leading(draw: Draw):
    yield network(draw, 2, 2, 4, 3, lengths=1, note="two leading dimensions")


@exercise.wrong(
    "leaves the backward states in the order of reading",
    hint="The backward network reads position T - 1 first. Its state belongs there, not "
    "at position 0.",
    see="recurrent-networks#both-directions",
)
def reading_order(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward).flip(-2)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "lets the backward network begin in the padding",
    hint="It would carry what it read there into the real positions. In which state does "
    "it arrive at the last real one?",
    see="recurrent-networks#padding",
)
def through_padding(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new
            states[t] = new * real
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "leaves states on the padding",
    hint="Behind the end of a sequence the output is zero.",
    see="recurrent-networks#padding",
)
def padding_kept(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = torch.where(real, new, h)
            states[t] = new
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "takes all positions for real",
    hint="The lengths tell where each sequence ends. Where do you use them?",
    see="recurrent-networks#padding",
)
def no_padding(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "ends every sequence one position early",
    hint="A length of 2 means positions 0 and 1.",
    see="recurrent-networks#padding",
)
def one_short(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths - 1)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "ends every sequence one position late",
    hint="A length of 2 means positions 0 and 1.",
    see="recurrent-networks#padding",
)
def one_long(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t <= lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "uses the longest length for all",
    hint="Every sequence ends by itself.",
    see="recurrent-networks#padding",
)
def longest(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths.max().expand(lengths.shape))[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "reads forward twice",
    hint="The second network begins at the end.",
    see="recurrent-networks#both-directions",
)
def both_forward(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(range(T), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "uses the weights of the forward network twice",
    hint="Each direction has weights of its own.",
    see="recurrent-networks#both-directions",
)
def same_weights(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *forward)
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "adds the two states",
    hint="Side by side, 2 H numbers: whoever reads them can weigh them.",
    see="recurrent-networks#both-directions",
)
def added(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return first + second


@exercise.wrong(
    "puts the backward state first",
    hint="Forward first, then backward.",
    see="recurrent-networks#both-directions",
)
def backward_first(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((second, first), dim=-1)


@exercise.wrong(
    "lays the states one behind the other in time",
    hint="The result has T positions with 2 H numbers each. Along which dimension do you join?",
    see="recurrent-networks#both-directions",
)
def in_time(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-2)


@exercise.wrong(
    "starts the backward network from the last forward state",
    hint="Both directions begin with zeros.",
    see="recurrent-networks#both-directions",
)
def carries_on(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b, h=None):
        h = x.new_zeros(*x.shape[:-2], len(b)) if h is None else h
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *(*backward, first[..., -1, :]))
    return torch.cat((first, second), dim=-1)


@exercise.wrong(
    "does not carry the state from step to step",
    hint="What distinguishes this from a layer that looks at every position alone?",
    see="neural-language-models#a-recurrent-state",
)
def no_memory(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            states[t] = new * real
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.right("one loop for both directions, with a mask")
def masked_loop(x, lengths, forward, backward):
    T = x.shape[-2]

    def scan(order, W_ih, W_hh, b):
        h = x.new_zeros(*x.shape[:-2], len(b))
        states = [h] * T
        for t in order:
            real = (t < lengths)[..., None]
            new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
            h = new * real
            states[t] = h
        return torch.stack(states, dim=-2)

    first = scan(range(T), *forward)
    second = scan(reversed(range(T)), *backward)
    return torch.cat((first, second), dim=-1)


@exercise.right("each sequence turned round, read forward, and turned back")
def flipped(x, lengths, forward, backward):
    T = x.shape[-2]
    places = torch.arange(T)
    real = places < lengths[..., None]
    turned = torch.where(real, lengths[..., None] - 1 - places, places)[..., None]

    def turn(y):
        return y.gather(-2, turned.expand(*y.shape))

    def read(y, W_ih, W_hh, b):
        h, states = torch.zeros(*y.shape[:-2], len(b)), []
        for t in range(T):
            h = torch.tanh(y[..., t, :] @ W_ih.T + b + h @ W_hh.T)
            states.append(h)
        return torch.stack(states, -2)

    both = torch.cat((read(x, *forward), turn(read(turn(x), *backward))), -1)
    return both.masked_fill(~real[..., None], 0.0)


@exercise.right("every sequence by itself, cut to its length")
def one_by_one(x, lengths, forward, backward):
    H = len(forward[2])
    out = torch.zeros(*x.shape[:-1], 2 * H)
    rows, targets = x.reshape(-1, *x.shape[-2:]), out.view(-1, x.shape[-2], 2 * H)
    for row, target, n in zip(rows, targets, lengths.reshape(-1).tolist(), strict=True):
        for first, order, weights in (
            (0, range(n), forward),
            (H, range(n - 1, -1, -1), backward),
        ):
            W_ih, W_hh, b = weights
            h = torch.zeros(H)
            for t in order:
                h = torch.tanh(W_ih @ row[t] + W_hh @ h + b)
                target[t, first : first + H] = h
    return out


exercise.equivalent(
    "x.shape[:-2] -> x.shape[:-3]",
    because="a state of zeros takes its leading dimensions from the first input that is "
    "added to it",
)
