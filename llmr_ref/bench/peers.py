"""What training and generation are measured against: Hugging Face's Llama of the same shape."""

from __future__ import annotations

import torch
from torch import nn

from llmr_ref.config import TransformerConfig


def hugging_face(config: TransformerConfig, device: str) -> nn.Module:
    """`LlamaForCausalLM` with new weights; takes `weights.llama_weights` of ours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.ffn_width,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        max_position_embeddings=config.max_length,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tie_embeddings,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(theirs).to(torch.device(device))  # type: ignore[arg-type]
