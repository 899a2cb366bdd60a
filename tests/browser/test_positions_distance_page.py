"""What only position and distance have: every control shows the reference's numbers, cells, the plot."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from widget_pages import open_live, write_page

from llmr_ref.widgets import PositionsDistance
from llmr_ref.widgets.positions_distance import NAMES, position_score

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def live(open_page: OpenPage, tmp_path: Path) -> Iterator[Page]:
    with open_page("about:blank") as page:
        open_live(page, write_page(tmp_path, PositionsDistance().html()).as_uri())
        yield page


def shown(page: Page) -> str:
    return page.locator("output").inner_text().replace("−", "-")


def set_exactly(page: Page, label: str, value: float) -> None:
    page.get_by_label(f"{label}, exact").fill(str(value))
    page.get_by_label(f"{label}, exact").press("Enter")


def test_every_control_shows_the_references_numbers(live: Page) -> None:
    state: dict[str, Any] = {"m": 8, "n": 0}

    def expect_all() -> None:
        for method in NAMES:
            live.get_by_label("Method", exact=True).select_option(method)
            value = position_score(method, **state)
            assert shown(live) == ("no vector" if value is None else f"{value:.3f}"), (
                method,
                state,
            )

    expect_all()
    set_exactly(live, "Distance of query and key", 40)
    set_exactly(live, "Position of the key", 100)
    state |= {"m": 140, "n": 100}
    expect_all()
    set_exactly(live, "Dimensions d", 16)
    set_exactly(live, "Base of the frequencies", 100)
    live.get_by_role("checkbox").check()
    live.get_by_label("Method", exact=True).select_option("alibi")
    set_exactly(live, "ALiBi’s head, of 8", 2)
    state |= {"d": 16, "base": 100.0, "projected": True, "head": 2}
    expect_all()


def test_a_cell_gives_its_distance_and_its_diagonal_is_marked(live: Page) -> None:
    live.get_by_role("gridcell", name="query at 6, key at 2: distance 4").click()
    assert live.get_by_label("Distance of query and key, exact").input_value() == "4"
    assert live.locator('[data-diagonal="true"]').count() == 4
    note = live.locator(".llmr-small", has_text="Press a cell")
    expect(note).to_contain_text("Every diagonal is one number")
    live.get_by_label("Method", exact=True).select_option("learned")
    expect(note).to_contain_text("The diagonals vary")


def test_dragging_in_the_plot_sets_the_distance(live: Page) -> None:
    box = live.locator(".llmr-plot").bounding_box()
    assert box
    live.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    live.mouse.down()
    live.mouse.move(box["x"] + box["width"] - 5, box["y"] + 100)
    live.mouse.up()
    assert live.get_by_label("Distance of query and key, exact").input_value() == "255"
    expect(live.locator(".llmr-story")).to_contain_text("No training text was 255 long")


def test_closer_is_not_always_higher(live: Page) -> None:
    live.get_by_label("Start from a case").select_option("rises")
    expect(live.locator(".llmr-story")).to_contain_text("One position closer would give less")
