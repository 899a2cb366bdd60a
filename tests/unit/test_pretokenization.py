"""Pre-tokenisation against Hugging Face and tiktoken, and cuts that no word notices."""

import os
import sys
from collections import Counter
from itertools import chain, pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from llmr_ref import pretokenization
from llmr_ref.pretokenization import (
    DIGITS_PATTERN,
    GPT2_PATTERN,
    PLAIN_PATTERN,
    WordSplitter,
    blocks,
    check_special_tokens,
    count_words,
    special_token_pattern,
)

PATTERNS = [GPT2_PATTERN, DIGITS_PATTERN, PLAIN_PATTERN]
OWN_PATTERN = r"[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
EACH = pytest.mark.parametrize("pattern", PATTERNS)
SPECIALS = ["<|a|>", "<|a|><|b|>", " x", "end of text", "\n\n", "é"]
# Every kind of character that a pattern tells apart, and those that Python's own \s tells apart.
KINDS = st.sampled_from(list("ab's tléЖ中1٣½ \n\t\r\x1c\x1f\u00a0\u2003\u0301.,!<|>\"\x00🙂"))
# Libraries carry different versions of Unicode: no characters that are not assigned.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn", "Co"], max_codepoint=0x2FFF)
TEXTS = st.text(KINDS | ASSIGNED, max_size=40)
WITH_SPECIALS = st.lists(TEXTS | st.sampled_from([*SPECIALS, "<|", "end of"]), max_size=8).map(
    "".join
)


def split_at(text, places):
    cuts = sorted({p % (len(text) + 1) for p in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(cuts)]


def hugging_face_words(pre_tokenizer, text):
    return [text[a:b] for _, (a, b) in pre_tokenizer.pre_tokenize_str(text)]


# --- words --------------------------------------------------------------------------------------


@given(text=TEXTS)
def test_gpt2_words_are_hugging_faces(text):
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert WordSplitter().words(text) == hugging_face_words(theirs, text)


@given(text=TEXTS)
def test_words_with_single_digits_are_hugging_faces(text):
    theirs = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    assert WordSplitter(DIGITS_PATTERN).words(text) == hugging_face_words(theirs, text)


def test_the_default_pattern_is_gpt2s():
    assert WordSplitter().pattern == GPT2_PATTERN
    assert count_words("it's 12") == Counter({"it": 1, "'s": 1, " 12": 1})


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (GPT2_PATTERN, ["I", "'ll", " see", " 42", "!?", " ", " ", "\n", "Then"]),
        (DIGITS_PATTERN, ["I", "'ll", " see", " ", "4", "2", "!?", " ", " ", "\n", "Then"]),
        (PLAIN_PATTERN, ["I'll", " ", "see", " ", "42!?", "  \n", "Then"]),
    ],
)
def test_what_the_patterns_do(pattern, words):
    text = "I'll see 42!?  \nThen"
    found = WordSplitter(pattern).words(text)
    assert [w for w in found if w.strip()] == [w for w in words if w.strip()]
    assert "".join(found) == text


@EACH
@given(text=TEXTS)
def test_words_joined_are_the_text(pattern, text):
    assert "".join(WordSplitter(pattern).words(text)) == text


@pytest.mark.parametrize("pattern", [*PATTERNS, OWN_PATTERN])
@given(text=TEXTS)
def test_pieces_have_the_words_of_the_text(pattern, text):
    splitter = WordSplitter(pattern)
    pieces = splitter.pieces(text)
    assert "".join(pieces) == text
    assert [w for piece in pieces for w in splitter.words(piece)] == regex.findall(pattern, text)


def test_pieces_are_short_where_the_pattern_allows_it():
    assert WordSplitter().pieces("to be,\n or  not") == ["to", " be,", "\n or", "  not"]


def test_pieces_and_words_agree_on_every_white_space_there_is():
    splitter = WordSplitter(PLAIN_PATTERN)
    for code in range(sys.maxunicode + 1):
        if chr(code).isspace() or 0x1C <= code <= 0x1F:
            text = f"a{chr(code)}\n\nb"
            found = [w for piece in splitter.pieces(text) for w in splitter.words(piece)]
            assert found == splitter.words(text)


# --- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [*PATTERNS, OWN_PATTERN])
@given(text=WITH_SPECIALS, places=st.lists(st.integers(0, 500)), size=st.integers(1, 30))
def test_blocks_can_be_split_alone(pattern, text, places, size):
    splitter = WordSplitter(pattern)
    specials = special_token_pattern(SPECIALS)

    def words(whole):
        return [
            [part] if i % 2 else splitter.words(part)
            for i, part in enumerate(specials.split(whole))
            if part
        ]

    found = list(blocks(split_at(text, places), splitter, SPECIALS, size))
    assert "".join(found) == text
    assert all(found)
    flat = chain.from_iterable
    assert list(flat(flat(words(block)) for block in found)) == list(flat(words(text)))


@given(text=TEXTS, places=st.lists(st.integers(0, 500)), size=st.integers(1, 30))
def test_blocks_without_special_tokens(text, places, size):
    splitter = WordSplitter()
    found = list(blocks(split_at(text, places), splitter, [], size))
    assert "".join(found) == text
    assert [w for b in found for w in splitter.words(b)] == splitter.words(text)


@pytest.mark.parametrize("specials", [[], ["<|end|>"]])
def test_a_block_is_hardly_longer_than_asked_for(specials):
    slices = ["to be, or not to be<|end|>"] * 100
    found = list(blocks(slices, WordSplitter(), specials, 200))
    assert all(100 < len(block) <= 226 for block in found[:-1])
    assert len(found) > 10


def test_blocks_of_an_unknown_pattern_end_after_special_tokens():
    texts = ["a b<|e", "nd|>c d", " e<|end|>", "f"]
    found = list(blocks(texts, WordSplitter(OWN_PATTERN), ["<|end|>"], 1))
    assert found == ["a b<|end|>", "c d e<|end|>", "f"]


def test_a_block_ends_at_the_last_cut():
    assert list(blocks(["a b c d", "e"], WordSplitter(), [], 7)) == ["a b c", " de"]
    assert list(blocks(["a b", " "], WordSplitter(), [], 3)) == ["a", " b "]
    assert list(blocks(["a bx", "y "], WordSplitter(), ["bxyz"], 4)) == ["a", " bxy "]


def test_no_cut_means_waiting_for_twice_as_much():
    class Counting(WordSplitter):
        looked = 0

        @property
        def cuts_before_space(self):
            type(self).looked += 1
            return True

        @cuts_before_space.setter
        def cuts_before_space(self, value):
            pass

    found = list(blocks("x" * 4096, Counting(), [], 1))
    assert found == ["x" * 4096]
    assert Counting.looked == 13  # at lengths 1, 2, 4, ... 4096


# --- counting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [*PATTERNS, OWN_PATTERN])
@given(text=WITH_SPECIALS)
def test_counts_are_those_of_the_words_between_special_tokens(pattern, text):
    parts = special_token_pattern(SPECIALS).split(text)[::2]
    expected = Counter(w for part in parts for w in regex.findall(pattern, part) if w)
    counted = count_words(text, SPECIALS, pattern=pattern)
    assert list(counted.items()) == list(expected.items())  # in order of first appearance


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(pretokenization, "_COUNTED_TOGETHER", 50)
    monkeypatch.setattr(pretokenization, "_READ_TOGETHER", 7)


LONG_TEXT = "".join(
    f"The {n}th of {n * n} words, isn't it?<|a|><|b|>{'é🙂' * (n % 3)}\n\n" for n in range(40)
)


@EACH
@pytest.mark.parametrize("workers", [2, 3])
def test_several_processes_count_what_one_counts(pattern, workers, small_blocks):
    one = count_words(LONG_TEXT, SPECIALS, pattern=pattern)
    several = count_words(LONG_TEXT, SPECIALS, pattern=pattern, workers=workers)
    expected = Counter(
        word
        for part in special_token_pattern(SPECIALS).split(LONG_TEXT)[::2]
        for word in regex.findall(pattern, part)
    )
    assert list(several.items()) == list(one.items()) == list(expected.items())


def process_of(block):
    return os.getpid()


def test_one_worker_is_this_process_and_two_are_others():
    here = os.getpid()
    assert set(pretokenization._in_order(process_of, "abc", workers=1)) == {here}
    assert here not in set(pretokenization._in_order(process_of, "abc", workers=2))


def test_no_more_blocks_are_read_than_workers_can_use(small_blocks):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield f"block {read}"

    results = pretokenization._in_order(len, endless(), workers=2)
    for counted, _ in enumerate(results, start=1):
        assert read <= counted + 2
        if counted == 20:
            return


@pytest.mark.parametrize("workers", [1, 2])
def test_files_count_as_texts_of_their_own(tmp_path, workers, small_blocks):
    for name, text in {"a": LONG_TEXT + "half", "b": "way\r\nround\r" + LONG_TEXT}.items():
        (tmp_path / name).write_bytes(text.encode())
    together = count_words([tmp_path / "a", tmp_path / "b"], SPECIALS, workers=workers)
    alone = [count_words(tmp_path / name, SPECIALS) for name in "ab"]
    assert together == alone[0] + alone[1]
    assert alone[0] == count_words(LONG_TEXT + "half", SPECIALS)
    assert together["\r"] == 2  # line ends are left as they are
    assert together["half"] == together["way"] == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_ends_at_the_number_of_bytes(tmp_path, workers, small_blocks):
    (tmp_path / "text").write_bytes(LONG_TEXT.encode())
    for source in (LONG_TEXT, tmp_path / "text"):
        calls = []
        count_words(
            source,
            SPECIALS,
            workers=workers,
            progress=lambda *args, calls=calls: calls.append(args),
        )
        done = [call[1] for call in calls]
        size = len(LONG_TEXT.encode())
        assert {(call[0], call[2]) for call in calls} == {("words", size)}
        assert done == sorted(set(done)) and done[-1] == size
        assert len(done) > 3


def test_nothing_has_no_words(tmp_path):
    (tmp_path / "empty").touch()
    assert count_words("") == count_words(tmp_path / "empty") == count_words([]) == Counter()


# --- special tokens -----------------------------------------------------------------------------


def test_of_two_special_tokens_that_fit_the_longer_is_found():
    found = special_token_pattern(["<|a|>", "<|a|><|b|>", "."]).split("x<|a|><|b|>y<|a|>.")
    assert found == ["x", "<|a|><|b|>", "y", "<|a|>", "", ".", ""]
    assert special_token_pattern([]) is None


def test_special_tokens_come_back_as_a_list():
    assert check_special_tokens(iter(["b", "a"])) == ["b", "a"]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: WordSplitter("(a"), ValueError, r"pattern '\(a' is no regular expression"),
        (lambda: WordSplitter("(a)|b"), ValueError, r"'\(a\)\|b' captures groups; write \(\?:"),
        (lambda: WordSplitter(r"\w+").words("to be"), ValueError, r"skips a part of 'to be'"),
        (lambda: count_words("to be", pattern=r"\w+"), ValueError, r"'\\\\w\+' skips a part"),
        (lambda: count_words("x", workers=0), ValueError, "workers must be at least 1, got 0"),
        (lambda: count_words(b"x"), TypeError, "source is a str .* got 120"),
        (lambda: count_words(["x"]), TypeError, "source is a str .* got 'x'"),
        (lambda: count_words("x", "abc"), TypeError, "special_tokens is a list .* 'abc'"),
        (lambda: check_special_tokens([b"a"]), TypeError, "special token is a str, got b'a'"),
        (lambda: check_special_tokens([""]), ValueError, "special token '' is empty"),
        (lambda: check_special_tokens(["a", "b", "a"]), ValueError, "'a' is given twice"),
        (lambda: check_special_tokens(["\ud800"]), ValueError, "UTF-8: surrogates not allowed"),
        (lambda: list(blocks([b"x"], WordSplitter(), [], 1)), TypeError, "str, got bytes: decode"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_missing_file_and_a_file_that_is_not_utf8_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no text file at .*missing"):
        count_words(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no text file at"):
        count_words([tmp_path])
    (tmp_path / "latin").write_bytes("wörd".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin is not UTF-8: .*0xf6"):
        count_words(tmp_path / "latin")
