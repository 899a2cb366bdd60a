"""Attention: scores, softmax, weighted sum; then many heads at once.

Letters follow the lectures: Q, K, V are queries, keys and values; W_Q, W_K, W_V, W_O project.
Shapes: T queries, S keys, d_k per query and key, d_v per value. Leading dimensions (...) are free.
"""

import math
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmr_ref.masks import require_boolean

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
    # Subtracting the maximum changes no ratio and keeps every exponent at or below zero.
    e = (z - z.amax(dim=dim, keepdim=True)).exp()
    return (e / e.sum(dim=dim, keepdim=True)).to(x.dtype)


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


def scaled_dot_product_attention(
    Q: Float[Tensor, "... T d_k"],
    K: Float[Tensor, "... S d_k"],
    V: Float[Tensor, "... S d_v"],
    mask: Bool[Tensor, "... T S"] | None = None,
    *,
    implementation: Implementation = "fused",
) -> Float[Tensor, "... T d_v"]:
    """softmax(Q K^T / sqrt(d_k)) V over the keys that the mask allows (True = may attend).

    A query that may attend to nothing gets an output of zero.
    Raises: ValueError for widths, lengths or a mask that do not fit, or an unknown implementation;
    TypeError for tensors that are not floating point, or a mask that is not boolean.
    Source: L1 slide 47; L2 "Parallelizing attention"; Vaswani et al. 2017, equation 1.
    """
    _check_implementation(implementation)
    _check_floating(Q)
    _check_same_width(Q, K)
    if K.shape[-2] != V.shape[-2]:
        raise ValueError(
            f"K and V must hold the same number of positions, got {K.shape[-2]} and {V.shape[-2]}"
        )
    if implementation == "explicit":
        return attention_weights(Q, K, mask) @ V
    if mask is not None:
        leading = np.broadcast_shapes(Q.shape[:-2], K.shape[:-2])  # torch's own imports for 0.7 s
        _check_mask(mask, torch.Size((*leading, Q.shape[-2], K.shape[-2])))
        mask = torch.atleast_2d(mask)  # torch's kernels look for the query dimension
    return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


def attention_weights(
    Q: Float[Tensor, "... T d_k"],
    K: Float[Tensor, "... S d_k"],
    mask: Bool[Tensor, "... T S"] | None = None,
) -> Float[Tensor, "... T S"]:
    """The matrix softmax(Q K^T / sqrt(d_k)); a row sums to 1, or to 0 if it is fully masked.

    Raises: as `scaled_dot_product_attention`.
    """
    _check_floating(Q)
    # In float16 a score above 65504 would be infinite before it is scaled down.
    compute = torch.promote_types(Q.dtype, torch.float32)
    # q . k is a sum of d_k terms: with unit-variance terms its standard deviation is sqrt(d_k).
    scores = dot_scores(Q.to(compute), K.to(compute)) / math.sqrt(Q.shape[-1])
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


class MultiHeadSelfAttention(nn.Module):
    """h heads of width d_model / h side by side, concatenated and mixed by W_O.

    State: `q_proj.weight`, `k_proj.weight`, `v_proj.weight`, `output_proj.weight`, each
    (d_model, d_model), (out, in); rows of head n are n * d_head to (n + 1) * d_head - 1. No biases.
    Raises: ValueError when n_heads does not divide d_model, the implementation is unknown, or the
    input width is not d_model.
    Source: L1 "Dimensions"; L2 "Parallelizing multi-head attention".
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model = {d_model}, got n_heads = {n_heads}")
        _check_implementation(implementation)
        self.d_model, self.n_heads = d_model, n_heads
        self.implementation: Implementation = implementation
        self.q_proj = nn.Linear(d_model, d_model, bias=False, device=device, dtype=dtype)
        self.k_proj = nn.Linear(d_model, d_model, bias=False, device=device, dtype=dtype)
        self.v_proj = nn.Linear(d_model, d_model, bias=False, device=device, dtype=dtype)
        self.output_proj = nn.Linear(d_model, d_model, bias=False, device=device, dtype=dtype)

    def forward(
        self, x: Float[Tensor, "... T d"], mask: Bool[Tensor, "... T T"] | None = None
    ) -> Float[Tensor, "... T d"]:
        """Shapes: x (..., T, d_model); mask (..., T, T), shared by all heads; out as x."""
        if x.shape[-1] != self.d_model:
            raise ValueError(
                f"the last dimension must be d_model = {self.d_model}, got {tuple(x.shape)}"
            )
        Q, K, V = (self._split(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if mask is not None:
            mask = mask.unsqueeze(-3)  # (..., 1, T, T): one mask for every head
        heads = scaled_dot_product_attention(
            Q, K, V, mask, implementation=self.implementation
        )  # (..., h, T, d_head)
        return self.output_proj(heads.transpose(-3, -2).flatten(-2))  # (..., T, d_model)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)  # (..., h, T, d_head)


def _check_same_width(Q: Tensor, K: Tensor) -> None:
    if Q.shape[-1] != K.shape[-1]:
        raise ValueError(
            f"queries and keys must have the same width, got {Q.shape[-1]} and {K.shape[-1]}"
        )


def _check_floating(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(
            f"softmax needs a floating-point tensor, got {x.dtype}; convert with .float()"
        )


def _check_implementation(implementation: str) -> None:
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation is {implementation!r}; choose 'fused' or 'explicit'")


def _check_mask(mask: Tensor, scores_shape: torch.Size) -> None:
    require_boolean(mask)
    # Broadcasting may stretch the mask, never the scores: that would invent queries or keys.
    sizes = zip(reversed(mask.shape), reversed(scores_shape), strict=False)
    if mask.dim() > len(scores_shape) or any(m not in (1, s) for m, s in sizes):
        raise ValueError(
            f"the mask must broadcast to the scores' shape {tuple(scores_shape)}, queries by keys, "
            f"got {tuple(mask.shape)}"
        )
