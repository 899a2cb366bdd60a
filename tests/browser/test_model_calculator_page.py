"""What only the model calculator has: the layer drawn to scale, sliders that keep the shape whole."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from widget_pages import connect, open_live, write_page

from llmr_ref.accounting import approximate_parameters
from llmr_ref.widgets import ModelCalculator

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


def shown_total(page: Page) -> list[int]:
    texts = page.locator("p:has-text('Exactly') b").all_inner_texts()
    return [int("".join(c for c in text if c.isdigit())) for text in texts]


def test_the_shape_stays_whole_and_the_count_is_the_references(watched: Page) -> None:
    widget = ModelCalculator("llama2-7b")
    connect(watched, widget)
    for label, value in (
        ("Width d (a multiple of the heads)", 2000),
        ("Heads h (divide d)", 24),
        ("Heads of K and V (divide h)", 7),
        ("Layers L", 20),
        ("Feed-forward width", 5000),
        ("Vocabulary V", 1000),
    ):
        box = watched.get_by_label(f"{label}, exact")
        box.fill(str(value))
        box.press("Enter")
        config = widget.config()
        expected = [widget.parameters().total, approximate_parameters(config)]
        assert shown_total(watched) == expected
        assert widget.n_heads * widget.d_head == widget.d_model
    assert (widget.n_layers, widget.d_ff, widget.vocab_size) == (20, 5000, 1000)
    watched.evaluate("() => window.cleanUp()")


def test_the_networks_edge_can_be_dragged(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, ModelCalculator().html()).as_uri())
    blocks = watched.locator(".llmr-plot .llmr-bars rect")
    assert blocks.count() == 6
    widths = blocks.evaluate_all("all => all.map((e) => e.getBoundingClientRect().width)")
    assert widths[4] / widths[0] == pytest.approx(4, rel=0.05)
    grip = watched.get_by_role("slider", name="End of the feed-forward matrices")
    box = grip.locator("circle").last.bounding_box()
    assert box
    watched.mouse.move(box["x"] + 7, box["y"] + 7)
    watched.mouse.down()
    watched.mouse.move(box["x"] + 7 - 4 * widths[0], box["y"] + 7, steps=4)
    watched.mouse.up()
    width = int(watched.get_by_label("Feed-forward width, exact").input_value())
    assert width == pytest.approx(2 * 768, rel=0.03)
    grip.press("ArrowRight")
    assert int(watched.get_by_label("Feed-forward width, exact").input_value()) > width


def test_the_case_of_lecture_four_with_grouped_heads(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, ModelCalculator().html()).as_uri())
    watched.get_by_label("Start from a case", exact=True).select_option("grouped")
    assert shown_total(watched)[0] == ModelCalculator("llama2-7b", n_kv_heads=8).parameters().total
    expect(watched.locator(".llmr-story")).to_contain_text("5.93 billion parameters")
