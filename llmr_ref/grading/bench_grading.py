"""How fast a class is graded: stock `nbgrader autograde` against `llmr grade`, on the same submissions."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from nbgrader.api import Gradebook
from rich.console import Console
from rich.table import Table

from llmr_ref.grading.course import CourseError, run_nbgrader
from llmr_ref.grading.sample_class import write_sample_class

WANTED_RATIO = 25.0
GROWTH = (16, 64, 256, 1024)  # students
SAMPLE_SECONDS = 0.2
STOCK = 'c = get_config()\nc.CourseDirectory.course_id = "llmr"\n'  # no setting of ours

console = Console()


@dataclass(frozen=True)
class Peak:
    """The most memory that one process of a kind has held, in MB."""

    trusted: float = 0.0
    sandboxed: float = 0.0


def main(course: Path, assignment: str, *, students: int, stock_students: int, growth: bool) -> int:
    """Print the comparison, and with `growth` how time and memory grow. 0 when the ratio is reached.

    Raises: CourseError when a run fails or honest submissions get other scores than from stock nbgrader.
    """
    with tempfile.TemporaryDirectory(prefix="llmr-bench-") as folder:
        stock = _course(course, assignment, Path(folder) / "stock", STOCK)
        alone = _course(course, assignment, Path(folder) / "alone")
        ours = _course(course, assignment, Path(folder) / "ours")
        _hand_in(stock, assignment, students, stock_students)
        _hand_in(alone, assignment, students, 1)
        _hand_in(ours, assignment, students, students)
        start_up, seconds = _stock(stock, assignment)
        stock_each = seconds / stock_students
        first, _ = _ours(alone, assignment, memory=False)
        whole, _ = _ours(ours, assignment, memory=False)
        _require_same_scores(stock, ours, assignment)
        stock_rate, rate = 1 / stock_each, (students - 1) / (whole - first)
        _print_comparison([
            ("nbgrader autograde, stock", stock_students, start_up + seconds, ""),
            ("  without its start-up", stock_students, seconds, f"{60 * stock_rate:.1f}"),
            ("llmr grade", students, whole, f"{60 * students / whole:.1f}"),
            ("  without the time for one", students - 1, whole - first, f"{60 * rate:.1f}"),
        ])  # fmt: skip
        ratio = stock_each * students / whole
        console.print(
            f"{ratio:.1f} times the throughput, with start-up, export and report held against "
            f"llmr alone; wanted: at least {WANTED_RATIO:g}.\n"
            f"Once both run: {rate / stock_rate:.1f} times."
        )
        if growth:
            _print_growth(course, assignment, Path(folder), stock_each)
    return 0 if ratio >= WANTED_RATIO else 1


def _course(model: Path, assignment: str, root: Path, configuration: str = "") -> Path:
    """A new course with a release version, configured as the model or as given."""
    (root / "source").mkdir(parents=True)
    shutil.copytree(model / "source" / assignment, root / "source" / assignment)
    text = configuration or (model / "nbgrader_config.py").read_text("utf-8")
    (root / "nbgrader_config.py").write_text(text, "utf-8")
    run_nbgrader(root, "generate_assignment", assignment)
    return root


def _hand_in(course: Path, assignment: str, students: int, keep: int) -> None:
    """Honest submissions of real length by the first `keep` of a class of `students`."""
    for folder in write_sample_class(course, assignment, students, kinds=())[keep:]:
        shutil.rmtree(folder.parent)


def _stock(course: Path, assignment: str) -> tuple[float, float]:
    """Seconds up to the first student, and from there to the last."""
    begun = first = time.monotonic()

    def watch(line: str) -> None:
        nonlocal first
        if first == begun and "] Sanitizing " in line:
            first = time.monotonic()

    _run(course, [sys.executable, "-m", "nbgrader", "autograde", assignment], watch)
    return first - begun, time.monotonic() - first


def _ours(course: Path, assignment: str, *, memory: bool) -> tuple[float, Peak]:
    """Seconds of the whole command, start-up, export and report included, and its peak memory.

    Looking at the memory takes some of the time, so it is asked for.
    """
    command = [sys.executable, "-m", "llmr_ref.cli", "grade", assignment, "--course", str(course)]
    start = time.monotonic()
    peak = _run(course, [*command, "--no-feedback"], lambda _: None, memory=memory)
    return time.monotonic() - start, peak


def _run(
    course: Path, command: list[str], watch: Callable[[str], None], *, memory: bool = False
) -> Peak:
    """Run to the end. Raises: CourseError with the end of what was said when it fails."""
    said: list[str] = []
    process = subprocess.Popen(
        command, cwd=course, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        errors="replace",
    )  # fmt: skip
    looking = _Memory(process.pid) if memory else contextlib.nullcontext()
    with process, looking:
        assert process.stdout is not None
        for line in process.stdout:
            watch(line)
            said.append(line.rstrip())
    if process.returncode != 0:
        raise CourseError("\n".join([f"{' '.join(command)} failed:", *said[-20:]]))
    return looking.peak if isinstance(looking, _Memory) else Peak()


class _Memory:
    """Looks at a process and its descendants again and again, and keeps the largest of each kind."""

    def __init__(self, pid: int) -> None:
        self.peak = Peak()
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            with contextlib.suppress(psutil.Error):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        self._add(process)

    def _add(self, process: psutil.Process) -> None:
        held = process.memory_info().rss / 2**20
        if any(part.endswith("worker.py") for part in process.cmdline()):
            self.peak = replace(self.peak, sandboxed=max(self.peak.sandboxed, held))
        else:
            self.peak = replace(self.peak, trusted=max(self.peak.trusted, held))


def _require_same_scores(stock: Path, ours: Path, assignment: str) -> None:
    """Raises: CourseError when an honest submission gets another score, or none."""
    theirs, own = _scores(stock, assignment), _scores(ours, assignment)
    different = [
        f"{student}, {cell}: {score} on stock nbgrader, {own.get((student, cell))} here"
        for (student, cell), score in theirs.items()
        if own.get((student, cell)) != score
    ]
    if different or not theirs:
        raise CourseError("honest submissions get other scores:\n" + "\n".join(different[:20]))


def _scores(course: Path, assignment: str) -> dict[tuple[str, str], float | None]:
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "llmr") as gradebook:
        return {
            (submission.student.id, grade.name): grade.auto_score
            for submission in gradebook.assignment_submissions(assignment)
            for notebook in submission.notebooks
            for grade in notebook.grades
        }


def _print_comparison(rows: list[tuple[str, int, float, str]]) -> None:
    table = Table(title="Autograding honest submissions; the scores are the same")
    for column in ("", "students", "seconds", "a minute"):
        table.add_column(column, justify="right" if column else "left")
    for name, students, seconds, rate in rows:
        table.add_row(name, str(students), f"{seconds:.1f}", rate)
    console.print(table)


def _print_growth(course: Path, assignment: str, folder: Path, stock_each: float) -> None:
    table = Table(title="llmr grade: time and the largest process of each kind")
    for column in (
        "students", "seconds", "seconds each", "times stock", "trusted MB", "sandboxed MB"
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for students in GROWTH:
        root = _course(course, assignment, folder / str(students))
        _hand_in(root, assignment, students, students)
        seconds, peak = _ours(root, assignment, memory=True)
        each = seconds / students
        table.add_row(
            str(students), f"{seconds:.1f}", f"{each:.2f}", f"{stock_each / each:.1f}",
            f"{peak.trusted:.0f}", f"{peak.sandboxed:.0f}",
        )  # fmt: skip
    console.print(table)
