"""What only the sampling knobs have: draws, the whole vocabulary, the student's own sampler."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from widget_pages import connect, import_module, open_live, write_page

from llmr_ref import sampling
from llmr_ref.widgets import SamplingKnobs
from llmr_ref.widgets.sampling_knobs import DIE_SIDES, die_logits

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


def shown(page: Page) -> list[float]:
    return [float(text) for text in page.locator(".llmr-bar b").all_inner_texts()]


def set_exactly(page: Page, label: str, value: float) -> None:
    page.get_by_label(f"{label}, exact").fill(str(value))
    page.get_by_label(f"{label}, exact").press("Enter")


def test_the_whole_vocabulary_agrees_with_torch(watched: Page) -> None:
    import_module(watched, "sampling_knobs")
    settings_of_all_sorts: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7, "top_k": 40},
        {"temperature": 2.0, "top_p": 0.95},
        {"top_k": 50_256, "top_p": 0.999, "min_p": 1e-4},
    ]
    for settings in settings_of_all_sorts:
        got = watched.evaluate(
            "(s) => Array.from(sampling_knobs.distribution(sampling_knobs.dieLogits(), s).probabilities)",
            settings,
        )
        expected = sampling.distribution(die_logits(), **settings)
        torch.testing.assert_close(
            torch.tensor(got, dtype=torch.float64), expected, atol=1e-12, rtol=0
        )
        assert len(got) == DIE_SIDES


def test_draws_follow_the_distribution_and_their_seed(watched: Page) -> None:
    import_module(watched, "sampling_knobs")
    p = [0.5, 0.0, 0.3, 0.15, 0.05]
    n = 100_000

    def draw(seed: int) -> list[int]:
        script = "([p, n, seed]) => Array.from(sampling_knobs.drawCounts(p, n, seed))"
        counts: list[int] = watched.evaluate(script, [p, n, seed])
        return counts

    assert draw(1) == draw(1) != draw(2)
    for seed in range(5):
        counts = draw(seed)
        assert sum(counts) == n
        assert counts[1] == 0
        # Pearson's statistic of four cells: above 21 once in ten thousand
        assert sum((c - n * q) ** 2 / (n * q) for c, q in zip(counts, p, strict=True) if q) < 21


def test_every_knob_shows_torch_numbers(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, SamplingKnobs().html()).as_uri())
    knobs: dict[str, Any] = {}

    def expect_shown() -> None:
        torch.testing.assert_close(
            torch.tensor(shown(watched)).double(),
            SamplingKnobs(**knobs).probabilities(),
            atol=0.00051,
            rtol=0,
        )

    expect_shown()
    for label, name, value in (
        ("Temperature T (0: greedy)", "temperature", 1.5),
        ("Top-k (all: off)", "top_k", 6),
        ("Top-p (1: off)", "top_p", 0.9),
        ("Min-p (0: off)", "min_p", 0.3),
    ):
        set_exactly(watched, label, value)
        knobs[name] = value
        expect_shown()
    watched.get_by_role("button", name="mat", exact=True).click()
    knobs |= {"occurred": [0], "repetition_penalty": 1.3}
    expect_shown()
    set_exactly(watched, "Repetition penalty (1: off)", 2)
    knobs["repetition_penalty"] = 2.0
    expect_shown()
    set_exactly(watched, "Temperature T (0: greedy)", 0)
    knobs["temperature"] = 0.0
    expect_shown()


def test_the_rows_of_the_die_and_the_rest_sum_to_one(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, SamplingKnobs("die").html()).as_uri())
    assert len(shown(watched)) == 13
    assert sum(shown(watched)) == pytest.approx(1, abs=0.0066)
    largest = SamplingKnobs("die").probabilities().topk(12).values
    torch.testing.assert_close(
        torch.tensor(shown(watched)[:12]).double(), largest, atol=0.00051, rtol=0
    )


def test_the_students_sampler_is_drawn_over_the_reference(watched: Page) -> None:
    def forgets_temperature(logits: torch.Tensor, temperature: float, **cuts: Any) -> torch.Tensor:
        if temperature > 2:
            raise RuntimeError("too hot")
        return sampling.distribution(logits, **cuts)

    widget = SamplingKnobs(sampler=forgets_temperature)
    connect(watched, widget)
    note = watched.locator(".llmr-student")
    expect(note).to_contain_text("agrees with the reference")
    set_exactly(watched, "Temperature T (0: greedy)", 0.5)
    expect(note).to_contain_text("differs most at “mat”")
    assert widget.temperature == 0.5
    mark = watched.locator(".llmr-bar s").first.evaluate("e => parseFloat(e.style.left)")
    filled = watched.locator(".llmr-bar i").first.evaluate("e => parseFloat(e.style.width)")
    assert mark / filled == pytest.approx(0.35 / float(widget.probabilities()[0]), abs=0.01)
    set_exactly(watched, "Temperature T (0: greedy)", 2.5)
    expect(watched.get_by_role("alert")).to_contain_text("RuntimeError: too hot")
    set_exactly(watched, "Temperature T (0: greedy)", 1)
    expect(note).to_contain_text("agrees with the reference")
    assert not watched.get_by_role("alert").is_visible()
    watched.evaluate("() => window.cleanUp()")
    assert watched.evaluate("() => window.listening()") == 0
