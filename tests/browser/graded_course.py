"""A small course, released, handed in by two students and graded by plain nbgrader, for browser tests."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat

from llmr_ref import lab
from llmr_ref.grading import course as grading
from llmr_ref.grading.exercises import assignment_exercises

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "test"
RIGHT, WRONG = "right", "wrong"  # the two students
WRITTEN = "Without a mask the model copies the answer from the next position."


def answer_cell(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """The cell in which exercise `name` is answered."""
    for cell in notebook.cells:
        starts = (f"def {name}(", f"class {name}(")
        if cell.cell_type == "code" and any(s in cell.source for s in starts):
            return cell
    raise LookupError(f"no cell defines {name}")


def make_graded_course(folder: Path, assignments: Sequence[str] = ("attention",)) -> Path:
    """Release, two submissions, autograde, feedback. The wrong student errs in every exercise."""
    shutil.copytree(ROOT / "assignments" / "source", folder / "source")
    shutil.copy(ROOT / "assignments" / "nbgrader_config.py", folder)
    for assignment in assignments:
        grading.generate(folder, assignment)
        _hand_in(folder, assignment)
        for command in ("autograde", "generate_feedback"):
            grading.run_nbgrader(folder, command, assignment)
    return folder


def _hand_in(folder: Path, assignment: str) -> None:
    release = folder / "release" / assignment / f"{assignment}.ipynb"
    for student in (RIGHT, WRONG):
        notebook = nbformat.read(release, as_version=4)
        for exercise in assignment_exercises(assignment):
            answers = exercise.right_answers if student == RIGHT else exercise.wrong_answers
            answer_cell(notebook, exercise.name).source = answers[0].source(exercise.name)
        for cell in notebook.cells:
            meta = cell.metadata.get("nbgrader", {})
            if meta.get("grade") and meta.get("solution"):
                cell.source = WRITTEN
        target = folder / "submitted" / student / assignment / f"{assignment}.ipynb"
        target.parent.mkdir(parents=True)
        nbformat.write(notebook, target)


@dataclass(frozen=True)
class LabServer:
    """A running JupyterLab and the course that it shows."""

    url: str
    course: Path

    def address(self, path: str) -> str:
        return f"{self.url}/{path}?token={TOKEN}"


@contextlib.contextmanager
def jupyterlab(course: Path, settings: Path) -> Iterator[LabServer]:
    """JupyterLab on a course, as `llmr lab --instructor` starts it, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("--no-browser", f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}")
    command = lab.command(course, settings, "/lab", arguments)
    log = (settings / "jupyterlab.log").open("w")
    server = subprocess.Popen(command, cwd=course, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=5).close()
                break
            if server.poll() is not None:
                raise RuntimeError(f"JupyterLab ended: {(settings / 'jupyterlab.log').read_text()}")
            time.sleep(0.5)
        yield LabServer(url, course)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()
