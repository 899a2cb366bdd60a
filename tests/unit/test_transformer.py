"""The transformer against torch's own and Hugging Face's, and by what it promises."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from llmr_ref.config import PRESETS, TransformerConfig, preset
from llmr_ref.masks import document_mask, padding_mask, prefix_mask, sliding_window_mask
from llmr_ref.rope import RopeScaling
from llmr_ref.transformer import Block, EncoderDecoder, Transformer

BOTH = pytest.mark.parametrize("implementation", ["fused", "explicit"])
POSITIONS = ["rope", "learned", "sinusoidal", "t5", "alibi", "none"]
BLOCKS = ["pre", "post", "parallel"]
# Nothing here is another thing by accident: 3 heads of 4 are not d_model, d_ff is no multiple of it.
SMALL = TransformerConfig(
    vocab_size=17, d_model=10, n_layers=2, n_heads=6, n_kv_heads=2, d_head=4, d_ff=14, max_length=12
)


def small(**changes):
    return dataclasses.replace(SMALL, **changes)


def model_of(config, seed=0, dtype=torch.float64):
    """Weights of size one over the root of the width, norms and biases that differ from 1 and 0."""
    model = (EncoderDecoder if config is None else Transformer)(config, dtype=dtype)
    return with_loud_weights(model, seed)


def with_loud_weights(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            scale = weight.shape[-1] ** -0.5 if weight.dim() == 2 else 0.3
            offset = 1.0 if "ln" in name and name.endswith("weight") else 0.0
            weight.copy_(offset + scale * drawn)
    return model


def tokens_of(*shape, vocab_size=17, seed=0):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


# --- two paths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_explicit_path_equals_the_fused_one(block, positions):
    activation = {"pre": "swiglu", "post": "relu", "parallel": "gelu"}[block]
    norm = {"pre": "rmsnorm", "post": "layernorm", "parallel": "nonparametric"}[block]
    config = small(
        block=block, positions=positions, activation=activation, norm=norm, norm_bias=True
    )
    fused = model_of(config)
    explicit = Transformer(
        dataclasses.replace(config, implementation="explicit"), dtype=torch.float64
    )
    explicit.load_state_dict(fused.state_dict())
    tokens = tokens_of(2, 7)
    assert_close(explicit(tokens), fused(tokens))
    for model in (fused, explicit):
        model(tokens).square().sum().backward()
    for (name, ours), theirs in zip(fused.named_parameters(), explicit.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, msg=name)


# --- against torch --------------------------------------------------------------------------------


def torch_names(ours, prefix=""):
    """Our block's state in the names of `nn.TransformerEncoderLayer` or its decoder."""
    state = {}
    attentions = [("attn", "self_attn")]
    cross = "cross_attn.q_proj.weight" in ours
    if cross:
        attentions.append(("cross_attn", "multihead_attn"))
    for mine, theirs in attentions:
        for kind in ("weight", "bias"):
            parts = [ours[f"{mine}.{name}_proj.{kind}"] for name in "qkv"]
            state[f"{theirs}.in_proj_{kind}"] = torch.cat(parts)
            state[f"{theirs}.out_proj.{kind}"] = ours[f"{mine}.output_proj.{kind}"]
    norms = {"ln1": "norm1", "ln2": "norm3" if cross else "norm2", "ln_cross": "norm2"}
    modules = {"ffn.w1": "linear1", "ffn.w2": "linear2", **norms}
    for mine, theirs in modules.items():
        for kind in ("weight", "bias"):
            if f"{mine}.{kind}" in ours:
                state[f"{theirs}.{kind}"] = ours[f"{mine}.{kind}"]
    return {prefix + name: tensor for name, tensor in state.items()}


VASWANI = TransformerConfig(
    vocab_size=17,
    d_model=12,
    n_layers=2,
    n_heads=3,
    d_ff=20,
    max_length=12,
    norm="layernorm",
    norm_bias=True,
    activation="relu",
    positions="none",
    bias=True,
)


@BOTH
@pytest.mark.parametrize("block", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_equals_torchs(implementation, block, activation):
    config = dataclasses.replace(
        VASWANI, block=block, activation=activation, causal=False, implementation=implementation
    )
    model = model_of(config)
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, 0.0, activation, batch_first=True, norm_first=block == "pre", dtype=torch.float64
    )
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    for ours, other in zip(model.layers, theirs.layers, strict=True):
        other.load_state_dict(torch_names(ours.state_dict()))
    tokens = tokens_of(2, 5)
    mask = padding_mask(torch.tensor([5, 3]), 5)
    expected = theirs(model.token_embeddings(tokens), src_key_padding_mask=~mask[:, 0])
    out = model.hidden(tokens, mask=mask)
    assert_close(out[0], model.ln_final(expected)[0])
    assert_close(out[1, :3], model.ln_final(expected)[1, :3])


@BOTH
@pytest.mark.parametrize("block", ["pre", "post"])
def test_an_encoder_decoder_equals_torchs(implementation, block):
    config = dataclasses.replace(VASWANI, block=block, implementation=implementation)
    model = with_loud_weights(EncoderDecoder(config, dtype=torch.float64))
    theirs = nn.Transformer(
        12, 3, 2, 2, 20, 0.0, batch_first=True, norm_first=block == "pre", dtype=torch.float64
    )
    stacks = [(model.encoder, theirs.encoder), (model.decoder, theirs.decoder)]
    for ours, other in stacks:
        for mine, layer in zip(ours.layers, other.layers, strict=True):
            layer.load_state_dict(torch_names(mine.state_dict()))
        if block == "pre":
            other.norm.load_state_dict(ours.ln_final.state_dict())
        else:
            other.norm = None  # ours has no norm after a block that ends in one
    source, target = tokens_of(2, 6), tokens_of(2, 4, seed=1)
    mask = padding_mask(torch.tensor([6, 4]), 6)
    expected = theirs(
        model.token_embeddings(source),
        model.token_embeddings(target),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64),
        src_key_padding_mask=~mask[:, 0],
        memory_key_padding_mask=~mask[:, 0],
    )
    assert_close(model(source, target, source_mask=mask), model.lm_head(expected))


# --- what masks and positions promise -----------------------------------------------------------


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_later_token_changes_no_earlier_logit(block, positions):
    model = model_of(small(block=block, positions=positions))
    tokens = tokens_of(2, 7)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 17
    before, after = model(tokens), model(changed)
    assert_close(after[:, :4], before[:, :4])
    assert not torch.isclose(after[:, 4:], before[:, 4:]).all(-1).any()


def test_sequences_of_a_batch_know_nothing_of_one_another():
    model = model_of(SMALL)
    tokens = tokens_of(3, 2, 7)
    alone = torch.stack([torch.stack([model(row) for row in rows]) for rows in tokens])
    assert_close(model(tokens), alone)


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal", "t5", "alibi"])
def test_packed_documents_equal_the_same_documents_apart(positions):
    model = model_of(small(positions=positions))
    first, second = tokens_of(1, 3), tokens_of(1, 4, seed=1)
    packed = torch.cat((first, second), dim=1)
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    restarting = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    out = model(packed, mask=document_mask(ids), positions=restarting)
    assert_close(out, torch.cat((model(first), model(second)), dim=1))


def test_without_positions_an_encoder_cannot_tell_the_order_and_a_decoder_can():
    tokens = torch.tensor([3, 5, 3, 9, 1])
    order = torch.tensor([4, 0, 3, 1, 2])
    encoder = model_of(small(positions="none", causal=False))
    assert_close(encoder(tokens[order]), encoder(tokens)[order])
    decoder = model_of(small(positions="none"))
    assert not torch.isclose(decoder(tokens[order]), decoder(tokens)[order]).all()


@pytest.mark.parametrize("positions", ["rope", "t5", "alibi"])
def test_relative_positions_do_not_notice_a_shift(positions):
    model = model_of(small(positions=positions))
    tokens, at = tokens_of(2, 6), torch.arange(6)
    assert_close(model(tokens, positions=at + 1000), model(tokens))
    assert not torch.isclose(model(tokens, positions=3 * at), model(tokens))[:, 1:].all(-1).any()


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_absolute_positions_notice_a_shift(positions):
    model = model_of(small(positions=positions))
    tokens = tokens_of(2, 6)
    shifted = model(tokens, positions=torch.arange(6) + 1)
    assert not torch.isclose(shifted, model(tokens)).all(-1).any()


def test_positions_may_differ_from_sequence_to_sequence():
    model = model_of(SMALL)
    tokens = tokens_of(2, 5)
    at = torch.tensor([[0, 1, 2, 3, 4], [7, 3, 9, 9, 0]])
    both = torch.stack([model(row, positions=own) for row, own in zip(tokens, at, strict=True)])
    assert_close(model(tokens, positions=at), both)


@BOTH
@given(length=st.integers(1, 9), window=st.integers(1, 9))
@settings(max_examples=20)
def test_a_window_is_the_sliding_window_mask(implementation, length, window):
    config = small(implementation=implementation)
    tokens = tokens_of(2, length)
    windowed = model_of(dataclasses.replace(config, window=window))
    expected = model_of(config)(tokens, mask=sliding_window_mask(length, window))
    assert_close(windowed(tokens), expected)


def test_a_mask_of_the_reader_is_combined_with_the_causal_one():
    encoder, decoder = model_of(small(causal=False)), model_of(SMALL)
    tokens = tokens_of(2, 6)
    assert_close(encoder(tokens, mask=prefix_mask(6, 0)), decoder(tokens))
    assert_close(decoder(tokens, mask=prefix_mask(6, 4)), decoder(tokens))
    assert not torch.isclose(encoder(tokens, mask=prefix_mask(6, 4)), decoder(tokens)).all()


def test_tables_of_a_shorter_sequence_do_not_serve_a_longer_or_finer_one():
    config = small(max_length=4)
    model = model_of(config, dtype=torch.float32)
    model(tokens_of(1, 2))
    tokens = tokens_of(1, 11)
    assert_close(model(tokens), model(tokens, positions=torch.arange(11)))
    fine = model.double()
    expected = model_of(config, dtype=torch.float32).double()(tokens)
    assert_close(fine(tokens), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "ntk", "dynamic", "yarn", "llama3"])
def test_scaled_positions_change_the_model_past_its_length_and_cached_tables_too(kind):
    scaling = RopeScaling(kind, factor=4.0, original_length=8, beta_fast=2.0)
    scaled, plain = model_of(small(rope_scaling=scaling)), model_of(SMALL)
    tokens = tokens_of(1, 20)
    assert not torch.isclose(scaled(tokens), plain(tokens)).all()
    assert_close(scaled(tokens), scaled(tokens, positions=torch.arange(20)))
    if kind == "dynamic":
        assert_close(scaled(tokens[:, :8]), plain(tokens[:, :8]))


# --- shapes, dtypes, devices ----------------------------------------------------------------------


def test_state_dict_keys_are_those_of_the_public_courses():
    names = [f"attn.{name}_proj" for name in ("q", "k", "v", "output")]
    names += ["ffn.w1", "ffn.w2", "ffn.w3", "ln1", "ln2"]
    layers = {f"layers.{n}.{name}.weight" for n in range(2) for name in names}
    assert set(Transformer(SMALL).state_dict()) == layers | {
        "token_embeddings.weight",
        "ln_final.weight",
        "lm_head.weight",
    }
    learned = Transformer(small(positions="learned")).state_dict()
    assert "position_embeddings.weight" in learned


def test_parallel_blocks_have_one_norm_and_post_norm_models_no_final_one():
    assert not any("ln2" in name for name in Transformer(small(block="parallel")).state_dict())
    assert "ln_final.weight" not in Transformer(small(block="post")).state_dict()


def test_tied_embeddings_are_one_parameter():
    model = Transformer(small(tie_embeddings=True))
    assert model.lm_head.weight is model.token_embeddings.weight
    untied = Transformer(SMALL)
    shared = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in untied.parameters()) == shared + 17 * 10


@BOTH
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_in_is_dtype_out(implementation, positions, dtype):
    config = small(positions=positions, implementation=implementation)
    model = Transformer(config, dtype=dtype)
    tokens = tokens_of(2, 5)
    logits = model(tokens)
    assert logits.dtype == dtype and logits.shape == (2, 5, 17)
    exact = Transformer(config, dtype=torch.float64)
    exact.load_state_dict(model.state_dict())
    tolerance = 30 * torch.finfo(dtype).eps
    assert_close(logits.double(), exact(tokens), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_model_on_the_meta_device_computes_shapes_and_no_numbers(positions):
    model = Transformer(small(positions=positions), device="meta", dtype=torch.bfloat16)
    tensors = [*model.parameters(), *model.buffers()]
    assert {(t.device.type, t.dtype) for t in tensors} == {("meta", torch.bfloat16)}
    logits = model(torch.zeros(2, 5, dtype=torch.int64, device="meta"))
    assert logits.shape == (2, 5, 17)


def test_a_model_that_was_moved_computes_its_tables_anew():
    model = Transformer(SMALL, device="meta")
    model(torch.zeros(1, 5, dtype=torch.int64, device="meta"))
    model.to_empty(device="cpu")
    with_loud_weights(model)
    assert_close(model(tokens_of(1, 5)), model_of(SMALL, dtype=torch.float32)(tokens_of(1, 5)))


def test_a_forward_pass_changes_neither_tokens_nor_mask_nor_positions():
    model = model_of(SMALL)
    tokens, mask, at = tokens_of(2, 5), prefix_mask(5, 2), torch.tensor([4, 1, 0, 8, 8])
    copies = [t.clone() for t in (tokens, mask, at)]
    model(tokens, mask=mask, positions=at)
    for given_tensor, copy in zip((tokens, mask, at), copies, strict=True):
        assert torch.equal(given_tensor, copy)


def test_dropout_acts_in_training_alone():
    model = with_loud_weights(Transformer(small(dropout=0.5), dtype=torch.float64))
    tokens = tokens_of(1, 5)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert_close(model(tokens), model_of(SMALL)(tokens))


def test_embeddings_of_any_origin_enter_where_tokens_would():
    model = model_of(SMALL)
    tokens = tokens_of(2, 5)
    hidden = model.hidden(embeddings=model.token_embeddings(tokens))
    assert_close(hidden, model.hidden(tokens))
    assert_close(model.lm_head(hidden), model(tokens))


def test_new_weights_have_gpt2s_spread():
    config = TransformerConfig(500, 64, 8, 4, d_ff=256, bias=True, activation="gelu")
    model = Transformer(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(weight, torch.zeros_like(weight)), name
        elif weight.dim() == 2:
            into_stream = name.endswith(("output_proj.weight", "ffn.w2.weight"))
            expected = 0.02 / math.sqrt(2 * 8) if into_stream else 0.02
            # The spread of n draws is known to about 1 in sqrt(2 n); five of those is never reached.
            assert weight.std().item() == pytest.approx(
                expected, rel=5 / math.sqrt(2 * weight.numel())
            ), name


def test_a_compiled_model_computes_the_same():
    model = model_of(SMALL, dtype=torch.float32)
    tokens = tokens_of(2, 7)
    # "eager" traces the whole model and fails on a break, without calling a C++ compiler.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(tokens), model(tokens))


# --- the lectures' models -------------------------------------------------------------------------

# Parameters of the released models, from their checkpoints.
RELEASED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "olmo-7b": 6_888_095_744,
    "llama2-7b": 6_738_415_616,
    "falcon-7b": 7_217_189_760,
    "smollm2-135m": 134_515_008,
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built_on_the_meta_device(name):
    model = Transformer(preset(name), device="meta")
    count = sum(p.numel() for p in model.parameters())
    if name in RELEASED:
        assert count == RELEASED[name]
    logits = model(torch.zeros(1, 3, dtype=torch.int64, device="meta"))
    assert logits.shape == (1, 3, PRESETS[name].vocab_size)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("gpt3-small", 0.125),
        ("gpt3-medium", 0.35),
        ("gpt3-large", 0.76),
        ("gpt3-2.7b", 2.7),
        ("gpt3-6.7b", 6.7),
        ("gpt3-13b", 13.0),
        ("gpt3-175b", 175.0),
        ("palm-8b", 8.63),
    ],
)
def test_presets_have_about_as_many_parameters_as_their_papers_say(name, billions):
    count = sum(p.numel() for p in Transformer(preset(name), device="meta").parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.02)


def test_a_preset_takes_changes():
    assert preset("gpt2", n_layers=2).n_layers == 2
    assert preset("gpt2").n_layers == 12


def test_a_configuration_survives_json():
    config = small(rope_scaling=RopeScaling("yarn", factor=4.0, original_length=8))
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert TransformerConfig.from_dict(stored) == config
    assert TransformerConfig.from_dict(dataclasses.asdict(SMALL)) == SMALL


# --- errors name the value ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, r"vocab_size must be a whole number of at least 1, got 0"),
        ({"d_model": 12.0}, r"d_model must be a whole number of at least 1, got 12\.0"),
        ({"n_layers": True}, r"n_layers must be a whole number of at least 1, got True"),
        ({"window": 0}, r"window must be a whole number of at least 1, got 0"),
        ({"d_ff": -1}, r"d_ff must be a whole number of at least 1, got -1"),
        ({"d_head": None}, r"divide d_model = 10, got n_heads = 6; or name a d_head"),
        ({"n_kv_heads": 4}, r"n_kv_heads must divide n_heads = 6, got 4"),
        ({"d_head": 5}, r"d_head must be even, got 5"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1\.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0\.1"),
        ({"norm": "batchnorm"}, r"norm is 'batchnorm'; choose one of rmsnorm, layernorm"),
        ({"norm_eps": 0.0}, r"norm_eps must be positive, got 0\.0"),
        ({"rope_base": -1.0}, r"rope_base must be positive, got -1\.0"),
        ({"block": "sandwich"}, r"block is 'sandwich'; choose one of pre, post, parallel"),
        ({"positions": "rotary"}, r"positions is 'rotary'; choose one of rope, learned"),
        ({"activation": "tanh"}, r"activation is 'tanh'; choose one of swiglu"),
        ({"implementation": "fast"}, r"implementation is 'fast'; choose one of fused, explicit"),
        ({"rope_layout": "neox"}, r"rope_layout is 'neox'; choose one of interleaved, half"),
    ],
)
def test_an_impossible_configuration_names_the_field_and_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_an_odd_head_is_refused_only_where_pairs_are_turned():
    assert small(d_head=5, positions="alibi").head_width == 5


TOKENS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(TOKENS.float()), TypeError, r"whole numbers, got torch\.float32"),
        (lambda m: m(TOKENS.bool()), TypeError, r"whole numbers, got torch\.bool"),
        (lambda m: m(TOKENS[:, :0]), ValueError, r"at least one token, got .*\(1, 0\)"),
        (lambda m: m(TOKENS[0, 0]), ValueError, r"at least one token, got .*\(\)"),
        (lambda m: m(TOKENS + 14), IndexError, r"tokens must lie in 0\.\.16, got 15\.\.17"),
        (lambda m: m(TOKENS - 2), IndexError, r"tokens must lie in 0\.\.16, got -1\.\.1"),
        (lambda m: m(TOKENS, mask=torch.ones(3, 3)), TypeError, r"boolean .*got torch\.float32"),
        (
            lambda m: m(TOKENS, mask=torch.ones(2, 2, dtype=torch.bool)),
            ValueError,
            r"mask must broadcast.*got \(1, 2, 2\)",
        ),
        (lambda m: m(TOKENS, positions=torch.arange(4)), ValueError, r"3 positions.*got \(4,\)"),
        (lambda m: m.hidden(), ValueError, r"either tokens or embeddings"),
        (
            lambda m: m.hidden(TOKENS, embeddings=torch.zeros(1, 3, 10)),
            ValueError,
            r"either tokens or embeddings",
        ),
        (
            lambda m: m.hidden(embeddings=torch.zeros(1, 3, 7)),
            ValueError,
            r"embeddings must be \(\.\.\., T, 10\), got \(1, 3, 7\)",
        ),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call(Transformer(SMALL))


def test_learned_positions_end_where_the_table_ends():
    model = Transformer(small(positions="learned"))
    assert model(tokens_of(1, 12)).shape == (1, 12, 17)
    with pytest.raises(ValueError, match=r"max_length = 12"):
        model(tokens_of(1, 13))


def test_an_unknown_preset_names_those_that_exist():
    with pytest.raises(ValueError, match=r"no preset 'gpt5'; there are gpt2, gpt2-medium"):
        preset("gpt5")


def test_an_encoder_decoder_of_parallel_blocks_is_refused():
    with pytest.raises(ValueError, match=r"'pre' or 'post', got 'parallel'"):
        EncoderDecoder(small(block="parallel"))
    assert isinstance(Block(small(block="parallel")), nn.Module)
