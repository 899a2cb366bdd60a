"""Exercise: a cache of keys and values that is filled in pieces."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llmr_ref.attention import scaled_dot_product_attention
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.masks import causal_mask


class Reference:
    """Memory for max_length positions of B sequences and h heads, taken once."""

    def __init__(self, batch: int, heads: int, max_length: int, d_head: int) -> None:
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros_like(self.K)
        self.length = 0

    def positions(self, T: int) -> Tensor:
        return torch.arange(self.length, self.length + T)

    def append(self, K: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + K.shape[-2]
        if end > self.K.shape[-2]:
            raise ValueError(f"the cache holds {self.K.shape[-2]} positions, {end} are needed")
        self.K[:, :, self.length : end], self.V[:, :, self.length : end] = K, V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        K, V = self.append(K, V)
        mask = causal_mask(Q.shape[-2], K.shape[-2])
        return scaled_dot_product_attention(Q, K, V, mask)


exercise = Exercise(
    "KVCache",
    points=5,
    difficulty=4,
    minutes=35,
    reference=Reference,
    chapter="fast-inference#the-cache",
)


@exercise.driver
def feed(KVCache, what, Q, K, V, pieces, max_length, again=0):
    """Feed pieces of these lengths, one after the other; with again, a second cache in between."""
    batch, heads, _, d_head = K.shape
    cache = KVCache(batch, heads, max_length, d_head)
    start, seen = 0, []
    for n in pieces:
        if again:
            other = KVCache(batch, heads, max_length, d_head)
            other.append(-K[:, :, :again], -V[:, :, :again])
        if what == "positions":
            seen.append(cache.positions(n))
        part = slice(start, start + n)
        start += n
        if what == "attention":
            seen.append(cache.attend(Q[:, :, part], K[:, :, part], V[:, :, part]))
            continue
        try:
            result = cache.append(K[:, :, part], V[:, :, part])
        except ValueError:
            return [*seen, "ValueError"]
        if what == "append":
            seen.append(tuple(x.clone() for x in result))
    if what == "attention":
        return torch.cat(seen, dim=2)
    return seen


def fed(draw: Draw, what: str, *pieces: int, room=3, batch=2, heads=3, d=4, **about) -> Case:
    """Sequences of as many positions as the pieces have together; `room` more fit."""
    T, settings = sum(pieces), {k: about.pop(k) for k in ("again",) if k in about}
    Q, K, V = (draw.normal(batch, heads, T, d) for _ in range(3))
    return Case((what, Q, K, V, list(pieces), T + room), settings, **about)


@exercise.property("append returns all keys and values so far, in order", weight=2)
def appends(draw: Draw):
    yield fed(draw, "append", 1, batch=1, heads=1, d=2, note="one token")
    yield fed(draw, "append", 1, 1, batch=1, heads=1, d=2, note="two tokens, one by one")
    yield fed(draw, "append", 3, 1, 1, note="a prompt of three, then two tokens")
    yield fed(draw, "append", 2, draw.integer(2, 4), 1, note="a prompt in two pieces")


@exercise.property("positions count on from what is there")
def positions(draw: Draw):
    yield fed(
        draw, "positions", 2, 1, 1, batch=1, heads=1, d=2, note="a prompt of two, then two tokens"
    )
    yield fed(draw, "positions", draw.integer(3, 5), 2, 3, note="pieces of several lengths")


@exercise.property("attention in pieces equals attention over the whole sequence", weight=2)
def attention(draw: Draw):
    yield fed(draw, "attention", 1, 1, batch=1, heads=1, d=2, note="two tokens, one by one")
    yield fed(draw, "attention", 2, 1, batch=1, heads=1, d=2, note="a prompt of two, then a token")
    yield fed(draw, "attention", 4, note="the whole sequence at once")
    yield fed(draw, "attention", 3, 1, 1, note="a prompt of three, then two tokens")
    yield fed(draw, "attention", 2, draw.integer(2, 4), 3, note="a prompt in pieces")


@exercise.property("two caches share nothing")
def separate(draw: Draw):
    yield fed(
        draw, "append", 2, 1, batch=1, heads=1, d=2, again=1, note="a second cache in between"
    )
    yield fed(draw, "append", 1, 2, 1, again=2, note="a second cache in between")


@exercise.property("a cache that is full says so with a ValueError")
def full(draw: Draw):
    yield fed(draw, "append", 2, 1, room=0, note="a cache that is just full")
    yield fed(
        draw, "append", 2, 2, room=-1, batch=1, heads=1, d=2, note="a cache with one place too few"
    )
    yield fed(draw, "append", 1, 1, 1, room=-1, note="one token too many")


@exercise.wrong(
    "writes every piece at the beginning",
    hint="The second piece overwrites the first. At which position does the next one start?",
    see="fast-inference#offsets",
)
class AtTheStart:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, : K.shape[2]] = K
        self.V[:, :, : V.shape[2]] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "counts pieces instead of positions",
    hint="A prompt of three tokens is one piece and three positions. By how much does the "
    "length grow?",
    see="fast-inference#offsets",
)
class CountsPieces:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length += 1
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "forgets to move on",
    hint="The length is still 0 after the first piece. Who is to update it?",
    see="fast-inference#offsets",
)
class NeverMovesOn:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "returns only the new keys and values",
    hint="The new queries look at everything before them. What else belongs to the result?",
    see="fast-inference#the-cache",
)
class OnlyTheNew:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return K, V

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "returns the whole memory, empty places included",
    hint="Places that nobody has written hold zeros, and a softmax gives them weight. Where "
    "does what is known end?",
    see="fast-inference#the-cache",
)
class WholeMemory:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K, self.V

    def attend(self, Q, K, V):
        K, V = self.append(K, V)
        return F.scaled_dot_product_attention(Q, K, V)


@exercise.wrong(
    "counts positions from 0 in every piece",
    hint="Position 0 is the first token of the sequence, not of the piece. How many came before?",
    see="fast-inference#offsets",
)
class PositionsFromZero:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = torch.arange(self.length, self.length + Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "counts positions from 1",
    hint="The first token of a sequence has position 0. What is the length of an empty cache?",
    see="fast-inference#offsets",
)
class PositionsFromOne:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length + 1, self.length + T + 1)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = torch.arange(self.length, self.length + Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "masks as if the queries were the first positions",
    hint="With keys from the cache the queries stand at the end. `is_causal` and `tril` "
    "without a shift put query 0 at key 0.",
    see="fast-inference#masks-with-a-cache",
)
class MaskFromTheStart:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = torch.arange(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "uses no mask at all",
    hint="A single new token may see everything, but inside a piece of several tokens the "
    "future is there too.",
    see="fast-inference#masks-with-a-cache",
)
class NoMask:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        K, V = self.append(K, V)
        return F.scaled_dot_product_attention(Q, K, V)


@exercise.wrong(
    "hides a query's own key",
    hint="A query sees itself. Is it the earlier keys only that your comparison allows?",
    see="fast-inference#masks-with-a-cache",
)
class HidesItself:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) < query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask).nan_to_num(0.0)


@exercise.wrong(
    "shares its memory among all caches",
    hint="What is written in the class, or as a default argument, exists once. Memory of a "
    "cache is made in `__init__`.",
    see="fast-inference#the-cache",
)
class SharedMemory:
    stored: dict = {}  # noqa: RUF012 - the mistake itself

    def __init__(self, batch, heads, max_length, d_head):
        shape = (batch, heads, max_length, d_head)
        self.K, self.V = self.stored.setdefault(shape, (torch.zeros(shape), torch.zeros(shape)))
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "drops what does not fit without a word",
    hint="Text that is generated with half of its past looks fine and is wrong. Raise before "
    "anything is written.",
    see="fast-inference#the-cache",
)
class DropsSilently:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = min(self.length + K.shape[2], self.K.shape[2])
        n = end - self.length
        self.K[:, :, self.length : end] = K[:, :, :n]
        self.V[:, :, self.length : end] = V[:, :, :n]
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "is full one position too early",
    hint="A cache for five positions holds five. Compare the end of the piece with the size.",
    see="fast-inference#offsets",
)
class FullTooEarly:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end >= self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.wrong(
    "stores keys in both places",
    hint="The values that come back are keys. Look at the two lines that store.",
    see="fast-inference#the-cache",
)
class KeysTwice:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = K
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.right("memory taken once, filled by slices")
class Slices:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = torch.zeros(batch, heads, max_length, d_head)
        self.V = torch.zeros(batch, heads, max_length, d_head)
        self.length = 0

    def positions(self, T):
        return torch.arange(self.length, self.length + T)

    def append(self, K, V):
        end = self.length + K.shape[2]
        if end > self.K.shape[2]:
            raise ValueError("the cache is full")
        self.K[:, :, self.length : end] = K
        self.V[:, :, self.length : end] = V
        self.length = end
        return self.K[:, :, :end], self.V[:, :, :end]

    def attend(self, Q, K, V):
        query = self.positions(Q.shape[2])
        K, V = self.append(K, V)
        mask = torch.arange(K.shape[2]) <= query[:, None]
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)


@exercise.right("lists that are concatenated")
class Concatenated:
    def __init__(self, batch, heads, max_length, d_head):
        self.K = self.V = torch.empty(batch, heads, 0, d_head)
        self.max_length = max_length

    def positions(self, T):
        start = self.K.shape[-2]
        return torch.arange(T) + start

    def append(self, K, V):
        if self.K.shape[-2] + K.shape[-2] > self.max_length:
            raise ValueError(f"more than {self.max_length} positions")
        self.K, self.V = torch.cat((self.K, K), dim=-2), torch.cat((self.V, V), dim=-2)
        return self.K, self.V

    def attend(self, Q, K, V):
        K, V = self.append(K, V)
        T, S = Q.shape[-2], K.shape[-2]
        scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
        future = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
        return scores.masked_fill(future, -math.inf).softmax(-1) @ V


@exercise.right("one tensor for both, token by token")
class OneTensor:
    def __init__(self, batch, heads, max_length, d_head):
        self.both = torch.full((2, batch, heads, max_length, d_head), float("nan"))
        self.n = 0

    def positions(self, T):
        return torch.tensor(list(range(self.n, self.n + T)))

    def append(self, K, V):
        if self.n + K.size(2) > self.both.size(3):
            raise ValueError("full")
        for t in range(K.size(2)):
            self.both[0, :, :, self.n] = K[:, :, t]
            self.both[1, :, :, self.n] = V[:, :, t]
            self.n += 1
        return self.both[0, :, :, : self.n], self.both[1, :, :, : self.n]

    def attend(self, Q, K, V):
        outputs = []
        for t in range(Q.size(2)):  # one query after the other needs no mask
            keys, values = self.append(K[:, :, t : t + 1], V[:, :, t : t + 1])
            outputs.append(F.scaled_dot_product_attention(Q[:, :, t : t + 1], keys, values))
        return torch.cat(outputs, 2)
