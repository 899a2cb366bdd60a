"""What only context length has: a row per n, writing by pressing, texts of the reader's own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from widget_pages import open_live, write_page

from llmr_ref.widgets import NgramContext

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def live(open_page: OpenPage, tmp_path: Path) -> Iterator[Page]:
    with open_page("about:blank") as page:
        open_live(page, write_page(tmp_path, NgramContext().html()).as_uri())
        yield page


def bars(page: Page) -> dict[str, float]:
    names = page.locator(".llmr-bar .llmr-name").all_inner_texts()
    values = page.locator(".llmr-bar b").all_inner_texts()
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def test_every_estimate_shows_the_references_numbers(live: Page) -> None:
    for estimate in ("add-k", "witten-bell", "kneser-ney"):
        live.get_by_label("Estimate", exact=True).select_option(estimate)
        for n in (1, 2, 3, 4):
            live.get_by_label("n, exact").fill(str(n))
            live.get_by_label("n, exact").press("Enter")
            expected = NgramContext(n=n, estimate=estimate).probabilities()
            assert expected
            shown = bars(live)
            assert sum(shown.values()) == pytest.approx(1, abs=0.006)
            for name, value in shown.items():
                if not name.endswith(" others"):
                    assert value == pytest.approx(expected[name], abs=0.00051), (estimate, n, name)


def test_pressing_a_row_chooses_n_and_pressing_a_word_writes_it(live: Page) -> None:
    live.get_by_role("gridcell", name="n = 2, after San: Jose").click()
    assert live.get_by_label("n, exact").input_value() == "2"
    live.get_by_role("button", name="Jose", exact=True).click()
    assert live.get_by_label("The text so far").input_value() == "I visited San Jose"
    assert bars(live) == {".": 1.0}


def test_the_arithmetic_of_add_one(live: Page) -> None:
    live.get_by_label("Start from a case").select_option("addone")
    live.locator(".llmr-bar b").first.hover()
    expect(live.get_by_role("tooltip")).to_contain_text("(2 + 1) / (3 + 1 · 23) = 3 / 26 = 0.115")


def test_a_context_without_an_answer(live: Page) -> None:
    live.get_by_label("Start from a case").select_option("unseen")
    expect(live.locator(".llmr-story")).to_contain_text("0 / 0")
    assert bars(live) == {}
    live.get_by_label("k, added to every count, exact").fill("1")
    live.get_by_label("k, added to every count, exact").press("Enter")
    assert len(bars(live)) == 11


def test_a_text_of_the_readers_own(live: Page) -> None:
    live.get_by_label("The text that is counted", exact=True).fill("fish fish cat")
    live.get_by_label("The text so far").fill("cat fish")
    live.get_by_label("The text so far").press("Enter")
    live.get_by_label("n, exact").fill("2")
    live.get_by_label("n, exact").press("Enter")
    assert bars(live) == {"cat": 0.5, "fish": 0.5}
    live.get_by_role("radio", name="letter").check(force=True)
    expect(live.locator(".llmr-story")).to_contain_text("After “h”")
    live.get_by_label("The text that is counted", exact=True).fill("")
    expect(live.locator(".llmr-story")).to_contain_text("There is no text to count")
    live.get_by_role("button", name="Reset", exact=True).click()
    assert bars(live)["Francisco"] == 0.667
