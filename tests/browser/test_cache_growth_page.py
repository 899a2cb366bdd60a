"""What only cache growth has: plots that are pressed to choose a length, models with their own heads."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from widget_pages import connect, import_module, open_live, write_page

from llmr_ref.config import TransformerConfig
from llmr_ref.widgets import CacheGrowth

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


def test_the_plot_is_dragged_to_a_length(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, CacheGrowth().html()).as_uri())
    plot = watched.get_by_role("group", name="Bytes kept against tokens").bounding_box()
    assert plot
    length = watched.get_by_label("Tokens so far, T, exact")
    watched.mouse.move(plot["x"] + plot["width"] * 0.3, plot["y"] + 80)
    watched.mouse.down()
    few = int(length.input_value())
    watched.mouse.move(plot["x"] + plot["width"] * 0.9, plot["y"] + 80, steps=3)
    watched.mouse.up()
    assert 1 < few < 100 < 10_000 < int(length.input_value())
    expect(watched.locator(".llmr-story")).to_contain_text("times its weights")


def test_a_model_brings_its_heads_and_python_follows(watched: Page) -> None:
    widget = CacheGrowth(TransformerConfig(vocab_size=50, d_model=64, n_layers=2, n_heads=4))
    connect(watched, widget)
    watched.get_by_label("Model", exact=True).select_option("falcon-7b")
    assert (widget.model, widget.n_kv_heads) == ("falcon-7b", 1)
    watched.get_by_label("Model", exact=True).select_option("own")
    assert (widget.model, widget.n_kv_heads) == ("own", 4)
    heads = watched.get_by_label("Heads of K and V (divide h), exact")
    heads.fill("3")
    heads.press("Enter")
    assert widget.n_kv_heads == 2
    expect(watched.locator(".llmr-story")).to_contain_text("your model")
    watched.evaluate("() => window.cleanUp()")


def test_the_rnn_keeps_one_vector_a_layer(watched: Page) -> None:
    import_module(watched, "cache_growth")
    shape = CacheGrowth().shapes["gpt2"]
    got = watched.evaluate("(s) => cache_growth.recurrent(s, 3)", shape)
    L, d, V = 12, 768, 50257
    assert got["state"] == 3 * L * d * 2
    assert got["flops"] == 2 * 3 * got["weights"] == 2 * 3 * (2 * L * d * d + d * V)
