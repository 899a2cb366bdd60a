"""Rotary embedding against Hugging Face, against complex numbers, and by its own promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from llmr_ref.rope import (
    RopeScaling,
    apply_rope,
    attention_factor,
    attention_temperature,
    convert_layout,
    rope_angles,
    rope_frequencies,
    rope_table,
    rope_wavelengths,
    rotate,
    rotate_pairs,
    scaled_frequencies,
    yarn_ramp,
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


# --- tables of cosines and sines, and the fused rotation ----------------------------------------

IMPLEMENTATIONS = ["fused", "explicit"]
EACH = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
REAL = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def table(d, positions=ODD_POSITIONS, dtype=torch.float64):
    return rope_table(positions, d, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_table_is_cosine_and_sine_of_the_angles(dtype):
    positions = torch.tensor([[5, 3, 99_999], [0, 2, -7]])
    cos, sin = rope_table(positions, 6, 100.0, dtype=dtype)
    angles = rope_angles(positions, 6, 100.0)
    assert cos.dtype == sin.dtype == dtype
    assert torch.equal(cos, angles.cos().to(dtype))
    assert torch.equal(sin, angles.sin().to(dtype))


def test_a_table_is_float32_and_has_base_10000_unless_told():
    cos, sin = rope_table(ODD_POSITIONS, 6)
    angles = rope_angles(ODD_POSITIONS, 6)
    assert torch.equal(cos, angles.cos().float())
    assert torch.equal(sin, angles.sin().float())


def test_a_table_lives_where_it_is_wanted():
    for tensor in rope_table(ODD_POSITIONS, 6, device="meta"):
        assert tensor.is_meta
    for tensor in rope_table(ODD_POSITIONS.to("meta"), 6):
        assert tensor.is_meta


@BOTH
@EACH
def test_rotating_by_a_table_is_turning_by_its_positions(layout, implementation):
    x = randn(2, 3, 6, 8, seed=0)
    out = rotate(x, *table(8), layout, implementation=implementation)
    # The same products and sums in another order: a few eps of a length of about 5.
    assert_close(out, apply_rope(x, ODD_POSITIONS, layout=layout), rtol=0, atol=1e-14)


def test_the_layout_is_interleaved_and_the_implementation_fused_unless_told():
    x = randn(6, 8, seed=0, dtype=torch.float32)
    cos, sin = table(8, dtype=torch.float32)
    assert torch.equal(rotate(x, cos, sin), rotate(x, cos, sin, "interleaved"))
    x = randn(64, 256, seed=0, dtype=torch.float32)
    cos, sin = table(256, torch.arange(64) * 37, torch.float32)
    default = rotate(x, cos, sin, "half")
    assert torch.equal(default, rotate(x, cos, sin, "half", implementation="fused"))
    # With 16,384 numbers some are rounded once in one and twice in the other.
    assert not torch.equal(default, rotate(x, cos, sin, "half", implementation="explicit"))


@BOTH
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("gradients", [True, False])
@settings(max_examples=25)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    T=st.integers(1, 5),
    d=EVEN,
    shared=st.booleans(),
    seed=SEEDS,
)
def test_fused_equals_explicit(layout, dtype, gradients, lead, T, d, shared, seed):
    x = randn(*lead, T, d, seed=seed, dtype=dtype)
    positions = randn(*([] if shared else lead), T, seed=seed + 1) * 1000
    cos, sin = rope_table(positions, d, dtype=torch.promote_types(dtype, torch.float32))
    with torch.set_grad_enabled(gradients):
        fused = rotate(x, cos, sin, layout)
    explicit = rotate(x, cos, sin, layout, implementation="explicit")
    assert fused.dtype == dtype
    # A fused multiply-add rounds once where two operations round twice.
    bound = 2 * torch.finfo(dtype).eps * math.sqrt(2) * x.abs().max().item()
    assert_close(fused, explicit, rtol=0, atol=bound)


@BOTH
@EACH
@pytest.mark.parametrize("gradients", [True, False])
def test_any_memory_layout_gives_the_same_rotation(layout, implementation, gradients):
    x = randn(2, 3, 6, 8, seed=0)
    cos, sin = table(8)
    expected = rotate(x, cos, sin, layout, implementation="explicit")
    views = {
        "heads of a projection": x.transpose(1, 2).contiguous().transpose(1, 2),
        "a slice of a wider projection": torch.cat((x, x, x), dim=-1)[..., 8:16],
        "columns far apart": x.mT.contiguous().mT,
        "rows an odd distance apart": torch.nn.functional.pad(x, (0, 1))[..., :8],
        "an odd start": torch.cat((torch.zeros(1), x.flatten()))[1:].view(x.shape),
    }
    for name, view in views.items():
        assert torch.equal(view, x), name
        with torch.set_grad_enabled(gradients):
            out = rotate(view, cos, sin, layout, implementation=implementation)
        assert_close(out, expected, rtol=0, atol=1e-14, msg=name)
    same = x[:1].expand(4, -1, -1, -1)
    with torch.set_grad_enabled(gradients):
        out = rotate(same, cos, sin, layout, implementation=implementation)
    assert_close(out, expected[:1].expand(4, -1, -1, -1), rtol=0, atol=1e-14)


@BOTH
@pytest.mark.parametrize("gradients", [True, False])
def test_heads_seen_in_a_projection_are_not_copied_to_be_dense(layout, gradients):
    x = randn(2, 6, 3, 8, seed=0).transpose(1, 2)
    with torch.set_grad_enabled(gradients):
        assert rotate(x, *table(8), layout).stride() == x.stride()


@BOTH
@EACH
@pytest.mark.parametrize("gradients", [True, False])
def test_a_table_without_rows_turns_no_rows(layout, implementation, gradients):
    x, positions = torch.zeros(2, 0, 6), torch.zeros(0)
    with torch.set_grad_enabled(gradients):
        out = rotate(x, *rope_table(positions, 6), layout, implementation=implementation)
    assert out.shape == (2, 0, 6)


@BOTH
@EACH
def test_one_row_of_the_table_may_serve_all_rows(layout, implementation):
    x = randn(2, 5, 8, seed=0)
    cos, sin = table(8, torch.tensor([41]))
    out = rotate(x, cos, sin, layout, implementation=implementation)
    assert_close(out, apply_rope(x, torch.full((5,), 41), layout=layout), rtol=0, atol=1e-14)


@BOTH
@EACH
def test_rotation_by_a_table_passes_gradcheck_twice(layout, implementation):
    x = randn(2, 3, 6, 4, seed=0).transpose(0, 1).requires_grad_()
    cos, sin = table(4)

    def turn(x):
        return rotate(x, cos, sin, layout, implementation=implementation)

    assert torch.autograd.gradcheck(turn, x)
    assert torch.autograd.gradgradcheck(turn, x)


@pytest.mark.parametrize(
    ("layout", "implementation"),
    [("interleaved", "fused"), ("interleaved", "explicit"), ("half", "explicit")],
)
def test_a_table_may_require_gradients(layout, implementation):
    x, (cos, sin) = randn(6, 4, seed=0), table(4)
    assert torch.autograd.gradcheck(
        lambda cos, sin: rotate(x, cos, sin, layout, implementation=implementation),
        (cos.requires_grad_(), sin.requires_grad_()),
    )


@pytest.mark.parametrize("which", [0, 1])
def test_where_it_may_not_the_error_says_so(which):
    given = list(table(4))
    given[which].requires_grad_()
    with pytest.raises(ValueError, match=r"cos and sin as constants.*implementation='explicit'"):
        rotate(randn(6, 4, seed=0), *given, "half")


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_16_bit_vectors_are_turned_in_32_bits(layout, dtype):
    cos, sin = table(8, dtype=torch.float32)
    x = randn(2, 6, 8, seed=0, dtype=dtype).requires_grad_()
    arriving = randn(2, 6, 8, seed=1, dtype=dtype)
    (gradient,) = torch.autograd.grad(rotate(x, cos, sin, layout), x, arriving)
    assert gradient.dtype == dtype
    exact = rotate(arriving, cos, -sin, layout, implementation="explicit")  # turned back
    assert_close(gradient, exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@BOTH
def test_a_compiled_rotation_is_one_graph_of_real_numbers(layout):
    seen = []

    def keep(graph, inputs):
        seen.extend(node for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    torch._dynamo.reset()
    x, (cos, sin) = randn(2, 6, 8, seed=0), table(8)
    compiled = torch.compile(lambda x: rotate(x, cos, sin, layout), backend=keep, fullgraph=True)
    assert torch.equal(compiled(x), rotate(x, cos, sin, layout, implementation="explicit"))
    assert seen
    assert not any("complex" in str(node.target) for node in seen)


# --- longer contexts ----------------------------------------------------------------------------


def from_hugging_face(kind, d, base, original_length, length=None, **parameters):
    """Frequencies and attention factor as `transformers` computes them, float32."""
    config = LlamaConfig(
        hidden_size=d,
        num_attention_heads=1,
        head_dim=d,
        max_position_embeddings=original_length,
        rope_parameters={
            "rope_type": kind,
            "rope_theta": base,
            "original_max_position_embeddings": original_length,
            **parameters,
        },
    )
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)


LONGER = [
    ("linear", {"factor": 4.0}),
    ("dynamic", {"factor": 4.0}),
    ("dynamic", {"factor": 2.5}),
    ("yarn", {"factor": 4.0}),
    ("yarn", {"factor": 16.0, "truncate": False}),
    ("yarn", {"factor": 8.0, "beta_fast": 20.0, "beta_slow": 2.0}),
    ("yarn", {"factor": 8.0, "attention_factor": 1.7}),
    ("yarn", {"factor": 1.0}),
    ("llama3", {"factor": 8.0, "beta_fast": 4.0, "beta_slow": 1.0}),
    ("llama3", {"factor": 32.0, "beta_fast": 6.0, "beta_slow": 2.0}),
]


@pytest.mark.parametrize(("kind", "parameters"), LONGER)
@pytest.mark.parametrize("length", [None, 100, 2048, 5000])
@pytest.mark.parametrize(
    ("d", "base", "original_length"),
    [(64, 10_000.0, 2048), (128, 500_000.0, 8192), (8, 100.0, 64), (96, 10_000.0, 40)],
)
def test_scaled_frequencies_are_hugging_faces(kind, parameters, length, d, base, original_length):
    scaling = RopeScaling(kind, original_length=original_length, **parameters)
    names = {"beta_fast": "high_freq_factor", "beta_slow": "low_freq_factor"}
    theirs = {
        names.get(name, name) if kind == "llama3" else name: value
        for name, value in parameters.items()
    }
    expected, factor = from_hugging_face(kind, d, base, original_length, length, **theirs)
    ours = scaled_frequencies(d, base, scaling, length)
    assert ours.dtype == torch.float64
    # Theirs are float32: an exponent of up to ln(base) is rounded, then four more operations.
    assert_close(ours.float(), expected, rtol=(math.log(base) + 4) * 2**-23, atol=0)
    assert attention_factor(scaling) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(("kind", "parameters"), LONGER)
def test_a_scaled_table_is_hugging_faces(kind, parameters):
    if kind == "llama3":
        theirs = {"factor": parameters["factor"]}
        theirs |= {"high_freq_factor": parameters["beta_fast"]}
        theirs |= {"low_freq_factor": parameters["beta_slow"]}
    else:
        theirs = parameters
    positions = torch.tensor([[5, 3, 0, 300, 511], [44, 2, 9, 250, 1]])
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=1,
        head_dim=64,
        max_position_embeddings=256,
        rope_parameters={
            "rope_type": kind,
            "rope_theta": 10_000.0,
            "original_max_position_embeddings": 256,
            **theirs,
        },
    )
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    ours = rope_table(positions, 64, 10_000.0, RopeScaling(kind, original_length=256, **parameters))
    for own, other in zip(ours, expected, strict=True):
        assert own.dtype == torch.float32
        # A float32 angle of 511 is off by up to three roundings, see above; cos and sin may grow.
        assert_close(own, other[..., :32], rtol=0, atol=2 * 3 * 511 * 2**-24)


def test_interpolated_positions_are_divided_by_the_factor():
    scaling = RopeScaling("linear", 4.0, 2048)
    assert torch.equal(scaled_frequencies(8, 100.0, scaling), rope_frequencies(8, 100.0) / 4)
    cos, _ = rope_table(torch.tensor([8192]), 8, 100.0, scaling, dtype=torch.float64)
    assert_close(cos, rope_angles(torch.tensor([2048]), 8, 100.0).cos())


@given(d=st.integers(2, 40).map(lambda n: 2 * n), base=BASES, factor=st.floats(1, 64))
def test_ntk_slows_the_slowest_pair_by_the_factor_and_the_fastest_not_at_all(d, base, factor):
    ratio = rope_frequencies(d, base) / scaled_frequencies(d, base, RopeScaling("ntk", factor, 512))
    assert ratio[0] == 1
    assert_close(ratio[-1].item(), factor, rtol=1e-12, atol=0)
    assert_close(ratio, factor ** (torch.arange(d // 2) / (d / 2 - 1)).double(), rtol=1e-5, atol=0)


def test_dynamic_is_plain_up_to_the_trained_length_and_then_grows_with_the_length():
    scaling = RopeScaling("dynamic", 4.0, 512)
    plain = rope_frequencies(8)
    for length in (None, 1, 511, 512):
        assert torch.equal(scaled_frequencies(8, scaling=scaling, length=length), plain)
    for length in (513, 1024, 4096):
        ntk = RopeScaling("ntk", 4 * length / 512 - 3, 512)
        dynamic = scaled_frequencies(8, scaling=scaling, length=length)
        assert_close(dynamic, scaled_frequencies(8, scaling=ntk), rtol=1e-14, atol=0)


def test_a_dynamic_table_is_made_for_its_largest_position_unless_told():
    scaling = RopeScaling("dynamic", 4.0, 512)
    positions = torch.tensor([3, 1023, 7])
    alone = rope_table(positions, 8, scaling=scaling)
    told = rope_table(positions, 8, scaling=scaling, length=1024)
    longer = rope_table(positions, 8, scaling=scaling, length=2048)
    assert torch.equal(alone[0], told[0]) and torch.equal(alone[1], told[1])
    assert not torch.equal(alone[0], longer[0])
    between = rope_table(positions - 0.5, 8, scaling=scaling)  # 1022.5 lies in 1024 places
    assert torch.equal(between[0], rope_table(positions - 0.5, 8, scaling=scaling, length=1024)[0])
    before = rope_table(torch.tensor([-5]), 8, scaling=scaling)
    assert torch.equal(before[0], rope_table(torch.tensor([-5]), 8)[0])
    assert rope_table(torch.zeros(0), 8, scaling=scaling)[0].shape == (0, 4)


@pytest.mark.parametrize("truncate", [True, False])
@given(
    d=st.integers(4, 64).map(lambda n: 2 * n),
    base=st.sampled_from([100.0, 10_000.0, 500_000.0]),
    original_length=st.integers(300, 10_000),
    slow=st.floats(0.5, 4),
    ratio=st.floats(4, 64),
)
def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones(
    truncate, d, base, original_length, slow, ratio
):
    scaling = RopeScaling("yarn", 8.0, original_length, slow * ratio, slow, truncate=truncate)
    theta = rope_frequencies(d, base)
    scaled = scaled_frequencies(d, base, scaling)
    ramp = yarn_ramp(d, base, scaling)
    turns = original_length * theta / (2 * math.pi)
    fast, lazy = turns >= slow * ratio * (1 + 1e-9), turns <= slow * (1 - 1e-9)
    assert (ramp.diff() >= 0).all()
    assert (ramp[fast] == 0).all()
    assert torch.equal(scaled[fast], theta[fast])
    if not truncate:
        assert (ramp[lazy] == 1).all()
        inside = ~fast & ~lazy & (turns < slow * ratio) & (turns > slow)
        # Linear in k, so in the logarithm of the turns.
        if turns[0] >= slow * ratio and turns[-1] <= slow:
            expected = (slow * ratio / turns).log() / math.log(ratio)
            assert_close(ramp[inside], expected[inside], rtol=0, atol=1e-9)
    assert_close(scaled, theta * (1 - ramp) + theta / 8 * ramp, rtol=1e-14, atol=0)


def test_truncation_widens_the_ramp_to_whole_pairs():
    d, base = 64, 10_000.0
    exact = RopeScaling("yarn", 4.0, 2048, truncate=False)
    low, high = (
        d * math.log(2048 / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1)
    )
    k = torch.arange(32, dtype=torch.float64)
    assert_close(yarn_ramp(d, base, exact), ((k - low) / (high - low)).clamp(0, 1))
    whole = RopeScaling("yarn", 4.0, 2048)
    low, high = math.floor(low), math.ceil(high)
    assert (low, high) == (8, 21)
    assert_close(yarn_ramp(d, base, whole), ((k - low) / (high - low)).clamp(0, 1))


def test_the_ramp_keeps_its_sense_where_its_ends_leave_the_pairs():
    # In 4 tokens no pair turns once: all are slow but the first, which the ramp starts at.
    short = yarn_ramp(16, 10_000.0, RopeScaling("yarn", 2.0, 4))
    assert short.tolist() == [0.0] + [1.0] * 7
    # With a base near 1 every pair turns fast.
    assert yarn_ramp(16, 1.5, RopeScaling("yarn", 2.0, 1_000_000)).tolist() == [0.0] * 8


def test_llama3_is_a_ramp_in_turns():
    scaling = RopeScaling("llama3", 8.0, 8192, beta_fast=4.0, beta_slow=1.0)
    theta = rope_frequencies(128, 500_000.0)
    turns = 8192 * theta / (2 * math.pi)
    kept = (turns - 1) / 3
    expected = torch.where(turns > 4, theta, theta * kept + theta / 8 * (1 - kept))
    expected = torch.where(turns < 1, theta / 8, expected)
    assert ((turns > 1) & (turns < 4)).any()
    assert_close(scaled_frequencies(128, 500_000.0, scaling), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", ["linear", "ntk", "dynamic", "yarn", "llama3"])
def test_a_factor_of_1_changes_nothing(kind):
    scaling = RopeScaling(kind, 1.0, 1024)  # "dynamic" scales beyond that even so
    plain = rope_frequencies(16)
    assert_close(scaled_frequencies(16, scaling=scaling), plain, rtol=1e-15, atol=0)
    assert attention_factor(scaling) == 1
    for own, other in zip(
        rope_table(ODD_POSITIONS, 16, scaling=scaling), rope_table(ODD_POSITIONS, 16), strict=True
    ):
        assert_close(own, other, rtol=0, atol=1e-6)


def test_without_scaling_the_frequencies_are_the_plain_ones():
    assert torch.equal(scaled_frequencies(8, 100.0), rope_frequencies(8, 100.0))
    assert torch.equal(scaled_frequencies(8), rope_frequencies(8))
    assert attention_factor(None) == attention_temperature(None) == 1
    for kind in ("linear", "ntk", "dynamic", "llama3"):
        assert attention_factor(RopeScaling(kind, 4.0, 128)) == 1


def test_the_table_divides_scores_by_the_temperature():
    scaling = RopeScaling("yarn", 16.0, 256)
    t = attention_temperature(scaling)
    assert t == pytest.approx((0.1 * math.log(16) + 1) ** -2)
    assert t < 1
    q, k = randn(3, 16, seed=0), randn(3, 16, seed=1)
    positions = torch.tensor([4, 900, 17])
    cos, sin = rope_table(positions, 16, scaling=scaling, dtype=torch.float64)
    with_factor = rotate(q, cos, sin) @ rotate(k, cos, sin).mT
    angles = positions.double()[:, None] * scaled_frequencies(16, scaling=scaling)
    without = rotate_pairs(q, angles) @ rotate_pairs(k, angles).mT
    assert_close(with_factor, without / t)
    assert attention_temperature(RopeScaling("yarn", 16.0, 256, attention_factor=2.0)) == 0.25


def test_scaling_is_a_value():
    assert RopeScaling("yarn", 4.0, 2048) == RopeScaling("yarn", 4, 2048, 32.0, 1.0, None, True)
    assert len({RopeScaling("ntk", 4.0, 2048), RopeScaling("ntk", 4.0, 2048)}) == 1


def test_scaled_frequencies_live_on_the_device_asked_for():
    for kind in ("linear", "ntk", "dynamic", "yarn", "llama3"):
        assert scaled_frequencies(8, scaling=RopeScaling(kind, 4.0, 128), device="meta").is_meta
    assert yarn_ramp(8, 100.0, RopeScaling("yarn", 4.0, 128), device="meta").is_meta


# --- inputs are only read -----------------------------------------------------------------------


@BOTH
def test_no_input_is_changed(layout):
    x, positions = randn(2, 6, 8, seed=0), ODD_POSITIONS.clone()
    before = x.clone()
    apply_rope(x, positions, layout=layout)
    rotate_pairs(x, rope_angles(positions, 8), layout=layout)
    convert_layout(x, layout, "half")
    cos, sin = rope_table(positions, 8, scaling=RopeScaling("yarn", 4.0, 512))
    cos_before, sin_before = cos.clone(), sin.clone()
    for dtype in (torch.float32, torch.float64):
        x32, before32 = x.to(dtype), before.to(dtype)
        for implementation in IMPLEMENTATIONS:
            rotate(x32, cos, sin, layout, implementation=implementation)
            with torch.no_grad():
                rotate(x32, cos, sin, layout, implementation=implementation)
        assert torch.equal(x32, before32)
    assert torch.equal(x, before)
    assert torch.equal(positions, ODD_POSITIONS)
    assert torch.equal(cos, cos_before) and torch.equal(sin, sin_before)


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
COS = torch.zeros(3, 2)


def scaling(kind="yarn", factor=4.0, original_length=512, **more):
    return RopeScaling(kind, factor, original_length, **more)


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
        (
            lambda: apply_rope(X[0], torch.zeros(2, 3)),
            ValueError,
            r"one position per row of x: x is \(3, 4\), positions is \(2, 3\)",
        ),
        (lambda: apply_rope(X, torch.zeros(5, 3)), ValueError, r"positions is \(5, 3\)"),
        (lambda: rotate(X.long(), COS, COS), TypeError, r"got torch\.int64"),
        (lambda: rotate(X[..., :3], COS, COS), ValueError, "got d = 3"),
        (lambda: rotate(X, COS, COS, "split"), ValueError, "layout is 'split'"),
        (lambda: rotate(X, COS, COS, implementation="fast"), ValueError, "is 'fast'"),
        (lambda: rotate(X, COS, COS[:1]), ValueError, r"\(2, 3, 2\).* \(3, 2\) and \(1, 2\)"),
        (lambda: rotate(X, COS[:2], COS[:2]), ValueError, r"got \(2, 2\)"),
        (lambda: rotate(X, COS[:, :1], COS[:, :1]), ValueError, r"got \(3, 1\)"),
        (lambda: rotate(X[:, :1], COS, COS), ValueError, r"got \(3, 2\)"),
        (lambda: rotate(X[0], COS[None], COS[None]), ValueError, r"got \(1, 3, 2\)"),
        (lambda: rope_table(torch.arange(3), 4, dtype=torch.int64), TypeError, r"torch\.int64"),
        (lambda: rope_table(torch.arange(3), 5), ValueError, "got d = 5"),
        (lambda: scaled_frequencies(5), ValueError, "got d = 5"),
        (lambda: scaled_frequencies(4, length=0), ValueError, "at least 1, got 0"),
        (lambda: scaled_frequencies(2, scaling=scaling("ntk")), ValueError, "d = 2 is one pair"),
        (lambda: scaled_frequencies(2, scaling=scaling("dynamic")), ValueError, "d = 2 is one"),
        (lambda: yarn_ramp(5, 100.0, scaling()), ValueError, "got d = 5"),
        (lambda: yarn_ramp(4, 1.0, scaling()), ValueError, r"above 1, got 1\.0"),
        (lambda: scaling("nkt"), ValueError, "kind is 'nkt'; choose one of 'linear', 'ntk'"),
        (lambda: scaling(factor=0.5), ValueError, r"at least 1, got 0\.5"),
        (lambda: scaling(factor=math.inf), ValueError, "got inf"),
        (lambda: scaling(factor=math.nan), ValueError, "got nan"),
        (lambda: scaling(original_length=0), ValueError, "at least 1, got 0"),
        (lambda: scaling(beta_fast=1.0), ValueError, r"beta_slow = 1\.0, beta_fast = 1\.0"),
        (lambda: scaling(beta_slow=0.0), ValueError, r"beta_slow = 0\.0"),
        (lambda: scaling(attention_factor=0.0), ValueError, r"must be positive, got 0\.0"),
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


@pytest.mark.gpu
@BOTH
@EACH
@pytest.mark.parametrize("dtype", REAL)
def test_cuda_rotation_by_a_table_equals_the_cpu(layout, implementation, dtype):
    x = randn(2, 6, 3, 8, seed=0, dtype=dtype).transpose(1, 2)
    wide = torch.promote_types(dtype, torch.float32)
    tables = rope_table(ODD_POSITIONS, 8, dtype=wide)
    on_cuda = rope_table(ODD_POSITIONS.cuda(), 8, dtype=wide)
    here, there = x.clone().requires_grad_(), x.cuda().requires_grad_()
    expected = rotate(here, *tables, layout, implementation=implementation)
    out = rotate(there, *on_cuda, layout, implementation=implementation)
    expected.sum().backward()
    out.sum().backward()
    bound = 4 * torch.finfo(dtype).eps * math.sqrt(2) * x.abs().max().item()
    assert_close(out.cpu(), expected, rtol=0, atol=bound)
    assert_close(there.grad.cpu(), here.grad, rtol=0, atol=4 * torch.finfo(dtype).eps)
    with torch.no_grad():
        again = rotate(there, *on_cuda, layout, implementation=implementation)
    assert_close(again, out, rtol=0, atol=bound)
