"""Attention masks. Boolean, True = may attend; rows are queries, columns are keys.

Every mask broadcasts over batch and heads, and masks combine by logical and.
"""

import functools
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def causal_mask(
    n_queries: int, n_keys: int | None = None, *, device: torch.device | str | None = None
) -> Bool[Tensor, "T S"]:
    """A query sees itself and what came before.

    With more keys than queries the queries are the last positions; a cache holds the rest.
    Raises: ValueError for a negative length or for fewer keys than queries.
    Source: L1 "A small problem with Transformer LMs"; L2 "Masking out the future".
    """
    n_keys = n_queries if n_keys is None else n_keys
    if n_queries < 0 or n_keys < n_queries:
        raise ValueError(
            f"need 0 <= n_queries <= n_keys, got n_queries = {n_queries}, n_keys = {n_keys}"
        )
    query = torch.arange(n_keys - n_queries, n_keys, device=device)
    key = torch.arange(n_keys, device=device)
    return key <= query[:, None]


def padding_mask(lengths: Int[Tensor, "... "], n_keys: int) -> Bool[Tensor, "... 1 S"]:
    """Keys below each sequence's length are real, the rest is padding; 1 stands for all queries.

    Raises: ValueError for a length outside 0..n_keys.
    Source: L1 "Batched LM training".
    """
    if ((lengths < 0) | (lengths > n_keys)).any():
        shortest, longest = int(lengths.min()), int(lengths.max())
        raise ValueError(f"lengths must lie in 0..n_keys = {n_keys}, got {shortest}..{longest}")
    return (torch.arange(n_keys, device=lengths.device) < lengths[..., None])[..., None, :]


def sliding_window_mask(
    n: int, window: int, *, device: torch.device | str | None = None
) -> Bool[Tensor, "T T"]:
    """Causal, and no further back than `window` positions, the query's own included.

    Raises: ValueError for a window below 1 or a negative length.
    Source: Beltagy et al. 2020 (Longformer); Jiang et al. 2023 (Mistral 7B).
    """
    if window < 1:
        raise ValueError(f"window counts the query itself, so it is at least 1, got {window}")
    causal = causal_mask(n, device=device)
    position = torch.arange(n, device=device)
    return causal & (position[:, None] - position < window)  # query - key: how far back it looks


def prefix_mask(
    n: int, prefix_length: int, *, device: torch.device | str | None = None
) -> Bool[Tensor, "T T"]:
    """The first `prefix_length` positions see one another both ways; the rest is causal.

    Raises: ValueError for a prefix outside 0..n.
    Source: Raffel et al. 2020 (T5), "prefix LM".
    """
    if not 0 <= prefix_length <= n:
        raise ValueError(f"prefix_length must lie in 0..n = {n}, got {prefix_length}")
    in_prefix = torch.arange(n, device=device) < prefix_length
    return causal_mask(n, device=device) | in_prefix


def document_mask(document_ids: Int[Tensor, "... T"]) -> Bool[Tensor, "... T T"]:
    """Positions see one another inside one document of a packed sequence; not causal by itself."""
    return document_ids[..., :, None] == document_ids[..., None, :]


def combine_masks(*masks: Bool[Tensor, "..."] | None) -> Bool[Tensor, "..."] | None:
    """Logical and of all masks, broadcast; None stands for "everything allowed".

    Raises: TypeError for a mask that is not boolean.
    """
    present = [m for m in masks if m is not None]
    for m in present:
        require_boolean(m)
    return functools.reduce(torch.logical_and, present) if present else None


def mask_to_bias(
    mask: Bool[Tensor, "..."], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "..."]:
    """0 where attending is allowed, -inf where not: the additive M of L4's formula.

    Raises: TypeError for a mask that is not boolean.
    """
    require_boolean(mask)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -math.inf)


def require_boolean(mask: Tensor) -> None:
    """Raise TypeError for anything but True and False: numbers mean other things elsewhere."""
    if mask.dtype != torch.bool:
        raise TypeError(
            f"a mask is boolean (True = may attend), got {mask.dtype}; compare or .bool() it"
        )
