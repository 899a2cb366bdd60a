"""BPE training against Hugging Face's trainer and against counting everything anew each time."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace
from tokenizers import models, pre_tokenizers, trainers

from llmr_ref.bpe_training import learn_merges, train_bpe
from llmr_ref.pretokenization import GPT2_PATTERN, PLAIN_PATTERN, count_words
from llmr_ref.tokenizer import read_bytes, show_bytes

TIE_BREAKS = ["greatest", "first", "gpt2"]
EACH = pytest.mark.parametrize("tie_break", TIE_BREAKS)
# Few symbols, so that pairs recur, overlap (aaa) and tie; bytes above and below each other.
FEW = st.text(st.sampled_from("aab c"), max_size=60)
MANY = st.text(st.sampled_from("aabbcé~½\n  \x00\x01\x02🙂Ж!'s12"), max_size=120)
TEXTS = FEW | MANY
MERGES = 40


def oracle(text, n_merges, tie_break, pattern=GPT2_PATTERN):
    """Every word of the text, repeats and all; every pair counted anew for every merge."""
    words = [[bytes([b]) for b in word.encode()] for word in regex.findall(pattern, text)]
    made = sorted((bytes([b]) for b in range(256)), key=show_bytes)  # Hugging Face's numbering
    merges = []
    while len(merges) < n_merges:
        counts = Counter(
            (a, b) for word in words for a, b in pairwise(word)
        )  # in order of first occurrence
        if not counts:
            break
        ties = [pair for pair in counts if counts[pair] == max(counts.values())]
        best = {
            "greatest": max(ties),
            "first": ties[0],
            "gpt2": min(ties, key=lambda pair: [made.index(token) for token in pair]),
        }[tie_break]
        merges.append(best)
        made.append(best[0] + best[1])
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                i += 1
    return merges


def hugging_face(text, vocab_size, special_tokens=()):
    tokenizer = HuggingFace(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special_tokens),
    )
    tokenizer.train_from_iterator([text], trainer=trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(map(read_bytes, merge)) for merge in merges]


# --- the merges ---------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["incremental", "explicit"])
@EACH
@given(text=TEXTS)
def test_merges_are_those_of_counting_everything_anew(tie_break, implementation, text):
    _, merges = train_bpe(text, 256 + MERGES, tie_break=tie_break, implementation=implementation)
    assert merges == oracle(text, MERGES, tie_break)


@EACH
@given(text=st.text(st.sampled_from("aab"), max_size=200))
def test_long_runs_overlap_without_harm(tie_break, text):
    _, merges = train_bpe(text, 256 + 200, tie_break=tie_break)
    assert merges == oracle(text, 200, tie_break)


@EACH
@settings(deadline=None)
@given(counts=st.dictionaries(st.text(st.sampled_from("abc"), max_size=6), st.integers(1, 3)))
def test_the_two_implementations_agree_on_counted_words(tie_break, counts):
    fast = learn_merges(counts, 100, tie_break=tie_break)
    assert fast == learn_merges(counts, 100, tie_break=tie_break, implementation="explicit")


@given(text=TEXTS)
def test_gpt2_ties_are_hugging_faces(text):
    _, merges = train_bpe(text, 256 + MERGES, tie_break="gpt2")
    assert merges == hugging_face(text, 256 + MERGES)


PROSE = " ".join(
    f"{a}{b}{c}ing {b}{a}tion, {c}{b}{a}'s {a}er; naïve {b * 2}?"
    for a in ("th", "re", "st", "in")
    for b in ("an", "ou", "ea", "st")
    for c in ("er", "al", "in", "é")
)


def test_hugging_face_agrees_until_every_word_is_a_token():
    vocab, merges = train_bpe(PROSE, 10_000, tie_break="gpt2")
    theirs = hugging_face(PROSE, 10_000)
    assert merges == theirs
    assert len(vocab) == 256 + len(merges) < 10_000
    assert {w.encode() for w in count_words(PROSE)} <= set(vocab.values())


def test_the_three_conventions_differ():
    by_rule = {rule: train_bpe(PROSE, 400, tie_break=rule)[1] for rule in TIE_BREAKS}
    assert len({tuple(merges) for merges in by_rule.values()}) == 3
    assert train_bpe(PROSE, 400)[1] == by_rule["greatest"]
    assert learn_merges(count_words(PROSE), 144) == by_rule["greatest"]


@pytest.mark.parametrize(
    ("text", "tie_break", "merge"),
    [
        ("ba ab", "greatest", (b"b", b"a")),
        ("ab a~ ba", "greatest", (b"b", b"a")),
        ("za zb", "greatest", (b"z", b"b")),
        ("za zb", "first", (b"z", b"a")),
        ("zb za", "first", (b"z", b"b")),
        ("zb za", "gpt2", (b"z", b"a")),
        ("zb xa", "gpt2", (b"x", b"a")),
        ("ab b", "gpt2", (b"a", b"b")),  # the space, 0x20, is Ġ there and comes after the letters
        ("ab b", "greatest", (b"a", b"b")),
        ("b ab", "first", (b" ", b"a")),
    ],
)
def test_a_tie_goes_where_the_convention_says(text, tie_break, merge):
    assert train_bpe(text, 257, tie_break=tie_break)[1] == [merge]


def test_of_two_tokens_with_the_same_beginning_the_longer_is_greater():
    # After x y, the pairs (xy, z) and (x, z) are equally frequent.
    words = {"xy": 5, "xyz": 2, "xz": 2}
    assert learn_merges(words, 2) == [(b"x", b"y"), (b"xy", b"z")]


@EACH
@given(text=TEXTS)
def test_no_token_is_learnt_twice(tie_break, text):
    vocab, merges = train_bpe(text, 256 + 200, tie_break=tie_break)
    assert len(set(vocab.values())) == len(vocab) == 256 + len(merges)


@given(text=TEXTS, n=st.integers(0, 10))
def test_a_smaller_vocabulary_is_the_beginning_of_a_larger_one(text, n):
    assert train_bpe(text, 256 + n)[1] == train_bpe(text, 256 + 10)[1][:n]


def test_the_pattern_decides_what_can_be_merged():
    assert train_bpe("a b a b", 300, pattern=PLAIN_PATTERN)[1] == []
    assert train_bpe("a b a b", 300)[1] == [(b" ", b"b"), (b" ", b"a")]


# --- the vocabulary and special tokens ----------------------------------------------------------


def test_ids_are_bytes_then_merges_then_special_tokens():
    vocab, merges = train_bpe("abab<|end|>abab<|pad|>", 260, ["<|pad|>", "<|end|>"])
    assert merges == [(b"a", b"b"), (b"ab", b"ab")]
    assert list(vocab) == list(range(260))
    assert [vocab[id] for id in range(256)] == [bytes([b]) for b in range(256)]
    assert [vocab[id] for id in range(256, 260)] == [b"ab", b"abab", b"<|pad|>", b"<|end|>"]


def test_special_tokens_count_towards_the_size():
    assert train_bpe("abab<|end|>", 257, ["<|end|>"]) == (
        {**{b: bytes([b]) for b in range(256)}, 256: b"<|end|>"},
        [],
    )


@EACH
@pytest.mark.parametrize("implementation", ["incremental", "explicit"])
def test_nothing_is_merged_across_or_within_special_tokens(tie_break, implementation):
    text = "xy<|xy|>" * 9 + "ab"
    _, merges = train_bpe(text, 300, ["<|xy|>"], tie_break=tie_break, implementation=implementation)
    assert merges == [(b"x", b"y"), (b"a", b"b")]


def test_special_tokens_do_not_change_what_is_learnt():
    documents = [PROSE[i : i + 50] for i in range(0, len(PROSE), 50)]
    # Between documents the words end: a file each says the same as a special token.
    counts = sum((count_words(document) for document in documents), Counter())
    with_special = train_bpe("<|end|>".join(documents), 400, ["<|end|>"], tie_break="gpt2")
    assert with_special[1] == learn_merges(counts, 400 - 257, tie_break="gpt2")


@EACH
def test_several_processes_learn_what_one_learns(tie_break, tmp_path, monkeypatch):
    monkeypatch.setattr("llmr_ref.pretokenization._COUNTED_TOGETHER", 300)
    monkeypatch.setattr("llmr_ref.pretokenization._READ_TOGETHER", 64)
    (tmp_path / "prose.txt").write_text(PROSE, encoding="utf-8", newline="")
    expected = (PROSE, 400), {"tie_break": tie_break}
    one = train_bpe(*expected[0], **expected[1])
    assert train_bpe(tmp_path / "prose.txt", 400, tie_break=tie_break, workers=2) == one
    assert one[1] == oracle(PROSE, 144, tie_break)


def test_nothing_to_learn_from_is_no_error():
    for text in ("", "a", "a b"):
        assert train_bpe(text, 300, pattern=PLAIN_PATTERN)[1] == []
    assert learn_merges({}, 10) == learn_merges({"ab": 1}, 0) == []


def test_the_words_are_left_alone():
    words = count_words(PROSE)
    before = dict(words)
    learn_merges(words, 50)
    assert list(words.items()) == list(before.items())


def test_progress_is_told_of_words_and_of_every_merge():
    calls = []
    _, merges = train_bpe(PROSE, 300, progress=lambda *args: calls.append(args))
    size = len(PROSE.encode())
    assert calls == [("words", size, size), *(("merges", n, 44) for n in range(1, 45))]
    assert len(merges) == 44


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train_bpe("x", 255), ValueError, "at least 256: .* 0 special tokens, got 255"),
        (lambda: train_bpe("x", 257, ["a", "b"]), ValueError, "at least 258: .* got 257"),
        (lambda: train_bpe("x", 300, tie_break="last"), ValueError, "tie_break is 'last'; choose"),
        (lambda: learn_merges({}, 1, tie_break="hf"), ValueError, "tie_break is 'hf'; choose"),
        (
            lambda: train_bpe("x", 300, implementation="fused"),
            ValueError,
            "implementation is 'fused'; choose 'incremental' or",
        ),
        (lambda: learn_merges({"ab": 0}, 1), ValueError, "occurs once or more, got 0 for 'ab'"),
        (lambda: learn_merges({"ab": 1}, -1), ValueError, "n_merges must be 0 or more, got -1"),
        (lambda: train_bpe("a\ud800", 300), ValueError, "UTF-8: surrogates not allowed"),
        (lambda: train_bpe("x", 300, "abc"), TypeError, "special_tokens is a list .* 'abc'"),
        (lambda: train_bpe("x", 300, [""]), ValueError, "special token '' is empty"),
        (lambda: train_bpe("x", 300, pattern="(x)"), ValueError, "captures groups"),
        (lambda: train_bpe("x", 300, workers=-1), ValueError, "at least 1, got -1"),
        (lambda: train_bpe(3, 300), TypeError, "source is a str .* got 3"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_unknown_choice_is_refused_before_the_words_are_counted(tmp_path):
    for choice in ("tie_break", "implementation"):
        with pytest.raises(ValueError, match=f"{choice} is 'x'"):
            train_bpe(tmp_path / "missing", 300, **{choice: "x"})
