"""Around a run of `nbgrader autograde`: one at a time, every step in its place, faults of the machine.

nbgrader goes on with the next student after any exception, and names an upgrade as the remedy for every
fault of its database. Here a fault that no student can cause ends the run at once, in one sentence, and
leaves nothing half-written.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import sqlalchemy
from nbgrader.converters.base import NbGraderException
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError, SQLAlchemyError

LOCK = Path(".llmr") / "grading.lock"
# Steps that must be there and active, in this order; those of one tuple directly after each other.
SANITIZING = (("Repair",), ("OverwriteCells",))
GRADING = (("Grade", "SaveAutoGrades", "FlagNeedsLook"),)
OF_THE_MACHINE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than this process may write",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk cannot be read or written",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
}
AGAIN = "Mend this and run the same command again: what is graded stays graded."


class Refused(NbGraderException, RuntimeError):
    """Grading stops; the message says why and what to do. nbgrader exits with code 1, no traceback."""


class _Stop(BaseException):
    """A `Refused` on its way through nbgrader's `except Exception`."""


def guard(converter: Any, begin: Callable[[], None], clean_up: Callable[[], None]) -> None:
    """Let the run that a converter is about to start stop at faults of the machine.

    begin: called with the course locked, before the first student. clean_up: called when it stops.
    """
    convert = converter.convert_notebooks
    for name in (
        "init_destination",
        "init_assignment",
        "convert_single_notebook",
        "set_permissions",
    ):
        setattr(converter, name, _stopping(getattr(converter, name), converter))

    def guarded() -> None:
        try:
            with one_run_at_a_time(Path(converter.coursedir.root)):
                require_gradebook(converter.coursedir.db_url)
                require_steps(converter)
                begin()
                try:
                    convert()
                except _Stop:
                    with contextlib.suppress(OSError):
                        clean_up()
                    raise
        except (_Stop, Refused) as stop:
            _refuse(converter, str(stop), stop)
        except OSError as error:
            _refuse(converter, machine_fault(error) or str(error), error)

    converter.convert_notebooks = guarded


def _refuse(converter: Any, sentence: str, cause: BaseException) -> NoReturn:
    converter.log.error(sentence)
    raise Refused(sentence) from cause


def _stopping(step: Callable[..., Any], converter: Any) -> Callable[..., Any]:
    """The step, with a fault of the machine turned into the end of the run."""

    def stopping(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except Exception as error:
            sentence = machine_fault(error)
            if sentence is None:
                raise
            raise _Stop(sentence) from error

    return stopping


def machine_fault(error: BaseException | None) -> str | None:
    """What is wrong with the machine, in a sentence, if that is what the exception comes from."""
    while error is not None:
        if isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError:
            return f"The gradebook cannot be read or written: {_words(error)}. {AGAIN}"
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            where = f": {error.filename}" if error.filename else ""
            return f"Grading cannot go on, {OF_THE_MACHINE[error.errno]}{where}. {AGAIN}"
        error = error.__cause__ or error.__context__
    return None


def _words(error: SQLAlchemyError) -> str:
    """What the database itself said, with the remedy where it is known."""
    said = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
    remedies = {
        "database is locked": "another program holds it (an open database browser, a copy being made)",
        "readonly database": "make the file and its folder writable",
        "unable to open database file": "make the file and its folder readable and writable",
        "disk is full": "free some space",
        "not a database": "restore it from a copy",
        "malformed": "restore it from a copy",
    }
    remedy = next((r for key, r in remedies.items() if key in said), "")
    return f"{said} ({remedy})" if remedy else said


@contextlib.contextmanager
def one_run_at_a_time(root: Path) -> Iterator[None]:
    """Hold the course. Raises: Refused while another run holds it.

    The lock belongs to the open file: when its process dies, however it dies, it is gone.
    """
    path = root / LOCK
    path.parent.mkdir(exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        with contextlib.suppress(OSError):  # instructors who share a course share a group
            path.chmod(0o664)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"{root} is being graded by {_holder(path)}. Wait until that has ended, then run the "
                "same command again; nothing was changed."
            ) from None
        file.truncate(0)
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _holder(path: Path) -> str:
    try:
        said = json.loads(path.read_text("utf-8"))
        return f"process {said['process']} on {said['host']} since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "another process"


def require_gradebook(url: str) -> None:
    """Raises: Refused unless the gradebook can be written now."""
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":  # a write that changes nothing
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                version = connection.exec_driver_sql("PRAGMA user_version").scalar()
                connection.exec_driver_sql(f"PRAGMA user_version = {version}")
            connection.rollback()
    except SQLAlchemyError as error:
        where = engine.url.database or url
        raise Refused(
            f"The gradebook {where} cannot be written: {_words(error)}. {AGAIN}"
        ) from error
    finally:
        engine.dispose()


def require_steps(converter: Any) -> None:
    """Raises: Refused unless every step is configured and active that keeps points from being a gift."""
    try:
        for sanitizing, required in ((True, SANITIZING), (False, GRADING)):
            converter._sanitizing = sanitizing
            converter._init_preprocessors()
            steps = converter.exporter._preprocessors
            active = "".join(f" {type(s).__name__}" for s in steps if s.enabled) + " "
            place = 0
            for group in required:
                place = active.find(f" {' '.join(group)} ", place)
                if place < 0:
                    setting = "sanitize" if sanitizing else "autograde"
                    wanted = ", ".join(name for group in required for name in group)
                    raise Refused(
                        f"c.Autograde.{setting}_preprocessors in nbgrader_config.py must hold {wanted}"
                        f" in this order and enabled, but has {', '.join(active.split()) or 'none'}. "
                        "Without them nbgrader gives points that nobody earned."
                    )
    finally:
        converter._sanitizing = True
