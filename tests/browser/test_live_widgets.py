"""The widgets in real Chromium: numbers against torch, every control, every way of being shown."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator, Page
from widget_pages import connect, open_live, wait_live, write_page

from llmr_ref import rope
from llmr_ref.widgets import MaskEditor, RopeAngles
from llmr_ref.widgets.embed import embed_html
from llmr_ref.widgets.leak import (
    best_trust,
    leak_losses,
    look_ahead_scores,
    look_ahead_weights,
    word_probabilities,
)
from llmr_ref.widgets.mask_editor import family_mask
from llmr_ref.widgets.rope_angles import example_vectors

OpenPage = Callable[..., AbstractContextManager[Page]]
MAKERS = {"mask_editor": MaskEditor, "rope_angles": RopeAngles}


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    """An empty page that fails the test on console errors and requests to other hosts."""
    with open_page("about:blank") as page:
        yield page


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        torch.as_tensor(a, dtype=torch.float64),
        torch.as_tensor(b, dtype=torch.float64),
        atol=tolerance,
        rtol=0,
    )


def number(text: str) -> float:
    """A displayed number: true minus sign, narrow spaces between thousands."""
    return float(text.replace("−", "-").replace("\u202f", ""))


# --- numerics against the reference --------------------------------------------------------------


def masks_of_all_sorts(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    everything = torch.ones(n, n, dtype=torch.bool)
    scattered = [torch.rand(n, n, generator=generator) < p for p in (0.2, 0.5, 0.8)]
    return [
        everything,
        everything.tril(),
        everything.tril(1),
        everything.tril(-1),  # the first row is empty
        everything.triu(),
        ~everything,
        *scattered,
    ]


TEXTS = (
    ["<s>", "I", "saw", "the", "dog"],
    ["the", "dog", "saw", "the", "dog", "saw", "the", "cat"],  # the past helps here
    ["a", "a"],
    [f"w{i}" for i in range(16)],
)


def test_the_toy_trust_has_the_lowest_loss() -> None:
    """Bisection finds what a grid over all trusts finds: the Python side is right by another way."""
    tokens = TEXTS[1]
    n = len(tokens)
    scored = torch.arange(n) < n - 1
    for mask in masks_of_all_sorts(n):

        def losses(trust: torch.Tensor, mask: torch.Tensor = mask) -> torch.Tensor:
            p, words = word_probabilities(tokens, mask, trust)
            return -p[torch.arange(n - 1), [words.index(word) for word in tokens[1:]]].log()

        grid = [losses(torch.full((n,), float(c))) for c in torch.linspace(0, 6, 121)]
        lowest = torch.stack(grid).amin(dim=0)
        assert (losses(best_trust(tokens, mask, scored)) <= lowest + 1e-9).all()


# --- what the page shows -------------------------------------------------------------------------


def mask_page(page: Page, tmp_path: Path, editor: MaskEditor) -> None:
    open_live(page, write_page(tmp_path, editor.html()).as_uri())


def expect_mask_shown(page: Page, editor: MaskEditor) -> None:
    """Cells, answers and bars show what torch computes for the editor's state."""
    mask, tokens = torch.tensor(editor.mask), editor.shown_tokens()
    n = len(tokens)
    cells = page.locator(".llmr-cell").all_inner_texts()
    assert len(cells) == n * n
    weights = look_ahead_weights(mask)
    shown = torch.tensor([number(c) for c in cells], dtype=torch.float64).view(n, n)
    close(shown, weights, 0.005 + 1e-9)
    masked = page.locator(".llmr-cell").evaluate_all("all => all.map((c) => c.dataset.masked)")
    assert [m == "false" for m in masked] == mask.flatten().tolist()
    scored = torch.tensor(editor.scored_positions())
    losses = leak_losses(tokens, mask, scored)
    bars = [number(text) for text in page.locator(".llmr-bar b").all_inner_texts()]
    close(bars, [losses.training, losses.writing, losses.honest], 0.0005 + 1e-9)
    p, words = word_probabilities(tokens, mask, torch.tensor(losses.trust))
    ends = page.locator("tbody .llmr-end").all_inner_texts()
    for t, end in enumerate(ends):
        if not scored[t]:
            assert end == "—"
            continue
        word, probability, *reads = end.split(" ")
        assert word == tokens[t + 1]
        assert number(probability) == pytest.approx(float(p[t, words.index(word)]), abs=0.00501)
        assert bool(reads) == bool(mask[t, t + 1])
    heads = page.locator(".llmr-grid tbody th").all_inner_texts()
    assert heads == tokens


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True)


def test_every_mask_family_and_parameter_shows_torch_numbers(watched: Page, tmp_path: Path) -> None:
    page = watched
    mask_page(page, tmp_path, MaskEditor())
    expect_mask_shown(page, MaskEditor())
    family = field(page, "Mask family")
    family.select_option("none")
    expect_mask_shown(page, MaskEditor(mask="none"))
    family.select_option("sliding window")
    field(page, "Window").fill("3")
    expect_mask_shown(page, MaskEditor(mask="sliding window", window=3))
    field(page, "Window, exact").fill("1")
    field(page, "Window, exact").press("Enter")
    expect_mask_shown(page, MaskEditor(mask="sliding window", window=1))
    family.select_option("prefix")
    field(page, "Prefix length").fill("4")
    expect_mask_shown(page, MaskEditor(mask="prefix", prefix_length=4))
    family.select_option("padding")
    field(page, "Real tokens").fill("2")
    expect_mask_shown(page, MaskEditor(mask="padding", n_real=2))
    page.get_by_role("radio", name="left").check()
    expect_mask_shown(page, MaskEditor(mask="padding", n_real=2, padding_side="left"))
    field(page, "and causal").uncheck()
    options: dict[str, Any] = {"n_real": 2, "padding_side": "left", "causal": False}
    expect_mask_shown(page, MaskEditor(mask="padding", **options))
    field(page, "and causal").check()
    family.select_option("packed documents")
    field(page, "Second document starts at").fill("1")
    expect_mask_shown(page, MaskEditor(mask="packed documents", documents=[0, 1, 1, 1, 1]))
    page.get_by_role("button", name="Reset").click()
    expect_mask_shown(page, MaskEditor())


def test_every_lecture_case_tells_its_losses(watched: Page, tmp_path: Path) -> None:
    page = watched
    mask_page(page, tmp_path, MaskEditor())
    cases = field(page, "Start from a case")
    everything = torch.ones(5, 5, dtype=torch.bool)
    expected = {
        "cheating": MaskEditor(mask="none"),
        "causal": MaskEditor(),
        "flipped": MaskEditor(mask=everything.triu()),
        "next": MaskEditor(mask=everything.tril(1)),
        "self": MaskEditor(mask=everything.tril(-1)),
        "window": MaskEditor(mask="sliding window", window=2),
        "prefix": MaskEditor(mask="prefix", prefix_length=3),
        "right": MaskEditor(mask="padding", n_real=3),
        "left": MaskEditor(mask="padding", n_real=3, padding_side="left"),
        "packed": MaskEditor(mask="packed documents", documents=[0, 0, 0, 1, 1]),
    }
    offered = cases.locator("option").evaluate_all("all => all.map((o) => o.value)")
    assert offered[1:] == list(expected)
    for name, editor in expected.items():
        cases.select_option(name)
        expect_mask_shown(page, editor)
        assert cases.input_value() == name
        story = page.locator(".llmr-story").inner_text()
        leaks = bool((torch.tensor(editor.mask) & ~everything.tril()).any())
        assert ("No position sees the future" in story) == (not leaks)
        empty = not torch.tensor(editor.mask).any(-1).all()
        assert ("may attend to nothing" in story) == bool(empty)


def flipped(mask: torch.Tensor, *cells: tuple[int, int]) -> torch.Tensor:
    mask = mask.clone()
    for t, i in cells:
        mask[t, i] = ~mask[t, i]
    return mask


def cell(page: Page, t: int, i: int, n: int = 5) -> Locator:
    return page.locator(".llmr-cell").nth(t * n + i)


def test_mouse_click_and_drag_change_cells(watched: Page, tmp_path: Path) -> None:
    page, causal = watched, torch.ones(5, 5, dtype=torch.bool).tril()
    mask_page(page, tmp_path, MaskEditor())
    cell(page, 1, 2).click()
    expect_mask_shown(page, MaskEditor(mask=flipped(causal, (1, 2))))
    assert field(page, "Mask family").input_value() == "custom"
    cell(page, 1, 2).click()
    expect_mask_shown(page, MaskEditor(mask=causal))
    cell(page, 0, 2).hover()
    page.mouse.down()
    cell(page, 0, 3).hover()
    cell(page, 0, 4).hover()
    page.mouse.up()
    expect_mask_shown(page, MaskEditor(mask=flipped(causal, (0, 2), (0, 3), (0, 4))))


def test_keyboard_walks_the_grid_and_changes_cells(watched: Page, tmp_path: Path) -> None:
    page, causal = watched, torch.ones(5, 5, dtype=torch.bool).tril()
    mask_page(page, tmp_path, MaskEditor())
    page.locator('.llmr-cell[tabindex="0"]').focus()  # query 2, key 1
    for key in ("ArrowUp", "ArrowRight", "Space"):  # to query 1, key 2
        page.keyboard.press(key)
    expect_mask_shown(page, MaskEditor(mask=flipped(causal, (1, 2))))
    for key in ("End", "ArrowDown", "Enter"):  # to query 2, key 4
        page.keyboard.press(key)
    expect_mask_shown(page, MaskEditor(mask=flipped(causal, (1, 2), (2, 4))))
    for key in ("Home", "ArrowDown", "ArrowLeft", "Space"):  # the edge holds: query 3, key 0
        page.keyboard.press(key)
    expect_mask_shown(page, MaskEditor(mask=flipped(causal, (1, 2), (2, 4), (3, 0))))
    assert page.locator(".llmr-cell[tabindex='0']").count() == 1


def test_touch_changes_cells_and_row_heads_only_look(open_page: OpenPage, tmp_path: Path) -> None:
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    file = write_page(tmp_path, MaskEditor().html())
    with open_page(file.as_uri(), width=360, touch=True) as page:
        wait_live(page)
        cell(page, 1, 2).tap()
        expect_mask_shown(page, MaskEditor(mask=flipped(causal, (1, 2))))
        cell(page, 1, 2).tap()
        expect_mask_shown(page, MaskEditor(mask=causal))
        page.locator(".llmr-grid tbody th").nth(3).tap()
        assert "Query “the”" in page.locator(".llmr-side").inner_text()
        expect_mask_shown(page, MaskEditor(mask=causal))


def test_stages_show_scores_then_infinity_then_softmax(watched: Page, tmp_path: Path) -> None:
    page = watched
    mask_page(page, tmp_path, MaskEditor())
    scores = look_ahead_scores(5)
    page.get_by_role("radio", name="scores").check()
    shown = [number(text) for text in page.locator(".llmr-cell").all_inner_texts()]
    close(shown, scores.flatten(), 0.05 + 1e-9)
    page.get_by_role("radio", name="+ mask").check()
    texts = page.locator(".llmr-cell").all_inner_texts()
    assert [text == "−∞" for text in texts] == [i > t for t in range(5) for i in range(5)]
    page.get_by_role("radio", name="softmax").check()
    expect_mask_shown(page, MaskEditor())


def test_hovering_a_cell_shows_its_arithmetic(watched: Page, tmp_path: Path) -> None:
    page = watched
    editor = MaskEditor(mask=torch.ones(5, 5, dtype=torch.bool).tril(-1))
    mask_page(page, tmp_path, editor)
    scores, weights = look_ahead_scores(5), look_ahead_weights(torch.tensor(editor.mask))
    cell(page, 3, 1).hover()
    text = page.locator(".llmr-arithmetic").inner_text()
    assert number(re.findall(r"/ √2 = (\S+)", text)[0]) == pytest.approx(
        float(scores[3, 1]), abs=0.006
    )
    assert number(text.split("= ")[-1]) == pytest.approx(float(weights[3, 1]), abs=0.0006)
    rows = page.locator(".llmr-side tbody tr").all_inner_texts()
    shown = [[number(x) for x in r.split("\t")[-2:]] for r in rows]
    exponentials = torch.where(
        torch.tensor(editor.mask[3]),
        (scores[3] - scores[3, :3].max()).exp(),
        torch.zeros(5).double(),
    )
    close(shown, torch.stack((exponentials, weights[3]), -1), 0.00051)
    cell(page, 3, 4).hover()
    assert "exp(−∞) = 0" in page.locator(".llmr-arithmetic").inner_text()
    cell(page, 0, 0).hover()
    assert "attend to nothing" in page.locator(".llmr-arithmetic").inner_text()


def test_the_sentence_can_be_rewritten(watched: Page, tmp_path: Path) -> None:
    page = watched
    mask_page(page, tmp_path, MaskEditor())
    page.get_by_text("The sentence, and all numbers").click()
    box = field(page, "Sentence (2 to 16 words)")
    box.fill("the dog saw the <b>cat</b> & the dog")
    box.press("Enter")
    words = ["the", "dog", "saw", "the", "<b>cat</b>", "&", "the", "dog"]
    expect_mask_shown(page, MaskEditor(tokens=words))
    field(page, "Mask family").select_option("none")
    editor = MaskEditor(tokens=words, mask="none")
    expect_mask_shown(page, editor)
    losses = page.locator("details tbody tr").all_inner_texts()
    every = torch.tensor(editor.mask)
    trust = torch.tensor(leak_losses(words, every).trust)
    p, vocabulary = word_probabilities(words, every, trust)
    for t, line in enumerate(losses[:-1]):
        expected = -math.log(p[t, vocabulary.index(words[t + 1])])
        assert number(line.split("\t")[-1]) == pytest.approx(expected, abs=0.00006)
    box.fill("one")
    box.press("Enter")
    expect_mask_shown(page, editor)  # one word is no sequence: nothing changes


def test_a_students_mask_is_drawn_against_the_reference(watched: Page, tmp_path: Path) -> None:
    page = watched
    editor = MaskEditor(mask_function=lambda n: torch.ones(n, n, dtype=torch.bool).tril(1))
    mask_page(page, tmp_path, editor)
    expect_mask_shown(page, editor)
    differs = page.locator(".llmr-cell").evaluate_all("all => all.map((c) => c.dataset.differs)")
    assert [d == "true" for d in differs] == [i == t + 1 for t in range(5) for i in range(5)]
    assert (
        "differs from the causal mask in 4 of 25 cells" in page.locator(".llmr-story").inner_text()
    )
    field(page, "Mask family").select_option("causal")
    assert page.locator(".llmr-cell[data-differs=true]").count() == 0
    field(page, "Mask family").select_option("function")
    expect_mask_shown(page, editor)


def test_a_students_error_stays_in_its_box(watched: Page, tmp_path: Path) -> None:
    def broken(n: int) -> torch.Tensor:
        raise NotImplementedError("write me")

    mask_page(watched, tmp_path, MaskEditor(mask_function=broken))
    assert "NotImplementedError: write me" in watched.get_by_role("alert").inner_text()
    expect_mask_shown(watched, MaskEditor())


def rope_page(page: Page, tmp_path: Path, widget: RopeAngles) -> None:
    open_live(page, write_page(tmp_path, widget.html()).as_uri())


def expect_rope_shown(page: Page, **state: Any) -> None:
    """Both scores, every hand and the point on the curve stand where torch puts them."""
    widget = RopeAngles(**state)
    shown = [number(text) for text in page.locator(".llmr-proof output").all_inner_texts()]
    close(shown[:2], widget.scores(), 0.51e-8)
    assert abs(shown[2]) < 1e-6  # moving both leaves the score alone
    q, k = example_vectors(widget.d, widget.vectors)
    at = torch.tensor(
        [widget.position + widget.shift, widget.key_position + widget.shift], dtype=torch.float64
    )
    turned = rope.apply_rope(torch.stack((q, k)), at, widget.base).unflatten(-1, (-1, 2))
    scale = 40 / turned.norm(dim=-1).max()
    for hand, name in enumerate(("query", "key")):
        tips = page.locator(f".llmr-dial .llmr-{name} circle").evaluate_all(
            "all => all.map((c) => [Number(c.getAttribute('cx')), -Number(c.getAttribute('cy'))])"
        )
        assert len(tips) == widget.d // 2
        close(tips, turned[hand] * scale, 0.00501)
    assert number(field(page, "Query position m, exact").input_value()) == widget.position
    label = page.locator("svg.llmr-plot").get_attribute("aria-label") or ""
    assert number(re.findall(r"the score is ([−.0-9]*[0-9])", label)[0]) == pytest.approx(
        widget.scores()[1], abs=0.00006
    )


def set_exactly(page: Page, label: str, value: float) -> None:
    field(page, f"{label}, exact").fill(str(value))
    field(page, f"{label}, exact").press("Enter")


def test_every_rope_control_shows_torch_numbers(watched: Page, tmp_path: Path) -> None:
    page = watched
    rope_page(page, tmp_path, RopeAngles())
    state: dict[str, Any] = {}
    expect_rope_shown(page)
    field(page, "Query position m").fill("40")
    expect_rope_shown(page, **(state := {**state, "position": 40}))
    field(page, "Key position n").fill("55")
    expect_rope_shown(page, **(state := {**state, "key_position": 55}))
    field(page, "Base Θ").fill("3")
    expect_rope_shown(page, **(state := {**state, "base": 1000}))
    field(page, "Dimensions d").fill("12")
    expect_rope_shown(page, **(state := {**state, "d": 12}))
    field(page, "Shift both positions by s").fill("700")
    expect_rope_shown(page, **(state := {**state, "shift": 700}))
    page.get_by_role("radio", name="different").check()
    expect_rope_shown(page, **(state := {**state, "vectors": "different"}))
    set_exactly(page, "Query position m", 123456.75)
    expect_rope_shown(page, **(state := {**state, "position": 123456.75}))
    set_exactly(page, "Key position n", -3.5)
    expect_rope_shown(page, **(state := {**state, "key_position": -3.5}))
    set_exactly(page, "Base Θ", 17.25)
    expect_rope_shown(page, **(state := {**state, "base": 17.25}))
    set_exactly(page, "Dimensions d", 4)
    expect_rope_shown(page, **(state := {**state, "d": 4}))
    set_exactly(page, "Shift both positions by s", 99999)
    expect_rope_shown(page, **(state := {**state, "shift": 99999}))
    page.get_by_role("button", name="Reset").click()
    expect_rope_shown(page)


def test_every_rope_case_shows_torch_numbers(watched: Page, tmp_path: Path) -> None:
    page = watched
    rope_page(page, tmp_path, RopeAngles())
    cases = field(page, "Start from a case")
    expected: dict[str, dict[str, Any]] = {
        "same": {"position": 7, "key_position": 7},
        "shifted": {"shift": 1000, "vectors": "different"},
        "far": {"d": 16, "position": 220, "key_position": 20},
        "one": {"d": 2, "position": 10, "key_position": 2},
        "small": {"base": 20.0},
        "large": {"d": 16, "base": 5e5, "position": 200, "key_position": 20},
        "interpolated": {"position": 6, "key_position": 2},
        "lecture": {},
    }
    offered = cases.locator("option").evaluate_all("all => all.map((o) => o.value)")
    assert set(offered) == {"", *expected}
    for name, state in expected.items():
        cases.select_option(name)
        expect_rope_shown(page, **state)


def centre(locator: Locator) -> tuple[float, float]:
    box = locator.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_dragging_a_dial_moves_the_query(watched: Page, tmp_path: Path) -> None:
    page = watched
    rope_page(page, tmp_path, RopeAngles())
    x, y = centre(page.locator(".llmr-dial svg").nth(1))
    page.mouse.move(x + 40, y)
    page.mouse.down()
    for step in range(1, 11):  # half a turn against the clock
        angle = math.pi * step / 10
        page.mouse.move(x + 40 * math.cos(angle), y - 40 * math.sin(angle))
    page.mouse.up()
    # Pair 1 of d = 8 turns by 0.1 radians a position.
    expect_rope_shown(page, position=12 + round(math.pi / 0.1))


def test_touching_a_dial_and_the_curve_moves_the_query(open_page: OpenPage, tmp_path: Path) -> None:
    file = write_page(tmp_path, RopeAngles().html())
    with open_page(file.as_uri(), width=360, touch=True) as page:
        wait_live(page)
        session = page.context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            session.send(
                "Input.dispatchTouchEvent",
                {"type": kind, "touchPoints": [{"x": px, "y": py} for px, py in points]},
            )

        dial = page.locator(".llmr-dial svg").nth(1)
        dial.scroll_into_view_if_needed()
        x, y = centre(dial)
        touch("touchStart", (x + 40, y))
        for step in range(1, 6):
            angle = -math.pi / 2 * step / 5  # a quarter turn with the clock
            touch("touchMove", (x + 40 * math.cos(angle), y - 40 * math.sin(angle)))
        touch("touchEnd")
        expect_rope_shown(page, position=12 - round(math.pi / 2 / 0.1))
        plot = page.locator("svg.llmr-plot")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box is not None
        middle = box["x"] + 40 + (box["width"] - 50) / 2  # distance 0: the key's own position
        touch("touchStart", (middle, box["y"] + 60))
        touch("touchEnd")
        expect_rope_shown(page, position=4)


def test_dials_answer_to_the_keyboard(watched: Page, tmp_path: Path) -> None:
    page = watched
    rope_page(page, tmp_path, RopeAngles())
    dial = page.locator(".llmr-dial").nth(2)
    dial.focus()
    for key in ("ArrowUp", "ArrowRight", "PageUp", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    expect_rope_shown(page, position=12 + 1 + 1 + 10 - 1 - 1 - 1)
    assert dial.get_attribute("aria-valuenow") == "21"
    page.keyboard.press("Home")
    expect_rope_shown(page, position=0)


def test_a_pair_is_highlighted_everywhere(watched: Page, tmp_path: Path) -> None:
    page = watched
    rope_page(page, tmp_path, RopeAngles())
    page.get_by_text("All numbers").click()
    page.locator(".llmr-dial").nth(2).hover()
    marked = page.locator(".llmr-data tr").evaluate_all("all => all.map((r) => r.dataset.here)")
    assert marked[1:] == ["false", "false", "true", "false"]
    assert "pair 2 alone" in page.locator(".llmr-columns").inner_text()


def test_the_curve_is_the_score_at_every_distance(watched: Page, tmp_path: Path) -> None:
    page = watched
    rope_page(page, tmp_path, RopeAngles(vectors="different", d=6))
    field(page, "Distances drawn").select_option("16")
    path = page.locator(".llmr-plot path[data-q=score]").get_attribute("d") or ""
    points = torch.tensor([[float(v) for v in p.split(" ")] for p in re.split("[ML]", path)[1:]])
    q, k = example_vectors(6, "different")
    distances = torch.linspace(-16, 16, len(points), dtype=torch.float64)
    scores = rope.apply_rope(q.expand(len(points), -1), distances) @ k
    heights = -points[:, 1].double()  # pixels grow downwards
    span = float(heights.max() - heights.min()), float(scores.max() - scores.min())
    drawn = (heights - heights.min()) * span[1] / span[0] + scores.min()
    close(drawn, scores, 0.2 * span[1] / span[0])  # two tenths of a pixel


# --- a live model: the page on one side, the Python widget on the other ------------------------------


def test_rope_state_and_the_students_answer_travel_both_ways(watched: Page) -> None:
    asked = []

    def half_base(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
        asked.append(positions.tolist())
        if positions[0] == 31:
            raise RuntimeError("thirty-one is too many")
        return rope.apply_rope(x, positions, base / 2)

    widget = RopeAngles(rotary=half_base)
    connect(watched, widget)
    note = watched.locator(".llmr-student")
    assert "differs from the reference in pair 1, pair 2 and pair 3" in note.inner_text()
    field(watched, "Query position m").fill("30")
    watched.locator(".llmr-student", has_text="pair 1").wait_for()
    assert widget.position == 30
    assert asked[-1] == [30, 4, 30, 4]
    x = torch.stack(example_vectors(8) * 2).float()
    theirs = rope.apply_rope(x, torch.tensor([30, 4, 30, 4]), 5000.0).double()
    drawn = watched.locator(".llmr-dial path.llmr-yours").evaluate_all(
        "all => all.map((p) => p.getAttribute('d').match(/-?[0-9.]+/g).map(Number))"
    )
    tips = torch.tensor([[p[0] + 5, -(p[1] + 5)] for p in drawn]).view(4, 2, 2)  # pair, q/k, xy
    close(tips, theirs[:2].unflatten(-1, (4, 2)).transpose(0, 1) * 40, 0.0101)
    field(watched, "Query position m").fill("31")
    watched.get_by_role("alert").get_by_text("thirty-one is too many").wait_for()
    assert "RuntimeError" in watched.get_by_role("alert").inner_text()
    field(watched, "Query position m").fill("32")
    watched.locator(".llmr-student", has_text="pair 1").wait_for()
    assert not watched.get_by_role("alert").is_visible()
    expect_rope_shown(watched, position=32)
    widget.base = 300.0  # from Python to the page
    watched.evaluate("(state) => window.receive(state)", widget.embedded_state())
    expect_rope_shown(watched, position=32, base=300.0)
    watched.evaluate("() => window.cleanUp()")
    assert watched.evaluate("() => window.listening()") == 0
    assert watched.locator(".llmr-root").count() == 0


def test_mask_state_travels_both_ways(watched: Page) -> None:
    editor = MaskEditor()
    connect(watched, editor)
    cell(watched, 0, 3).click()
    watched.wait_for_timeout(100)
    assert editor.family == "custom"
    assert editor.mask[0] == [True, False, False, True, False]
    field(watched, "Mask family").select_option("prefix")
    watched.wait_for_timeout(100)
    assert editor.family == "prefix"
    assert editor.mask == family_mask("prefix", 5, prefix_length=2).tolist()
    watched.get_by_text("The sentence, and all numbers").click()
    box = field(watched, "Sentence (2 to 16 words)")
    box.fill("a b c")
    box.press("Enter")
    watched.wait_for_timeout(100)
    assert (editor.tokens, len(editor.mask)) == (["a", "b", "c"], 3)
    editor.tokens = ["q", "r", "s", "t"]
    editor.family = "none"
    watched.evaluate("(state) => window.receive(state)", editor.embedded_state())
    expect_mask_shown(watched, editor)


# --- ways of being shown -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_two_of_each_widget_live_on_one_page(
    open_page: OpenPage,
    axe: Callable[[Page], list[str]],
    serve: Callable[..., str],
    tmp_path: Path,
    scheme: str,
    theme: str,
) -> None:
    widgets = [
        MaskEditor(mask="none"),
        RopeAngles(d=16),
        MaskEditor(tokens=["</script>", "<b>", "&amp;"]),
        RopeAngles(vectors="different", rotary=lambda x, p, b: rope.apply_rope(x, p, b / 2)),
    ]
    file = write_page(tmp_path, *(w.html() for w in widgets), theme=theme)
    url = serve(tmp_path, "/") + file.name if scheme == "http" else file.as_uri()
    with open_page(url, theme=theme) as page:
        wait_live(page, 4)
        assert page.locator(".llmr-root").count() == 4
        themes = page.locator(".llmr-root").evaluate_all("all => all.map((r) => r.dataset.theme)")
        assert themes == [theme] * 4
        heads = page.locator(".llmr-grid").nth(1).locator("tbody th").all_inner_texts()
        assert heads == ["</script>", "<b>", "&amp;"]
        assert not page.locator(".llmr-still").first.is_visible()
        for summary in page.locator("summary").all():
            summary.click()
        assert axe(page) == []


def test_a_module_that_throws_leaves_picture_and_message(watched: Page, tmp_path: Path) -> None:
    broken = embed_html(
        name="Broken",
        source='export default { render() { throw new Error("no luck") } };',
        state={},
        picture='<svg width="10" height="10"></svg>',
        caption="a picture",
    )
    watched.goto(write_page(tmp_path, broken).as_uri())
    message = watched.get_by_role("alert")
    message.wait_for()
    assert "could not start (Error: no luck)" in message.inner_text()
    assert watched.locator(".llmr-still svg").is_visible()


def test_the_theme_is_followed_wherever_it_is_set(watched: Page, tmp_path: Path) -> None:
    page = watched
    open_live(page, write_page(tmp_path, RopeAngles().html()).as_uri())

    def theme_after(script: str) -> str | None:
        page.evaluate(script)
        page.wait_for_timeout(50)
        return page.locator(".llmr-root").get_attribute("data-theme")

    assert theme_after("document.documentElement.dataset.theme = 'dark'") == "dark"
    assert theme_after("document.documentElement.dataset.theme = 'light'") == "light"
    lab = "delete document.documentElement.dataset.theme; document.body.dataset.jpThemeLight = "
    assert theme_after(lab + "'false'") == "dark"
    assert theme_after(lab + "'true'") == "light"
    page.evaluate("delete document.body.dataset.jpThemeLight")
    page.emulate_media(color_scheme="dark")
    assert theme_after("0") == "dark"


def test_the_page_keeps_its_own_styles(watched: Page, tmp_path: Path) -> None:
    """No rule of ours reaches the page, none of the page's reaches us."""
    file = write_page(
        tmp_path, MaskEditor().html(), "<table id='theirs'><tr><td>x</td></tr></table>"
    )
    open_live(watched, file.as_uri())
    look = "e => JSON.stringify([...getComputedStyle(e)].map((p) => getComputedStyle(e)[p]))"
    theirs = watched.locator("#theirs td").evaluate(look)
    watched.evaluate("document.querySelector('.llmr-widget').remove()")
    assert watched.locator("#theirs td").evaluate(look) == theirs
