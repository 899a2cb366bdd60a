"""A class of students made from the banks: right, wrong, broken and dishonest submissions.

For the demo, for trying out the course, and for the test that holds the whole pipeline to what each of
these submissions deserves. Nobody in it is real.
"""

import dataclasses
import inspect
import random
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode

from llmr_ref.grading import matrix
from llmr_ref.grading.autograde import checked_exercise
from llmr_ref.grading.exercise import Answer, Exercise
from llmr_ref.grading.exercises import assignment_exercises

MARKER = ".written_by_llmr_sample_class"

# The first 24; a larger class goes on with the honest kinds.
KINDS = (
    "all right", "one misconception", "mixture", "all right", "one misconception", "untouched",
    "one misconception", "warnings on stderr", "one misconception", "syntax error",
    "one misconception", "infinite loop", "mixture", "memory hog", "one misconception", "os._exit",
    "duplicated test cell", "deleted test cell", "renamed notebook", "empty file", "prints 10 MB",
    "cheats: fooling the tests", "cheats: looking around", "cheats: forging results",
)  # fmt: skip
HONEST = ("all right", "one misconception", "mixture")

WORDS = (
    "Position t predicts the token that stands at position t + 1, and nothing hides it, so the layer "
    "copies it. Held-out text is scored in the same way and leaks as well. When the model generates, "
    "the next token is not there yet. Test: change the last token; no earlier output may move.",
    "The model sees its own targets. The held-out loss has the same leak. In generation the future is "
    "missing, and the model never learnt to predict it. I would compare a prefix run alone with the "
    "same rows of the whole run.",
    "It overfits, because it memorises the training text.",
)

# The last function is spoilt by the first of these, and so on backwards: those are the functions that the
# notebook itself calls, so the kernel that draws its pictures meets the faults too.
FAULTS = {
    "os._exit": "import os\n\n\ndef NAME(*args, **kwargs):\n    os._exit(0)",
    "syntax error": "def NAME(*args, **kwargs)\n    return args[0]",
    "infinite loop": "def NAME(*args, **kwargs):\n    while True:\n        pass",
    # bytes(n) reserves memory without touching it: the limit is met, the machine is not troubled.
    "memory hog": "def NAME(*args, **kwargs):\n    held = []\n    while True:\n"
    "        held.append(bytes(1 << 28))",
}

NOISE = {
    "warnings on stderr": """
import sys
import warnings


def NAME(*args, **kwargs):
    warnings.warn("this takes long for many positions", stacklevel=2)
    print("calling NAME", file=sys.stderr)
    return my_NAME(*args, **kwargs)


print("NAME is defined", file=sys.stderr)
warnings.warn("NAME is not tested yet", stacklevel=1)
""",
    "prints 10 MB": """
def NAME(*args, **kwargs):
    print("arguments:", *args, "." * 100_000)
    return my_NAME(*args, **kwargs)


for step in range(1000):
    print(f"step {step}", "." * 10_000)
""",
}

# What has won full marks from graders that decide in the student's own process, and more of the kind.
# Where one works the answer would be right, or a trace is left that the tests look for.
CHEATS = {
    "cheats: fooling the tests": (
        """
import sys


def NAME(*args, **kwargs):
    sys.displayhook(5.0)
    return 5.0
""",
        """
import ast


class WithoutAsserts(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)


def NAME(*args, **kwargs):
    return None


get_ipython().ast_transformers.append(WithoutAsserts())
""",
        """
import numpy.testing
import torch.testing


def NAME(*args, **kwargs):
    for module in (numpy.testing, torch.testing):
        for name in dir(module):
            if name.startswith("assert"):
                setattr(module, name, lambda *args, **kwargs: None)
    torch.equal = torch.allclose = torch.isclose = lambda *args, **kwargs: True
    return torch.zeros(1)
""",
        """
class EqualsEverything:
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self

    def __float__(self):
        return 5.0


def NAME(*args, **kwargs):
    return EqualsEverything()
""",
        """
class EqualTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function.__name__ in ("__eq__", "__ne__", "equal", "isclose", "allclose", "all"):
            return True
        return super().__torch_function__(function, types, args, kwargs or {})


def NAME(*args, **kwargs):
    return torch.zeros(1).as_subclass(EqualTensor)
""",
    ),
    "cheats: looking around": (
        """
import sqlite3


def NAME(*args, **kwargs):
    # ../../../gradebook.db, and from wherever else this may run.
    for levels in range(8):
        path = "../" * levels + "gradebook.db"
        try:
            with sqlite3.connect(f"file:{path}?mode=rw", uri=True) as gradebook:
                gradebook.execute("create table if not exists a_student_was_here (score float)")
        except sqlite3.Error:
            pass
    return None
""",
        """
import json
from pathlib import Path


def NAME(*args, **kwargs):
    # ../../../source, and from wherever else this may run.
    found = dict(globals())
    for levels in range(8):
        for path in Path("../" * levels or ".").glob("source/*/*.ipynb"):
            for cell in json.loads(path.read_text())["cells"]:
                code = "".join(cell["source"])
                if "def NAME(" in code:
                    exec(code, found)
                    return found["NAME"](*args, **kwargs)
    return None
""",
        """
def NAME(*args, **kwargs):
    for earlier in globals().get("In", []):
        print(earlier)
    return None


print(In)
""",
        """
import importlib


def NAME(*args, **kwargs):
    for module in ("attention", "masks", "rope", "grading.exercises.NAME"):
        try:
            found = importlib.import_module(f"llmr_ref.{module}")
            return getattr(found, "NAME", None)(*args, **kwargs)
        except (ImportError, AttributeError, TypeError):
            continue
    return None
""",
        """
def NAME(*args, **kwargs):
    return None


shell = get_ipython()


async def run_nothing(code, result=None, **settings):
    return False


shell.run_code = run_nothing
""",
    ),
    "cheats: forging results": (
        """
import json
import os
import struct


def NAME(*args, **kwargs):
    forged = json.dumps({"ended": "done", "frames": 0, "score": 5.0}).encode()
    for descriptor in range(64):
        try:
            os.write(descriptor, struct.pack("<I", len(forged)) + forged)
        except OSError:
            pass
    return None
""",
        """
import sys


def NAME(*args, **kwargs):
    for module in list(sys.modules.values()):
        if hasattr(module, "run_call"):
            module.run_call = lambda target, call: {
                "status": "ok", "value": True, "arguments": {}, "gradients": {}, "state": None,
                "score": 5.0,
            }
    return None
""",
        """
import gc


def NAME(*args, **kwargs):
    # Somewhere in memory the right result may wait.
    for held in gc.get_objects():
        if isinstance(held, dict) and "expected" in held:
            return held["expected"]
    return None
""",
    ),
}

SCRIPT = "<script>document.title = 'a student was here'</script>"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one answer cell holds. answer: the bank's, when its score is what the entry deserves; else 0."""

    source: str
    answer: Answer | None = None


@dataclasses.dataclass(frozen=True)
class Student:
    """One submission. An exercise that is not among the entries was never touched."""

    name: str
    kind: str
    entries: dict[str, Entry]
    affected: str = ""
    words: str = ""


def write_sample_class(
    course: Path, assignment: str, students: int, seed: int = 0, kinds: Sequence[str] = KINDS
) -> list[Path]:
    """Write submitted/<student>/<assignment>/ for a class of `students`; returns those folders.

    kinds: of the first ones; those after them are honest.
    Replaces the sample class that is there, and nobody else.
    Raises: FileNotFoundError without a release version, FileExistsError if a student of that name was
    not written by this function.
    """
    release = course / "release" / assignment / f"{assignment}.ipynb"
    if not release.is_file():
        raise FileNotFoundError(
            f"There is no release version of {assignment!r} in {course / 'release'}. "
            f"Make it first, in {course}: nbgrader generate_assignment {assignment}"
        )
    planned = sample_class(assignment, students, seed, kinds)
    submitted = course / "submitted"
    for student in planned:
        folder = submitted / student.name
        if folder.exists() and not (folder / MARKER).exists():
            raise FileExistsError(
                f"{folder} was not written by the sample class, so it stays as it is. "
                "Move it away, or choose another course."
            )
    for marker in submitted.glob(f"*/{MARKER}"):
        shutil.rmtree(marker.parent / assignment, ignore_errors=True)
    written = []
    for student in planned:
        folder = submitted / student.name / assignment
        folder.mkdir(parents=True)
        (folder.parent / MARKER).touch()
        _write(student, folder, nbformat.read(release, as_version=4), assignment)
        written.append(folder)
    return written


def designed_scores(assignment: str, students: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Student -> exercise -> the score it deserves, from the banks alone.

    Raises: RuntimeError when a wrong answer scores differently on different inputs.
    """
    exercises = {e.name: e for e in assignment_exercises(assignment)}
    return {
        student.name: {
            name: designed_score(exercise, student.entries.get(name))
            for name, exercise in exercises.items()
        }
        for student in sample_class(assignment, students, seed)
    }


def designed_score(exercise: Exercise, entry: Entry | None) -> float:
    """Full points for a right answer of the bank, what the judge says for a wrong one, else 0."""
    if entry is None or entry.answer is None:
        return 0.0
    if entry.answer in exercise.right_answers:
        return float(exercise.points)
    scores = {v.score for v in matrix.verdicts(exercise, entry.answer)}
    if len(scores) > 1:
        raise RuntimeError(
            f"{exercise.name}: the wrong answer {entry.answer.key} scores {sorted(scores)}, depending "
            "on the inputs. Add the case that decides to the property that should fail."
        )
    return scores.pop()


def sample_class(
    assignment: str, students: int, seed: int = 0, kinds: Sequence[str] = KINDS
) -> list[Student]:
    """Who is in the class and what each one hands in. One seed, one class; a smaller class is its start."""
    exercises = assignment_exercises(assignment)
    chance = random.Random(f"{assignment}/{seed}")
    wrong = {e.name: chance.sample(e.wrong_answers, len(e.wrong_answers)) for e in exercises}
    styles = _count()
    misconceptions = _count()
    mixtures = _count()
    faulty = [e for e in exercises if not inspect.isclass(e.reference)]
    digits = max(2, len(str(students)))

    def right(e: Exercise, style: int) -> Entry:
        answer = e.right_answers[style % len(e.right_answers)]
        return Entry(answer.source(e.name), answer)

    def mistaken(e: Exercise, choice: int) -> Entry:
        answer = wrong[e.name][choice % len(wrong[e.name])]
        return Entry(answer.source(e.name), answer)

    planned = []
    for number in range(students):
        kind = kinds[number] if number < len(kinds) else HONEST[number % len(HONEST)]
        style = next(styles)
        entries = {e.name: right(e, style) for e in exercises}
        affected = ""
        if kind == "one misconception":
            turn = next(misconceptions)
            e = exercises[turn % len(exercises)]
            entries[e.name], affected = mistaken(e, turn // len(exercises)), e.name
        elif kind == "mixture":
            turn = next(mixtures)
            for i, e in enumerate(exercises):
                if (i + turn) % 3 == 0:
                    entries[e.name] = mistaken(e, len(exercises) + turn)
                elif (i + turn) % 3 == 1:
                    del entries[e.name]
        elif kind in ("untouched", "empty file"):
            entries = {}
        elif kind in FAULTS:
            e = faulty[-1 - list(FAULTS).index(kind) % len(faulty)]
            entries[e.name], affected = _renamed(FAULTS[kind], e), e.name
        elif kind in NOISE:
            for e in faulty:
                entries[e.name] = _noisy(
                    NOISE[kind], e, e.right_answers[style % len(e.right_answers)]
                )
        elif kind in CHEATS:
            for e, cheat in zip(faulty, CHEATS[kind], strict=False):
                entries[e.name] = _renamed(cheat, e)
        elif kind in ("duplicated test cell", "deleted test cell"):
            affected = exercises[style % len(exercises)].name
        words = WORDS[number % len(WORDS)] if entries else ""
        planned.append(Student(f"s{number + 1:0{digits}}", kind, entries, affected, words))
    return planned


def _count() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _renamed(code: str, exercise: Exercise) -> Entry:
    return Entry(code.strip("\n").replace("NAME", exercise.name) + "\n")


def _noisy(wrapper: str, exercise: Exercise, answer: Answer) -> Entry:
    """A right answer under another name, and a function around it that makes the noise."""
    own = answer.source(f"my_{exercise.name}")
    return Entry(f"{own}\n\n{_renamed(wrapper, exercise).source}", answer)


def _write(student: Student, folder: Path, notebook: NotebookNode, assignment: str) -> None:
    path = folder / f"{assignment}.ipynb"
    if student.kind == "empty file":
        path.touch()
        return
    if student.kind == "renamed notebook":
        path = folder / f"my {assignment}, final version.ipynb"
    for cell in notebook.cells:
        meta = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "markdown" and meta.get("solution") and student.words:
            cell.source = student.words
    for name, entry in student.entries.items():
        answer_cell(notebook, name).source = entry.source.rstrip("\n")
    edits: dict[str, Callable[[NotebookNode, str], None]] = {
        "duplicated test cell": _duplicate_check,
        "deleted test cell": lambda nb, name: nb.cells.remove(check_cell(nb, name)),
        "cheats: looking around": _inject_script,
        "cheats: forging results": _forge_marks,
    }
    if student.kind in edits:
        edits[student.kind](notebook, student.affected)
    nbformat.write(notebook, path)


def check_cell(notebook: NotebookNode, exercise: str) -> NotebookNode:
    """The cell that checks `exercise`. Raises: LookupError when there is none."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and checked_exercise(cell.source) == exercise:
            return cell
    raise LookupError(f"no cell of the notebook checks {exercise!r}")


def answer_cell(notebook: NotebookNode, exercise: str) -> NotebookNode:
    """The last answer cell before the check of `exercise`. Raises: LookupError when there is none."""
    check = notebook.cells.index(check_cell(notebook, exercise))
    for cell in reversed(notebook.cells[:check]):
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution"):
            return cell
    raise LookupError(f"no answer cell stands before the check of {exercise!r}")


def _duplicate_check(notebook: NotebookNode, exercise: str) -> None:
    check = check_cell(notebook, exercise)
    copy = nbformat.from_dict({**check, "id": f"{check['id'][:50]}-again"})
    notebook.cells.insert(notebook.cells.index(check), copy)


def _inject_script(notebook: NotebookNode, _: str) -> None:
    """What would run in the instructor's browser if a page of ours passed it on."""
    shown = f"""
    from IPython.display import HTML, Javascript, Markdown, display

    for show in (HTML, Markdown):
        display(show("{SCRIPT}<img src=x onerror='alert(1)'>"))
    display(Javascript("document.title = 'a student was here'"))
    """
    notebook.cells.insert(0, nbformat.v4.new_code_cell(textwrap.dedent(shown).strip()))
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source += f"\n\n{SCRIPT}<img src=x onerror='alert(1)'>"


def _forge_marks(notebook: NotebookNode, _: str) -> None:
    """Metadata and outputs of somebody who knows where a grade is kept."""
    verdict = {"exercise": "", "score": 1000.0, "points": 1000.0, "attempted": True}
    notebook.metadata["llmr"] = {"graded": True, "intake": [], "tier": 2}
    for cell in notebook.cells:
        meta = cell.metadata.get("nbgrader", {})
        if meta.get("grade") and cell.cell_type == "code":
            name = checked_exercise(cell.source)
            meta.update(points=1000, locked=False)
            cell.metadata["llmr"] = {**verdict, "exercise": name}
            cell.source = re.sub(r"check\(.*\)", "1000.0", cell.source)
            cell.outputs = [
                nbformat.v4.new_output(
                    "execute_result", data={"text/plain": "1000.0"}, execution_count=1
                )
            ]
