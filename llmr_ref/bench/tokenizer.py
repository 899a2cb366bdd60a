"""BPE: training against Hugging Face's, encoding against tiktoken, on Shakespeare's plays."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import tiktoken
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from llmr_ref.bench.harness import Comparison, compare, measured
from llmr_ref.bpe_training import learn_merges, train_bpe
from llmr_ref.data import shakespeare
from llmr_ref.pretokenization import GPT2_PATTERN, WordSplitter, blocks, count_words
from llmr_ref.tokenizer import Tokenizer, read_bytes, show_bytes

MEGABYTE = 1_000_000
VOCAB_SIZES = (4_096, 10_000)
WORKERS = 2
HUGGING_FACE, TIKTOKEN = "Hugging Face tokenizers", "tiktoken"
IN_ONE, IN_TWO = "LLMR", f"LLMR, {WORKERS} processes count words"
BEFORE, LIMIT = "1 MB: ", "at most"


def run(*, rounds: int, device: str) -> Iterator[Comparison]:
    """Training, how its time grows, encoding, memory. All of it runs on the CPU."""
    text = shakespeare()
    for vocab_size in VOCAB_SIZES:
        yield from _training(text, vocab_size, rounds)
    yield _encoding(text, rounds)
    yield _memory(text[:MEGABYTE])


def _training(text: str, vocab_size: int, rounds: int) -> Iterator[Comparison]:
    """Seconds against Hugging Face's, then seconds for 5 MB over seconds for 1 MB."""
    competitors: dict[str, Callable[[], object]] = {}
    for size, part in ((BEFORE, text[:MEGABYTE]), ("", text)):
        ours = partial(train_bpe, part, vocab_size, tie_break="gpt2")
        theirs = _hugging_face_training(part, vocab_size)
        merges = [(read_bytes(a), read_bytes(b)) for a, b in _merges(theirs())]
        assert ours()[1] == ours(workers=WORKERS)[1] == merges, "the merges differ"
        competitors[size + HUGGING_FACE] = theirs
        competitors[size + IN_TWO] = partial(ours, workers=WORKERS)
        competitors[size + IN_ONE] = ours
    words = count_words(text)
    competitors[f"of {IN_ONE}: counting words"] = partial(count_words, text)
    competitors[f"of {IN_ONE}: merging"] = partial(
        learn_merges, words, vocab_size - 256, tie_break="gpt2"
    )
    title = f"BPE training, vocabulary {vocab_size:,}"
    timed = compare(title, competitors, baseline=HUGGING_FACE, rounds=rounds)
    seconds = {row.name: row.values for row in timed.rows}
    yield measured(
        f"{title}, 5 MB",
        {name: values for name, values in seconds.items() if not name.startswith(BEFORE)},
        baseline=HUGGING_FACE,
        targets={IN_TWO: 0.25, IN_ONE: 0.25},
    )
    growth = {
        name: [
            after / before
            for after, before in zip(seconds[name], seconds[BEFORE + name], strict=True)
        ]
        for name in (HUGGING_FACE, IN_TWO, IN_ONE)
    }
    yield measured(
        f"{title}: time for 5 MB over time for 1 MB",
        {LIMIT: [3.0], **growth},
        baseline=LIMIT,
        targets={IN_TWO: 1.0},  # Hugging Face has two threads
        unit="",
    )


def _encoding(text: str, rounds: int) -> Comparison:
    vocab, merges = train_bpe(text, VOCAB_SIZES[0], workers=WORKERS)
    warm = Tokenizer(vocab, merges)
    ranks = {token: id for id, token in vocab.items()}
    theirs = tiktoken.Encoding(
        "shakespeare", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    shown = {show_bytes(token): id for id, token in vocab.items()}
    pairs = [(show_bytes(a), show_bytes(b)) for a, b in merges]
    rust = _hugging_face(models.BPE(shown, pairs))
    ids = warm.encode(text)
    assert ids == theirs.encode_ordinary(text) == rust.encode(text).ids, "the ids differ"
    assert ids == list(warm.encode_iterable(_slices(text, 1000))), "the ids differ"
    return compare(
        f"BPE encoding, 5 MB, vocabulary {len(vocab):,}, "
        f"{warm.compression(text):.2f} bytes a token",
        {
            TIKTOKEN: lambda: theirs.encode_ordinary(text),
            "LLMR, first pass": lambda: Tokenizer(vocab, merges).encode(text),
            "LLMR, second pass": lambda: warm.encode(text),
            "LLMR, encode_iterable, first pass": lambda: list(
                Tokenizer(vocab, merges).encode_iterable(_slices(text, 1000))
            ),
            HUGGING_FACE: lambda: rust.encode(text).ids,
        },
        baseline=TIKTOKEN,
        targets={"LLMR, first pass": 0.24},
        rounds=rounds,
    )


def _memory(text: str) -> Comparison:
    tokenizer = Tokenizer(*train_bpe(text, VOCAB_SIZES[0], workers=WORKERS))
    tokenizer.encode(text)

    def peak(times: int) -> float:
        whole = text * times
        tracemalloc.start()
        for _ in tokenizer.encode_iterable(_slices(whole, 1000)):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / MEGABYTE

    return measured(
        "encode_iterable, most memory at one time",
        {"1 MB": [peak(1)], "5 MB": [peak(5)]},
        baseline="1 MB",
        targets={"5 MB": 0.9},
        unit="MB",
    )


def _hugging_face_training(text: str, vocab_size: int) -> Callable[[], tokenizers.Tokenizer]:
    # In blocks that cut no word: its threads share them; a text in one piece would go to one.
    parts = list(blocks(_slices(text, 50_000), WordSplitter(), [], 50_000))

    def train() -> tokenizers.Tokenizer:
        tokenizer = _hugging_face(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(parts, trainer=trainer)
        return tokenizer

    return train


def _hugging_face(model: models.BPE) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _merges(tokenizer: tokenizers.Tokenizer) -> list[list[str]]:
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges


def _slices(text: str, size: int) -> Iterator[str]:
    return (text[i : i + size] for i in range(0, len(text), size))
