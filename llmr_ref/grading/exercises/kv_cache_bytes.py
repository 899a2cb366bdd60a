"""Exercise: the bytes of keys and values that generation keeps."""

import torch

from llmr_ref import accounting
from llmr_ref.config import TransformerConfig
from llmr_ref.grading.exercise import Case, Draw, Exercise


def kv_cache_bytes(
    d: int,
    L: int,
    h: int,
    T: int,
    B: int = 1,
    n_kv: int | None = None,
    window: int | None = None,
    width: int = 2,
) -> int:
    config = TransformerConfig(
        vocab_size=10,
        d_model=d,
        n_layers=L,
        n_heads=h,
        n_kv_heads=n_kv,
        window=window,
        positions="sinusoidal",
    )
    dtype = {1: torch.int8, 2: torch.float16, 4: torch.float32}[width]
    return accounting.kv_cache_bytes(config, T, batch=B, dtype=dtype)


exercise = Exercise(
    "kv_cache_bytes",
    points=2,
    difficulty=2,
    minutes=15,
    reference=kv_cache_bytes,
    chapter="how-big#the-kv-cache",
)


@exercise.property("K and V of every layer and token, for every sequence", weight=2)
def whole(draw: Draw):
    yield Case((4, 1, 2, 1), note="one token")
    yield Case((8, 3, 2, 10), note="ten tokens, three layers")
    yield Case((8, 3, 4, 10), {"B": 5}, note="five sequences")
    args = (4 * draw.integer(3, 30), draw.integer(2, 40), 4, draw.integer(100, 4000))
    yield Case(args, {"B": draw.integer(2, 9)}, note="other sizes")


@exercise.property("heads that share keys and values share their memory", weight=1.5)
def grouped(draw: Draw):
    yield Case((16, 2, 4, 3), {"n_kv": 2}, note="n_kv=2 of 4 heads")
    yield Case((48, 2, 8, draw.integer(5, 50)), {"n_kv": 1}, note="n_kv=1")
    yield Case((8192, 80, 64, 4096), {"n_kv": 8}, note="the shape of LLaMA 2 70B")


@exercise.property("a window bounds what is kept", weight=1)
def windows(draw: Draw):
    yield Case((8, 2, 2, 10), {"window": 4}, note="10 tokens, window=4")
    yield Case((8, 2, 2, 3), {"window": 4}, note="3 tokens, window=4")
    yield Case(
        (8, 2, 2, draw.integer(50, 90)), {"window": 32, "n_kv": 1}, note="a window and n_kv=1"
    )


@exercise.property("a number may have 1, 2 or 4 bytes", weight=0.5)
def widths(draw: Draw):
    yield Case((8, 2, 2, draw.integer(5, 9)), {"width": 4}, note="width=4")
    yield Case((8, 2, 4, draw.integer(5, 9)), {"width": 1}, note="width=1")


@exercise.wrong(
    "keeps the keys and forgets the values",
    hint="A new query needs the scores with all keys, and then the sum of all ...",
    see="how-big#the-kv-cache",
)
def keys_only(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return B * L * kept * (n_kv or h) * d_head * width


@exercise.wrong(
    "keeps the queries as well",
    hint="Nobody asks for an old query again. Which two of the three does a new token need?",
    see="how-big#the-kv-cache",
)
def queries_too(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 3 * B * L * kept * (n_kv or h) * d_head * width


@exercise.wrong(
    "keeps keys and values for every query head",
    hint="With grouped heads several query heads read the same keys. How many different ones are"
    " there?",
    see="how-big#grouped-heads",
)
def all_heads(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 2 * B * L * kept * h * d_head * width


@exercise.wrong(
    "keeps one layer",
    hint="Each layer has keys of its own.",
    see="how-big#the-kv-cache",
)
def one_layer(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 2 * B * kept * (n_kv or h) * d_head * width


@exercise.wrong(
    "forgets the batch",
    hint="Each sequence has a cache of its own.",
    see="how-big#the-kv-cache",
)
def one_sequence(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 2 * L * kept * (n_kv or h) * d_head * width


@exercise.wrong(
    "keeps what lies outside of the window",
    hint="No query will look back that far again.",
    see="how-big#the-kv-cache",
)
def no_window(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = T
    return 2 * B * L * kept * (n_kv or h) * d_head * width


@exercise.wrong(
    "reserves the whole window",
    hint="After 3 tokens 3 are kept, even if the window is 4.",
    see="how-big#the-kv-cache",
)
def always_window(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = window or T
    return 2 * B * L * kept * (n_kv or h) * d_head * width


@exercise.wrong(
    "counts numbers instead of bytes",
    hint="How many bytes has each of them?",
    see="how-big#the-kv-cache",
)
def in_numbers(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 2 * B * L * kept * (n_kv or h) * d_head


@exercise.wrong(
    "counts bits",
    hint="The width is in bytes already.",
    see="how-big#the-kv-cache",
)
def in_bits(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 2 * B * L * kept * (n_kv or h) * d_head * width * 8


@exercise.wrong(
    "keeps one head",
    hint="You have the width of one head; how many have keys of their own?",
    see="how-big#the-kv-cache",
)
def one_head(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 2 * B * L * kept * d_head * width


@exercise.wrong(
    "keeps a matrix of scores",
    hint="Scores are used once and thrown away. What stays grows in proportion to the length.",
    see="how-big#the-kv-cache",
)
def scores(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 2 * B * L * kept * kept * (n_kv or h) * d_head * width


@exercise.right("one product")
def one_product(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    d_head = d // h
    kept = min(T, window or T)
    return 2 * B * L * kept * (n_kv or h) * d_head * width


@exercise.right("per token, then how many")
def per_token(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    heads = h if n_kv is None else n_kv
    per_token = (d * heads // h) * width * L * 2
    if window is not None and window < T:
        T = window
    return per_token * T * B


@exercise.right("the cache of one layer, in a loop")
def loop(d, L, h, T, B=1, n_kv=None, window=None, width=2):
    total = 0
    shape = (B, n_kv if n_kv else h, min(T, window) if window else T, d // h)
    numbers = 1
    for size in shape:
        numbers *= size
    for _ in range(L):
        total += numbers * width  # K
        total += numbers * width  # V
    return total
