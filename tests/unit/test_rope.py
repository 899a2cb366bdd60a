"""Rotary embedding against Hugging Face, against complex numbers, and by its own promises."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from llmr_ref.rope import (
    apply_rope,
    convert_layout,
    rope_angles,
    rope_frequencies,
    rope_wavelengths,
    rotate_pairs,
)

LAYOUTS = ["interleaved", "half"]
BOTH = pytest.mark.parametrize("layout", LAYOUTS)
BASES = st.sampled_from([10.0, 100.0, 10_000.0, 500_000.0])
EVEN = st.integers(1, 6).map(lambda pairs: 2 * pairs)
POSITIONS = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**31)
ODD_POSITIONS = torch.tensor([7, 0, -3, 1000, 7, 41])  # unordered, repeated, negative


def randn(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def by_complex_numbers(x, positions, base):
    """Interleaved pairs as complex numbers, each times e^(i theta)."""
    d = x.shape[-1]
    theta = [float(base) ** (-2 * k / d) for k in range(d // 2)]
    angles = positions.double()[..., None] * torch.tensor(theta, dtype=torch.float64)
    z = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(z * torch.exp(1j * angles)).flatten(-2)


# --- frequencies, wavelengths, angles -----------------------------------------------------------


@given(d=EVEN, base=BASES)
def test_frequencies_are_the_formula_and_float64(d, base):
    expected = [base ** (-2 * k / d) for k in range(d // 2)]
    theta = rope_frequencies(d, base)
    assert_close(theta, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)
    assert theta[0] == 1
    assert (theta.diff() < 0).all()


@given(d=EVEN, base=BASES)
def test_one_wavelength_further_a_pair_is_back_where_it_was(d, base):
    wavelengths = rope_wavelengths(d, base)
    assert_close(wavelengths[0].item(), 2 * math.pi)
    turns = wavelengths * rope_frequencies(d, base) / (2 * math.pi)
    assert_close(turns, torch.ones_like(turns), rtol=1e-14, atol=0)
    for k, wavelength in enumerate(wavelengths):
        start = torch.tensor([2.5], dtype=torch.float64)
        x = randn(1, d, seed=k)
        pair = slice(2 * k, 2 * k + 2)
        once, again = apply_rope(x, start, base), apply_rope(x, start + wavelength, base)
        # The angle 2 pi + 2.5 theta is rounded at 2^-53 relative: about 1e-15 on a unit length.
        assert_close(again[:, pair], once[:, pair], rtol=0, atol=1e-13)


def test_small_k_turns_fast_and_has_the_small_wavelength():
    # L1 "YaRN" says the reverse in its parentheses; its own formula says this.
    wavelengths = rope_wavelengths(8, 10_000.0)
    expected = [2 * math.pi * 10**k for k in range(4)]
    assert_close(wavelengths, torch.tensor(expected, dtype=torch.float64))


@given(positions=POSITIONS, d=EVEN, base=BASES)
def test_angles_are_position_times_frequency(positions, d, base):
    angles = rope_angles(torch.tensor(positions, dtype=torch.float64), d, base)
    expected = [[p * base ** (-2 * k / d) for k in range(d // 2)] for p in positions]
    assert_close(angles, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.bfloat16])
def test_angles_are_float64_whatever_the_positions(dtype):
    positions = torch.tensor([[3, 1], [0, 100]], dtype=dtype)
    angles = rope_angles(positions, 6)
    assert angles.dtype == torch.float64
    assert angles.shape == (2, 2, 3)
    assert_close(angles, rope_angles(positions.double(), 6), rtol=0, atol=0)


def test_the_base_is_10000_unless_told():
    x = randn(6, 8, seed=0)
    assert torch.equal(rope_frequencies(8), rope_frequencies(8, 10_000.0))
    assert torch.equal(rope_wavelengths(8), rope_wavelengths(8, 10_000.0))
    assert torch.equal(rope_angles(ODD_POSITIONS, 8), rope_angles(ODD_POSITIONS, 8, 10_000.0))
    assert torch.equal(apply_rope(x, ODD_POSITIONS), apply_rope(x, ODD_POSITIONS, 10_000.0))


# --- against outside implementations ------------------------------------------------------------


@given(
    positions=POSITIONS,
    d=EVEN,
    base=BASES,
    lead=st.lists(st.integers(1, 3), max_size=2),
    seed=SEEDS,
)
def test_interleaved_equals_multiplication_by_complex_numbers(positions, d, base, lead, seed):
    positions = torch.tensor(positions, dtype=torch.float64)
    x = randn(*lead, len(positions), d, seed=seed)
    # Two ways to round an angle of up to 1e4: about 1e4 * 2^-52 on a length of a few.
    assert_close(
        apply_rope(x, positions, base), by_complex_numbers(x, positions, base), rtol=0, atol=2e-11
    )


@given(d=EVEN, B=st.integers(1, 3), H=st.integers(1, 3), seed=SEEDS)
def test_half_layout_is_hugging_face_to_the_last_bit(d, B, H, seed):
    q, k = randn(B, H, 6, d, seed=seed), randn(B, H, 6, d, seed=seed + 1)
    angles = rope_angles(ODD_POSITIONS, d)[None]  # Hugging Face wants a batch dimension
    cos, sin = (torch.cat([f(angles)] * 2, dim=-1) for f in (torch.cos, torch.sin))
    hf_q, hf_k = apply_rotary_pos_emb(q, k, cos, sin)
    assert torch.equal(apply_rope(q, ODD_POSITIONS, layout="half"), hf_q)
    assert torch.equal(apply_rope(k, ODD_POSITIONS, layout="half"), hf_k)


def hugging_face(q, k, position_ids, base):
    """The rotary code of Hugging Face's Llama, its own float32 angles included."""
    d = q.shape[-1]
    config = LlamaConfig(
        hidden_size=d,
        num_attention_heads=1,
        head_dim=d,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    cos, sin = LlamaRotaryEmbedding(config)(q, position_ids)
    return apply_rotary_pos_emb(q, k, cos, sin)


@pytest.mark.parametrize("base", [100.0, 10_000.0, 500_000.0])
@pytest.mark.parametrize("d", [2, 6, 64])
def test_both_layouts_equal_hugging_face_with_its_own_angles(d, base):
    B, H, T = 2, 3, 6
    position_ids = torch.tensor([[5, 3, 0, 100, 511, 17], [44, 2, 9, 250, 1, 33]])
    q, k = (randn(B, H, T, d, seed=i, dtype=torch.float32) for i in range(2))
    hf_q, hf_k = hugging_face(q, k, position_ids, base)
    positions = position_ids[:, None]  # (B, 1, T): the same for every head
    # Hugging Face's angle is a float32 product of position and a rounded frequency: three roundings
    # put it off by at most 3 * 511 * 2^-24 = 1e-4, which moves a vector by that much of its length.
    bound = 3 * 511 * 2**-24 * max(q.abs().max().item(), k.abs().max().item()) * math.sqrt(2)
    for x, hf in ((q, hf_q), (k, hf_k)):
        half = apply_rope(x, positions, base, layout="half")
        assert_close(half, hf, rtol=0, atol=bound)
        interleaved = apply_rope(convert_layout(x, "half", "interleaved"), positions, base)
        assert_close(convert_layout(interleaved, "interleaved", "half"), hf, rtol=0, atol=bound)

    scores = hf_q @ hf_k.mT
    ours = (
        apply_rope(convert_layout(q, "half", "interleaved"), positions, base)
        @ apply_rope(convert_layout(k, "half", "interleaved"), positions, base).mT
    )
    # A score sums d products, each off by at most both factors' errors.
    largest = max(q.abs().max().item(), k.abs().max().item()) * math.sqrt(2)
    assert_close(ours, scores, rtol=0, atol=2 * d * bound * largest)


# --- what a rotation promises -------------------------------------------------------------------


@BOTH
@given(data=st.data(), d=EVEN, base=BASES, shift=st.integers(-5000, 5000), seed=SEEDS)
def test_scores_depend_on_the_difference_of_positions_only(layout, data, d, base, shift, seed):
    T, S = 3, 4
    at_q, at_k = (
        torch.tensor(data.draw(st.lists(st.integers(-3000, 3000), min_size=n, max_size=n)))
        for n in (T, S)
    )
    q, k = randn(2, T, d, seed=seed), randn(2, S, d, seed=seed + 1)

    def scores(shift):
        return (
            apply_rope(q, at_q + shift, base, layout=layout)
            @ apply_rope(k, at_k + shift, base, layout=layout).mT
        )

    # Angles up to 8000 carry an error of 8000 * 2^-53, about 1e-12, into scores of about d.
    assert_close(scores(shift), scores(0), rtol=0, atol=1e-9)


@BOTH
def test_scores_do_depend_on_the_difference_of_positions(layout):
    q, k = randn(1, 8, seed=0), randn(1, 8, seed=1)
    near, far = ((apply_rope(q, torch.tensor([p]), layout=layout) @ k.mT).item() for p in (1, 2))
    assert abs(near - far) > 1e-3


@BOTH
@given(positions=POSITIONS, d=EVEN, base=BASES, seed=SEEDS)
def test_the_length_of_every_pair_is_kept(layout, positions, d, base, seed):
    positions = torch.tensor(positions, dtype=torch.float64)
    x = randn(2, len(positions), d, seed=seed)

    def pair_lengths(x):
        return convert_layout(x, layout, "interleaved").unflatten(-1, (-1, 2)).norm(dim=-1)

    assert_close(pair_lengths(apply_rope(x, positions, base, layout=layout)), pair_lengths(x))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_position_zero_changes_nothing(layout, dtype):
    x = randn(2, 3, 5, 6, seed=0, dtype=dtype)
    assert torch.equal(apply_rope(x, torch.zeros(5), layout=layout), x)


@BOTH
@given(d=EVEN, a=st.floats(-1e3, 1e3), b=st.floats(-1e3, 1e3), seed=SEEDS)
def test_turning_by_a_then_b_is_turning_by_their_sum(layout, d, a, b, seed):
    x = randn(1, d, seed=seed)
    a, b = (torch.tensor([p], dtype=torch.float64) for p in (a, b))
    twice = apply_rope(apply_rope(x, a, layout=layout), b, layout=layout)
    # Angles up to 2000 are rounded at 2000 * 2^-53, about 2e-13.
    assert_close(twice, apply_rope(x, a + b, layout=layout), rtol=0, atol=1e-11)
    back = apply_rope(apply_rope(x, a, layout=layout), -a, layout=layout)
    assert_close(back, x, rtol=0, atol=1e-11)


def test_a_quarter_turn_is_counterclockwise():
    quarter = torch.tensor([math.pi / 2], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for layout in LAYOUTS:  # with one pair the layouts agree
        turned = apply_rope(x, quarter, layout=layout)
        assert_close(turned, torch.tensor([[0.0, 1.0]], dtype=torch.float64), atol=1e-15, rtol=0)


def test_layouts_pair_the_dimensions_they_say():
    quarter = torch.full((2,), math.pi / 2, dtype=torch.float64)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    interleaved = rotate_pairs(x, quarter, layout="interleaved")  # pairs (1, 2) and (3, 4)
    half = rotate_pairs(x, quarter, layout="half")  # pairs (1, 3) and (2, 4)
    assert_close(interleaved, torch.tensor([-2.0, 1.0, -4.0, 3.0], dtype=torch.float64))
    assert_close(half, torch.tensor([-3.0, -4.0, 1.0, 2.0], dtype=torch.float64))


@given(d=EVEN, base=BASES, seed=SEEDS)
def test_both_layouts_give_the_same_scores(d, base, seed):
    q, k = randn(2, 6, d, seed=seed), randn(2, 6, d, seed=seed + 1)
    interleaved = apply_rope(q, ODD_POSITIONS, base) @ apply_rope(k, ODD_POSITIONS, base).mT
    q, k = (convert_layout(x, "interleaved", "half") for x in (q, k))
    half = (
        apply_rope(q, ODD_POSITIONS, base, layout="half")
        @ apply_rope(k, ODD_POSITIONS, base, layout="half").mT
    )
    assert_close(half, interleaved)


def test_convert_layout_reorders_and_goes_back():
    x = torch.tensor([[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]])
    half = convert_layout(x, "interleaved", "half")
    assert half.tolist() == [[0, 2, 4, 1, 3, 5], [10, 12, 14, 11, 13, 15]]
    assert torch.equal(convert_layout(half, "half", "interleaved"), x)
    for layout in LAYOUTS:
        assert torch.equal(convert_layout(x, layout, layout), x)


def test_convert_layout_moves_a_checkpoint():
    """Converted rows of W_Q and W_K give, in the other layout, the scores they gave before."""
    n_heads, d_head, d_model = 3, 4, 10
    X = randn(2, 6, d_model, seed=0)
    W_Q, W_K = (randn(n_heads * d_head, d_model, seed=i) for i in (1, 2))

    def scores(W_Q, W_K, layout):
        q, k = ((X @ W.T).unflatten(-1, (n_heads, d_head)).transpose(1, 2) for W in (W_Q, W_K))
        q, k = (apply_rope(x, ODD_POSITIONS, layout=layout) for x in (q, k))
        return q @ k.mT

    def convert(W):
        heads = W.unflatten(0, (n_heads, d_head)).mT  # (heads, in, d_head)
        return convert_layout(heads, "interleaved", "half").mT.flatten(0, 1)

    before = scores(W_Q, W_K, "interleaved")
    assert_close(scores(convert(W_Q), convert(W_K), "half"), before)
    assert not torch.allclose(scores(W_Q, W_K, "half"), before)


# --- positions and shapes -----------------------------------------------------------------------


@BOTH
def test_positions_broadcast_over_leading_dimensions(layout):
    x = randn(2, 3, 4, 6, seed=0)
    per_sequence = torch.tensor([[3, -1, 8, 2], [100, 101, 5, 0]])
    out = apply_rope(x, per_sequence[:, None], layout=layout)
    assert out.shape == x.shape
    for b in range(2):
        for h in range(3):
            assert_close(out[b, h], apply_rope(x[b, h], per_sequence[b], layout=layout))


@BOTH
def test_a_row_is_turned_by_its_own_position_alone(layout):
    x = randn(6, 8, seed=0)
    together = apply_rope(x, ODD_POSITIONS, layout=layout)
    for t in range(6):
        alone = apply_rope(x[t : t + 1], ODD_POSITIONS[t : t + 1], layout=layout)
        assert_close(together[t : t + 1], alone)
        assert_close(apply_rope(x[t], ODD_POSITIONS[t], layout=layout), alone[0])


@BOTH
def test_no_position_gives_no_row(layout):
    out = apply_rope(torch.zeros(2, 0, 6), torch.zeros(0), layout=layout)
    assert out.shape == (2, 0, 6)


def test_halved_positions_are_position_interpolation():
    x = randn(5, 6, seed=0)
    whole = torch.tensor([0, 2, 4, 6, 8])
    stretched = torch.tensor([0, 4, 8, 12, 16])
    assert torch.equal(apply_rope(x, stretched / 2), apply_rope(x, whole))


def test_positions_and_vectors_may_live_on_different_devices():
    out = apply_rope(torch.zeros(6, 8, device="meta"), ODD_POSITIONS)
    assert out.is_meta
    assert out.shape == (6, 8)


def test_frequencies_live_on_the_device_asked_for():
    assert rope_frequencies(8, device="meta").is_meta


# --- precision ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_positions_are_as_exact_as_small_ones(layout, dtype):
    positions = torch.tensor([0, 1, 99_999, 1_000_003, -123_457])
    x = randn(2, 5, 16, seed=0, dtype=dtype)
    out = apply_rope(x, positions, layout=layout)
    pairs = convert_layout(x, layout, "interleaved")
    exact = convert_layout(by_complex_numbers(pairs, positions, 1e4), "interleaved", layout)
    assert out.dtype == dtype
    # The angle is exact to 1e6 * 2^-53; what is left is rounding cos and sin, two products and one
    # sum in at least float32, and the result in dtype: at most four eps of the pair's length.
    bound = 4 * torch.finfo(dtype).eps * math.sqrt(2) * x.abs().max().item()
    assert (out.double() - exact).abs().max() <= bound


def test_float32_angles_would_miss_that_bound():
    # Why the angles are float64: the fourth of these positions, times a float32 frequency.
    position, k, d = 99_999, 1, 16
    exact = position * 10_000.0 ** (-2 * k / d)
    single = torch.tensor(position, dtype=torch.float32) * rope_frequencies(d)[k].float()
    assert abs(single.double().item() - exact) > 1e-4
    assert abs(rope_angles(torch.tensor([position]), d)[0, k].item() - exact) < 1e-10


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_vectors_are_turned_in_32_bits_and_rounded_once(layout, dtype):
    x = randn(2, 6, 8, seed=0, dtype=dtype)
    out = apply_rope(x, ODD_POSITIONS, layout=layout)
    assert torch.equal(out, apply_rope(x.float(), ODD_POSITIONS, layout=layout).to(dtype))


@BOTH
def test_rotation_passes_gradcheck_in_vectors_and_positions(layout):
    x = randn(2, 6, 4, seed=0).requires_grad_()
    positions = (ODD_POSITIONS / 7).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, positions: apply_rope(x, positions, base=50.0, layout=layout), (x, positions)
    )


# --- inputs are only read -----------------------------------------------------------------------


@BOTH
def test_no_input_is_changed(layout):
    x, positions = randn(2, 6, 8, seed=0), ODD_POSITIONS.clone()
    before = x.clone()
    apply_rope(x, positions, layout=layout)
    rotate_pairs(x, rope_angles(positions, 8), layout=layout)
    convert_layout(x, layout, "half")
    assert torch.equal(x, before)
    assert torch.equal(positions, ODD_POSITIONS)


@BOTH
def test_non_contiguous_inputs_give_the_same_result(layout):
    x = randn(2, 6, 8, seed=0)
    strided = x.mT.contiguous().mT
    positions = ODD_POSITIONS.repeat_interleave(2)[::2]
    assert not strided.is_contiguous()
    assert not positions.is_contiguous()
    expected = apply_rope(x, ODD_POSITIONS, layout=layout)
    assert_close(apply_rope(strided, positions, layout=layout), expected)
    assert torch.equal(convert_layout(strided, layout, "half"), convert_layout(x, layout, "half"))


# --- errors name the value ----------------------------------------------------------------------

X = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rope_frequencies(5), ValueError, "got d = 5"),
        (lambda: rope_frequencies(0), ValueError, "got d = 0"),
        (lambda: rope_frequencies(-2), ValueError, "got d = -2"),
        (lambda: rope_frequencies(4, 0.0), ValueError, r"base must be positive, got 0\.0"),
        (lambda: rope_wavelengths(4, -3.0), ValueError, r"got -3\.0"),
        (lambda: rope_frequencies(4, math.nan), ValueError, "got nan"),
        (lambda: rope_angles(torch.arange(3), 7), ValueError, "got d = 7"),
        (lambda: apply_rope(X[..., :3], torch.arange(3)), ValueError, "got d = 3"),
        (lambda: apply_rope(X, torch.arange(2)), ValueError, r"x is \(2, 3, 4\).* is \(2,\)"),
        (lambda: apply_rope(X, torch.tensor(5)), ValueError, r"x is \(2, 3, 4\).* is \(\)"),
        (lambda: apply_rope(X, torch.arange(3), layout="split"), ValueError, "layout is 'split'"),
        (lambda: apply_rope(X.long(), torch.arange(3)), TypeError, r"got torch\.int64"),
        (
            lambda: rotate_pairs(torch.zeros(2, 3), torch.zeros(2, 1)),
            ValueError,
            "got d = 3",
        ),
        (lambda: convert_layout(X, "split", "half"), ValueError, "layout is 'split'"),
        (lambda: convert_layout(X, "half", "split"), ValueError, "layout is 'split'"),
        (lambda: convert_layout(X[..., :3], "half", "interleaved"), ValueError, "got d = 3"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positions_on", ["cuda", "cpu"])
def test_cuda_rotation_equals_the_cpu(layout, dtype, positions_on):
    x = randn(2, 6, 8, seed=0, dtype=dtype)
    out = apply_rope(x.cuda(), ODD_POSITIONS.to(positions_on), layout=layout)
    assert out.is_cuda
    expected = apply_rope(x, ODD_POSITIONS, layout=layout)
    # Fused multiply-add may round once where the CPU rounds twice.
    bound = 2 * torch.finfo(dtype).eps * math.sqrt(2) * x.abs().max().item()
    assert_close(out.cpu(), expected, rtol=0, atol=bound)
