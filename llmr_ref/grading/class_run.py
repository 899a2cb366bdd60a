"""One run of `llmr grade`: work spread over processes or a cluster, nbgrader behind it, files at the end."""

import contextlib
import gc
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from nbgrader.apps import AutogradeApp, ExportApp
from nbgrader.converters.base import NbGraderException
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from llmr_ref.grading.ahead import Processes, on_cluster
from llmr_ref.grading.cache import Cache, exercise_fingerprint
from llmr_ref.grading.course import CourseError, console
from llmr_ref.grading.engine import Work, as_text, do_text, look_up
from llmr_ref.grading.exercises import assignment_exercises
from llmr_ref.grading.guard import Refused
from llmr_ref.grading.in_process import Following, nbgrader_app, without_repetition, write_feedback
from llmr_ref.grading.intake import is_finished
from llmr_ref.grading.launch import Line
from llmr_ref.grading.report import write_report
from llmr_ref.grading.sandbox import grading_tier, tier_is_known
from llmr_ref.grading.verdict import practice_trials


class ClassRun:
    """The steps of a run, in order; closing it ends every process that it started."""

    def __init__(
        self,
        course: Path,
        assignment: str,
        workers: int,
        scheduler: str,
        lines: Sequence[Line] = (),
    ) -> None:
        self.course, self.assignment = course, assignment
        self.workers, self.scheduler = workers, scheduler
        self.store = Cache(course)
        for exercise in assignment_exercises(assignment):
            practice_trials(exercise)  # here once, so that every forked process has both
            exercise_fingerprint(exercise)
        self._closing = contextlib.ExitStack()
        gc.freeze()  # what is here now stays: no collection need walk it, nor a fork copy it for that
        self._closing.callback(gc.unfreeze)
        self.processes = self._closing.enter_context(Processes(workers, lines))
        self._ready: dict[str, threading.Event] = {}

    def __enter__(self) -> "ClassRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._closing.__exit__(kind, error, trace)

    def submitted(self) -> list[str]:
        found = self.course.glob(f"submitted/*/{self.assignment}")
        return sorted(path.parent.name for path in found)

    def autograde(self) -> list[str]:
        """Grade whoever is not graded yet. Returns what went wrong, in sentences.

        Raises: CourseError when grading cannot go on at all.
        """
        app, said = nbgrader_app(self.course, AutogradeApp)
        app.coursedir.assignment_id = self.assignment
        students = self.submitted()
        graded = self.course / "autograded"
        if any(not (graded / student / self.assignment).is_dir() for student in students):
            try:
                found = self.processes.tier() if not self.scheduler else grading_tier()
            except RuntimeError as error:
                raise CourseError(str(error)) from error
            self._closing.enter_context(tier_is_known(*found))
        with _progress() as progress:
            ahead = progress.add_task("running submissions", total=None)
            behind = progress.add_task("grading", total=len(students))
            following = Following(
                begin=lambda due: self._begin(due, progress, ahead),
                ready=self._wait,
                done=lambda: progress.advance(behind),
                coursedir=app.coursedir,
                parent=app,
            )
            try:
                with without_repetition():
                    following.start()
            except Refused as refusal:
                raise CourseError(str(refusal)) from refusal
            except NbGraderException:
                console.print(
                    "\n".join(said.lines)
                )  # some students failed; who, is told at the end
            progress.update(behind, completed=len(students))
        self.store.prune()
        return [f"{s} could not be graded" for s in students if not self._is_graded(s)]

    def _is_graded(self, student: str) -> bool:
        found = list((self.course / "autograded" / student / self.assignment).glob("*.ipynb"))
        return bool(found) and all(map(is_finished, found))

    def _begin(self, due: dict[str, Work], progress: Progress, task: TaskID) -> None:
        """Send out whatever the cache does not have, and gather it behind nbgrader's back."""
        texts = {}
        for name, work in due.items():
            complete, known = look_up(work, self.store)
            if not complete:
                texts[name] = as_text(work, known)
        progress.update(task, total=len(due), completed=len(due) - len(texts))
        for name in texts:
            self._ready.setdefault(name.split("/")[0], threading.Event())
        if texts:
            arguments = (texts, progress, task)
            threading.Thread(target=self._gather, args=arguments, daemon=True).start()

    def _gather(self, texts: dict[str, str], progress: Progress, task: TaskID) -> None:
        waiting = list(texts)
        try:
            for name, text in self._results(texts):
                for result, value in json.loads(text).items():
                    self.store.put(result, value)
                waiting.remove(name)
                student = name.split("/")[0]
                if not any(other.startswith(f"{student}/") for other in waiting):
                    self._ready[student].set()
                progress.advance(task)
        except Exception as error:
            console.print(f"The work is done here instead, one by one: {error}")
        finally:
            for event in self._ready.values():
                event.set()

    def _results(self, texts: dict[str, str]) -> Iterator[tuple[str, str]]:
        if self.scheduler:
            return on_cluster(self.scheduler, texts)
        return self.processes.each(do_text, {name: (text,) for name, text in texts.items()})

    def _wait(self, student: str) -> None:
        if student in self._ready:
            self._ready[student].wait()

    def feedback(self) -> list[str]:
        """Write everybody's feedback. Returns what went wrong, in sentences."""
        parts = 4 * self.workers
        calls = {str(i): (self.course, self.assignment, i, parts) for i in range(parts)}
        problems: list[str] = []
        with _progress() as progress:
            task = progress.add_task("writing feedback", total=parts)
            written = 0
            for _, failed in self.processes.each(write_feedback, calls):
                progress.advance(task)
                written += 1
                problems += failed
        if written < parts:
            problems.append("some feedback was not written; run the same command again")
        return problems

    def export(self) -> None:
        """Write the grades as nbgrader exports them."""
        target = self.course / "exports" / f"{self.assignment}.csv"
        target.parent.mkdir(exist_ok=True)
        app, _ = nbgrader_app(
            self.course, ExportApp, "--to", str(target), "--assignment", f"['{self.assignment}']"
        )
        app.start()
        console.print(f"grades: {target}")

    def report(self) -> None:
        """Write the class report."""
        target = self.course / "reports" / f"{self.assignment}.html"
        console.print(f"report: {write_report(self.course, self.assignment, target)}")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
