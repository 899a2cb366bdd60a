"""Attention: scores, softmax, weighted sum; then many heads at once.

Letters follow the lectures: Q, K, V are queries, keys and values; W_Q, W_K, W_V, W_O project.
Shapes: T queries, S keys, d_k per query and key, d_v per value. Leading dimensions (...) are free.
"""

import math
from typing import Literal, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmr_ref.masks import causal_mask, combine_masks, require_boolean
from llmr_ref.rope import Layout, rotate

Implementation = Literal["fused", "explicit"]


def softmax(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """exp(x) divided by its sum along `dim`, safe for scores of any size.

    Shapes: any in, the same out. A slice that is -inf throughout gives nan, as in torch: there is
    no distribution to return. Attention treats that case itself, see `masked_softmax`.
    Raises: TypeError for a tensor that is not floating point; IndexError for a `dim` out of range.
    Source: L1 "Attention mechanism" step 2.
    """
    _check_floating(x)
    if x.numel() == 0:
        return x.clone()  # nothing to normalise, and no maximum to subtract
    z = x.to(torch.promote_types(x.dtype, torch.float32))  # 16-bit floats are summed in 32 bits
    # Subtracting the maximum changes no ratio and keeps every exponent at or below zero. Since the
    # result does not depend on it, no gradient flows through it.
    e = (z - z.detach().amax(dim=dim, keepdim=True)).exp_()
    return (e * e.sum(dim=dim, keepdim=True).reciprocal()).to(x.dtype)


def masked_softmax(
    scores: Float[Tensor, "... T S"], mask: Bool[Tensor, "... T S"] | None = None
) -> Float[Tensor, "... T S"]:
    """Softmax over the keys that the mask allows (True = may attend).

    A row with no allowed key gives weights of zero, and gradients of zero, never nan.
    Raises: TypeError for a mask that is not boolean; ValueError for one that does not broadcast to
    the scores.
    Source: L2 "Masking out the future".
    """
    if mask is None:
        return softmax(scores, dim=-1)
    _check_mask(mask, scores.shape)
    row_is_empty = ~mask.any(dim=-1, keepdim=True)
    # An empty row is opened for the softmax and closed again after it, so that no nan is ever made.
    weights = softmax(scores.masked_fill(~mask & ~row_is_empty, -math.inf), dim=-1)
    if mask.device.type == "cpu" and not row_is_empty.any():
        return weights  # to look is cheaper than to copy; a GPU would have to wait for the answer
    return weights.masked_fill(row_is_empty, 0.0)


def dot_scores(
    Q: Float[Tensor, "... T d"], K: Float[Tensor, "... S d"]
) -> Float[Tensor, "... T S"]:
    """s_ti = q_t . k_i. Source: L1 "Attention, formally"."""
    _check_same_width(Q, K)
    return Q @ K.transpose(-2, -1)


def bilinear_scores(
    Q: Float[Tensor, "... T d_q"], K: Float[Tensor, "... S d_k"], W: Float[Tensor, "d_k d_q"]
) -> Float[Tensor, "... T S"]:
    """s_ti = k_i^T W q_t, the "general" score. Source: L1 "Attention, formally"."""
    if W.shape != (K.shape[-1], Q.shape[-1]):
        raise ValueError(
            f"W must be (d_k, d_q) = ({K.shape[-1]}, {Q.shape[-1]}), got {tuple(W.shape)}"
        )
    return (Q @ W.T) @ K.transpose(-2, -1)


def two_matrix_scores(
    Q: Float[Tensor, "... T d_q"],
    K: Float[Tensor, "... S d_k"],
    W_Q: Float[Tensor, "d d_q"],
    W_K: Float[Tensor, "d d_k"],
) -> Float[Tensor, "... T S"]:
    """s_ti = (W_K k_i) . (W_Q q_t): bilinear with W = W_K^T W_Q.

    Source: L1 "Attention, formally".
    """
    return dot_scores(Q @ W_Q.T, K @ W_K.T)


def gaussian_scores(
    Q: Float[Tensor, "... T d"], K: Float[Tensor, "... S d"], bandwidth: float
) -> Float[Tensor, "... T S"]:
    """s_ti = -|q_t - k_i|^2 / (2 h^2): the scores that make attention kernel regression.

    Raises: ValueError for widths that differ or a bandwidth that is not positive.
    Source: L3 "Kernel regression as attention".
    """
    _check_same_width(Q, K)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    # Differences, not |q|^2 + |k|^2 - 2 q.k, which loses every digit for points that lie far out.
    return (Q[..., :, None, :] - K[..., None, :, :]).square().sum(-1) / (-2 * bandwidth**2)


def kernel_regression(
    Q: Float[Tensor, "... T d"],
    K: Float[Tensor, "... S d"],
    V: Float[Tensor, "... S d_v"],
    bandwidth: float,
) -> Float[Tensor, "... T d_v"]:
    """The Nadaraya-Watson estimate: queries are test points, keys inputs, values responses.

    With keys of one norm it equals dot-product attention with scores q . k / h^2.
    Raises: ValueError for sizes that do not fit or a bandwidth that is not positive.
    Source: L3 "Kernel regression as attention"; Nadaraya 1964; Watson 1964.
    """
    _check_same_length(K, V)
    return softmax(gaussian_scores(Q, K, bandwidth), dim=-1) @ V


def scaled_dot_product_attention(
    Q: Float[Tensor, "... T d_k"],
    K: Float[Tensor, "... S d_k"],
    V: Float[Tensor, "... S d_v"],
    mask: Bool[Tensor, "... T S"] | None = None,
    *,
    causal: bool = False,
    bias: Float[Tensor, "... T S"] | None = None,
    scale: float | None = None,
    implementation: Implementation = "fused",
) -> Float[Tensor, "... T d_v"]:
    """softmax(Q K^T * scale + bias) V over the keys that the mask allows (True = may attend).

    `causal` adds the causal mask of `masks.causal_mask(T, S)`; `scale` is 1 / sqrt(d_k) if None. A
    query that may attend to nothing gets an output of zero.
    Raises: ValueError for widths, lengths, a mask or a bias that do not fit, or an unknown
    implementation; TypeError for tensors that are not floating point, or a mask that is not boolean.
    Source: L1 slide 47; L2 "Parallelizing attention"; Vaswani et al. 2017, equation 1.
    """
    require_implementation(implementation)
    _check_floating(Q)
    _check_same_width(Q, K)
    _check_same_length(K, V)
    if implementation == "explicit":
        return attention_weights(Q, K, mask, causal=causal, bias=bias, scale=scale) @ V
    T, S = Q.shape[-2], K.shape[-2]
    if mask is not None or bias is not None:
        leading = np.broadcast_shapes(Q.shape[:-2], K.shape[:-2])  # torch's own imports for 0.7 s
        _check_mask_and_bias(mask, bias, torch.Size((*leading, T, S)))
    if causal and (mask is not None or bias is not None or T != S):
        mask, causal = combine_masks(mask, causal_mask(T, S, device=Q.device)), False
    if bias is not None:
        # torch's kernels add one tensor: what is forbidden becomes a bias of -inf.
        bias = bias.to(Q.dtype)
        mask = bias if mask is None else torch.where(mask, bias, -math.inf)
    if mask is not None:
        mask = torch.atleast_2d(mask)  # torch's kernels look for the query dimension
    return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask, is_causal=causal, scale=scale)


def attention_weights(
    Q: Float[Tensor, "... T d_k"],
    K: Float[Tensor, "... S d_k"],
    mask: Bool[Tensor, "... T S"] | None = None,
    *,
    causal: bool = False,
    bias: Float[Tensor, "... T S"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "... T S"]:
    """The matrix softmax(Q K^T * scale + bias); a row sums to 1, or to 0 if it is fully masked.

    Raises: as `scaled_dot_product_attention`.
    """
    _check_floating(Q)
    # In float16 a score above 65504 would be infinite before it is scaled down.
    compute = torch.promote_types(Q.dtype, torch.float32)
    # q . k is a sum of d_k terms: with unit-variance terms its standard deviation is sqrt(d_k).
    scale = 1 / math.sqrt(Q.shape[-1]) if scale is None else scale
    scores = dot_scores(Q.to(compute) * scale, K.to(compute))
    _check_mask_and_bias(mask, bias, scores.shape)
    if bias is not None:
        scores = scores + bias
    if causal:
        mask = combine_masks(mask, causal_mask(*scores.shape[-2:], device=scores.device))
    return masked_softmax(scores, mask).to(Q.dtype)


def self_attention(
    X: Float[Tensor, "... T d"],
    W_Q: Float[Tensor, "d_k d"],
    W_K: Float[Tensor, "d_k d"],
    W_V: Float[Tensor, "d_v d"],
    W_O: Float[Tensor, "d d_v"],
    mask: Bool[Tensor, "... T T"] | None = None,
    *,
    implementation: Implementation = "fused",
) -> Float[Tensor, "... T d"]:
    """One head: every position is query, key and value at once. Weights are (out, in).

    Source: L1 "Self-attention"; L2 "Parallelizing computation using X".
    """
    Q, K, V = X @ W_Q.T, X @ W_K.T, X @ W_V.T
    A = scaled_dot_product_attention(Q, K, V, mask, implementation=implementation)
    return A @ W_O.T


class LayerCache(Protocol):
    """Where a layer keeps the keys and values of earlier positions; see `cache.KVCache`."""

    def append(
        self, K: Float[Tensor, "... kv T d"], V: Float[Tensor, "... kv T d"]
    ) -> tuple[Float[Tensor, "... kv S d"], Float[Tensor, "... kv S d"]]:
        """Store the new keys and values; return all that the new queries may look at."""
        ...


class MultiHeadAttention(nn.Module):
    """h heads side by side, concatenated and mixed by W_O; K and V may have fewer heads than Q.

    `n_kv_heads` = `n_heads` is the lectures' multi-head attention, 1 is multi-query, between them
    grouped-query: heads n * g to (n + 1) * g - 1 of Q share head n of K and V, g = h / n_kv_heads.
    State: `q_proj.weight` (h * d_head, d_model), `k_proj.weight` and `v_proj.weight` (n_kv_heads *
    d_head, d_model), `output_proj.weight` (d_model, h * d_head), (out, in), each with a `.bias` if
    `bias`; rows of head n are n * d_head to (n + 1) * d_head - 1.
    Raises: ValueError when n_heads does not divide d_model (and no d_head is given), n_kv_heads does
    not divide n_heads, the implementation is unknown, or the input width is not d_model.
    Source: L1 "Dimensions"; L2 "Parallelizing multi-head attention"; L4 model table; Shazeer 2019;
    Ainslie et al. 2023 (GQA).
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        bias: bool = False,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if n_heads < 1 or (d_head is None and d_model % n_heads):
            raise ValueError(f"n_heads must divide d_model = {d_model}, got n_heads = {n_heads}")
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ValueError(
                f"n_kv_heads must divide n_heads = {n_heads}, got n_kv_heads = {n_kv_heads}"
            )
        require_implementation(implementation)
        d_head = d_model // n_heads if d_head is None else d_head
        self.d_model, self.n_heads, self.n_kv_heads = d_model, n_heads, n_kv_heads
        self.implementation: Implementation = implementation

        def linear(d_in: int, d_out: int) -> nn.Linear:
            return nn.Linear(d_in, d_out, bias=bias, device=device, dtype=dtype)

        self.q_proj = linear(d_model, n_heads * d_head)
        self.k_proj = linear(d_model, n_kv_heads * d_head)
        self.v_proj = linear(d_model, n_kv_heads * d_head)
        self.output_proj = linear(n_heads * d_head, d_model)

    def forward(
        self,
        x: Float[Tensor, "... T d"],
        mask: Bool[Tensor, "... T S"] | None = None,
        *,
        memory: Float[Tensor, "... S d"] | None = None,
        causal: bool = False,
        bias: Float[Tensor, "... h T S"] | None = None,
        scale: float | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        layout: Layout = "interleaved",
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "... T d"]:
        """Shapes: x (..., T, d_model); mask (..., T, S), shared by all heads; out as x.

        Keys and values come from `memory` (cross-attention), or from x itself after what `cache`
        holds. `rotary` is the cosines and sines of `rope.rope_table`; `bias` has one matrix a head.
        """
        if x.shape[-1] != self.d_model:
            raise ValueError(
                f"the last dimension must be d_model = {self.d_model}, got {tuple(x.shape)}"
            )
        source = x if memory is None else memory
        Q = self._split(self.q_proj(x), self.n_heads)
        K = self._split(self.k_proj(source), self.n_kv_heads)
        V = self._split(self.v_proj(source), self.n_kv_heads)
        if rotary is not None:
            Q, K = (rotate(x, *rotary, layout, implementation=self.implementation) for x in (Q, K))
        if cache is not None:
            K, V = cache.append(K, V)
        if mask is not None:
            mask = mask.unsqueeze(-3)  # (..., 1, T, S): one mask for every head
        if self.n_kv_heads != self.n_heads:
            group = self.n_heads // self.n_kv_heads
            K, V = K.repeat_interleave(group, dim=-3), V.repeat_interleave(group, dim=-3)
        heads = scaled_dot_product_attention(
            Q,
            K,
            V,
            mask,
            causal=causal,
            bias=bias,
            scale=scale,
            implementation=self.implementation,
        )  # (..., h, T, d_head)
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))  # (..., T, d_model)

    @staticmethod
    def _split(x: Tensor, n_heads: int) -> Tensor:
        return x.unflatten(-1, (n_heads, -1)).transpose(-3, -2)  # (..., n_heads, T, d_head)


def _check_same_width(Q: Tensor, K: Tensor) -> None:
    if Q.shape[-1] != K.shape[-1]:
        raise ValueError(
            f"queries and keys must have the same width, got {Q.shape[-1]} and {K.shape[-1]}"
        )


def _check_same_length(K: Tensor, V: Tensor) -> None:
    if K.shape[-2] != V.shape[-2]:
        raise ValueError(
            f"K and V must hold the same number of positions, got {K.shape[-2]} and {V.shape[-2]}"
        )


def _check_floating(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(
            f"softmax needs a floating-point tensor, got {x.dtype}; convert with .float()"
        )


def require_implementation(implementation: str) -> None:
    """Raises: ValueError for a path that does not exist."""
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation is {implementation!r}; choose 'fused' or 'explicit'")


def _check_mask(mask: Tensor, scores_shape: torch.Size) -> None:
    require_boolean(mask)
    _check_broadcasts("mask", mask, scores_shape)


def _check_mask_and_bias(
    mask: Tensor | None, bias: Tensor | None, scores_shape: torch.Size
) -> None:
    if mask is not None:
        _check_mask(mask, scores_shape)
    if bias is not None:
        _check_broadcasts("bias", bias, scores_shape)


def _check_broadcasts(name: str, given: Tensor, scores_shape: torch.Size) -> None:
    # Broadcasting may stretch what is given, never the scores: that would invent queries or keys.
    sizes = zip(reversed(given.shape), reversed(scores_shape), strict=False)
    if given.dim() > len(scores_shape) or any(m not in (1, s) for m, s in sizes):
        raise ValueError(
            f"the {name} must broadcast to the scores' shape {tuple(scores_shape)}, queries by "
            f"keys, got {tuple(given.shape)}"
        )
