"""Positions other than rotations: added to the input, or to the scores of attention.

Without any of them attention does not see order: permuted keys and values give the same output.
Positions are integers in any order, not necessarily 0..T-1: a cache continues where it stopped, a
packed document starts over. `rope` turns queries and keys instead.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from llmr_ref.rope import rope_angles


@dataclass(frozen=True)
class Scheme:
    """Where a scheme acts, whether that is in every layer, what it learns, how far it is defined.

    Source: L1 "Where are PEs used?"; L4 "Visual comparison".
    """

    acts_on: Literal["input", "scores", "queries and keys", "nothing"]
    every_layer: bool
    learned: bool
    any_length: bool  # defined past the trained length; whether it works there is another matter


SCHEMES = {
    "sinusoidal": Scheme("input", every_layer=False, learned=False, any_length=True),
    "learned": Scheme("input", every_layer=False, learned=True, any_length=False),
    "t5": Scheme("scores", every_layer=True, learned=True, any_length=True),
    "alibi": Scheme("scores", every_layer=True, learned=False, any_length=True),
    "rope": Scheme("queries and keys", every_layer=True, learned=False, any_length=True),
    "none": Scheme("nothing", every_layer=False, learned=False, any_length=True),  # NoPE
}


# --- added to the input -------------------------------------------------------------------------


def sinusoidal_encoding(
    positions: Num[Tensor, "... T"],
    d: int,
    base: float = 10_000.0,
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "... T d"]:
    """PE(pos, 2i) = sin(pos / C^(2i/d)), PE(pos, 2i+1) = cos(pos / C^(2i/d)), with C the base.

    PE(p) . PE(q) = sum_i cos((p - q) / C^(2i/d)): it depends on the distance alone. Computed in
    float64 on the positions' device.
    Raises: ValueError for a d that is not positive and even, or a base that is not positive.
    Source: Vaswani et al. 2017, section 3.5; L1 "Sinusoidal Position Encodings"; L3 "Positional
    encoding" (where C is said to be a maximum length: it is a wavelength, and bounds nothing); L4.
    """
    angles = rope_angles(positions, d, base)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(dtype)


class LearnedPositions(nn.Embedding):
    """A learned vector for each position below max_length, to be added to the token's.

    State: `weight` (max_length, d_model).
    Raises: ValueError for sizes below 1 or a position outside 0..max_length-1; TypeError for
    positions that are not integers.
    Source: L1 "Absolute Position Encodings"; L2 "Positional embeddings"; L4 "Learned".
    """

    def __init__(
        self,
        max_length: int,
        d_model: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if max_length < 1 or d_model < 1:
            raise ValueError(
                f"max_length and d_model must be at least 1, got {max_length} and {d_model}"
            )
        super().__init__(max_length, d_model, device=device, dtype=dtype)

    def forward(self, positions: Int[Tensor, "... T"]) -> Float[Tensor, "... T d"]:
        _check_integers("positions", positions)
        # A compiled graph cannot stop to look at values, nor can tensors that have none.
        if positions.numel() and not (positions.is_meta or torch.compiler.is_compiling()):
            lowest, highest = (int(p) for p in positions.aminmax())
            if lowest < 0 or highest >= self.num_embeddings:
                wrong = lowest if lowest < 0 else highest
                raise ValueError(
                    f"position {wrong} has no vector: max_length = {self.num_embeddings} allows "
                    f"0..{self.num_embeddings - 1}; shorten the input or build a longer model"
                )
        return F.embedding(positions, self.weight)


# --- added to the scores ------------------------------------------------------------------------


def relative_positions(
    queries: Num[Tensor, "... T"], keys: Num[Tensor, "... S"]
) -> Num[Tensor, "... T S"]:
    """Key minus query: negative for what came before. With a cache, fewer queries than keys."""
    return keys[..., None, :] - queries[..., :, None]


def relative_buckets(
    relative: Int[Tensor, "..."],
    *,
    bidirectional: bool,
    n_buckets: int = 32,
    max_distance: int = 128,
) -> Int[Tensor, "..."]:
    """The bucket, 0..n_buckets-1, of each key-minus-query.

    Bidirectional: the upper half of the buckets is for keys that come after. Causal: those share
    bucket 0 with distance 0. Of what is left, half the buckets hold one distance each, the rest grow
    like logarithms up to max_distance, and the last takes all that is farther.
    Raises: TypeError for relative positions that are not integers; ValueError for too few buckets, an
    odd number of them when bidirectional, or a max_distance that the exact buckets reach.
    Source: Raffel et al. 2020 (T5), section 2.1; L4 "Relative".
    """
    _check_integers("relative", relative)
    exact = _exact_buckets(bidirectional, n_buckets, max_distance)
    one_side = n_buckets // 2 if bidirectional else n_buckets
    distance = relative.abs() if bidirectional else (-relative).clamp(min=0)
    # float32 and this order of operations: checkpoints were trained with its rounding.
    growth = (distance.float() / exact).log() / math.log(max_distance / exact)
    far = exact + (growth.clamp(min=0) * (one_side - exact)).long()
    bucket = torch.where(distance < exact, distance, far.clamp(max=one_side - 1))
    return bucket + (relative > 0) * one_side if bidirectional else bucket


class RelativeBias(nn.Module):
    """T5's bias: one learned number per bucket of distances and head, shared by all layers.

    It is added after any scaling of the scores; T5 itself does not scale them.
    State: `buckets.weight` (n_buckets, n_heads).
    Raises: ValueError for fewer than 1 head, or as `relative_buckets`; TypeError for positions that
    are not integers.
    Source: Raffel et al. 2020 (T5), section 2.1; L4 "Relative".
    """

    def __init__(
        self,
        n_heads: int,
        *,
        bidirectional: bool,
        n_buckets: int = 32,
        max_distance: int = 128,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_heads(n_heads)
        _exact_buckets(bidirectional, n_buckets, max_distance)
        self.buckets = nn.Embedding(n_buckets, n_heads, device=device, dtype=dtype)
        self.bidirectional, self.max_distance = bidirectional, max_distance

    def forward(
        self, queries: Int[Tensor, "... T"], keys: Int[Tensor, "... S"]
    ) -> Float[Tensor, "... h T S"]:
        """Shapes: the queries' and keys' positions, (..., T) and (..., S); out (..., h, T, S)."""
        bucket = relative_buckets(
            relative_positions(queries, keys),
            bidirectional=self.bidirectional,
            n_buckets=self.buckets.num_embeddings,
            max_distance=self.max_distance,
        )
        bias: Tensor = self.buckets(bucket)  # (..., T, S, h)
        return bias.movedim(-1, -3)


def alibi_slopes(
    n_heads: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " h"]:
    """2^(-8/n), 2^(-16/n), ..., 2^-8 for n heads, n a power of two.

    Any other number takes the slopes of the power of two below it, then every second one of the next
    power's, which lie between them.
    Raises: ValueError for fewer than 1 head.
    Source: Press et al. 2022, section 3, and their code for other numbers of heads.
    """
    _check_heads(n_heads)
    power = 1 << (n_heads.bit_length() - 1)
    exponents = [8 * i / power for i in range(1, power + 1)]
    between = [8 * i / (2 * power) for i in range(1, 2 * power, 2)]
    exponents += between[: n_heads - power]
    slopes = [2.0**-exponent for exponent in exponents]
    return torch.tensor(slopes, dtype=dtype, device=device)


def alibi_bias(
    n_heads: int,
    queries: Num[Tensor, "... T"],
    keys: Num[Tensor, "... S"],
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "... h T S"]:
    """-slope * |query - key|, to be added to the scores after they are scaled; it learns nothing.

    The paper is causal and needs no absolute value; with it an encoder sees both sides alike.
    Shapes: the queries' and keys' positions, (..., T) and (..., S); out (..., h, T, S).
    Raises: ValueError for fewer than 1 head.
    Source: Press et al. 2022, section 3.
    """
    compute = torch.promote_types(dtype, torch.float32)
    slopes = alibi_slopes(n_heads, device=queries.device, dtype=compute)
    distance = relative_positions(queries, keys).abs().unsqueeze(-3)  # (..., 1, T, S)
    return (-slopes[:, None, None] * distance).to(dtype)


def _exact_buckets(bidirectional: bool, n_buckets: int, max_distance: int) -> int:
    """How many distances have a bucket of their own."""
    if n_buckets < (4 if bidirectional else 2) or (bidirectional and n_buckets % 2):
        wanted = "an even number, at least 4," if bidirectional else "at least 2"
        raise ValueError(
            f"n_buckets must be {wanted} with bidirectional={bidirectional}, got {n_buckets}"
        )
    exact = (n_buckets // 2 if bidirectional else n_buckets) // 2
    if max_distance <= exact:
        raise ValueError(
            f"max_distance must be above {exact}, which have a bucket each, got {max_distance}"
        )
    return exact


def _check_heads(n_heads: int) -> None:
    if n_heads < 1:
        raise ValueError(f"n_heads must be at least 1, got {n_heads}")


def _check_integers(name: str, values: Tensor) -> None:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {values.dtype}; convert with .long()")
