"""The cache of keys and values: what a decoder need not compute again for every new token.

Without it token t costs a pass over t positions, with it a pass over one; the price is memory that
grows with the length, or with a sliding window, up to the window. Letters: B sequences, T new tokens,
S slots, kv heads of K and V.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmr_ref.config import TransformerConfig


class KVCache:
    """Keys and values of every layer for B sequences, in memory that is taken once.

    Hand it to the model with every piece of the sequence: `model(tokens, cache=cache)`. It holds up to
    `max_length` tokens (`config.max_length` if None); with a sliding window shorter than that it is a
    ring of `window` slots, which never fills up. `padding` is the number of padding tokens to the left
    of each sequence: nobody attends to them, and positions are counted from the first real token.
    No gradient flows through what is stored.
    Raises: ValueError for a configuration that is not causal, sizes below 1, or a padding that is not
    one number of at least 0 for each sequence; TypeError for one that is not whole numbers.
    Source: L5 "Transformer Sampling"; Shazeer 2019, section 2.4.1; Jiang et al. 2023 (Mistral 7B),
    "Rolling Buffer Cache".
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch_size: int,
        max_length: int | None = None,
        *,
        padding: Int[Tensor, " B"] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        max_length = config.max_length if max_length is None else max_length
        for name, size in (("batch_size", batch_size), ("max_length", max_length)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not config.causal:
            raise ValueError(
                "a cache needs causal=True: in an encoder every new token changes the earlier ones"
            )
        scaling = config.rope_scaling
        if scaling and scaling.kind == "dynamic" and max_length > scaling.original_length:
            raise ValueError(
                f"dynamic scaling turns every key anew once there are more than "
                f"{scaling.original_length} tokens, got max_length = {max_length}: a cache cannot "
                "follow; do without it (cache=False)"
            )
        self.config, self.batch_size, self.max_length = config, batch_size, max_length
        self.window = config.window
        slots = max_length if self.window is None else min(self.window, max_length)
        # Keys and values side by side: one write stores both.
        shape = (config.n_layers, batch_size, 2 * config.kv_heads, slots, config.head_width)
        self.storage = torch.empty(shape, device=device, dtype=dtype)
        self.layers = [LayerStore(self, layer) for layer in self.storage]
        self.length = 0
        self.padding: Tensor | None = None
        if padding is not None:
            self.padding = _checked_padding(padding, batch_size).to(self.storage.device)

    @property
    def slots(self) -> int:
        """Positions that there is memory for."""
        return self.storage.shape[-2]

    @property
    def rolling(self) -> bool:
        """Whether new tokens take the place of those that left the window."""
        return self.window is not None and self.window < self.max_length

    @property
    def bytes(self) -> int:
        """2 (K and V) * layers * B * kv * S * d_head * bytes per number, however full."""
        return self.storage.nbytes

    def reset(self) -> None:
        """Forget every token, and the padding."""
        self.length, self.padding = 0, None

    def crop(self, length: int) -> None:
        """Keep the first `length` tokens.

        Raises: ValueError if there are fewer, or if the ring has overwritten what is to come back.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length must lie in 0..{self.length}, the tokens held, got {length}")
        if length < self.length and self.length > self.slots:
            raise ValueError(
                f"cannot crop to {length} tokens: of {self.length} the ring holds the last "
                f"{self.slots} alone; reset it and feed them again"
            )
        self.length = length

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Let sequence b go on from what sequence rows[b] has been so far, as beams do.

        Raises: ValueError for a wrong number of rows.
        """
        if rows.shape != (self.batch_size,):
            raise ValueError(f"need {self.batch_size} rows, got {tuple(rows.shape)}")
        filled = self.storage[..., : min(self.length, self.slots), :]
        filled.copy_(filled.index_select(1, rows))
        if self.padding is not None:
            self.padding = self.padding[rows]

    def check_room(self, T: int) -> None:
        """Raises: ValueError if T more tokens do not fit."""
        if self.length + T > self.max_length and not self.rolling:
            raise ValueError(
                f"the cache is full: it holds {self.length} tokens of at most {self.max_length}, and "
                f"{T} more are to come; make it with max_length={self.length + T} or more, or crop it"
            )

    # --- what a model asks; see `transformer.Cache` ------------------------------------------------

    def advance(self, T: int) -> None:
        """Count T more tokens, once every layer has appended them."""
        self.length += T

    def positions(self, T: int) -> Int[Tensor, "B T"] | None:
        """Positions of the next T tokens, if padding makes them differ from row to row."""
        if self.padding is None:
            return None
        return self._without_padding(self._next(T))

    def key_positions(self, T: int) -> Int[Tensor, "... S"]:
        """Positions of the keys that `append` gives back along with T new ones, in its order."""
        return self._without_padding(self._held(T))

    def mask(self, T: int) -> Bool[Tensor, "... T S"] | None:
        """Which of those keys the next T queries may look at; None for all that came before them."""
        self.check_room(T)
        window = self.slots if self.window is None else self.window
        if self.padding is None and (T == 1 or (self.length == 0 and window >= T)):
            return None
        back = self._next(T)[:, None] - (held := self._held(T))  # how far each query looks back
        allowed = back >= 0
        if self.window is not None:
            allowed &= back < self.window
        if self.padding is None:
            return allowed
        return allowed & (held >= self.padding[:, None, None])

    def _next(self, T: int) -> Tensor:
        return torch.arange(self.length, self.length + T, device=self.storage.device)

    def _held(self, T: int) -> Tensor:
        """Which token of the sequence, padding included, each key is that `append` gives back."""
        n, slots, device = self.length, self.slots, self.storage.device
        if n + T <= slots:
            return torch.arange(n + T, device=device)
        if T == 1:  # the newest token whose number leaves the remainder s
            return n - (n - torch.arange(slots, device=device)) % slots
        kept = torch.arange(min(n, slots), device=device)
        return torch.cat((n - 1 - (n - 1 - kept) % slots, self._next(T)))

    def _without_padding(self, token: Tensor) -> Tensor:
        if self.padding is None:
            return token
        return (token - self.padding[:, None]).clamp(min=0)  # padding itself is masked: any will do


class LayerStore:
    """One layer's part of a `KVCache`: K and V are views of its memory, (B, kv, S, d_head)."""

    def __init__(self, cache: KVCache, storage: Float[Tensor, "B two_kv S d_head"]) -> None:
        self.cache = cache
        self.storage = storage
        self.K, self.V = storage.chunk(2, dim=1)

    def append(
        self, K: Float[Tensor, "B kv T d_head"], V: Float[Tensor, "B kv T d_head"]
    ) -> tuple[Float[Tensor, "B kv S d_head"], Float[Tensor, "B kv S d_head"]]:
        """Store the new keys and values; return all that the new queries may look at.

        Raises: ValueError for shapes that do not fit or a cache that is full; TypeError for another
        dtype.
        """
        T = K.shape[-2]
        expected = (*self.K.shape[:2], T, self.K.shape[-1])
        for name, x in (("K", K), ("V", V)):
            if x.shape != expected:
                raise ValueError(
                    f"this cache is for {expected[0]} sequences: {name} must be (B, kv, T, d_head) = "
                    f"{expected}, got {tuple(x.shape)}; make the cache with the batch's size"
                )
            if x.dtype != self.K.dtype:
                raise TypeError(
                    f"this cache holds {self.K.dtype}, got a {name} of {x.dtype}; make it with "
                    f"dtype={x.dtype}"
                )
        self.cache.check_room(T)
        n, slots = self.cache.length, self.cache.slots
        K, V = K.detach(), V.detach()
        if n + T <= slots:
            self.K[:, :, n : n + T], self.V[:, :, n : n + T] = K, V
            return self.K[:, :, : n + T], self.V[:, :, : n + T]
        if T == 1:
            self.K[:, :, n % slots], self.V[:, :, n % slots] = K[:, :, 0], V[:, :, 0]
            return self.K, self.V
        # The first of the new queries still look at what the last of the new keys push out.
        kept = min(n, slots)
        seen = (torch.cat((self.K[:, :, :kept], K), 2), torch.cat((self.V[:, :, :kept], V), 2))
        last = torch.arange(max(n, n + T - slots), n + T, device=K.device)
        self.K[:, :, last % slots], self.V[:, :, last % slots] = (
            K[:, :, last - n],
            V[:, :, last - n],
        )
        return seen


def _checked_padding(padding: Tensor, batch_size: int) -> Tensor:
    if padding.is_floating_point() or padding.dtype == torch.bool:
        raise TypeError(f"padding counts tokens: it must be whole numbers, got {padding.dtype}")
    if padding.shape != (batch_size,):
        raise ValueError(
            f"padding must be one number for each of {batch_size} sequences, got shape "
            f"{tuple(padding.shape)}"
        )
    if (padding < 0).any():
        raise ValueError(f"padding must be at least 0, got {int(padding.min())}")
    return padding
