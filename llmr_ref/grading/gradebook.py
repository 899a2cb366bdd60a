"""The course's gradebook, wherever nbgrader_config.py says it is, opened for reading or for writing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbgrader.api import Gradebook, MissingEntry
from sqlalchemy.exc import SQLAlchemyError
from traitlets.config import Config, PyFileConfigLoader


class NothingToReport(FileNotFoundError):
    """There is no graded assignment to write about; the message says what is missing."""


def course_config(course: Path) -> Config:
    """The settings of the course's nbgrader_config.py; empty without one."""
    path = course / "nbgrader_config.py"
    return PyFileConfigLoader(path.name, str(course)).load_config() if path.is_file() else Config()


def gradebook_url(course: Path) -> str:
    """Where the course keeps its gradebook: what nbgrader_config.py says, else gradebook.db beside it."""
    url = course_config(course).get("CourseDirectory", {}).get("db_url")
    return url if isinstance(url, str) else f"sqlite:///{(course / 'gradebook.db').resolve()}"


@contextmanager
def open_gradebook(course: Path, assignment: str, *, write: bool = False) -> Iterator[Gradebook]:
    """The course's gradebook. A report changes no grade: without `write` a file is opened read-only.

    Raises: NothingToReport, in one sentence, when there is none or it cannot be read.
    """
    url = gradebook_url(course)
    if url.startswith("sqlite:///"):
        path = course / url.removeprefix("sqlite:///")
        if not path.is_file():
            raise NothingToReport(
                f"{course} has no {path.name}. Grade first: llmr grade {assignment}"
            )
        where = path.resolve()
        url = (
            f"sqlite:///{where}"
            if write
            else f"sqlite:///file:{quote(str(where))}?mode=ro&uri=true"
        )
    else:
        path = Path(url.rpartition("@")[2])  # a password stays out of messages
    try:
        with Gradebook(url, course_id="") as gradebook:
            yield gradebook
    except SQLAlchemyError as error:
        raise NothingToReport(
            f"{path} cannot be read as a gradebook ({type(error).__name__}). "
            "Restore it from a copy, or remove it and grade again."
        ) from error


def find_assignment(gradebook: Gradebook, course: Path, assignment: str) -> Any:
    """nbgrader's entry. Raises: NothingToReport, naming the assignments that exist."""
    try:
        return gradebook.find_assignment(assignment)
    except MissingEntry:
        known = ", ".join(sorted(a.name for a in gradebook.assignments)) or "none"
        raise NothingToReport(
            f"The gradebook of {course} has no assignment {assignment!r}; there are: {known}."
        ) from None
