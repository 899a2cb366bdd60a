"""Rotary position embedding: turn each pair of dimensions by an angle that grows with position.

Pairs are numbered k = 0 .. d/2 - 1 (L1 counts from 1). Two layouts exist: "interleaved" pairs
(0, 1), (2, 3), ... as in RoFormer, and "half" pairs (0, d/2), (1, d/2 + 1), ... as in GPT-NeoX and
Hugging Face. Below that, four ways to make one model read more than it was trained on.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Num
from torch import Tensor

Implementation = Literal["fused", "explicit"]
Layout = Literal["interleaved", "half"]
ScalingKind = Literal["linear", "ntk", "dynamic", "yarn", "llama3"]


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
    exact = _in_float64(positions)
    return exact[..., None] * rope_frequencies(d, base, device=exact.device)


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
    if positions.shape[-1:] != x.shape[-2:-1] or not _broadcasts(positions.shape, x.shape[:-1]):
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
    """Turn every pair by its angle in radians; computed in at least float32.

    Raises: as `rotate`.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    cos, sin = angles.cos().to(x.device, compute), angles.sin().to(x.device, compute)
    return rotate(x, cos, sin, layout, implementation="explicit")


def rotate(
    x: Float[Tensor, "... T d"],
    cos: Float[Tensor, "... T pairs"],
    sin: Float[Tensor, "... T pairs"],
    layout: Layout = "interleaved",
    *,
    implementation: Implementation = "fused",
) -> Float[Tensor, "... T d"]:
    """(a, b) -> (a cos - b sin, a sin + b cos) for every pair; computed in at least float32.

    Shapes: cos and sin (see `rope_table`) broadcast against x's leading dimensions and T; out as x.
    Raises: TypeError for an x that is not floating point; ValueError for an odd d, a table that does
    not fit x, an unknown layout or implementation.
    Source: Su et al. 2021, equation 34; L1 "RoPE".
    """
    _check_rotation(x, cos, sin, layout, implementation)
    compute = torch.promote_types(x.dtype, torch.float32)
    wide, cos, sin = x.to(compute), cos.to(compute), sin.to(compute)
    # A compiler fuses the formula by itself and knows no complex numbers.
    if implementation == "fused" and not torch.compiler.is_compiling():
        turn = _multiply_complex if layout == "interleaved" else _turn_halves
        return turn(wide, cos, sin).to(x.dtype)
    a, b = _pairs(wide, layout)
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=_pair_dim(layout))
    return turned.flatten(-2).to(x.dtype)


def _multiply_complex(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """a + ib times cos + i sin is the formula; x is read once and the result written once."""
    turns = torch.complex(cos, sin)
    if x.stride(-1) != 1 or any(stride % 2 for stride in (*x.stride()[:-1], x.storage_offset())):
        # A pair apart, or at an odd place in memory, is no complex number.
        x = x.clone(memory_format=torch.contiguous_format)
    if not torch.is_grad_enabled():
        # One cheap view each way. They stop gradients, but nobody asked for any.
        return (x.view(turns.dtype) * turns).view(x.dtype)
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(z * turns).flatten(-2)


def _turn_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _HalfRotation.forward(x, cos, sin)
    return _HalfRotation.apply(x, cos, sin)


class _HalfRotation(torch.autograd.Function):
    """The half layout with one allocation; autograd by itself would copy for every in-place sum."""

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pairs = cos.shape[-1]
        out = x * torch.cat((cos, cos), dim=-1)
        out[..., :pairs].addcmul_(x[..., pairs:], sin, value=-1)
        out[..., pairs:].addcmul_(x[..., :pairs], sin)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        _, cos, sin = inputs
        if cos.requires_grad or sin.requires_grad:
            raise ValueError(
                "the fused rotation takes cos and sin as constants, got some that require a "
                "gradient; detach them or choose implementation='explicit'"
            )
        ctx.save_for_backward(cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn_halves(grad, cos, -sin), None, None  # the transpose turns back


def convert_layout(
    x: Float[Tensor, "... d"], source: Layout, target: Layout
) -> Float[Tensor, "... d"]:
    """Reorder the last dimension from one layout's pairs to the other's.

    Apply it to the rows of W_Q and W_K (transpose first: weights are (out, in), heads separate) to
    move a checkpoint; the attention scores stay the same.
    Raises: ValueError for an odd d or an unknown layout.
    """
    return torch.stack(_pairs(x, source), dim=_pair_dim(target)).flatten(-2)


# --- longer contexts ----------------------------------------------------------------------------


@dataclass(frozen=True)
class RopeScaling:
    """How to reach `factor` times the length that a model was trained on, `original_length` tokens.

    kind: "linear", position interpolation: every frequency is divided by the factor.
        "ntk": the base grows, so that the slowest pair turns `factor` times slower, the fastest as ever.
        "dynamic": as "ntk", by as much as the sequence at hand needs; not at all up to original_length.
        "yarn": pairs that turn more than beta_fast times in original_length tokens stay, those that
        turn less than beta_slow times are interpolated, a ramp lies between; the scores grow.
        "llama3": the same with a ramp that is linear in turns, and without the last part.
    attention_factor: of yarn, multiplies cos and sin; 0.1 ln(factor) + 1 if None.
    truncate: of yarn, round the ramp's ends outwards to whole pairs.
    Raises: ValueError for an unknown kind, a factor below 1, a length, beta or attention factor that
    is not positive, or beta_fast that does not exceed beta_slow.
    Source: L1 "RoPE Interpolation and Extrapolation Properties", "YaRN"; Chen et al. 2023; Peng et
    al. 2023 (YaRN), section 3; Grattafiori et al. 2024 (Llama 3; its high_freq_factor and
    low_freq_factor, 4 and 1, are beta_fast and beta_slow).
    """

    kind: ScalingKind
    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScalingKind):
            choices = ", ".join(map(repr, get_args(ScalingKind)))
            raise ValueError(f"kind is {self.kind!r}; choose one of {choices}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor stretches the context: at least 1, got {self.factor}")
        if self.original_length < 1:
            raise ValueError(
                f"original_length counts tokens: at least 1, got {self.original_length}"
            )
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"need 0 < beta_slow < beta_fast (turns in original_length tokens), got "
                f"beta_slow = {self.beta_slow}, beta_fast = {self.beta_fast}"
            )
        if self.attention_factor is not None and not self.attention_factor > 0:
            raise ValueError(f"attention_factor must be positive, got {self.attention_factor}")


def scaled_frequencies(
    d: int,
    base: float = 10_000.0,
    scaling: RopeScaling | None = None,
    length: int | None = None,
    *,
    device: torch.device | str | None = None,
) -> Float[Tensor, " pairs"]:
    """theta_k after scaling, in radians per position, float64.

    length: how many positions the sequence has, read by "dynamic" alone; original_length if None.
    Raises: ValueError as `rope_frequencies`, for a length below 1, or for a single pair whose base
    is to grow.
    Source: as `RopeScaling`; the grown base is base * s^(d / (d - 2)).
    """
    theta = rope_frequencies(d, base, device=device)
    if length is not None and length < 1:
        raise ValueError(f"length counts positions: at least 1, got {length}")
    if scaling is None:
        return theta
    factor, original = scaling.factor, scaling.original_length
    if scaling.kind == "linear":
        return theta / factor
    if scaling.kind in ("ntk", "dynamic"):
        if d == 2:
            raise ValueError(
                "d = 2 is one pair that turns by 1 whatever the base; d must be above 2"
            )
        if scaling.kind == "dynamic":
            factor = factor * max(length or original, original) / original - (factor - 1)
        return rope_frequencies(d, base * factor ** (d / (d - 2)), device=device)
    if scaling.kind == "yarn":
        interpolated = yarn_ramp(d, base, scaling, device=device)
    else:
        turns = original * theta / (2 * math.pi)
        fast, slow = scaling.beta_fast, scaling.beta_slow
        interpolated = ((fast - turns) / (fast - slow)).clamp(0, 1)
    return theta * (1 - interpolated) + theta / factor * interpolated


def yarn_ramp(
    d: int, base: float, scaling: RopeScaling, *, device: torch.device | str | None = None
) -> Float[Tensor, " pairs"]:
    """How far pair k is interpolated: 0 it turns as before, 1 `factor` times slower, float64.

    Small k turns fast, has the small wavelength and stays; large k is interpolated. (L1's sentence
    on wavelengths says so; its parentheses have small and large k the wrong way round.) The ramp is
    linear in k, as in the authors' code and Hugging Face's; the paper's gamma is linear in turns.
    Raises: ValueError as `rope_frequencies`, or for a base that is not above 1.
    Source: L1 "YaRN"; Peng et al. 2023, section 3.2.
    """
    k = torch.arange(len(rope_frequencies(d, base)), dtype=torch.float64, device=device)
    if not base > 1:
        raise ValueError(f"the ramp needs frequencies that fall: base must be above 1, got {base}")

    def pair_that_turns(times: float) -> float:
        """The k, not whole, with original_length theta_k / (2 pi) = times."""
        return d * math.log(scaling.original_length / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low = max(low, 0)
    high = max(min(high, d - 1), low + 0.001)  # at least a step, for ends that meet or cross
    return ((k - low) / (high - low)).clamp(0, 1)


def attention_factor(scaling: RopeScaling | None) -> float:
    """What cos and sin are multiplied by, so q and k each; 1 except for yarn.

    Source: Peng et al. 2023, section 3.4: sqrt(1/t) = 0.1 ln(s) + 1; Hugging Face calls it this too.
    """
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1


def attention_temperature(scaling: RopeScaling | None) -> float:
    """L1's t in softmax(Q K^T / (t sqrt(d_k))): 1 / attention_factor^2, below 1 for yarn.

    `rope_table` already contains it: do not divide the scores again.
    """
    return attention_factor(scaling) ** -2


def rope_table(
    positions: Num[Tensor, "... T"],
    d: int,
    base: float = 10_000.0,
    scaling: RopeScaling | None = None,
    *,
    length: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[Float[Tensor, "... T pairs"], Float[Tensor, "... T pairs"]]:
    """cos and sin of every angle times `attention_factor`, for `rotate`: once for all layers.

    Computed in float64 on the positions' device, returned in `dtype` on `device` (the positions' if
    None). length: as `scaled_frequencies`; if None, "dynamic" takes the largest position plus 1.
    Raises: TypeError for a dtype that is not floating point; ValueError as `scaled_frequencies`.
    """
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating point, got {dtype}")
    if length is None and scaling is not None and scaling.kind == "dynamic" and positions.numel():
        length = max(1, math.ceil(positions.max().item()) + 1)
    exact = _in_float64(positions)
    angles = exact[..., None] * scaled_frequencies(d, base, scaling, length, device=exact.device)
    factor = attention_factor(scaling)
    cos, sin = angles.cos() * factor, angles.sin() * factor
    device = positions.device if device is None else device
    return cos.to(device, dtype), sin.to(device, dtype)


# --- what the functions above have in common ----------------------------------------------------


def _in_float64(positions: Tensor) -> Tensor:
    """On the same device, or on the CPU where the device has no float64 (Apple's MPS)."""
    at = positions.cpu() if positions.device.type == "mps" else positions
    return at.to(torch.float64)


def _pair_dim(layout: Layout) -> int:
    """The dimension that holds a pair's two members once the last one is split in two."""
    if layout not in ("interleaved", "half"):
        raise ValueError(f"layout is {layout!r}; choose 'interleaved' or 'half'")
    return -1 if layout == "interleaved" else -2


def _pairs(x: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    """First and second member of every pair, each (..., d/2)."""
    if x.shape[-1] % 2:
        raise ValueError(f"d must be even: dimensions turn in pairs; got d = {x.shape[-1]}")
    dim = _pair_dim(layout)
    return x.unflatten(-1, (-1, 2) if dim == -1 else (2, -1)).unbind(dim)


def _check_rotation(x: Tensor, cos: Tensor, sin: Tensor, layout: str, implementation: str) -> None:
    if not x.is_floating_point():
        raise TypeError(
            f"a rotation needs a floating-point tensor, got {x.dtype}; convert with .float()"
        )
    if layout not in ("interleaved", "half"):
        raise ValueError(f"layout is {layout!r}; choose 'interleaved' or 'half'")
    if implementation not in ("fused", "explicit"):
        raise ValueError(f"implementation is {implementation!r}; choose 'fused' or 'explicit'")
    if x.shape[-1] % 2:
        raise ValueError(f"d must be even: dimensions turn in pairs; got d = {x.shape[-1]}")
    fits = cos.shape == sin.shape and 2 * cos.shape[-1] == x.shape[-1]
    if not (fits and _broadcasts(cos.shape[:-1], x.shape[:-1])):
        raise ValueError(
            f"cos and sin must broadcast to {(*x.shape[:-1], x.shape[-1] // 2)}, one row for every "
            f"row of x and one column a pair, got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )


def _broadcasts(given: torch.Size, rows: torch.Size) -> bool:
    """May `given` be stretched to `rows`? Never the reverse: that would invent vectors."""
    pairs = zip(reversed(given), reversed(rows), strict=False)
    return len(given) <= len(rows) and all(m in (1, n) for m, n in pairs)
