"""What only the backprop stepper has: typed expressions, the walk, descent, a student's class."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from widget_pages import connect, open_live, write_page

from llmr_ref.widgets import BackpropStepper

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


@pytest.fixture
def shown(watched: Page, tmp_path: Path) -> Page:
    open_live(watched, write_page(tmp_path, BackpropStepper().html()).as_uri())
    return watched


def type_expression(page: Page, text: str) -> None:
    box = page.get_by_label("Expression (the last statement is the loss)")
    box.fill(text)
    box.press("Enter")


def story(page: Page) -> str:
    return page.locator(".llmr-story").inner_text()


def cards(page: Page) -> list[str]:
    return page.locator(".llmr-card").evaluate_all("all => all.map((e) => e.ariaLabel)")


def test_the_walk_goes_forward_and_back(shown: Page) -> None:
    shown.get_by_label("Step of the walk, exact").fill("0")
    shown.get_by_label("Step of the walk, exact").press("Enter")
    assert "Nothing is computed yet" in story(shown)
    forward = shown.get_by_role("button", name="Step of the walk: one forward")
    seen = []
    for _ in range(13):
        forward.click()
        seen.append(story(shown))
    assert "h1 = w1 · x1 = 2 · 4 = 8" in seen[0]
    assert "y = h1 + h2 + b = 8 + 3 + 1 = 12" in seen[2]
    assert "the loss" in seen[5]
    assert "Its gradient is now −12" in seen[11]
    assert "16 for w1, −12 for w2 and 4 for b" in seen[12]
    assert forward.get_attribute("aria-disabled") == "true"
    assert any(card.startswith("w1: 2, gradient 16") for card in cards(shown))
    shown.get_by_role("img", name="derivative of h2 by w2: -3").or_(
        shown.get_by_role("img", name="derivative of h2 by w2: −3")
    ).click()
    assert "goes to w2" in story(shown)


def test_steps_of_descent_reach_the_target(shown: Page) -> None:
    step = shown.get_by_role("button", name="Take a step of descent")
    step.click()
    for words in ("w1 = 1.84", "w2 = −0.88", "b = 0.96", "y from 12 to 10.96"):
        assert words in story(shown)
    for _ in range(12):
        step.click()
    assert "L from" in story(shown)
    assert any(card.startswith("y = h1 + h2 + b: 10,") for card in cards(shown))
    shown.get_by_role("button", name="Reset", exact=True).click()
    assert "16 for w1" in story(shown)


def test_an_own_expression_is_used_or_refused_with_a_reason(shown: Page) -> None:
    type_expression(shown, "L = p*p + p")
    assert "3 for p" in story(shown)
    for text, reason in (
        ("p +", "ends too early"),
        ("(p", "“)” is missing at the end"),
        ("sin(p)", "before “(”"),
        ("p $ 2", "“$” is not understood"),
        ("exp(p, p)", "exp takes 1 argument"),
        ("2 + 3", "computes nothing"),
        ("p = p*2", "has a meaning already"),
        ("log(p - 2)", "log needs a positive number, not −1"),
        ("alert(1)", "before “(”"),
        ("constructor(p)", "before “(”"),
    ):
        type_expression(shown, text)
        expect(shown.get_by_role("alert")).to_contain_text(reason)
        assert "3 for p" in story(shown)  # the old graph stays
    type_expression(shown, "L = exp(p)*__proto__ + toString**2")
    assert not shown.get_by_role("alert").is_visible()
    assert "2 for toString" in story(shown)


def test_values_that_do_not_fit_are_told(shown: Page) -> None:
    type_expression(shown, "L = log(p)")
    shown.get_by_label("p, exact").fill("-1")
    shown.get_by_label("p, exact").press("Enter")
    expect(shown.get_by_role("alert")).to_contain_text("log needs a positive number")
    shown.get_by_label("p, exact").fill("4")
    shown.get_by_label("p, exact").press("Enter")
    assert not shown.get_by_role("alert").is_visible()
    assert "0.25 for p" in story(shown)


def test_a_leaf_can_stop_learning(shown: Page) -> None:
    shown.get_by_label("w2 learns").uncheck()
    assert "w2" not in story(shown)
    shown.get_by_label("x1 learns").check()
    assert "8 for x1" in story(shown)


def test_no_card_lies_on_another(shown: Page) -> None:
    type_expression(shown, "h=tanh(a*x+b); g=tanh(c*h+a); k=g*h+g*x; L=(k-h)**2+k*x+a")
    boxes = shown.locator(".llmr-card > rect").evaluate_all(
        "all => all.map((e) => e.getBoundingClientRect()).map((b) => [b.left, b.top, b.right, b.bottom])"
    )
    assert len(boxes) == 17
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_the_students_class_stands_beside_the_reference(watched: Page) -> None:
    class Half:
        def __init__(self, value: float, back: Any = lambda g: None) -> None:
            self.value, self.gradient, self.back = value, 0.0, back

        def __add__(self, other: Any) -> "Half":
            value = getattr(other, "value", other)
            return Half(self.value + value, lambda g: (self.take(g), take(other, g)))

        def __mul__(self, other: Any) -> "Half":
            value = getattr(other, "value", other)
            back = lambda g: (self.take(g * value), take(other, g * self.value))  # noqa: E731
            return Half(self.value * value, back)

        def __pow__(self, n: float) -> "Half":  # without the factor n
            return Half(self.value**n, lambda g: self.take(g * self.value ** (n - 1)))

        def take(self, g: float) -> None:
            self.gradient += g
            self.back(g)

        def backward(self) -> None:
            self.take(1.0)

    def take(other: Any, g: float) -> None:
        if isinstance(other, Half):
            other.take(g)

    widget = BackpropStepper(value_class=Half)
    connect(watched, widget)
    note = watched.locator(".llmr-student")
    expect(note).to_contain_text("8 for w1, not 16")
    watched.get_by_label("b, exact").fill("-1")
    watched.get_by_label("b, exact").press("Enter")
    expect(note).to_contain_text("same gradients")  # the error is 0
    assert widget.values["b"] == -1
    type_expression(watched, "exp(b)")
    expect(watched.get_by_role("alert")).to_contain_text("AttributeError")
    watched.evaluate("() => window.cleanUp()")
    assert watched.evaluate("() => window.listening()") == 0
