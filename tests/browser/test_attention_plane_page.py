"""What only the plane of queries and keys has: dragging, values, and the student's attention."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from torch import Tensor
from widget_pages import connect, open_live, write_page

from llmr_ref.attention import attention_weights
from llmr_ref.widgets import AttentionPlane

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


@pytest.fixture
def shown(watched: Page, tmp_path: Path) -> Page:
    open_live(watched, write_page(tmp_path, AttentionPlane().html()).as_uri())
    return watched


def bars(page: Page) -> list[float]:
    return [float(text) for text in page.locator(".llmr-bar b").all_inner_texts()]


def expect_shown(page: Page, **state: Any) -> None:
    widget = AttentionPlane(**state)
    torch.testing.assert_close(
        torch.tensor(bars(page)).double(), widget.weights(), atol=0.00051, rtol=0
    )
    output = ", ".join(f"{x:.2f}".replace("-", "−") for x in widget.output().tolist())
    expect(page.locator("b[data-q=values]")).to_have_text(
        output if widget.values else f"({output})"
    )


def place(page: Page, name: str) -> list[float]:
    """Where a point is, as it is read aloud."""
    text = page.get_by_role("slider", name=name, exact=True).get_attribute("aria-valuetext") or ""
    return [float(x.replace("−", "-")) for x in text.split(", ")]


def test_every_score_shows_torch_numbers(shown: Page) -> None:
    expect_shown(shown)
    for label, score in (("/ √2", "scaled"), ("k W q", "bilinear"), ("Gaussian", "gaussian")):
        shown.get_by_label(label, exact=True).check()
        expect_shown(shown, score=score)
    shown.get_by_label("Bandwidth h, exact").fill("0.4")
    shown.get_by_label("Bandwidth h, exact").press("Enter")
    expect_shown(shown, score="gaussian", bandwidth=0.4)
    shown.get_by_label("k W q", exact=True).check()
    shown.get_by_label("W, row by row").fill("0, 2; −1.5 3")
    shown.get_by_label("W, row by row").press("Enter")
    matrix = [[0.0, 2.0], [-1.5, 3.0]]
    expect_shown(shown, score="bilinear", matrix=matrix)
    values = shown.get_by_label("Values, one per key (empty: the keys)")
    values.fill("33 18 52 20")
    values.press("Enter")
    expect_shown(shown, score="bilinear", matrix=matrix, values=[33.0, 18.0, 52.0, 20.0])


def test_text_that_is_no_matrix_changes_nothing(shown: Page) -> None:
    shown.get_by_label("k W q", exact=True).check()
    box = shown.get_by_label("W, row by row")
    for text in ("1 2 3", "1 2 3 x", "1 2 3 400", ""):
        box.fill(text)
        box.press("Enter")
        expect_shown(shown, score="bilinear")
        shown.locator(".llmr-story").click()
        assert not shown.get_by_role("alert").is_visible()


def test_points_follow_mouse_and_arrow_keys(shown: Page) -> None:
    query = shown.get_by_role("slider", name="Query", exact=True)
    box = query.locator("circle").last.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.mouse.move(x, y)
    shown.mouse.down()
    shown.mouse.move(x + 60, y + 90, steps=4)
    shown.mouse.up()
    moved = place(shown, "Query")
    assert moved[0] > 0.3
    assert moved[1] < 1.5
    expect_shown(shown, query=moved)
    shown.get_by_role("slider", name="Key movie").press("ArrowUp")
    shown.get_by_role("slider", name="Key movie").press("Shift+ArrowLeft")
    keys = [[0.1, 0.0], [0.0, 0.3], [0.0, 0.1], [0.2, 1.0]]
    assert place(shown, "Key movie") == keys[1]
    expect_shown(shown, query=moved, keys=keys)


def test_keys_come_and_go(shown: Page) -> None:
    shown.get_by_role("button", name="Add a key").click()
    assert len(bars(shown)) == 5
    assert shown.get_by_role("slider", name="Key k5").is_visible()
    more, fewer = (shown.get_by_role("button", name=name) for name in ("Add a key", "Remove one"))
    more.press("Enter")  # five is the most
    assert len(bars(shown)) == 5
    for _ in range(5):
        fewer.press("Enter")
    assert len(bars(shown)) == 2
    assert not shown.get_by_role("slider", name="Key was").is_visible()
    expect_shown(shown, keys=[[0.1, 0.0], [1.0, 0.2]])


def test_the_students_attention_is_drawn_over_the_reference(watched: Page) -> None:
    def no_root(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        if float(Q[0, 0]) < -1:
            raise RuntimeError("too far left")
        return attention_weights(Q, K, scale=1.0) @ V

    widget = AttentionPlane(score="scaled", attention=no_root)
    connect(watched, widget)
    note = watched.locator(".llmr-student")
    expect(note).to_contain_text("differs most at “great”: it gives 0.666, the reference, scaled")
    watched.get_by_label("q · k", exact=True).check()
    expect(note).to_contain_text("agrees with the reference, dot product")
    query = watched.get_by_role("slider", name="Query", exact=True)
    query.press("Shift+ArrowLeft")
    expect(note).to_contain_text("agrees")
    assert widget.query == [-1.0, 2.0]
    query.press("ArrowLeft")
    expect(watched.get_by_role("alert")).to_contain_text("RuntimeError: too far left")
    query.press("ArrowRight")
    expect(watched.get_by_role("alert")).not_to_be_visible()
    watched.evaluate("() => window.cleanUp()")
    assert watched.evaluate("() => window.listening()") == 0
