"""How submissions pass through nbgrader: repaired, run for their pictures, judged, recorded.

Everything here plugs in through nbgrader's own settings (see assignments/nbgrader_config.py); plain
`nbgrader autograde` does the rest. Whatever fails ends in 0 points and "needs a look", never in silence:
stock nbgrader gives a grade cell without outputs full points.
"""

import ast
import contextlib
import functools
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbconvert.exporters import NotebookExporter
from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import Execute, NbGraderPreprocessor

from llmr_ref.grading import seccomp
from llmr_ref.grading.card import card_html, card_text
from llmr_ref.grading.exercise import Exercise, submission_seed
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.sandbox import (
    SCRATCH,
    Worker,
    available_tier,
    bubblewrap_command,
    worker_environment,
)
from llmr_ref.grading.verdict import Verdict, judge, nothing_scored, practice_trials, prepare

MAX_NOTEBOOK_BYTES = 50 * 2**20
MAX_STREAM_CHARACTERS = 20_000
KEY = "llmr"  # where notes and verdicts live in notebook and cell metadata
HERE = Path(__file__).parent


# --- intake: files as students hand them in ------------------------------------------------------


class SubmissionExporter(NotebookExporter):
    """Reads what students hand in, whatever its state, and never loses a student.

    When grading starts it also undoes what an interrupted run left half-done, and finds notebooks that
    were renamed. A file that cannot be read is replaced by the release version with the reason noted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        converter = self.parent
        if converter is not None and hasattr(converter, "assignments"):
            grading_tier()  # refuse at once rather than student by student
            _tolerate_dates(converter)
            _discard_unfinished(converter)
            converter.assignments = {
                folder: _adopt_renamed(Path(folder), notebooks, converter)
                for folder, notebooks in converter.assignments.items()
            }

    def from_filename(  # type: ignore[override]  # as in nbconvert's own exporters
        self, filename: str, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        path = Path(filename)
        resources = resources or {}
        assert self.parent is not None
        try:
            notebook = read_notebook(path)
            if getattr(
                self.parent, "_sanitizing", False
            ):  # a student's notebook brings no notes of ours
                notebook.metadata[KEY] = {"intake": [*_renamed_from(path), *_unreadable_date(path)]}
        except ValueError as error:
            notebook = release_version(self.parent.coursedir, resources)
            notebook.metadata[KEY] = {"intake": [f"the submitted file {error}"]}
        resources.setdefault("metadata", {})["name"] = path.stem
        return super().from_notebook_node(notebook, resources, **kw)


def release_version(coursedir: Any, resources: dict[str, Any]) -> NotebookNode:
    """The notebook as students got it."""
    info = resources["nbgrader"]
    release = coursedir.format_path(coursedir.release_directory, ".", info["assignment"])
    return nbformat.read(Path(release) / f"{info['notebook']}.ipynb", as_version=4)


def _renamed_from(path: Path) -> list[str]:
    """A note when the notebook is the copy that `_adopt_renamed` made."""
    twins = [p.name for p in sorted(path.parent.glob("*.ipynb"))
             if p != path and p.is_file() and p.read_bytes() == path.read_bytes()]  # fmt: skip
    return [f"handed in as {name!r}" for name in twins]


def _unreadable_date(path: Path) -> list[str]:
    """A note when the timestamp beside the notebook is none."""
    stamp = path.parent / "timestamp.txt"
    try:
        if stamp.exists():
            utils.parse_utc(stamp.read_text().strip())
    except Exception:  # dateutil, the file system and the encoding each raise their own
        return ["the date in timestamp.txt cannot be read; it counts as handed in on time"]
    return []


def _tolerate_dates(converter: Any) -> None:
    """Let a timestamp that cannot be read count as none: nbgrader would drop the student."""
    read = converter.coursedir.get_existing_timestamp

    def read_if_possible(folder: str) -> Any:
        return None if _unreadable_date(Path(folder) / "notebook") else read(folder)

    converter.coursedir.get_existing_timestamp = read_if_possible


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook of any v3 or v4 format. Raises: ValueError, in words, when that fails."""
    if path.is_symlink():
        raise ValueError("is a link to another file")
    if not path.is_file():
        raise ValueError("is a folder")
    size = path.stat().st_size
    if size == 0:
        raise ValueError("is empty")
    if size > MAX_NOTEBOOK_BYTES:
        raise ValueError(f"has {size >> 20} MB; {MAX_NOTEBOOK_BYTES >> 20} MB is the limit")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    try:
        notebook = nbformat.reads(text, as_version=4)
        if "\\ud" in text.lower():  # half a character, which JSON can hold and a file cannot
            whole = nbformat.writes(notebook).encode("utf-8", "replace").decode()
            notebook = nbformat.reads(whole, as_version=4)
        nbformat.validate(notebook)
        notebook = nbformat.v4.upgrade(notebook)  # the release version's cells have ids
    except Exception as error:  # nbformat raises many kinds
        raise ValueError(f"is not a notebook ({type(error).__name__})") from None
    return notebook


def _discard_unfinished(converter: Any) -> None:
    """Remove autograded folders without a finished notebook: an interrupted run must not count as done."""
    for folder in converter.assignments:
        student, assignment = _identity(converter, folder)
        graded = Path(converter.coursedir.format_path(
            converter.coursedir.autograded_directory, student, assignment))  # fmt: skip
        if graded.is_dir() and not all(is_finished(p) for p in _expected(graded, assignment)):
            converter.log.warning("Removing unfinished %s, it is graded again", graded)
            utils.rmtree(str(graded))


def _expected(graded: Path, assignment: str) -> list[Path]:
    return sorted(graded.glob("*.ipynb")) or [graded / f"{assignment}.ipynb"]


def is_finished(path: Path) -> bool:
    """Whether an autograded notebook was written to its end, verdicts included."""
    try:
        notebook = json.loads(path.read_text("utf-8"))
        return bool(notebook["metadata"][KEY]["graded"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _identity(converter: Any, folder: str) -> tuple[str, str]:
    """Student and assignment of a submitted folder."""
    parts = Path(folder).parts
    return parts[-2], parts[-1]


def _adopt_renamed(folder: Path, notebooks: list[str], converter: Any) -> list[str]:
    """Copy a renamed notebook to its proper name, when it is the only one and the proper one is missing."""
    _, assignment = _identity(converter, str(folder))
    with Gradebook(converter.coursedir.db_url, converter.coursedir.course_id) as gradebook:
        try:
            known = [n.name for n in gradebook.find_assignment(assignment).notebooks]
        except Exception:  # an assignment that was never generated: nbgrader says so itself
            return notebooks
    names = [Path(n).stem for n in notebooks]
    if len(known) != 1 or known[0] in names or len(names) != 1:
        return notebooks
    if Path(notebooks[0]).is_symlink() or not Path(notebooks[0]).is_file():
        return notebooks
    target = folder / f"{known[0]}.ipynb"
    converter.log.warning("%s is graded as %s", notebooks[0], target)
    shutil.copyfile(notebooks[0], target)
    return [*notebooks, str(target)]


class Repair(NbGraderPreprocessor):
    """Sanitizing, first step: one cell per grade_id, none with broken metadata.

    Of duplicated cells the first one counts; the others become plain cells. Deleted ones come back from
    the release version, in their place. Grading marks are the release version's, whatever was edited.
    """

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        notes = nb.metadata.get(KEY, {}).get("intake", [])
        nb.metadata.pop(KEY, None)
        release = release_version(self.parent.parent.coursedir, resources)
        known: dict[str, dict[str, Any]] = {
            c.metadata.nbgrader.grade_id: dict(c.metadata.nbgrader)
            for c in release.cells
            if "nbgrader" in c.metadata
        }
        seen: set[str] = set()
        for index, cell in enumerate(nb.cells):
            meta = cell.metadata.get("nbgrader")
            cell.metadata.pop(KEY, None)
            if meta is None:
                continue
            grade_id = meta.get("grade_id") if isinstance(meta, dict) else None
            source = known.get(grade_id) if isinstance(grade_id, str) else None
            if not isinstance(grade_id, str) or source is None:
                del cell.metadata["nbgrader"]
                if grade_id is not None:
                    notes.append(f"cell {str(grade_id)[:60]!r} is not part of the assignment")
            elif grade_id in seen:
                del cell.metadata["nbgrader"]
                notes.append(f"cell {grade_id!r} occurs more than once; the first one counts")
            else:
                seen.add(grade_id)
                if {k: meta.get(k) for k in source} != source:
                    notes.append(f"the grading marks of cell {grade_id!r} were changed")
                cell.metadata["nbgrader"] = {**source}
                nb.cells[index] = _of_type(cell, source["cell_type"])
        gone = [g for g in known if g not in seen]
        notes += [f"cell {g!r} was missing" for g in gone]
        _put_back(nb, release, gone)
        nb.metadata[KEY] = {"intake": notes}
        return nb, resources


def _of_type(cell: NotebookNode, cell_type: str) -> NotebookNode:
    """The cell itself, or one of the other type with its source, marks and id and nothing else."""
    if cell.cell_type == cell_type:
        return cell
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}[cell_type]
    return make(cell.source, metadata=cell.metadata, id=cell.id)


def _put_back(nb: NotebookNode, release: NotebookNode, gone: list[str]) -> None:
    """Insert missing cells of the release version after the cell that precedes them there."""
    previous = None
    for cell in release.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if grade_id is None:
            continue
        if grade_id in gone:
            nb.cells.insert(_index_after(nb, previous), cell)
        previous = grade_id


def _index_after(nb: NotebookNode, grade_id: str | None) -> int:
    for index, cell in enumerate(nb.cells):
        if grade_id is not None and cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id:
            return index + 1
    return 0 if grade_id is None else len(nb.cells)


# --- pictures: the notebook's own run ------------------------------------------------------------


@functools.cache
def matplotlib_font_lists() -> list[Path]:
    """Matplotlib's list of the system's fonts, which every kernel would otherwise spend seconds on."""
    import matplotlib.font_manager  # writes the list on its first import

    return sorted(Path(matplotlib.get_cachedir()).glob("fontlist-*.json"))


class SandboxedKernelManager(AsyncKernelManager):
    """A kernel in bubblewrap: no network, so it speaks over sockets in a folder that both sides see."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        command = super().format_kernel_cmd(extra_arguments)
        connection = Path(self.connection_file)
        binds = ["--bind", str(connection.parent), str(connection.parent)]
        for fonts in matplotlib_font_lists():
            binds += ["--ro-bind", str(fonts), f"{SCRATCH}/{fonts.name}"]
        bounded = ["prlimit", "--cpu=120", "--core=0", "--fsize=50000000"]
        # CUDA builds of torch reserve much address space; what is really used stays below 2 GiB.
        bounded += ["--data=2147483648", "--as=17179869184"]
        rules = connection.parent / "seccomp"
        rules.write_bytes(seccomp.no_new_processes())
        binds += ["--seccomp", "9"]  # from file descriptor 9, which the shell opens
        quiet = "--IPKernelApp.log_level=50"
        return [
            *("sh", "-c", 'exec "$@" 9< "$0"', str(rules)),
            *bounded,
            *bubblewrap_command(*command, quiet, binds=binds),
        ]


class PlainKernelManager(AsyncKernelManager):
    """Tier 1: an ordinary kernel that still does not find the reference under its name."""

    async def _async_pre_start_kernel(self, **kw: Any) -> Any:
        command, kw = await super()._async_pre_start_kernel(**kw)
        kw["env"] = {**kw.get("env", os.environ), **worker_environment(
            str(HERE / "stand_in"), tempfile.gettempdir())}  # fmt: skip
        return command, kw


class RunForPictures(Execute):
    """Run the notebook so that formgrader and feedback show its plots and prints; scores come elsewhere.

    Nothing that happens here is fatal: a dead kernel or an endless cell leaves the pictures out.
    """

    interrupt_on_timeout = False

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any], km: Any = None
    ) -> tuple[NotebookNode, dict[str, Any]]:
        tier, _ = grading_tier()
        folder = tempfile.mkdtemp(prefix="llmr-kernel-")
        cleared = json.loads(json.dumps(nb))
        self.kernel_manager_class = SandboxedKernelManager if tier == 2 else PlainKernelManager
        self.config.KernelManager.transport = "ipc"
        self.config.KernelManager.ip = f"{folder}/socket"
        self.config.KernelManager.connection_file = f"{folder}/kernel.json"
        try:
            nb, resources = super().preprocess(nb, resources)
        except (
            Exception
        ) as error:  # CellTimeoutError, DeadKernelError, RuntimeError: all the same here
            reason = f"the notebook did not run to its end ({type(error).__name__})"
            self.log.warning("%s: %s", resources["nbgrader"]["student"], reason)
            for cell, blank in zip(nb.cells, cleared["cells"], strict=True):
                if cell.cell_type == "code":
                    cell.outputs = cell.get("outputs") or []
                    cell.source = blank["source"]
            nb.metadata[KEY]["intake"].append(reason)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for cell in nb.cells:
            for output in cell.get("outputs", []):
                _tame(output)
        return nb, resources


def _tame(output: NotebookNode) -> None:
    """Keep text and bitmap pictures, cut what is long: no HTML of a student's reaches an instructor."""
    if output.output_type == "stream" and len(output.text) > MAX_STREAM_CHARACTERS:
        kept = output.text[:MAX_STREAM_CHARACTERS]
        output.text = f"{kept}\n... {len(output.text) - len(kept)} more characters\n"
    if "data" in output:
        kinds = ("text/plain", "image/png", "image/jpeg")
        output.data = NotebookNode({k: v for k, v in output.data.items() if k in kinds})
        if len(output.data.get("text/plain", "")) > MAX_STREAM_CHARACTERS:
            output.data["text/plain"] = output.data["text/plain"][:MAX_STREAM_CHARACTERS] + " ..."


# --- verdicts ------------------------------------------------------------------------------------


def grading_tier() -> tuple[int, str]:
    """The tier in use and why. Raises: RuntimeError when it is weaker than LLMR_LOWEST_TIER (2) allows."""
    lowest = os.environ.get("LLMR_LOWEST_TIER", "2")
    if lowest not in ("1", "2"):
        raise RuntimeError(f"LLMR_LOWEST_TIER is {lowest!r}; set it to 1 or 2, or leave it unset.")
    tier, reason = available_tier()
    if tier < int(lowest):
        raise RuntimeError(
            f"grading tier {lowest} is required but only tier {tier} is available: {reason}. "
            "Install what is missing, or set LLMR_LOWEST_TIER=1 to grade without the sandbox."
        )
    return tier, reason


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
