"""Exercise: a recurrent network, step by step."""

import torch
import torch.nn.functional as F

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.recurrent import elman_step

FORBIDDEN = (
    "torch.nn.RNN",
    "torch.nn.RNNCell",
    "torch.rnn_tanh",
    "torch.rnn_tanh_cell",
    "torch.nn.GRU",
    "torch.nn.LSTM",
)
RULE = "Write the step and the loop yourself; the recurrent layers of torch are what you rebuild."


def reference(x, h, W_ih, W_hh, b):
    """h_t = tanh(W_ih x_t + W_hh h_{t-1} + b) for every t. Source: L5 "RNN"; Elman 1990."""
    states = []
    for t in range(x.shape[-2]):
        h = elman_step(x[..., t, :], h, W_ih, W_hh, b, torch.zeros_like(b))
        states.append(h)
    return torch.stack(states, dim=-2)


exercise = Exercise(
    "rnn_states",
    points=3,
    difficulty=2,
    minutes=20,
    reference=reference,
    chapter="neural-language-models#a-recurrent-state",
    forbids=FORBIDDEN,
    rule=RULE,
)


def network(draw: Draw, *shape: int, H=3, gradients=False, note="") -> Case:
    *lead, _, d = shape
    h = draw.normal(*lead, H, scale=0.5)
    weights = draw.normal(H, d, scale=0.8), draw.normal(H, H, scale=0.6), draw.normal(H, scale=0.5)
    return Case((draw.normal(*shape), h, *weights), note=note, gradients=gradients)


@exercise.property("every state comes from the input and the state before", weight=2)
def steps(draw: Draw):
    yield network(draw, 1, 2, H=2, note="a single position")
    yield network(draw, 2, 3, H=3, note="two positions")
    yield network(draw, draw.integer(4, 6), 2, note="several positions")
    yield network(draw, 4, 4, H=4, note="square weights")


@exercise.property("leading dimensions are free")
def leading(draw: Draw):
    yield network(draw, 2, 3, 2, note="a batch")
    yield network(draw, 3, 3, 3, note="as many sequences as positions")
    yield network(draw, 2, 2, 3, 4, note="two leading dimensions")


@exercise.property("gradients reach back to the first state", weight=0.5)
def gradients(draw: Draw):
    yield network(draw, 2, 4, 2, gradients=True)


@exercise.wrong(
    "starts every step from the first state",
    hint="What was read must stay. Which state goes into step t?",
    see="neural-language-models#a-recurrent-state",
)
def no_memory(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        new = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(new)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "begins with zeros instead of the given state",
    hint="The first state is an argument: a decoder begins where its encoder ended.",
    see="neural-language-models#a-recurrent-state",
)
def from_zeros(x, h, W_ih, W_hh, b):
    states = []
    h = torch.zeros_like(h)
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "returns the last state alone",
    hint="All states are asked for, one a position.",
    see="neural-language-models#a-recurrent-state",
)
def last_only(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(h)
    return states[-1]


@exercise.wrong(
    "counts the first state as an output",
    hint="There are T outputs. The given state came before the first input.",
    see="neural-language-models#a-recurrent-state",
)
def with_first(x, h, W_ih, W_hh, b):
    states = [h]
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "returns the states before their inputs were read",
    hint="State t has read input t. When do you append it?",
    see="neural-language-models#a-recurrent-state",
)
def one_early(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        states.append(h)
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "reads from the end",
    hint="The first input is read first.",
    see="neural-language-models#a-recurrent-state",
)
def backwards(x, h, W_ih, W_hh, b):
    states = []
    for t in reversed(range(x.shape[-2])):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "leaves out the tanh",
    hint="Without it the state grows or dies with every step.",
    see="neural-language-models#a-recurrent-state",
)
def no_tanh(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = x[..., t, :] @ W_ih.T + h @ W_hh.T + b
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "applies the tanh to the input alone",
    hint="All three terms go through the tanh together.",
    see="neural-language-models#a-recurrent-state",
)
def tanh_of_input(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + b) + h @ W_hh.T
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "uses a ReLU",
    hint="This cell has a tanh, so states lie between -1 and 1.",
    see="neural-language-models#a-recurrent-state",
)
def relu(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = torch.relu(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "multiplies the state with W_hh the wrong way round",
    hint="W_hh is square, so nothing complains. Its rows belong to the new state.",
    see="neural-language-models#a-recurrent-state",
)
def not_transposed(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh + b)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "leaves out the bias",
    hint="The sum has three terms.",
    see="neural-language-models#a-recurrent-state",
)
def no_bias(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "adds to the old state",
    hint="This cell replaces its state; it is no residual network.",
    see="neural-language-models#a-recurrent-state",
)
def adds(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = h + torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.wrong(
    "stacks the states in front",
    hint="Positions are the second to last dimension of the result, as they are of x.",
    see="neural-language-models#a-recurrent-state",
)
def time_first(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(h)
    return torch.stack(states, dim=0)


@exercise.wrong(
    "cuts the gradient between the steps",
    hint="Early inputs influence late states, and learning has to know. What does `detach` stop?",
    see="neural-language-models#gradients-through-time",
)
def detached(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h.detach() @ W_hh.T + b)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.right("the step in a loop")
def by_steps(x, h, W_ih, W_hh, b):
    states = []
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ W_ih.T + h @ W_hh.T + b)
        states.append(h)
    return torch.stack(states, dim=-2)


@exercise.right("all inputs projected at once")
def projected_first(x, h, W_ih, W_hh, b):
    inputs = F.linear(x, W_ih, b)
    out = []
    for z in inputs.unbind(-2):
        h = (z + h.matmul(W_hh.mT)).tanh()
        out.append(h.unsqueeze(-2))
    return torch.cat(out, dim=-2)


@exercise.right("one matrix for input and state side by side")
def one_matrix(x, h, W_ih, W_hh, b):
    W = torch.cat((W_ih, W_hh), dim=1)
    out = x.new_zeros(*x.shape[:-1], len(b))
    places = torch.eye(x.shape[-2]).unsqueeze(-1)
    for t in range(x.shape[-2]):
        h = torch.tanh(torch.einsum("ij,...j->...i", W, torch.cat((x[..., t, :], h), -1)) + b)
        out = out + places[t] * h[..., None, :]
    return out


@exercise.shortcut("torch's cell")
def torch_layer(x, h, W_ih, W_hh, b):
    zeros = torch.zeros_like(b)
    states = []
    for t in range(x.shape[-2]):
        rows, before = x[..., t, :].reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1])
        h = torch.rnn_tanh_cell(rows, before, W_ih, W_hh, b, zeros).reshape(h.shape)
        states.append(h)
    return torch.stack(states, dim=-2)
