"""Checkpoints of Hugging Face's models give Hugging Face's logits, and go back unchanged."""

import pytest
import torch
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from llmr_ref.config import TransformerConfig
from llmr_ref.transformer import Transformer
from llmr_ref.weights import (
    gpt2_config,
    llama_config,
    llama_weights,
    load_gpt2_weights,
    load_llama_weights,
)

LAYOUTS = pytest.mark.parametrize("layout", ["interleaved", "half"])


def with_loud_weights(model, seed=0):
    """Norm weights differ from 1, biases from 0, and every weight matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            norm = "norm" in name or "ln_" in name
            weight.copy_(drawn * (0.3 if weight.dim() == 1 else 0.25) + (1.0 if norm else 0.0))
    return model.eval()


def llama(**changes):
    settings = {
        "vocab_size": 23,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 16,
        "rms_norm_eps": 1e-3,
        "tie_word_embeddings": False,
        **changes,
    }
    return with_loud_weights(LlamaForCausalLM(LlamaConfig(**settings)))


def gpt2():
    config = GPT2Config(
        vocab_size=23, n_positions=16, n_embd=24, n_layer=3, n_head=6, layer_norm_epsilon=1e-3
    )
    return with_loud_weights(GPT2LMHeadModel(config))


def ours_from(theirs, layout):
    config = llama_config(theirs.config.to_dict(), rope_layout=layout)
    model = Transformer(config)
    load_llama_weights(model, theirs.state_dict())
    return model


def tokens(*shape):
    return torch.randint(23, shape, generator=torch.Generator().manual_seed(3))


ROPES = {
    "plain": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "beta_fast": 4.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 16,
    },
    "yarn with its own temperature": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "attention_factor": 1.3,
        "original_max_position_embeddings": 16,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


@LAYOUTS
@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_a_llama_checkpoint_gives_llamas_logits_past_its_length_too(rope, layout):
    theirs = llama(rope_parameters=rope)
    model = ours_from(theirs, layout)
    for length in (5, 16, 40):
        batch = tokens(2, length)
        with torch.no_grad():
            assert_close(model(batch), theirs(batch).logits, rtol=1e-4, atol=1e-4)


@LAYOUTS
def test_tied_embeddings_and_one_head_of_keys(layout):
    theirs = llama(tie_word_embeddings=True, num_key_value_heads=1)
    model = ours_from(theirs, layout)
    assert model.lm_head.weight is model.token_embeddings.weight
    assert_close(model(tokens(2, 9)), theirs(tokens(2, 9)).logits, rtol=1e-4, atol=1e-4)


def test_gradients_are_llamas_too():
    theirs = llama()
    model = ours_from(theirs, "half")
    batch = tokens(2, 9)
    theirs(batch).logits.logsumexp(-1).sum().backward()
    model(batch).logsumexp(-1).sum().backward()
    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    for weight in model.parameters():
        weight.data = weight.grad
    for name, gradient in llama_weights(model).items():
        assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@LAYOUTS
@pytest.mark.parametrize("tied", [True, False])
def test_llama_weights_go_there_and_back_bit_for_bit(layout, tied):
    theirs = llama(tie_word_embeddings=tied)
    back = llama_weights(ours_from(theirs, layout))
    assert back.keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(back[name], weight), name


def test_interleaved_checkpoints_are_taken_as_they_are():
    model = ours_from(llama(), "half")
    state = llama_weights(model, layout="interleaved")
    other = Transformer(llama_config(llama().config.to_dict(), rope_layout="interleaved"))
    load_llama_weights(other, state, layout="interleaved")
    assert_close(other(tokens(2, 9)), model(tokens(2, 9)))
    name = "layers.1.attn.q_proj.weight"
    assert torch.equal(other.state_dict()[name], state["model.layers.1.self_attn.q_proj.weight"])


def test_weights_take_the_models_dtype():
    theirs = llama()
    model = Transformer(llama_config(theirs.config.to_dict()), dtype=torch.bfloat16)
    load_llama_weights(model, theirs.state_dict())
    assert {w.dtype for w in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_a_gpt2_checkpoint_gives_gpt2s_logits(prefix):
    theirs = gpt2()
    model = Transformer(gpt2_config(theirs.config.to_dict()))
    state = {
        prefix + name.removeprefix("transformer."): weight
        for name, weight in theirs.state_dict().items()
        if prefix or name != "lm_head.weight"  # the bare model has no head
    }
    state["h.0.attn.bias".join([prefix, ""])] = torch.ones(1, 1, 16, 16)  # old files carry a mask
    load_gpt2_weights(model, state)
    with torch.no_grad():
        expected = theirs(tokens(2, 16)).logits
        assert_close(model(tokens(2, 16)), expected, rtol=1e-4, atol=1e-4)


# --- errors name the value ------------------------------------------------------------------------

LLAMA = llama()
SETTINGS = LLAMA.config.to_dict()
GPT2 = GPT2Config().to_dict()


def load(change):
    model = Transformer(llama_config(SETTINGS))
    state = dict(LLAMA.state_dict())
    change(state)
    load_llama_weights(model, state)


def load_into_gpt2():
    config = TransformerConfig(23, 24, 1, 6)
    load_gpt2_weights(Transformer(config), {})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: load(lambda s: s.pop("model.norm.weight")),
            r"missing ln_final\.weight; left over nothing",
        ),
        (
            lambda: load(lambda s: s.update({"model.layers.7.mlp.up_proj.weight": torch.ones(1)})),
            r"missing nothing; left over layers\.7\.ffn\.w3\.weight",
        ),
        (
            lambda: load(lambda s: s.update({"model.norm.weight": torch.ones(5)})),
            r"ln_final\.weight must be \(24,\) for this configuration, the checkpoint has \(5,\)",
        ),
        (
            lambda: load(lambda s: s.update({"vision.proj": torch.ones(5)})),
            r"weight 'vision\.proj' that this layout does not know",
        ),
        (
            lambda: load_llama_weights(
                Transformer(llama_config(SETTINGS, norm="layernorm")), LLAMA.state_dict()
            ),
            r"needs norm 'rmsnorm'.*got 'layernorm', 'swiglu', 'rope' and 'pre'",
        ),
        (load_into_gpt2, r"needs norm 'layernorm'.*got 'rmsnorm', 'swiglu' and 'rope'"),
        (lambda: llama_config({}), r"lack 'max_position_embeddings'"),
        (lambda: llama_config({**SETTINGS, "hidden_size": None}), r"lack 'hidden_size'"),
        (lambda: llama_config({**SETTINGS, "hidden_act": "gelu"}), r"must be 'silu', got 'gelu'"),
        (lambda: llama_config({**SETTINGS, "mlp_bias": True}), r"mlp_bias must be false"),
        (
            lambda: llama_config({**SETTINGS, "rope_parameters": {"rope_type": "longrope"}}),
            r"must be default, linear, ntk, dynamic, yarn, llama3, got 'longrope'",
        ),
        (
            lambda: gpt2_config({**GPT2, "activation_function": "relu"}),
            r"activation_function must be 'gelu_new', got 'relu'",
        ),
        (lambda: gpt2_config({}), r"lack 'n_embd'"),
    ],
)
def test_an_error_names_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_checkpoint_that_does_not_fit_leaves_the_model_as_it_was():
    model = Transformer(llama_config(SETTINGS))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = {**LLAMA.state_dict(), "model.norm.weight": torch.ones(5)}
    with pytest.raises(ValueError, match="ln_final"):
        load_llama_weights(model, state)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name
