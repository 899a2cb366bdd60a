"""What only the IsoFLOP explorer has: a point that is dragged over the valleys, the way to the bottom."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from widget_pages import connect, open_live, write_page

from llmr_ref.scaling import PUBLISHED, ChinchillaLaw
from llmr_ref.widgets import IsoflopExplorer

OpenPage = Callable[..., AbstractContextManager[Page]]
GRIP = "Model and budget: drag sideways for N, up and down for C"


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


def test_the_point_stays_under_the_pointer(watched: Page) -> None:
    widget = IsoflopExplorer()
    connect(watched, widget)
    grip = watched.get_by_role("slider", name=GRIP).locator("circle").last
    box = grip.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    watched.mouse.move(x, y)
    watched.mouse.down()
    watched.mouse.move(x - 150, y - 60, steps=5)
    watched.mouse.up()
    after = grip.bounding_box()
    assert after
    assert after["x"] - box["x"] == pytest.approx(-150, abs=3)
    assert after["y"] - box["y"] == pytest.approx(-60, abs=3)
    assert widget.N < 70e9
    assert widget.C < 5.88e23
    watched.evaluate("() => window.cleanUp()")


def test_arrow_keys_move_size_and_budget(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, IsoflopExplorer().html()).as_uri())
    grip = watched.get_by_role("slider", name=GRIP)
    size = watched.get_by_label("Parameters N, billions, exact")
    budget = watched.get_by_label("Budget C, 10²¹ FLOPs, exact")
    grip.press("ArrowRight")
    assert float(size.input_value()) == pytest.approx(77)
    grip.press("ArrowDown")
    assert float(budget.input_value()) == pytest.approx(588 * 1.25)
    grip.press("ArrowUp")
    assert float(budget.input_value()) == pytest.approx(588, rel=0.01)


def test_the_bottom_is_the_references_optimum(watched: Page) -> None:
    law = ChinchillaLaw(E=1.0, A=200.0, B=800.0, alpha=0.3, beta=0.25)
    widget = IsoflopExplorer(law, C=1e22)
    connect(watched, widget)
    button = watched.get_by_role("button", name="Go to the valley’s bottom")
    button.click()
    best, _ = law.optimal(1e22)
    assert best == pytest.approx(widget.N, rel=0.005)
    expect(watched.locator(".llmr-story")).to_contain_text("That is the valley’s bottom")
    for name in ("chinchilla", "kaplan"):
        watched.get_by_label("Law", exact=True).select_option(name)
        button.click()
        published = PUBLISHED[name].law
        assert not isinstance(published, dict) and hasattr(published, "optimal")
        best, _ = published.optimal(1e22)
        assert best == pytest.approx(widget.N, rel=0.005)
    watched.evaluate("() => window.cleanUp()")


def test_the_lower_plot_is_pressed_for_both(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, IsoflopExplorer().html()).as_uri())
    plot = watched.get_by_role("group", name="Best parameters against budget")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box
    watched.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.6)
    assert float(watched.get_by_label("Budget C, 10²¹ FLOPs, exact").input_value()) < 1
    assert float(watched.get_by_label("Parameters N, billions, exact").input_value()) < 10
