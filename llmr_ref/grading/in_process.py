"""nbgrader's own converters in this process: the one writer to the gradebook, without what it repeats.

No step of nbgrader is replaced. While it runs, one open gradebook serves all steps, and the schema of cell
metadata is compiled once. What is graded and written is what its commands write.
"""

import contextlib
import functools
import json
import logging
import unittest.mock
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from nbgrader.api import Gradebook
from nbgrader.apps import GenerateFeedbackApp, NbGrader
from nbgrader.converters import Autograde, GenerateFeedback
from nbgrader.converters.base import BaseConverter, NbGraderException
from nbgrader.nbgraderformat import common

from llmr_ref.grading.autograde import course_secret, work_of
from llmr_ref.grading.engine import Work
from llmr_ref.grading.intake import Repair

App = TypeVar("App", bound=NbGrader)
LINES_KEPT = 40  # of what nbgrader says, shown when it fails


class LastLines(logging.Handler):
    """Keeps the end of nbgrader's log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def nbgrader_app(course: Path, kind: type[App], *arguments: str) -> tuple[App, LastLines]:
    """An nbgrader application with the configuration that its command would have in the course."""
    app = kind()
    with contextlib.chdir(course):
        app.initialize(list(arguments))
    said = LastLines()
    app.log.handlers[:] = [said]
    app.log.setLevel(logging.INFO)
    app.log.propagate = False
    return app, said


@contextlib.contextmanager
def without_repetition() -> Iterator[None]:
    """Let every step of nbgrader share one open gradebook, the assignment's cells and a compiled schema.

    It opens the gradebook again for each of some ten steps a student and looks whether the course is in
    it, looks up each cell of the assignment for each student, commits after every cell, and checks the
    schema of cell metadata itself before each cell that it checks with it. Here the steps only flush;
    what they wrote is committed before a notebook is read and before it is written, so that a finished
    file always has its grades.
    """
    opened: dict[str, Gradebook] = {}
    checked: set[tuple[str, str]] = set()
    sources: dict[tuple[str, str, str], SimpleNamespace] = {}
    make, finish, find = Gradebook.__init__, Gradebook.close, Gradebook.find_source_cell
    convert, write = BaseConverter.convert_single_notebook, BaseConverter.write_single_notebook

    def open_once(self: Gradebook, url: str, course: str = "default_course", *more: Any) -> None:
        if url not in opened:
            make(self, url, course, *more)
            self.db.commit = self.db.flush
            opened[url] = self
        else:
            self.__dict__.update(opened[url].__dict__, course_id=course)
        if (url, course) not in checked:  # it adds a course that is not there, once
            self.check_course(course)
            checked.add((url, course))

    def find_once(self: Gradebook, name: str, notebook: str, assignment: str) -> SimpleNamespace:
        where = name, notebook, assignment
        if where not in sources:
            sources[where] = SimpleNamespace(**find(self, *where).to_dict())
        return sources[where]

    def leave(self: Gradebook, kind: object, *_: object) -> None:
        if kind is not None:
            self.db.rollback()
        self.close()

    def close(self: Gradebook) -> None:
        self.db.expire_all()  # the next step reads what this one has changed, sums included

    def commit() -> None:
        for gradebook in opened.values():
            gradebook.db().commit()

    def after_commit(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            commit()
            return step(*args, **kwargs)

        return run

    changes = (
        (Gradebook, "__init__", open_once), (Gradebook, "__exit__", leave),
        (Gradebook, "close", close), (Gradebook, "find_source_cell", find_once),
        (common, "jsonschema", SimpleNamespace(validate=_validate)),
        (BaseConverter, "convert_single_notebook", after_commit(convert)),
        (BaseConverter, "write_single_notebook", after_commit(write)),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(unittest.mock.patch.object(owner, name, value))
        try:
            yield
            commit()
        finally:
            for gradebook in opened.values():
                finish(gradebook)


def _validate(instance: Any, schema: dict[str, Any]) -> None:
    """As jsonschema.validate. Raises: ValidationError."""
    error = _error(json.dumps(instance), json.dumps(schema))
    if error is not None:
        raise error


@functools.lru_cache(maxsize=256)  # everybody hands in the same cells
def _error(instance: str, schema: str) -> Exception | None:
    return best_match(_validator(schema).iter_errors(json.loads(instance)))


@functools.cache
def _validator(schema: str) -> Any:
    kind = validator_for(json.loads(schema))
    kind.check_schema(json.loads(schema))
    return kind(json.loads(schema))


class Following(Autograde):
    """nbgrader's autograde, behind results that are computed ahead of it.

    begin: called with the work of all submissions that are to be graded, in order. ready: called before
    a student's turn. done: called after it.
    """

    def __init__(
        self,
        begin: Callable[[dict[str, Work]], None],
        ready: Callable[[str], None],
        done: Callable[[], None],
        **settings: Any,
    ) -> None:
        self.begin, self.ready, self.done = begin, ready, done
        super().__init__(**settings)

    def convert_notebooks(self) -> None:
        due: dict[str, Work] = {}
        for folder in sorted(self.assignments):
            try:
                due |= self._work_of(folder)
            except Exception as error:  # odd in some way: nbgrader's own run deals with it
                self.log.info("%s is not computed ahead: %r", folder, error)
        self.begin(due)
        super().convert_notebooks()

    def init_destination(self, assignment_id: str, student_id: str) -> bool:
        self.done()
        wanted = bool(super().init_destination(assignment_id, student_id))
        if wanted:
            self.ready(student_id)
        return wanted

    def _work_of(self, folder: str) -> dict[str, Work]:
        """The work of a submission, by student and notebook; none when it is graded already."""
        work = {}
        for path in sorted(self.assignments[folder]):
            resources = self.init_single_notebook_resources(path)
            info = resources["nbgrader"]
            graded = Path(self._format_dest(info["assignment"], info["student"]))
            new, old = map(self.coursedir.get_existing_timestamp, (folder, str(graded)))
            if graded.exists() and not (self.force or (new and old and new > old)):
                continue
            work[f"{info['student']}/{info['notebook']}"] = self._work(Path(path), resources)
        return work

    def _work(self, path: Path, resources: dict[str, Any]) -> Work:
        """What grading this notebook will come to, once nbgrader has sanitized it."""
        info = resources["nbgrader"]
        notebook = self.exporter._handed_in(path, resources)
        notebook, _ = Repair(parent=self.exporter).preprocess(notebook, resources)
        locked = _locked_sources(info["db_url"], info["assignment"], info["notebook"])
        for cell in notebook.cells:
            mark = cell.metadata.get("nbgrader", {}).get("grade_id")
            cell.source = locked.get(mark, cell.source)
        secret = course_secret(Path(self.coursedir.root))
        return work_of(notebook, secret, info["student"])


@functools.cache
def _locked_sources(db_url: str, assignment: str, notebook: str) -> dict[str, str]:
    """What nbgrader puts into the cells that students may not change."""
    with Gradebook(db_url) as gradebook:
        cells = gradebook.find_notebook(notebook, assignment).source_cells
        return {cell.name: cell.source for cell in cells if cell.locked}


class Part(GenerateFeedback):
    """nbgrader's feedback for every n-th submission, beginning with one of the first n."""

    assignments: dict[str, list[str]]

    def __init__(self, first: int, n: int, **settings: Any) -> None:
        self.first, self.n = first, n
        super().__init__(**settings)

    def init_notebooks(self) -> None:
        super().init_notebooks()
        mine = sorted(self.assignments)[self.first :: self.n]
        self.assignments = {folder: self.assignments[folder] for folder in mine}


def write_feedback(course: Path, assignment: str, first: int, n: int) -> list[str]:
    """Write the feedback of every n-th submission. Returns what nbgrader says of those that failed."""
    app, said = nbgrader_app(course, GenerateFeedbackApp, "--force")
    app.coursedir.assignment_id = assignment
    try:
        with without_repetition():
            Part(first, n, coursedir=app.coursedir, parent=app).start()
    except NbGraderException:
        return [line for line in said.lines if "There was an error" in line]
    return []
