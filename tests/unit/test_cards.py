"""The card: the picture fits the values, says the same in words, and nothing in it can run or escape."""

import functools
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import nbformat
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmr_ref.grading.card import card_html, card_text
from llmr_ref.grading.drawings import figure_html
from llmr_ref.grading.exercises import ASSIGNMENTS, exercise_names, get_exercise
from llmr_ref.grading.figures import (
    MAX_COLUMNS,
    MAX_POINTS,
    MAX_ROWS,
    Figure,
    choose_figure,
    grid_text,
    in_words,
    short,
)
from llmr_ref.grading.practice import verdict_for
from llmr_ref.grading.tiers import TIERS, tier_in_words
from llmr_ref.grading.verdict import Verdict, nothing_scored

KINDS = {"mask", "distributions", "curves", "table"}
every_exercise = pytest.mark.parametrize("name", exercise_names())


@functools.cache
def verdict_of(name: str, key: str) -> Verdict:
    answer = next(a for a in get_exercise(name).wrong_answers if a.key == key)
    return verdict_for(name, answer.target)


def figure_of(name: str, key: str) -> Figure:
    verdict = verdict_of(name, key)
    assert verdict.counterexample is not None and verdict.counterexample.figure is not None
    return verdict.counterexample.figure


def chosen(expected: Tensor, received: Tensor) -> Figure | None:
    same = expected.shape == received.shape
    return choose_figure(expected, received, expected != received if same else None)


# --- which picture -------------------------------------------------------------------------------


def test_a_mask_is_a_grid_with_the_differing_cells_marked() -> None:
    figure = figure_of("causal_mask", "sees_next")
    assert figure.kind == "mask"
    assert figure.expected == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert figure.wrong == [(0, 1), (1, 2)]
    assert grid_text(figure).splitlines()[1] == " 1  0  0     1 [1] 0"
    html = figure_html(figure)
    assert html.count('stroke="#d55e00"') == 2
    assert "Differs at row 0 place 1, row 1 place 2" in html


def test_a_mask_of_another_shape_is_drawn_beside_the_right_one() -> None:
    figure = figure_of("causal_mask", "always_square")
    assert figure.kind == "mask" and not figure.same_shape
    assert "expected 2 × 4, received 2 × 2" in figure_html(figure)


def test_weights_are_distributions_along_the_dimension_that_sums_to_one() -> None:
    x = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    rows = chosen(x, 2 * x)
    assert rows is not None
    assert (rows.kind, rows.row_names) == ("distributions", ["row 0", "row 1"])
    columns = figure_of("softmax", "last_only")
    assert (columns.kind, columns.row_names) == ("distributions", ["column 0", "column 1"])
    assert all(math.isclose(sum(row), 1, abs_tol=1e-4) for row in columns.expected)
    assert "received sums to" in figure_html(columns)


def test_rotated_vectors_are_a_table_with_the_difference() -> None:
    figure = figure_of("apply_rope", "clockwise")
    assert figure.kind == "table"
    html = figure_html(figure)
    assert html.count("<svg") == 3
    assert "received minus expected" in html


def test_a_long_row_is_a_curve() -> None:
    x = torch.linspace(-1, 3, 20)
    figure = chosen(x, x.sin())
    assert figure is not None and figure.kind == "curves"
    assert figure_html(figure).count("<polyline") == 3  # zero, expected, received


NO_PICTURE = {
    "too large": (torch.zeros(20, 20), torch.ones(20, 20)),
    "no tensor": (torch.zeros(3), 3.0),
    "a number": (torch.tensor(1.0), torch.tensor(2.0)),
    "nothing in it": (torch.zeros(0), torch.zeros(2)),
    "another dtype alone": (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
    "a mask of floats": (torch.ones(2, 2).bool(), torch.ones(2, 2)),
    "numbers of another shape": (torch.zeros(3), torch.zeros(4)),
    "complex": (torch.zeros(3), torch.zeros(3, dtype=torch.complex64)),
}


@pytest.mark.parametrize("kind", NO_PICTURE)
def test_there_is_no_picture_where_none_helps(kind: str) -> None:
    assert chosen(*NO_PICTURE[kind]) is None if kind != "no tensor" else True
    expected, received = NO_PICTURE[kind]
    assert choose_figure(expected, received, None) is None


def test_a_result_that_never_came_has_no_picture() -> None:
    def raises(n: int, m: int | None = None) -> Tensor:
        raise ValueError("no")

    verdict = verdict_for("causal_mask", raises)
    assert verdict.counterexample is not None and verdict.counterexample.figure is None
    assert "<svg" not in card_html(verdict)


# --- any values ----------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
anything = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, 1.0, 1e30, -1e-30, math.nan, math.inf, -math.inf])
)


def tensor_of(draw: st.DrawFn, shape: list[int], kind: str) -> Tensor:
    n = math.prod(shape)
    if kind == "bool":
        return torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n))).reshape(shape)
    values = torch.tensor(draw(st.lists(anything, min_size=n, max_size=n))).reshape(shape)
    return values.nan_to_num(0, 0, 0).softmax(-1) if kind == "weights" else values


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(shapes)
    kind = draw(st.sampled_from(["bool", "float", "weights"]))
    other = shape if kind != "bool" else draw(shapes)
    return tensor_of(draw, shape, kind), tensor_of(
        draw, other, "bool" if kind == "bool" else "float"
    )


@given(pairs())
def test_a_picture_of_any_values_is_small_well_formed_json_and_without_script(pair) -> None:
    figure = chosen(*pair)
    if figure is None:
        return
    again = Figure.model_validate(json.loads(json.dumps(figure.model_dump(), allow_nan=False)))
    assert again == figure
    html = figure_html(figure)
    assert len(html) < 120_000
    ElementTree.fromstring(f"<div>{html}</div>")
    soup = BeautifulSoup(html, "html.parser")
    drawings = soup.find_all("svg")
    assert drawings
    for svg in drawings:
        assert svg["role"] == "img" and svg["aria-label"]
        assert float(svg["width"]) <= 480
    assert {tag.name for tag in soup.find_all()} <= {
        "div", "svg", "rect", "text", "circle", "polyline"
    }  # fmt: skip
    numbers = re.findall(r'(?:x|y|width|height|cx|cy|points)="([^"]*)"', html)
    assert not [n for n in numbers if re.search("nan|inf|e[+]", n)]


@given(anything)
def test_a_short_number_is_short_and_near(x: float) -> None:
    text = short(x if math.isfinite(x) else str(x))
    assert len(text) <= 7
    if math.isfinite(x):
        assert float(text) == pytest.approx(x, rel=0.06, abs=2e-3)


def test_the_limits_of_a_picture_hold_for_both_sides() -> None:
    big = torch.ones(MAX_ROWS + 1, MAX_COLUMNS).bool()
    assert choose_figure(torch.ones(2, 2).bool(), big, None) is None
    assert chosen(torch.zeros(MAX_POINTS + 1), torch.ones(MAX_POINTS + 1)) is None


# --- words ---------------------------------------------------------------------------------------


@every_exercise
def test_the_picture_of_a_wrong_answer_says_the_same_in_words(name: str) -> None:
    for answer in get_exercise(name).wrong_answers:
        verdict = verdict_of(name, answer.key)
        assert verdict.counterexample is not None
        figure = verdict.counterexample.figure
        if figure is None:
            continue
        assert figure.wrong or not figure.same_shape
        html = card_html(verdict)
        drawings = BeautifulSoup(html, "html.parser").find_all("svg")
        labels = " ".join(s["aria-label"] for s in drawings)
        for row in [*figure.expected, *figure.received]:
            assert " ".join(map(short, row)) in labels
        assert len(html) < 60_000


def test_most_wrong_results_have_a_picture() -> None:
    cards = [
        verdict_of(n, a.key)
        for n in ASSIGNMENTS["attention"]
        for a in get_exercise(n).wrong_answers
    ]
    drawn = [v for v in cards if v.counterexample and v.counterexample.figure]
    assert len(drawn) > 0.6 * len(cards)


def test_words_name_rows_of_many_dimensions_by_their_index() -> None:
    x = torch.arange(12.0).reshape(2, 2, 3)
    figure = chosen(x, x + 1)
    assert figure is not None
    assert figure.row_names == ["[0, 0, :]", "[0, 1, :]", "[1, 0, :]", "[1, 1, :]"]
    assert in_words(figure, "expected").startswith("expected. [0, 0, :]: 0 1 2; [0, 1, :]: 3 4 5")


# --- the whole card ------------------------------------------------------------------------------


@every_exercise
def test_cards_fit_into_a_notebook(name: str) -> None:
    verdicts = [verdict_of(name, a.key) for a in get_exercise(name).wrong_answers]
    stored = json.dumps([v.model_dump() for v in verdicts], allow_nan=False)
    assert [Verdict.model_validate(v) for v in json.loads(stored)] == verdicts
    outputs = [
        nbformat.v4.new_output(
            "display_data", data={"text/html": card_html(v), "text/plain": card_text(v)}
        )
        for v in verdicts
    ]
    cell = nbformat.v4.new_code_cell("", outputs=outputs, metadata={"llmr": json.loads(stored)})
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))


def test_a_mask_reads_in_plain_text() -> None:
    text = card_text(verdict_of("causal_mask", "strict"))
    assert "expected   received" in text
    assert "[0]" in text


def test_a_card_names_at_most_one_misconception() -> None:
    html = card_html(verdict_of("softmax", "overflows"))
    assert html.count("<strong>This answer") == 1


@pytest.mark.parametrize("tier", TIERS)
def test_a_card_names_the_tier_in_use(tier: int) -> None:
    verdict = verdict_of("causal_mask", "strict").model_copy(update={"tier": tier})
    for card in (card_html(verdict), card_text(verdict)):
        if tier:
            assert tier_in_words(tier) in card
        else:
            assert "practice inputs" in card


def test_a_fault_before_any_tier_is_known_claims_none() -> None:
    card = card_text(nothing_scored("softmax", 3.0, "No.", needs_look="a fault"))
    assert "practice" not in card and "tier" not in card
