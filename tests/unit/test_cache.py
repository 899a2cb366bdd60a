"""With the cache a model gives what it gives without, however the sequence is cut into pieces."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from llmr_ref.cache import KVCache
from llmr_ref.config import TransformerConfig
from llmr_ref.rope import RopeScaling
from llmr_ref.transformer import Transformer

POSITIONS = ["rope", "learned", "sinusoidal", "t5", "alibi", "none"]
BASE = TransformerConfig(11, 24, 2, 4, d_head=10, max_length=40, rope_base=50.0)


def make(seed=0, *, dtype=torch.float64, **changes):
    """A model whose weights are far from small, so that every position matters."""
    config = dataclasses.replace(BASE, **changes)
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config, dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.5)
    return model.requires_grad_(False)


def draw_tokens(*shape, seed=1):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(seed))


def in_pieces(model, tokens, cache, pieces):
    return torch.cat([model(piece, cache=cache) for piece in tokens.split(pieces, dim=-1)], dim=-2)


def close(actual, expected):
    """Sums of up to a few hundred terms in another order: 1e-13 of the largest logit."""
    assert_close(actual, expected, rtol=0, atol=1e-13 * expected.abs().max().item())


@st.composite
def cuts(draw, T):
    """Lengths of pieces that add up to T."""
    inner = sorted(draw(st.sets(st.integers(1, T - 1))))
    return [b - a for a, b in zip([0, *inner], [*inner, T], strict=True)]


# --- equal to no cache -------------------------------------------------------------------------


@pytest.mark.parametrize("positions", POSITIONS)
@settings(max_examples=25)
@given(data=st.data())
def test_pieces_through_a_cache_give_what_the_whole_gives(positions, data):
    T = data.draw(st.integers(2, 14))
    model = make(
        positions=positions,
        n_kv_heads=data.draw(st.sampled_from([1, 2, 4])),
        window=data.draw(st.sampled_from([None, 1, 2, 3, 5, 60])),
        implementation=data.draw(st.sampled_from(["fused", "explicit"])),
        rope_layout=data.draw(st.sampled_from(["interleaved", "half"])),
        block=data.draw(st.sampled_from(["pre", "post", "parallel"])),
    )
    B = data.draw(st.integers(1, 3))
    tokens = draw_tokens(B, T)
    cache = KVCache(
        model.config, B, data.draw(st.sampled_from([T, T + 3, 40])), dtype=torch.float64
    )
    pieces = data.draw(cuts(T))
    close(in_pieces(model, tokens, cache, pieces), model(tokens))
    assert cache.length == T


@pytest.mark.parametrize("positions", POSITIONS)
@settings(max_examples=15)
@given(data=st.data())
def test_a_row_with_padding_on_the_left_gives_what_it_gives_alone(positions, data):
    T = data.draw(st.integers(2, 12))
    model = make(
        positions=positions,
        n_kv_heads=data.draw(st.sampled_from([1, 2, 4])),
        window=data.draw(st.sampled_from([None, 1, 3, 5])),
    )
    padding = torch.tensor([0, data.draw(st.integers(0, T - 1)), T - 1])
    tokens = draw_tokens(3, T)
    cache = KVCache(model.config, 3, dtype=torch.float64, padding=padding)
    together = in_pieces(model, tokens, cache, data.draw(cuts(T)))
    assert together.isfinite().all()
    for row, out, start in zip(tokens, together, padding, strict=True):
        close(out[start:], model(row[start:]))


@given(kind=st.sampled_from(["linear", "ntk", "yarn", "llama3"]), pieces=cuts(12))
@settings(max_examples=20)
def test_scaled_rotations_go_through_a_cache(kind, pieces):
    model = make(rope_scaling=RopeScaling(kind, 4.0, 5))
    tokens = draw_tokens(2, 12)
    cache = KVCache(model.config, 2, dtype=torch.float64)
    close(in_pieces(model, tokens, cache, pieces), model(tokens))


def test_dynamic_scaling_goes_through_a_cache_up_to_the_length_where_it_begins():
    model = make(rope_scaling=RopeScaling("dynamic", 4.0, 8))
    tokens = draw_tokens(2, 8)
    cache = KVCache(model.config, 2, 8, dtype=torch.float64)
    close(in_pieces(model, tokens, cache, [3, 4, 1]), model(tokens))
    with pytest.raises(ValueError, match=r"more than 8 tokens, got max_length = 9.*cache=False"):
        KVCache(model.config, 2, 9)


def test_float32_misses_the_whole_by_rounding_alone():
    model = make(dtype=torch.float32)
    tokens = draw_tokens(2, 20)
    whole = model(tokens)
    out = in_pieces(model, tokens, KVCache(model.config, 2), [7, 1, 1, 6, 5])
    assert out.dtype == torch.float32
    assert_close(out, whole, rtol=0, atol=2e-5 * whole.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_cache_has_the_dtype_asked_for(dtype):
    model = make(dtype=dtype)
    cache = KVCache(model.config, 2, dtype=dtype)
    assert cache.storage.dtype == dtype
    assert in_pieces(model, draw_tokens(2, 5), cache, [3, 2]).dtype == dtype


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 7, 90])
def test_bytes_are_two_tensors_of_every_layer(kv, window):
    config = dataclasses.replace(BASE, n_kv_heads=kv, window=window)
    cache = KVCache(config, 3, 30, dtype=torch.float16)
    slots = min(30, window or 30)
    assert cache.slots == slots
    # K and V, layers, sequences, heads, slots, d_head, bytes of a float16
    assert cache.bytes == 2 * 2 * 3 * kv * slots * 10 * 2
    assert cache.bytes == sum(layer.K.nbytes + layer.V.nbytes for layer in cache.layers)


def test_max_length_is_the_configurations_unless_told():
    assert KVCache(BASE, 1).slots == 40


def test_a_window_bounds_the_memory_of_a_sequence_without_end():
    model = make(window=4, positions="alibi")
    cache = KVCache(model.config, 1, 40, dtype=torch.float64)
    before = cache.storage.data_ptr(), cache.bytes
    tokens = draw_tokens(1, 100)
    out = in_pieces(model, tokens, cache, [3, *[1] * 87, 10])
    close(out, model(tokens))
    assert (cache.storage.data_ptr(), cache.bytes) == before
    assert cache.length == 100


def test_storage_is_written_where_it_lies():
    model = make()
    cache = KVCache(model.config, 2, dtype=torch.float64)
    storage = cache.storage.data_ptr()
    in_pieces(model, draw_tokens(2, 9), cache, [4, 5])
    assert cache.storage.data_ptr() == storage
    for layer, stored in zip(cache.layers, cache.storage, strict=True):
        assert layer.K.data_ptr() == stored.data_ptr()


def test_the_cache_lives_where_it_is_told_to():
    cache = KVCache(BASE, 2, device="meta", padding=torch.tensor([0, 1]))
    assert cache.storage.is_meta
    assert cache.padding.is_meta
    cache.length = 3
    assert cache.mask(2).is_meta
    assert cache.key_positions(2).is_meta


def test_no_gradient_goes_through_the_cache():
    model = make().requires_grad_(True)
    cache = KVCache(model.config, 2, dtype=torch.float64)
    model(draw_tokens(2, 5), cache=cache)
    assert not cache.storage.requires_grad


# --- what a model asks -------------------------------------------------------------------------


def test_no_mask_is_needed_for_the_first_piece_or_for_one_token():
    cache = KVCache(dataclasses.replace(BASE, window=5), 2, 40)
    assert cache.mask(5) is None
    assert cache.mask(6) is not None
    cache.advance(5)
    assert cache.mask(1) is None
    assert cache.mask(2) is not None
    assert KVCache(BASE, 2).mask(40) is None


@pytest.mark.parametrize(
    ("length", "T", "positions"),
    [
        (0, 3, [0, 1, 2]),
        (2, 2, [0, 1, 2, 3]),
        (3, 3, [0, 1, 2, 3, 4, 5]),  # more than four: the new ones stand behind the old
        (4, 1, [4, 1, 2, 3]),  # token 4 takes the place of token 0
        (6, 1, [4, 5, 6, 3]),
        (6, 2, [4, 5, 2, 3, 6, 7]),
        (0, 6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_ring_knows_which_token_lies_where(length, T, positions):
    cache = KVCache(dataclasses.replace(BASE, window=4), 1, 40)
    cache.length = length
    assert cache.key_positions(T).tolist() == positions


def test_positions_are_counted_from_the_first_token_that_is_no_padding():
    cache = KVCache(BASE, 3, padding=torch.tensor([0, 2, 4]))
    assert cache.positions(3).tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]
    cache.advance(3)
    assert cache.positions(2).tolist() == [[3, 4], [1, 2], [0, 0]]
    assert cache.key_positions(1).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert cache.mask(1).tolist() == [[[1, 1, 1, 1]], [[0, 0, 1, 1]], [[0, 0, 0, 0]]]
    assert KVCache(BASE, 3).positions(2) is None


# --- reset, crop, select -----------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 9])
def test_after_a_crop_the_sequence_goes_on_from_there(window):
    model = make(window=window)
    tokens, other = draw_tokens(2, 9), draw_tokens(2, 4, seed=5)
    cache = KVCache(model.config, 2, dtype=torch.float64)
    in_pieces(model, tokens, cache, [9])
    cache.crop(5)
    assert cache.length == 5
    expected = model(torch.cat((tokens[:, :5], other), dim=-1))[:, 5:]
    close(model(other, cache=cache), expected)


def test_after_a_reset_the_cache_is_as_new():
    model = make()
    tokens = draw_tokens(2, 6)
    cache = KVCache(model.config, 2, dtype=torch.float64, padding=torch.tensor([1, 0]))
    in_pieces(model, tokens, cache, [6])
    cache.reset()
    assert cache.length == 0
    close(in_pieces(model, tokens, cache, [2, 4]), model(tokens))


@pytest.mark.parametrize("window", [None, 4])
def test_selected_rows_go_on_from_each_others_past(window):
    model = make(window=window)
    tokens, new = draw_tokens(3, 6), draw_tokens(3, 2, seed=5)
    padding = torch.tensor([0, 1, 2])
    cache = KVCache(model.config, 3, dtype=torch.float64, padding=padding)
    in_pieces(model, tokens, cache, [6])
    rows = torch.tensor([2, 2, 0])
    cache.select(rows)
    assert rows.tolist() == [2, 2, 0]
    assert padding.tolist() == [0, 1, 2]
    out = in_pieces(model, new, cache, [1, 1])
    for n, row in enumerate(rows.tolist()):
        sequence = torch.cat((tokens[row, padding[row] :], new[n]))
        close(out[n], model(sequence)[-2:])


# --- errors name the value ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "changes", "error", "message"),
    [
        ((0,), {}, ValueError, "batch_size must be at least 1, got 0"),
        ((1, 0), {}, ValueError, "max_length must be at least 1, got 0"),
        ((1,), {"config": {"causal": False}}, ValueError, "causal=True"),
        ((2,), {"padding": torch.tensor([1])}, ValueError, r"each of 2 sequences.*\(1,\)"),
        ((1,), {"padding": torch.tensor([-1])}, ValueError, "at least 0, got -1"),
        ((1,), {"padding": torch.tensor([0.5])}, TypeError, r"whole numbers, got torch\.float32"),
        ((1,), {"padding": torch.tensor([True])}, TypeError, r"got torch\.bool"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(arguments, changes, error, message):
    config = dataclasses.replace(BASE, **changes.pop("config", {}))
    with pytest.raises(error, match=message):
        KVCache(config, *arguments, **changes)


@pytest.mark.parametrize("window", [None, 30])
def test_a_full_cache_names_its_length_and_the_remedy(window):
    model = make(window=window)
    cache = KVCache(model.config, 2, 8, dtype=torch.float64)
    model(draw_tokens(2, 6), cache=cache)
    message = "holds 6 tokens of at most 8, and 3 more are to come; make it with max_length=9"
    with pytest.raises(ValueError, match=message):
        model(draw_tokens(2, 3), cache=cache)
    assert cache.length == 6
    with pytest.raises(ValueError, match=message):
        cache.layers[0].append(*torch.zeros(2, 2, 4, 3, 10, dtype=torch.float64))
    model(draw_tokens(2, 2), cache=cache)  # what still fits is read
    assert cache.length == 8


def test_keys_that_do_not_fit_are_refused():
    model = make()
    cache = KVCache(model.config, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"3 sequences: K must be .* = \(3, 4, 5, 10\), got \(2,"):
        model(draw_tokens(2, 5), cache=cache)
    K = torch.zeros(3, 4, 2, 10, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"V must be .* got \(3, 4, 1, 10\)"):
        cache.layers[0].append(K, K[:, :, :1])
    with pytest.raises(TypeError, match=r"holds torch\.float64, got a K of torch\.float32"):
        cache.layers[0].append(K.float(), K)


@pytest.mark.parametrize("length", [-1, 7])
def test_a_crop_to_tokens_that_are_not_there_is_refused(length):
    cache = KVCache(BASE, 1)
    cache.advance(6)
    with pytest.raises(ValueError, match=rf"0\.\.6, the tokens held, got {length}"):
        cache.crop(length)


def test_a_ring_cannot_bring_back_what_it_has_overwritten():
    cache = KVCache(dataclasses.replace(BASE, window=4), 1)
    cache.advance(6)
    cache.crop(6)
    with pytest.raises(ValueError, match="cannot crop to 5 tokens: of 6 the ring holds the last 4"):
        cache.crop(5)


def test_a_selection_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"need 3 rows, got \(2,\)"):
        KVCache(BASE, 3).select(torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["mask", "positions"])
def test_mask_and_positions_are_the_caches_own(name):
    model = make()
    cache = KVCache(model.config, 1, dtype=torch.float64)
    given_too = {"mask": torch.ones(2, 2).bool(), "positions": torch.arange(2)}[name]
    with pytest.raises(ValueError, match=f"the {name}"):
        model(draw_tokens(1, 2), cache=cache, **{name: given_too})


# --- the same on CUDA --------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("window", [None, 4])
def test_cuda_gives_what_the_cpu_gives(positions, window):
    model = make(positions=positions, window=window, n_kv_heads=2)
    tokens, padding = draw_tokens(3, 9), torch.tensor([0, 2, 5])
    out = []
    for device in ("cpu", "cuda"):
        cache = KVCache(model.config, 3, padding=padding, device=device, dtype=torch.float64)
        out.append(in_pieces(model.to(device), tokens.to(device), cache, [4, 1, 3, 1]).cpu())
    real = torch.arange(9) >= padding[:, None]
    assert_close(out[1][real], out[0][real], rtol=0, atol=1e-12 * out[0].abs().max().item())
