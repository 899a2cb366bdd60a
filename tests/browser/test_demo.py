"""The landing page of `llmr demo` and where its links lead, made from a small graded course."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import pytest
from graded_course import RIGHT, WRONG
from playwright.sync_api import expect

from llmr_ref import demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(graded_course, book_directory, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    course, site = root / "course", root / "site"
    shutil.copytree(graded_course, course)
    (course / "exports").mkdir(exist_ok=True)
    export = [sys.executable, "-m", "nbgrader", "export", "--to", "exports/attention.csv"]
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


@pytest.mark.parametrize("name", ["The book", "The class report", "One student’s feedback"])
def test_every_door_leads_to_a_page_without_complaints(open_page, url, name):
    with open_page(url) as page:
        page.get_by_role("main").get_by_role("link", name=name).click()
        page.wait_for_load_state()
        expect(page.get_by_role("heading", level=1).first).to_be_visible()


def test_the_feedback_is_of_the_student_with_something_wrong_and_something_right(open_page, url):
    with open_page(url) as page:
        door = page.get_by_role("link", name="One student’s feedback")
        student = door.get_attribute("href").split("/")[1]
        assert student in (RIGHT, WRONG)
        assert f"What {student} gets back" in door.inner_text()


def test_the_links_of_the_report_lead_somewhere(open_page, url):
    with open_page(url + "report.html") as page:
        links = page.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
        targets = {urljoin(page.url, link).split("#")[0] for link in links}
        assert any("/feedback/" in target for target in targets)
        assert any("/book/" in target for target in targets)
        for target in targets:
            assert page.request.get(target).status == 200, target


def test_the_grades_can_be_downloaded(open_page, url):
    with open_page(url) as page:
        with page.expect_download() as started:
            page.get_by_role("link", name="The grades").click()
        with open(started.value.path(), newline="") as table:
            rows = list(csv.DictReader(table))
    assert {row["student_id"] for row in rows} == {RIGHT, WRONG}
