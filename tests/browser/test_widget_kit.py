"""Parts of the widgets' kit that not every widget uses: axes, marks, the grip, the stepper, the text box."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from playwright.sync_api import Page, expect

from llmr_ref.widgets.embed import embed_html, module_source

OpenPage = Callable[..., AbstractContextManager[Page]]

WIDGET = """
const PRESETS = { far: ["far", { x: 8, y: 40, step: 4 }] };
function build(kit) {
  const plot = kit.plot({ label: "A plane", height: 240, top: 24, point: (x) => kit.write({ x }) });
  const grip = makeGrip(plot, { label: "The point", step: 0.5, at: () => [kit.state().x, kit.state().y],
    move: (x, y) => kit.write({ x: clamp(x, 0, 10), y: clamp(y, 1, 1000) }) });
  const stepper = makeStepper({ label: "Step", max: 4, change: (step) => kit.write({ step }) });
  const words = makeText({ label: "Words", change: (words) => kit.write({ words }) });
  const whole = makeSlider({ label: "Whole", min: 1, max: 9, scale: "log", change: (n) => kit.write({ n }) });
  const bars = kit.bars({ label: "Bars", wide: true });
  const table = kit.numbers("Numbers", ["a", "b"], () => [["x", kit.state().x]]);
  const draw = ({ x, y, step, words: text, n }) => {
    plot.axes({ x: { from: 0, to: 10, label: "x" }, y: { from: 1, to: 1000, log: true, label: "y" } });
    plot.lines([{ points: [[0, 1], [10, 1000]], series: 1 }]);
    plot.bars([0, 1, 2].map((i) => ({
      from: i, to: i + 1, value: 10 ** i, aria: `bar ${i}`, explain: () => `value ${10 ** i}` })));
    plot.rules([{ x: 5, text: "half" }, { y: 100 }]);
    plot.dots([{ x, y, aria: "dot", explain: () => "a dot" }]);
    grip.update();
    bars.update([{ label: "one", value: 1, text: "1" }, { label: "half", value: 0.5, text: "½" }], 1);
    stepper.update(step);
    words.update(text);
    whole.update(n);
    return `x ${digits(x)}, y ${digits(y)}, step ${step}, n ${n}, ${text}`;
  };
  const controls = [stepper.node, words.node, whole.node];
  return { controls, body: [plot.node, bars.node, table], draw };
}
const keys = ["x", "y", "step", "words", "n"];
export default defineWidget({ label: "Kit", keys, presets: PRESETS, build });
"""


@pytest.fixture
def page(open_page: OpenPage) -> Iterator[Page]:
    state = {"x": 2, "y": 10, "step": 0, "words": "a b", "n": 5}
    kit = module_source("rope_angles").split("export function ropeFrequencies")[0]
    html = embed_html(name="Kit", source=kit + WIDGET, state=state, picture="", caption="")
    with open_page("about:blank") as page:
        page.set_content(f"<main style='width:600px'>{html}</main>")
        page.locator("[data-live]").wait_for(state="attached")
        yield page


def story(page: Page) -> str:
    return page.locator(".llmr-story").inner_text()


def place(page: Page) -> tuple[float, float]:
    found = re.search(r"x (\S+), y (\S+),", story(page))
    assert found
    return float(found[1]), float(found[2])


def test_axes_are_linear_and_logarithmic_with_round_numbers(page: Page) -> None:
    texts = page.locator(".llmr-axes text").all_text_contents()
    assert {"0", "2", "4", "10", "1", "100", "1000", "x", "y"} <= set(texts)
    heights = page.locator(".llmr-gridlines").get_attribute("d") or ""
    at = [float(v) for v in re.findall(r"M44 ([\d.]+)H", heights)]  # 1, 10, 100, 1000
    steps = [a - b for a, b in itertools.pairwise(at)]
    assert len(at) == 4
    assert max(steps) - min(steps) < 0.2


def test_bars_and_dots_stand_where_the_axes_say(page: Page) -> None:
    rects = page.locator(".llmr-plot .llmr-bars rect")
    heights = [float(r.get_attribute("height") or 0) for r in rects.all()]
    assert heights[0] == 0  # 1 is the foot of the axis
    assert heights[2] == pytest.approx(2 * heights[1], abs=0.2)
    dot = page.locator(".llmr-dots circle")
    assert float(dot.get_attribute("cy") or 0) == pytest.approx(
        float(rects.nth(1).get_attribute("y") or 0), abs=0.1
    )


def test_arrow_keys_walk_along_marks_of_which_one_is_a_tab_stop(page: Page) -> None:
    marks = page.locator(".llmr-plot [data-rove]")
    assert marks.count() == 4
    stops = "all => all.filter((m) => m.getAttribute('tabindex') === '0').length"
    assert marks.evaluate_all(stops) == 1
    marks.nth(0).focus()
    expect(page.get_by_role("tooltip")).to_have_text("value 1")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tooltip")).to_have_text("value 10")
    page.keyboard.press("End")
    expect(page.get_by_role("tooltip")).to_have_text("a dot")
    assert marks.evaluate_all(stops) == 1


def test_the_grip_is_dragged_and_moved_by_keys(page: Page) -> None:
    grip = page.get_by_role("slider", name="The point")
    box = grip.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y - 30)
    page.mouse.up()
    assert place(page)[0] > 2.5
    assert place(page)[1] > 15
    moved = grip.bounding_box()
    assert moved
    assert moved["x"] + moved["width"] / 2 == pytest.approx(x + 50, abs=1)
    before = place(page)
    grip.press("ArrowRight")
    grip.press("Shift+ArrowUp")
    assert place(page) == pytest.approx((before[0] + 0.5, before[1] + 5), abs=0.02)
    page.mouse.move(x, y)  # let go: nothing follows
    assert place(page) == pytest.approx((before[0] + 0.5, before[1] + 5), abs=0.02)


def test_pressing_into_a_plot_gives_data(page: Page) -> None:
    box = page.locator(".llmr-plot").bounding_box()
    assert box
    page.mouse.click(box["x"] + 44 + (box["width"] - 56) * 0.75, box["y"] + 60)
    assert place(page)[0] == pytest.approx(7.5, abs=0.05)


def test_the_stepper_goes_back_and_forth_and_stops_at_its_ends(page: Page) -> None:
    forth = page.get_by_role("button", name="Step: one forward")
    back = page.get_by_role("button", name="Step: one back")
    back.click(force=True)  # aria-disabled
    assert "step 0" in story(page)
    for _ in range(6):
        forth.click(force=True)
    assert "step 4" in story(page)
    assert forth.get_attribute("aria-disabled") == "true"
    back.click()
    assert "step 3" in story(page)


def test_a_log_slider_of_whole_numbers_visits_each(page: Page) -> None:
    slider = page.get_by_label("Whole", exact=True)
    seen = []
    for _ in range(9):
        found = re.search(r"n (\d+)", story(page))
        assert found
        seen.append(int(found[1]))
        slider.press("ArrowLeft")
    assert seen == [5, 4, 3, 2, 1, 1, 1, 1, 1]
    slider.press("End")
    assert "n 9" in story(page)


def test_a_plot_follows_its_own_width(page: Page) -> None:
    before = page.locator(".llmr-plot").get_attribute("viewBox")
    page.locator("main").evaluate("e => { e.style.width = '340px' }")
    expect(page.locator(".llmr-plot")).not_to_have_attribute("viewBox", before or "")
    dot = page.locator(".llmr-dots circle").bounding_box()
    grip = page.get_by_role("slider", name="The point").bounding_box()
    assert dot and grip
    assert dot["x"] + dot["width"] / 2 == pytest.approx(grip["x"] + grip["width"] / 2, abs=1)


def test_words_count_when_the_reader_leaves_the_box(page: Page) -> None:
    box = page.get_by_label("Words", exact=True)
    box.fill("c d e")
    assert story(page).endswith("a b")
    box.press("Enter")
    assert story(page).endswith("c d e")
