"""The fast step computes what the modules compute."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from llmr_ref.cache import KVCache
from llmr_ref.config import TransformerConfig
from llmr_ref.decoding import DecodingStep
from llmr_ref.rope import RopeScaling
from llmr_ref.transformer import EncoderDecoder, Transformer

BASE = TransformerConfig(11, 24, 2, 4, d_head=10, max_length=40, rope_base=50.0)


def make(*, dtype=torch.float64, **changes):
    config = dataclasses.replace(BASE, **changes)
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config, dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.5)
    return model.requires_grad_(False)


def draw_tokens(*shape, seed=1):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(seed))


def both_ways(model, tokens, start, *, max_length=40, padding=None):
    """Logits of every token from `start` on: by the step, and by the modules."""
    B, T = tokens.shape
    kinds = {"device": tokens.device, "dtype": model.lm_head.weight.dtype}
    ours, theirs = (KVCache(model.config, B, max_length, padding=padding, **kinds) for _ in "ab")
    fast, slow = [], []
    with torch.inference_mode():
        if start:
            model(tokens[:, :start], cache=ours)
            model(tokens[:, :start], cache=theirs)
        step = DecodingStep(model, ours)
        for n in range(start, T):
            fast.append(step(tokens[:, n]).clone())
            slow.append(model(tokens[:, n : n + 1], cache=theirs)[:, -1])
    assert ours.length == theirs.length == T
    return torch.stack(fast), torch.stack(slow)


@settings(max_examples=80)
@given(data=st.data())
def test_the_step_gives_what_the_modules_give(data):
    model = make(
        n_kv_heads=data.draw(st.sampled_from([1, 2, 4])),
        positions=data.draw(st.sampled_from(["rope", "learned", "sinusoidal", "none"])),
        rope_layout=data.draw(st.sampled_from(["interleaved", "half"])),
        window=data.draw(st.sampled_from([None, 1, 3, 5])),
        norm=data.draw(st.sampled_from(["rmsnorm", "layernorm", "nonparametric"])),
        activation=data.draw(st.sampled_from(["swiglu", "gelu", "gelu_tanh", "relu"])),
        bias=data.draw(st.booleans()),
        norm_bias=data.draw(st.booleans()),
        tie_embeddings=data.draw(st.booleans()),
    )
    T = data.draw(st.integers(1, 10))
    start = data.draw(st.integers(0, T - 1))
    B = data.draw(st.integers(1, 3))
    padding = data.draw(
        st.none() | st.lists(st.integers(0, start), min_size=B, max_size=B).map(torch.tensor)
    )
    fast, slow = both_ways(model, draw_tokens(B, T), start, padding=padding)
    assert_close(fast, slow, rtol=0, atol=1e-13 * slow.abs().max().item())


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_the_number_of_threads_that_share_a_product_changes_nothing(threads, bias):
    model = make(bias=bias)  # widths of 10, 24, 64 and 11: not all are divided by all
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        fast, slow = both_ways(model, draw_tokens(3, 6), 2)
    finally:
        torch.set_num_threads(before)
    assert_close(fast, slow, rtol=0, atol=1e-13 * slow.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_other_dtypes_stay_and_agree_to_their_precision(dtype, layout):
    model = make(dtype=dtype, rope_layout=layout, n_kv_heads=2)
    fast, slow = both_ways(model, draw_tokens(2, 8), 3)
    assert fast.dtype == dtype
    # A few dozen roundings on the way to each logit.
    atol = 32 * torch.finfo(dtype).eps * slow.abs().max().item()
    assert_close(fast, slow, rtol=0, atol=atol)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_a_ring_goes_on_past_the_length_that_the_cache_was_made_for(layout):
    model = make(window=3, rope_layout=layout)
    fast, slow = both_ways(model, draw_tokens(2, 30), 4, max_length=5)
    assert_close(fast, slow, rtol=0, atol=1e-12 * slow.abs().max().item())


@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn", "llama3"])
def test_scaled_rotations_are_those_of_the_model(kind):
    model = make(rope_scaling=RopeScaling(kind, 4.0, 5))
    fast, slow = both_ways(model, draw_tokens(2, 12), 4)
    assert_close(fast, slow, rtol=0, atol=1e-13 * slow.abs().max().item())


def test_the_step_writes_what_the_modules_write():
    model = make(n_kv_heads=2)
    tokens = draw_tokens(2, 5)
    ours, theirs = (KVCache(model.config, 2, dtype=torch.float64) for _ in "ab")
    with torch.inference_mode():
        step = DecodingStep(model, ours)
        for token in tokens.unbind(-1):
            step(token)
        model(tokens, cache=theirs)
    assert_close(ours.storage[..., :5, :], theirs.storage[..., :5, :])


def test_neither_tokens_nor_weights_are_changed():
    model = make(bias=True)
    tokens = draw_tokens(2, 6)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    copy = tokens.clone()
    both_ways(model, tokens, 2)
    assert torch.equal(tokens, copy)
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name]), name


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"dropout": 0.1}, True),  # only while training
        ({"rope_scaling": RopeScaling("yarn", 4.0, 5)}, True),
        ({"rope_scaling": RopeScaling("dynamic", 4.0, 50)}, False),
        ({"block": "post"}, False),
        ({"block": "parallel"}, False),
        ({"positions": "t5"}, False),
        ({"positions": "alibi"}, False),
        ({"implementation": "explicit"}, False),
    ],
)
def test_the_step_knows_which_models_it_computes(changes, fits):
    model = make(**changes).eval()
    assert DecodingStep.fits(model) == fits
    if not fits:
        with pytest.raises(ValueError, match="general path"):
            DecodingStep(model, KVCache(model.config, 1, dtype=torch.float64))


def test_the_step_computes_no_dropout_and_no_encoder_decoder():
    assert not DecodingStep.fits(make(dropout=0.1).train())
    assert DecodingStep.fits(make().train())
    assert not DecodingStep.fits(EncoderDecoder(BASE, device="meta"))


def test_a_cache_of_another_model_is_refused():
    with pytest.raises(ValueError, match="another configuration"):
        DecodingStep(make(), KVCache(dataclasses.replace(BASE, n_layers=3), 1))


def test_a_full_cache_stops_the_step():
    model = make()
    with pytest.raises(ValueError, match="holds 5 tokens of at most 5, and 1 more"):
        both_ways(model, draw_tokens(2, 6), 4, max_length=5)


def test_a_token_outside_the_vocabulary_is_named():
    model = make()
    step = DecodingStep(model, KVCache(model.config, 1, dtype=torch.float64))
    with pytest.raises(IndexError, match=r"0\.\.10, got 11\.\.11"):
        step(torch.tensor([11]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal", "none"])
@pytest.mark.parametrize("padding", [None, [0, 1, 2]])
def test_the_step_on_cuda_gives_what_the_modules_give(positions, padding):
    model = make(positions=positions, n_kv_heads=2, bias=True, norm="layernorm").cuda()
    if padding is not None:
        padding = torch.tensor(padding)
    fast, slow = both_ways(model, draw_tokens(3, 8).cuda(), 3, padding=padding)
    assert fast.is_cuda
    assert_close(fast, slow, rtol=0, atol=1e-12 * slow.abs().max().item())
