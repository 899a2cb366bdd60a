"""The instructor's short path: nbgrader's own commands in their order, then the class report."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmr_ref.grading.exercises import ASSIGNMENTS

console = Console(stderr=True)
LINES_KEPT = 40  # of nbgrader's output, shown when it fails


class CourseError(RuntimeError):
    """Something about the course folder is not as it must be; the message says what to do."""


def generate(course: Path, assignment: str) -> None:
    """Make the release version of an assignment, without its solutions.

    Raises: CourseError for a course or an assignment that does not exist, or when nbgrader fails.
    """
    _require(course, assignment)
    run_nbgrader(course, "generate_assignment", assignment, "--force")


def grade(course: Path, assignment: str, *, tier: str = "auto") -> int:
    """Autograde what was submitted, write feedback, export grades and the report. 0 when all went well.

    Submissions that are graded already are left alone, so an interrupted run goes on where it stopped.
    tier: "auto" demands the sandbox (tier 2); "1" allows grading without it.
    Raises: CourseError for a course that is not ready, or when a step fails.
    """
    from llmr_ref.grading.report import write_report

    _require(course, assignment)
    if tier not in ("auto", "1", "2"):
        raise CourseError(f"tier is {tier!r}; choose auto, 1 or 2")
    submitted = sorted(course.glob(f"submitted/*/{assignment}"))
    if not submitted:
        raise CourseError(
            f"nothing is submitted: {course}/submitted/<student>/{assignment} does not exist. "
            f"Collect submissions, or make a class with `llmr sample-class {assignment}`."
        )
    if not (course / "release" / assignment).is_dir():
        generate(course, assignment)
    environment = {"LLMR_LOWEST_TIER": "1" if tier == "1" else "2"}
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console,
    ) as progress:  # fmt: skip
        task = progress.add_task("autograding", total=len(submitted))

        def count(line: str) -> None:
            if "] Sanitizing " in line or "] Skipping existing assignment" in line:
                progress.advance(task)

        run_nbgrader(course, "autograde", assignment, environment=environment, watch=count)
        progress.update(task, completed=len(submitted))
    console.print("writing feedback")
    run_nbgrader(course, "generate_feedback", assignment, "--force")
    (course / "exports").mkdir(exist_ok=True)
    run_nbgrader(
        course, "export", "--to", f"exports/{assignment}.csv", "--assignment", f"['{assignment}']"
    )
    report = write_report(course, assignment, course / "reports" / f"{assignment}.html")
    console.print(f"report: {report}")
    console.print(f"grades: {course / 'exports' / f'{assignment}.csv'}")
    return 0


def _require(course: Path, assignment: str) -> None:
    if not (course / "nbgrader_config.py").is_file():
        raise CourseError(f"{course} is not a course: it has no nbgrader_config.py")
    if not (course / "source" / assignment).is_dir():
        known = ", ".join(sorted(p.name for p in (course / "source").glob("*"))) or "none"
        raise CourseError(
            f"there is no assignment {assignment!r} in {course}/source; there are: {known}"
        )
    if assignment not in ASSIGNMENTS:
        raise CourseError(
            f"assignment {assignment!r} has no exercises; there are: {', '.join(ASSIGNMENTS)}"
        )


def run_nbgrader(
    course: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    watch: Callable[[str], None] = lambda line: None,
) -> None:
    """Run an nbgrader command in the course. Raises: CourseError with the end of its output."""
    folder = str(Path(sys.executable).parent)  # nbgrader starts alembic by its bare name
    path = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "nbgrader", *arguments]
    kept: list[str] = []
    with subprocess.Popen(
        command, cwd=course, env={**os.environ, "PATH": path, **(environment or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            watch(line)
            kept = [*kept[-LINES_KEPT + 1 :], line.rstrip()]
    if process.returncode != 0:
        raise CourseError(f"`nbgrader {' '.join(arguments)}` failed:\n" + "\n".join(kept))
