"""Every mask against its definition in plain Python, and against what attention does with it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llmr_ref.attention import attention_weights, masked_softmax, scaled_dot_product_attention
from llmr_ref.masks import (
    causal_mask,
    combine_masks,
    document_mask,
    mask_to_bias,
    padding_mask,
    prefix_mask,
    require_boolean,
    sliding_window_mask,
)

LENGTHS = st.integers(0, 9)
SEEDS = st.integers(0, 2**31)


def by_definition(n_queries, n_keys, may_attend):
    """The mask written cell by cell; `reshape` keeps the shape when there is no cell."""
    rows = [[may_attend(q, k) for k in range(n_keys)] for q in range(n_queries)]
    return torch.tensor(rows, dtype=torch.bool).reshape(n_queries, n_keys)


def randn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# --- definitions --------------------------------------------------------------------------------


def test_causal_mask_of_three_positions():
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True] * 3]


@given(n=LENGTHS)
def test_causal_mask_is_its_definition_and_torch_tril(n):
    assert torch.equal(causal_mask(n), by_definition(n, n, lambda q, k: k <= q))
    assert torch.equal(causal_mask(n), torch.ones(n, n, dtype=torch.bool).tril())


@given(n_queries=LENGTHS, cached=LENGTHS)
def test_with_more_keys_than_queries_the_queries_are_the_last_positions(n_queries, cached):
    n_keys = n_queries + cached
    mask = causal_mask(n_queries, n_keys)
    assert torch.equal(mask, by_definition(n_queries, n_keys, lambda q, k: k <= q + cached))
    assert torch.equal(mask, causal_mask(n_keys)[cached:])


@given(lengths=st.lists(LENGTHS, max_size=4), spare=st.integers(0, 3))
def test_padding_mask_is_its_definition(lengths, spare):
    n_keys = max(lengths, default=0) + spare
    mask = padding_mask(torch.tensor(lengths, dtype=torch.long), n_keys)
    assert mask.shape == (len(lengths), 1, n_keys)
    for row, length in zip(mask, lengths, strict=True):
        assert torch.equal(row, by_definition(1, n_keys, lambda _, k, n=length: k < n))


def test_padding_mask_keeps_the_shape_of_its_lengths():
    mask = padding_mask(torch.tensor([[1, 0, 4], [3, 2, 4]], dtype=torch.int32), 4)
    assert mask.shape == (2, 3, 1, 4)
    assert mask.sum(-1).squeeze(-1).tolist() == [[1, 0, 4], [3, 2, 4]]
    assert padding_mask(torch.tensor(2), 3).tolist() == [[True, True, False]]


@given(n=LENGTHS, window=st.integers(1, 11))
def test_sliding_window_mask_is_its_definition(n, window):
    expected = by_definition(n, n, lambda q, k: k in range(q - window + 1, q + 1))
    assert torch.equal(sliding_window_mask(n, window), expected)


@given(n=LENGTHS)
def test_the_widest_window_is_causal_and_the_narrowest_sees_itself(n):
    assert torch.equal(sliding_window_mask(n, n + 1), causal_mask(n))
    assert torch.equal(sliding_window_mask(n, 1), torch.eye(n, dtype=torch.bool))


@given(n=LENGTHS, data=st.data())
def test_prefix_mask_is_its_definition(n, data):
    prefix = data.draw(st.integers(0, n))
    expected = by_definition(n, n, lambda q, k: k <= q or (q < prefix and k < prefix))
    assert torch.equal(prefix_mask(n, prefix), expected)


@given(n=LENGTHS)
def test_no_prefix_is_causal_and_all_prefix_is_full(n):
    assert torch.equal(prefix_mask(n, 0), causal_mask(n))
    assert prefix_mask(n, n).all()


@given(ids=st.lists(st.integers(-2, 3), max_size=8))
def test_document_mask_is_its_definition(ids):
    n = len(ids)
    mask = document_mask(torch.tensor(ids, dtype=torch.long))
    assert torch.equal(mask, by_definition(n, n, lambda q, k: ids[q] == ids[k]))


def test_document_mask_keeps_leading_dimensions():
    ids = torch.tensor([[[7, 7, 2, 7], [5, 1, 1, 1], [0, 1, 2, 3]]] * 2)
    mask = document_mask(ids)
    assert mask.shape == (2, 3, 4, 4)
    for i in range(2):
        for j in range(3):
            assert torch.equal(mask[i, j], document_mask(ids[i, j]))


def test_every_mask_is_boolean_and_on_the_device_asked_for():
    lengths, ids = torch.tensor([2, 3]), torch.tensor([0, 0, 1])
    masks = [
        causal_mask(3),
        padding_mask(lengths, 3),
        sliding_window_mask(3, 2),
        prefix_mask(3, 2),
        document_mask(ids),
    ]
    assert all(mask.dtype == torch.bool for mask in masks)
    elsewhere = [
        causal_mask(3, device="meta"),
        sliding_window_mask(3, 2, device="meta"),
        prefix_mask(3, 2, device="meta"),
        document_mask(ids.to("meta")),
        mask_to_bias(causal_mask(3, device="meta")),
    ]
    assert all(mask.is_meta for mask in elsewhere)


# --- combination --------------------------------------------------------------------------------


@given(seed=SEEDS, B=st.integers(1, 3), n=st.integers(1, 6))
def test_combined_masks_allow_what_every_mask_allows(seed, B, n):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, n + 1, (B,), generator=generator)
    ids = torch.randint(0, 3, (B, n), generator=generator)
    combined = combine_masks(causal_mask(n), None, padding_mask(lengths, n), document_mask(ids))
    for b in range(B):
        length, document = lengths[b].item(), ids[b].tolist()
        expected = by_definition(
            n, n, lambda q, k, n=length, d=document: k <= q and k < n and d[q] == d[k]
        )
        assert torch.equal(combined[b], expected)


def test_none_allows_everything():
    mask = causal_mask(4)
    assert combine_masks() is None
    assert combine_masks(None, None) is None
    assert torch.equal(combine_masks(None, mask, None), mask)


def test_packed_documents_do_not_see_one_another():
    # Two documents packed in one row give the same outputs as each document alone.
    first, second = 4, 3
    n = first + second
    Q, K, V = randn(2, n, 5, seed=0), randn(2, n, 5, seed=1), randn(2, n, 6, seed=2)
    ids = torch.tensor([8] * first + [3] * second)
    packed = scaled_dot_product_attention(
        Q, K, V, combine_masks(document_mask(ids), causal_mask(n))
    )
    for part in (slice(0, first), slice(first, n)):
        alone = scaled_dot_product_attention(
            Q[:, part], K[:, part], V[:, part], causal_mask(part.stop - part.start)
        )
        assert_close(packed[:, part], alone)


def test_padding_changes_nothing_for_the_real_positions_of_any_head():
    B, H, S = 3, 2, 6
    lengths = torch.tensor([6, 2, 4])
    Q, K, V = randn(B, H, S, 4, seed=0), randn(B, H, S, 4, seed=1), randn(B, H, S, 5, seed=2)
    mask = padding_mask(lengths[:, None], S)  # (B, 1, 1, S): the same for all heads and queries
    assert mask.shape == (B, 1, 1, S)
    out = scaled_dot_product_attention(Q, K, V, mask)
    for b, n in enumerate(lengths.tolist()):
        alone = scaled_dot_product_attention(Q[b], K[b, :, :n], V[b, :, :n])
        assert_close(out[b], alone)


# --- masks and attention ------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["fused", "explicit"])
@given(T=st.integers(1, 7), seed=SEEDS)
def test_parallel_equals_sequential(implementation, T, seed):
    """L4, recap: one step with the mask gives what T steps with a growing cache give."""
    Q, K, V = (
        randn(2, T, 4, seed=seed),
        randn(2, T, 4, seed=seed + 1),
        randn(2, T, 3, seed=seed + 2),
    )
    parallel = scaled_dot_product_attention(Q, K, V, causal_mask(T), implementation=implementation)
    for t in range(T):
        query, keys, values = Q[:, t : t + 1], K[:, : t + 1], V[:, : t + 1]
        step = scaled_dot_product_attention(query, keys, values, implementation=implementation)
        masked_step = scaled_dot_product_attention(
            query, keys, values, causal_mask(1, t + 1), implementation=implementation
        )
        assert_close(step, parallel[:, t : t + 1])
        assert_close(masked_step, step)


@given(seed=SEEDS, T=st.integers(1, 5), S=st.integers(1, 5))
def test_bias_has_the_effect_of_its_mask(seed, T, S):
    mask = torch.rand(2, T, S, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[..., 0] = True  # a row of -inf has no softmax; that case belongs to the boolean mask
    Q, K, V = (
        randn(2, T, 4, seed=seed),
        randn(2, S, 4, seed=seed + 1),
        randn(2, S, 3, seed=seed + 2),
    )
    bias = mask_to_bias(mask, torch.float64)
    scores = randn(2, T, S, seed=seed + 3)
    assert_close((scores + bias).softmax(-1), masked_softmax(scores, mask))
    assert_close(
        F.scaled_dot_product_attention(Q, K, V, attn_mask=bias),
        scaled_dot_product_attention(Q, K, V, mask),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_bias_is_zero_where_allowed_and_minus_infinity_elsewhere(dtype):
    bias = mask_to_bias(causal_mask(2, 3), dtype)
    inf = float("inf")
    assert bias.dtype == dtype
    assert bias.tolist() == [[0.0, 0.0, -inf], [0.0, 0.0, 0.0]]
    assert mask_to_bias(causal_mask(2)).dtype == torch.float32


def test_masked_keys_get_a_weight_of_exactly_zero():
    Q, K = randn(2, 5, 4, seed=0), randn(2, 5, 4, seed=1)
    for mask in (causal_mask(5), sliding_window_mask(5, 2), prefix_mask(5, 3)):
        weights = attention_weights(Q, K, mask)
        assert torch.equal(weights != 0, mask.expand_as(weights))


# --- inputs are only read -----------------------------------------------------------------------


def test_no_input_is_changed():
    lengths, ids, mask = torch.tensor([1, 3]), torch.tensor([4, 4, 2]), causal_mask(3)
    inputs = [lengths, ids, mask]
    before = [t.clone() for t in inputs]
    combined = combine_masks(mask, padding_mask(lengths, 3), document_mask(ids))
    mask_to_bias(combined)
    mask_to_bias(mask)
    assert all(torch.equal(t, b) for t, b in zip(inputs, before, strict=True))


def test_non_contiguous_inputs_give_the_same_masks():
    lengths = torch.tensor([[1, 9], [3, 9]])[:, 0]
    ids = torch.tensor([[4, 9], [4, 9], [2, 9]])[:, 0]
    assert not lengths.is_contiguous()
    assert torch.equal(padding_mask(lengths, 3), padding_mask(lengths.contiguous(), 3))
    assert torch.equal(document_mask(ids), document_mask(ids.contiguous()))
    assert torch.equal(mask_to_bias(causal_mask(3).T), mask_to_bias(causal_mask(3)).T)


# --- errors name the value ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: causal_mask(-1), ValueError, "got n_queries = -1"),
        (lambda: causal_mask(3, 2), ValueError, "got n_queries = 3, n_keys = 2"),
        (lambda: padding_mask(torch.tensor([1, 5]), 4), ValueError, r"0\.\.n_keys = 4, got 1\.\.5"),
        (lambda: padding_mask(torch.tensor([-2, 3]), 4), ValueError, r"got -2\.\.3"),
        (lambda: sliding_window_mask(4, 0), ValueError, "at least 1, got 0"),
        (lambda: sliding_window_mask(-3, 2), ValueError, "got n_queries = -3"),
        (lambda: prefix_mask(4, 5), ValueError, r"0\.\.n = 4, got 5"),
        (lambda: prefix_mask(4, -1), ValueError, r"0\.\.n = 4, got -1"),
        (
            lambda: combine_masks(causal_mask(2), torch.ones(2, 2)),
            TypeError,
            r"True = may attend.*got torch\.float32",
        ),
        (lambda: mask_to_bias(torch.ones(2, dtype=torch.long)), TypeError, r"got torch\.int64"),
        (lambda: require_boolean(torch.zeros(2)), TypeError, r"got torch\.float32"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
def test_cuda_masks_equal_the_cpu():
    lengths, ids = torch.tensor([2, 5]), torch.tensor([1, 1, 0, 0, 1])
    pairs = [
        (causal_mask(3, 5, device="cuda"), causal_mask(3, 5)),
        (padding_mask(lengths.cuda(), 5), padding_mask(lengths, 5)),
        (sliding_window_mask(5, 2, device="cuda"), sliding_window_mask(5, 2)),
        (prefix_mask(5, 2, device="cuda"), prefix_mask(5, 2)),
        (document_mask(ids.cuda()), document_mask(ids)),
        (mask_to_bias(causal_mask(5, device="cuda")), mask_to_bias(causal_mask(5))),
    ]
    for on_gpu, on_cpu in pairs:
        assert on_gpu.is_cuda
        assert torch.equal(on_gpu.cpu(), on_cpu)
