"""What only the batch loss has: its grid, own sentences, targets that do not count, a student's loss."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from widget_pages import connect, open_live, write_page

from llmr_ref.training import token_losses
from llmr_ref.widgets import BatchLoss
from llmr_ref.widgets.batch_loss import vocabulary

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


@pytest.fixture
def shown(watched: Page, tmp_path: Path) -> Page:
    open_live(watched, write_page(tmp_path, BatchLoss().html()).as_uri())
    return watched


def grid(page: Page) -> list[list[str]]:
    texts: list[list[str]] = page.locator(".llmr-grid tbody tr").evaluate_all(
        "rows => rows.map((r) => [...r.querySelectorAll('.llmr-cell')].map((c) => c.textContent))"
    )
    return texts


def expect_numbers_of(page: Page, widget: BatchLoss) -> None:
    batch = widget.batch()
    losses = token_losses(batch.logits, batch.targets)
    rows = grid(page)
    assert len(rows) == 3 * len(batch.inputs)
    for r in range(len(batch.inputs)):
        inputs, targets, shown = rows[3 * r : 3 * r + 3]
        for t, target in enumerate(batch.targets[r].tolist()):
            if inputs[t] != "pad":
                assert inputs[t] == vocabulary()[batch.inputs[r, t]]
            if batch.counted[r, t]:
                assert targets[t] in (vocabulary()[target], "pad")
                assert float(shown[t]) == pytest.approx(float(losses[r, t]), abs=0.0051)
            else:
                assert shown[t] == "–"
    mean = page.locator("b[data-q=mean]").inner_text()
    assert float(mean.split()[0]) == pytest.approx(widget.mean(), abs=0.00051)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("padding", ["left out", "averaged in", "a target"])
def test_every_place_shows_torch_numbers(shown: Page, order: int, padding: str) -> None:
    kinds = {"left out": "ignored", "averaged in": "averaged", "a target": "target"}
    shown.get_by_role("radio", name="word").nth(order - 1).check(force=True)
    shown.get_by_role("radio", name=padding, exact=True).check(force=True)
    expect_numbers_of(shown, BatchLoss(order=order, padding=kinds[padding]))


def test_a_target_is_left_out_and_counted_again(shown: Page) -> None:
    fish = shown.locator(".llmr-cell", has_text="fish")
    fish.click()
    expect_numbers_of(shown, BatchLoss(off=[[0, 6]]))
    assert "15 targets count" in shown.locator(".llmr-story").inner_text()
    padding = shown.locator(".llmr-cell", has_text="−100").first
    padding.click()  # does not count anyway
    expect_numbers_of(shown, BatchLoss(off=[[0, 6]]))
    shown.locator(".llmr-cell").nth(0).focus()
    shown.keyboard.press("Enter")
    expect_numbers_of(shown, BatchLoss(off=[[0, 0], [0, 6]]))
    shown.get_by_role("button", name="All targets count").click()
    expect_numbers_of(shown, BatchLoss())


def test_sequences_of_ones_own(shown: Page) -> None:
    def write(i: int, text: str) -> None:
        box = shown.get_by_label(f"Sequence {i}", exact=True)
        box.fill(text)
        box.press("Enter")

    write(4, "  the dogs   wait . ")
    texts = [*BatchLoss().texts, "the dogs wait ."]
    expect_numbers_of(shown, BatchLoss(texts))
    for text, reason in (
        ("the zebra waits", "“zebra” is not among the words"),
        ("the <b> waits", "“<b>” is not among"),
        ("the " * 13, "1 to 12 words"),
    ):
        write(4, text)
        expect(shown.get_by_role("alert")).to_contain_text(reason)
        expect_numbers_of(shown, BatchLoss(texts))
    write(4, "")
    write(2, "")
    write(3, "")
    assert not shown.get_by_role("alert").is_visible()
    assert "No" not in shown.locator(".llmr-story").inner_text()[:3]


def test_the_students_loss_stands_beside_the_mean(watched: Page) -> None:
    def over_all_places(logits: torch.Tensor, targets: torch.Tensor) -> Any:
        if logits.shape[0] == 1:
            raise RuntimeError("only batches")
        return token_losses(logits, targets).mean()

    widget = BatchLoss(loss_function=over_all_places)
    connect(watched, widget)
    note = watched.locator(".llmr-student")
    expect(note).to_contain_text("the mean over the 16 targets that count")
    watched.get_by_label("Start from a case", exact=True).select_option("agreement")
    expect(note).to_contain_text("as the reference")
    watched.get_by_label("Start from a case", exact=True).select_option("one")
    expect(watched.get_by_role("alert")).to_contain_text("RuntimeError: only batches")
    assert widget.texts == ["So long and thanks for all the fish"]
    watched.evaluate("() => window.cleanUp()")
    assert watched.evaluate("() => window.listening()") == 0
