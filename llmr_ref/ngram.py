"""n-grams: the next token's distribution from counts of what followed the last n - 1 tokens.

Letters: h is a context, h' the same without its first token, w the next token, c(h w) how often w
followed h, N1+(h .) how many different tokens did, V the size of the vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from llmr_ref.data import CharTokenizer

Estimate = Literal["add-k", "witten-bell", "kneser-ney"]
Tokens = str | Sequence[int] | NDArray[np.integer] | Int[Tensor, " N"]


def perplexity(nll_per_token: Float[Tensor, "..."] | float) -> float:
    """exp of the mean negative log likelihood: 1 at best, V for a uniform guess.

    Shapes: losses of single tokens in nats, any shape; or their mean, a number.
    Raises: ValueError for no losses.
    Source: L2 "Perplexity", PP(W) = P(w_1 .. w_N)^(-1/N).
    """
    nll = torch.as_tensor(nll_per_token, dtype=torch.float64)
    if nll.numel() == 0:
        raise ValueError("nll_per_token must hold at least one loss, got none")
    return nll.mean().exp().item()


def bits_per_byte(nll_total_nats: Float[Tensor, ""] | float, n_bytes: int) -> float:
    """Bits to encode one byte of text: comparable between tokenizers, as perplexity is not.

    Units: the whole text's negative log likelihood in nats, and its length in UTF-8 bytes.
    Raises: ValueError for n_bytes below 1.
    """
    if n_bytes < 1:
        raise ValueError(f"n_bytes must be at least 1, got {n_bytes}")
    return float(nll_total_nats) / (n_bytes * math.log(2))


def bits_per_character(nll_total_nats: Float[Tensor, ""] | float, n_characters: int) -> float:
    """As `bits_per_byte`, for one character. Raises: ValueError for n_characters below 1."""
    if n_characters < 1:
        raise ValueError(f"n_characters must be at least 1, got {n_characters}")
    return float(nll_total_nats) / (n_characters * math.log(2))


class _Order(NamedTuple):
    """What is known of all m-grams of one length m, sorted by context, then token.

    A context is written as its row among the (m-1)-grams; the empty one is row 0.
    """

    keys: Int[Tensor, " M"]  # context row * V + token, ascending
    counts: Int[Tensor, " M"]  # c(h w), as often as it occurs
    weights: Int[Tensor, " M"]  # what the estimate counts instead: the same, or N1+(. h w)
    totals: Int[Tensor, " C"]  # sum of weights over w, for every context
    types: Int[Tensor, " C"]  # how many weights above 0, for every context
    discount: float  # Kneser-Ney's D


class NGramModel:
    """P(w | the last n - 1 tokens), estimated from one text.

    - "add-k": (c(h w) + k) / (c(h) + k V); k = 0 is the relative frequency.
    - "witten-bell": (c(h w) + N1+(h .) P(w | h')) / (c(h) + N1+(h .)), down to 1 / V.
    - "kneser-ney": (max(c(h w) - D, 0) + D N1+(h .) P(w | h')) / c(h), down to 1 / V, where below
      the highest order N1+(. h w) takes the place of c(h w). D = n1 / (n1 + 2 n2) per order, from
      the numbers of m-grams that count 1 and 2 (0.5 if there are none of either).

    A context that was never seen leaves the estimate of h' (add-k: 1 / V). At the beginning of a
    sequence the context is as long as what there is. A str is split by `tokenizer` (None: into
    characters).
    Raises: ValueError for n below 1, k below 0, an unknown estimate, fewer than n tokens, or ids
    outside 0 .. vocab_size - 1; TypeError for ids that are not integers.
    Source: L1 "N-gram models"; L2 "N-gram language models"; Chen and Goodman 1999, "An empirical
    study of smoothing techniques for language modeling", sections 2.5 and 2.7.
    """

    def __init__(
        self,
        tokens: Tokens,
        n: int,
        *,
        estimate: Estimate = "witten-bell",
        k: float = 1.0,
        tokenizer: CharTokenizer | None = None,
        vocab_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if estimate not in get_args(Estimate):
            raise ValueError(
                f"estimate is {estimate!r}; choose 'add-k', 'witten-bell' or 'kneser-ney'"
            )
        if not 0 <= k < math.inf:
            raise ValueError(f"k must be at least 0 and finite, got {k}")
        if isinstance(tokens, str) and tokenizer is None and tokens:
            tokenizer = CharTokenizer.from_text(tokens)
        self.n, self.estimate, self.k, self.tokenizer = n, estimate, k, tokenizer
        if device is None:
            device = tokens.device if isinstance(tokens, Tensor) else "cpu"
        self.device = torch.device(device)
        if tokenizer is not None:
            vocab_size = tokenizer.vocab_size
        ids = self._as_ids(tokens, vocab_size)
        if len(ids) < n:
            raise ValueError(f"an n-gram of n = {n} needs at least {n} tokens, got {len(ids)}")
        self.vocab_size = int(ids.max()) + 1 if vocab_size is None else vocab_size
        self._orders = self._count(ids)

    def counts(self, context: Tokens) -> Int[Tensor, " V"]:
        """c(h w) for every token w, of a context of at most n - 1 tokens.

        Raises: ValueError for a longer context or an unknown token.
        """
        h = self._as_ids(context, self.vocab_size)
        if len(h) >= self.n:
            raise ValueError(f"the context may have {self.n - 1} tokens at most, got {len(h)}")
        *_, (order, row) = self._suffixes(h)
        return self._followers(order, row, order.counts)

    def probabilities(self, context: Tokens) -> Float[Tensor, " V"]:
        """P(w | context) for every token w, float64; only the last n - 1 tokens matter.

        Raises: ValueError for an unknown token, or, with k = 0, a context that was never followed.
        """
        h = self._as_ids(context, self.vocab_size)
        h = h[max(0, len(h) - self.n + 1) :]
        V = self.vocab_size
        p = torch.full((V,), 1 / V, dtype=torch.float64, device=self.device)
        for order, row in self._suffixes(h):
            p = self._estimate(order, row, self._followers(order, row, order.weights), p)
        if p.isnan().any():
            raise ValueError(
                f"the context {self._show(h)} is never followed by anything, and k = 0 leaves "
                "no estimate; take k > 0 or another estimate"
            )
        return p

    def log_probabilities(self, tokens: Tokens) -> Float[Tensor, " N"]:
        """ln P(w_i | w_{i-n+1} .. w_{i-1}) for every token of a sequence, float64.

        -inf for what k = 0 holds impossible.
        Raises: ValueError for an unknown token.
        """
        ids = self._as_ids(tokens, self.vocab_size)
        p = torch.full((len(ids),), 1 / self.vocab_size, dtype=torch.float64, device=self.device)
        contexts = torch.zeros(len(ids), dtype=torch.int64, device=self.device)
        for order, first in zip(self._orders, range(len(ids)), strict=False):
            rows = self._find(order, contexts, ids[first:])
            weights = order.weights[rows].masked_fill(rows < 0, 0)
            p = torch.cat([p[:first], self._estimate(order, contexts, weights, p[first:])])
            contexts = rows[:-1]
        return p.nan_to_num(nan=0.0).log()

    def log_probability(self, tokens: Tokens) -> float:
        """ln of the probability of a sequence: the chain rule's sum.

        Source: L2 "Chain rule of probability".
        """
        return self.log_probabilities(tokens).sum().item()

    def generate(
        self,
        n_tokens: int,
        *,
        context: Tokens = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[int]:
        """n_tokens ids that continue the context, each drawn from P(w | .)^(1/temperature).

        Temperature 0 takes the most probable token. The same generator state, the same ids.
        Raises: ValueError for n_tokens or a temperature below 0; as `probabilities`.
        """
        if n_tokens < 0:
            raise ValueError(f"n_tokens must be at least 0, got {n_tokens}")
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        ids = self._as_ids(context, self.vocab_size).tolist()
        n_context = len(ids)
        for _ in range(n_tokens):
            p = self.probabilities(ids[max(0, len(ids) - self.n + 1) :])
            if temperature > 0:
                weights = ((p / p.max()).log() / temperature).softmax(dim=-1)
                ids.append(int(torch.multinomial(weights, 1, generator=generator)))
            else:
                ids.append(int(p.argmax()))
        return ids[n_context:]

    def _count(self, ids: Int[Tensor, " N"]) -> list[_Order]:
        # m-grams are numbered by row, order after order: with V up to 2^32 and N tokens,
        # row * V + token stays below N * V and fits 64 bits whatever n is.
        tables, rows = [], []  # rows[m-1][i]: which m-gram begins at token i
        contexts = torch.zeros_like(ids)
        for m in range(1, self.n + 1):
            keys, row, counts = torch.unique(
                contexts * self.vocab_size + ids[m - 1 :], return_inverse=True, return_counts=True
            )
            tables.append((keys, counts))
            rows.append(row)
            contexts = row[:-1]

        orders = []
        n_contexts = 1
        for m, (keys, counts) in enumerate(tables, start=1):
            weights = counts
            if self.estimate == "kneser-ney" and m < self.n:
                # Every different (m+1)-gram counts once for the m-gram that it ends in.
                longer, _ = tables[m]
                ends_in = torch.empty_like(longer)
                ends_in[rows[m]] = rows[m - 1][1:]
                weights = torch.bincount(ends_in, minlength=len(keys))
            contexts = keys // self.vocab_size
            none = torch.zeros(n_contexts, dtype=torch.int64, device=self.device)
            totals = none.index_add(0, contexts, weights)
            types = none.index_add(0, contexts, (weights > 0).long())
            n1, n2 = (int((weights == c).sum()) for c in (1, 2))
            discount = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5
            orders.append(_Order(keys, counts, weights, totals, types, discount))
            n_contexts = len(keys)
        return orders

    def _estimate(
        self, order: _Order, rows: Int[Tensor, " N"], c: Int[Tensor, " N"], lower: Tensor
    ) -> Float[Tensor, " N"]:
        """P(w | h) from c(h w), the row of h (-1: never seen) and P(w | h')."""
        # An integer tensor times a Python float would be float32.
        c, types = c.double(), order.types[rows].double()
        total = order.totals[rows].masked_fill(rows < 0, 0).double()
        if self.estimate == "add-k":
            return (c + self.k) / (total + self.k * self.vocab_size)
        if self.estimate == "witten-bell":
            p = (c + types * lower) / (total + types)
        else:
            D = order.discount
            p = ((c - D).clamp(min=0) + D * types * lower) / total
        return torch.where(total > 0, p, lower)

    def _find(
        self, order: _Order, contexts: Int[Tensor, " N"], tokens: Int[Tensor, " N"]
    ) -> Int[Tensor, " N"]:
        """The rows of m-grams given as (row of the context, token); -1 for what never occurred."""
        wanted = contexts * self.vocab_size + tokens
        rows = torch.searchsorted(order.keys, wanted).clamp(max=len(order.keys) - 1)
        return torch.where((order.keys[rows] == wanted) & (contexts >= 0), rows, -1)

    def _suffixes(self, h: Int[Tensor, " L"]) -> Iterator[tuple[_Order, Int[Tensor, " 1"]]]:
        """The last 0, 1, .. L tokens of h as contexts: the order that they belong to, their row."""
        contexts = torch.zeros(len(h) + 1, dtype=torch.int64, device=self.device)
        for m, order in enumerate(self._orders[: len(h) + 1], start=1):
            yield order, contexts[-1:]
            contexts = self._find(order, contexts[:-1], h[m - 1 :])

    def _followers(
        self, order: _Order, row: Int[Tensor, " 1"], values: Int[Tensor, " M"]
    ) -> Int[Tensor, " V"]:
        """The values of (h, w) for every w: a context's m-grams lie side by side."""
        bounds = torch.cat([row, row + 1]) * self.vocab_size  # of row -1 no key is in these
        start, stop = torch.searchsorted(order.keys, bounds).tolist()
        out = torch.zeros(self.vocab_size, dtype=torch.int64, device=self.device)
        out[order.keys[start:stop] % self.vocab_size] = values[start:stop]
        return out

    def _as_ids(self, tokens: Tokens, vocab_size: int | None) -> Int[Tensor, " N"]:
        if isinstance(tokens, str):
            if not tokens:
                tokens = ()
            elif self.tokenizer is None:
                raise TypeError("this model knows ids alone, got a str; give it a tokenizer")
            else:
                tokens = self.tokenizer.encode(tokens)
        ids = torch.as_tensor(tokens if len(tokens) else torch.zeros(0, dtype=torch.int64))
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"tokens must be integer ids, got {ids.dtype}")
        if ids.dim() != 1:
            raise ValueError(f"tokens must be one sequence, (N,), got {tuple(ids.shape)}")
        ids = ids.to(self.device, torch.int64)
        limit = math.inf if vocab_size is None else vocab_size
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= limit):
            wrong = ids[(ids < 0) | (ids >= limit)][0]
            raise ValueError(f"ids must lie in 0..{limit - 1}, got {int(wrong)}")
        return ids

    def _show(self, h: Int[Tensor, " L"]) -> str:
        return repr(self.tokenizer.decode(h.tolist()) if self.tokenizer else h.tolist())
