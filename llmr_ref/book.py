"""Build the book into _build/html, and serve it: what `llmr book` calls."""

import shutil
import subprocess
import sys
from pathlib import Path

from llmr_ref.site_server import DEFAULT_PORT, SiteServer, serve_until_interrupted

ROOT = Path(__file__).resolve().parents[1]


def build(root: Path = ROOT, *, clean: bool = False) -> Path:
    """Run Jupyter Book on `root`/book; return the folder of the finished pages, `root`/_build/html.

    Every chapter is executed. Warnings, cell errors and the findings of book/_ext/book_checks.py are
    errors; all of them are shown before the build gives up. `clean` drops the last build's files first.
    Raises: FileNotFoundError when `root` holds no book; RuntimeError when the build fails.
    """
    if not (root / "_config.yml").is_file():
        raise FileNotFoundError(
            f"{root} holds no book: there is no _config.yml; run from a checkout"
        )
    output = root / "_build"
    if clean:
        for built in ("html", ".doctrees", "jupyter_execute", ".jupyter_cache"):
            shutil.rmtree(output / built, ignore_errors=True)
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*jupyter_book, "build", "book", "--path-output", ".", "--config", "_config.yml"]
    # Sphinx takes a relative table of contents to lie in book/.
    command += ["--toc", str(root / "_toc.yml"), "-W", "--keep-going"]
    # --all: a page also depends on the reference and on the theme, which Sphinx does not watch.
    finished = subprocess.run([*command, "--all"], cwd=root)
    if finished.returncode:
        raise RuntimeError("The book was not built. The lines above name every defect; mend them.")
    return output / "html"


def serve(directory: Path, port: int = DEFAULT_PORT) -> None:
    """Serve a built book at http://127.0.0.1:`port`/book/ until Ctrl-C."""
    server = SiteServer({"/book/": directory}, port)
    print(f"The book is at {server.url}/book/ (Ctrl-C stops it).", flush=True)
    serve_until_interrupted(server)
