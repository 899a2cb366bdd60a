"""Attention against torch's own, against plain Python loops, and at the edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmr_ref.attention import (
    MultiHeadAttention,
    attention_weights,
    bilinear_scores,
    dot_scores,
    gaussian_scores,
    kernel_regression,
    masked_softmax,
    scaled_dot_product_attention,
    self_attention,
    softmax,
    two_matrix_scores,
)
from llmr_ref.masks import causal_mask, combine_masks, padding_mask
from llmr_ref.rope import apply_rope, rope_table

BOTH = pytest.mark.parametrize("implementation", ["fused", "explicit"])
IMPLEMENTATIONS = st.sampled_from(["fused", "explicit"])
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SEEDS = st.integers(0, 2**31)
SIZES = st.integers(1, 5)
LEADING = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def randn(*shape, seed, dtype=torch.float64, grad=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(grad)


def random_mask(*shape, seed):
    """About two cells in three allowed, so small masks do have empty rows."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 2 / 3


def qkv(lead=(2, 3), T=5, S=7, d_k=4, d_v=6, seed=0, **options):
    return (
        randn(*lead, T, d_k, seed=seed, **options),
        randn(*lead, S, d_k, seed=seed + 1, **options),
        randn(*lead, S, d_v, seed=seed + 2, **options),
    )


def attention_by_loops(Q, K, V, mask=None):
    """The formula one number at a time, in Python's floats: shares nothing with the reference."""
    out = torch.zeros(*Q.shape[:-1], V.shape[-1], dtype=torch.float64)
    if mask is None:
        mask = torch.ones(Q.shape[-2], K.shape[-2], dtype=torch.bool)
    mask = mask.expand(*Q.shape[:-1], K.shape[-2])
    for index in torch.cartesian_prod(*map(torch.arange, Q.shape[:-1])).view(-1, Q.dim() - 1):
        *lead, t = index.tolist()
        query, keys, values = Q[*lead, t], K[*lead], V[*lead]
        allowed = [i for i in range(len(keys)) if mask[*lead, t, i]]
        scores = [
            math.fsum((query * keys[i]).tolist()) / math.sqrt(len(query)) for i in range(len(keys))
        ]
        peak = max((scores[i] for i in allowed), default=0.0)
        total = math.fsum(math.exp(scores[i] - peak) for i in allowed)
        for i in allowed:
            out[*lead, t] += math.exp(scores[i] - peak) / total * values[i]
    return out


# --- softmax ------------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    data=st.data(),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    seed=SEEDS,
)
def test_softmax_and_its_gradient_equal_torch_over_any_dim(shape, data, scale, seed):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = (scale * randn(*shape, seed=seed)).requires_grad_()
    upstream = randn(*shape, seed=seed + 1)
    ours, theirs = softmax(x, dim=dim), torch.softmax(x, dim=dim)
    assert_close(ours, theirs)
    assert_close(
        torch.autograd.grad(ours, x, upstream)[0], torch.autograd.grad(theirs, x, upstream)[0]
    )


def test_softmax_runs_over_the_last_dimension_unless_told():
    x = randn(3, 4, seed=0)
    assert_close(softmax(x).sum(-1), torch.ones(3, dtype=x.dtype))


def test_softmax_of_a_single_number_is_one():
    assert_close(softmax(torch.tensor(-7.5)), torch.tensor(1.0))


@given(seed=SEEDS, shift=st.floats(-1e4, 1e4))
def test_softmax_ignores_a_shift_and_follows_a_permutation(seed, shift):
    x = randn(3, 6, seed=seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    # Adding a shift of 1e4 rounds x by up to 1e4 * 2^-53, about 1e-12.
    assert_close(softmax(x + shift), softmax(x), rtol=1e-10, atol=0)
    assert_close(softmax(x[:, order]), softmax(x)[:, order])


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_survives_scores_of_1e4(dtype):
    x = torch.tensor([[1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [1e4, -1e4, 0.0]], dtype=dtype)
    expected = torch.tensor([[0.5, 0.5, 0.0], [1 / 3] * 3, [1.0, 0.0, 0.0]], dtype=dtype)
    assert_close(softmax(x), expected)


def test_softmax_gives_minus_infinity_no_weight_and_a_row_of_it_nan_as_torch():
    x = torch.tensor([[0.5, -math.inf, 1.5], [-math.inf] * 3])
    assert_close(softmax(x), torch.softmax(x, -1), equal_nan=True)
    assert softmax(x)[0, 1] == 0
    assert softmax(x)[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softmax_of_16_bit_floats_is_rounded_once_at_the_end(dtype):
    x = randn(50, 7, seed=0, dtype=dtype)
    exact = torch.softmax(x.double(), -1)
    # One rounding to nearest costs half an eps; the float32 work before it adds next to nothing.
    assert ((softmax(x).double() - exact).abs() <= 0.501 * torch.finfo(dtype).eps * exact).all()


def test_softmax_passes_gradcheck():
    x = randn(2, 3, 4, seed=3, grad=True)
    assert torch.autograd.gradcheck(lambda x: softmax(x, dim=1), x)


# --- masked softmax -----------------------------------------------------------------------------


@given(T=SIZES, S=SIZES, lead=LEADING, seed=SEEDS)
def test_masked_softmax_is_the_softmax_of_the_allowed_keys_alone(T, S, lead, seed):
    scores, mask = randn(*lead, T, S, seed=seed), random_mask(*lead, T, S, seed=seed)
    weights = masked_softmax(scores, mask).view(-1, S)
    for row, allowed, w in zip(scores.view(-1, S), mask.view(-1, S), weights, strict=True):
        assert_close(w[allowed], torch.softmax(row[allowed], -1))
        assert (w[~allowed] == 0).all()


def test_a_masked_key_gets_nothing_however_low_the_allowed_scores():
    weights = masked_softmax(torch.tensor([[-3e4, 5e4]]), torch.tensor([[True, False]]))
    assert weights.tolist() == [[1.0, 0.0]]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_an_empty_row_makes_no_nan_on_the_way_back():
    scores, mask = randn(3, 4, seed=0, grad=True), causal_mask(3, 4)
    mask[1] = False
    with torch.autograd.detect_anomaly(check_nan=True):  # raises at the first nan
        masked_softmax(scores, mask).square().sum().backward()
    assert (scores.grad[1] == 0).all()
    assert (scores.grad[0] != 0).any()


def test_masked_softmax_without_a_mask_is_softmax():
    scores = randn(2, 3, seed=1)
    assert torch.equal(masked_softmax(scores), softmax(scores))


# --- scores -------------------------------------------------------------------------------------


@given(T=SIZES, S=SIZES, d_q=SIZES, d_k=SIZES, d=SIZES, lead=LEADING, seed=SEEDS)
def test_scores_equal_their_formulas_and_two_matrices_are_one_bilinear_form(
    T, S, d_q, d_k, d, lead, seed
):
    Q, K = randn(*lead, T, d_q, seed=seed), randn(*lead, S, d_k, seed=seed + 1)
    W_Q, W_K = randn(d, d_q, seed=seed + 2), randn(d, d_k, seed=seed + 3)
    two = two_matrix_scores(Q, K, W_Q, W_K)
    bilinear = bilinear_scores(Q, K, W_K.T @ W_Q)
    assert_close(two, torch.einsum("...ta,da,db,...sb->...ts", Q, W_Q, W_K, K))
    assert_close(bilinear, two)
    square = randn(*lead, S, d_q, seed=seed + 4)
    by_hand = [
        [sum(a * b for a, b in zip(q, k, strict=True)) for k in square.view(-1, S, d_q)[-1]]
        for q in Q.view(-1, T, d_q)[-1]
    ]
    assert_close(dot_scores(Q, square).view(-1, T, S)[-1], torch.tensor(by_hand, dtype=Q.dtype))


def test_bilinear_form_is_not_symmetric_in_queries_and_keys():
    # s_ti = k_i^T W q_t: with W = e_0 e_1^T the key gives its entry 0, the query its entry 1.
    W = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    q, k = torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]])
    assert bilinear_scores(q, k, W).item() == 5.0 * 3.0


# --- scaled dot-product attention ---------------------------------------------------------------


@given(
    implementation=IMPLEMENTATIONS,
    lead=LEADING,
    T=SIZES,
    S=SIZES,
    d_k=SIZES,
    d_v=SIZES,
    masked=st.booleans(),
    seed=SEEDS,
)
def test_attention_equals_the_formula_written_with_loops(
    implementation, lead, T, S, d_k, d_v, masked, seed
):
    Q, K, V = qkv(lead, T, S, d_k, d_v, seed)
    mask = random_mask(*lead, T, S, seed=seed) if masked else None
    out = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
    assert_close(out, attention_by_loops(Q, K, V, mask))


@given(lead=LEADING, T=SIZES, S=SIZES, d_k=SIZES, d_v=SIZES, masked=st.booleans(), seed=SEEDS)
def test_explicit_and_fused_equal_torch_in_value_and_gradient(lead, T, S, d_k, d_v, masked, seed):
    Q, K, V = qkv(lead, T, S, d_k, d_v, seed, grad=True)
    mask = random_mask(*lead, T, S, seed=seed) if masked else None
    upstream = randn(*lead, T, d_v, seed=seed + 3)
    torch_out = F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)
    torch_grads = torch.autograd.grad(torch_out, (Q, K, V), upstream)
    for implementation in ("explicit", "fused"):
        out = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
        assert_close(out, torch_out)
        for grad, torch_grad in zip(
            torch.autograd.grad(out, (Q, K, V), upstream), torch_grads, strict=True
        ):
            assert_close(grad, torch_grad)


def test_causal_mask_equals_torch_is_causal():
    Q, K, V = qkv(T=6, S=6)
    expected = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
    for implementation in ("explicit", "fused"):
        out = scaled_dot_product_attention(Q, K, V, causal_mask(6), implementation=implementation)
        assert_close(out, expected)


def test_fused_is_what_runs_unless_told():
    Q, K, V = qkv(dtype=torch.float32)
    fused = scaled_dot_product_attention(Q, K, V, implementation="fused")
    assert torch.equal(scaled_dot_product_attention(Q, K, V), fused)


@BOTH
@pytest.mark.parametrize(
    "mask_shape", [(5, 7), (1, 7), (7,), (3, 5, 7), (2, 1, 1, 7), (2, 3, 5, 1)]
)
def test_masks_broadcast_over_batch_heads_and_queries(implementation, mask_shape):
    Q, K, V = qkv()
    mask = random_mask(*mask_shape, seed=5)
    out = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
    expanded = mask.expand(2, 3, 5, 7).contiguous()
    assert_close(out, attention_by_loops(Q, K, V, expanded))


@BOTH
def test_leading_dimensions_of_queries_and_keys_broadcast(implementation):
    Q, K, V = qkv()
    shared_K, shared_V = K[:, :1], V[:, :1]  # one key head for all query heads
    out = scaled_dot_product_attention(Q, shared_K, shared_V, implementation=implementation)
    every_K, every_V = shared_K.expand_as(K), shared_V.expand_as(V)
    assert_close(out, attention_by_loops(Q, every_K, every_V))


@given(T=SIZES, S=SIZES, seed=SEEDS)
def test_attention_weights_are_rows_of_a_distribution_or_zero(T, S, seed):
    Q, K, _ = qkv((2,), T, S, seed=seed)
    mask = random_mask(2, T, S, seed=seed)
    weights = attention_weights(Q, K, mask)
    assert_close(weights.sum(-1), mask.any(-1).to(weights.dtype))
    assert (weights[~mask] == 0).all()
    assert (weights >= 0).all()


@BOTH
def test_future_values_and_keys_leak_into_no_causal_output(implementation):
    Q, K, V = qkv((2,), T=6, S=6, grad=True)
    out = scaled_dot_product_attention(Q, K, V, causal_mask(6), implementation=implementation)
    for t in range(6):
        grad_K, grad_V = torch.autograd.grad(out[:, t].sum(), (K, V), retain_graph=True)
        assert (grad_K[:, t + 1 :] == 0).all()
        assert (grad_V[:, t + 1 :] == 0).all()
        assert (grad_V[:, : t + 1] != 0).all()


@BOTH
@pytest.mark.parametrize("masked", [False, True])
def test_attention_passes_gradcheck(implementation, masked):
    Q, K, V = qkv((2,), T=3, S=4, d_k=3, d_v=2, grad=True)
    mask = random_mask(2, 3, 4, seed=1)
    mask[1, 2] = False  # with a row that may attend to nothing
    assert torch.autograd.gradcheck(
        lambda *t: scaled_dot_product_attention(
            *t, mask if masked else None, implementation=implementation
        ),
        (Q, K, V),
    )


# --- empty rows, empty tensors, one position ----------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize(("d_k", "d_v"), [(4, 6), (64, 64)])
def test_a_query_with_nothing_to_attend_to_gives_zero_and_zero_gradients(
    implementation, dtype, lead, d_k, d_v
):
    Q, K, V = qkv(lead, 5, 5, d_k, d_v, dtype=dtype, grad=True)
    mask = causal_mask(5)
    mask[2] = False
    out = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
    assert (out[..., 2, :] == 0).all()
    assert (out[..., 1, :] != 0).all()
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (Q, K, V))
    assert (Q.grad[..., 2, :] == 0).all()
    assert (Q.grad[..., 3, :] != 0).any()


@BOTH
def test_an_empty_mask_gives_zero_everywhere(implementation):
    Q, K, V = qkv(grad=True)
    mask = torch.zeros(5, 7, dtype=torch.bool)
    out = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
    out.sum().backward()
    for zero in (out, Q.grad, K.grad, V.grad):
        assert torch.equal(zero, torch.zeros_like(zero))


@BOTH
def test_one_position_returns_its_own_value(implementation):
    Q, K, V = qkv(T=1, S=1)
    for mask in (None, causal_mask(1)):
        out = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
        assert_close(out, V)


@BOTH
@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_no_queries_give_no_rows_and_no_keys_give_zero(implementation, lead):
    Q, K, V = qkv(lead)
    no_queries = scaled_dot_product_attention(Q[..., :0, :], K, V, implementation=implementation)
    assert no_queries.shape == (*lead, 0, 6)
    no_keys = scaled_dot_product_attention(
        Q, K[..., :0, :], V[..., :0, :], implementation=implementation
    )
    assert torch.equal(no_keys, torch.zeros(*lead, 5, 6, dtype=Q.dtype))


# --- precision ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_16_bit_attention_stays_16_bit_and_close(implementation, dtype, lead):
    Q, K, V = qkv(lead, T=16, S=33, d_k=32, d_v=32, dtype=dtype, grad=True)
    mask = random_mask(16, 33, seed=2)
    out = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
    exact = [t.detach().double().requires_grad_() for t in (Q, K, V)]
    expected = F.scaled_dot_product_attention(*exact, attn_mask=mask)
    assert out.dtype == dtype
    # Half an eps for rounding the weights, half for rounding the result, each times at most max |V|
    # because the weights sum to one. Sums are kept in 32 bits and add nothing visible.
    bound = torch.finfo(dtype).eps * V.abs().max().item()
    assert (out.double() - expected).abs().max() <= bound

    out.sum().backward()
    expected.sum().backward()
    for t, e in zip((Q, K, V), exact, strict=True):
        assert t.grad.dtype == dtype
        # A gradient passes about four 16-bit roundings, each of a quantity no larger than the
        # largest product of upstream (1), values and inputs, summed over d_v = 32 terms in 32 bits.
        scale = 32 * V.abs().max().item() * max(1.0, Q.abs().max().item(), K.abs().max().item())
        assert (t.grad.double() - e.grad).abs().max() <= 4 * torch.finfo(dtype).eps * scale


@BOTH
def test_float16_scores_may_exceed_the_largest_float16_before_scaling(implementation):
    # q . k = 64 * 200 * 200 = 2.56e6 > 65504; equal keys, so the result is the mean of the values.
    Q, K = torch.full((2, 64), 200.0).half(), torch.full((3, 64), 200.0).half()
    V = randn(3, 4, seed=0, dtype=torch.float16)
    out = scaled_dot_product_attention(Q, K, V, implementation=implementation)
    mean = V.double().mean(0).expand(2, 4)
    assert (out.double() - mean).abs().max() <= torch.finfo(torch.float16).eps * V.abs().max()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_attention_survives_scores_of_1e4(implementation, dtype):
    Q, K, V = qkv(dtype=dtype, grad=True)
    scale = 1e4 * math.sqrt(4) / dot_scores(Q, K).abs().max().item()
    big_Q = Q * scale
    out = scaled_dot_product_attention(big_Q, K, V, implementation=implementation)
    expected = F.scaled_dot_product_attention(big_Q.double(), K.double(), V.double())
    # A score of 1e4 is a sum of d_k = 4 products, so it is known to about 4 eps * 1e4; a weight is
    # relatively as uncertain as its score is absolutely, twice over (numerator and sum).
    bound = 8 * torch.finfo(dtype).eps * 1e4 * V.abs().max().item()
    assert (out.double() - expected).abs().max() <= bound
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (Q, K, V))


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_scores_of_1e4_choose_the_best_key(implementation, dtype):
    # Scores +-1e4 and 0: the softmax is a choice, exact in any dtype.
    Q = torch.full((3, 4), 64.0, dtype=dtype)
    K = torch.tensor([[-78.0], [78.0], [0.0]], dtype=dtype).expand(3, 4)
    V = randn(3, 5, seed=0, dtype=dtype)
    out = scaled_dot_product_attention(Q, K, V, implementation=implementation)
    assert torch.equal(out, V[1].expand(3, 5))


@BOTH
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_in_is_dtype_out(implementation, dtype):
    Q, K, V = qkv(dtype=dtype)
    mask = random_mask(5, 7, seed=0)
    out = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
    assert out.dtype == attention_weights(Q, K, mask).dtype == softmax(Q).dtype == dtype
    module = MultiHeadAttention(12, 3, implementation=implementation, dtype=dtype)
    assert module(randn(2, 5, 12, seed=0, dtype=dtype)).dtype == dtype


# --- inputs are only read -----------------------------------------------------------------------


@BOTH
def test_no_input_is_changed(implementation):
    Q, K, V = qkv(T=7)
    X, mask = randn(2, 7, 4, seed=9), random_mask(7, 7, seed=4)
    W = randn(4, 4, seed=8)
    module = MultiHeadAttention(4, 2, implementation=implementation, dtype=X.dtype)
    inputs = [Q, K, V, X, W, mask]
    before = [t.clone() for t in inputs]
    softmax(Q)
    masked_softmax(dot_scores(Q, K), mask)
    bilinear_scores(Q, K, W)
    two_matrix_scores(Q, K, W, W)
    scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
    self_attention(X, W, W, W, W, mask, implementation=implementation)
    module(X, mask)
    assert all(torch.equal(t, b) for t, b in zip(inputs, before, strict=True))


@BOTH
def test_non_contiguous_inputs_give_the_same_result(implementation):
    Q, K, V = qkv(T=7)
    mask = random_mask(7, 7, seed=4)
    strided = [t.mT.contiguous().mT for t in (Q, K, V, mask)]
    strided[2] = V.repeat_interleave(2, dim=-1)[..., ::2]
    assert not any(t.is_contiguous() for t in strided)
    out = scaled_dot_product_attention(*strided, implementation=implementation)
    assert_close(out, scaled_dot_product_attention(Q, K, V, mask, implementation=implementation))
    assert_close(softmax(strided[0]), torch.softmax(Q, -1))
    module = MultiHeadAttention(4, 2, implementation=implementation, dtype=Q.dtype)
    assert_close(module(strided[0]), module(Q))


# --- one head, many heads -----------------------------------------------------------------------


@BOTH
def test_self_attention_equals_projections_and_loops(implementation):
    X, mask = randn(2, 6, 5, seed=0), random_mask(2, 6, 6, seed=1)
    W_Q, W_K, W_V = randn(3, 5, seed=2), randn(3, 5, seed=3), randn(4, 5, seed=4)
    W_O = randn(5, 4, seed=5)
    out = self_attention(X, W_Q, W_K, W_V, W_O, mask, implementation=implementation)
    Q, K, V = (F.linear(X, W) for W in (W_Q, W_K, W_V))
    assert_close(out, F.linear(attention_by_loops(Q, K, V, mask), W_O))


@BOTH
def test_self_attention_passes_gradcheck(implementation):
    tensors = [
        randn(*shape, seed=i, grad=True)
        for i, shape in enumerate([(2, 3, 4), (3, 4), (3, 4), (2, 4), (4, 2)])
    ]
    assert torch.autograd.gradcheck(
        lambda *t: self_attention(*t, causal_mask(3), implementation=implementation), tensors
    )


@BOTH
def test_without_a_mask_self_attention_follows_a_permutation_of_its_positions(implementation):
    module = MultiHeadAttention(12, 3, implementation=implementation, dtype=torch.float64)
    X, order = randn(2, 5, 12, seed=0), torch.tensor([3, 0, 4, 1, 2])
    assert_close(module(X[:, order]), module(X)[:, order])


def multi_head_pair(d_model, n_heads, implementation, seed):
    """Ours and torch's module with the same weights."""
    ours = MultiHeadAttention(d_model, n_heads, implementation=implementation, dtype=torch.float64)
    theirs = nn.MultiheadAttention(
        d_model, n_heads, bias=False, batch_first=True, dtype=torch.float64
    )
    with torch.no_grad():
        for i, proj in enumerate((ours.q_proj, ours.k_proj, ours.v_proj, ours.output_proj)):
            proj.weight.copy_(randn(d_model, d_model, seed=seed + i) / math.sqrt(d_model))
        theirs.in_proj_weight.copy_(
            torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight])
        )
        theirs.out_proj.weight.copy_(ours.output_proj.weight)
    return ours, theirs


@given(
    implementation=IMPLEMENTATIONS,
    heads=st.sampled_from([(12, 1), (12, 3), (12, 4), (12, 12), (10, 2)]),
    B=st.integers(1, 4),
    T=st.integers(1, 6),
    causal=st.booleans(),
    padded=st.booleans(),
    seed=SEEDS,
)
def test_multi_head_attention_equals_torch_in_value_and_gradient(
    implementation, heads, B, T, causal, padded, seed
):
    d_model, n_heads = heads
    ours, theirs = multi_head_pair(d_model, n_heads, implementation, seed)
    X = randn(B, T, d_model, seed=seed + 5, grad=True)
    # At least one real position each: torch's module gives nan where nothing may be attended to.
    lengths = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(seed))
    real = padding_mask(lengths, T) if padded else None
    out = ours(X, combine_masks(causal_mask(T) if causal else None, real))
    # torch's masks say the opposite: True = may NOT attend.
    torch_out, _ = theirs(
        X,
        X,
        X,
        attn_mask=~causal_mask(T) if causal else None,
        key_padding_mask=None if real is None else ~real[:, 0],
        need_weights=False,
    )
    assert_close(out, torch_out)

    upstream = randn(B, T, d_model, seed=seed + 6)
    grad_X, *grads = torch.autograd.grad(out, (X, *ours.parameters()), upstream)
    torch_grad_X, grad_in, grad_out = torch.autograd.grad(
        torch_out, (X, theirs.in_proj_weight, theirs.out_proj.weight), upstream
    )
    assert_close(grad_X, torch_grad_X)
    assert_close(torch.cat(grads[:3]), grad_in)
    assert_close(grads[3], grad_out)


@BOTH
def test_many_heads_are_the_sum_of_single_heads_over_their_rows(implementation):
    d_model, n_heads, d_head = 12, 3, 4
    module, _ = multi_head_pair(d_model, n_heads, implementation, seed=0)
    X, mask = randn(2, 5, d_model, seed=7), random_mask(2, 5, 5, seed=7)
    weights = module.state_dict()
    single = 0
    for n in range(n_heads):
        rows = slice(n * d_head, (n + 1) * d_head)
        W_Q, W_K, W_V = (weights[f"{name}_proj.weight"][rows] for name in "qkv")
        W_O = weights["output_proj.weight"][:, rows]
        single = single + self_attention(X, W_Q, W_K, W_V, W_O, mask)
    assert_close(module(X, mask), single)


@BOTH
def test_leading_dimensions_of_many_heads_are_free(implementation):
    module, _ = multi_head_pair(12, 3, implementation, seed=0)
    X, mask = randn(2, 4, 5, 12, seed=1), random_mask(2, 4, 5, 5, seed=1)
    out = module(X, mask)
    for i in range(2):
        assert_close(out[i], module(X[i], mask[i]))
        for j in range(4):
            assert_close(out[i, j], module(X[i, j], mask[i, j]))


@BOTH
@pytest.mark.parametrize("T", [0, 1])
def test_many_heads_accept_no_position_and_one(implementation, T):
    module, _ = multi_head_pair(12, 3, implementation, seed=0)
    X = randn(2, T, 12, seed=1)
    assert_close(module(X, causal_mask(T)), F.linear(module.v_proj(X), module.output_proj.weight))


@BOTH
def test_many_heads_pass_gradcheck(implementation):
    module, _ = multi_head_pair(6, 2, implementation, seed=0)
    names = list(module.state_dict())

    def forward(X, *weights):
        parameters = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(module, parameters, (X, causal_mask(3)))

    weights = [w.clone().requires_grad_() for w in module.state_dict().values()]
    assert torch.autograd.gradcheck(forward, (randn(2, 3, 6, seed=1, grad=True), *weights))


def test_state_of_many_heads_is_four_square_matrices_without_biases():
    state = MultiHeadAttention(12, 3).state_dict()
    names = [f"{name}_proj.weight" for name in ("q", "k", "v", "output")]
    assert list(state) == names
    assert all(w.shape == (12, 12) for w in state.values())


def test_device_and_dtype_reach_every_weight():
    module = MultiHeadAttention(12, 3, device="meta", dtype=torch.bfloat16)
    assert {(w.device.type, w.dtype) for w in module.parameters()} == {("meta", torch.bfloat16)}


# --- causal, bias, scale ------------------------------------------------------------------------


@BOTH
@given(data=st.data())
def test_causal_bias_and_scale_agree_with_loops_over_the_formula(implementation, data):
    T = data.draw(SIZES, label="T")
    S = data.draw(st.integers(T, T + 3), label="S")
    seed = data.draw(SEEDS)
    Q, K, V = qkv((2,), T=T, S=S, seed=seed)
    bias = randn(*data.draw(st.sampled_from([(T, S), (2, T, S), (1, S), (T, 1)])), seed=seed + 3)
    given_mask = random_mask(2, T, S, seed=seed) if data.draw(st.booleans()) else None
    scale = data.draw(st.sampled_from([None, 1.0, 0.3]))
    out = scaled_dot_product_attention(
        Q, K, V, given_mask, causal=True, bias=bias, scale=scale, implementation=implementation
    )
    mask = combine_masks(given_mask, causal_mask(T, S)).expand(2, T, S)
    scores = torch.einsum("btd,bsd->bts", Q, K) * (Q.shape[-1] ** -0.5 if scale is None else scale)
    exponentials = torch.where(mask, (scores + bias).exp(), 0.0)
    total = exponentials.sum(-1, keepdim=True)
    weights = torch.where(total > 0, exponentials / total, 0.0)
    assert_close(out, torch.einsum("bts,bsd->btd", weights, V))


@BOTH
def test_causal_alone_equals_the_causal_mask(implementation):
    Q, K, V = qkv(T=5, S=5)
    assert_close(
        scaled_dot_product_attention(Q, K, V, causal=True, implementation=implementation),
        attention_by_loops(Q, K, V, causal_mask(5)),
    )


@BOTH
def test_gradients_flow_into_the_bias(implementation):
    Q, K, V = qkv((2,), T=3, S=4, grad=True)
    bias = randn(3, 4, seed=9, grad=True)
    mask = causal_mask(3, 4)

    def forward(*arguments):
        return scaled_dot_product_attention(
            *arguments[:3], mask, bias=arguments[3], implementation=implementation
        )

    assert torch.autograd.gradcheck(forward, (Q, K, V, bias))


@BOTH
def test_a_bias_of_another_shape_is_refused(implementation):
    Q, K, V = qkv((), T=2, S=3)
    with pytest.raises(ValueError, match=r"bias must broadcast.*\(2, 3\).*got \(3, 2\)"):
        scaled_dot_product_attention(Q, K, V, bias=torch.zeros(3, 2), implementation=implementation)


# --- kernel regression --------------------------------------------------------------------------


@given(T=SIZES, S=SIZES, d=SIZES, bandwidth=st.floats(0.2, 5), seed=SEEDS)
def test_kernel_regression_is_the_nadaraya_watson_estimate(T, S, d, bandwidth, seed):
    x, inputs, responses = qkv((), T=T, S=S, d_k=d, d_v=1, seed=seed)
    for t in range(T):
        kernels = [
            math.exp(-(math.dist(x[t].tolist(), point) ** 2) / (2 * bandwidth**2))
            for point in inputs.tolist()
        ]
        weighted = sum(k * y for k, (y,) in zip(kernels, responses.tolist(), strict=True))
        estimate = kernel_regression(x, inputs, responses, bandwidth)[t, 0].item()
        assert estimate == pytest.approx(weighted / sum(kernels), rel=1e-6)


@given(bandwidth=st.floats(0.3, 4), seed=SEEDS)
def test_with_keys_of_one_norm_it_is_dot_product_attention(bandwidth, seed):
    Q, K, V = qkv((2,), d_k=3, seed=seed)
    K = 1.7 * F.normalize(K, dim=-1)
    expected = scaled_dot_product_attention(Q, K, V, scale=bandwidth**-2)
    assert_close(kernel_regression(Q, K, V, bandwidth), expected)


def test_gaussian_scores_keep_their_digits_far_from_the_origin():
    Q = torch.tensor([[1e4]])
    K = torch.tensor([[1e4 + 1], [1e4 + 2]])
    assert_close(gaussian_scores(Q, K, 1.0), torch.tensor([[-0.5, -2.0]]))


# --- fewer heads of keys and values, cross-attention, rotation, cache -----------------------------


def with_repeated_heads(module, n_heads, n_kv_heads, d_head):
    """The same layer with a head of K and V of its own for every head of Q."""
    d_model = module.d_model
    full = MultiHeadAttention(d_model, n_heads, d_head=d_head, dtype=torch.float64)
    state = module.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        heads = state[name].view(n_kv_heads, 1, d_head, d_model)
        repeated = heads.expand(-1, n_heads // n_kv_heads, -1, -1)
        state[name] = repeated.reshape(n_heads * d_head, d_model)
    full.load_state_dict(state)
    return full


@BOTH
@pytest.mark.parametrize("n_kv_heads", [1, 2, 3, 6])
def test_grouped_heads_are_heads_that_share_keys_and_values(implementation, n_kv_heads):
    module = MultiHeadAttention(
        10, 6, n_kv_heads=n_kv_heads, d_head=4, implementation=implementation, dtype=torch.float64
    )
    assert module.k_proj.weight.shape == module.v_proj.weight.shape == (4 * n_kv_heads, 10)
    full = with_repeated_heads(module, 6, n_kv_heads, 4)
    x = randn(2, 5, 10, seed=3)
    assert_close(module(x, causal_mask(5)), full(x, causal_mask(5)))
    assert_close(module(x, causal=True), full(x, causal_mask(5)))


@BOTH
def test_cross_attention_reads_keys_and_values_from_the_memory(implementation):
    module = MultiHeadAttention(
        12, 3, bias=True, implementation=implementation, dtype=torch.float64
    )
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    projections = [getattr(module, f"{name}_proj") for name in "qkv"]
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([p.weight for p in projections]),
            "in_proj_bias": torch.cat([p.bias for p in projections]),
            "out_proj.weight": module.output_proj.weight,
            "out_proj.bias": module.output_proj.bias,
        }
    )
    x, memory = randn(2, 4, 12, seed=0), randn(2, 7, 12, seed=1)
    mask = random_mask(4, 7, seed=5) | torch.eye(4, 7, dtype=torch.bool)
    expected, _ = theirs(x, memory, memory, attn_mask=~mask)
    assert_close(module(x, mask, memory=memory), expected)


@BOTH
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_a_rotation_turns_queries_and_keys_and_leaves_values(implementation, layout):
    module = MultiHeadAttention(12, 3, implementation=implementation, dtype=torch.float64)
    x = randn(2, 5, 12, seed=0)
    positions = torch.tensor([4, 0, 9, 2, 100])
    tables = rope_table(positions, 4, dtype=torch.float64)

    def heads(name):
        return getattr(module, name)(x).view(2, 5, 3, 4).transpose(1, 2)

    Q, K = (apply_rope(heads(f"{n}_proj"), positions, layout=layout) for n in "qk")
    expected = attention_by_loops(Q, K, heads("v_proj"), causal_mask(5))
    expected = module.output_proj(expected.transpose(1, 2).flatten(-2))
    assert_close(module(x, causal=True, rotary=tables, layout=layout), expected)


@BOTH
def test_what_the_cache_returns_is_what_the_queries_look_at(implementation):
    module = MultiHeadAttention(12, 6, n_kv_heads=2, implementation=implementation)
    x = randn(2, 5, 12, seed=0, dtype=torch.float32)

    class Remembering:
        def __init__(self):
            self.K = self.V = torch.empty(2, 2, 0, 2)

        def append(self, K, V):
            self.K, self.V = torch.cat((self.K, K), -2), torch.cat((self.V, V), -2)
            return self.K, self.V

    cache = Remembering()
    first = module(x[:, :3], causal_mask(3), cache=cache)
    rest = module(x[:, 3:], causal_mask(2, 5), cache=cache)
    assert_close(torch.cat((first, rest), 1), module(x, causal=True))


# --- errors name the value ----------------------------------------------------------------------

Q, K, V = qkv((), T=2, S=3, d_k=4, d_v=5, dtype=torch.float32)
ATTENTION_ERRORS = {
    "softmax of integers": (
        lambda: softmax(torch.arange(3)),
        TypeError,
        r"floating-point tensor, got torch\.int64",
    ),
    "softmax over a dim that is not there": (lambda: softmax(Q, dim=2), IndexError, r"got 2"),
    "masked softmax with a float mask": (
        lambda: masked_softmax(dot_scores(Q, K), torch.zeros(2, 3)),
        TypeError,
        r"True = may attend.*got torch\.float32",
    ),
    "masked softmax with a mask of another length": (
        lambda: masked_softmax(dot_scores(Q, K), causal_mask(2)),
        ValueError,
        r"\(2, 3\).*got \(2, 2\)",
    ),
    "queries and keys of different widths": (
        lambda: dot_scores(Q, K[:, :3]),
        ValueError,
        r"same width, got 4 and 3",
    ),
    "a bilinear matrix the wrong way round": (
        lambda: bilinear_scores(Q, K[:, :3], torch.zeros(4, 3)),
        ValueError,
        r"\(d_k, d_q\) = \(3, 4\), got \(4, 3\)",
    ),
    "two matrices of different heights": (
        lambda: two_matrix_scores(Q, K, torch.zeros(6, 4), torch.zeros(7, 4)),
        ValueError,
        r"same width, got 6 and 7",
    ),
    "weights of integer queries": (
        lambda: attention_weights(Q.long(), K.long()),
        TypeError,
        r"got torch\.int64",
    ),
    "heads that do not divide": (
        lambda: MultiHeadAttention(12, 5),
        ValueError,
        r"d_model = 12, got n_heads = 5",
    ),
    "no heads": (lambda: MultiHeadAttention(12, 0), ValueError, r"got n_heads = 0"),
    "heads of keys that do not divide the heads": (
        lambda: MultiHeadAttention(12, 6, n_kv_heads=4),
        ValueError,
        r"n_heads = 6, got n_kv_heads = 4",
    ),
    "a bandwidth of zero": (
        lambda: gaussian_scores(Q, K, 0.0),
        ValueError,
        r"bandwidth must be positive, got 0",
    ),
    "kernel regression with a response too few": (
        lambda: kernel_regression(Q, K, V[:2], 1.0),
        ValueError,
        r"same number of positions, got 3 and 2",
    ),
    "Gaussian scores of different widths": (
        lambda: gaussian_scores(Q, K[:, :3], 1.0),
        ValueError,
        r"same width, got 4 and 3",
    ),
    "an unknown implementation in the module": (
        lambda: MultiHeadAttention(12, 3, implementation="flash"),
        ValueError,
        r"'flash'; choose 'fused' or 'explicit'",
    ),
    "an unknown implementation in the function": (
        lambda: scaled_dot_product_attention(Q, K, V, implementation="flash"),
        ValueError,
        r"'flash'; choose 'fused' or 'explicit'",
    ),
    "an input of another width": (
        lambda: MultiHeadAttention(12, 3)(torch.zeros(2, 5, 10)),
        ValueError,
        r"d_model = 12, got \(2, 5, 10\)",
    ),
}


@pytest.mark.parametrize(
    ("call", "error", "message"), ATTENTION_ERRORS.values(), ids=ATTENTION_ERRORS.keys()
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


@BOTH
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Q, K[:, :3], V), ValueError, r"same width, got 4 and 3"),
        ((Q, K, V[:2]), ValueError, r"same number of positions, got 3 and 2"),
        ((Q, K, V, torch.ones(2, 3)), TypeError, r"got torch\.float32"),
        ((Q, K, V, torch.ones(3, 2, dtype=torch.bool)), ValueError, r"\(2, 3\).*got \(3, 2\)"),
        # torch would stretch one query to two here, and invent a row.
        ((Q[:1], K, V, causal_mask(2, 3)), ValueError, r"\(1, 3\).*got \(2, 3\)"),
        ((Q, K, V, causal_mask(2, 3)[None]), ValueError, r"\(2, 3\).*got \(1, 2, 3\)"),
        ((Q.long(), K.long(), V.long()), TypeError, r"got torch\.int64"),
    ],
)
def test_both_implementations_refuse_the_same_inputs(implementation, arguments, error, message):
    with pytest.raises(error, match=message):
        scaled_dot_product_attention(*arguments, implementation=implementation)


@BOTH
def test_many_heads_refuse_a_mask_of_another_length(implementation):
    module = MultiHeadAttention(12, 3, implementation=implementation)
    with pytest.raises(ValueError, match=r"\(2, 3, 5, 5\).*got \(1, 4, 4\)"):
        module(torch.zeros(2, 5, 12), causal_mask(4))


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
@BOTH
@pytest.mark.parametrize("dtype", FLOATS)
def test_cuda_attention_equals_float64_on_the_cpu_with_zero_for_empty_rows(implementation, dtype):
    Q, K, V = qkv(T=33, S=33, d_k=32, d_v=32, dtype=dtype)
    mask = causal_mask(33)
    mask[4] = False
    expected = F.scaled_dot_product_attention(Q.double(), K.double(), V.double(), attn_mask=mask)
    on_gpu = [t.cuda().requires_grad_() for t in (Q, K, V)]
    out = scaled_dot_product_attention(*on_gpu, mask.cuda(), implementation=implementation)
    assert out.dtype == dtype
    assert out.is_cuda
    # As on the CPU, and 32 bits may sum in any order: 33 terms.
    eps = torch.finfo(dtype).eps if dtype.itemsize == 2 else 33 * torch.finfo(dtype).eps
    assert (out.cpu().double() - expected).abs().max() <= 2 * eps * V.abs().max().item()
    assert (out[..., 4, :] == 0).all()
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in on_gpu)
    assert (on_gpu[0].grad[..., 4, :] == 0).all()


@pytest.mark.gpu
@BOTH
def test_cuda_many_heads_equal_the_cpu(implementation):
    module, _ = multi_head_pair(12, 3, implementation, seed=0)
    X = randn(2, 5, 12, seed=1)
    expected = module(X, causal_mask(5))
    out = module.cuda()(X.cuda(), causal_mask(5, device="cuda"))
    assert_close(out.cpu(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS)
def test_cuda_softmax_equals_torch(dtype):
    x = (1e4 * randn(3, 50, seed=0)).to(dtype).cuda()
    assert_close(softmax(x, dim=0), torch.softmax(x, dim=0))
