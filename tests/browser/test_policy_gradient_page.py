"""What only the three-token policy has: the triangle that is dragged, the steps, the draws."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from widget_pages import connect, import_module, open_live, write_page

from llmr_ref.widgets import PolicyGradient

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def watched(open_page: OpenPage) -> Iterator[Page]:
    with open_page("about:blank") as page:
        yield page


def probabilities(page: Page) -> list[float]:
    return [float(text) for text in page.locator(".llmr-bar b").all_inner_texts()]


def test_many_draws_have_the_variance_that_is_computed(watched: Page) -> None:
    import_module(watched, "policy_gradient")
    script = """([z, r, G, baseline]) => {
        const m = policy_gradient;
        const p = m.softmaxOf(z);
        const E = p.reduce((s, x, a) => s + x * r[a], 0);
        let seed = 1;
        const random = () => { seed = (seed * 48271) % 2147483647; return seed / 2147483647; };
        const all = Array.from({ length: 20000 }, () => {
            const counts = m.drawGroup(p, G, random);
            return m.clippedGradient(z, z, counts, m.advantages(counts, r, E, baseline), 0.2);
        });
        const mean = [0, 1, 2].map((a) => all.reduce((s, g) => s + g[a], 0) / all.length);
        const apart = (g) => g.reduce((t, x, a) => t + (x - mean[a]) ** 2, 0);
        const variance = all.reduce((s, g) => s + apart(g), 0) / all.length;
        const exact = m.estimator(z, r, G, baseline);
        return [Math.max(...mean.map((x, a) => Math.abs(x - exact.mean[a]))), variance / exact.variance];
    }"""
    for baseline, G in (("expected", 1), ("mean", 5), ("leave one out", 3), ("standardized", 8)):
        apart, ratio = watched.evaluate(script, [[0.5, 0, -0.5], [1, 0, 0.5], G, baseline])
        assert apart < 0.01
        assert ratio == pytest.approx(1, abs=0.05)


def test_the_policy_is_dragged_and_python_follows(watched: Page) -> None:
    widget = PolicyGradient()
    connect(watched, widget)
    grip = watched.get_by_role("slider", name="Policy at the start, which is the reference")
    box = grip.locator("circle").last.bounding_box()
    assert box
    watched.mouse.move(box["x"] + 7, box["y"] + 7)
    watched.mouse.down()
    watched.mouse.move(box["x"] + 27, box["y"] - 60, steps=4)
    watched.mouse.up()
    assert probabilities(watched)[2] > 0.4
    before = widget.start
    assert before[2] > before[0]
    grip.press("ArrowLeft")
    assert widget.start[0] > before[0]
    watched.evaluate("() => window.cleanUp()")


def test_steps_forward_and_a_new_draw(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, PolicyGradient().html()).as_uri())
    story = watched.locator(".llmr-story")
    first = story.inner_text()
    watched.get_by_role("button", name="Draw again").click()
    assert story.inner_text() != first
    for _ in range(3):
        watched.get_by_role("button", name="Step: one forward").click()
    expect(story).to_contain_text("After 3 steps")
    assert sum(probabilities(watched)) == pytest.approx(1, abs=0.002)


def test_a_group_of_one_has_no_mean(watched: Page, tmp_path: Path) -> None:
    open_live(watched, write_page(tmp_path, PolicyGradient(baseline="mean").html()).as_uri())
    box = watched.get_by_label("Samples in a group, G, exact")
    box.fill("1")
    box.press("Enter")
    assert watched.get_by_label("Baseline").input_value() == "expected"
    watched.get_by_label("Baseline").select_option("leave one out")
    assert box.input_value() == "2"
    assert not watched.get_by_role("alert").is_visible()
