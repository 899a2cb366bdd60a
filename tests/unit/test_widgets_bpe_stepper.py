"""The BPE stepper in Python: its arguments, its numbers, and the students' functions."""

from itertools import pairwise
from typing import Any

import pytest
import traitlets

from llmr_ref import bpe_training
from llmr_ref.grading.exercises.merge_pair import merge_pair
from llmr_ref.grading.exercises.train_bpe import first_of_a_tie, train_bpe
from llmr_ref.pretokenization import PLAIN_PATTERN
from llmr_ref.tokenizer import Tokenizer
from llmr_ref.widgets import BPEStepper
from llmr_ref.widgets.bpe_stepper import SIX_WORDS, apply_merges


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": "x" * 2001}, ValueError, "text may have 2000 characters, got 2001"),
        ({"text": "\ud800"}, ValueError, "text cannot be written in UTF-8"),
        ({"step": -1}, ValueError, "step must lie in 0..256, got -1"),
        ({"words": "bytes"}, traitlets.TraitError, "words"),
        ({"tie_break": "last"}, traitlets.TraitError, "tie_break"),
        ({"train": 3}, TypeError, "train must be callable, got int"),
        ({"merge": "a"}, TypeError, "merge must be callable, got str"),
        ({"train": train_bpe, "merge": merge_pair}, ValueError, "train or merge, not both"),
    ],
)
def test_a_bad_argument_is_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BPEStepper(**arguments)


def test_the_chapters_six_words() -> None:
    widget = BPEStepper()
    assert widget.merges()[:2] == [(b"o", b"w"), (b"l", b"ow")]
    assert "31 bytes after 2 of 9 merges (o + w, l + ow): 23 tokens" in widget.description()
    assert "newest" in BPEStepper(step=9).picture()
    assert "0 bytes after 0 of 0 merges" in BPEStepper("").description()
    assert "<svg" in BPEStepper("").picture()


def test_tokens_after_merges_are_the_tokenizers() -> None:
    vocab, merges = bpe_training.train_bpe("aaa aaaa banana né né ώ", 270, pattern=PLAIN_PATTERN)
    tokenizer = Tokenizer(vocab, merges, pattern=PLAIN_PATTERN)
    for word in ("aaa", "aaaaa", "banana", "né", "ώώ", " "):
        expected = [vocab[i] for i in tokenizer.encode(word)]
        assert apply_merges(word.encode(), merges) == expected


def test_a_students_training_is_asked_for_each_text() -> None:
    asked = []

    def train(text: str, vocab_size: int) -> Any:
        asked.append((text, vocab_size))
        print("this goes nowhere")
        return train_bpe(text, vocab_size)

    widget = BPEStepper(train=train)
    assert asked == [(SIX_WORDS, 265)]
    assert widget.student["merges"][:2] == [["o", "w"], ["l", "ow"]]
    widget.step = 5
    assert len(asked) == 1
    widget.text = "abab"
    assert asked[1] == ("abab", 258)
    assert widget.student["state"]["text"] == "abab"


def test_wrong_and_failing_trainings_are_told() -> None:
    wrong = BPEStepper(train=first_of_a_tie)
    assert wrong.student["merges"][0] == ["l", "o"]
    nonsense = BPEStepper(train=lambda text, vocab_size: 7)
    assert "it must return (vocab, merges)" in nonsense.student["error"]
    strings = BPEStepper(train=lambda text, vocab_size: ({}, [("a", "b")]))
    assert "pairs of bytes" in strings.student["error"]
    failing = BPEStepper(train=lambda text: 1)
    assert failing.student["error"].startswith("TypeError")


def test_a_students_merge_is_compared_at_every_merge() -> None:
    assert BPEStepper(merge=merge_pair).student["wrong"] == {}

    def twice(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
        """Uses a token twice: a a a becomes aa aa."""
        return [a + b for a, b in pairwise(tokens) if (a, b) == pair] or tokens

    wrong = BPEStepper("aaa", merge=twice).student["wrong"]
    assert wrong == {
        "step": 1,
        "pair": ["a", "a"],
        "before": ["a", "a", "a"],
        "expected": ["aa", "a"],
        "got": ["aa", "aa"],
    }
    broken = BPEStepper(merge=lambda tokens, pair: None)
    assert broken.student["error"].startswith("TypeError")
