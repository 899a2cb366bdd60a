"""Context length in Python: arguments, the lecture's example, texts of one's own."""

from typing import Any

import pytest
import traitlets

from llmr_ref.widgets import NgramContext
from llmr_ref.widgets.ngram_context import DIARY


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": "novel"}, traitlets.TraitError, "source"),
        ({"text": "x" * 4001}, ValueError, "text may have 4000 characters, got 4001"),
        ({"context": "x" * 201}, ValueError, "context may have 200 characters, got 201"),
        ({"n": 0}, ValueError, "n must lie in 1..7, got 0"),
        ({"k": -1.0}, ValueError, "k must lie in 0..5, got -1.0"),
        ({"estimate": "good-turing"}, traitlets.TraitError, "estimate"),
        ({"unit": "bytes"}, traitlets.TraitError, "unit"),
    ],
)
def test_a_bad_argument_is_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        NgramContext(**arguments)


def test_i_visited_san() -> None:
    """The chapter's answers: Jose after San, Francisco after visited San, a draw after I visited San."""
    answers = {n: NgramContext(n=n).probabilities() for n in (2, 3, 4)}
    assert all(answers.values())
    assert answers[2] is not None and answers[2]["Jose"] == pytest.approx(4 / 7)
    assert answers[3] is not None and answers[3]["Francisco"] == pytest.approx(2 / 3)
    assert answers[4] is not None and answers[4]["Diego"] == pytest.approx(1 / 2)
    assert "after 'visited San' comes 'Francisco' 0.67" in NgramContext().description()


def test_a_context_that_never_occurred() -> None:
    silent = NgramContext(n=4, context="she visited San")
    assert silent.probabilities() is None
    assert "have no answer" in silent.description()
    assert "<svg" in silent.picture()
    mixed = NgramContext(n=4, context="she visited San", estimate="witten-bell").probabilities()
    assert mixed is not None and mixed["Francisco"] == max(mixed.values())


def test_words_that_the_text_lacks_shorten_the_window() -> None:
    assert NgramContext(n=4, context="zebras visited San").window() == ["visited", "San"]
    assert NgramContext(n=4, context="San zebras").window() == []


def test_a_text_of_ones_own_and_letters() -> None:
    fish = NgramContext(text="one fish two fish red fish blue fish", context="fish", n=2)
    assert fish.source == "own"
    p = fish.probabilities()
    assert p is not None and p["two"] == pytest.approx(1 / 3)
    assert NgramContext(text="").probabilities() is None
    letters = NgramContext("hamlet", unit="letters", context="the qu", n=3).probabilities()
    assert letters is not None and letters["e"] == 0.5
    assert DIARY.startswith("I visited San Francisco")
