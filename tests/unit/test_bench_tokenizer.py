"""The tokenizer's benchmark on a short text: who is compared, with what, after doing the same work."""

import pytest

from llmr_ref.bench import tokenizer as bench

TEXT = " ".join(
    f"{a}ing {b}tion, {b}{a}'s\n" for a in ("th", "re", "st") for b in ("an", "ou", "é")
)


@pytest.fixture
def short_text(monkeypatch):
    """Every competitor runs once, and is said to have taken 2 and 3 s on the shorter text."""

    def timed(title, competitors, *, baseline, rounds, targets=None):
        values = {}
        for name, competitor in competitors.items():
            competitor()
            values[name] = [2.0, 3.0] if name.startswith(bench.BEFORE) else [8.0, 6.0]
        return bench.measured(title, values, baseline=baseline, targets=targets)

    monkeypatch.setattr(bench, "compare", timed)
    monkeypatch.setattr(bench, "shakespeare", lambda: TEXT * 100)
    monkeypatch.setattr(bench, "VOCAB_SIZES", (300,))
    monkeypatch.setattr(bench, "MEGABYTE", 1000)


def test_every_row_of_the_table_is_there(short_text):
    training, growth, encoding, memory = bench.run(rounds=2, device="cpu")
    assert "vocabulary 300, 5 MB" in training.title
    assert training.baseline == growth.rows[1].name == encoding.rows[-1].name
    assert {tuple(row.values) for row in training.rows} == {(8.0, 6.0)}
    assert [row.target for row in training.rows] == [None, 0.25, 0.25, None, None]
    assert [row.target for row in encoding.rows] == [None, 0.24, None, None, None]
    assert [row.target for row in memory.rows] == [None, 0.9]


def test_growth_is_the_long_text_over_the_short_one(short_text):
    _, growth, *_ = bench.run(rounds=2, device="cpu")
    assert [row.values for row in growth.rows] == [[3.0], *3 * [[4.0, 2.0]]]
    assert [row.target for row in growth.rows] == [None, None, 1.0, None]


def test_competitors_that_do_other_work_are_refused(short_text, monkeypatch):
    monkeypatch.setattr(bench, "_merges", lambda tokenizer: [["a", "b"]])
    with pytest.raises(AssertionError, match="the merges differ"):
        list(bench.run(rounds=1, device="cpu"))
