"""What only the block flow has: stages, arithmetic of a cell, sizes, a student's block."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from widget_pages import connect, open_live, write_page

from llmr_ref.config import preset
from llmr_ref.widgets import BlockFlow
from llmr_ref.widgets.block_flow import STAGES

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


def shown(page: Page) -> torch.Tensor:
    cells = page.locator(".llmr-grid tbody tr").evaluate_all(
        "rows => rows.map((r) => [...r.querySelectorAll('.llmr-cell')].map((c) => c.textContent))"
    )
    return torch.tensor([[float((t or "0").replace("−", "-")) for t in row] for row in cells])


@pytest.mark.parametrize("order", STAGES)
def test_every_step_shows_torch_numbers(watched: Page, tmp_path: Path, order: str) -> None:
    widget = BlockFlow(order, norm="rmsnorm", activation="gelu", shown=2)
    open_live(watched, write_page(tmp_path, widget.html()).as_uri())
    steps = watched.locator(".llmr-steps button")
    assert steps.count() == len(STAGES[order])
    for i, numbers in enumerate(widget.numbers().values()):
        steps.nth(i).click()
        torch.testing.assert_close(shown(watched).double(), numbers, atol=0.0051, rtol=0)
        text = watched.locator(".llmr-cell-text").inner_text()
        assert text.endswith(watched.locator('[data-here=true][role="gridcell"]').inner_text())


def test_the_arithmetic_follows_pointer_and_keys(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, BlockFlow().html()).as_uri())
    text = watched.locator(".llmr-cell-text")
    assert text.inner_text().startswith("“dog”, number 1: x + attn")
    cell = watched.locator(".llmr-cell").nth(5)
    cell.hover()
    assert text.inner_text().startswith("“saw”, number 2")
    cell.focus()
    cell.press("ArrowDown")
    assert text.inner_text().startswith("“the”, number 2")
    watched.get_by_role("button", name="weights A").click()
    watched.locator(".llmr-cell").nth(1).hover()
    assert "hidden by the causal mask" in text.inner_text()


def test_shapes_are_those_of_the_models(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, BlockFlow().html()).as_uri())
    for case, name in (("gpt2", "gpt2"), ("llama", "llama2-7b")):
        watched.get_by_label("Start from a case", exact=True).select_option(case)
        model = preset(name)
        hidden = watched.get_by_role("button", name="hidden layer").inner_text()
        queries = watched.get_by_role("button", name="queries").inner_text()
        assert f"{model.ffn_width:,}".replace(",", "\u202f") in hidden
        assert f", {model.n_heads}, " in queries
        assert f", {model.head_width})" in queries
    watched.get_by_label("Heads h").select_option("4")
    assert "(1, 4, 4\u202f096, 128)" in watched.get_by_role("button", name="queries").inner_text()


def test_the_order_moves_the_norms(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, BlockFlow().html()).as_uri())
    watched.locator(".llmr-segments label", has_text="post-norm").click()
    steps = watched.locator(".llmr-steps b").all_inner_texts()
    assert steps.index("norm₁") > steps.index("+ attn")
    assert "still 1.00" in watched.locator(".llmr-story").inner_text()
    watched.locator(".llmr-segments label", has_text="parallel").click()
    assert "norm₂" not in watched.locator(".llmr-steps b").all_inner_texts()
    assert not watched.get_by_role("alert").is_visible()


def test_the_students_block_is_told_where_it_differs(watched: Page) -> None:
    def always_pre(x: Any, attention: Any, ffn: Any, norm1: Any, norm2: Any, order: str) -> Any:
        if order == "parallel":
            raise RuntimeError("what is parallel?")
        x = x + attention(norm1(x))
        return x + ffn(norm2(x))

    widget = BlockFlow(block_function=always_pre)
    connect(watched, widget)
    note = watched.locator(".llmr-student")
    expect(note).to_have_text("Your function gives the same numbers.")
    watched.locator(".llmr-segments label", has_text="post-norm").click()
    expect(note).to_contain_text("differs most at")
    assert widget.order == "post"
    watched.locator(".llmr-segments label", has_text="parallel").click()
    expect(watched.get_by_role("alert")).to_contain_text("RuntimeError: what is parallel?")
    watched.evaluate("() => window.cleanUp()")
    assert watched.evaluate("() => window.listening()") == 0
