"""Exercise: the feed-forward network of a block: ReLU, GELU and SwiGLU."""

import math

import torch
import torch.nn.functional as F

from llmr_ref.grading.exercise import Case, Draw, Exercise


def reference(x, W1, W2, W3=None, activation="relu"):
    """W2 act(W1 x), gated by W3 x for SwiGLU. Source: L2 "Feedforward layer"; L1 slide 54."""
    h = x @ W1.T
    if activation == "relu":
        h = F.relu(h)
    elif activation == "gelu":
        h = F.gelu(h)
    else:
        h = F.silu(h) * (x @ W3.T)
    return h @ W2.T


exercise = Exercise(
    "feed_forward",
    points=3,
    difficulty=2,
    minutes=20,
    reference=reference,
    chapter="block#feed-forward",
)


def network(draw: Draw, shape, d_ff, activation, gradients=False, note="") -> Case:
    """Weights are (out, in). A gate is given to SwiGLU alone."""
    d = shape[-1]
    x, W1, W2 = draw.normal(*shape), draw.normal(d_ff, d), draw.normal(d, d_ff)
    settings = {} if activation == "relu" else {"activation": activation}
    if activation == "swiglu":
        settings["W3"] = draw.normal(d_ff, d)
    return Case((x, W1, W2), settings, gradients=gradients, note=note)


@exercise.property("with ReLU: two matrices, and zeros for what is negative between them", weight=2)
def with_relu(draw: Draw):
    yield network(draw, (2,), 3, "relu", note="one vector")
    yield network(draw, (3, 4), 8, "relu", note="three vectors")
    yield network(draw, (4, 4), 4, "relu", note="square weights")
    yield network(draw, (2, draw.integer(3, 5), 4), 6, "relu", note="a batch")


@exercise.property("with GELU: x times the share of the normal distribution below x")
def with_gelu(draw: Draw):
    yield network(draw, (3,), 4, "gelu", note="one vector and GELU")
    yield network(draw, (2, 4, 4), 4, "gelu", note="square weights and GELU")


@exercise.property("with SwiGLU: SiLU(W1 x) times W3 x")
def with_swiglu(draw: Draw):
    yield network(draw, (2,), 3, "swiglu", note="one vector and SwiGLU")
    yield network(draw, (4, 4), 4, "swiglu", note="square weights and SwiGLU")
    yield network(draw, (2, 3, 4), 6, "swiglu", note="a batch and SwiGLU")


@exercise.property("gradients reach the input and all weights", weight=0.5)
def gradients(draw: Draw):
    for activation in ("relu", "gelu", "swiglu"):
        yield network(draw, (2, 3), 5, activation, gradients=True, note=activation)


@exercise.wrong(
    "multiplies with weights as (in, out)",
    hint="Weights are stored as (out, in). With square ones the shapes fit and the "
    "result is another.",
    see="block#feed-forward",
)
def not_transposed(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * torch.sigmoid(h) * (x @ W3)
    return a @ W2


@exercise.wrong(
    "leaves out the activation",
    hint="Two matrices in a row are one matrix. What stands between them?",
    see="block#feed-forward",
)
def no_activation(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "takes the absolute value for ReLU",
    hint="ReLU makes zeros of negative numbers. It does not turn them around.",
    see="block#feed-forward",
)
def absolute(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.abs()
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "applies ReLU at the end instead of in the middle",
    hint="The output goes into the residual stream, which must be able to fall. Between "
    "which two steps does the activation belong?",
    see="block#feed-forward",
)
def after(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        return (h @ W2.T).clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "applies ReLU in the middle and at the end",
    hint="What the network returns may be negative. One activation is enough.",
    see="block#feed-forward",
)
def twice(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        return (h.clamp(min=0) @ W2.T).clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "approximates GELU by a tanh",
    hint="GPT-2 does so, with an error in the fourth digit. Here the exact distribution "
    "function is asked for.",
    see="block#gelu",
)
def tanh_gelu(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))) / 2
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "approximates GELU by a sigmoid",
    hint="x sigmoid(1.702 x) looks like GELU on a plot. Use the normal distribution function.",
    see="block#gelu",
)
def sigmoid_gelu(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * torch.sigmoid(1.702 * h)
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "forgets the root of 2 in the error function",
    hint="erf belongs to a normal distribution of variance 1/2. How does its argument "
    "have to be scaled?",
    see="block#gelu",
)
def erf_unscaled(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h)) / 2
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "forgets to halve in GELU",
    hint="For a large h the share below h is 1. Yours is 2.",
    see="block#gelu",
)
def half_forgotten(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2)))
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "applies SiLU to the gate instead of the first projection",
    hint="Both projections have the same shape, so nothing complains. Which of them goes "
    "through SiLU?",
    see="block#swiglu",
)
def gate_swapped(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * F.silu(x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "uses a sigmoid where SiLU belongs",
    hint="With a bare sigmoid it is a GLU. SiLU(h) has one factor more.",
    see="block#swiglu",
)
def sigmoid_gate(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "adds the gate",
    hint="A gate lets through or holds back. Which operation does that?",
    see="block#swiglu",
)
def adds_gate(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * torch.sigmoid(h) + (x @ W3.T)
    return a @ W2.T


@exercise.wrong(
    "leaves out the gate of SwiGLU",
    hint="SwiGLU has three matrices. Where is W3?",
    see="block#swiglu",
)
def no_gate(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * torch.sigmoid(h)
    return a @ W2.T


@exercise.wrong(
    "applies SiLU to the gated product",
    hint="SiLU comes first, the product after it.",
    see="block#swiglu",
)
def silu_of_product(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = F.silu(h * (x @ W3.T))
    return a @ W2.T


@exercise.wrong(
    "uses SiLU for GELU",
    hint="The curves resemble each other. GELU takes the normal distribution, SiLU the sigmoid.",
    see="block#gelu",
)
def silu_for_gelu(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = F.silu(h)
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.right("the formulas")
def by_formula(x, W1, W2, W3=None, activation="relu"):
    h = x @ W1.T
    if activation == "relu":
        a = h.clamp(min=0)
    elif activation == "gelu":
        a = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    else:
        a = h * torch.sigmoid(h) * (x @ W3.T)
    return a @ W2.T


@exercise.right("the activations of torch")
def with_torch(x, W1, W2, W3=None, activation="relu"):
    h = F.linear(x, W1)
    if activation == "swiglu":
        return F.linear(F.silu(h) * F.linear(x, W3), W2)
    return F.linear(F.relu(h) if activation == "relu" else F.gelu(h), W2)


@exercise.right("einsum, and the normal distribution of torch")
def einsum(x, W1, W2, W3=None, activation="relu"):
    h = torch.einsum("...i,oi->...o", x, W1)
    if activation == "relu":
        h = torch.where(h > 0, h, torch.zeros_like(h))
    elif activation == "gelu":
        h = h * torch.special.ndtr(h)
    elif activation == "swiglu":
        h = h / (1 + torch.exp(-h)) * torch.einsum("...i,oi->...o", x, W3)
    return torch.einsum("...i,oi->...o", h, W2)
