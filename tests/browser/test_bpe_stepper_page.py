"""What only the BPE stepper has: typing a text, stepping, places of a pair, the students' functions."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from widget_pages import connect, open_live, write_page

from llmr_ref.grading.exercises.merge_pair import merge_pair
from llmr_ref.grading.exercises.train_bpe import first_of_a_tie, train_bpe
from llmr_ref.widgets import BPEStepper

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


def words(page: Page) -> list[str]:
    """The words on the screen, their tokens between bars."""
    return page.locator(".llmr-word > span").evaluate_all(
        "all => all.map((word) => [...word.children].map((token) => token.textContent).join('|'))"
    )


def test_typing_stepping_and_the_places_of_a_pair(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, BPEStepper().html()).as_uri())
    assert words(watched) == ["low", "␣", "low|e|r", "n|e|w|e|s|t"]
    watched.get_by_role("button", name="Merges made: one forward").click()
    assert words(watched)[3] == "n|e|we|s|t"
    watched.get_by_role("button", name="Merges made: one back").click()
    watched.get_by_role("button", name="e + s", exact=True).click()
    marked = watched.locator('.llmr-token[data-pair="a"], .llmr-token[data-pair="b"]')
    assert marked.all_inner_texts() == ["e", "s"]
    watched.get_by_label("Of equally frequent pairs, join").select_option("first")
    assert words(watched) == ["low", "␣", "low|e|r", "n|e|w|e|s|t"]
    assert watched.locator(".llmr-chip b").all_inner_texts() == ["lo", "low"]
    watched.get_by_label("Your text").fill("héé")
    assert words(watched) == ["hé|é"]
    watched.get_by_label("Merges made", exact=True).press("Home")
    assert words(watched) == ["h|C3|A9|C3|A9"]
    watched.get_by_label("Your text").fill("")
    expect(watched.locator(".llmr-story")).to_contain_text("Type a text")
    watched.get_by_role("button", name="Reset", exact=True).click()
    assert words(watched)[0] == "low"


def test_the_arithmetic_of_a_count(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, BPEStepper(step=0).html()).as_uri())
    watched.locator(".llmr-bar b").first.hover()
    popover = watched.get_by_role("tooltip")
    expect(popover).to_contain_text("c(o, w) = 3 · 1 in “low” + 1 · 1 in “lower” = 4")
    expect(popover).to_contain_text("2 pairs count 4")


def test_pressing_the_curve_goes_there(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, BPEStepper().html()).as_uri())
    box = watched.locator(".llmr-plot").bounding_box()
    assert box
    watched.mouse.click(box["x"] + box["width"] - 14, box["y"] + 60)
    expect(watched.locator(".llmr-story")).to_contain_text("nothing is left to join")
    assert words(watched) == ["low", "␣", "lower", "newest"]


def test_a_students_training_is_drawn_beside_the_reference(watched: Page) -> None:
    widget = BPEStepper(train=first_of_a_tie, step=3)
    connect(watched, widget)
    note = watched.locator(".llmr-student")
    expect(note).to_contain_text("part from the reference’s at merge 1: yours joins l + o")
    assert watched.locator('.llmr-chip[data-differs="true"]').count() >= 1
    watched.get_by_label("Your text").fill("abab")
    expect(note).to_contain_text("learns the same 2 merges")
    assert widget.text == "abab"


def test_a_students_merge_and_its_error(watched: Page) -> None:
    def merge(tokens: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
        if b"z" in tokens:
            raise RuntimeError("no z")
        if tokens == [b"a", b"a", b"a"]:
            return [b"a", b"aa"]
        return merge_pair(tokens, pair)

    connect(watched, BPEStepper(merge=merge))
    note = watched.locator(".llmr-student")
    expect(note).to_contain_text("joins every pair as the reference does, in 9 merges")
    text = watched.get_by_label("Your text")
    text.fill("aaa")
    expect(note).to_contain_text("merge 1, a + a. From a a a it makes a aa; right is aa a")
    text.fill("zz")
    expect(watched.get_by_role("alert")).to_contain_text("RuntimeError: no z")
    text.fill("low")
    assert not watched.get_by_role("alert").is_visible()


def test_without_python_the_students_answer_is_of_another_text(
    watched: Page, tmp_path: Path
) -> None:
    html = BPEStepper(train=train_bpe).html()
    open_live(watched, write_page(tmp_path, html).as_uri())
    expect(watched.locator(".llmr-student")).to_contain_text("learns the same 9 merges")
    watched.get_by_label("Your text").fill("other")
    expect(watched.locator(".llmr-student")).to_contain_text("Python answers in JupyterLab only")
