"""What only the trained heads have: texts, pictures of all heads, and the pattern under the pointer."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from widget_pages import open_live, write_page

from llmr_ref.widgets import TrainedHeads

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def shown(open_page: OpenPage, tmp_path: Path) -> Iterator[Page]:
    with open_page("about:blank") as page:
        open_live(page, write_page(tmp_path, TrainedHeads().html()).as_uri())
        yield page


def expect_shown(page: Page, **state: int) -> None:
    widget = TrainedHeads(**state)
    row = widget.weights()[widget.token]
    expect(page.locator(".llmr-bar b").first).to_have_text(f"{float(row.max()):.3f}")
    expect(page.locator(".llmr-story")).to_contain_text(f"layer {widget.layer}, head {widget.head}")
    cells = page.locator(".llmr-grid tbody tr").nth(widget.token).locator(".llmr-cell")
    for i in range(widget.token + 1):
        label = cells.nth(i).get_attribute("aria-label") or ""
        assert label.endswith(f"weight {float(row[i]):.2f}"), (i, label)


def test_layer_head_and_token_show_the_references_weights(shown: Page) -> None:
    expect_shown(shown)
    shown.get_by_role("button", name="layer 2, head 4", exact=True).click()
    expect_shown(shown, layer=2)
    shown.get_by_role("group", name="Head", exact=True).get_by_label("1").check()
    expect_shown(shown, layer=2, head=1)
    shown.get_by_role("button", name="Query: token number: one forward").click()
    expect_shown(shown, layer=2, head=1, token=12)
    shown.locator(".llmr-tokens > *").nth(4).click()
    expect_shown(shown, layer=2, head=1, token=4)


def test_arrow_keys_walk_along_tokens_and_heads(shown: Page) -> None:
    shown.locator(".llmr-tokens > *").nth(11).focus()
    shown.keyboard.press("ArrowLeft")
    shown.keyboard.press("Enter")
    expect_shown(shown, token=10)
    shown.get_by_role("button", name="layer 4, head 4", exact=True).focus()
    shown.keyboard.press("ArrowLeft")
    shown.keyboard.press(" ")
    expect_shown(shown, head=3, token=10)


def test_another_text_brings_its_own_tokens(shown: Page) -> None:
    shown.get_by_label("Text, not seen in training").select_option("2")
    assert shown.locator(".llmr-tokens > *").count() == 17
    assert shown.locator(".llmr-cell").count() == 17 * 17
    expect_shown(shown, text=2, token=16)


def test_the_pattern_tells_the_arithmetic_of_a_cell(shown: Page) -> None:
    words = shown.locator(".llmr-arithmetic")
    expect(words).to_contain_text("= 0.981")  # at first the largest weight of the query
    row = shown.locator(".llmr-grid tbody tr").nth(6)
    row.locator(".llmr-cell").nth(5).hover()
    expect(words).to_contain_text("“you” looks at “with”")
    expect_shown(shown, token=6)
    row.locator(".llmr-cell").nth(9).hover()
    expect(words).to_contain_text("comes after “you”: masked")
    shown.get_by_role("button", name="Reset").click()
    expect(words).to_contain_text("= 0.981")
