"""One decoding step without the modules: the formulas of `transformer` in as few operations as can be.

A step of a small model is a hundred operations of a few microseconds, and as much Python around them
again. Here every weight, view and buffer that a step needs is looked up once, before the first step.
Shapes: B sequences, d per vector, h heads of Q, kv heads of K and V.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmr_ref.cache import KVCache, LayerStore
from llmr_ref.layers import RMSNorm
from llmr_ref.positions import sinusoidal_encoding
from llmr_ref.rope import rope_table, rotate
from llmr_ref.transformer import Block, Transformer, embed


class DecodingStep:
    """`model(tokens[:, None], cache=cache)[:, -1]`, faster; `fits` tells for which models.

    The cache may hold something already. Made for the weights as they are; no gradients are recorded:
    call it under `torch.inference_mode()`.
    Raises: ValueError for a model that does not fit, or a cache made for another one.
    Source: L5 "Transformer Sampling".
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        if not self.fits(model):
            raise ValueError("this model needs the general path: model(tokens, cache=cache)")
        if cache.config != model.config:
            raise ValueError("the cache was made for another configuration than the model's")
        self.model, self.cache, self.config = model, cache, model.config
        self.layers = [
            LayerStep(block, store)  # type: ignore[arg-type]
            for block, store in zip(model.layers, cache.layers, strict=True)
        ]
        self.ln_final, self.lm_head = norm_function(model.ln_final), product(model.lm_head)
        self.turns = self._turns(cache.max_length) if self.config.positions == "rope" else None

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether this step computes what the model computes."""
        if not isinstance(model, Transformer):
            return False
        config, scaling = model.config, model.config.rope_scaling
        return (
            config.block == "pre"
            and config.implementation == "fused"
            and config.positions not in ("t5", "alibi")
            and (scaling is None or scaling.kind != "dynamic")
            and not (model.training and config.dropout)
        )

    def __call__(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Feed one token a sequence; the logits of the next.

        Raises: as `Transformer.forward`; ValueError for a cache that is full.
        """
        cache = self.cache
        cache.check_room(1)
        n, slots = cache.length, cache.slots
        mask = cache.mask(1)
        if mask is not None:
            mask = mask[:, None]  # (B, 1, 1, S): one mask for every head
        x = embed(tokens, self.model.token_embeddings, self.config)
        turn = None
        if self.turns is not None:
            turn = self._turn(n)
        elif self.config.positions != "none":
            x = x + self._vectors(n, x)
        for layer in self.layers:
            x = layer(x, turn, mask, slot=n % slots, filled=min(n + 1, slots))
        cache.advance(1)
        return self.lm_head(self.ln_final(x))

    def _turn(self, n: int) -> Tensor:
        """What turns the heads of token n: (1, pairs), or (B, 1, pairs) if rows are padded."""
        assert self.turns is not None
        if n >= len(self.turns):  # a ring goes on without end
            self.turns = self._turns(2 * n)
        padding = self.cache.padding
        return self.turns[
            slice(n, n + 1) if padding is None else (n - padding).clamp(min=0)[:, None]
        ]

    def _vectors(self, n: int, x: Tensor) -> Tensor:
        """What the position of token n adds to x: (1, d), or (B, d) if rows are padded."""
        positions = self.cache.positions(1)
        if positions is None:
            positions = torch.tensor([n], device=x.device)
        positions = positions.flatten()
        if self.config.positions == "learned":
            return self.model.position_embeddings(positions)
        return sinusoidal_encoding(positions, self.config.d_model, dtype=x.dtype)

    def _turns(self, length: int) -> Tensor:
        """cos + i sin of every angle of these positions."""
        config, weight = self.config, self.model.lm_head.weight
        cos, sin = rope_table(
            torch.arange(length, device=weight.device),
            config.head_width,
            config.rope_base,
            config.rope_scaling,
            dtype=torch.promote_types(weight.dtype, torch.float32),
        )
        return torch.complex(cos, sin)  # (length, pairs)


class LayerStep:
    """One pre-norm block for one token a sequence."""

    def __init__(self, block: Block, store: LayerStore) -> None:
        attn, ffn, self.config, self.store = block.attn, block.ffn, block.config, store
        self.ln1, self.ln2 = norm_function(block.ln1), norm_function(block.ln2)
        self.q, self.k, self.v = map(product, (attn.q_proj, attn.k_proj, attn.v_proj))
        self.output = product(attn.output_proj)
        self.w1, self.w2 = product(ffn.w1), product(ffn.w2)
        self.w3 = product(ffn.w3) if ffn.activation == "swiglu" else None

    def __call__(
        self,
        x: Float[Tensor, "B d"],
        turn: Tensor | None,
        mask: Bool[Tensor, "B 1 1 S"] | None,
        *,
        slot: int,
        filled: int,
    ) -> Float[Tensor, "B d"]:
        """Shapes: x (B, d), out the same. K and V go to `slot`; slots below `filled` are seen."""
        config, store = self.config, self.store
        h, kv = config.n_heads, config.kv_heads
        normed = self.ln1(x)
        heads = torch.cat((self.q(normed), self.k(normed), self.v(normed)), dim=-1)
        heads = heads.view(len(x), h + 2 * kv, -1)  # (B, h + 2 kv, d_head)
        if turn is not None:
            turning = heads[:, : h + kv]
            if config.rope_layout == "interleaved" and x.dtype in (torch.float32, torch.float64):
                turning.view(turn.dtype).mul_(turn)  # pairs are complex numbers where they lie
            else:
                turning.copy_(rotate(turning, turn.real, turn.imag, layout=config.rope_layout))
        store.storage[:, :, slot] = heads[:, h:]
        # Heads that share K and V take the place of the queries of one head: nothing is repeated.
        Q = heads[:, :h].unflatten(1, (kv, h // kv))  # (B, kv, h / kv, d_head)
        mixed = F.scaled_dot_product_attention(
            Q, store.K[:, :, :filled], store.V[:, :, :filled], mask
        )
        x = self.output(mixed.flatten(1)).add_(x)
        inner = self.w1(normed := self.ln2(x))
        if self.w3 is not None:
            inner = F.silu(inner, inplace=True).mul_(self.w3(normed))
        elif config.activation == "relu":
            inner = inner.relu_()
        else:
            approximate = "tanh" if config.activation == "gelu_tanh" else "none"
            inner = F.gelu(inner, approximate=approximate)
        return self.w2(inner).add_(x)


def product(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """x W^T + b for the few rows of a step, the rows of W shared out among the threads.

    BLAS leaves a product with one row to one thread, and with a few rows gains little from a second.
    As a batch of as many parts as there are threads it takes half to two thirds of the time.
    """
    W = linear.weight.detach()
    b: Tensor | None = linear.bias
    in_blas = W.device.type == "cpu" and W.dtype in (torch.float32, torch.float64)
    parts = torch.get_num_threads() if in_blas else 1
    if parts == 1:
        return lambda x: F.linear(x, W, b)
    left = len(W) % parts
    W_parts = W[: len(W) - left].unflatten(0, (parts, -1)).mT  # (parts, in, out / parts)
    W_left = W[len(W) - left :]  # (left, in)

    def in_parts(x: Tensor) -> Tensor:
        out = torch.bmm(x.expand(parts, -1, -1), W_parts)  # (parts, B, out / parts)
        out = out.transpose(0, 1).reshape(len(x), -1)  # (B, out)
        if left:
            out = torch.cat((out, F.linear(x, W_left)), dim=-1)
        return out if b is None else out.add_(b)

    return in_parts


def norm_function(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """The norm, if it is RMSNorm in a wide format in half the time: sqrt(d) |x|^-1 x gamma.

    sqrt(mean of x^2 + eps) = hypot(|x|, sqrt(d eps)) / sqrt(d).
    """
    if not isinstance(norm, RMSNorm) or norm.weight.dtype not in (torch.float32, torch.float64):
        return norm
    d = len(norm.weight)
    gain = norm.weight.detach() * math.sqrt(d)
    floor = gain.new_tensor(math.sqrt(d * norm.eps))

    def rms_norm(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(floor)
        return (x / length).mul_(gain)

    return rms_norm
