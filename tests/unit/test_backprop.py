"""The scalar engine and the gradients by hand, against the lecture, torch and finite differences."""

import json
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llmr_ref import backprop
from llmr_ref.attention import masked_softmax, scaled_dot_product_attention, softmax
from llmr_ref.backprop import MLP, Value, add, graph, topological_order, trace
from llmr_ref.layers import gelu, layer_norm, rms_norm, silu
from llmr_ref.training import next_token_loss

SEEDS = st.integers(0, 2**31)
LEADING = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def randn(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# --- numbers: the lecture's example ---------------------------------------------------------------


def lecture(w1=2.0, w2=-1.0, b=1.0):
    """L2's network: y = w1 x1 + w2 x2 + b and L = (y_true - y)^2."""
    w1, w2, b = Value(w1, "w1"), Value(w2, "w2"), Value(b, "b")
    h1, h2 = w1 * Value(4, "x1"), w2 * Value(-3, "x2")
    y = add(h1, h2, b)
    L = (10 - y) ** 2
    h1.label, h2.label, y.label, L.label = "h1", "h2", "y", "L"
    return w1, w2, b, y, L


def test_the_lectures_example_comes_out():
    *weights, y, L = lecture()
    assert (y.value, L.value) == (12, 4)
    L.backward()
    assert L.gradient == 1
    assert y.gradient == 4
    assert [w.gradient for w in weights] == [16, -12, 4]
    moved = [w.value - 0.01 * w.gradient for w in weights]
    assert moved == pytest.approx([1.84, -0.88, 0.96])
    assert lecture(*moved)[3].value == pytest.approx(10.96)


def test_its_graph_is_data_that_json_carries():
    L = lecture()[-1]
    L.backward()
    drawing = graph(L)
    assert json.loads(json.dumps(drawing)) == drawing
    by_label = {node["label"]: node for node in drawing["nodes"] if node["label"]}
    assert set(by_label) == {"w1", "w2", "b", "x1", "x2", "h1", "h2", "y", "L"}
    assert by_label["w2"] == {
        "id": by_label["w2"]["id"],
        "label": "w2",
        "operation": "",
        "value": -1.0,
        "gradient": -12.0,
    }
    assert by_label["h1"]["operation"] == "*"
    assert by_label["y"]["operation"] == "+"
    assert by_label["L"]["operation"] == "^2"
    edges = {(e["child"], e["parent"]): e["local_derivative"] for e in drawing["edges"]}
    ids = {label: node["id"] for label, node in by_label.items()}
    # The slide prints "dh1/dw2 = x2"; the derivative that is x2 = -3 is that of h2.
    assert edges[ids["w2"], ids["h2"]] == -3
    assert edges[ids["w1"], ids["h1"]] == 4
    assert (
        edges[ids["h1"], ids["y"]] == edges[ids["h2"], ids["y"]] == edges[ids["b"], ids["y"]] == 1
    )
    assert (ids["w2"], ids["h1"]) not in edges
    assert all(edge["child"] < edge["parent"] for edge in drawing["edges"])
    assert [node["id"] for node in drawing["nodes"]] == list(range(11))
    assert ids["L"] == 10


def test_its_trace_walks_every_edge_once_and_changes_nothing():
    *weights, L = lecture()
    steps = trace(L)
    assert [w.gradient for w in weights] == [0, 0, 0, 0]
    assert json.loads(json.dumps(steps)) == steps
    drawing = graph(L)
    edges = [(e["parent"], e["child"], e["local_derivative"]) for e in drawing["edges"]]
    walked = [(s["parent"], s["child"], s["local_derivative"]) for s in steps]
    assert sorted(walked) == sorted(edges)
    assert steps[0]["parent"] == 10
    assert steps[0]["upstream"] == 1
    for step in steps:
        assert step["product"] == step["upstream"] * step["local_derivative"]
    (to_w1,) = [s for s in steps if drawing["nodes"][s["child"]]["label"] == "w1"]
    assert (to_w1["upstream"], to_w1["local_derivative"], to_w1["product"]) == (4, 4, 16)


# --- numbers: the engine --------------------------------------------------------------------------

UNARY = {
    "exp": (Value.exp, torch.exp),
    "tanh": (Value.tanh, torch.tanh),
    "relu": (Value.relu, torch.relu),
    "neg": (lambda a: -a, torch.neg),
    "cube": (lambda a: a**3, lambda a: a**3),
    "log": (lambda a: (a * a + 1).log(), lambda a: (a * a + 1).log()),
    "root": (lambda a: (a * a + 1) ** 0.5, lambda a: (a * a + 1).sqrt()),
    "3 + a": (lambda a: 3 + a, lambda a: 3 + a),
    "3 - a": (lambda a: 3 - a, lambda a: 3 - a),
    "a - 3": (lambda a: a - 3, lambda a: a - 3),
    "3a": (lambda a: 3 * a, lambda a: 3 * a),
    "3 / a": (lambda a: 3 / (a * a + 1), lambda a: 3 / (a * a + 1)),
    "a / 3": (lambda a: a / 3, lambda a: a / 3),
    "2^a": (lambda a: 2**a, lambda a: 2**a),
    "max(a, 0.3)": (lambda a: a.maximum(0.3), lambda a: a.clamp(min=0.3)),
}
BINARY = {
    "+": (lambda a, b: a + b, lambda a, b: a + b),
    "-": (lambda a, b: a - b, lambda a, b: a - b),
    "*": (lambda a, b: a * b, lambda a, b: a * b),
    "/": (lambda a, b: a / (b * b + 1), lambda a, b: a / (b * b + 1)),
    "^": (lambda a, b: (a * a + 1) ** b, lambda a, b: (a * a + 1) ** b),
    "max": (Value.maximum, torch.maximum),
    "sum": (lambda a, b: add(a, b, a), lambda a, b: a + b + a),
}


@given(data=st.data(), start=st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_random_graphs_have_torchs_values_and_gradients(data, start):
    # Each step takes any of the values so far, so most are used more than once.
    ours = [Value(x) for x in start]
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in start]
    for _ in range(data.draw(st.integers(1, 8))):
        i, j = (data.draw(st.integers(0, len(ours) - 1)) for _ in range(2))
        if data.draw(st.booleans()):
            f, g = UNARY[data.draw(st.sampled_from(sorted(UNARY)))]
            a, b = f(ours[i]), g(theirs[i])
        else:
            f, g = BINARY[data.draw(st.sampled_from(sorted(BINARY)))]
            a, b = f(ours[i], ours[j]), g(theirs[i], theirs[j])
        if abs(a.value) > 20:  # towers of exponentials leave the floats
            continue
        ours.append(a)
        theirs.append(b)
    ours[-1].backward()
    if theirs[-1].grad_fn is not None:
        theirs[-1].backward()
        for a, b in zip(ours[:3], theirs[:3], strict=True):
            expected = 0.0 if b.grad is None else b.grad.item()
            assert a.gradient == pytest.approx(expected, rel=1e-9, abs=1e-9)
    for a, b in zip(ours, theirs, strict=True):
        assert a.value == pytest.approx(b.item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("f", "g"),
    [
        (lambda a: a.relu(), torch.relu),
        (lambda a: a.maximum(0.0), lambda a: torch.maximum(a, torch.zeros_like(a))),
        (lambda a: a**0, lambda a: a**0),
        (lambda a: a**1, lambda a: a**1),
        (lambda a: a**2, lambda a: a**2),
        (lambda a: (a - 2) ** -3.0, lambda a: (a - 2) ** -3.0),
    ],
)
def test_at_zero_the_derivative_is_torchs(f, g):
    a, x = Value(0.0), torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    f(a).backward()
    g(x).backward()
    assert a.gradient == x.grad.item()


def test_operations_are_named_for_the_drawing():
    a, b = Value(2.0), Value(3.0)
    results = [a + b, a - b, a * b, a / b, a**b, a**2, a**0.5, -a, a.exp(), a.log(), a.tanh()]
    names = ["+", "-", "*", "/", "^", "^2", "^0.5", "neg", "exp", "log", "tanh"]
    assert [r.operation for r in results] == names
    assert (a.relu().operation, a.maximum(b).operation, a.operation) == ("relu", "max", "")
    assert len((a**2).inputs) == 1


def test_a_leafs_gradient_adds_up_and_an_inner_ones_does_not():
    a = Value(3.0)
    b = a * a
    c = b * 2
    c.backward()
    assert (a.gradient, b.gradient, c.gradient) == (12, 2, 1)
    c.backward()
    assert (a.gradient, b.gradient, c.gradient) == (24, 2, 1)
    a.gradient = 0.0
    b.backward()
    assert (a.gradient, b.gradient) == (6, 1)


def test_a_leaf_by_itself_has_gradient_one():
    a = Value(3.0)
    a.backward()
    assert a.gradient == 1
    assert trace(a) == []


def test_values_come_after_their_inputs_and_once():
    a, b = Value(1.0, "a"), Value(2.0, "b")
    c = a * b
    d = add(c, a, c)
    assert topological_order(d) == [a, b, c, d]
    assert topological_order(c) == [a, b, c]


def test_a_graph_may_be_deeper_than_the_stack():
    a = Value(1.0)
    total = a
    for _ in range(20_000):
        total = total + a
    total.backward()
    assert a.gradient == 20_001
    gone = weakref.ref(total)
    del total
    assert gone() is None


def test_a_value_prints_its_name_value_and_gradient():
    assert repr(Value(2.5, "w")) == "Value(w = 2.5, gradient = 0)"
    assert repr(Value(-1.0)) == "Value(-1, gradient = 0)"


def test_a_small_network_learns_exclusive_or():
    network = MLP([2, 3, 1], seed=0)
    examples = [((0, 0), -1), ((0, 1), 1), ((1, 0), 1), ((1, 1), -1)]

    def loss():
        return add(*((network(x)[0] - y) ** 2 for x, y in examples))

    first = loss().value
    for _ in range(200):
        L = loss()
        for p in network.parameters():
            p.gradient = 0.0
        L.backward()
        for p in network.parameters():
            p.value -= 0.1 * p.gradient
    assert loss().value < 0.01 < 1 < first
    assert all((network(x)[0].value > 0) == (y > 0) for x, y in examples)


def test_the_network_is_torchs_with_the_same_weights():
    network = MLP([3, 4, 5, 2], seed=1)
    x = [0.5, -1.0, 2.0]
    h = torch.tensor(x, dtype=torch.float64)
    for layer in network.layers:
        rows = torch.tensor([[w.value for w in unit] for unit in layer], dtype=torch.float64)
        h = rows[:, :-1] @ h + rows[:, -1]
        out, h = h, torch.tanh(h)
    assert [y.value for y in network(x)] == pytest.approx(out.tolist())
    assert len(network.parameters()) == 4 * 4 + 5 * 5 + 2 * 6
    assert all(-1 <= p.value <= 1 for p in network.parameters())
    assert len({p.value for p in network.parameters()}) == 4 * 4 + 5 * 5 + 2 * 6
    again, other = MLP([3, 4, 5, 2], seed=1), MLP([3, 4, 5, 2], seed=2)
    assert [p.value for p in again.parameters()] == [p.value for p in network.parameters()]
    assert [p.value for p in other.parameters()] != [p.value for p in network.parameters()]
    assert MLP([1, 1]).parameters()[0].value == MLP([1, 1], seed=0).parameters()[0].value


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Value("2"), TypeError, "holds an int or a float, got '2'"),
        (lambda: Value(True), TypeError, "got True"),
        (lambda: Value(1.0) + "2", TypeError, "got '2'"),
        (
            lambda: Value(1.0, "a") / Value(0.0, "b"),
            ZeroDivisionError,
            r"divide .*a = 1.* by .*b = 0",
        ),
        (lambda: 1 / Value(0.0), ZeroDivisionError, r"by Value\(0"),
        (lambda: Value(0.0).log(), ValueError, r"log needs a positive value, got Value\(0"),
        (lambda: Value(-1.0).log(), ValueError, r"got Value\(-1"),
        (lambda: Value(math.nan).log(), ValueError, r"got Value\(nan"),
        (lambda: Value(710.0).exp(), OverflowError, r"exp of Value\(710"),
        (lambda: Value(-8.0) ** (1 / 3), ValueError, r"Value\(-8.* to the power 0\.33"),
        (lambda: Value(0.0) ** 0.5, ValueError, r"to the power 0\.5 .* no derivative"),
        (lambda: Value(0.0) ** -1, ValueError, "to the power -1"),
        (lambda: Value(-2.0) ** Value(2.0), ValueError, "to the power Value"),
        (lambda: Value(0.0) ** Value(2.0), ValueError, "to the power Value"),
        (lambda: MLP([3]), ValueError, r"at least two numbers of units, got \[3\]"),
        (lambda: MLP([3, 0, 1]), ValueError, r"got \[3, 0, 1\]"),
        (lambda: MLP([3, 1])([1.0, 2.0]), ValueError, "takes 3 inputs, got 2"),
    ],
)
def test_an_impossible_number_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- tensors by hand ------------------------------------------------------------------------------

T, S, D, V = 4, 5, 6, 7


def by_autograd(forward, upstream, *inputs):
    """The gradients of forward(*inputs) that torch finds, for an upstream gradient."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(forward(*inputs), inputs, upstream)


def targets_of(leading, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(V, leading, generator=generator)
    ignored = torch.rand(leading, generator=generator) < 0.3
    return targets.masked_fill(ignored, -1)


def the_targets(logits):
    return targets_of(logits.shape[:-1], seed=11)


def open_mask(seed=0):
    """Any mask with a row that is empty and one that is full."""
    mask = torch.rand(T, S, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[1], mask[2] = False, True
    return mask


# name: (forward, backward with the upstream gradient first, the inputs' shapes, of the last dimensions)
PAIRS = {
    "softmax": (
        softmax,
        lambda dy, x: (backprop.softmax_backward(dy, softmax(x)),),
        [(D,)],
    ),
    "softmax over the first of two": (
        lambda x: softmax(x, dim=-2),
        lambda dy, x: (backprop.softmax_backward(dy, softmax(x, dim=-2), dim=-2),),
        [(T, D)],
    ),
    "masked softmax": (
        lambda x: masked_softmax(x, open_mask()),
        lambda dy, x: (backprop.softmax_backward(dy, masked_softmax(x, open_mask())),),
        [(T, S)],
    ),
    "cross-entropy": (
        lambda x: next_token_loss(x, the_targets(x), ignore_index=-1),
        lambda dy, x: (backprop.cross_entropy_backward(dy, x, the_targets(x), ignore_index=-1),),
        [(T, V)],
    ),
    "linear": (
        lambda x, W, b: F.linear(x, W, b),
        lambda dy, x, W, b: backprop.linear_backward(dy, x, W),
        [(D,), "(7, 6)", "(7,)"],
    ),
    "gelu": (gelu, lambda dy, x: (backprop.gelu_backward(dy, x),), [(D,)]),
    "silu": (silu, lambda dy, x: (backprop.silu_backward(dy, x),), [(D,)]),
    "layer norm": (
        lambda x, w, b: layer_norm(x, w, b, eps=0.01),
        lambda dy, x, w, b: backprop.layer_norm_backward(dy, x, w, eps=0.01),
        [(D,), "(6,)", "(6,)"],
    ),
    "rms norm": (
        lambda x, w: rms_norm(x, w, eps=0.01),
        lambda dy, x, w: backprop.rms_norm_backward(dy, x, w, eps=0.01),
        [(D,), "(6,)"],
    ),
    "attention": (
        scaled_dot_product_attention,
        lambda dy, Q, K, V: backprop.attention_backward(dy, Q, K, V),
        [(T, D), (S, D), (S, 3)],
    ),
    "masked attention": (
        lambda Q, K, V: scaled_dot_product_attention(Q, K, V, open_mask(), scale=0.7),
        lambda dy, Q, K, V: backprop.attention_backward(dy, Q, K, V, open_mask(), scale=0.7),
        [(T, D), (S, D), (S, 3)],
    ),
    "causal attention": (
        lambda Q, K, V: scaled_dot_product_attention(Q, K, V, causal=True),
        lambda dy, Q, K, V: backprop.attention_backward(dy, Q, K, V, causal=True),
        [(T, D), (T, D), (T, 3)],
    ),
}
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)


def inputs_of(name, leading, seed, dtype=torch.float64):
    """Inputs for a pair; a shape in quotes is a parameter's, without leading dimensions."""
    shapes = PAIRS[name][2]
    return [
        randn(*(eval(s) if isinstance(s, str) else (*leading, *s)), seed=seed + i, dtype=dtype)
        for i, s in enumerate(shapes)
    ]


@EVERY_PAIR
@given(leading=LEADING, seed=SEEDS)
def test_by_hand_is_autograd_whatever_the_leading_dimensions(name, leading, seed):
    forward, backward, _ = PAIRS[name]
    inputs = inputs_of(name, leading, seed)
    upstream = randn(*forward(*inputs).shape, seed=seed + 9)
    for ours, theirs in zip(
        backward(upstream, *inputs), by_autograd(forward, upstream, *inputs), strict=True
    ):
        assert ours.shape == theirs.shape
        # A few sums of at most 27 * 7 products of numbers below about 5.
        assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@EVERY_PAIR
def test_by_hand_passes_gradcheck(name):
    forward, backward, _ = PAIRS[name]

    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return forward(*inputs).clone()

        @staticmethod
        def backward(ctx, upstream):
            return tuple(backward(upstream, *ctx.saved_tensors))

    inputs = [x.requires_grad_() for x in inputs_of(name, (2,), seed=3)]
    assert torch.autograd.gradcheck(ByHand.apply, inputs)


@EVERY_PAIR
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_have_the_inputs_dtype_and_are_summed_in_32_bits(name, dtype):
    forward, backward, _ = PAIRS[name]
    if "softmax" in name:
        # Their second argument is an output: in float32 it is another one.
        (x,) = inputs_of(name, (2,), seed=0)
        A, dA = forward(x).to(dtype), randn(*x.shape, seed=1, dtype=dtype)
        dim = -2 if "first" in name else -1
        pairs = [
            (
                backprop.softmax_backward(dA, A, dim),
                backprop.softmax_backward(dA.float(), A.float(), dim),
            )
        ]
    else:
        inputs = inputs_of(name, (2,), seed=0, dtype=dtype)
        wide = [x.float() for x in inputs]
        upstream = randn(*forward(*wide).shape, seed=1, dtype=dtype)
        pairs = zip(backward(upstream, *inputs), backward(upstream.float(), *wide), strict=True)
    for ours, exact in pairs:
        assert ours.dtype == dtype
        assert torch.equal(ours, exact.to(dtype))


@EVERY_PAIR
def test_inputs_are_only_read_and_may_be_strided(name):
    forward, backward, _ = PAIRS[name]
    inputs = inputs_of(name, (2,), seed=0)
    upstream = randn(*forward(*inputs).shape, seed=1)
    expected = backward(upstream, *inputs)
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in (upstream, *inputs)]
    before = [x.clone() for x in strided]
    for ours, whole in zip(backward(*strided), expected, strict=True):
        assert_close(ours, whole)
    assert all(torch.equal(x, y) for x, y in zip(strided, before, strict=True))


# The others look at the values of targets or mask, which a shape alone has not.
@pytest.mark.parametrize("name", [n for n in PAIRS if n != "cross-entropy" and "masked" not in n])
def test_gradients_live_where_the_inputs_do(name):
    forward, backward, _ = PAIRS[name]
    inputs = [x.to("meta") for x in inputs_of(name, (2,), seed=0)]
    assert all(g.is_meta for g in backward(torch.empty_like(forward(*inputs)), *inputs))


def test_heads_that_share_keys_add_their_gradients():
    Q, K, V = randn(2, 3, T, D, seed=0), randn(2, 1, S, D, seed=1), randn(S, 3, seed=2)
    dO = randn(2, 3, T, 3, seed=3)
    ours = backprop.attention_backward(dO, Q, K, V)
    theirs = by_autograd(scaled_dot_product_attention, dO, Q, K, V)
    for g, expected, x in zip(ours, theirs, (Q, K, V), strict=True):
        assert g.shape == x.shape
        assert_close(g, expected)


def test_a_query_that_sees_nothing_moves_nothing():
    Q, K, V = randn(T, D, seed=0), randn(S, D, seed=1), randn(S, 3, seed=2)
    mask = torch.zeros(T, S, dtype=torch.bool)
    for g in backprop.attention_backward(torch.ones(T, 3).double(), Q, K, V, mask):
        assert torch.equal(g, torch.zeros_like(g))


def test_large_scores_do_not_overflow():
    Q, K, V = (300 * randn(n, D, seed=i, dtype=torch.float16) for i, n in enumerate((T, S, S)))
    dO = torch.ones(T, D, dtype=torch.float16)
    assert all(g.isfinite().all() for g in backprop.attention_backward(dO, Q / 100, K, V / 100))
    logits = torch.tensor([[60000.0, -60000.0, 0.0]], dtype=torch.float16)
    dz = backprop.cross_entropy_backward(1.0, logits, torch.tensor([1]))
    assert_close(dz, torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float16))


def test_cross_entropys_gradient_is_probability_minus_one_hot():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64))
    dz = backprop.cross_entropy_backward(2.0, logits, torch.tensor([1, 2]))
    expected = torch.tensor([[0.5, -0.7, 0.2], [0.1, 0.1, -0.2]], dtype=torch.float64)
    assert_close(dz, expected)  # times 2, over 2 targets


def test_ignored_targets_have_no_gradient_and_are_not_counted():
    logits = randn(3, V, seed=0)
    some = backprop.cross_entropy_backward(1.0, logits, torch.tensor([2, -100, 5]))
    fewer = backprop.cross_entropy_backward(1.0, logits[[0, 2]], torch.tensor([2, 5]))
    assert_close(some[[0, 2]], fewer)
    assert torch.equal(some[1], torch.zeros(V).double())
    none = backprop.cross_entropy_backward(1.0, logits, torch.full((3,), -100))
    assert torch.equal(none, torch.zeros(3, V).double())


def test_epsilons_are_the_layers_own():
    x, w, dy = 0.01 * randn(2, D, seed=0), randn(D, seed=1), randn(2, D, seed=2)
    for ours, theirs in (
        (backprop.layer_norm_backward(dy, x, w)[:2], by_autograd(layer_norm, dy, x, w)),
        (backprop.rms_norm_backward(dy, x, w), by_autograd(rms_norm, dy, x, w)),
    ):
        for g, expected in zip(ours, theirs, strict=True):
            assert_close(g, expected)


X, W = torch.zeros(2, 3), torch.ones(5, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: backprop.softmax_backward(X, X[:1]),
            ValueError,
            r"dA must be \(1, 3\), got \(2, 3\)",
        ),
        (lambda: backprop.softmax_backward(X, X.long()), TypeError, r"got torch\.int64"),
        (lambda: backprop.gelu_backward(X[0], X), ValueError, r"dy must be \(2, 3\), got \(3,\)"),
        (lambda: backprop.silu_backward(X[0], X), ValueError, r"dy must be \(2, 3\), got \(3,\)"),
        (
            lambda: backprop.linear_backward(torch.zeros(2, 4), X, W),
            ValueError,
            r"W must be \(4, 3\), got \(5, 3\)",
        ),
        (
            lambda: backprop.linear_backward(torch.zeros(3, 5), X, W),
            ValueError,
            r"dy must be \(2, 5\), got \(3, 5\)",
        ),
        (
            lambda: backprop.layer_norm_backward(X, X, W),
            ValueError,
            r"weight must be \(3,\), got \(5, 3\)",
        ),
        (
            lambda: backprop.layer_norm_backward(X[:1], X, W[0]),
            ValueError,
            r"dy must be \(2, 3\), got \(1, 3\)",
        ),
        (
            lambda: backprop.rms_norm_backward(X, X, W),
            ValueError,
            r"weight must be \(3,\), got \(5, 3\)",
        ),
        (
            lambda: backprop.rms_norm_backward(X[:1], X, W[0]),
            ValueError,
            r"dy must be \(2, 3\), got \(1, 3\)",
        ),
        (
            lambda: backprop.attention_backward(X, X, X[:, :2], X),
            ValueError,
            "same width, got 3 and 2",
        ),
        (
            lambda: backprop.attention_backward(X[:, :2], X, X, X),
            ValueError,
            r"dO must be \(2, 3\), got \(2, 2\)",
        ),
        (
            lambda: backprop.attention_backward(X, X, torch.zeros(4, 3), X),
            ValueError,
            r"V must be \(4, 3\), got \(2, 3\)",
        ),
        (
            lambda: backprop.attention_backward(X, X, X, X, torch.ones(2, 2)),
            TypeError,
            "bool",
        ),
        (
            lambda: backprop.cross_entropy_backward(1.0, X, torch.tensor([0, 3])),
            ValueError,
            r"targets must lie in 0\.\.2 or be -100, got 3",
        ),
        (
            lambda: backprop.cross_entropy_backward(1.0, X, torch.tensor([-1, 0])),
            ValueError,
            "got -1",
        ),
        (
            lambda: backprop.cross_entropy_backward(1.0, X, torch.tensor([0])),
            ValueError,
            r"targets must be \(2,\), got \(1,\)",
        ),
        (
            lambda: backprop.cross_entropy_backward(1.0, X, torch.tensor([0.0, 1.0])),
            TypeError,
            r"targets must be int64 token numbers, got torch\.float32",
        ),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", [n for n in PAIRS if n != "cross-entropy" and "masked" not in n])
def test_cuda_gradients_equal_the_cpus(name):
    forward, backward, _ = PAIRS[name]
    inputs = inputs_of(name, (2,), seed=0)
    upstream = randn(*forward(*inputs).shape, seed=1)
    there = backward(upstream.cuda(), *(x.cuda() for x in inputs))
    for ours, expected in zip(there, backward(upstream, *inputs), strict=True):
        assert ours.is_cuda
        assert_close(ours.cpu(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_targets_and_masks_equal_the_cpus():
    logits, targets = randn(2, T, V, seed=0), targets_of((2, T), seed=11)
    dz = backprop.cross_entropy_backward(
        torch.tensor(0.5).cuda(), logits.cuda(), targets.cuda(), ignore_index=-1
    )
    expected = backprop.cross_entropy_backward(0.5, logits, targets, ignore_index=-1)
    assert_close(dz.cpu(), expected)
    Q, K, dO = randn(T, D, seed=0), randn(S, D, seed=1), randn(T, D, seed=2)
    there = backprop.attention_backward(*(x.cuda() for x in (dO, Q, K, K, open_mask())))
    for ours, whole in zip(
        there, backprop.attention_backward(dO, Q, K, K, open_mask()), strict=True
    ):
        assert_close(ours.cpu(), whole)
