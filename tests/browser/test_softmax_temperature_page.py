"""What only the softmax figure has: every control shows torch's weights; dragging chooses a width."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from widget_pages import open_live, write_page

from llmr_ref.widgets import SoftmaxTemperature

OpenPage = Callable[..., AbstractContextManager[Page]]
WIDTH, TEMPERATURE = "Width of the head d_k, exact", "Temperature t, exact"


@pytest.fixture
def shown(open_page: OpenPage, tmp_path: Path) -> Iterator[Page]:
    with open_page("about:blank") as page:
        open_live(page, write_page(tmp_path, SoftmaxTemperature().html()).as_uri())
        yield page


def set_exactly(page: Page, label: str, value: float) -> None:
    page.get_by_label(label).fill(str(value))
    page.get_by_label(label).press("Enter")


def expect_shown(page: Page, **state: Any) -> None:
    widget = SoftmaxTemperature(**state)
    shown = [float(text) for text in page.locator(".llmr-bar b").all_inner_texts()]
    torch.testing.assert_close(
        torch.tensor(shown).double(), widget.attended().weights, atol=0.00051, rtol=0
    )
    gradient = f"Size of the gradient: {float(widget.attended().gradient):.3f}"
    expect(page.locator(".llmr-root")).to_contain_text(gradient)


def test_every_control_shows_torch_numbers(shown: Page) -> None:
    expect_shown(shown)
    shown.get_by_label("nothing", exact=True).check()
    expect_shown(shown, divide="none")
    set_exactly(shown, WIDTH, 300)
    expect_shown(shown, divide="none", d_k=300)
    shown.get_by_label("√d_k", exact=True).check()
    set_exactly(shown, TEMPERATURE, 0.2)
    expect_shown(shown, d_k=300, temperature=0.2)
    shown.get_by_role("button", name="Draw again").click()
    expect_shown(shown, d_k=300, temperature=0.2, seed=8)


def test_dragging_in_a_picture_chooses_the_width(shown: Page) -> None:
    width = shown.get_by_label(WIDTH)
    for plot, least, most in ((0, 240, 260), (1, 18, 27)):
        box = shown.locator(".llmr-plot").nth(plot).bounding_box()
        assert box
        middle = box["x"] + 44 + (box["width"] - 56) / 2  # between the axes
        y = box["y"] + 60
        shown.mouse.move(box["x"] + 60, y)
        shown.mouse.down()
        shown.mouse.move(middle, y, steps=4)
        shown.mouse.up()
        assert least <= int(width.input_value()) <= most


def test_a_saturated_softmax_is_called_so(shown: Page) -> None:
    story = shown.locator(".llmr-story")
    assert "saturated" not in story.inner_text()
    shown.get_by_label("Start from a case").select_option("wide")
    expect(story).to_contain_text("The softmax is saturated")
    shown.get_by_label("Start from a case").select_option("width")
    expect(story).to_contain_text("nearly equal")


def test_a_key_lights_up_in_both_pictures(shown: Page) -> None:
    shown.locator(".llmr-bar").nth(2).hover()
    lit = shown.locator("[data-lit]").evaluate_all("all => all.map((e) => e.tagName)")
    assert sorted(lit) == ["DIV", "circle", "path"]
