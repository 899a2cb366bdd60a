"""What `llmr doctor` looks at: each thing LLMR needs, what is there, and what to do where it is not."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from llmr_ref import chromium, set_up

ROOT = Path(__file__).resolve().parents[1]
TORCH = "2.13.0"

State = Literal["ok", "weaker", "missing"]
MARKS: dict[State, str] = {
    "ok": "[green]ok[/]",
    "weaker": "[yellow]weaker[/]",
    "missing": "[red]missing[/]",
}


@dataclass
class Finding:
    """`state` is "missing" where something needed is not there, "weaker" where one can go on."""

    subject: str
    state: State
    found: str
    remedy: str = ""


def book_state(root: Path = ROOT) -> Literal["built", "stale", "missing"]:
    """Whether _build/html is there and not older than anything it is made from."""
    built = root / "_build" / "html" / "index.html"
    if not built.is_file():
        return "missing"
    sources = [root / "_config.yml", root / "_toc.yml"]
    for folder in ("book", "llmr_ref"):
        sources += [
            path
            for path in (root / folder).rglob("*")
            if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
        ]
    newest = max(path.stat().st_mtime for path in sources)
    return "built" if built.stat().st_mtime >= newest else "stale"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


REINSTALL = "rm -r .venv, then any make command"


def check_python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("Python", "ok", found)


def check_torch() -> Finding:
    found = _installed("torch")
    if found is None:
        return Finding("torch", "missing", "not installed", REINSTALL)
    import torch

    if torch.cuda.is_available():
        device = f"CUDA ({torch.cuda.get_device_name()})"
    elif torch.backends.mps.is_available():
        device = "MPS"
    else:
        device = f"CPU ({torch.get_num_threads()} threads)"
    if found.split("+")[0] != TORCH:
        return Finding("torch", "weaker", f"{found}, {device}", f"meant is {TORCH}: {REINSTALL}")
    return Finding("torch", "ok", f"{torch.__version__}, {device}")


def check_jupyter_book() -> Finding:
    found = _installed("jupyter-book")
    if found is None:
        return Finding("Jupyter Book", "missing", "not installed", REINSTALL)
    if not found.startswith("1."):
        return Finding("Jupyter Book", "missing", found, f"1.x is needed: {REINSTALL}")
    return Finding("Jupyter Book", "ok", found)


def check_jupyterlab() -> Finding:
    found = _installed("jupyterlab")
    if found is None:
        return Finding("JupyterLab", "missing", "not installed", REINSTALL)
    return Finding("JupyterLab", "ok", found)


def check_nbgrader() -> Finding:
    from packaging.version import Version

    found = _installed("nbgrader")
    if found is None:
        return Finding("nbgrader", "missing", "not installed", REINSTALL)
    if Version(found) < Version("0.9.6"):
        return Finding("nbgrader", "missing", found, f"0.9.6 mends a leak of files: {REINSTALL}")
    return Finding("nbgrader", "ok", found)


def check_chromium() -> Finding:
    path = chromium.executable()
    if path is None:
        remedy = "browser tests and pictures need it: sudo apt-get install chromium"
        return Finding("Chromium", "missing", "not on PATH", remedy)
    return Finding("Chromium", "ok", path)


def check_bubblewrap() -> Finding:
    problem = set_up.why_no_sandbox()
    if problem:
        return Finding("bubblewrap", "missing", "no sandbox", problem)
    return Finding("bubblewrap", "ok", "present and working")


def check_grading_tier() -> Finding:
    from llmr_ref.grading.sandbox import available_tier
    from llmr_ref.grading.tiers import TIERS

    tier, reason = available_tier()
    protects = TIERS[tier].name
    if tier < 2:
        return Finding("Grading tier", "weaker", f"{tier}: {protects}", reason)
    return Finding("Grading tier", "ok", f"{tier}: {protects}")


def check_book() -> Finding:
    state = book_state()
    found = {
        "built": "built, up to date",
        "stale": "built, older than its sources",
        "missing": "not built yet",
    }[state]
    if state == "built":
        return Finding("Book", "ok", found)
    return Finding("Book", "weaker", found, "make book")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_torch,
    check_jupyter_book,
    check_jupyterlab,
    check_nbgrader,
    check_chromium,
    check_bubblewrap,
    check_grading_tier,
    check_book,
)


def examine(checks: tuple[Callable[[], Finding], ...] = CHECKS) -> int:
    """Print one line per check. Returns 1 if something needed is missing, else 0."""
    findings = [check() for check in checks]
    table = Table(title="LLMR on this machine", title_justify="left", pad_edge=False)
    for heading in ("what", "state", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(finding.subject, MARKS[finding.state], finding.found, finding.remedy)
    console = Console()
    console.print(table)
    missing = [finding.subject for finding in findings if finding.state == "missing"]
    if missing:
        console.print(f"Missing: {', '.join(missing)}. The last column says what to do.")
    return 1 if missing else 0
