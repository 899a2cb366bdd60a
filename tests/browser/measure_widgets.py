"""Sizes and speed of the widgets, printed: python tests/browser/measure_widgets.py

A slider step is one input event with all that follows from it: script, style and layout, in real
Chromium. It is given as time on the clock, which other programs on the machine lengthen, and as the
processor time of the page's main thread, which they do not.
"""

import gzip
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from widget_pages import WIDGETS, open_live, write_page

from llmr_ref import chromium
from llmr_ref.widgets import MaskEditor, RopeAngles, SamplingKnobs
from llmr_ref.widgets.embed import EmbeddableWidget, module_source

STEPS = 300
# Send one input event, then force style and layout: all the work that a step costs the main thread.
STEP = """([label, low, high, steps]) => {
    const root = document.querySelector(".llmr-host").shadowRoot;
    const slider = [...root.querySelectorAll("input[type=range]")].find((s) => s.ariaLabel === label);
    const times = [];
    for (let i = 0; i < steps; i++) {
        slider.value = low + (i % (high - low + 1));
        const start = performance.now();
        slider.dispatchEvent(new Event("input"));
        root.querySelector(".llmr-root").getBoundingClientRect();
        times.push(performance.now() - start);
    }
    return times;
}"""


def measure() -> list[str]:
    """One line per widget and slider."""
    lines = []
    for name, make in WIDGETS.items():
        source, page = module_source(make.module_name()).encode(), make().html().encode()
        lines.append(
            f"{name}: module gzip {_gzip_kb(source):.1f} KB, whole {_gzip_kb(page):.1f} KB"
        )
    words = [f"word{i}" for i in range(16)]
    cases: list[tuple[EmbeddableWidget, str, str, int, int]] = [
        (MaskEditor(mask="sliding window"), "mask editor, 5 tokens", "Window", 1, 5),
        (MaskEditor(words, mask="prefix"), "mask editor, 16 tokens", "Prefix length", 0, 16),
        (RopeAngles(), "rope angles, d = 8", "Query position m", 0, 256),
        (RopeAngles(d=32), "rope angles, d = 32", "Query position m", 0, 256),
        (RopeAngles(d=32), "rope angles, d = 32", "Base Θ", 1, 6),
        *(
            (
                SamplingKnobs("die", top_p=0.9, n_draws=10_000),
                "sampling, 50,257 sides",
                *(label, low, high),
            )
            for label, low, high in (
                ("Temperature T (0: greedy)", 1, 3),
                ("Top-k (all: off)", 1, 4),
                ("Repetition penalty (1: off)", 1, 2),
            )
        ),
    ]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = chromium.launch(playwright)
        for widget, title, label, low, high in cases:
            html = widget.html()
            page = browser.new_page()
            open_live(page, write_page(Path(folder), html).as_uri())
            clock = sorted(page.evaluate(STEP, [label, low, high, STEPS]))
            busy = sorted(_processor_times(page, label, low, high))
            lines.append(
                f"{title}, {label}: p95 {clock[int(STEPS * 0.95)]:.1f} ms on the clock, "
                f"{busy[int(len(busy) * 0.95)]:.1f} ms of processor time"
            )
            page.close()
        for name, make in WIDGETS.items():
            page = browser.new_page()
            open_live(page, write_page(Path(folder), make().html()).as_uri())
            steps = {label: _all_the_way(page, label, *ends) for label, *ends in _sliders(page)}
            if steps:
                slowest = max(steps, key=lambda label: steps[label])
                lines.append(f"{name}, slowest of {len(steps)} sliders, {slowest}: "
                             f"p95 {steps[slowest]:.1f} ms on the clock")  # fmt: skip
            page.close()
        browser.close()
    return lines


def _sliders(page: Page) -> list[tuple[str, float, float]]:
    """Label and ends of every slider on the screen."""
    found = page.locator(".llmr-root input[type=range]:visible").evaluate_all(
        "all => all.map((e) => [e.ariaLabel, Number(e.min), Number(e.max)])"
    )
    return [tuple(each) for each in found]


def _all_the_way(page: Page, label: str, low: float, high: float) -> float:
    """The 95th percentile of 60 steps from one end to the other and back."""
    way = [low + (high - low) * i / 30 for i in [*range(31), *range(29, 0, -1)]]
    return sorted(page.evaluate(STEP, [label, v, v, 1])[0] for v in way)[int(len(way) * 0.95)]


def _processor_times(page: Page, label: str, low: int, high: int) -> list[float]:
    """Milliseconds of the main thread's own time for single steps; the call itself is included."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    times = []
    for step in range(100):
        value = low + step % (high - low + 1)
        before = spent()
        page.evaluate(STEP, [label, value, value, 1])
        times.append(spent() - before)
    return times


def _gzip_kb(data: bytes) -> float:
    return len(gzip.compress(data, 6)) / 1024


if __name__ == "__main__":
    print("\n".join(measure()))
