"""What only the YaRN explorer has: one pair in all views, every control's numbers, the student's function."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from torch import Tensor
from widget_pages import connect, open_live, write_page

from llmr_ref.grading.exercises.yarn_frequencies import reference
from llmr_ref.rope import rope_frequencies
from llmr_ref.widgets import YarnExplorer
from llmr_ref.widgets.yarn_explorer import method_frequencies, pairs_out_of_range

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


def set_exactly(page: Page, label: str, value: float) -> None:
    page.get_by_label(f"{label}, exact").fill(str(value))
    page.get_by_label(f"{label}, exact").press("Enter")


def test_every_control_shows_the_references_numbers(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, YarnExplorer().html()).as_uri())
    state: dict[str, Any] = {"d": 128, "base": 10_000.0, "trained": 2048, "factor": 4.0}
    ramp: dict[str, Any] = {}
    pair = 46

    def expect_all() -> None:
        theta = rope_frequencies(state["d"], state["base"])
        values = watched.locator(".llmr-dial b").all_text_contents()
        outside = watched.locator(".llmr-data").first.locator("tbody tr td:nth-child(2)")
        counts = outside.all_text_contents()
        for i, method in enumerate(("none", "linear", "ntk", "yarn")):
            changed = method_frequencies(method, **state, **ramp)
            out = pairs_out_of_range(theta, changed, state["trained"], state["factor"])
            assert counts[i] == str(out), (method, state, ramp)
            turns = state["factor"] * state["trained"] * float(changed[pair]) / (2 * math.pi)
            if turns < 10:
                assert values[i] == f"{turns:.2f} turns", (method, state, ramp)

    expect_all()
    set_exactly(watched, "Text longer by s", 8)
    state["factor"] = 8.0
    expect_all()
    set_exactly(watched, "Trained length L", 4096)
    set_exactly(watched, "Base Θ", 500_000)
    state |= {"trained": 4096, "base": 500_000.0}
    expect_all()
    watched.get_by_role("radio", name="turns").check(force=True)
    set_exactly(watched, "Kept from β fast turns", 8)
    set_exactly(watched, "Interpolated from β slow turns", 0.5)
    set_exactly(watched, "Pair k", 30)
    ramp, pair = {"ramp": "turns", "beta_fast": 8.0, "beta_slow": 0.5}, 30
    expect_all()
    set_exactly(watched, "Dimensions d", 64)
    state["d"] = 64
    expect_all()


def test_pressing_in_either_plot_chooses_the_pair_everywhere(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, YarnExplorer().html()).as_uri())
    for plot in (0, 1):
        box = watched.locator(".llmr-plot").nth(plot).bounding_box()
        assert box
        watched.mouse.click(box["x"] + box["width"] - 13, box["y"] + 60)
        assert watched.get_by_label("Pair k, exact").input_value() == "63"
        expect(watched.locator("h3", has_text="Pair 63: 0.04 turns in training")).to_be_visible()
        watched.get_by_role("button", name="Reset", exact=True).click()


def test_the_temperature_by_hand(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, YarnExplorer().html()).as_uri())
    watched.locator("output").hover()
    expect(watched.get_by_role("tooltip")).to_contain_text("scores times 1/t = 1.1386² = 1.296")


def test_a_students_function_is_drawn_over_the_reference(watched: Page) -> None:
    def wrong_above_eight(d: int, factor: float, trained: int, *rest: Any) -> Tensor:
        if factor > 30:
            raise RuntimeError("too far")
        return reference(d, factor, int(trained * (factor if factor > 8 else 1)), *rest)

    widget = YarnExplorer(yarn=wrong_above_eight)
    connect(watched, widget)
    note = watched.locator(".llmr-student")
    expect(note).to_contain_text("agrees with the ramp in turns in every pair")
    set_exactly(watched, "Text longer by s", 16)
    expect(note).to_contain_text("differs from the ramp in turns in")
    assert widget.factor == 16
    set_exactly(watched, "Text longer by s", 32)
    expect(watched.get_by_role("alert")).to_contain_text("RuntimeError: too far")
    set_exactly(watched, "Text longer by s", 4)
    expect(note).to_contain_text("agrees")
