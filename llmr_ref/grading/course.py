"""The instructor's short path: nbgrader's own commands in their order, then the class report."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from llmr_ref.grading.exercises import ASSIGNMENTS
from llmr_ref.grading.launch import Line, WorkerProcess

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


def grade(
    course: Path,
    assignment: str,
    *,
    tier: str = "auto",
    workers: int | None = None,
    scheduler: str = "",
    feedback: bool = True,
) -> int:
    """Autograde what was submitted, write feedback, export grades and the report. 0 when all went well.

    Submissions that are graded already are left alone, so an interrupted run goes on where it stopped.
    tier: "auto" demands the sandbox (tier 2); "1" allows grading without it.
    workers: processes that run submissions; as many as there are cores when None.
    scheduler: address of a dask scheduler whose workers run the submissions instead.
    Raises: CourseError for a course that is not ready, or when a step fails.
    """
    _require(course, assignment)
    if tier not in ("auto", "1", "2"):
        raise CourseError(f"tier is {tier!r}; choose auto, 1 or 2")
    if not any(course.glob(f"submitted/*/{assignment}")):
        raise CourseError(
            f"nothing is submitted: {course}/submitted/<student>/{assignment} does not exist. "
            f"Collect submissions, or make a class with `llmr sample-class {assignment}`."
        )
    if not (course / "release" / assignment).is_dir():
        generate(course, assignment)
    processes = workers or os.cpu_count() or 1
    with contextlib.ExitStack() as closing:
        closing.enter_context(lowest_tier(tier))
        lines: list[Line] = []
        if not scheduler and _any_ungraded(course, assignment) and shutil.which("bwrap"):
            started = WorkerProcess(2, processes)  # it loads torch while this process does
            closing.callback(started.close)
            lines = started.lines
        # jsonschema compiles a grammar for IRIs as it is imported, for a second; no schema has one here.
        sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
        from llmr_ref.grading.class_run import ClassRun

        run = closing.enter_context(ClassRun(course, assignment, processes, scheduler, lines))
        problems = run.autograde()
        if feedback:
            problems += run.feedback()
        run.export()
        run.report()
    for problem in problems:
        console.print(problem)
    return 1 if problems else 0


def _any_ungraded(course: Path, assignment: str) -> bool:
    submitted = course.glob(f"submitted/*/{assignment}")
    return any(not (course / "autograded" / p.parent.name / assignment).is_dir() for p in submitted)


@contextlib.contextmanager
def lowest_tier(tier: str) -> Iterator[None]:
    """Below which tier nothing is graded: 1 when that is asked for, else 2."""
    before = os.environ.get("LLMR_LOWEST_TIER")
    os.environ["LLMR_LOWEST_TIER"] = "1" if tier == "1" else "2"
    try:
        yield
    finally:
        del os.environ["LLMR_LOWEST_TIER"]
        if before is not None:
            os.environ["LLMR_LOWEST_TIER"] = before


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


def run_nbgrader(course: Path, *arguments: str) -> None:
    """Run an nbgrader command in the course. Raises: CourseError with the end of its output."""
    folder = str(Path(sys.executable).parent)  # nbgrader starts alembic by its bare name
    path = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments], cwd=course, env={**os.environ, "PATH": path},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
    )  # fmt: skip
    if done.returncode != 0:
        kept = "\n".join(done.stdout.splitlines()[-LINES_KEPT:])
        raise CourseError(f"`nbgrader {' '.join(arguments)}` failed:\n{kept}")
