"""The built book as a reader meets it: every page, light and dark, from a server and from a folder."""

import gzip
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
import yaml
from playwright.sync_api import expect
from pypdf import PdfReader

from llmr_ref import book_bench
from llmr_ref.book import ROOT, pages_in_order, print_pdf

CONTENTS = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [
    f"{name}.html"
    for name in [
        CONTENTS["root"],
        *(chapter["file"] for part in CONTENTS["parts"] for chapter in part["chapters"]),
        "search",
        "404",
    ]
]
MOST_BYTES = 400_000


def settle(page) -> None:
    """Wait until formulas are set and widgets live, which both happen after the load event."""
    page.wait_for_function(
        """() => (!document.querySelector("[src*=mathjax]") || window.MathJax?.startup?.promise)
              && [...document.querySelectorAll("[data-llmr-widget]")].every(w => w.dataset.live)"""
    )
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.wait_for_load_state("networkidle")


def test_the_table_of_contents_is_what_was_built(book_directory):
    built = {
        file.relative_to(book_directory).as_posix()
        for file in book_directory.rglob("*.html")
        if "_static" not in file.parts
    }
    assert built == set(PAGES)


# `open_page` itself fails on a request to another host, a console error or an uncaught exception.
@pytest.mark.parametrize("path", PAGES)
def test_a_first_visit(open_page, axe, book_url, path):
    """Little to carry, every widget alive, every link and picture there, nothing axe objects to in
    light or dark. One visit for all: formulas take seconds to set."""
    with open_page("about:blank") as page:
        sizes: dict[str, int] = {}

        def weigh(response) -> None:
            if response.url.startswith("http"):
                sizes[response.url] = len(gzip.compress(response.body(), mtime=0))

        page.on("response", weigh)
        page.goto(book_url + path)
        settle(page)
        page.remove_listener("response", weigh)
        assert len(sizes) > 3
        # All that the visit transfers, each file compressed as a static host does it.
        assert sum(sizes.values()) <= MOST_BYTES, sorted(sizes.items(), key=lambda item: -item[1])
        assert pictures_that_are_missing(page) == []
        assert dead_links(page, book_url) == []
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        page.eval_on_selector_all("article details", "all => all.forEach(d => { d.open = true; })")
        assert axe(page) == []
        page.get_by_role("button", name="Dark colours").click()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert axe(page) == []
        for widget in page.locator("[data-llmr-widget]").all():
            answers(widget)


def answers(widget) -> None:
    """Another case tells another story."""
    story, cases = (
        widget.locator(".llmr-story"),
        widget.get_by_label("Start from a case", exact=True),
    )
    before = story.inner_text()
    assert len(before) > 40
    for case in cases.locator("option").evaluate_all("all => all.map((o) => o.value)"):
        if case:
            cases.select_option(case)
            if story.inner_text() != before:
                return
    raise AssertionError(f"{widget.get_attribute('data-llmr-widget')} does not answer")


def pictures_that_are_missing(page) -> list[str]:
    """Those that are not there, have no alt attribute, or stand in the text without words for them."""
    found = page.eval_on_selector_all(
        "img",
        "all => all.map(i => [i.src, i.hasAttribute('alt') && (i.alt || !i.closest('article')),"
        " i.complete && i.naturalWidth])",
    )
    return [src for src, has_alt, width in found if not (has_alt and width)]


def dead_links(page, book_url) -> list[str]:
    """Links into the book whose page or anchor is not there."""
    ids_of: dict[str, set[str]] = {}
    dead = []
    for link in page.eval_on_selector_all("a[href]", "all => all.map(a => a.getAttribute('href'))"):
        target, fragment = urldefrag(urljoin(page.url, link))
        if urlsplit(target).netloc != urlsplit(book_url).netloc:
            continue
        if target not in ids_of:
            answer = page.request.get(target)
            text = answer.text() if answer.ok else ""
            ids_of[target] = set(re.findall(r'\bid="([^"]+)"', text)) if answer.ok else {"missing"}
            if not answer.ok:
                dead.append(link)
        if fragment and unquote(fragment) not in ids_of[target]:
            dead.append(link)
    return dead


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_phone_and_works_from_a_folder(open_page, axe, book_directory, path):
    with open_page((Path(book_directory) / path).as_uri(), width=360, touch=True) as page:
        settle(page)
        assert page.locator(".math:not(:has(mjx-container))").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert axe(page) == []


def test_chapters_are_reached_from_the_menu_on_a_phone(open_page, book_url):
    with open_page(book_url, width=360, touch=True) as page:
        chapters = page.get_by_role("navigation", name="Chapters")
        assert not chapters.is_visible()
        page.get_by_role("button", name="Chapters").click()
        chapters.get_by_role("link", name="Masking").click()
        page.wait_for_url("**/attention/masking.html")
        assert page.get_by_role("heading", level=1).inner_text().startswith("Masking")


def test_search_finds_a_chapter_from_a_server_and_from_a_folder(
    open_page, book_url, book_directory
):
    for start in (book_url + "index.html", (Path(book_directory) / "index.html").as_uri()):
        with open_page(start) as page:
            page.get_by_role("searchbox").fill("wavelength")
            page.get_by_role("searchbox").press("Enter")
            page.wait_for_url("**/search.html?q=wavelength")
            found = page.locator("#search-results").get_by_role(
                "link", name="Rotary position embedding"
            )
            found.first.wait_for()
            assert page.get_by_role("searchbox").count() == 1


def test_the_readers_colours_are_kept(open_page, book_url):
    with open_page(book_url) as page:
        button = page.get_by_role("button", name="Dark colours")
        assert button.get_attribute("aria-pressed") == "false"
        button.click()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.goto(book_url + "errata.html")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background


def test_code_can_be_copied(open_page, book_url):
    with open_page(book_url + "how-to-use.html") as page:
        block = page.locator(".highlight-bash").first
        block.hover()
        block.get_by_role("button").click()
        assert page.evaluate("navigator.clipboard.readText()").strip() == "make lab"


def test_a_chapter_reads_without_javascript(open_page, book_url):
    with open_page(book_url + "attention/masking.html", javascript=False) as page:
        assert page.locator(".llmr-still svg").is_visible()
        assert page.get_by_role("navigation", name="Chapters").is_visible()
        assert not page.locator(".theme-button").is_visible()


def test_a_chapter_prints_its_text_and_pictures_only(open_page, book_url):
    with open_page(book_url + "transformer/rope.html", theme="dark") as page:
        settle(page)
        page.emulate_media(media="print")
        for hidden in (".bar", ".chapters", ".sections", ".neighbours"):
            assert not page.locator(hidden).is_visible()
        assert page.locator(".llmr-still").is_visible()
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        )
        answer = page.locator(".predict details > p").first
        assert answer.bounding_box()["height"] > 0


def test_a_wrong_address_shows_the_books_own_page_at_any_depth(open_page, book_url):
    allow = ["404"]
    with open_page(book_url + "no/such/page.html", allow=allow) as page:
        assert page.get_by_role("heading", level=1).inner_text() == "There is no such page"
        page.locator("nav.chapters").get_by_role("link", name="Masking").click()
        page.wait_for_url("**/book/attention/masking.html")


def test_a_term_is_explained_where_it_stands(open_page, book_url):
    with open_page(book_url + "attention/masking.html") as page:
        settle(page)
        term, tooltip = page.locator("a[data-definition]").first, page.get_by_role("tooltip")
        assert tooltip.count() == 0
        term.hover()
        expect(tooltip).to_have_text(term.get_attribute("data-definition"))
        tooltip.hover()  # it stays while it is read
        page.wait_for_timeout(400)
        expect(tooltip).to_be_visible()
        page.mouse.move(5, 5)
        expect(tooltip).to_have_count(0)
        term.focus()
        expect(term).to_have_accessible_description(term.get_attribute("data-definition"))
        page.keyboard.press("Escape")
        expect(tooltip).to_have_count(0)


def test_a_notebook_can_be_taken_home(open_page, book_url):
    with open_page(book_url + "transformer/rope.html") as page:
        with page.expect_download() as download:
            page.get_by_role("link", name="Download the notebook").click()
        taken = Path(download.value.path()).read_bytes()
        assert taken == (ROOT / "book" / "transformer" / "rope.ipynb").read_bytes()


def test_the_whole_book_is_printed_into_one_file(book_directory, tmp_path):
    target = tmp_path / "llmr.pdf"
    with ThreadPoolExecutor(1) as own_thread:  # this one already holds a browser
        sheets = own_thread.submit(print_pdf, Path(book_directory), target).result()
    printed = PdfReader(target)
    assert len(printed.pages) == sheets > len(PAGES)
    titles = [entry.title for entry in printed.outline if not isinstance(entry, list)]
    assert len(titles) == len(pages_in_order()) and "Masking" in titles
    assert "Rotary position embedding" in "".join(page.extract_text() for page in printed.pages)
    links = {
        link.get_object()["/A"]["/URI"]
        for page in printed.pages
        for link in page.get("/Annots", [])
        if "/URI" in link.get_object().get("/A", {})
    }
    assert links and not [link for link in links if "127.0.0.1" in link]


def test_first_visits_are_measured_and_held_to_their_bounds(tmp_path, monkeypatch, capsys):
    (tmp_path / "index.html").write_text("<h1>Short</h1>")
    noise = random.Random(0).randbytes(600_000).hex()  # half of that, compressed
    (tmp_path / "long.html").write_text(f"<h1>Long</h1><p hidden>{noise}</p>")
    monkeypatch.setattr(book_bench, "pages_in_order", lambda: ["index", "long"])
    with ThreadPoolExecutor(1) as own_thread:
        assert own_thread.submit(book_bench.main, tmp_path).result() == 1
    said = capsys.readouterr().out
    assert "KB: long." in said and "index" in said
    monkeypatch.setattr(book_bench, "pages_in_order", lambda: ["index"])
    with ThreadPoolExecutor(1) as own_thread:
        assert own_thread.submit(book_bench.main, tmp_path).result() == 0
