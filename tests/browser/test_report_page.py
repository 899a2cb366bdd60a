"""The class report in a real browser: readable in every light and at every width, links that lead on."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

import pytest
from graded_class import ASSIGNMENT, large_class, rope_verdict, small_class, write_course
from playwright.sync_api import Page

from llmr_ref.grading.report import write_report

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")

# The background behind a point of the page, and what colour is drawn there, would need pixels;
# this asks instead which elements stick out of the window.
STICKING_OUT = """() => [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll, .skip, .patterns, .unseen, pre'))
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(e => e.outerHTML.slice(0, 120))"""
WIDTHS = """() => [...document.querySelectorAll('.questions > li')].map(line => {
    const box = line.querySelector('svg').getBoundingClientRect();
    return [...line.querySelectorAll('rect')].map(
        bar => bar.getBoundingClientRect().width / box.width);
})"""


@pytest.fixture(scope="module")
def report_url(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., str]) -> str:
    course = write_course(tmp_path_factory.mktemp("class") / "course", small_class())
    write_report(course, ASSIGNMENT, course / "reports" / f"{ASSIGNMENT}.html")
    return f"{serve(course, '/course/')}reports/{ASSIGNMENT}.html"


@pytest.fixture(scope="module")
def large_url(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., str]) -> str:
    """A class with code, timestamps and questions that look broken; beside it the course page."""
    pupils = large_class(30)
    for pupil in pupils:
        pupil.verdicts["apply_rope"] = rope_verdict(0)
    course = write_course(tmp_path_factory.mktemp("large") / "course", pupils)
    write_report(course, ASSIGNMENT, course / "reports" / f"{ASSIGNMENT}.html")
    return f"{serve(course, '/large/')}reports/"


def unfold(page: Page) -> None:
    for summary in page.locator("summary").all():
        summary.click()
    assert page.locator("details:not([open])").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_accessibility_violation(open_page, axe, report_url: str, theme: str):
    with open_page(report_url, theme=theme) as page:
        assert page.title() == "Class report: attention"
        assert axe(page) == []
        unfold(page)
        assert axe(page) == []


def test_dark_is_dark_and_light_is_light(open_page, report_url: str):
    def brightness(page: Page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3

    with open_page(report_url, theme="light") as light, open_page(report_url, theme="dark") as dark:
        assert brightness(light) > 230 and brightness(dark) < 40


@pytest.mark.parametrize("folded", [True, False])
def test_a_telephone_scrolls_nothing_but_tables(open_page, axe, report_url: str, folded: bool):
    with open_page(report_url, width=360, touch=True) as page:
        if not folded:
            unfold(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(STICKING_OUT) == []
        wide = page.get_by_role("region", name="Scores of all students")
        assert wide.evaluate("e => e.scrollWidth > e.clientWidth"), "the table scrolls by itself"
        assert axe(page) == []


def test_bars_are_drawn_as_long_as_their_numbers(open_page, report_url: str):
    with open_page(report_url) as page:
        unfold(page)
        table = page.get_by_role("table", name="Answers to each question")
        counts = [
            [int(cell.inner_text()) for cell in row.get_by_role("cell").all()[2:]]
            for row in table.get_by_role("row").all()[1:]
        ]
        drawn = page.evaluate(WIDTHS)
        assert len(drawn) == len(counts) == 4
        for bars, numbers in zip(drawn, counts, strict=True):
            assert bars == pytest.approx([n / sum(numbers) for n in numbers if n], abs=0.005)


def test_bars_differ_without_colour(open_page, report_url: str):
    with open_page(report_url) as page:
        fills = page.evaluate(
            """() => [...document.querySelectorAll('.key rect')].map(e => {
                const s = getComputedStyle(e);
                return s.fill.startsWith('url') ? s.fill : `plain, ${s.strokeDasharray}`;
            })"""
        )
        assert len(fills) == 5 and len(set(fills)) == 5
        patterns = {f.split("#")[1].split('"')[0] for f in fills if f.startswith("url")}
        assert patterns == {"stripes", "dots", "lines"}
        for name in patterns:
            assert page.locator(f"pattern#{name}").count() == 1


def test_links_lead_to_feedback_and_to_sections(open_page, report_url: str):
    with open_page(report_url) as page:
        hrefs = page.locator("a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
        feedback = sorted({h for h in hrefs if "feedback" in h})
        assert len(feedback) == 11
        for href in feedback:
            answer = page.request.get(urljoin(report_url, href))
            assert answer.ok and "<h1>Feedback</h1>" in answer.text()
        for href in [h for h in hrefs if h.startswith("#")]:
            assert page.locator(href).count() == 1, href
        page.get_by_label("hana needs a look").click()
        assert page.get_by_role("heading", name="hana").is_visible()
        assert page.url.endswith("#look-7")
        page.get_by_role("link", name="ada", exact=True).last.click()
        assert page.get_by_role("heading", name="Feedback").is_visible()


def test_the_keyboard_skips_to_the_report_and_unfolds_tables(open_page, report_url: str):
    with open_page(report_url) as page:
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the report")
        assert skip.evaluate("e => e === document.activeElement") and skip.bounding_box()["x"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        page.keyboard.press("Enter")
        assert page.get_by_role("table", name="Autograded questions").is_visible()


def test_paper_shows_every_table(open_page, report_url: str):
    with open_page(report_url, theme="dark") as page:
        hidden = page.locator("details table").first
        assert not hidden.is_visible()
        page.emulate_media(media="print")
        assert hidden.is_visible()
        assert hidden.bounding_box()["height"] > 100
        assert not page.get_by_role("navigation").is_visible()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(253, 252, 249)"


def test_the_page_reads_from_disk_without_javascript(open_page, tmp_path: Path):
    course = write_course(tmp_path / "course", small_class())
    out = write_report(course, ASSIGNMENT, course / "reports" / "r.html")
    with open_page(out.as_uri(), javascript=False) as page:
        page.get_by_text("3 students").first.click()
        assert page.get_by_role("link", name="cleo").first.is_visible()


@pytest.mark.parametrize(("theme", "width"), [("light", 360), ("dark", 1280)])
@pytest.mark.parametrize("name", [ASSIGNMENT, "index"])
def test_a_large_class_reads_in_every_light_and_at_every_width(
    open_page, axe, large_url: str, name: str, theme: str, width: int
):
    with open_page(f"{large_url}{name}.html", theme=theme, width=width) as page:
        unfold(page)
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(STICKING_OUT) == []


def test_the_map_leads_to_an_idea_and_the_reports_to_each_other(open_page, large_url: str):
    with open_page(f"{large_url}{ASSIGNMENT}.html") as page:
        chip = page.locator(".chips a").first
        idea = page.locator(chip.get_attribute("href"))
        chip.click()
        assert idea.evaluate("e => e.matches(':target')") and idea.is_visible()
        box = idea.bounding_box()
        assert 0 <= box["y"] < 900
        page.get_by_role("link", name="all assignments").click()
        page.get_by_role("link", name=ASSIGNMENT).click()
        assert page.title() == "Class report: attention"


def test_the_two_answers_of_a_pair_stand_side_by_side_and_on_a_telephone_below(
    open_page, large_url: str
):
    tops = "sides => [...sides.children].map(e => Math.round(e.getBoundingClientRect().top))"
    for width, apart in ((1280, False), (360, True)):
        with open_page(f"{large_url}{ASSIGNMENT}.html", width=width) as page:
            page.locator(".pairs summary").first.click()
            left, right = page.locator(".sides").first.evaluate(tops)
            assert (left != right) == apart
            mark = page.locator(".sides mark").first
            ground = mark.evaluate("e => getComputedStyle(e).backgroundColor")
            assert ground != page.locator(".sides pre").first.evaluate(
                "e => getComputedStyle(e).backgroundColor"
            )


def test_lines_of_the_course_page_run_as_high_as_the_scores(open_page, large_url: str):
    with open_page(f"{large_url}index.html") as page:
        rows = page.evaluate(
            """() => [...document.querySelectorAll('.course tbody tr')].map(row => {
                const box = row.querySelector('.spark').getBoundingClientRect();
                const dot = row.querySelector('circle').getBoundingClientRect();
                return [parseFloat(row.querySelector('.share').textContent),
                        (box.bottom - (dot.top + dot.height / 2)) / box.height];
            })"""
        )
        assert len(rows) == 30
        shares, heights = zip(*rows, strict=True)
        # nothing at 4 of 28 px, everything at 24
        expected = [(4 + 20 * share / 100) / 28 for share in shares]
        assert list(heights) == pytest.approx(expected, abs=0.02)
