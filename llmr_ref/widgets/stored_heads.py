"""Attention scores of a trained model as they are stored for `TrainedHeads`, and what a head does with them.

Scores are tenths below the largest of their row, a character each; what is further below than 6.2 counts
as forbidden.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmr_ref.attention import masked_softmax
from llmr_ref.masks import causal_mask

FILE = Path(__file__).with_name("trained_heads.json")
LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TENTHS = 10  # levels per unit of score
FORBIDDEN = len(LEVELS) - 1


def write_scores(scores: Float[Tensor, "T T"]) -> str:
    """The causal part, row by row: tenths below the row's largest, a character each."""
    allowed = causal_mask(len(scores))
    below = (scores.masked_fill(~allowed, -torch.inf).amax(-1, keepdim=True) - scores) * TENTHS
    levels = below.round().clamp(0, FORBIDDEN).nan_to_num(FORBIDDEN)
    return "".join(LEVELS[int(n)] for n in levels[allowed])


def read_scores(written: str, T: int) -> Float[Tensor, "T T"]:
    """What `write_scores` wrote: zero or below, -inf for what is forbidden."""
    scores = torch.full((T, T), -torch.inf, dtype=torch.float64)
    levels = torch.tensor([LEVELS.index(c) for c in written], dtype=torch.float64)
    scores[causal_mask(T)] = (-levels / TENTHS).masked_fill(levels == FORBIDDEN, -torch.inf)
    return scores


def read_weights(written: str, T: int) -> Float[Tensor, "T T"]:
    """The attention weights of stored scores."""
    scores = read_scores(written, T)
    return masked_softmax(scores.clamp(min=-1e9), scores.isfinite())


def copies(tokens: Int[Tensor, "... T"]) -> tuple[Tensor, Tensor]:
    """(earlier places of the same token, the places right after those), each (..., T, T)."""
    T = tokens.shape[-1]
    earlier = (tokens[..., :, None] == tokens[..., None, :]) & causal_mask(T).tril(-1)
    after = torch.zeros_like(earlier)
    after[..., 1:] = earlier[..., :-1]
    return earlier, after


def portrait(
    weights: Float[Tensor, "... T T"], tokens: Int[Tensor, "... T"], breaks: Bool[Tensor, "... T"]
) -> dict[str, Tensor]:
    """Where a head looks, the mean over queries: at itself, at the token before, at line breaks, at
    earlier copies of itself, and right after those. The last two over the queries that have copies."""
    earlier, after = copies(tokens)
    has = earlier.any(-1)
    some = has.sum(-1).clamp(min=1)
    return {
        "self": weights.diagonal(dim1=-2, dim2=-1).mean(-1),
        "before": weights.diagonal(-1, dim1=-2, dim2=-1).mean(-1),
        "break": (weights * breaks[..., None, :]).sum(-1).mean(-1),
        "same": ((weights * earlier).sum(-1) * has).sum(-1) / some,
        "after": ((weights * after).sum(-1) * has).sum(-1) / some,
    }
