"""Backpropagation: first number by number on a graph that can be drawn, then tensor by tensor by hand.

A gradient is dL/dx for the L that `backward` was called on. Every node passes on what it received
(upstream) times its own derivative (local); where a value is used twice, what comes back is added.
"""

import itertools
import math
import random
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmr_ref.attention import attention_weights, softmax

# --- numbers -------------------------------------------------------------------------------------


class Value:
    """A number that remembers what it was computed from.

    `gradient` is zero until `backward`; `label` is for the reader; `inputs` are pairs of a value and
    the local derivative with respect to it; `operation` is empty for a leaf.
    Raises: TypeError for anything but a real number.
    Source: L2 "Backward pass: Create computation graph".
    """

    def __init__(
        self,
        value: float,
        label: str = "",
        *,
        operation: str = "",
        inputs: Sequence[tuple["Value", float]] = (),
    ) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"a Value holds an int or a float, got {value!r}")
        self.value = float(value)
        self.gradient = 0.0
        self.label = label
        self.operation = operation
        self.inputs = tuple(inputs)

    def __repr__(self) -> str:
        name = f"{self.label} = " if self.label else ""
        return f"Value({name}{self.value:g}, gradient = {self.gradient:g})"

    def __add__(self, other: "Value | float") -> "Value":
        return add(self, other)

    def __sub__(self, other: "Value | float") -> "Value":
        a, b = self, _lift(other)
        return Value(a.value - b.value, operation="-", inputs=[(a, 1.0), (b, -1.0)])

    def __mul__(self, other: "Value | float") -> "Value":
        a, b = self, _lift(other)
        return Value(a.value * b.value, operation="*", inputs=[(a, b.value), (b, a.value)])

    def __truediv__(self, other: "Value | float") -> "Value":
        a, b = self, _lift(other)
        if b.value == 0:
            raise ZeroDivisionError(f"cannot divide {a} by {b}")
        return Value(
            a.value / b.value,
            operation="/",
            inputs=[(a, 1 / b.value), (b, -a.value / b.value**2)],
        )

    def __pow__(self, exponent: "Value | float") -> "Value":
        """a^n with a number n, for which a is the only input, or a^b, which needs a > 0.

        Raises: ValueError where the power or its derivative is not a real number.
        """
        a, n = self, _lift(exponent).value
        varies = isinstance(exponent, Value)
        no_derivative = a.value == 0 and n < 1 and n != 0
        if a.value <= 0 and (varies or no_derivative or not n.is_integer()):
            raise ValueError(f"{a} to the power {exponent} has no real value or no derivative")
        inputs = [(a, n * a.value ** (n - 1) if n else 0.0)]
        if isinstance(exponent, Value):
            inputs.append((exponent, a.value**n * math.log(a.value)))
        return Value(a.value**n, operation="^" if varies else f"^{n:g}", inputs=inputs)

    def __neg__(self) -> "Value":
        return Value(-self.value, operation="neg", inputs=[(self, -1.0)])

    def __radd__(self, other: float) -> "Value":
        return _lift(other) + self

    def __rsub__(self, other: float) -> "Value":
        return _lift(other) - self

    def __rmul__(self, other: float) -> "Value":
        return _lift(other) * self

    def __rtruediv__(self, other: float) -> "Value":
        return _lift(other) / self

    def __rpow__(self, base: float) -> "Value":
        return _lift(base) ** self

    def exp(self) -> "Value":
        """e^x. Raises: OverflowError above 709.78, where a float ends."""
        try:
            y = math.exp(self.value)
        except OverflowError:
            raise OverflowError(f"exp of {self} is larger than any float") from None
        return Value(y, operation="exp", inputs=[(self, y)])

    def log(self) -> "Value":
        """Natural logarithm. Raises: ValueError for a value that is not positive."""
        if not self.value > 0:
            raise ValueError(f"log needs a positive value, got {self}")
        return Value(math.log(self.value), operation="log", inputs=[(self, 1 / self.value)])

    def tanh(self) -> "Value":
        y = math.tanh(self.value)
        return Value(y, operation="tanh", inputs=[(self, 1 - y**2)])

    def relu(self) -> "Value":
        """max(0, x), with derivative 0 at 0 as in torch."""
        return Value(max(0.0, self.value), operation="relu", inputs=[(self, float(self.value > 0))])

    def maximum(self, other: "Value | float") -> "Value":
        """The larger of two; equal values share the gradient evenly, as in torch."""
        a, b = self, _lift(other)
        share = 0.5 if a.value == b.value else float(a.value > b.value)
        return Value(max(a.value, b.value), operation="max", inputs=[(a, share), (b, 1 - share)])

    def backward(self) -> None:
        """Give every value below this one its gradient.

        A leaf adds it to what it had, as in torch: set `gradient` to zero between two steps.
        Source: L2 "Backprop: compute loss gradients for weights".
        """
        order = topological_order(self)
        gradients = [0.0] * (len(order) - 1) + [1.0]
        for step in trace(self):
            gradients[step["child"]] = step["gradient"]
        for value, gradient in zip(order, gradients, strict=True):
            value.gradient = gradient if value.inputs else value.gradient + gradient


def add(*terms: Value | float) -> Value:
    """The sum of any number of terms in one node, as L2's y = h1 + h2 + b."""
    values = [_lift(term) for term in terms]
    total = sum(value.value for value in values)
    return Value(total, operation="+", inputs=[(value, 1.0) for value in values])


def topological_order(output: Value) -> list[Value]:
    """All that `output` is computed from, inputs first, `output` last, each once.

    Without recursion: a graph may be deeper than Python's stack.
    """
    order: list[Value] = []
    seen: set[int] = set()
    stack = [(output, False)]
    while stack:
        value, inputs_are_done = stack.pop()
        if inputs_are_done:
            order.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            stack.append((value, True))
            stack.extend((child, False) for child, _ in reversed(value.inputs))
    return order


class Node(TypedDict):
    """A value in a drawing; `id` counts in topological order, so inputs have smaller ones."""

    id: int
    label: str
    operation: str
    value: float
    gradient: float


class Edge(TypedDict):
    """From an input (child) to what was computed from it (parent): d parent / d child."""

    child: int
    parent: int
    local_derivative: float


class Graph(TypedDict):
    nodes: list[Node]
    edges: list[Edge]


def graph(output: Value) -> Graph:
    """Nodes and edges below `output` as plain data, ready for JSON."""
    order = topological_order(output)
    ids = {id(value): i for i, value in enumerate(order)}
    return {
        "nodes": [
            {
                "id": i,
                "label": value.label,
                "operation": value.operation,
                "value": value.value,
                "gradient": value.gradient,
            }
            for i, value in enumerate(order)
        ],
        "edges": [
            {"child": ids[id(child)], "parent": i, "local_derivative": local}
            for i, value in enumerate(order)
            for child, local in value.inputs
        ],
    }


class Step(TypedDict):
    """One edge walked backwards: the child's gradient grows by upstream * local_derivative."""

    parent: int
    child: int
    upstream: float
    local_derivative: float
    product: float
    gradient: float  # of the child, with this product added


def trace(output: Value) -> list[Step]:
    """The steps of a backward pass that starts with d output / d output = 1; nothing is changed.

    Ids are those of `graph`. Source: L2 "Backprop: compute loss gradients for weights".
    """
    order = topological_order(output)
    ids = {id(value): i for i, value in enumerate(order)}
    gradients = [0.0] * len(order)
    gradients[-1] = 1.0
    steps: list[Step] = []
    for parent in reversed(range(len(order))):
        for value, local in order[parent].inputs:
            child = ids[id(value)]
            upstream = gradients[parent]
            gradients[child] += upstream * local
            steps.append(
                {
                    "parent": parent,
                    "child": child,
                    "upstream": upstream,
                    "local_derivative": local,
                    "product": upstream * local,
                    "gradient": gradients[child],
                }
            )
    return steps


class MLP:
    """Fully connected layers of `Value`s, sizes[0] inputs to sizes[-1] outputs, tanh in between.

    `layers[l][j]` are the weights of unit j, its bias last.
    Raises: ValueError for fewer than two sizes, one below 1, or an input of another length.
    Source: Rumelhart, Hinton and Williams 1986.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int = 0) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be at least two numbers of units, got {list(sizes)}")
        draw = random.Random(seed).uniform
        self.layers = [
            [[Value(draw(-1, 1)) for _ in range(n_in + 1)] for _ in range(n_out)]
            for n_in, n_out in itertools.pairwise(sizes)
        ]

    def parameters(self) -> list[Value]:
        return [weight for layer in self.layers for unit in layer for weight in unit]

    def __call__(self, x: Sequence[Value | float]) -> list[Value]:
        expected = len(self.layers[0][0]) - 1
        if len(x) != expected:
            raise ValueError(f"the network takes {expected} inputs, got {len(x)}")
        for layer in self.layers:
            sums = [
                add(*(w * x_i for w, x_i in zip(weights, x, strict=True)), bias)
                for *weights, bias in layer
            ]
            x = sums if layer is self.layers[-1] else [h.tanh() for h in sums]
        return sums


def _lift(x: Value | float) -> Value:
    return x if isinstance(x, Value) else Value(x)


# --- tensors -------------------------------------------------------------------------------------
# Each function takes the upstream gradient, shaped like the forward's output, then what the formula
# needs. Sums over leading dimensions appear where the forward used a parameter at every position.


def softmax_backward(
    dA: Float[Tensor, "..."], A: Float[Tensor, "..."], dim: int = -1
) -> Float[Tensor, "..."]:
    """dx of A = softmax(x): A (dA - sum of dA A), as dA_i/dx_j = A_i (1[i = j] - A_j).

    `A` is the output of `attention.softmax` or `masked_softmax`: it says all about x that matters.
    Raises: ValueError for shapes that differ; TypeError for tensors that are not floating point.
    """
    dA_, A_ = _wide(dA), _wide(A)
    _check_shape("dA", dA, A.shape)
    return (A_ * (dA_ - (dA_ * A_).sum(dim, keepdim=True))).to(A.dtype)


def cross_entropy_backward(
    dL: Float[Tensor, ""] | float,
    logits: Float[Tensor, "... V"],
    targets: Int[Tensor, "..."],
    *,
    ignore_index: int = -100,
) -> Float[Tensor, "... V"]:
    """dz of L = mean over n targets of -log softmax(z)_target: (softmax(z) - onehot(target)) / n dL.

    Forward: `training.next_token_loss`. A target of ignore_index counts nowhere: gradient zero.
    Raises: ValueError for targets that do not fit the logits; TypeError for types that do not.
    Source: L2 "Cross-entropy loss".
    """
    V = logits.shape[-1]
    if targets.dtype != torch.int64:
        raise TypeError(f"targets must be int64 token numbers, got {targets.dtype}")
    _check_shape("targets", targets, logits.shape[:-1])
    counted = targets != ignore_index
    outside = counted & ((targets < 0) | (targets >= V))
    if outside.any():
        raise ValueError(
            f"targets must lie in 0..{V - 1} or be {ignore_index}, got {int(targets[outside][0])}"
        )
    P = softmax(_wide(logits))
    onehot = torch.nn.functional.one_hot(targets.where(counted, 0), V)
    n = counted.sum().clamp(min=1)
    return ((P - onehot) * counted[..., None] / n * dL).to(logits.dtype)


def linear_backward(
    dy: Float[Tensor, "... out"], x: Float[Tensor, "... in"], W: Float[Tensor, "out in"]
) -> tuple[Float[Tensor, "... in"], Float[Tensor, "out in"], Float[Tensor, " out"]]:
    """dx, dW, db of y = x W^T + b: dy W; the sum over positions of dy^T x; the sum of dy.

    Raises: ValueError for shapes that do not fit; TypeError for tensors that are not floating point.
    """
    _check_shape("W", W, (dy.shape[-1], x.shape[-1]))
    _check_shape("dy", dy, (*x.shape[:-1], W.shape[0]))
    dy_, x_, W_ = _wide(dy), _wide(x), _wide(W)
    dy_rows, x_rows = dy_.reshape(-1, W.shape[0]), x_.reshape(-1, W.shape[1])
    dW, db = dy_rows.T @ x_rows, dy_rows.sum(0)
    return (dy_ @ W_).to(x.dtype), dW.to(W.dtype), db.to(W.dtype)


def gelu_backward(dy: Float[Tensor, "..."], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """dx of y = x Phi(x): dy (Phi(x) + x phi(x)), phi the normal density. Forward: `layers.gelu`.

    Raises: as `softmax_backward`.
    """
    dy_, x_ = _wide(dy), _wide(x)
    _check_shape("dy", dy, x.shape)
    Phi = (1 + torch.erf(x_ / math.sqrt(2))) / 2
    phi = torch.exp(-(x_**2) / 2) / math.sqrt(2 * math.pi)
    return (dy_ * (Phi + x_ * phi)).to(x.dtype)


def silu_backward(dy: Float[Tensor, "..."], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """dx of y = x s, s = sigmoid(x): dy s (1 + x (1 - s)). Forward: `layers.silu`.

    Raises: as `softmax_backward`.
    """
    dy_, x_ = _wide(dy), _wide(x)
    _check_shape("dy", dy, x.shape)
    s = torch.sigmoid(x_)
    return (dy_ * s * (1 + x_ * (1 - s))).to(x.dtype)


def layer_norm_backward(
    dy: Float[Tensor, "... d"],
    x: Float[Tensor, "... d"],
    weight: Float[Tensor, " d"],
    *,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "... d"], Float[Tensor, " d"], Float[Tensor, " d"]]:
    """dx, dgamma, dbeta of y = gamma z + beta, z = (x - mean) / sigma, sigma = sqrt(variance + eps).

    With dz = gamma dy: dx = (dz - mean(dz) - z mean(dz z)) / sigma, for the mean and the deviation
    move with x; dgamma is the sum over positions of dy z, dbeta that of dy.
    Forward: `layers.layer_norm`. Raises: as `linear_backward`.
    Source: Ba et al. 2016.
    """
    dy_, x_, gamma = _wide(dy), _wide(x), _wide(weight)
    _check_shape("dy", dy, x.shape)
    _check_shape("weight", weight, x.shape[-1:])
    centred = x_ - x_.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    z, dz = centred / sigma, gamma * dy_
    dx = (dz - dz.mean(-1, keepdim=True) - z * (dz * z).mean(-1, keepdim=True)) / sigma
    dgamma, dbeta = (dy_ * z).sum_to_size(weight.shape), dy_.sum_to_size(weight.shape)
    return dx.to(x.dtype), dgamma.to(weight.dtype), dbeta.to(weight.dtype)


def rms_norm_backward(
    dy: Float[Tensor, "... d"],
    x: Float[Tensor, "... d"],
    weight: Float[Tensor, " d"],
    *,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "... d"], Float[Tensor, " d"]]:
    """dx, dgamma of y = gamma z, z = x / r, r = sqrt(mean of x^2 + eps).

    With dz = gamma dy: dx = (dz - z mean(dz z)) / r; dgamma is the sum over positions of dy z.
    Forward: `layers.rms_norm`. Raises: as `linear_backward`.
    Source: Zhang and Sennrich 2019, equation 4.
    """
    dy_, x_, gamma = _wide(dy), _wide(x), _wide(weight)
    _check_shape("dy", dy, x.shape)
    _check_shape("weight", weight, x.shape[-1:])
    r = (x_.square().mean(-1, keepdim=True) + eps).sqrt()
    z, dz = x_ / r, gamma * dy_
    dx = (dz - z * (dz * z).mean(-1, keepdim=True)) / r
    return dx.to(x.dtype), (dy_ * z).sum_to_size(weight.shape).to(weight.dtype)


def attention_backward(
    dO: Float[Tensor, "... T d_v"],
    Q: Float[Tensor, "... T d_k"],
    K: Float[Tensor, "... S d_k"],
    V: Float[Tensor, "... S d_v"],
    mask: Bool[Tensor, "... T S"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Float[Tensor, "... T d_k"], Float[Tensor, "... S d_k"], Float[Tensor, "... S d_v"]]:
    """dQ, dK, dV of O = A V, A = softmax(scale Q K^T) over the keys that the mask allows.

    dV = A^T dO; dA = dO V^T; dS is dA sent back through the softmax; dQ = scale dS K; dK = scale
    dS^T Q. A query that may attend to nothing has a row of zeros in A, so it moves nothing.
    Forward: `attention.scaled_dot_product_attention`. Raises: as that.
    Source: L2 "Parallelizing attention"; Dao et al. 2022, appendix B.2.
    """
    dO_, Q_, K_, V_ = _wide(dO), _wide(Q), _wide(K), _wide(V)
    scale = 1 / math.sqrt(Q.shape[-1]) if scale is None else scale
    A = attention_weights(Q_, K_, mask, causal=causal, scale=scale)
    _check_shape("V", V, (*V.shape[:-2], K.shape[-2], V.shape[-1]))
    leading = np.broadcast_shapes(A.shape[:-2], V.shape[:-2])
    _check_shape("dO", dO, (*leading, Q.shape[-2], V.shape[-1]))
    dV = A.mT @ dO_
    dS = softmax_backward(dO_ @ V_.mT, A)
    dQ, dK = scale * dS @ K_, scale * dS.mT @ Q_
    # Where the forward broadcast one of them over leading dimensions, its gradients add up.
    return (
        dQ.sum_to_size(Q.shape).to(Q.dtype),
        dK.sum_to_size(K.shape).to(K.dtype),
        dV.sum_to_size(V.shape).to(V.dtype),
    )


def _wide(x: Tensor) -> Tensor:
    """x in at least 32 bits: sums over positions are long."""
    if not x.is_floating_point():
        raise TypeError(f"a gradient needs floating-point tensors, got {x.dtype}")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_shape(name: str, x: Tensor, expected: Sequence[int]) -> None:
    if x.shape != torch.Size(expected):
        raise ValueError(f"{name} must be {tuple(expected)}, got {tuple(x.shape)}")
