"""Build the book into _build/html, print it into one PDF, and serve it: what `llmr book` calls."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from llmr_ref.site_server import DEFAULT_PORT, SiteServer, serve_until_interrupted, serving

ROOT = Path(__file__).resolve().parents[1]


def build(root: Path = ROOT, *, clean: bool = False, url: str = "") -> Path:
    """Run Jupyter Book on `root`/book; return the folder of the finished pages, `root`/_build/html.

    Every chapter is executed, unless neither it nor the reference has changed since it was. Warnings, cell
    errors and the findings of book/_ext/book_checks.py are errors; all of them are shown before the build
    gives up. `clean` drops the last build's files first. `url`: where the site will live, if that is known.
    Raises: FileNotFoundError when `root` holds no book; ValueError for a url that is no web address;
    RuntimeError when the build fails.
    """
    if url and not (urlsplit(url).scheme in ("http", "https") and urlsplit(url).netloc):
        raise ValueError(f"url is {url!r}; give the whole address, such as https://HOST/FOLDER/")
    if not (root / "_config.yml").is_file():
        raise FileNotFoundError(
            f"{root} holds no book: there is no _config.yml; run from a checkout"
        )
    output = root / "_build"
    if clean:
        for built in ("html", ".doctrees", "jupyter_execute", ".jupyter_cache"):
            shutil.rmtree(output / built, ignore_errors=True)
    _forget_outputs_of_other_code(root, output / ".jupyter_cache")
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*jupyter_book, "build", "book", "--path-output", ".", "--config", "_config.yml"]
    # Sphinx takes a relative table of contents to lie in book/.
    command += ["--toc", str(root / "_toc.yml"), "-W", "--keep-going"]
    # --all: a page also depends on the reference and on the theme, which Sphinx does not watch.
    environment = os.environ | ({"LLMR_BOOK_URL": url} if url else {})
    finished = subprocess.run([*command, "--all"], cwd=root, env=environment)
    if finished.returncode:
        raise RuntimeError("The book was not built. The lines above name every defect; mend them.")
    return output / "html"


def _forget_outputs_of_other_code(root: Path, cache: Path) -> None:
    """Drop stored outputs when anything has changed that a chapter may import or read."""
    digest = hashlib.sha256(platform.python_version().encode())
    for file in sorted(_what_chapters_use(root)):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    note = cache / "made-with"
    if not note.is_file() or note.read_text() != digest.hexdigest():
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        note.write_text(digest.hexdigest())


def _what_chapters_use(root: Path) -> Iterator[Path]:
    for folder, kinds in (("llmr_ref", (".py", ".mjs")), ("book", (".json", ".mplstyle"))):
        for file in (root / folder).rglob("*"):
            if file.suffix in kinds and ".ipynb_checkpoints" not in file.parts:
                yield file
    yield from (f for f in (root / "requirements.lock", root / "pyproject.toml") if f.is_file())


PAPER: dict[str, Any] = {
    "format": "A4", "print_background": True, "display_header_footer": True, "header_template": "<i></i>",
    "margin": {"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
}  # fmt: skip
FOOTER = (
    '<div style="width:100%;margin:0 18mm;font:8pt sans-serif;display:flex;justify-content:space-between">'
    '<span class="title"></span><span class="pageNumber"></span></div>'
)
# A link to another page would name the server that is gone by the time that somebody reads the paper.
KEEP_LINKS_THAT_LAST = """() => {
  for (const link of document.querySelectorAll("main a[href]"))
    if (link.origin === location.origin && link.pathname !== location.pathname) link.removeAttribute("href");
  for (const details of document.querySelectorAll("main details")) details.open = true;
}"""


def print_pdf(directory: Path, target: Path) -> int:
    """Print every page of a built book, in reading order, into one file; returns the number of sheets.

    Raises: FileNotFoundError without Chromium or without a built book.
    """
    from playwright.sync_api import sync_playwright
    from pypdf import PdfWriter
    from rich.progress import track

    from llmr_ref import chromium

    book = PdfWriter()
    book.add_metadata({"/Title": "LLMR"})
    with (
        tempfile.TemporaryDirectory() as folder,
        serving({"/book/": directory}) as address,
        sync_playwright() as playwright,
    ):
        browser = chromium.launch(playwright)
        page = browser.new_page(color_scheme="light")
        page.emulate_media(media="print")
        for number, name in enumerate(track(pages_in_order(), description="printing")):
            page.goto(f"{address}/book/{name}.html", wait_until="networkidle")
            page.evaluate("() => window.MathJax?.startup?.promise")
            page.evaluate(KEEP_LINKS_THAT_LAST)
            sheet = Path(folder) / f"{number}.pdf"
            page.pdf(path=sheet, footer_template=FOOTER, **PAPER)
            book.append(sheet, outline_item=page.locator("h1").first.inner_text())
        browser.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    book.write(target)
    return len(book.pages)


def pages_in_order(root: Path = ROOT) -> list[str]:
    """Names of the book's pages as _toc.yml gives them."""
    contents = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return [contents["root"], *chapters]


def serve(directory: Path, port: int = DEFAULT_PORT) -> None:
    """Serve a built book at http://127.0.0.1:`port`/book/ until Ctrl-C."""
    server = SiteServer({"/book/": directory}, port)
    print(f"The book is at {server.url}/book/ (Ctrl-C stops it).", flush=True)
    serve_until_interrupted(server)
