"""`llmr demo`: the book, a sample class graded in three assignments and its reports, on one page."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from llmr_ref import book
from llmr_ref.doctor import book_state
from llmr_ref.site_server import SiteServer, serve_until_interrupted

# In the order in which a course hands them out, each with the kinds of its first submissions. None
# is one of every kind, cheats and endless loops too; the others are quick to grade.
ASSIGNMENTS: dict[str, Sequence[str] | None] = {
    "ngrams": (),
    "tokenizer": 4 * (
        "one misconception", "all right", "mixture", "all right", "untouched", "one misconception",
    ),
    "attention": None,
}  # fmt: skip
STUDENTS = 24

console = Console(highlight=False)


@dataclass
class ClassSummary:
    """What the landing page says of one graded assignment."""

    assignment: str
    title: str
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
    for assignment in ASSIGNMENTS:
        generate(course, assignment)


def write_class(course: Path) -> None:
    from llmr_ref.grading.sample_class import KINDS, write_sample_class

    shutil.rmtree(course / "submitted", ignore_errors=True)
    for assignment, kinds in ASSIGNMENTS.items():
        write_sample_class(course, assignment, STUDENTS, kinds=KINDS if kinds is None else kinds)


def grade_class(course: Path) -> None:
    from llmr_ref.grading.course import grade
    from llmr_ref.grading.sandbox import available_tier

    tier, reason = available_tier()
    if tier < 2:
        console.print(f"[bold yellow]Warning:[/] no sandbox, grading with tier {tier}: {reason}.")
    for assignment in ASSIGNMENTS:
        code = grade(course, assignment, tier="auto" if tier == 2 else "1")
        if code != 0:
            raise RuntimeError(f"Grading {assignment} ended with exit code {code}.")


def summarise(course: Path, assignment: str) -> ClassSummary:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        scores = {
            submission.student.id: float(submission.score)
            for submission in gradebook.assignment_submissions(assignment)
        }
        max_score = float(gradebook.find_assignment(assignment).max_score)
    with_feedback = {
        student: score
        for student, score in scores.items()
        if feedback_page(course, assignment, student)
    }
    if not with_feedback:
        raise RuntimeError(f"No student has feedback on {assignment} in {course / 'feedback'}.")
    # Somebody who got much right and something wrong: there is most to read.
    chosen = min(sorted(with_feedback), key=lambda s: abs(with_feedback[s] - 0.7 * max_score))
    page = feedback_page(course, assignment, chosen)
    assert page is not None  # it is one of those with a page
    return ClassSummary(
        assignment=assignment,
        title=title_of(course / "source" / assignment / f"{assignment}.ipynb"),
        students=len(list((course / "submitted").glob(f"*/{assignment}"))),
        graded=len(scores),
        mean=sum(scores.values()) / len(scores),
        max_score=max_score,
        chosen=chosen,
        chosen_score=scores[chosen],
        chosen_page=page.relative_to(course).as_posix(),
    )


def feedback_page(course: Path, assignment: str, student: str) -> Path | None:
    pages = sorted((course / "feedback" / student / assignment).glob("*.html"))
    return pages[0] if pages else None


def title_of(notebook: Path) -> str:
    """The notebook's first line, its heading."""
    first = "".join(json.loads(notebook.read_text("utf-8"))["cells"][0]["source"])
    return first.partition("\n")[0].lstrip("# ")


def assemble(root: Path, course: Path, site: Path) -> None:
    """Write the site: the landing page, the book, the reports, the feedback and the grades."""
    from llmr_ref.grading.report import write_report
    from llmr_ref.grading.trajectories import write_course_page

    for old in site.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(root / "_build" / "html", site / "book")
    shutil.copytree(course / "feedback", site / "feedback")
    shutil.copytree(course / "exports", site / "grades")
    reports = site / "reports"
    for assignment in ASSIGNMENTS:
        out = reports / f"{assignment}.html"
        write_report(course, assignment, out, feedback_root=site / "feedback", with_course=True)
    write_course_page(course, reports / "index.html")
    summaries = [summarise(course, assignment) for assignment in ASSIGNMENTS]
    (site / "index.html").write_text(landing_page(root, course, summaries))


def landing_page(root: Path, course: Path, summaries: Sequence[ClassSummary]) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return templates.get_template("demo.html.jinja").render(
        summaries=summaries, students=STUDENTS, course=course.relative_to(root)
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
                (
                    "class",
                    f"Writing {STUDENTS} submissions of {len(ASSIGNMENTS)} assignments",
                    lambda: write_class(course),
                ),
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
