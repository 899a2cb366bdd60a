"""Weights of other libraries' checkpoints in our names and layouts, and back.

A state is a dictionary of tensors, as `state_dict()` and `safetensors` give it. Nothing is downloaded.
"""

import re
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from llmr_ref.config import TransformerConfig
from llmr_ref.rope import Layout, RopeScaling, ScalingKind, convert_layout
from llmr_ref.transformer import Transformer

State = dict[str, Tensor]

# Hugging Face's name -> ours, "N" is the layer's number.
LLAMA_NAMES = {
    "model.embed_tokens.weight": "token_embeddings.weight",
    "model.layers.N.self_attn.q_proj.weight": "layers.N.attn.q_proj.weight",
    "model.layers.N.self_attn.k_proj.weight": "layers.N.attn.k_proj.weight",
    "model.layers.N.self_attn.v_proj.weight": "layers.N.attn.v_proj.weight",
    "model.layers.N.self_attn.o_proj.weight": "layers.N.attn.output_proj.weight",
    "model.layers.N.mlp.gate_proj.weight": "layers.N.ffn.w1.weight",
    "model.layers.N.mlp.down_proj.weight": "layers.N.ffn.w2.weight",
    "model.layers.N.mlp.up_proj.weight": "layers.N.ffn.w3.weight",
    "model.layers.N.input_layernorm.weight": "layers.N.ln1.weight",
    "model.layers.N.post_attention_layernorm.weight": "layers.N.ln2.weight",
    "model.norm.weight": "ln_final.weight",
    "lm_head.weight": "lm_head.weight",
}
GPT2_NAMES = {
    "wte.weight": "token_embeddings.weight",
    "wpe.weight": "position_embeddings.weight",
    "h.N.ln_1.weight": "layers.N.ln1.weight",
    "h.N.ln_1.bias": "layers.N.ln1.bias",
    "h.N.attn.c_attn.weight": "layers.N.attn.qkv.weight",  # taken apart below
    "h.N.attn.c_attn.bias": "layers.N.attn.qkv.bias",
    "h.N.attn.c_proj.weight": "layers.N.attn.output_proj.weight",
    "h.N.attn.c_proj.bias": "layers.N.attn.output_proj.bias",
    "h.N.ln_2.weight": "layers.N.ln2.weight",
    "h.N.ln_2.bias": "layers.N.ln2.bias",
    "h.N.mlp.c_fc.weight": "layers.N.ffn.w1.weight",
    "h.N.mlp.c_fc.bias": "layers.N.ffn.w1.bias",
    "h.N.mlp.c_proj.weight": "layers.N.ffn.w2.weight",
    "h.N.mlp.c_proj.bias": "layers.N.ffn.w2.bias",
    "ln_f.weight": "ln_final.weight",
    "ln_f.bias": "ln_final.bias",
    "lm_head.weight": "lm_head.weight",
}
ROPE_NAMES = {
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "high_freq_factor": "beta_fast",
    "low_freq_factor": "beta_slow",
    "attention_factor": "attention_factor",
    "truncate": "truncate",
}
# Buffers and constants that old checkpoints carry along.
NOT_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")


# --- Llama: Mistral, SmolLM and many others have the same layout ----------------------------------


def llama_config(settings: Mapping[str, Any], **changes: Any) -> TransformerConfig:
    """The configuration that a Llama checkpoint's config.json describes.

    Raises: ValueError for a setting that is missing or that this model does not know.
    Source: Touvron et al. 2023; Hugging Face, `LlamaConfig`.
    """
    if settings.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act must be 'silu', got {settings['hidden_act']!r}")
    for name in ("attention_bias", "mlp_bias"):
        if settings.get(name):
            raise ValueError(f"{name} must be false: this layout has no biases")
    rope = dict(settings.get("rope_parameters") or settings.get("rope_scaling") or {})
    base = rope.get("rope_theta") or settings.get("rope_theta") or 10_000.0
    length = _setting(settings, "max_position_embeddings")
    values: dict[str, Any] = {
        "vocab_size": _setting(settings, "vocab_size"),
        "d_model": _setting(settings, "hidden_size"),
        "n_layers": _setting(settings, "num_hidden_layers"),
        "n_heads": _setting(settings, "num_attention_heads"),
        "n_kv_heads": settings.get("num_key_value_heads"),
        "d_head": settings.get("head_dim"),
        "d_ff": _setting(settings, "intermediate_size"),
        "max_length": length,
        "norm_eps": settings.get("rms_norm_eps", 1e-6),
        "rope_base": float(base),
        "rope_scaling": _rope_scaling(rope, length),
        "window": settings.get("sliding_window"),
        "tie_embeddings": bool(settings.get("tie_word_embeddings", False)),
    }
    return TransformerConfig(**{**values, **changes})


def load_llama_weights(
    model: Transformer, state: Mapping[str, Tensor], *, layout: Layout = "half"
) -> None:
    """Copy a Llama checkpoint into the model; the weights take the model's dtype and device.

    `layout` says how the checkpoint pairs the dimensions that RoPE turns: "half" in Hugging Face's
    files, "interleaved" in Meta's own and in GGUF.
    Raises: ValueError for a model of another kind, or naming what is missing, left over or misshapen.
    """
    config = model.config
    if (config.norm, config.activation, config.positions, config.block) != (
        "rmsnorm",
        "swiglu",
        "rope",
        "pre",
    ):
        raise ValueError(
            "a Llama checkpoint needs norm 'rmsnorm', activation 'swiglu', positions 'rope' and "
            f"block 'pre', got {config.norm!r}, {config.activation!r}, {config.positions!r} and "
            f"{config.block!r}"
        )
    ours = _renamed(state, LLAMA_NAMES)
    for name, weight in ours.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            ours[name] = _reordered(weight, config.head_width, layout, config.rope_layout)
    _load(model, ours)


def llama_weights(model: Transformer, *, layout: Layout = "half") -> State:
    """The model's weights in the names and the layout of a Llama checkpoint: the way back."""
    back = {ours: theirs for theirs, ours in LLAMA_NAMES.items()}
    state = {}
    for name, weight in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            config = model.config
            weight = _reordered(weight, config.head_width, config.rope_layout, layout)
        state[_rename(name, back)] = weight
    return state


def _reordered(weight: Tensor, d_head: int, source: Layout, target: Layout) -> Tensor:
    """Rows of W_Q or W_K, head by head, from one layout's pairs to the other's."""
    heads = weight.unflatten(0, (-1, d_head)).transpose(-1, -2)  # (heads, d_model, d_head)
    return convert_layout(heads, source, target).transpose(-1, -2).flatten(0, 1)


def _rope_scaling(rope: Mapping[str, Any], length: int) -> RopeScaling | None:
    kind: Any = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind not in get_args(ScalingKind):
        names = ", ".join(get_args(ScalingKind))
        raise ValueError(f"rope_type must be default, {names}, got {kind!r}")
    optional = {
        ours: rope[theirs] for theirs, ours in ROPE_NAMES.items() if rope.get(theirs) is not None
    }
    return RopeScaling(
        kind=kind,
        factor=float(rope["factor"]),
        original_length=int(rope.get("original_max_position_embeddings") or length),
        **optional,
    )


# --- GPT-2 ---------------------------------------------------------------------------------------


def gpt2_config(settings: Mapping[str, Any], **changes: Any) -> TransformerConfig:
    """The configuration that a GPT-2 checkpoint's config.json describes.

    Raises: ValueError for a setting that is missing or that this model does not know.
    Source: Radford et al. 2019; Hugging Face, `GPT2Config`.
    """
    activation = settings.get("activation_function", "gelu_new")
    if activation not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ValueError(f"activation_function must be 'gelu_new', got {activation!r}")
    d_model = _setting(settings, "n_embd")
    values: dict[str, Any] = {
        "vocab_size": _setting(settings, "vocab_size"),
        "d_model": d_model,
        "n_layers": _setting(settings, "n_layer"),
        "n_heads": _setting(settings, "n_head"),
        "d_ff": settings.get("n_inner") or 4 * d_model,
        "max_length": _setting(settings, "n_positions"),
        "norm": "layernorm",
        "norm_eps": settings.get("layer_norm_epsilon", 1e-5),
        "norm_bias": True,
        "activation": "gelu_tanh",
        "positions": "learned",
        "bias": True,
        "tie_embeddings": bool(settings.get("tie_word_embeddings", True)),
    }
    return TransformerConfig(**{**values, **changes})


def load_gpt2_weights(model: Transformer, state: Mapping[str, Tensor]) -> None:
    """Copy a GPT-2 checkpoint into the model; the weights take the model's dtype and device.

    GPT-2 keeps Q, K and V in one matrix, and every matrix as (in, out).
    Raises: ValueError for a model of another kind, or naming what is missing, left over or misshapen.
    """
    config = model.config
    if (config.norm, config.activation, config.positions) != ("layernorm", "gelu_tanh", "learned"):
        raise ValueError(
            "a GPT-2 checkpoint needs norm 'layernorm', activation 'gelu_tanh' and positions "
            f"'learned', got {config.norm!r}, {config.activation!r} and {config.positions!r}"
        )
    bare = {name.removeprefix("transformer."): weight for name, weight in state.items()}
    ours: State = {}
    for name, weight in _renamed(bare, GPT2_NAMES).items():
        if name.endswith("proj.weight") or ".ffn.w" in name or ".qkv." in name:
            weight = weight.T if weight.dim() == 2 else weight
        if ".qkv." not in name:
            ours[name] = weight
            continue
        for part, third in zip("qkv", weight.chunk(3), strict=True):
            ours[name.replace(".qkv.", f".{part}_proj.")] = third
    _load(model, ours)


# --- both ----------------------------------------------------------------------------------------


def _setting(settings: Mapping[str, Any], name: str) -> int:
    if settings.get(name) is None:
        raise ValueError(f"the checkpoint's settings lack {name!r}; is this the right config.json?")
    return int(settings[name])


def _rename(name: str, names: Mapping[str, str]) -> str:
    number = re.search(r"\.(\d+)\.", name)
    pattern = name if number is None else name.replace(number[0], ".N.", 1)
    if pattern not in names:
        raise ValueError(f"the checkpoint has a weight {name!r} that this layout does not know")
    return names[pattern] if number is None else names[pattern].replace(".N.", number[0])


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    return {
        _rename(name, names): weight
        for name, weight in state.items()
        if not NOT_WEIGHTS.search(name)
    }


def _load(model: Transformer, state: State) -> None:
    if model.config.tie_embeddings:
        state = {"lm_head.weight": state.get("token_embeddings.weight", torch.empty(0)), **state}
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - state), sorted(state.keys() - expected)
    if missing or extra:
        raise ValueError(
            "the checkpoint does not fit the model: "
            f"missing {', '.join(missing) or 'nothing'}; left over {', '.join(extra) or 'nothing'}"
        )
    for name, weight in state.items():
        if weight.shape != expected[name].shape:
            raise ValueError(
                f"{name} must be {tuple(expected[name].shape)} for this configuration, the "
                f"checkpoint has {tuple(weight.shape)}"
            )
    model.load_state_dict(state)
