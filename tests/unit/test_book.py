"""The book's sources keep their rules, and the build's own check refuses a page that breaks them."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from sphinx.errors import ExtensionError

from llmr_ref.book import ROOT, build

BOOK = ROOT / "book"
NOTEBOOKS = sorted(path for path in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
CHAPTERS = [path for path in NOTEBOOKS if path.parent != BOOK]
CONFIGURATION = yaml.safe_load((ROOT / "_config.yml").read_text())


def notebook_id(path: Path) -> str:
    return path.relative_to(BOOK).as_posix()


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def markdown(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.fixture(scope="module")
def book_checks():
    specification = importlib.util.spec_from_file_location(
        "book_checks", BOOK / "_ext" / "book_checks.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# ---- sources -----------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_first_line_after_the_title_is_a_question(path):
    title, question, *_ = markdown(path).split("\n\n")
    assert title.startswith("# ")
    assert question.endswith("?")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_outputs_are_stored_exactly_where_a_test_proves_them(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        if "nbval-check-output" in tags(cell):
            assert cell.execution_count == 1, cell.id  # nbval takes a cell without one as never run
            assert [output.output_type for output in cell.outputs] == ["stream"], cell.id
            assert cell.outputs[0].name == "stdout", cell.id
        else:
            assert cell.execution_count is None and cell.outputs == [], cell.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_cell_ids_are_words_and_unique(path):
    ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    assert len(set(ids)) == len(ids)
    assert [i for i in ids if not re.fullmatch(r"[a-z]+(-[a-z]+)*", i)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_notebook_runs_on_the_plain_kernel(path):
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_a_cell_for_lab_is_run_neither_by_the_build_nor_by_nbval(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert ("skip-execution" in tags(cell)) == ("nbval-skip" in tags(cell)), cell.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_id)
def test_figures_have_words(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "plt.show()" in cell.source:
            described = cell.metadata["mystnb"]
            assert len(described["image"]["alt"]) > 40, cell.id
            assert described["figure"]["caption"] and described["figure"]["name"], cell.id


@pytest.mark.parametrize("path", CHAPTERS, ids=notebook_id)
def test_chapter_shows_the_reference_and_does_not_type_it_again(path):
    code = "\n".join(
        cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
    )
    shown = re.findall(r"^source\((.+)\)$", code, flags=re.MULTILINE)
    assert len(shown) >= 4
    names = {name.strip() for call in shown for name in call.split(",")}
    retyped = [name for name in names if re.search(rf"^\s*def {re.escape(name)}\b", code, re.M)]
    assert retyped == []


@pytest.mark.parametrize("path", CHAPTERS, ids=notebook_id)
def test_chapter_asks_for_a_prediction_and_names_its_exercises_and_sources(path):
    text = markdown(path)
    assert '<div class="predict">' in text
    assert "{admonition} Exercise" in text
    assert "## Further reading" in text and "## Sources" in text


def test_every_citation_is_in_the_bibliography():
    keys = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.M))
    cited = set()
    for path in BOOK.rglob("*"):
        if path.suffix in (".ipynb", ".md"):
            for names in re.findall(r"\{cite:[a-z]+\}`([^`]+)`", path.read_text(encoding="utf-8")):
                cited.update(name.strip() for name in names.split(","))
    assert cited - keys == set()
    assert keys - cited == set(), "a source that nobody cites"


def test_every_notebook_is_in_the_table_of_contents():
    listed = (ROOT / "_toc.yml").read_text()
    for path in NOTEBOOKS:
        assert path.relative_to(BOOK).with_suffix("").as_posix() in listed


def test_warnings_and_cell_errors_are_not_forgiven_by_the_configuration():
    sphinx = CONFIGURATION["sphinx"]["config"]
    assert sphinx["nb_execution_raise_on_error"] is True
    assert "suppress_warnings" not in sphinx
    assert CONFIGURATION["execute"]["execute_notebooks"] == "cache"
    assert CONFIGURATION["execute"]["stderr_output"] == "severe"
    assert "book_checks" in sphinx["extensions"]
    assert sphinx["nb_ipywidgets_js"] == {}


# ---- the check of the finished pages -------------------------------------------


def findings(book_checks, site: Path, body: str, head: str = "") -> list[str]:
    (site / "index.html").write_text(
        f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"
    )
    return list(book_checks.findings_in(site))


def test_a_sound_page_has_no_findings(book_checks, tmp_path):
    (tmp_path / "other.html").write_text('<h2 id="here">Here</h2>')
    (tmp_path / "picture.svg").write_text("<svg/>")
    body = (
        '<a href="https://example.org/paper">a link to click</a> <a href="other.html#here">there</a>'
        '<a href="#top" id="top">up</a> <img src="picture.svg" alt="a picture">'
        '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="">'
    )
    assert findings(book_checks, tmp_path, body, '<link rel="next" href="other.html">') == []


@pytest.mark.parametrize(
    "defect",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<script src="//cdn.example.org/a.js"></script>',
        '<script type="module">import * as a from "https://cdn.example.org/a.mjs"</script>',
        '<img src="http://example.org/a.png" alt="">',
        '<img srcset="https://example.org/a.png 2x" src="data:," alt="">',
        '<link rel="stylesheet" href="https://fonts.example.org/a.css">',
        '<link rel="preload" as="font" href="https://fonts.example.org/a.woff2">',
        '<iframe src="https://example.org/"></iframe>',
        '<p style="background: url(https://example.org/a.png)">x</p>',
        "<style>@import 'https://example.org/a.css';</style>",
        "<style>@font-face { src: url('//example.org/a.woff2') }</style>",
    ],
)
def test_something_loaded_from_another_host_is_a_finding(book_checks, tmp_path, defect):
    (finding,) = findings(book_checks, tmp_path, defect)
    assert "another host" in finding


def test_a_style_sheet_that_loads_from_another_host_is_a_finding(book_checks, tmp_path):
    (tmp_path / "a.css").write_text("body { background: url(https://example.org/a.png) }")
    (finding,) = findings(book_checks, tmp_path, "<p>fine</p>")
    assert finding.startswith("a.css")


@pytest.mark.parametrize(
    ("defect", "words"),
    [
        ('<a href="#nowhere">x</a>', "no section of this name"),
        ('<a href="missing.html">x</a>', "not in the built book"),
        ('<img src="missing.png" alt="x">', "not in the built book"),
        ('<img src="data:,">', "no alternative text"),
        (
            '<script type="application/vnd.jupyter.widget-view+json">{"model_id": "1"}</script>',
            "needs a kernel",
        ),
        (
            '<script type="application/vnd.jupyter.widget-state+json">{"state": {}}</script>',
            "needs a kernel",
        ),
    ],
)
def test_a_broken_page_is_a_finding(book_checks, tmp_path, defect, words):
    (finding,) = findings(book_checks, tmp_path, defect)
    assert words in finding


def test_findings_stop_the_build(book_checks, tmp_path):
    class Application:
        outdir = tmp_path
        builder = type("Builder", (), {"format": "html"})

    findings(book_checks, tmp_path, '<script src="https://cdn.example.org/a.js"></script>')
    with pytest.raises(ExtensionError, match=r"cdn\.example\.org"):
        book_checks.check_site(Application, None)


# ---- the build itself ------------------------------------------------------------

# The pause makes the kernel send the output in two pieces, cut in front of the line break.
IN_PIECES = """
import sys, time
sys.stdout.write("one")
sys.stdout.flush()
time.sleep(0.3)
print("\\ntwo")
"""
SOUND = ("A formula $x^2$.", IN_PIECES)
# What is on the page, and the words by which the build must complain.
DEFECTS = {
    "a call of interact": (
        ("Text.", "from ipywidgets import interact\ninteract(lambda x: x, x=(0, 3));"),
        "interact.html: an output is a widget view that needs a kernel",
    ),
    "a picture from another host": (
        (
            "Text.",
            "from IPython.display import HTML\n"
            'HTML(\'<img src="https://example.org/a.png" alt="a">\')',
        ),
        "host.html: loads https://example.org/a.png from another host",
    ),
    "output on stderr": (
        ("Text.", "import sys\nprint('careful', file=sys.stderr)"),
        "stderr was found in the cell outputs",
    ),
    "a dead link": (("[x](#nowhere)", "print(1)"), "nowhere"),
    "an unknown role": (("{nonsense}`x`", "print(1)"), "nonsense"),
}


def small_book(folder: Path, pages: dict[str, tuple[str, str]]) -> Path:
    """A book of one-cell pages with this book's configuration, theme and checks."""
    book = folder / "book"
    book.mkdir(parents=True)
    (folder / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    first, *others = pages
    contents = {"format": "jb-book", "root": first}
    if others:
        contents["chapters"] = [{"file": page} for page in others]
    (folder / "_toc.yml").write_text(yaml.safe_dump(contents))
    for part in ("_ext", "_theme", "references.bib"):
        (book / part).symlink_to(BOOK / part)
    for name, (text, cell) in pages.items():
        notebook = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_markdown_cell(f"# Title\n\n{text}", id="text"),
                nbformat.v4.new_code_cell(cell, id="code"),
            ],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, book / f"{name}.ipynb")
    return folder


def test_a_sound_book_builds_twice_to_the_same_bytes(tmp_path):
    built = []
    for copy in ("first", "second"):
        site = build(small_book(tmp_path / copy, {"index": SOUND}))
        built.append({f.relative_to(site): f.read_bytes() for f in site.rglob("*") if f.is_file()})
    assert b"one\ntwo\n" in built[0][Path("index.html")]
    assert built[0] == built[1]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory) -> str:
    """What the build says about a book that has every defect, one a page."""
    names = {name.split()[-1]: page for name, (page, _) in DEFECTS.items()}
    root = small_book(tmp_path_factory.mktemp("defective"), {"index": SOUND, **names})
    program = (
        f"from pathlib import Path; from llmr_ref.book import build; build(Path({str(root)!r}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode != 0
    assert "The book was not built" in run.stderr
    return run.stdout + run.stderr


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_build_names_every_defect(defect, complaints):
    assert DEFECTS[defect][1] in complaints


def test_an_error_in_a_cell_stops_the_build(tmp_path, capfd):
    root = small_book(tmp_path / "book", {"index": ("Text.", "1 / 0")})
    with pytest.raises(RuntimeError, match="not built"):
        build(root)
    assert "ZeroDivisionError" in "".join(capfd.readouterr())


@pytest.mark.parametrize("url", ["llmr", "example.org/llmr", "ftp://example.org/", "https://"])
def test_what_is_no_web_address_is_refused(tmp_path, url):
    with pytest.raises(ValueError, match=re.escape(repr(url))):
        build(tmp_path, url=url)


def test_a_folder_without_a_book_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        build(tmp_path)


# ---- what a site needs around its text -------------------------------------------

GLOSSARY = "# Glossary\n\nWhich word?\n\n:::{glossary}\nlogits\n  Numbers before the softmax, & more.\n:::\n"


def with_glossary(root: Path) -> Path:
    (root / "book" / "glossary.md").write_text(GLOSSARY)
    contents = yaml.safe_load((root / "_toc.yml").read_text())
    contents["chapters"] = [{"file": "glossary"}]
    (root / "_toc.yml").write_text(yaml.safe_dump(contents))
    return root


def test_a_cell_runs_again_only_when_its_page_or_the_reference_has_changed(tmp_path):
    runs = tmp_path / "runs"
    root = small_book(
        tmp_path / "book", {"index": ("Text.", f"open({str(runs)!r}, 'a').write('x');")}
    )
    first = build(root)
    before = {f.relative_to(first): f.read_bytes() for f in first.rglob("*") if f.is_file()}
    again = build(root)
    assert {f.relative_to(again): f.read_bytes() for f in again.rglob("*") if f.is_file()} == before
    assert runs.read_text() == "x"
    (root / "llmr_ref").mkdir()
    (root / "llmr_ref" / "rope.py").write_text("# changed")
    build(root)
    assert runs.read_text() == "xx"


def test_a_site_with_an_address_has_a_sitemap_previews_and_a_page_for_wrong_addresses(tmp_path):
    root = small_book(
        tmp_path, {"index": ("Why?", "1"), "second": ("Raw <b>text</b> & more?", "2")}
    )
    site = build(root, url="https://example.org/llmr")
    sitemap = (site / "sitemap.xml").read_text()
    found = re.findall("<loc>(.*?)</loc>", sitemap)
    assert found == ["https://example.org/llmr/", "https://example.org/llmr/second.html"]
    page = BeautifulSoup((site / "second.html").read_text(), "html.parser")
    told = {m.get("property") or m.get("name"): m["content"] for m in page.select("meta[content]")}
    assert told["og:url"] == "https://example.org/llmr/second.html"
    assert told["og:image"] == "https://example.org/llmr/_static/preview.png"
    assert (site / "_static" / "preview.png").is_file()
    assert told["og:title"] == "Title" and "more?" in told["description"]
    assert '<base href="https://example.org/llmr/">' in (site / "404.html").read_text()


def test_a_site_without_an_address_names_none(tmp_path, monkeypatch):
    monkeypatch.delenv("LLMR_BOOK_URL", raising=False)
    site = build(small_book(tmp_path, {"index": SOUND}))
    assert not (site / "sitemap.xml").exists()
    page = BeautifulSoup((site / "index.html").read_text(), "html.parser")
    assert page.select("[property='og:url'], [property='og:image'], [rel=canonical]") == []
    assert page.select(".page-facts a[href*='hub']") == []
    wrong = BeautifulSoup((site / "404.html").read_text(), "html.parser")
    assert wrong.h1.text == "There is no such page" and not wrong.select("base")


def test_a_page_tells_its_reading_time_and_gives_its_notebook(tmp_path):
    words = " ".join(["word"] * 900)
    code = "\n".join(["x = 1"] * 40) + "\nprint('seen ' * 5000)"
    root = small_book(tmp_path, {"index": (words, code)})
    configuration = (root / "_config.yml").read_text()
    (root / "_config.yml").write_text(
        configuration.replace(
            'book_launch_url: ""', 'book_launch_url: "https://hub.test/{notebook}"'
        )
    )
    site = build(root)
    facts = BeautifulSoup((site / "index.html").read_text(), "html.parser").select_one(
        ".page-facts"
    )
    assert "8 minutes to read" in facts.text  # 900 words, 41 lines; what a cell prints is skimmed
    download, online = facts.select("a")
    assert (site / download["href"]).read_bytes() == (root / "book" / "index.ipynb").read_bytes()
    assert online["href"] == "https://hub.test/book/index.ipynb"


def test_the_first_mention_of_a_term_carries_its_definition(tmp_path):
    text = "## No logits here\n\nThe `logits` and [logits](#no-logits-here), then Logits, then logits again."
    site = build(with_glossary(small_book(tmp_path, {"index": (text, "1")})))
    page = BeautifulSoup((site / "index.html").read_text(), "html.parser")
    (link,) = page.select("a[data-definition]")
    assert link.text == "Logits" and link["href"] == "glossary.html#term-logits"
    assert link["data-definition"] == "Numbers before the softmax, & more."
    glossary = BeautifulSoup((site / "glossary.html").read_text(), "html.parser")
    assert glossary.select("#term-logits") and not glossary.select("a[data-definition]")
