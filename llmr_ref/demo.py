"""`llmr demo`: the book, a graded sample class and its report, behind one landing page."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from llmr_ref import book
from llmr_ref.doctor import book_state
from llmr_ref.site_server import SiteServer, serve_until_interrupted

ASSIGNMENT = "attention"
STUDENTS = 24

console = Console(highlight=False)


@dataclass
class ClassSummary:
    """What the landing page says of the graded class."""

    students: int
    graded: int
    mean: float
    max_score: float
    chosen: str  # whose feedback the page links
    chosen_score: float
    chosen_page: str


def inputs_digest(root: Path) -> str:
    """Of everything that decides a grade: when it changes, the class is graded afresh."""
    files = [root / "assignments" / "nbgrader_config.py"]
    files += sorted((root / "assignments" / "source").rglob("*.ipynb"))
    files += sorted(path for path in (root / "llmr_ref").rglob("*.py"))
    files += sorted(path for path in (root / "llmr_ref").rglob("*.jinja"))
    digest = hashlib.sha256()
    for path in files:
        if ".ipynb_checkpoints" not in path.parts:
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


class Progress:
    """Which steps are done for the present inputs, kept in a file so that a rerun goes on."""

    def __init__(self, folder: Path, inputs: str):
        self.file = folder / "done.json"
        self.inputs = inputs
        self.done: list[str] = []
        if self.file.exists():
            kept = json.loads(self.file.read_text())
            if kept["inputs"] == inputs:
                self.done = kept["done"]

    def mark(self, step: str) -> None:
        self.done.append(step)
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps({"inputs": self.inputs, "done": self.done}))
        draft.replace(self.file)


def fresh_course(root: Path, course: Path) -> None:
    """Copy the course's configuration and sources, nothing that anybody has submitted."""
    from llmr_ref.grading.course import generate

    shutil.rmtree(course, ignore_errors=True)
    course.mkdir(parents=True)
    shutil.copy2(root / "assignments" / "nbgrader_config.py", course)
    ignore = shutil.ignore_patterns(".ipynb_checkpoints")
    shutil.copytree(root / "assignments" / "source", course / "source", ignore=ignore)
    generate(course, ASSIGNMENT)


def write_class(course: Path) -> None:
    from llmr_ref.grading.sample_class import write_sample_class

    shutil.rmtree(course / "submitted", ignore_errors=True)
    write_sample_class(course, ASSIGNMENT, STUDENTS)


def grade_class(course: Path) -> None:
    from llmr_ref.grading.course import grade
    from llmr_ref.grading.sandbox import available_tier

    tier, reason = available_tier()
    if tier < 2:
        console.print(f"[bold yellow]Warning:[/] no sandbox, grading with tier {tier}: {reason}.")
    code = grade(course, ASSIGNMENT, tier="auto" if tier == 2 else "1")
    if code != 0:
        raise RuntimeError(f"Grading the sample class ended with exit code {code}.")


def summarise(course: Path) -> ClassSummary:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        scores = {
            submission.student.id: float(submission.score)
            for submission in gradebook.assignment_submissions(ASSIGNMENT)
        }
        max_score = float(gradebook.find_assignment(ASSIGNMENT).max_score)
    with_feedback = {
        student: score
        for student, score in scores.items()
        if feedback_page(course / "feedback", student)
    }
    if not with_feedback:
        raise RuntimeError(f"No student has a feedback page in {course / 'feedback'}.")
    # Somebody who got much right and something wrong: there is most to read.
    chosen = min(sorted(with_feedback), key=lambda s: abs(with_feedback[s] - 0.7 * max_score))
    page = feedback_page(course / "feedback", chosen)
    assert page is not None  # it is one of those with a page
    return ClassSummary(
        students=len(list((course / "submitted").glob("*/"))),
        graded=len(scores),
        mean=sum(scores.values()) / len(scores),
        max_score=max_score,
        chosen=chosen,
        chosen_score=scores[chosen],
        chosen_page=page.relative_to(course).as_posix(),
    )


def feedback_page(folder: Path, student: str) -> Path | None:
    pages = sorted((folder / student / ASSIGNMENT).glob("*.html"))
    return pages[0] if pages else None


def assemble(root: Path, course: Path, site: Path) -> None:
    """Write the site: the landing page, the book, the report, the feedback and the grades."""
    from llmr_ref.grading.report import write_report

    for old in site.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(root / "_build" / "html", site / "book")
    shutil.copytree(course / "feedback", site / "feedback")
    shutil.copy2(course / "exports" / f"{ASSIGNMENT}.csv", site / "grades.csv")
    write_report(course, ASSIGNMENT, site / "report.html", feedback_root=site / "feedback")
    (site / "index.html").write_text(landing_page(root, course, summarise(course)))


def landing_page(root: Path, course: Path, summary: ClassSummary) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return templates.get_template("demo.html.jinja").render(
        summary=summary, assignment=ASSIGNMENT, course=course.relative_to(root)
    )


def run(root: Path, *, serve: bool = True, port: int = 8000) -> int:
    """Make what is missing or out of date, then serve it. Returns the exit code.

    Raises: OSError when the port is taken; RuntimeError when a step fails.
    """
    folder = root / "_build" / "demo"
    course, site = folder / "course", folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    server = SiteServer({"/": site}, port) if serve else None  # a taken port shows at once
    os.environ["LLMR_BOOK_URL"] = "/book"  # where cards and report find the chapters

    progress = Progress(folder, inputs_digest(root))
    steps: list[tuple[str, str, bool, Callable[[], object]]] = [
        # name, what is being done, is it done, how
        ("book", "Building the book", book_state(root) == "built", lambda: book.build(root)),
        *(
            (name, doing, name in progress.done, work)
            for name, doing, work in (
                ("release", "Generating the release", lambda: fresh_course(root, course)),
                ("class", f"Writing {STUDENTS} submissions", lambda: write_class(course)),
                ("grades", "Grading, feedback, export", lambda: grade_class(course)),
            )
        ),
        ("site", "Writing the pages", False, lambda: assemble(root, course, site)),
    ]
    for number, (name, doing, done, work) in enumerate(steps, start=1):
        label = f"[bold]\\[{number}/{len(steps)}][/] {doing}"
        if done:
            console.print(f"{label}: [dim]up to date[/]")
            continue
        console.print(label)
        started = time.monotonic()
        work()
        if name in ("release", "class", "grades"):
            progress.mark(name)
        console.print(f"      [dim]{time.monotonic() - started:.0f} s[/]")

    if server is None:
        console.print(f"Made {site / 'index.html'}. `make demo` serves it.")
        return 0
    console.print(f"Open [bold]{server.url}[/] in a browser. Ctrl-C stops serving.")
    serve_until_interrupted(server)
    return 0
