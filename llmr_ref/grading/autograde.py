"""Grading within nbgrader: every check cell judged on the trusted side, card and float written back.

Plugs in through nbgrader's own settings (see assignments/nbgrader_config.py); plain `nbgrader autograde`
does the rest. Whatever fails ends in 0 points and "needs a look", never in silence: stock nbgrader gives
a grade cell without outputs full points.
"""

import ast
import contextlib
import math
import os
import secrets
from pathlib import Path
from typing import Any

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Float

from llmr_ref.grading.cache import Cache
from llmr_ref.grading.card import card_html, card_text
from llmr_ref.grading.engine import Notebook, Work, run_once, show_notebook
from llmr_ref.grading.exercise import submission_seed
from llmr_ref.grading.exercises import exercise_names
from llmr_ref.grading.guard import machine_fault
from llmr_ref.grading.intake import KEY
from llmr_ref.grading.pictures import Pictures
from llmr_ref.grading.sandbox import grading_tier, shared_worker
from llmr_ref.grading.verdict import Verdict, nothing_scored, with_share

OUR_FAULT = "the grader failed with"


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


def is_check(cell: NotebookNode) -> bool:
    """Whether the grader decides the points of this cell."""
    return cell.cell_type == "code" and utils.is_grade(cell) and not utils.is_solution(cell)


def exercise_of(cell: NotebookNode) -> str:
    """The exercise that a check cell checks."""
    return checked_exercise(cell.source) or str(cell.metadata.nbgrader.grade_id)


def work_of(nb: NotebookNode, secret: bytes, student: str) -> Work:
    """What grading this notebook of a student comes to."""
    code = [c for c in nb.cells if c.cell_type == "code"]
    cells = [(c.source, exercise_of(c) if is_check(c) else None) for c in code]
    checked = {name for _, name in cells} & {*exercise_names()}
    seeds = {name: submission_seed(secret, student, name) for name in checked if name}
    return Work(cells, seeds, grading_tier()[0])


class RunForPictures(NbGraderPreprocessor):
    """Run the notebook so that formgrader and feedback show its plots and prints; scores come elsewhere.

    Nothing that happens here is fatal: where the notebook does not run, a note says so.
    """

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        root, info = Path(self.parent.parent.coursedir.root), resources["nbgrader"]
        work = work_of(nb, course_secret(root), info["student"])
        store, worker = Cache(root), shared_worker(work.tier)
        cells = [c for c in nb.cells if c.cell_type == "code"]
        try:
            run_once(work, store, worker)
            shown = show_notebook(work.sources, store, worker)
        except Exception as error:  # a fault of ours costs the pictures, not the points
            shown = Pictures(outputs={}, ended=type(error).__name__)
        if shown.note:
            self.log.warning("%s: %s", info["student"], shown.note)
            nb.metadata[KEY]["intake"].append(shown.note)
        for number, (cell, outputs) in enumerate((cells[n], o) for n, o in shown.outputs.items()):
            cell.execution_count = number + 1
            cell.outputs = [_with_count(o, number + 1) for o in outputs]
        return nb, resources


def _with_count(output: dict[str, Any], count: int) -> NotebookNode:
    """As nbformat has it: the value of a cell carries the cell's number."""
    number = {"execution_count": count} if "execution_count" in output else {}
    return nbformat.from_dict({**output, **number})


class Grade(NbGraderPreprocessor):
    """Judge every check cell on the trusted side and write card and float as its outputs."""

    forbidden_share = Float(
        0.0,
        min=0.0,
        max=1.0,
        help="Share of the points that an answer earns which uses a built-in that its exercise forbids.",
    ).tag(config=True)

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        info = resources["nbgrader"]
        tier, _ = grading_tier()
        root = Path(self.parent.parent.coursedir.root)
        secret = course_secret(root)
        notebook = Notebook(Cache(root), shared_worker(tier))
        reasons = nb.metadata.get(KEY, {}).get("needs_look", {})
        again = False
        for cell in nb.cells:
            if cell.cell_type != "code":
                continue
            if is_check(cell):
                verdict = self.verdict(cell, notebook, secret, info)
                if not verdict.full:
                    reason = reasons.get(cell.metadata.nbgrader.grade_id, "")
                    verdict.needs_look = verdict.needs_look or reason
                written = write_verdict(cell, verdict)
                again = again or written.needs_look.startswith(OUR_FAULT)
            else:
                notebook.add(cell.source)
        # What a fault of ours spoilt is graded again by the next run.
        nb.metadata.setdefault(KEY, {}).update({"graded": True, "again": again, "tier": tier})
        return nb, resources

    def verdict(
        self, cell: NotebookNode, notebook: Notebook, secret: bytes, info: dict[str, Any]
    ) -> Verdict:
        """On what the notebook defines before this check cell; a fault of ours is 0 points and a look."""
        name = exercise_of(cell)
        try:
            verdict = notebook.verdict(name, submission_seed(secret, info["student"], name))
            return with_share(verdict, self.forbidden_share)
        except Exception as error:  # a fault of ours must not become points, nor stop the class
            if machine_fault(error):  # but one of the machine would be everybody's
                raise
            self.log.error("%s, %s: %r", info["student"], name, error)
            return nothing_scored(
                name, float(cell.metadata.nbgrader.points), "This exercise could not be graded.",
                tier=notebook.worker.tier,
                needs_look=f"{OUR_FAULT} {type(error).__name__}: {error}",
            )  # fmt: skip


def write_verdict(cell: NotebookNode, verdict: Verdict) -> Verdict:
    """Replace the cell's outputs by the card and one float, and keep the verdict in its metadata.

    Returns the verdict as written: worth what the notebook says, 0 points when it cannot be shown.
    """
    points = float(cell.metadata.nbgrader.points)
    try:
        verdict = _worth(verdict, points)
        card = {"text/html": card_html(verdict), "text/plain": card_text(verdict)}
    except Exception as error:
        message = "This exercise could not be graded."
        fault = f"{OUR_FAULT} {type(error).__name__}: {error}"
        verdict = nothing_scored(
            verdict.exercise, points, message, needs_look=fault, tier=verdict.tier
        )
        card = {"text/plain": f"{verdict.exercise}: {message}"}
    number = {"data": {"text/plain": repr(verdict.score)}, "execution_count": None}
    outputs = (
        {"output_type": "display_data", "data": card, "metadata": {}},
        {"output_type": "execute_result", **number, "metadata": {}},
    )
    cell.outputs = [nbformat.from_dict(output) for output in outputs]
    cell.metadata[KEY] = verdict.model_dump()
    return verdict


def _worth(verdict: Verdict, points: float) -> Verdict:
    """The verdict scaled to the points of its cell, which an instructor may change, and cut to them.

    Raises: ValueError for a score that is not a number: nbgrader would take it for full points.
    """
    if not math.isfinite(verdict.score):
        raise ValueError(f"the score is {verdict.score}")
    share = points / verdict.points
    whole = verdict.score >= verdict.points
    # Rounding must never make a wrong answer whole.
    score = points if whole else min(round(verdict.score * share, 2), round(points - 0.01, 2))
    parts = [
        p.model_copy(update={"points": round(p.points * share, 2)}) for p in verdict.properties
    ]
    rule = verdict.broken_rule and verdict.broken_rule.model_copy(
        update={"deserved": round(verdict.broken_rule.deserved * share, 2)}
    )
    changes = {"score": max(score, 0.0), "points": points, "properties": parts, "broken_rule": rule}
    return verdict.model_copy(update=changes)


class FlagNeedsLook(NbGraderPreprocessor):
    """After SaveAutoGrades: put what needs a look on formgrader's list of cells to grade by hand.

    A check cell without a verdict of ours gets 0 points and needs a look, whatever nbgrader gave it.
    """

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        info = resources["nbgrader"]
        reasons = nb.metadata.get(KEY, {}).get("needs_look", {})
        unjudged = [c for c in nb.cells if is_check(c) and "score" not in c.metadata.get(KEY, {})]
        ids = {c.metadata.nbgrader.grade_id for c in unjudged}
        for cell in unjudged:
            name, points = exercise_of(cell), float(cell.metadata.nbgrader.points)
            write_verdict(cell, nothing_scored(
                name, points, "This exercise was not graded.", needs_look="it was not graded"
            ))  # fmt: skip
        flagged = [
            c.metadata.nbgrader.grade_id
            for c in nb.cells
            if "nbgrader" in c.metadata
            and (
                c.metadata.get(KEY, {}).get("needs_look")
                or c.metadata.nbgrader.grade_id in ids
                or (c.metadata.nbgrader.grade_id in reasons and not is_check(c))
            )
        ]
        if flagged:
            with Gradebook(info["db_url"]) as gradebook:
                for grade_id in flagged:
                    grade = gradebook.find_grade(
                        grade_id, info["notebook"], info["assignment"], info["student"]
                    )
                    grade.needs_manual_grade = True
                    if grade_id in ids:
                        grade.auto_score = 0.0
                gradebook.db.commit()
        return nb, resources
