"""Quantisation against torch's observers and fake quantisation, and by its own promises."""

import dataclasses
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver
from torch.testing import assert_close

from llmr_ref.quantization import (
    QuantizedLinear,
    pack,
    quantization_error,
    quantization_report,
    quantize,
    quantize_model,
    state_bytes,
    unpack,
)

SCHEMES = ["absmax", "zero_point"]
BOTH = pytest.mark.parametrize("scheme", SCHEMES)
BITS = pytest.mark.parametrize("bits", [8, 4])
SETTINGS = [{"granularity": g} for g in ("tensor", "channel")] + [
    {"granularity": "group", "group_size": n} for n in (1, 2, 3, 6)
]
EVERY_GRANULARITY = pytest.mark.parametrize(
    "setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values()))
)
SEEDS = st.integers(0, 2**31)
HYPER = st.fixed_dictionaries({"bits": st.sampled_from([8, 4]), "scheme": st.sampled_from(SCHEMES)})
ALL = HYPER.flatmap(lambda h: st.sampled_from([h | s for s in SETTINGS]))


def randn(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def spread(scale, x, setting):
    """The scales of a quantised x, one for each of its numbers."""
    if setting["granularity"] == "tensor":
        return scale.expand(x.shape)
    return scale.repeat_interleave(x.shape[-1] // scale.shape[-1], dim=-1)


# --- what is promised -----------------------------------------------------------------------------


@given(hyper=ALL, lead=st.lists(st.integers(1, 3), max_size=3), seed=SEEDS, shift=st.floats(-3, 3))
def test_no_number_is_off_by_more_than_half_a_scale(hyper, lead, seed, shift):
    x = randn(*lead, 6, seed=seed) + shift
    q = quantize(x, **hyper)
    error = (q.dequantize() - x).abs()
    scale = spread(q.scale, x, hyper)
    assert (error <= scale * (0.5 + 1e-12) + 1e-15).all()
    assert q.dequantize().shape == x.shape
    # No code is wasted: the widest number of each range is at the end of the codes.
    end = 2 ** (hyper["bits"] - 1) - 1 if hyper["scheme"] == "absmax" else 2 ** hyper["bits"] - 1
    codes = q.integers()
    if hyper["scheme"] == "absmax":
        assert codes.abs().max() == end
    assert codes.max() <= end
    assert codes.min() >= (-end if hyper["scheme"] == "absmax" else 0)


@given(
    hyper=ALL,
    x=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6),
)
def test_any_finite_numbers_survive(hyper, x):
    x = torch.tensor(x, dtype=torch.float32)
    q = quantize(x, **hyper)
    out = q.dequantize()
    assert out.isfinite().all()
    # Half a scale, and the roundings of a quotient, a product and a difference of at most 255.
    bound = spread(q.scale, x, hyper).double() * (0.5 + 2 * 255 * 2**-23)
    assert ((out.double() - x.double()).abs() <= bound).all()


@given(hyper=ALL, seed=SEEDS)
def test_quantised_twice_is_quantised_once(hyper, seed):
    x = randn(2, 6, seed=seed)
    once = quantize(x, **hyper)
    twice = quantize(once.dequantize(), **hyper)
    assert torch.equal(once.codes, twice.codes)
    assert_close(once.dequantize(), twice.dequantize(), rtol=1e-13, atol=1e-15)


@given(hyper=ALL, seed=SEEDS, shift=st.floats(-3, 3))
def test_zero_is_exact(hyper, seed, shift):
    x = randn(2, 6, seed=seed) + shift
    x[:, 2] = 0
    assert (quantize(x, **hyper).dequantize()[:, 2] == 0).all()


@BOTH
@BITS
@EVERY_GRANULARITY
@pytest.mark.parametrize("value", [0.0, 2.5, -3.75, 1e-30, 3e38])
def test_constants_are_exact_to_rounding(scheme, bits, setting, value):
    x = torch.full((2, 6), value)
    q = quantize(x, bits=bits, scheme=scheme, **setting)
    assert_close(q.dequantize(), x, rtol=3e-7, atol=0)
    assert q.scale.isfinite().all()
    assert (q.scale > 0).all()


@BITS
def test_a_skewed_range_is_closer_with_a_zero_point(bits):
    x = randn(64, 32, seed=0).abs()  # nothing below zero: absmax wastes half its codes
    errors = [
        quantization_error(x, quantize(x, bits=bits, scheme=s)).relative_error for s in SCHEMES
    ]
    assert 1.7 < errors[0] / errors[1] < 2.3


@BOTH
@BITS
def test_an_outlier_spoils_its_own_range_only(scheme, bits):
    x = randn(8, 12, seed=0)
    x[3, 5] = 1000.0
    rms = {}
    for granularity, group_size in (("tensor", None), ("channel", None), ("group", 3)):
        q = quantize(x, bits=bits, scheme=scheme, granularity=granularity, group_size=group_size)
        error = (q.dequantize() - x).square()
        others = torch.ones_like(x, dtype=torch.bool)
        others[3, 3:6] = False
        rms[granularity] = error[others].mean().sqrt()
        assert error[[0, 1, 2, 4, 5, 6, 7]].mean() < 0.1 or granularity == "tensor"
    assert rms["group"] < rms["channel"] < rms["tensor"]


# --- against torch --------------------------------------------------------------------------------


def observed(x, scheme, bits, per_channel):
    """Scale and zero point that torch's observers choose."""
    symmetric = scheme == "absmax"
    layout = "per_channel" if per_channel else "per_tensor"
    low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao moves to another package
        observer = (PerChannelMinMaxObserver if per_channel else MinMaxObserver)(
            dtype=torch.qint8 if symmetric else torch.quint8,
            qscheme=getattr(torch, f"{layout}_{'symmetric' if symmetric else 'affine'}"),
            quant_min=low,
            quant_max=high,
            eps=1e-30,
        )
        observer(x)
        scale, zero_point = observer.calculate_qparams()
    return scale, zero_point.to(torch.int32), low, high


@BOTH
@BITS
@given(rows=st.integers(1, 5), columns=st.integers(1, 9), seed=SEEDS, shift=st.floats(-2, 2))
def test_scales_codes_and_values_are_torchs(scheme, bits, rows, columns, seed, shift):
    x = randn(rows, columns, seed=seed, dtype=torch.float32) + shift
    for granularity in ("tensor", "channel"):
        q = quantize(x, bits=bits, scheme=scheme, granularity=granularity)
        scale, zero, low, high = observed(x, scheme, bits, granularity == "channel")
        assert_close(q.scale.flatten(), scale.flatten(), rtol=1e-6, atol=0)
        if scheme == "zero_point":
            assert (q.zero_point.flatten().int() - zero.flatten()).abs().max() <= 1
        # From our scale on nothing is left to choose, but torch multiplies by 1 / s where we divide:
        # halfway between two codes it may take the other one.
        ours = q.scale.flatten()
        zeros = torch.zeros_like(ours, dtype=torch.int32)
        zero = zeros if scheme == "absmax" else q.zero_point.flatten().int()
        if granularity == "tensor":
            fake = torch.fake_quantize_per_tensor_affine(x, ours, zero, low, high)
        else:
            fake = torch.fake_quantize_per_channel_affine(x, ours, zero, 0, low, high)
        steps = (q.dequantize() - fake).abs() / spread(q.scale, x, {"granularity": granularity})
        halfway = ((x / spread(q.scale, x, {"granularity": granularity})) % 1 - 0.5).abs() < 1e-3
        assert (steps[~halfway] < 1e-4).all()
        assert (steps < 1 + 1e-4).all()


@BOTH
@BITS
def test_a_group_is_a_channel_of_its_own(scheme, bits):
    x = randn(2, 5, 12, seed=0)
    q = quantize(x, bits=bits, scheme=scheme, granularity="group", group_size=4)
    apart = quantize(x.unflatten(-1, (3, 4)), bits=bits, scheme=scheme, granularity="channel")
    assert q.scale.shape == (2, 5, 3)
    assert torch.equal(q.dequantize(), apart.dequantize().flatten(-2))


@BOTH
def test_a_channel_is_a_tensor_of_its_own(scheme):
    x = randn(3, 2, 8, seed=0)
    q = quantize(x, scheme=scheme, granularity="channel")
    assert q.scale.shape == (3, 2, 1)
    for i in range(3):
        for j in range(2):
            alone = quantize(x[i, j], scheme=scheme)
            assert alone.scale.shape == (1,)
            assert torch.equal(q.dequantize()[i, j], alone.dequantize())


def test_the_formulas_on_numbers():
    x = torch.tensor([-1.0, 0.5, 3.0, 12.7])
    q = quantize(x)
    assert_close(q.scale, torch.tensor([0.1]))
    assert q.integers().tolist() == [-10, 5, 30, 127]
    q = quantize(torch.tensor([-0.5, 0.0, 0.3, 1.0]), bits=4, scheme="zero_point")
    assert_close(q.scale, torch.tensor([0.1]))
    assert q.zero_point.tolist() == [5]
    assert q.integers().tolist() == [0, 5, 8, 15]


# --- storage --------------------------------------------------------------------------------------


@given(lead=st.lists(st.integers(1, 3), max_size=2), n=st.integers(0, 9), seed=SEEDS)
def test_packing_loses_nothing(lead, n, seed):
    generator = torch.Generator().manual_seed(seed)
    nibbles = torch.randint(16, (*lead, n), generator=generator, dtype=torch.uint8)
    packed = pack(nibbles)
    assert packed.shape == (*lead, (n + 1) // 2)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, n), nibbles)


def test_the_first_of_two_lies_in_the_low_half():
    assert pack(torch.tensor([1, 2, 15], dtype=torch.uint8)).tolist() == [0x21, 0x0F]


@BOTH
@EVERY_GRANULARITY
def test_codes_have_the_types_that_are_promised(scheme, setting):
    x = randn(3, 6, seed=0, dtype=torch.float32)
    whole = quantize(x, scheme=scheme, **setting)
    half = quantize(x, bits=4, scheme=scheme, **setting)
    kind = torch.int8 if scheme == "absmax" else torch.uint8
    assert (whole.codes.dtype, whole.integers().dtype, half.integers().dtype) == (kind, kind, kind)
    assert half.codes.dtype == torch.uint8
    assert (whole.codes.shape, half.codes.shape) == ((3, 6), (3, 3))
    assert half.integers().shape == (3, 6)
    n = whole.scale.numel()
    extra = n * 5 if scheme == "zero_point" else n * 4
    assert (whole.nbytes, half.nbytes) == (18 + extra, 9 + extra)
    assert half.bits_per_value == 8 * (9 + extra) / 18
    assert (whole.shape, whole.bits, half.bits) == (x.shape, 8, 4)
    assert (whole.zero_point is None) == (scheme == "absmax")


def test_a_quantised_tensor_is_itself_only_and_stays_as_it_is():
    q, again = quantize(torch.ones(3)), quantize(torch.ones(3))
    assert len({q, again, q}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        q.bits = 4


def test_a_weight_takes_four_bits_and_its_share_of_a_scale():
    q = quantize(
        randn(64, 64, seed=0, dtype=torch.float32), bits=4, granularity="group", group_size=32
    )
    assert q.bits_per_value == 4 + 32 / 32


@BOTH
@BITS
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 5), (2, 1, 7)])
def test_odd_shapes_come_back(scheme, bits, shape):
    x = randn(*shape, seed=0)
    q = quantize(x, bits=bits, scheme=scheme)
    assert q.dequantize().shape == shape
    assert q.integers().shape == shape
    assert ((q.dequantize() - x).abs() <= q.scale * 0.5000001).all()


@BOTH
@BITS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_scales_have_at_least_32_bits(scheme, bits, dtype):
    x = randn(4, 6, seed=0, dtype=dtype)
    q = quantize(x, bits=bits, scheme=scheme, granularity="group", group_size=3)
    assert q.dequantize().dtype == dtype
    assert q.scale.dtype == torch.promote_types(dtype, torch.float32)
    wide = quantize(
        x.to(q.scale.dtype), bits=bits, scheme=scheme, granularity="group", group_size=3
    )
    assert torch.equal(q.codes, wide.codes)
    assert torch.equal(q.dequantize(), wide.dequantize().to(dtype))


@given(hyper=ALL)
def test_inputs_are_only_read_and_may_be_strided(hyper):
    x = randn(6, 4, seed=0).T
    before = x.clone()
    q = quantize(x, **hyper)
    assert torch.equal(x, before)
    assert not x.is_contiguous()
    assert torch.equal(q.dequantize(), quantize(x.contiguous(), **hyper).dequantize())


@BOTH
@BITS
@EVERY_GRANULARITY
def test_everything_lives_where_the_input_does(scheme, bits, setting):
    x = torch.empty(2, 6, device="meta")
    q = quantize(x, bits=bits, scheme=scheme, **setting)
    assert all(t.is_meta for t in (q.codes, q.scale, q.integers(), q.dequantize()))


# --- layers ---------------------------------------------------------------------------------------


def linear(n_in, n_out, seed, bias=True, dtype=torch.float32):
    layer = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(randn(n_out, n_in, seed=seed))
        if bias:
            layer.bias.copy_(randn(n_out, seed=seed + 1))
    return layer


@BOTH
@BITS
@pytest.mark.parametrize("bias", [True, False])
def test_a_quantised_layer_is_linear_in_its_dequantised_weights(scheme, bits, bias):
    layer = linear(6, 5, seed=0, bias=bias)
    ours = QuantizedLinear.from_linear(
        layer, bits=bits, scheme=scheme, granularity="group", group_size=3
    )
    q = quantize(layer.weight.detach(), bits=bits, scheme=scheme, granularity="group", group_size=3)
    assert torch.equal(ours.weight, q.dequantize())
    x = randn(2, 3, 6, seed=9, dtype=torch.float32).requires_grad_()
    expected = x @ q.dequantize().T + (layer.bias if bias else 0)
    assert_close(ours(x), expected)
    ours(x).sum().backward()
    assert_close(x.grad, q.dequantize().sum(0).expand(2, 3, 6))
    if bias:
        assert_close(ours.bias.grad, torch.full((5,), 6.0))
        assert layer.bias.grad is None
    assert not ours.weight.requires_grad


def test_a_layer_is_quantised_by_channel_at_8_bits_unless_told():
    layer = linear(6, 5, seed=0)
    ours = QuantizedLinear.from_linear(layer)
    expected = quantize(layer.weight.detach(), bits=8, granularity="channel")
    assert torch.equal(ours.weight, expected.dequantize())
    assert repr(ours) == "QuantizedLinear(6, 5, 8 bits per channel)"
    error = (ours.weight - layer.weight).abs()
    assert (error <= layer.weight.abs().amax(-1, keepdim=True) / 127 * 0.5001).all()


@BOTH
@BITS
def test_codes_go_through_the_state_dict(scheme, bits):
    first, second = (
        QuantizedLinear.from_linear(linear(6, 5, seed=s), bits=bits, scheme=scheme) for s in (0, 7)
    )
    names = {"codes", "scale", "bias"} | ({"zero_point"} if scheme == "zero_point" else set())
    assert set(first.state_dict()) == names
    assert not torch.equal(first.weight, second.weight)
    second.load_state_dict(first.state_dict())
    x = randn(2, 6, seed=3, dtype=torch.float32)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_layer_answers_in_its_inputs_dtype(dtype):
    layer = linear(6, 5, seed=0)
    ours = QuantizedLinear.from_linear(layer)
    out = ours.to(dtype)(randn(2, 6, seed=1, dtype=dtype))
    assert out.dtype == dtype
    assert ours.codes.dtype == torch.int8
    assert ours.weight.dtype == torch.float32
    # Scales in 16 bits are rounded, but nothing after them is.
    assert torch.equal(ours.weight, ours.codes * ours.scale.to(torch.float32))
    exact = QuantizedLinear.from_linear(layer).weight
    assert_close(ours.weight, exact, rtol=torch.finfo(dtype).eps, atol=0)


# --- models ---------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Embedding, a block whose layer is used twice, a head that is the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.block = nn.ModuleDict({"up": nn.Linear(6, 12), "down": nn.Linear(12, 6, bias=False)})
        self.norm = nn.LayerNorm(6)
        self.shared = nn.Linear(6, 6)
        self.again = self.shared
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = x + self.block["down"](self.block["up"](x).relu())
        return self.head(self.again(self.shared(self.norm(x))))


def quantized_layers(model):
    return {
        name
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, QuantizedLinear)
    }


@BOTH
@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (4, 3)])
def test_a_model_is_copied_with_its_linear_layers_quantised(scheme, bits, group_size):
    torch.manual_seed(0)
    model = Tied().eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    ours = quantize_model(model, bits=bits, scheme=scheme, group_size=group_size)
    assert quantized_layers(ours) == {"block.up", "block.down", "shared", "again"}
    assert ours.shared is ours.again
    assert ours.head.weight is ours.embedding.weight
    assert ours.embedding.weight is not model.embedding.weight
    assert not any(m.training for m in ours.modules())
    assert not quantized_layers(model)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())

    # The same model with the weights rounded in place.
    tokens = torch.tensor([[1, 4, 9]])
    for name in ("block.up", "block.down", "shared"):
        layer = model.get_submodule(name)
        setting = {"granularity": "group", "group_size": group_size} if group_size else {}
        q = quantize(
            layer.weight.detach(), bits=bits, scheme=scheme, **{"granularity": "channel"} | setting
        )
        layer.weight.data.copy_(q.dequantize())
    assert_close(ours(tokens), model(tokens))


def test_a_model_is_quantised_to_8_bits_absmax_by_channel_unless_told():
    torch.manual_seed(0)
    model = Tied()
    ours = quantize_model(model)
    expected = quantize(model.shared.weight.detach(), granularity="channel")
    assert torch.equal(ours.shared.weight, expected.dequantize())
    assert ours.shared.training


def test_layers_can_be_skipped_by_pattern():
    model = Tied()
    assert quantized_layers(quantize_model(model, skip=["block.*"])) == {"shared", "again"}
    assert quantized_layers(quantize_model(model, skip=["shared", "again", "*.down"])) == {
        "block.up"
    }


def test_a_linear_layer_alone_is_a_model_too():
    layer = linear(6, 5, seed=0)
    ours = quantize_model(layer)
    assert isinstance(ours, QuantizedLinear)
    assert torch.equal(ours.weight, QuantizedLinear.from_linear(layer).weight)


def test_a_model_without_linear_layers_is_copied():
    model = nn.Sequential(nn.LayerNorm(3))
    ours = quantize_model(model)
    assert ours is not model
    assert torch.equal(ours[0].weight, model[0].weight)


# --- reports --------------------------------------------------------------------------------------


def test_the_error_is_that_of_the_numbers():
    x = torch.tensor([[-1.0, 0.54, 3.0, 12.7]])
    report = quantization_error(x, quantize(x))
    assert report.max_error == pytest.approx(0.04, rel=1e-5)
    norm = math.sqrt(1 + 0.54**2 + 9 + 12.7**2)
    assert report.relative_error == pytest.approx(0.04 / norm, rel=1e-4)
    assert report.snr_db == pytest.approx(20 * math.log10(norm / 0.04), rel=1e-5)
    assert (report.bytes_before, report.bytes_after) == (16, 8)


@BOTH
def test_a_bit_is_worth_six_decibels(scheme):
    x = torch.rand(1000, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    eight, four = (
        quantization_error(x, quantize(x, bits=bits, scheme=scheme)).snr_db for bits in (8, 4)
    )
    # Levels go from 15 (or 16) to 255 (or 256): 20 log10 of 254 / 14 or 255 / 15.
    levels = 254 / 14 if scheme == "absmax" else 255 / 15
    assert eight - four == pytest.approx(20 * math.log10(levels), abs=0.2)
    # Uniform numbers over uniform steps: an error of s / sqrt(12) on a signal of 1 / sqrt(12).
    steps = 254 if scheme == "absmax" else 255
    assert eight == pytest.approx(20 * math.log10(steps), abs=0.1)


def test_no_error_is_infinitely_far_below_the_signal():
    zeros = torch.zeros(2, 3)
    report = quantization_error(zeros, quantize(zeros))
    assert (report.max_error, report.relative_error, report.snr_db) == (0, 0, math.inf)


def test_the_report_has_every_quantised_layer():
    torch.manual_seed(0)
    model = Tied()
    ours = quantize_model(model, bits=4, group_size=3)
    report = quantization_report(model, ours)
    assert set(report) == {"block.up", "block.down", "shared"}
    q = quantize(model.shared.weight.detach(), bits=4, granularity="group", group_size=3)
    assert report["shared"] == quantization_error(model.shared.weight, q)
    assert report["block.up"].bytes_before == 12 * 6 * 4
    assert report["block.up"].bytes_after == 12 * 3 + 12 * 2 * 4


def test_bytes_count_what_is_saved_and_shared_tensors_once():
    model = Tied()
    floats = 11 * 6 + (12 * 6 + 12) + 6 * 12 + 2 * 6 + (6 * 6 + 6)
    assert state_bytes(model) == 4 * floats
    ours = quantize_model(model)
    saved = sum(r.bytes_before - r.bytes_after for r in quantization_report(model, ours).values())
    assert state_bytes(ours) == 4 * floats - saved
    assert saved == 3 * (72 + 72 + 36) - 4 * (12 + 6 + 6)


# --- errors name the value ------------------------------------------------------------------------

X = torch.ones(2, 6)
NIBBLES = torch.tensor([1, 2], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: quantize(X.long()), TypeError, r"x must be floating point, got torch\.int64"),
        (lambda: quantize(X, bits=3), ValueError, "bits must be 4 or 8, got 3"),
        (lambda: quantize(X, scheme="sym"), ValueError, "scheme is 'sym'; choose 'absmax'"),
        (lambda: quantize(X, granularity="row"), ValueError, "granularity is 'row'; choose"),
        (lambda: quantize(X, granularity="group"), ValueError, "got 'group' and None"),
        (lambda: quantize(X, group_size=2), ValueError, "got 'tensor' and 2"),
        (
            lambda: quantize(X, granularity="group", group_size=4),
            ValueError,
            "group_size must divide the last dimension, 6, got 4",
        ),
        (
            lambda: quantize(X, granularity="group", group_size=0),
            ValueError,
            "group_size must divide the last dimension, 6, got 0",
        ),
        (lambda: quantize(X[:0]), ValueError, r"per tensor in shape \(0, 6\)"),
        (lambda: quantize(X[0, 0], granularity="channel"), ValueError, r"channel in shape \(\)"),
        (lambda: quantize(X * math.inf), ValueError, "x must be finite"),
        (lambda: quantize(X * math.nan), ValueError, "x must be finite"),
        (lambda: pack(NIBBLES.int()), TypeError, r"nibbles must be uint8, got torch\.int32"),
        (lambda: pack(NIBBLES + 14), ValueError, r"holds 0\.\.15, got 16"),
        (lambda: unpack(NIBBLES.int(), 4), TypeError, r"packed must be uint8, got torch\.int32"),
        (lambda: unpack(NIBBLES, 5), ValueError, "2 bytes do not hold n = 5"),
        (lambda: unpack(NIBBLES, 2), ValueError, "2 bytes do not hold n = 2"),
        (
            lambda: QuantizedLinear(quantize(X[0])),
            ValueError,
            r"weight must be \(out, in\), got \(6,\)",
        ),
        (
            lambda: QuantizedLinear(quantize(X), torch.ones(6)),
            ValueError,
            r"bias must be \(2,\), got \(6,\)",
        ),
        (
            lambda: quantize_model(Tied(), group_size=4),
            ValueError,
            "layer 'block.up': group_size must divide the last dimension, 6, got 4",
        ),
        (lambda: quantize_model(Tied(), bits=2), ValueError, "bits must be 4 or 8, got 2"),
        (
            lambda: quantize_model(Tied(), skip=["lm_head"]),
            ValueError,
            "skip names 'lm_head', but no linear layer is called that",
        ),
        (
            lambda: quantization_error(X[0], quantize(X)),
            ValueError,
            r"x is \(6,\), but \(2, 6\) was quantised",
        ),
        (
            lambda: quantization_report(
                nn.Sequential(nn.ReLU()), nn.Sequential(quantize_model(nn.Linear(2, 2)))
            ),
            ValueError,
            "no linear layer '0'",
        ),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the same on CUDA -----------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@BOTH
@BITS
@EVERY_GRANULARITY
def test_cuda_codes_equal_the_cpus(scheme, bits, setting):
    x = randn(8, 6, seed=0)
    here = quantize(x, bits=bits, scheme=scheme, **setting)
    there = quantize(x.cuda(), bits=bits, scheme=scheme, **setting)
    assert there.codes.is_cuda
    assert torch.equal(there.codes.cpu(), here.codes)
    assert_close(there.dequantize().cpu(), here.dequantize())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_quantised_model_moves_to_cuda():
    ours = quantize_model(Tied(), bits=4, group_size=3, scheme="zero_point")
    tokens = torch.tensor([[1, 4, 9]])
    expected = ours(tokens)
    assert_close(ours.cuda()(tokens.cuda()).cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_layer_takes_inputs_of_another_dtype_than_its_bias(dtype):
    torch.manual_seed(0)
    layer = QuantizedLinear.from_linear(torch.nn.Linear(8, 5))
    x = torch.randn(3, 8)
    out = layer(x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)
