"""Rotary position embedding: turn each pair of dimensions by an angle that grows with position.

Pairs are numbered k = 0 .. d/2 - 1 (L1 counts from 1). Two layouts exist: "interleaved" pairs
(0, 1), (2, 3), ... as in RoFormer, and "half" pairs (0, d/2), (1, d/2 + 1), ... as in GPT-NeoX and
Hugging Face.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Num
from torch import Tensor

Layout = Literal["interleaved", "half"]


def rope_frequencies(
    d: int, base: float = 10_000.0, *, device: torch.device | str | None = None
) -> Float[Tensor, " pairs"]:
    """theta_k = base^(-2k/d) in radians per position, float64, largest first.

    Raises: ValueError for a d that is not positive and even, or a base that is not positive.
    Source: Su et al. 2021, equation 15; L1 "RoPE" (there k counts from 1).
    """
    if d <= 0 or d % 2:
        raise ValueError(f"d must be positive and even: dimensions turn in pairs; got d = {d}")
    if not base > 0:
        raise ValueError(f"base must be positive, got {base}")
    k = torch.arange(d // 2, dtype=torch.float64, device=device)
    return base ** (-2 * k / d)


def rope_wavelengths(d: int, base: float = 10_000.0) -> Float[Tensor, " pairs"]:
    """Positions that pair k needs for a full turn: lambda_k = 2 pi / theta_k = 2 pi base^(2k/d)."""
    return 2 * math.pi / rope_frequencies(d, base)


def rope_angles(
    positions: Num[Tensor, "... T"], d: int, base: float = 10_000.0
) -> Float[Tensor, "... T pairs"]:
    """theta_{i,k} = i * base^(-2k/d): the angle of position i and pair k, in radians, float64.

    Positions are any numbers: not necessarily 0..T-1, nor whole (position interpolation divides
    them). Angles are kept in float64: a float32 angle near 1e5 may already be off by 0.004.
    """
    return positions.to(torch.float64)[..., None] * rope_frequencies(
        d, base, device=positions.device
    )


def apply_rope(
    x: Float[Tensor, "... T d"],
    positions: Num[Tensor, "... T"],
    base: float = 10_000.0,
    *,
    layout: Layout = "interleaved",
) -> Float[Tensor, "... T d"]:
    """Turn pair k of the vector at position i by theta_{i,k}. Lengths do not change.

    Shapes: x (..., T, d); positions broadcasts against x's leading dimensions and T; out as x. The
    two may live on different devices.
    Raises: TypeError for an x that is not floating point; ValueError for an odd d, positions whose
    length is not T, or an unknown layout.
    Source: Su et al. 2021, equation 34; L1 "RoPE"; L4 "RoPE / Rotary".
    """
    if positions.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(
            f"need one position per row of x: x is {tuple(x.shape)}, positions is "
            f"{tuple(positions.shape)}"
        )
    angles = rope_angles(positions, x.shape[-1], base)
    return rotate_pairs(x, angles, layout=layout)


def rotate_pairs(
    x: Float[Tensor, "... T d"],
    angles: Float[Tensor, "... T pairs"],
    *,
    layout: Layout = "interleaved",
) -> Float[Tensor, "... T d"]:
    """(a, b) -> (a cos - b sin, a sin + b cos) for every pair; computed in at least float32.

    Raises: TypeError for an x that is not floating point; ValueError for an odd d or an unknown
    layout.
    """
    if not x.is_floating_point():
        raise TypeError(
            f"a rotation needs a floating-point tensor, got {x.dtype}; convert with .float()"
        )
    compute = torch.promote_types(x.dtype, torch.float32)
    cos, sin = angles.cos().to(x.device, compute), angles.sin().to(x.device, compute)
    a, b = _pairs(x.to(compute), layout)
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=_pair_dim(layout))
    return turned.flatten(-2).to(x.dtype)


def convert_layout(
    x: Float[Tensor, "... d"], source: Layout, target: Layout
) -> Float[Tensor, "... d"]:
    """Reorder the last dimension from one layout's pairs to the other's.

    Apply it to the rows of W_Q and W_K (transpose first: weights are (out, in), heads separate) to
    move a checkpoint; the attention scores stay the same.
    Raises: ValueError for an odd d or an unknown layout.
    """
    return torch.stack(_pairs(x, source), dim=_pair_dim(target)).flatten(-2)


def _pair_dim(layout: Layout) -> int:
    """The dimension that holds a pair's two members once the last one is split in two."""
    if layout not in get_args(Layout):
        raise ValueError(f"layout is {layout!r}; choose 'interleaved' or 'half'")
    return -1 if layout == "interleaved" else -2


def _pairs(x: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    """First and second member of every pair, each (..., d/2)."""
    if x.shape[-1] % 2:
        raise ValueError(f"d must be even: dimensions turn in pairs; got d = {x.shape[-1]}")
    dim = _pair_dim(layout)
    return x.unflatten(-1, (-1, 2) if dim == -1 else (2, -1)).unbind(dim)
