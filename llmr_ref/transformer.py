"""The transformer: blocks on a residual stream, between an embedding and an unembedding.

Shapes: B sequences of T tokens, d per vector, V tokens in the vocabulary, h heads.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmr_ref.attention import LayerCache, MultiHeadAttention
from llmr_ref.config import TransformerConfig
from llmr_ref.layers import FeedForward, make_norm
from llmr_ref.masks import combine_masks, sliding_window_mask
from llmr_ref.positions import LearnedPositions, RelativeBias, alibi_bias, sinusoidal_encoding
from llmr_ref.rope import rope_table


class Cache(Protocol):
    """What a model needs of a cache for keys and values; see `cache.KVCache`."""

    length: int  # tokens stored so far

    @property
    def layers(self) -> Sequence[LayerCache]: ...

    def mask(self, T: int) -> Bool[Tensor, "... T S"] | None:
        """Which stored and new keys the next T queries may look at; None for all before them."""
        ...

    def positions(self, T: int) -> Int[Tensor, "B T"] | None:
        """Positions of the next T tokens; None for those that follow the stored ones."""
        ...

    def key_positions(self, T: int) -> Int[Tensor, "... S"]:
        """Positions of the keys, as the layers give them back along with T new ones."""
        ...

    def advance(self, T: int) -> None:
        """Count T more tokens, once every layer has appended them."""
        ...


@dataclass(frozen=True)
class Attending:
    """How every layer of one forward pass attends."""

    mask: Bool[Tensor, "... T S"] | None
    causal: bool
    bias: Float[Tensor, "... h T S"] | None
    rotary: tuple[Tensor, Tensor] | None


class Block(nn.Module):
    """Attention, then a feed-forward network, each added to the residual stream.

    pre: x + attn(ln1(x)), then x + ffn(ln2(x)). post: ln1(x + attn(x)), then ln2(x + ffn(x)).
    parallel: x + attn(ln1(x)) + ffn(ln1(x)). With `cross` a decoder's attention to an encoder
    stands between the two, with a norm of its own.
    State: `attn`, `ffn`, `ln1`, `ln2` (not in parallel blocks), `cross_attn`, `ln_cross`.
    Source: L2 "Transformer block" (both orders); L4 model table "Block type"; L5.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        cross: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if cross and config.block == "parallel":
            raise ValueError("an encoder-decoder needs block 'pre' or 'post', got 'parallel'")
        self.config = config

        def attention() -> MultiHeadAttention:
            return MultiHeadAttention(
                config.d_model,
                config.n_heads,
                n_kv_heads=config.kv_heads,
                d_head=config.head_width,
                bias=config.bias,
                implementation=config.implementation,
                device=device,
                dtype=dtype,
            )

        def norm() -> nn.Module:
            return norm_of(config, device=device, dtype=dtype)

        self.attn = attention()
        self.ffn = FeedForward(
            config.d_model,
            config.ffn_width,
            activation=config.activation,
            bias=config.bias,
            implementation=config.implementation,
            device=device,
            dtype=dtype,
        )
        self.ln1 = norm()
        if config.block != "parallel":
            self.ln2 = norm()
        if cross:
            self.cross_attn, self.ln_cross = attention(), norm()
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "... T d"],
        attending: Attending,
        *,
        cache: LayerCache | None = None,
        memory: Float[Tensor, "... S d"] | None = None,
        memory_mask: Bool[Tensor, "... T S"] | None = None,
    ) -> Float[Tensor, "... T d"]:
        """Shapes: x (..., T, d) in, the same out; memory is the encoder's output."""
        if self.config.block == "parallel":
            normed = self.ln1(x)
            return x + self.dropout(self._attend(normed, attending, cache) + self.ffn(normed))
        if self.config.block == "pre":
            x = x + self.dropout(self._attend(self.ln1(x), attending, cache))
            if memory is not None:
                x = x + self.dropout(self.cross_attn(self.ln_cross(x), memory_mask, memory=memory))
            return x + self.dropout(self.ffn(self.ln2(x)))
        x = self.ln1(x + self.dropout(self._attend(x, attending, cache)))
        if memory is not None:
            x = self.ln_cross(x + self.dropout(self.cross_attn(x, memory_mask, memory=memory)))
        return self.ln2(x + self.dropout(self.ffn(x)))

    def _attend(self, x: Tensor, attending: Attending, cache: LayerCache | None) -> Tensor:
        return self.attn(
            x,
            attending.mask,
            causal=attending.causal,
            bias=attending.bias,
            rotary=attending.rotary,
            layout=self.config.rope_layout,
            cache=cache,
        )


class Stack(nn.Module):
    """Embeddings of positions, the blocks, and the final norm: vectors in, vectors out.

    State: `layers.N`, `ln_final` (not after post-norm blocks), and what the positions learn.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        cross: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if config.positions == "learned":
            self.position_embeddings = LearnedPositions(
                config.max_length, config.d_model, device=device, dtype=dtype
            )
        if config.positions == "t5":
            self.relative_bias = RelativeBias(
                config.n_heads, bidirectional=not config.causal, device=device, dtype=dtype
            )
        self.layers = nn.ModuleList(
            Block(config, cross=cross, device=device, dtype=dtype) for _ in range(config.n_layers)
        )
        # A post-norm block ends in a norm already.
        self.ln_final = (
            nn.Identity() if config.block == "post" else norm_of(config, device=device, dtype=dtype)
        )
        self.dropout = nn.Dropout(config.dropout)
        self._rotary: tuple[Tensor, Tensor] | None = None

    def run(
        self,
        x: Float[Tensor, "... T d"],
        *,
        mask: Bool[Tensor, "... T T"] | None = None,
        positions: Int[Tensor, "... T"] | None = None,
        cache: Cache | None = None,
        memory: Float[Tensor, "... S d"] | None = None,
        memory_mask: Bool[Tensor, "... T S"] | None = None,
    ) -> Float[Tensor, "... T d"]:
        """Vectors through the blocks and the final norm. Shapes: x (..., T, d) in, the same out."""
        config = self.config
        T = x.shape[-2]
        _check_mask_and_positions(T, mask, positions, cache)
        start = 0 if cache is None else cache.length
        if cache is not None:
            positions = cache.positions(T)
        attending = self._attending(T, start, mask, positions, cache, x)
        if config.positions in ("learned", "sinusoidal"):
            if positions is None:
                positions = torch.arange(start, start + T, device=x.device)
            if config.positions == "learned":
                x = x + self.position_embeddings(positions)
            else:
                x = x + sinusoidal_encoding(positions, config.d_model, dtype=x.dtype)
        x = self.dropout(x)
        for n, layer in enumerate(self.layers):
            x = layer(
                x,
                attending,
                cache=None if cache is None else cache.layers[n],
                memory=memory,
                memory_mask=memory_mask,
            )
        if cache is not None:
            cache.advance(T)
        return self.ln_final(x)

    def _attending(
        self,
        T: int,
        start: int,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: Cache | None,
        x: Tensor,
    ) -> Attending:
        config = self.config
        causal = config.causal
        if cache is not None:
            mask = cache.mask(T)
            causal = mask is None and start == 0
        elif config.window is not None and config.window < T:
            mask = combine_masks(mask, sliding_window_mask(T, config.window, device=x.device))
        bias = rotary = None
        if config.positions == "rope":
            rotary = self._rope(T, start, positions, x)
        elif config.positions in ("t5", "alibi"):
            queries = positions
            if queries is None:
                queries = torch.arange(start, start + T, device=x.device)
            keys = queries if cache is None else cache.key_positions(T)
            if config.positions == "t5":
                bias = self.relative_bias(queries, keys)
            else:
                bias = alibi_bias(config.n_heads, queries, keys, dtype=x.dtype)
        return Attending(mask, causal, bias, rotary)

    def _rope(
        self, T: int, start: int, positions: Tensor | None, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (T, pairs) or, for positions a sequence, (B, 1, T, pairs)."""
        if positions is None and not self._rope_depends_on_length():
            if self._rotary is None or not self._table_fits(self._rotary[0], start + T, x):
                length = max(start + T, self.config.max_length)
                # Kept beyond this call: made under inference_mode it could never be trained with.
                with torch.inference_mode(False):
                    self._rotary = self._rope_table(
                        torch.arange(length, device=x.device), x, length
                    )
            return self._rotary[0][start : start + T], self._rotary[1][start : start + T]
        if positions is None:
            positions = torch.arange(start, start + T, device=x.device)
        length = int(positions.max()) + 1 if self._rope_depends_on_length() else start + T
        cos, sin = self._rope_table(positions, x, length)
        return (cos, sin) if positions.dim() == 1 else (cos.unsqueeze(-3), sin.unsqueeze(-3))

    def _rope_depends_on_length(self) -> bool:
        scaling = self.config.rope_scaling
        return scaling is not None and scaling.kind == "dynamic"

    @staticmethod
    def _table_fits(table: Tensor, length: int, x: Tensor) -> bool:
        wide_enough = table.dtype == torch.promote_types(x.dtype, torch.float32)
        return table.device == x.device and len(table) >= length and wide_enough

    def _rope_table(self, positions: Tensor, x: Tensor, length: int) -> tuple[Tensor, Tensor]:
        return rope_table(
            positions,
            self.config.head_width,
            self.config.rope_base,
            self.config.rope_scaling,
            length=length,
            dtype=torch.promote_types(x.dtype, torch.float32),
            device=x.device,
        )


class Transformer(Stack):
    """Tokens to logits: embedding, blocks, final norm, unembedding.

    Decoder-only if `config.causal`, an encoder if not. With tied embeddings `lm_head.weight` is
    `token_embeddings.weight`. `initialize` draws new weights.
    State: `token_embeddings.weight`, `position_embeddings.weight`, `layers.N...`, `ln_final.weight`,
    `lm_head.weight` (V, d).
    Source: L1 "Transformer Language Modeling"; L2 "The language modeling head".
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, device=device, dtype=dtype)
        self.token_embeddings = nn.Embedding(
            config.vocab_size, config.d_model, device=device, dtype=dtype
        )
        self.lm_head = nn.Linear(
            config.d_model, config.vocab_size, bias=False, device=device, dtype=dtype
        )
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embeddings.weight
        initialize(self)

    def forward(
        self,
        tokens: Int[Tensor, "... T"],
        *,
        mask: Bool[Tensor, "... T T"] | None = None,
        positions: Int[Tensor, "... T"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "... T V"]:
        """Logits of the token after each position. Shapes: tokens (..., T); out (..., T, V).

        `mask` (True = may attend) is combined with the causal one; `positions` replace 0 .. T-1.
        Raises: TypeError for tokens that are not whole numbers; ValueError for an empty sequence, a
        mask or positions that do not fit, or positions past what the model has learned;
        IndexError for a token outside the vocabulary.
        """
        return self.lm_head(self.hidden(tokens, mask=mask, positions=positions, cache=cache))

    def hidden(
        self,
        tokens: Int[Tensor, "... T"] | None = None,
        *,
        embeddings: Float[Tensor, "... T d"] | None = None,
        mask: Bool[Tensor, "... T T"] | None = None,
        positions: Int[Tensor, "... T"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "... T d"]:
        """The vectors that the unembedding reads, from tokens or from embeddings of any origin.

        Raises: as `forward`; ValueError unless exactly one of tokens and embeddings is given.
        """
        if (tokens is None) == (embeddings is None):
            raise ValueError("give either tokens or embeddings, and not both")
        if tokens is not None:
            embeddings = embed(tokens, self.token_embeddings, self.config)
        assert embeddings is not None
        if embeddings.shape[-1] != self.config.d_model:
            raise ValueError(
                f"embeddings must be (..., T, {self.config.d_model}), got {tuple(embeddings.shape)}"
            )
        return self.run(embeddings, mask=mask, positions=positions, cache=cache)


class EncoderDecoder(nn.Module):
    """An encoder that sees the whole source, and a decoder that sees it and its own past.

    State: `token_embeddings.weight`, shared by both sides, `encoder...`, `decoder...` with
    `cross_attn` and `ln_cross` in every block, `lm_head.weight`.
    Source: L1 "Transformer Block Structure"; L3 "Sequence to Sequence Models"; Vaswani et al. 2017.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.token_embeddings = nn.Embedding(
            config.vocab_size, config.d_model, device=device, dtype=dtype
        )
        both_ways = dataclasses.replace(config, causal=False)
        one_way = dataclasses.replace(config, causal=True)
        self.encoder = Stack(both_ways, device=device, dtype=dtype)
        self.decoder = Stack(one_way, cross=True, device=device, dtype=dtype)
        self.lm_head = nn.Linear(
            config.d_model, config.vocab_size, bias=False, device=device, dtype=dtype
        )
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embeddings.weight
        initialize(self)

    def encode(
        self, source: Int[Tensor, "... S"], *, mask: Bool[Tensor, "... 1 S"] | None = None
    ) -> Float[Tensor, "... S d"]:
        """The encoder's vectors; `mask` hides padding. Raises: as `Transformer.forward`."""
        return self.encoder.run(embed(source, self.token_embeddings, self.config), mask=mask)

    def decode(
        self,
        target: Int[Tensor, "... T"],
        memory: Float[Tensor, "... S d"],
        *,
        memory_mask: Bool[Tensor, "... 1 S"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "... T V"]:
        """Logits of the token after each target position. Raises: as `Transformer.forward`."""
        x = embed(target, self.token_embeddings, self.config)
        x = self.decoder.run(x, memory=memory, memory_mask=memory_mask, cache=cache)
        return self.lm_head(x)

    def forward(
        self,
        source: Int[Tensor, "... S"],
        target: Int[Tensor, "... T"],
        *,
        source_mask: Bool[Tensor, "... 1 S"] | None = None,
    ) -> Float[Tensor, "... T V"]:
        """log p(y_t | y_<t, x) before normalisation, for every t at once."""
        memory = self.encode(source, mask=source_mask)
        return self.decode(target, memory, memory_mask=source_mask)


def norm_of(
    config: TransformerConfig,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """One normalisation layer as the configuration names it."""
    return make_norm(
        config.norm,
        config.d_model,
        eps=config.norm_eps,
        bias=config.norm_bias,
        implementation=config.implementation,
        device=device,
        dtype=dtype,
    )


def embed(
    tokens: Int[Tensor, "... T"], table: nn.Embedding, config: TransformerConfig
) -> Float[Tensor, "... T d"]:
    """Look up one row a token; sinusoidal models scale it by sqrt(d) to stand up to the sines.

    Raises: TypeError for tokens that are not whole numbers; ValueError for an empty sequence;
    IndexError for a token outside the vocabulary.
    Source: L2 "Token and position embeddings"; Vaswani et al. 2017, section 3.4.
    """
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens must be whole numbers, got {tokens.dtype}")
    if tokens.dim() == 0 or tokens.shape[-1] == 0:
        raise ValueError(f"need at least one token, got tokens of shape {tuple(tokens.shape)}")
    try:
        x = table(tokens)
    except IndexError as error:
        low, high = (int(bound) for bound in tokens.aminmax())
        raise IndexError(
            f"tokens must lie in 0..{config.vocab_size - 1}, got {low}..{high}"
        ) from error
    return x * math.sqrt(config.d_model) if config.positions == "sinusoidal" else x


def initialize(model: nn.Module, std: float = 0.02) -> None:
    """Draw new weights in place: N(0, std), and into the residual stream N(0, std / sqrt(2 L)).

    Source: Radford et al. 2019 (GPT-2), section 2.3.
    """
    n_layers = sum(isinstance(module, Block) for module in model.modules())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            into_stream = name.endswith(("output_proj", "ffn.w2"))
            scaled = std / math.sqrt(2 * n_layers) if into_stream else std
            nn.init.normal_(module.weight, std=scaled)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def _check_mask_and_positions(
    T: int, mask: Tensor | None, positions: Tensor | None, cache: Cache | None
) -> None:
    if positions is not None and positions.shape[-1] != T:
        raise ValueError(f"need {T} positions, one a token, got {tuple(positions.shape)}")
    if mask is not None and cache is not None:
        raise ValueError("with a cache the mask is the cache's own; give padding to the cache")
    if positions is not None and cache is not None:
        raise ValueError(
            "with a cache the positions are the cache's own; give padding to the cache"
        )
