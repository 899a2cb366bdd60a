"""The landing page of `llmr demo` and where its links lead, made from a course with two students."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import pytest
from graded_course import RIGHT, WRONG, make_graded_course
from playwright.sync_api import expect

from llmr_ref import demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(book_directory, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    course, site = make_graded_course(root / "course", list(demo.ASSIGNMENTS)), root / "site"
    (course / "exports").mkdir()
    for assignment in demo.ASSIGNMENTS:
        target = ("--to", f"exports/{assignment}.csv", "--assignment", f"['{assignment}']")
        export = [sys.executable, "-m", "nbgrader", "export", *target]
        subprocess.run(export, cwd=course, check=True)
    (root / "_build").mkdir()
    (root / "_build" / "html").symlink_to(book_directory)
    site.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LLMR_BOOK_URL", "/book")
        demo.assemble(root, course, site)
    return site


@pytest.fixture(scope="module")
def url(site, serve) -> str:
    return serve(site, "/")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_landing_page_is_accessible_and_self_contained(open_page, axe, url, theme):
    with open_page(url, theme=theme) as page:
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert axe(page) == []


def test_the_landing_page_fits_a_phone(open_page, axe, url):
    with open_page(url, width=360, touch=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert axe(page) == []


def test_the_theme_can_be_changed_and_is_kept_in_the_book(open_page, url):
    with open_page(url) as page:
        page.get_by_role("button", name="Dark colours").click()
        page.get_by_role("link", name="The book").first.click()
        page.wait_for_url("**/book/index.html")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_at_least_three_assignments_are_graded_each_with_its_report_and_feedback(open_page, url):
    with open_page(url) as page:
        graded = page.locator(".graded > li")
        expect(graded).to_have_count(len(demo.ASSIGNMENTS))
        assert len(demo.ASSIGNMENTS) >= 3
        for item in graded.all():
            expect(item).to_contain_text("2 of 2 submissions have a score.")
            expect(item.get_by_role("link")).to_have_count(3)


@pytest.mark.parametrize("name", ["The book", "The class over all assignments"])
def test_every_door_leads_to_a_page_without_complaints(open_page, url, name):
    with open_page(url) as page:
        page.get_by_role("main").get_by_role("link", name=name).click()
        page.wait_for_load_state()
        expect(page.get_by_role("heading", level=1).first).to_be_visible()


@pytest.mark.parametrize("door", ["The class report", "One student’s feedback"])
@pytest.mark.parametrize("number, assignment", enumerate(demo.ASSIGNMENTS))
def test_every_assignment_has_doors_of_its_own(open_page, url, number, assignment, door):
    with open_page(url) as page:
        page.locator(".graded > li").nth(number).get_by_role("link", name=door).click()
        page.wait_for_url(f"**/{assignment}.html")
        expect(page.get_by_role("heading", level=1).first).to_be_visible()


def test_the_feedback_is_of_the_student_with_something_wrong_and_something_right(open_page, url):
    with open_page(url) as page:
        for door in page.get_by_role("link", name="One student’s feedback").all():
            student = door.get_attribute("href").split("/")[1]
            assert student in (RIGHT, WRONG)
            assert f"What {student} gets back" in door.inner_text()


@pytest.mark.parametrize("theme, width", [("light", 1280), ("dark", 1280), ("light", 360)])
def test_the_class_is_shown_over_all_assignments(open_page, axe, url, theme, width):
    with open_page(url + "reports/index.html", theme=theme, width=width) as page:
        names = page.locator("#assignments + .scroll tbody th").all_inner_texts()
        assert names == list(demo.ASSIGNMENTS)
        line = page.locator(".spark").first
        assert line.locator("circle").count() == len(demo.ASSIGNMENTS)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert axe(page) == []


@pytest.mark.parametrize("assignment", demo.ASSIGNMENTS)
def test_the_links_of_the_report_lead_somewhere(open_page, url, assignment):
    with open_page(f"{url}reports/{assignment}.html") as page:
        links = page.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
        targets = {urljoin(page.url, link).split("#")[0] for link in links}
        assert any("/feedback/" in target for target in targets)
        assert any("/book/" in target for target in targets)
        assert any(target.endswith("/reports/index.html") for target in targets)
        for target in targets:
            assert page.request.get(target).status == 200, target


@pytest.mark.parametrize("number, assignment", enumerate(demo.ASSIGNMENTS))
def test_the_grades_can_be_downloaded(open_page, url, number, assignment):
    with open_page(url) as page:
        with page.expect_download() as started:
            page.get_by_role("link", name="The grades").nth(number).click()
        with open(started.value.path(), newline="") as table:
            rows = list(csv.DictReader(table))
    assert {(row["student_id"], row["assignment"]) for row in rows} == {
        (RIGHT, assignment), (WRONG, assignment),
    }  # fmt: skip
