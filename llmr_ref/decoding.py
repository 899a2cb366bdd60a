"""One decoding step without the modules: the formulas of `transformer` in as few operations as can be.

A step of a small model is a hundred operations of a few microseconds, and as much Python around them
again. Here every weight, view and buffer that a step needs is looked up once, before the first step.
Shapes: B sequences, d per vector, h heads of Q, kv heads of K and V.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmr_ref.cache import KVCache, LayerStore
from llmr_ref.layers import LayerNorm, RMSNorm
from llmr_ref.positions import sinusoidal_encoding
from llmr_ref.rope import rope_table, rotate
from llmr_ref.transformer import Block, Transformer, embed


class DecodingStep:
    """`model(tokens[:, None], cache=cache)[:, -1]`, faster; `fits` tells for which models.

    The cache may hold something already. The logits are overwritten by the next call. No gradients
    are recorded: call it under `torch.inference_mode()`.
    Raises: ValueError for a model that does not fit, or a cache made for another one.
    Source: L5 "Transformer Sampling".
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        if not self.fits(model):
            raise ValueError("this model needs the general path: model(tokens, cache=cache)")
        if cache.config != model.config:
            raise ValueError("the cache was made for another configuration than the model's")
        self.model, self.cache, self.config = model, cache, model.config
        self.buffers = Buffers(model, cache)
        self.layers = [
            LayerStep(block, store, self.buffers)  # type: ignore[arg-type]
            for block, store in zip(model.layers, cache.layers, strict=True)
        ]
        self.ln_final = norm_function(model.ln_final)
        self.lm_head = Product(model.lm_head, self.buffers.logits)
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
        cache, x = self.cache, self.buffers.x
        cache.check_room(1)
        n, slots = cache.length, cache.slots
        mask = cache.mask(1)
        if mask is not None:
            mask = mask[:, None]  # (B, 1, 1, S): one mask for every head
        x.copy_(embed(tokens, self.model.token_embeddings, self.config))
        turn = self._positions(n, x)
        for layer in self.layers:
            layer(x, turn, mask, slot=n % slots, filled=min(n + 1, slots))
        self.lm_head(self.ln_final(x))
        cache.advance(1)
        return self.buffers.logits

    def _positions(self, n: int, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Add to x what the positions of the new tokens add, or return the turn of its heads."""
        kind, padding = self.config.positions, self.cache.padding
        if kind == "rope":
            assert self.turns is not None
            if n >= len(self.turns[0]):  # a ring goes on without end
                self.turns = self._turns(2 * n)
            row = slice(n, n + 1) if padding is None else (n - padding).clamp(min=0)[:, None]
            return self.turns[0][row], self.turns[1][row]  # (1, pairs) or (B, 1, pairs)
        if kind != "none":
            positions = self.cache.positions(1)
            if positions is None:
                positions = torch.tensor([n], device=x.device)
            positions = positions.flatten()
            if kind == "learned":
                x += self.model.position_embeddings(positions)
            else:
                x += sinusoidal_encoding(positions, self.config.d_model, dtype=x.dtype)
        return None

    def _turns(self, length: int) -> tuple[Tensor, Tensor]:
        config, x = self.config, self.buffers.x
        return rope_table(
            torch.arange(length, device=x.device),
            config.head_width,
            config.rope_base,
            config.rope_scaling,
            dtype=torch.promote_types(x.dtype, torch.float32),
        )


class Buffers:
    """What every layer of a step writes and the next one writes over."""

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        config, B = model.config, cache.batch_size
        h, kv, d_head = config.n_heads, config.kv_heads, config.head_width
        new = model.lm_head.weight.new_empty
        self.x = new(B, config.d_model)
        self.logits = new(B, config.vocab_size)
        self.gate, self.up = new(B, config.ffn_width), new(B, config.ffn_width)
        heads = new(B, h + 2 * kv, d_head)
        q, k, v = heads.split((h, kv, kv), dim=1)
        self.q, self.k, self.v = (part.flatten(1) for part in (q, k, v))
        # Heads that share K and V take the place of the queries of one head: nothing is repeated.
        self.Q = q.view(B, kv, h // kv, d_head)
        self.rotating, self.stored = heads[:, : h + kv], heads[:, h:]


class LayerStep:
    """One pre-norm block for one token a sequence: x in the buffer becomes the block's output."""

    def __init__(self, block: Block, store: LayerStore, buffers: Buffers) -> None:
        attn, ffn, self.buffers, self.store = block.attn, block.ffn, buffers, store
        self.layout = block.config.rope_layout
        self.ln1, self.ln2 = norm_function(block.ln1), norm_function(block.ln2)
        self.q = Product(attn.q_proj, buffers.q)
        self.k = Product(attn.k_proj, buffers.k)
        self.v = Product(attn.v_proj, buffers.v)
        self.output = Product(attn.output_proj, buffers.x)
        self.w1 = Product(ffn.w1, buffers.gate)
        self.w2 = Product(ffn.w2, buffers.x)
        self.w3 = Product(ffn.w3, buffers.up) if ffn.activation == "swiglu" else None
        self.activation = ffn.activation

    def __call__(
        self,
        x: Float[Tensor, "B d"],
        turn: tuple[Tensor, Tensor] | None,
        mask: Bool[Tensor, "B 1 1 S"] | None,
        *,
        slot: int,
        filled: int,
    ) -> None:
        """Shapes: x (B, d), in place. The new K and V go to `slot`; slots below `filled` are seen."""
        buffers, store = self.buffers, self.store
        normed = self.ln1(x)
        self.q(normed)
        self.k(normed)
        self.v(normed)
        if turn is not None:
            buffers.rotating.copy_(rotate(buffers.rotating, *turn, layout=self.layout))
        store.storage[:, :, slot] = buffers.stored
        heads = F.scaled_dot_product_attention(
            buffers.Q, store.K[:, :, :filled], store.V[:, :, :filled], mask
        )
        self.output.add(heads.flatten(1))
        normed = self.ln2(x)
        self.w1(normed)
        if self.w3 is not None:
            self.w3(normed)
            inner = F.silu(buffers.gate, inplace=True).mul_(buffers.up)
        elif self.activation == "relu":
            inner = buffers.gate.relu_()
        else:
            approximate = "tanh" if self.activation == "gelu_tanh" else "none"
            inner = F.gelu(buffers.gate, approximate=approximate)
        self.w2.add(inner)


class Product:
    """`out` = x W^T + b for the few rows of a step.

    BLAS leaves a product with one row to one thread. So the rows of W, which are the columns of
    `out`, go as a batch of as many parts as there are threads.
    """

    def __init__(self, linear: nn.Linear, out: Float[Tensor, "B out"]) -> None:
        W = linear.weight.detach()
        b: Tensor | None = linear.bias
        threads = torch.get_num_threads() if W.device.type == "cpu" else 1
        parts = max(n for n in range(1, threads + 1) if len(W) % n == 0)
        self.W = W.unflatten(0, (parts, -1)).mT  # (parts, in, out / parts)
        self.b = None if b is None else b.detach().view(parts, 1, -1)
        self.out = out.unflatten(1, (parts, -1)).transpose(0, 1)  # (parts, B, out / parts)
        self.parts = parts

    def __call__(self, x: Float[Tensor, "B in"]) -> None:
        x = x.expand(self.parts, -1, -1)
        if self.b is None:
            torch.bmm(x, self.W, out=self.out)
        else:
            torch.baddbmm(self.b, x, self.W, out=self.out)

    def add(self, x: Float[Tensor, "B in"]) -> None:
        """Add the product to what is in `out`, as a residual stream wants it."""
        self.out.baddbmm_(x.expand(self.parts, -1, -1), self.W)
        if self.b is not None:
            self.out += self.b


def norm_function(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """The fused operation of a norm, its arguments already in place."""
    if isinstance(norm, RMSNorm):
        weight, eps = norm.weight.detach(), norm.eps
        return lambda x: F.rms_norm(x, weight.shape, weight, eps)
    assert isinstance(norm, LayerNorm)
    return norm  # a model with biases and means is not in a hurry
