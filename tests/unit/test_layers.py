"""Normalisation and feed-forward networks against torch's own and Hugging Face's, and at the edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP, LlamaRMSNorm

from llmr_ref.layers import (
    FeedForward,
    LayerNorm,
    RMSNorm,
    default_d_ff,
    gelu,
    layer_norm,
    make_norm,
    relu,
    rms_norm,
    silu,
    swiglu,
)

BOTH = pytest.mark.parametrize("implementation", ["fused", "explicit"])
IMPLEMENTATIONS = st.sampled_from(["fused", "explicit"])
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
SEEDS = st.integers(0, 2**31)
LEADING = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def randn(*shape, seed=0, dtype=torch.float64, grad=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(grad)


# --- normalisation ------------------------------------------------------------------------------


@given(
    lead=LEADING,
    d=st.integers(2, 9),
    eps=st.sampled_from([1e-5, 1e-2]),
    affine=st.sampled_from(["both", "weight", "none"]),
    implementation=IMPLEMENTATIONS,
    seed=SEEDS,
)
def test_layer_norm_equals_torch(lead, d, eps, affine, implementation, seed):
    x = 3 * randn(*lead, d, seed=seed) + 5
    weight = None if affine == "none" else randn(d, seed=seed + 1)
    bias = randn(d, seed=seed + 2) if affine == "both" else None
    before = x.clone()
    out = layer_norm(x, weight, bias, eps=eps, implementation=implementation)
    assert_close(out, F.layer_norm(x, (d,), weight, bias, eps))
    assert torch.equal(x, before)


@given(
    lead=LEADING,
    d=st.integers(1, 9),
    eps=st.sampled_from([1e-6, 1e-2]),
    implementation=IMPLEMENTATIONS,
    seed=SEEDS,
)
def test_rms_norm_equals_hugging_face(lead, d, eps, implementation, seed):
    x = (3 * randn(*lead, d, seed=seed) + 5).float()
    theirs = LlamaRMSNorm(d, eps=eps)
    theirs.weight.data = randn(d, seed=seed + 1).float()
    ours = rms_norm(x, theirs.weight, eps=eps, implementation=implementation)
    assert_close(ours, theirs(x))
    assert_close(rms_norm(x, eps=eps, implementation=implementation) * theirs.weight, ours)


@BOTH
def test_a_normalised_vector_has_mean_zero_and_variance_one(implementation):
    z = layer_norm(randn(4, 50) * 7 + 3, eps=1e-12, implementation=implementation)
    assert_close(z.mean(-1), torch.zeros(4, dtype=z.dtype))
    assert_close(z.var(-1, correction=0), torch.ones(4, dtype=z.dtype))
    r = rms_norm(randn(4, 50) * 7 + 3, eps=1e-12, implementation=implementation)
    assert_close(r.square().mean(-1), torch.ones(4, dtype=r.dtype))


@BOTH
def test_a_constant_vector_stays_finite(implementation):
    x = torch.full((2, 6), 4.0, requires_grad=True)
    out = layer_norm(x, implementation=implementation)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(2, 6))
    assert x.grad.isfinite().all()
    zeros = torch.zeros(2, 6, requires_grad=True)
    rms_norm(zeros, implementation=implementation).sum().backward()
    assert_close(zeros.grad, torch.full((2, 6), 1e-5**-0.5))


@BOTH
def test_norms_pass_gradcheck(implementation):
    x, weight, bias = (randn(*s, seed=i, grad=True) for i, s in enumerate([(2, 5), (5,), (5,)]))

    def layer(*arguments):
        return layer_norm(*arguments, implementation=implementation)

    def rms(*arguments):
        return rms_norm(*arguments, implementation=implementation)

    assert torch.autograd.gradcheck(layer, (x, weight, bias))
    assert torch.autograd.gradcheck(rms, (x, weight))


@BOTH
@HALVES
@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_sixteen_bit_norms_sum_in_thirty_two(implementation, dtype, norm):
    # The squares of 300 overflow float16, and 2,000 terms of one size stall a bfloat16 sum.
    x = (300 + 20 * randn(3, 2000)).to(dtype)
    out = norm(x, implementation=implementation)
    assert out.dtype == dtype
    expected = norm(x.double())
    assert_close(out.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0.02)


@BOTH
def test_norms_take_vectors_that_lie_apart_in_memory(implementation):
    x = randn(6, 4).T
    for norm in (layer_norm, rms_norm):
        expected = norm(x.contiguous(), implementation=implementation)
        assert_close(norm(x, implementation=implementation), expected)


def test_modules_start_as_the_plain_norm_and_hold_what_they_learn():
    x = randn(3, 8, dtype=torch.float32)
    assert_close(LayerNorm(8)(x), F.layer_norm(x, (8,)))
    assert_close(RMSNorm(8)(x), F.rms_norm(x, (8,), eps=1e-5))
    assert set(LayerNorm(8).state_dict()) == {"weight", "bias"}
    assert set(LayerNorm(8, bias=False).state_dict()) == {"weight"}
    assert set(RMSNorm(8).state_dict()) == {"weight"}


@BOTH
@pytest.mark.parametrize(
    ("kind", "bias", "state"),
    [
        ("rmsnorm", True, {"weight"}),
        ("layernorm", True, {"weight", "bias"}),
        ("layernorm", False, {"weight"}),
        ("nonparametric", True, set()),
    ],
)
def test_a_configuration_names_its_norm(implementation, kind, bias, state):
    norm = make_norm(kind, 6, eps=0.1, bias=bias, implementation=implementation)
    assert set(norm.state_dict()) == state
    assert norm.implementation == implementation
    for number, parameter in enumerate(norm.parameters()):
        parameter.data = randn(6, seed=number, dtype=torch.float32)
    x = randn(2, 6, seed=9, dtype=torch.float32)
    parameters = dict(norm.named_parameters())
    weight, beta = parameters.get("weight"), parameters.get("bias")
    if kind == "rmsnorm":
        assert_close(norm(x), F.rms_norm(x, (6,), weight, 0.1))
    else:
        assert_close(norm(x), F.layer_norm(x, (6,), weight, beta, 0.1))


# --- the feed-forward network --------------------------------------------------------------------


@given(x=st.lists(st.floats(-30, 30), min_size=1, max_size=6), implementation=IMPLEMENTATIONS)
def test_activations_equal_torch_and_their_formulas(x, implementation):
    x = torch.tensor(x, dtype=torch.float64)
    assert_close(relu(x), F.relu(x))
    assert_close(silu(x, implementation=implementation), F.silu(x))
    assert_close(gelu(x, implementation=implementation), F.gelu(x))
    approximate = gelu(x, approximate="tanh", implementation=implementation)
    assert_close(approximate, F.gelu(x, approximate="tanh"))
    phi = torch.tensor([(1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()])
    assert_close(gelu(x, implementation=implementation), x * phi.double(), atol=1e-6, rtol=1e-6)


@BOTH
def test_silu_of_a_very_negative_number_is_zero_and_not_nan(implementation):
    x = torch.tensor([-1000.0, 0.0, 1000.0])
    assert_close(silu(x, implementation=implementation), torch.tensor([0.0, 0.0, 1000.0]))


@BOTH
def test_swiglu_equals_the_llama_network(implementation):
    theirs = LlamaMLP(LlamaConfig(hidden_size=6, intermediate_size=10, num_attention_heads=2))
    ours = FeedForward(6, 10, implementation=implementation)
    pairs = {"w1": theirs.gate_proj, "w2": theirs.down_proj, "w3": theirs.up_proj}
    ours.load_state_dict({f"{name}.weight": layer.weight for name, layer in pairs.items()})
    x = randn(2, 3, 6, dtype=torch.float32)
    assert_close(ours(x), theirs(x))
    weights = (ours.w1.weight, ours.w2.weight, ours.w3.weight)
    assert_close(swiglu(x, *weights, implementation=implementation), theirs(x))


@BOTH
@pytest.mark.parametrize(
    ("activation", "theirs"),
    [("relu", nn.ReLU()), ("gelu", nn.GELU()), ("gelu_tanh", nn.GELU(approximate="tanh"))],
)
@pytest.mark.parametrize("bias", [True, False])
def test_two_layers_equal_torch(implementation, activation, theirs, bias):
    ours = FeedForward(6, 10, activation=activation, bias=bias, implementation=implementation)
    expected = nn.Sequential(nn.Linear(6, 10, bias), theirs, nn.Linear(10, 6, bias))
    names = {"0": "w1", "2": "w2"}
    state = {f"{names[k[0]]}{k[1:]}": v for k, v in expected.state_dict().items()}
    ours.load_state_dict(state)
    x = randn(2, 3, 6, dtype=torch.float32)
    assert_close(ours(x), expected(x))


@pytest.mark.parametrize(
    ("activation", "d_model", "d_ff"),
    [("swiglu", 256, 704), ("swiglu", 192, 512), ("swiglu", 4096, 10944), ("relu", 100, 400)],
)
def test_the_hidden_width_is_four_times_or_eight_thirds(activation, d_model, d_ff):
    assert default_d_ff(d_model, activation) == d_ff
    assert FeedForward(d_model, activation=activation, device="meta").w1.weight.shape[0] == d_ff


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm, FeedForward])
def test_device_and_dtype_reach_every_weight(make):
    module = make(8, device="meta", dtype=torch.bfloat16)
    assert {(w.device.type, w.dtype) for w in module.parameters()} == {("meta", torch.bfloat16)}
    assert module(torch.empty(2, 8, device="meta", dtype=torch.bfloat16)).shape == (2, 8)


# --- errors name the value ----------------------------------------------------------------------

X, W = torch.ones(2, 6), torch.ones(10, 6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: layer_norm(X.long()), TypeError, r"floating-point tensor, got torch\.int64"),
        (lambda: rms_norm(X.long()), TypeError, r"floating-point tensor, got torch\.int64"),
        (lambda: layer_norm(X, eps=0), ValueError, r"eps must be positive, got 0"),
        (lambda: rms_norm(X, eps=-1e-5), ValueError, r"eps must be positive, got -1e-05"),
        (lambda: layer_norm(X, W[0, :1]), ValueError, r"weight must be \(6,\).*got \(1,\)"),
        (lambda: layer_norm(X, None, W), ValueError, r"bias must be \(6,\).*got \(10, 6\)"),
        (lambda: rms_norm(X, W[:6, :5]), ValueError, r"weight must be \(6,\).*got \(6, 5\)"),
        (lambda: rms_norm(X, implementation="fast"), ValueError, r"'fast'; choose 'fused' or"),
        (lambda: make_norm("batchnorm", 6), ValueError, r"'batchnorm'; choose one of rmsnorm"),
        (lambda: LayerNorm(0), ValueError, r"d_model must be at least 1, got 0"),
        (lambda: RMSNorm(-2), ValueError, r"d_model must be at least 1, got -2"),
        (lambda: gelu(X, approximate="erf"), ValueError, r"'erf'; choose 'none' or 'tanh'"),
        (lambda: FeedForward(6, activation="sigmoid"), ValueError, r"'sigmoid'; choose one of sw"),
        (lambda: FeedForward(0), ValueError, r"d_model must be at least 1, got 0"),
        (lambda: FeedForward(6, 0), ValueError, r"d_ff must be at least 1, got 0"),
        (lambda: swiglu(X, W[:, :5], W.T, W), ValueError, r"W1 must be \(10, 6\).*got \(10, 5\)"),
        (lambda: swiglu(X, W, W, W), ValueError, r"W2 must be \(6, 10\).*got \(10, 6\)"),
        (lambda: swiglu(X, W, W.T, W.T), ValueError, r"W3 must be \(10, 6\).*got \(6, 10\)"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- which path is taken, and defaults ----------------------------------------------------------


def refused(*args, **kwargs):
    raise AssertionError("torch's own function was called")


PATHS = [
    ("layer_norm", lambda x, **path: layer_norm(x, **path)),
    ("layer_norm", lambda x, **path: LayerNorm(4, **path)(x)),
    ("layer_norm", lambda x, **path: make_norm("layernorm", 4, **path)(x)),
    ("rms_norm", lambda x, **path: rms_norm(x, **path)),
    ("rms_norm", lambda x, **path: RMSNorm(4, **path)(x)),
    ("rms_norm", lambda x, **path: make_norm("rmsnorm", 4, **path)(x)),
    ("gelu", lambda x, **path: gelu(x, **path)),
    ("gelu", lambda x, **path: gelu(x, approximate="tanh", **path)),
    ("gelu", lambda x, **path: FeedForward(4, activation="gelu", **path)(x)),
    ("silu", lambda x, **path: silu(x, **path)),
    ("silu", lambda x, **path: swiglu(x, *torch.ones(3, 4, 4), **path)),
    ("silu", lambda x, **path: FeedForward(4, **path)(x)),
]


@pytest.mark.parametrize(("name", "run"), PATHS)
def test_the_explicit_path_needs_nothing_of_torchs_and_the_fused_one_is_the_default(
    monkeypatch, name, run
):
    x = torch.randn(2, 4)
    for settings in ({}, {"implementation": "fused"}):
        with monkeypatch.context() as patch, pytest.raises(AssertionError, match="own function"):
            patch.setattr(F, name, refused)
            run(x, **settings)
    monkeypatch.setattr(F, name, refused)
    assert run(x, implementation="explicit").shape == x.shape
    with pytest.raises(ValueError, match="implementation is 'FUSED'; choose 'fused' or"):
        run(x, implementation="FUSED")


@pytest.mark.parametrize("run", [layer_norm, LayerNorm(3), make_norm("layernorm", 3)])
def test_layer_norms_add_1e_5_to_the_variance(run):
    x = torch.tensor([[0.001, -0.001, 0.0]])
    assert_close(run(x), F.layer_norm(x, (3,), eps=1e-5))


@pytest.mark.parametrize("run", [rms_norm, RMSNorm(3), make_norm("rmsnorm", 3)])
def test_rms_norms_add_1e_5_to_the_mean_square(run):
    x = torch.tensor([[0.001, -0.001, 0.0]])
    assert_close(run(x), F.rms_norm(x, (3,), eps=1e-5))


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_a_named_norm_has_no_bias_unless_asked_and_lies_where_it_is_told(kind):
    norm = make_norm(kind, 3, device="meta", dtype=torch.bfloat16)
    assert list(norm.state_dict()) == ["weight"]
    assert norm.weight.is_meta and norm.weight.dtype == torch.bfloat16


def test_vectors_of_one_number_are_vectors():
    assert LayerNorm(1)(torch.ones(2, 1)).tolist() == [[0.0], [0.0]]
    assert FeedForward(1, 1, bias=True).w3.bias.shape == (1,)


def test_an_error_lists_what_there_is_and_states_the_width():
    with pytest.raises(ValueError, match=r"choose one of rmsnorm, layernorm, nonparametric$"):
        make_norm("batchnorm", 3)
    with pytest.raises(ValueError, match=r"choose one of swiglu, gelu, gelu_tanh, relu$"):
        FeedForward(4, activation="tanh")
    with pytest.raises(ValueError, match=r"weight must be \(3,\)"):
        layer_norm(torch.ones(2, 3), torch.ones(2))
