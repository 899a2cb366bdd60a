"""Grading within nbgrader: every check cell judged on the trusted side, card and float written back.

Plugs in through nbgrader's own settings (see assignments/nbgrader_config.py); plain `nbgrader autograde`
does the rest. Whatever fails ends in 0 points and "needs a look", never in silence: stock nbgrader gives
a grade cell without outputs full points.
"""

import ast
import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor

from llmr_ref.grading.card import card_html, card_text
from llmr_ref.grading.exercise import Exercise, submission_seed
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.intake import KEY
from llmr_ref.grading.sandbox import Worker, grading_tier
from llmr_ref.grading.verdict import Verdict, judge, nothing_scored, practice_trials, prepare


def course_secret(root: Path) -> bytes:
    """The course's secret; made on first use, readable by the instructor alone."""
    path = root / ".course_secret"
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(32))
    secret = path.read_text().strip().encode()
    if not secret:
        raise RuntimeError(f"{path} is empty; delete it and a new secret is drawn.")
    return secret


def checked_exercise(source: str) -> str | None:
    """The name in `check("name")` when the cell's last statement is exactly that; else None."""
    try:
        last = ast.parse(source).body[-1]
    except (SyntaxError, IndexError, ValueError):
        return None
    match last:
        case ast.Expr(ast.Call(ast.Name("check"), [ast.Constant(str(name))], [])):
            return name
    return None


class Grade(NbGraderPreprocessor):
    """Judge every check cell on the trusted side and write card and float as its outputs."""

    _worker: Worker | None = None  # one worker per grading process: torch is imported once

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        info = resources["nbgrader"]
        tier, _ = grading_tier()
        secret = course_secret(Path(self.parent.parent.coursedir.root))
        cells: list[str | None] = []
        for cell in nb.cells:
            if cell.cell_type != "code":
                continue
            if utils.is_grade(cell) and not utils.is_solution(cell):
                verdict = self._verdict(cell, cells, secret, info, tier)
                if (
                    verdict.stuck_cell is not None
                ):  # it would only use up the next exercise's time too
                    cells[verdict.stuck_cell] = None
                write_verdict(cell, verdict)
            else:
                cells.append(cell.source)
        nb.metadata.setdefault(KEY, {}).update({"graded": True, "tier": tier})
        return nb, resources

    def _verdict(
        self,
        cell: NotebookNode,
        cells: list[str | None],
        secret: bytes,
        info: dict[str, Any],
        tier: int,
    ) -> Verdict:
        name = checked_exercise(cell.source) or str(cell.metadata.nbgrader.grade_id)
        points = float(cell.metadata.nbgrader.points)
        try:
            exercise = get_exercise(name)
            seed = submission_seed(secret, info["student"], name)
            return grade_exercise(exercise, cells, seed, self._started(tier))
        except Exception as error:  # a fault of ours must not become points, nor stop the class
            self.log.error("%s, %s: %r", info["student"], name, error)
            return nothing_scored(
                name, points, "This exercise could not be graded.", tier=tier,
                needs_look=f"the grader failed with {type(error).__name__}: {error}",
            )  # fmt: skip

    @classmethod
    def _started(cls, tier: int) -> Worker:
        if cls._worker is None or cls._worker.tier != tier:
            cls._worker = Worker(tier=tier)
        return cls._worker


def grade_exercise(
    exercise: Exercise, cells: list[str | None], seed: int, worker: Worker
) -> Verdict:
    """Run the cells in the worker on graded and practice inputs, and judge what comes back."""
    trials = [*prepare(exercise, seed, practice=False), *practice_trials(exercise)]
    ran = worker.run(cells, exercise.name, [t.call for t in trials])
    verdict = judge(exercise, trials, ran.outcomes, tier=worker.tier)
    if ran.ended != "done":
        verdict.needs_look = f"the code was stopped: {ran.ended}"
    if ran.stuck_cell is not None:
        verdict.stuck_cell = ran.stuck_cell
        first_line = (cells[ran.stuck_cell] or "").strip().split("\n")[0][:60]
        verdict.message = (
            f"The cell that begins with {first_line!r} never finished; it is left out."
        )
    elif ran.cell_errors and not verdict.full and not verdict.message:
        own = [e for e in ran.cell_errors if e["type"] in ("SyntaxError", "IndentationError")]
        said = (own or ran.cell_errors)[-1]
        verdict.message = f"A cell raised {said['type']}: {said['message']}"
    return verdict


def write_verdict(cell: NotebookNode, verdict: Verdict) -> None:
    """Replace the cell's outputs by the card and one float, and keep the verdict in its metadata."""
    score = min(max(float(verdict.score), 0.0), float(cell.metadata.nbgrader.points))
    cell.outputs = [
        nbformat.v4.new_output(
            "display_data", data={"text/html": card_html(verdict), "text/plain": card_text(verdict)}
        ),
        nbformat.v4.new_output(
            "execute_result", data={"text/plain": repr(score)}, execution_count=None
        ),
    ]
    cell.metadata[KEY] = verdict.model_dump()


class FlagNeedsLook(NbGraderPreprocessor):
    """After SaveAutoGrades: put what needs a look on formgrader's list of cells to grade by hand."""

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        info = resources["nbgrader"]
        flagged = [
            c.metadata.nbgrader.grade_id
            for c in nb.cells
            if c.metadata.get(KEY, {}).get("needs_look") and "nbgrader" in c.metadata
        ]
        if flagged:
            with Gradebook(info["db_url"]) as gradebook:
                for grade_id in flagged:
                    grade = gradebook.find_grade(
                        grade_id, info["notebook"], info["assignment"], info["student"]
                    )
                    grade.needs_manual_grade = True
                gradebook.db.commit()
        return nb, resources
