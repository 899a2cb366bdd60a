"""What holds for every widget of the book, whatever it shows: the checklist, in real Chromium.

A widget is found by its line in llmr_ref/widgets/__init__.py. What is its own is tested elsewhere.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
import torch
from playwright.sync_api import Locator, Page, expect
from widget_pages import WIDGETS, import_module, open_live, wait_live, write_page

from llmr_ref.widgets.embed import EmbeddableWidget

OpenPage = Callable[..., AbstractContextManager[Page]]
every_widget = pytest.mark.parametrize("make", WIDGETS.values(), ids=WIDGETS)
both_themes = pytest.mark.parametrize("theme", ["light", "dark"])
MOST_BYTES = 30 * 1024
TOLERANCE = 1e-5  # absolute below 1, relative above


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    """An empty page that fails the test on console errors and requests to other hosts."""
    with open_page("about:blank") as page:
        yield page


@pytest.fixture
def shown(
    watched: Page, serve: Callable[..., str], tmp_path: Path, make: type[EmbeddableWidget]
) -> Page:
    """The widget alive in a served page."""
    file = write_page(tmp_path, make().html())
    open_live(watched, serve(tmp_path, "/") + file.name)
    return watched


def story(page: Page) -> str:
    return page.locator(".llmr-story").inner_text()


def state_on_screen(page: Page) -> list[Any]:
    """Story and every control, as the reader sees them."""
    controls = page.locator(".llmr-root :is(input, select)").evaluate_all(
        "all => all.map((e) => [e.ariaLabel ?? e.value, e.type === 'radio' || e.type === 'checkbox'"
        " ? e.checked : e.value, e.getClientRects().length > 0])"
    )
    return [story(page), controls]


def cases(page: Page) -> Locator:
    return page.get_by_label("Start from a case", exact=True)


def all_cases(page: Page) -> list[str]:
    values = cases(page).locator("option").evaluate_all("all => all.map((o) => o.value)")
    return [value for value in values if value]


def choose_another_case(page: Page) -> str:
    """The first case whose story is not the one on the screen."""
    before = story(page)
    for case in all_cases(page):
        cases(page).select_option(case)
        if story(page) != before:
            return case
    raise AssertionError("no case tells another story")


def reset(page: Page) -> None:
    page.get_by_role("button", name="Reset", exact=True).click()


def open_folds(page: Page) -> None:
    for summary in page.locator(".llmr-root summary").all():
        summary.click()


# --- numbers -----------------------------------------------------------------------------------------


def as_json(value: Any) -> Any:
    """Tensors, arrays and named tuples as what JSON can say."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: as_json(part) for key, part in value.items()}
    if hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    return value


def difference(got: Any, expected: Any, where: str = "") -> str:
    """The first place where the module's answer is not the reference's, or ""."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or not expected.keys() <= got.keys():
            return f"{where}: keys {sorted(expected)} expected, got {got!r:.80}"
        parts = (difference(got[k], expected[k], f"{where}.{k}") for k in expected)
        return next(filter(None, parts), "")
    if isinstance(expected, list):
        if not isinstance(got, list) or len(got) != len(expected):
            return f"{where}: {len(expected)} entries expected, got {got!r:.80}"
        pairs = enumerate(zip(got, expected, strict=True))
        return next(filter(None, (difference(g, e, f"{where}[{i}]") for i, (g, e) in pairs)), "")
    if isinstance(expected, int | float) and not isinstance(expected, bool):
        is_number = isinstance(got, int | float) and not isinstance(got, bool)
        if is_number and (
            got == expected or abs(got - expected) <= TOLERANCE * max(1, abs(expected))
        ):
            return ""
    elif got == expected:
        return ""
    return f"{where}: {expected!r:.80} expected, got {got!r:.80}"


CALL = """([name, calls]) => {
    const plain = (v) => ArrayBuffer.isView(v) || Array.isArray(v) ? Array.from(v, plain)
        : v && typeof v === "object"
        ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, plain(x)])) : v;
    return calls.map(([f, args]) => {
        if (typeof window[name][f] !== "function") return `${f} is not exported`;
        return plain(window[name][f](...args));
    });
}"""


@every_widget
def test_numerics_are_the_references(watched: Page, make: type[EmbeddableWidget]) -> None:
    name, golden = make.module_name(), list(make.golden())
    assert len(golden) >= 5
    import_module(watched, name)
    for start in range(0, len(golden), 200):
        part = golden[start : start + 200]
        calls = [[g.function, as_json(g.arguments)] for g in part]
        for answer, case in zip(watched.evaluate(CALL, [name, calls]), part, strict=True):
            problem = difference(answer, as_json(case.expected), case.function)
            assert not problem, (problem, as_json(case.arguments))


def test_the_comparison_of_numbers_sees_differences() -> None:
    """A wrong number, shape, key or kind in any place is found."""
    right = {"a": [[1.0, 2.0], [3.0, -1e7]], "b": True, "c": "x"}
    assert difference(right, right) == ""
    assert difference({**right, "more": 1}, right) == ""
    for wrong in (
        {**right, "a": [[1.0, 2.0], [3.00005, -1e7]]},
        {**right, "a": [[1.0, 2.0], [3.0, -1e7 + 200]]},
        {**right, "a": [[1.0, 2.0]]},
        {**right, "a": [[1.0, 2.0], [3.0, None]]},
        {**right, "b": 1.5},
        {"a": right["a"], "b": True},
    ):
        assert difference(wrong, right)


# --- first paint, words, tables ------------------------------------------------------------------------


@every_widget
def test_the_story_is_there_before_anything_is_touched(shown: Page) -> None:
    assert len(story(shown)) > 40
    assert not shown.locator(".llmr-still").is_visible()
    assert not shown.get_by_role("alert").is_visible()
    assert shown.locator(".llmr-root").get_attribute("aria-label")


@every_widget
def test_every_case_can_be_chosen_and_is_announced(shown: Page) -> None:
    stories = set()
    live = shown.locator("[aria-live=polite]")
    assert len(all_cases(shown)) >= 3
    for case in all_cases(shown):
        cases(shown).select_option(case)
        assert cases(shown).input_value() == case  # the state is the case's
        assert not shown.get_by_role("alert").is_visible()
        stories.add(story(shown))
    assert len(stories) >= 3
    expect(live).to_have_text(shown.locator(".llmr-story").text_content() or "")


@every_widget
def test_all_numbers_are_in_a_table(shown: Page) -> None:
    open_folds(shown)
    table = shown.locator("details table.llmr-data").first
    assert table.locator("caption").inner_text()
    assert table.locator("thead th[scope=col]").count() >= 3
    assert table.locator("tbody th[scope=row]").count() >= 2
    before = table.inner_text()
    for case in all_cases(shown):
        cases(shown).select_option(case)
        if table.inner_text() != before:
            return
    raise AssertionError("the table is the same in every case")


# --- touching -----------------------------------------------------------------------------------------


@every_widget
def test_every_slider_moves_by_keyboard(shown: Page) -> None:
    sliders = shown.locator(".llmr-root input[type=range]:visible")
    for i in range(sliders.count()):
        slider = sliders.nth(i)
        before = slider.input_value()
        at_end = before == slider.get_attribute("max")
        slider.press("ArrowLeft" if at_end else "ArrowRight")
        assert slider.input_value() != before, slider.get_attribute("aria-label")
        assert slider.get_attribute("aria-valuetext")
        assert not shown.get_by_role("alert").is_visible()


@every_widget
def test_tab_reaches_every_control_and_shows_where_it_is(shown: Page) -> None:
    wanted = shown.locator(
        ".llmr-root :is(input:not([type=radio]), select, button:not([disabled]), summary):visible"
    ).count()
    shown.evaluate("document.activeElement.blur()")
    seen = set()
    for _ in range(4 * wanted + 40):
        shown.keyboard.press("Tab")
        here = shown.evaluate(
            """() => {
                const e = document.querySelector(".llmr-host").shadowRoot.activeElement;
                if (!e) return null;
                const outline = (n) => n && getComputedStyle(n).outlineStyle !== "none";
                const marked = outline(e) || outline(e.nextElementSibling)
                    || [...e.children].some((c) => getComputedStyle(c).stroke !== "none");
                window.order ??= new Map();
                if (!window.order.has(e)) window.order.set(e, window.order.size);
                return [window.order.get(e), e.matches("input:not([type=radio]),select,button,summary"),
                        marked, e.outerHTML.slice(0, 120)];
            }"""
        )
        if here is None:
            if seen:
                break
            continue
        assert here[2], f"no frame around {here[3]}"
        if here[1]:
            seen.add(here[0])
    assert len(seen) == wanted


@every_widget
def test_reset_goes_back_to_the_first_state(shown: Page) -> None:
    first = state_on_screen(shown)
    choose_another_case(shown)
    assert state_on_screen(shown) != first
    reset(shown)
    assert state_on_screen(shown) == first


@every_widget
def test_a_number_tells_its_arithmetic_on_hover_focus_and_tap(
    open_page: OpenPage, tmp_path: Path, make: type[EmbeddableWidget]
) -> None:
    file = write_page(tmp_path, make().html())
    with open_page(file.as_uri(), width=360, touch=True) as page:
        wait_live(page)
        page.locator("[data-explain]:visible").first.tap()
        expect(page.get_by_role("tooltip")).to_be_visible()
    with open_page(file.as_uri()) as page:
        wait_live(page)
        popover = page.locator(".llmr-pop")
        number = page.locator("[data-explain]:visible").first
        assert not popover.is_visible()
        number.hover()
        expect(popover).to_be_visible()
        assert any(c.isdigit() for c in popover.inner_text())
        popover.hover()  # the pointer may go over to read it
        page.wait_for_timeout(300)
        assert popover.is_visible()
        page.mouse.move(1, 1)
        expect(popover).not_to_be_visible()
        number.focus()
        expect(popover).to_be_visible()
        assert number.get_attribute("aria-describedby") == popover.get_attribute("id")
        number.press("Escape")
        expect(popover).not_to_be_visible()
        box = popover.evaluate("e => e.parentNode.getBoundingClientRect().width")
        number.press("Shift+Tab")
        page.keyboard.press("Tab")
        expect(popover).to_be_visible()
        assert popover.evaluate("e => e.getBoundingClientRect().width") <= box


@every_widget
def test_one_quantity_lights_up_wherever_it_stands(shown: Page) -> None:
    """A term of the formula, a line of the code, and a third place: a control, column, bar, line ..."""
    parts = shown.locator(".llmr-term[data-q]")
    assert parts.count()
    linked = 0
    for part in parts.all():
        part.hover()
        q = part.get_attribute("data-q")
        kinds = shown.locator(f'[data-q~="{q}"][data-lit]').evaluate_all(
            "all => all.map((e) => e.matches('.llmr-term') ? 'term' : e.matches('code') ? 'code' : 'view')"
        )
        assert "term" in kinds
        linked += {"term", "code", "view"} <= set(kinds)
        assert shown.locator(f'[data-lit]:not([data-q~="{q}"])').count() == 0
    assert linked, "no quantity stands in the formula, in the code and in a view"


# --- the address ----------------------------------------------------------------------------------------


def written(page: Page, make: type[EmbeddableWidget]) -> dict[str, Any]:
    """What the page's address says about the widget."""
    found = parse_qs(urlsplit(page.url).query).get(make.__name__, ["{}"])
    state: dict[str, Any] = json.loads(found[0])
    return state


@every_widget
def test_a_copied_link_brings_the_state_back(shown: Page, make: type[EmbeddableWidget]) -> None:
    start = shown.url
    choose_another_case(shown)
    expected = state_on_screen(shown)
    shown.wait_for_function(f"location.search.includes('{make.__name__}')")
    assert written(shown, make)
    shown.get_by_role("button", name="Copy link").click()
    expect(shown.get_by_role("button", name="Copied")).to_be_visible()
    link = shown.evaluate("navigator.clipboard.readText()")
    reset(shown)
    shown.wait_for_function("location.search === ''")
    assert shown.url == start
    open_live(shown, link)
    assert state_on_screen(shown) == expected
    assert (
        shown.evaluate("document.querySelector(location.hash).dataset.llmrWidget") == make.__name__
    )
    assert shown.locator(".llmr-widget").evaluate(
        "e => e.getBoundingClientRect().top < innerHeight"
    )
    reset(shown)  # back to the author's state, not the link's
    shown.wait_for_function("location.search === ''")


@every_widget
def test_a_broken_link_is_told_and_does_no_harm(shown: Page, make: type[EmbeddableWidget]) -> None:
    first, start = state_on_screen(shown), shown.url
    for text in ("{", "null", "7", '{"no such key": 1}'):
        open_live(shown, f"{start}?{make.__name__}={text}")
        assert state_on_screen(shown) == first, text
    open_live(shown, start)
    choose_another_case(shown)
    shown.wait_for_function(f"location.search.includes('{make.__name__}')")
    for key, value in written(shown, make).items():
        wrong = "x" if not isinstance(value, str) else 3
        open_live(shown, f"{start}?{make.__name__}={quote(json.dumps({key: wrong}))}")
        assert state_on_screen(shown) == first
        expect(shown.get_by_role("alert")).to_contain_text(key)
        huge = (
            1e300 if isinstance(value, int | float) and not isinstance(value, bool) else "no such"
        )
        if not isinstance(value, list | bool):
            open_live(shown, f"{start}?{make.__name__}={quote(json.dumps({key: huge}))}")
            expect(shown.get_by_role("alert")).to_be_visible()
        reset(shown)
        assert not shown.get_by_role("alert").is_visible()


@every_widget
def test_two_on_a_page_keep_their_own_addresses(
    watched: Page, serve: Callable[..., str], tmp_path: Path, make: type[EmbeddableWidget]
) -> None:
    file = write_page(tmp_path, make().html(), make().html())
    open_live(watched, serve(tmp_path, "/") + file.name, 2)
    first = watched.locator(".llmr-story").nth(0).inner_text()
    second = watched.get_by_label("Start from a case", exact=True).nth(1)
    for case in second.locator("option").evaluate_all("all => all.slice(1).map((o) => o.value)"):
        second.select_option(case)
        if watched.locator(".llmr-story").nth(1).inner_text() != first:
            break
    watched.wait_for_function(f"location.search.includes('{make.__name__}2=')")
    watched.reload()
    wait_live(watched, 2)
    assert watched.locator(".llmr-story").nth(0).inner_text() == first
    assert watched.locator(".llmr-story").nth(1).inner_text() != first


# --- ways of being shown ---------------------------------------------------------------------------------


@every_widget
@both_themes
def test_light_and_dark_pass_axe(
    open_page: OpenPage,
    axe: Callable[[Page], list[str]],
    tmp_path: Path,
    make: type[EmbeddableWidget],
    theme: str,
) -> None:
    file = write_page(tmp_path, make().html(), theme=theme)
    with open_page(file.as_uri(), theme=theme) as page:
        wait_live(page)
        assert page.locator(".llmr-root").get_attribute("data-theme") == theme
        open_folds(page)
        assert axe(page) == []
        choose_another_case(page)
        page.locator("[data-explain]:visible").first.focus()
        page.wait_for_timeout(300)  # bars grow
        assert axe(page) == []


@every_widget
@pytest.mark.parametrize("width", [360, 640])
def test_nothing_sticks_out_on_a_small_screen(
    open_page: OpenPage, tmp_path: Path, make: type[EmbeddableWidget], width: int
) -> None:
    """360 px is a phone; 640 px is what a 1280 px laptop has left at 200 % zoom."""
    file = write_page(tmp_path, make().html())
    with open_page(file.as_uri(), width=width) as page:
        wait_live(page)
        open_folds(page)
        for case in all_cases(page):
            cases(page).select_option(case)
            sticking_out = page.evaluate(
                """(width) => [document, document.querySelector(".llmr-host").shadowRoot]
                    .flatMap((root) => [...root.querySelectorAll("*")])
                    .filter((e) => !e.closest(".llmr-scroll, .llmr-grid-place, .llmr-unseen"))
                    .filter((e) => !e.closest(".llmr-still, head, script"))
                    .filter((e) => e.getBoundingClientRect().right > width + 0.5)
                    .map((e) => `${e.tagName}.${e.getAttribute("class")}`)""",
                width,
            )
            assert sticking_out == [], case
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@every_widget
def test_fingers_find_the_controls(
    open_page: OpenPage, tmp_path: Path, make: type[EmbeddableWidget]
) -> None:
    """At least 24 px either way (WCAG 2.2, 2.5.8)."""
    file = write_page(tmp_path, make().html())
    with open_page(file.as_uri(), width=360, touch=True) as page:
        wait_live(page)
        small = page.locator(
            ".llmr-root :is(button, select, input:not([type=radio], [type=checkbox])):visible"
        ).evaluate_all(
            "all => all.filter((e) => Math.min(e.offsetWidth, e.offsetHeight) < 24)"
            ".map((e) => e.outerHTML.slice(0, 100))"
        )
        assert small == []


@every_widget
def test_without_scripts_the_picture_speaks(
    open_page: OpenPage, tmp_path: Path, make: type[EmbeddableWidget]
) -> None:
    widget = make()
    file = write_page(tmp_path, widget.html())
    with open_page(file.as_uri(), javascript=False) as page:
        assert page.locator(".llmr-still svg").is_visible()
        assert page.locator(".llmr-still svg").get_attribute("aria-label")
        assert page.locator("figcaption").inner_text() == widget.description()
        assert "picture of an interactive figure" in page.locator("noscript").inner_text()


@every_widget
def test_print_shows_the_picture_instead(shown: Page) -> None:
    assert shown.locator(".llmr-root").is_visible()
    shown.emulate_media(media="print")
    assert shown.locator(".llmr-still svg").is_visible()
    assert not shown.locator(".llmr-root").is_visible()


@every_widget
def test_nothing_moves_where_motion_is_unwanted(shown: Page) -> None:
    shown.emulate_media(reduced_motion="reduce")
    moving = shown.locator(".llmr-root *").evaluate_all(
        "all => all.filter((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0"
        " || getComputedStyle(e).animationName !== 'none').length"
    )
    assert moving == 0


@every_widget
def test_an_error_while_drawing_is_shown_and_reset_mends_it(
    watched: Page, tmp_path: Path, make: type[EmbeddableWidget]
) -> None:
    """Whatever comes over the wire: the widget says so and lives on."""
    watched.set_content("<main></main>")
    import_module(watched, make.module_name())
    first = make().embedded_state()
    broken = watched.evaluate(
        """async ([name, state]) => {
            const first = structuredClone(state);
            const listeners = {};
            const model = {
                get: (k) => state[k], set: (k, v) => { state[k] = v; },
                on: (event, f) => (listeners[event] ??= []).push(f), off() {},
            };
            window[name].default.render({ model, el: document.querySelector("main") });
            for (const key of Object.keys(state)) state[key] = null;
            for (const all of Object.values(listeners)) for (const f of all) f();
            return Object.keys(listeners).length;
        }""",
        [make.module_name(), first],
    )
    assert broken == len(first)  # the widget listens to every trait of Python's
    alert = watched.get_by_role("alert")
    expect(alert).to_be_visible()


@every_widget
def test_a_widget_is_light(make: type[EmbeddableWidget]) -> None:
    size = len(gzip.compress(make().html().encode(), 6))
    assert size <= MOST_BYTES, f"{size / 1024:.1f} KB"
