"""Hostile submissions: what one is, what it may not reach, and how to find out whether it did.

The submissions themselves stand in tests/course/attacks. Here is what they are made of, the course that
they attack, with random tokens wherever a student must never look, and the four measures: a score above
what the answers deserve, a token in anything that a student can read, a student without a state, and a
class that was stopped or honest work that lost points.
"""

import csv
import dataclasses
import html
import importlib
import os
import re
import secrets
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from nbformat.notebooknode import NotebookNode
from nbgrader.api import Gradebook, MissingEntry

from llmr_ref.grading.exercise import PRACTICE_SEED, submission_seed
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.sample_class import Entry as Answered
from llmr_ref.grading.sample_class import answer_cell, check_cell, designed_score

ROOT = Path(__file__).resolve().parents[2]
ASSIGNMENT = "attention"
EXERCISES = ("softmax", "causal_mask", "MultiHeadSelfAttention")  # those of it that are attacked
GAINS = ("raise", "leak", "lose", "stop")
MARK = "a student was here"  # what every script of an attack holds
TOKEN = (
    "llmr-" + "canary-"
)  # what every token begins with; attacks that search memory build it likewise
LOADING = ("script", "iframe", "object", "embed", "base", "form", "meta", "link")
MAX_NUMBERS = 8  # of a graded input, as attacks write them out: see `spelled`


@dataclasses.dataclass
class Hand:
    """A submission in the making: right answers everywhere, until an attack changes it.

    deserves: what its answers are worth; an answer that an attack replaces is worth nothing, unless it
    says so. content: bytes to hand in instead of the notebook.
    """

    notebook: NotebookNode
    folder: Path
    deserves: dict[str, float]
    content: bytes | None = None

    @property
    def path(self) -> Path:
        return self.folder / f"{ASSIGNMENT}.ipynb"

    def answer(self, exercise: str, code: str, *, deserves: float = 0.0) -> None:
        """Replace an answer; NAME in the code becomes the exercise's name."""
        code = textwrap.dedent(code).strip("\n").replace("NAME", exercise)
        answer_cell(self.notebook, exercise).source = code
        self.deserves[exercise] = deserves

    def before(self, exercise: str, code: str) -> None:
        """Put code into the answer cell, ahead of the right answer that stands there."""
        cell = answer_cell(self.notebook, exercise)
        cell.source = f"{textwrap.dedent(code).strip()}\n\n\n{cell.source}"

    def cell(self, code: str, at: int = 2) -> NotebookNode:
        """Insert a code cell."""
        cell = nbformat.v4.new_code_cell(textwrap.dedent(code).strip("\n"))
        self.notebook.cells.insert(at, cell)
        return cell

    def words(self, text: str) -> None:
        """Write into the cell for the question in words."""
        for cell in self.notebook.cells:
            if cell.cell_type == "markdown" and cell.metadata.get("nbgrader", {}).get("solution"):
                cell.source = text

    def check(self, exercise: str) -> NotebookNode:
        return check_cell(self.notebook, exercise)

    def marks(self, exercise: str) -> Any:
        return self.check(exercise).metadata["nbgrader"]

    def nothing_deserved(self) -> None:
        self.deserves = dict.fromkeys(self.deserves, 0.0)

    def write(self) -> None:
        """Hand it in, unless the attack has put something in its place."""
        if self.path.exists() or self.path.is_symlink():
            return
        if self.content is not None:
            self.path.write_bytes(self.content)
        else:
            self.path.write_text(nbformat.writes(self.notebook), errors="surrogatepass")


@dataclasses.dataclass(frozen=True)
class Attack:
    """A hostile submission. look: what it does is no matter of security, only something to look at.

    student: the name under which it is handed in, where that is the attack.
    """

    name: str
    idea: str
    gain: str
    change: Callable[[Hand], None]
    look: bool = False
    student: str = ""

    @property
    def author(self) -> str:
        return self.student or self.name


class Suite(dict[str, Attack]):
    """Attacks by name, registered by the modules of tests/course/attacks."""

    def __call__(
        self, gain: str, idea: str, *, look: bool = False, student: str = ""
    ) -> Callable[[Callable[[Hand], None]], Callable[[Hand], None]]:
        """Register a function that turns honest work into the attack. Raises: ValueError for no such gain."""
        if gain not in GAINS:
            raise ValueError(f"an attack gains one of {', '.join(GAINS)}, got {gain!r}")

        def register(change: Callable[[Hand], None]) -> Callable[[Hand], None]:
            name = change.__name__.replace("_", "-")
            if name in self:
                raise ValueError(f"there are two attacks named {name!r}")
            self[name] = Attack(name, idea, gain, change, look, student)
            return change

        return register


attack = Suite()


def load_suite() -> Suite:
    """All attacks. Raises: RuntimeError outside of a checkout: they are tests, and not installed."""
    folder = ROOT / "tests" / "course"
    if not (folder / "attacks" / "__init__.py").is_file():
        raise RuntimeError(
            f"The attacks are part of the tests, and {folder / 'attacks'} does not exist. "
            "Run this in a checkout of the repository."
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.import_module("attacks")
    return attack


def spelled(numbers: Iterable[float]) -> str:
    """How attacks write an input down, so that it can be found again: its first eight numbers."""
    return ",".join(f"{x:.2f}" for x in list(numbers)[:MAX_NUMBERS])


# --- the course that is attacked -----------------------------------------------------------------


class Target:
    """A course with tokens wherever a student must never look, and a class that is handed in."""

    def __init__(self, root: Path, attacks: Iterable[Attack], *, ours: bool) -> None:
        self.root, self.attacks, self.ours = root, list(attacks), ours
        self.tokens: dict[str, str] = {}
        self.deserved: dict[str, dict[str, float]] = {}
        self.log, self.stopped = "", ""

    def token(self, place: str) -> str:
        return self.tokens.setdefault(place, TOKEN + secrets.token_hex(8))

    def prepare(self) -> None:
        """Write the course: configuration, secret, source, and what may lie around it."""
        self.root.mkdir(parents=True)
        source = ROOT / "assignments" / "source" / ASSIGNMENT
        shutil.copytree(source, self.root / "source" / ASSIGNMENT)
        if self.ours:
            shutil.copy(ROOT / "assignments" / "nbgrader_config.py", self.root)
        else:
            (self.root / "nbgrader_config.py").write_text(
                "c = get_config()\nc.CourseDirectory.course_id = 'llmr'\n"
            )
        (self.root / ".course_secret").write_text(self.token("the course secret"))
        (self.root.parent / "notes.txt").write_text(self.token("a file beside the course"))
        (self.root / "marking.md").write_text(self.token("a file in the course"))
        path = self.root / "source" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [c for i, c in enumerate(notebook.cells) if i < 2 or _belongs(c)]
        for cell in notebook.cells:
            note = f"### BEGIN SOLUTION\n# {self.token('the source notebook')}"
            cell.source = cell.source.replace("### BEGIN SOLUTION", note)
        nbformat.write(notebook, path)
        os.environ["COURSE_NOTE"] = self.token("the environment")

    def hand_in(self) -> None:
        """Write every submission: the honest ones first, in between and last in the class's order."""
        release = self.root / "release" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
        for attack in self.attacks:
            hand = self._hand(attack.author, release)
            attack.change(hand)
            hand.write()
            self.deserved[attack.author] = hand.deserves
        for name in self.victims:
            hand = self._hand(name, release)
            hand.cell(f"# {self.token('the work of another student')}\nown = 1")
            if name == self.victims[-1]:
                exercise = get_exercise("softmax")
                entry = exercise.wrong_answers[0]
                worth = designed_score(exercise, Answered("", entry))
                hand.answer("softmax", entry.source("softmax"), deserves=worth)
            hand.write()
            self.deserved[name] = hand.deserves

    @property
    def victims(self) -> list[str]:
        """Honest students: graded first, in the middle and last; the last one has made a mistake."""
        middle = sorted(a.author for a in self.attacks)[len(self.attacks) // 2]
        return ["00-victim", f"{middle}-victim", "zz-victim"]

    def _hand(self, student: str, release: Path) -> Hand:
        notebook = nbformat.read(release, as_version=4)
        worth = {}
        for exercise in map(get_exercise, EXERCISES):
            right = exercise.right_answers[0]
            answer_cell(notebook, exercise.name).source = right.source(exercise.name)
            worth[exercise.name] = float(exercise.points)
        folder = self.root / "submitted" / student / ASSIGNMENT
        folder.mkdir(parents=True)
        return Hand(notebook, folder, worth)

    # --- what became of it ---

    def scores(self, student: str) -> dict[str, float] | None:
        """Automatic scores by exercise; None for a student without a state."""
        checks = {}
        for cell in nbformat.read(
            self.root / "release" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb", as_version=4
        ).cells:
            said = re.search(r'check\("(\w+)"\)', cell.source)
            if said and cell.metadata.get("nbgrader", {}).get("grade"):
                checks[cell.metadata.nbgrader.grade_id] = said[1]
        with Gradebook(f"sqlite:///{self.root / 'gradebook.db'}", "llmr") as gradebook:
            try:
                submission = gradebook.find_submission(ASSIGNMENT, student)
            except MissingEntry:
                return None
            found = {g.name: g.score for n in submission.notebooks for g in n.grades}
            auto = {g.name: g.auto_score for n in submission.notebooks for g in n.grades}
        if any(auto.get(name) is None for name in checks):
            return None
        return {checks[name]: float(found[name]) for name in checks}

    def feedback(self, student: str) -> Path:
        return self.root / "feedback" / student / ASSIGNMENT / f"{ASSIGNMENT}.html"

    def raised(self, attack: Attack) -> str:
        """Which scores are above what the answers deserve."""
        scores = self.scores(attack.author) or {}
        worth = self.deserved[attack.author]
        high = [f"{n} {s:g} for {worth[n]:g}" for n, s in scores.items() if s > worth[n] + 1e-9]
        return ", ".join([*high, *self.scripts(attack.author)])

    def lost(self, attack: Attack) -> str:
        """Why the student has no state."""
        graded = self.root / "autograded" / attack.author / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
        if self.scores(attack.author) is None:
            return "no score"
        if not graded.is_file():
            return "no autograded notebook"
        return "" if self.feedback(attack.author).is_file() else "no feedback"

    def harmed(self) -> str:
        """Which honest students do not have exactly their honest scores, or why the run ended."""
        wrong = [
            v for v in self.victims
            if self.scores(v) != self.deserved[v] or not self.feedback(v).is_file()
        ]  # fmt: skip
        return "; ".join(filter(None, [self.stopped, ", ".join(f"{v} lost points" for v in wrong)]))

    def leaked(self, attack: Attack) -> str:
        """Which tokens, or numbers of graded inputs, stand in what this student can read or has left."""
        text = self.readable(attack.author)
        places = [place for place, token in self.tokens.items() if token in text]
        if self.ours:
            secret = self.tokens["the course secret"].encode()
            if any(s in text for s in self.graded_numbers(attack.author, secret)):
                places.append("graded inputs")
        return ", ".join(places)

    def readable(self, student: str) -> str:
        """Everything that comes back to a student, as text: feedback, cards, outputs, files."""
        parts = []
        for folder in ("feedback", "autograded"):
            for path in sorted((self.root / folder / student).rglob("*")):
                if path.is_file():
                    parts += [str(path.name), path.read_text(errors="replace")]
        return html.unescape("\n".join(parts))

    @staticmethod
    def graded_numbers(student: str, secret: bytes) -> set[str]:
        """The graded inputs of a student, spelled as attacks spell them, without those of everybody."""
        spelled_out: dict[str, set[str]] = {"graded": set(), "practice": set()}
        for exercise in map(get_exercise, EXERCISES):
            seeds = {
                "graded": submission_seed(secret, student, exercise.name), "practice": PRACTICE_SEED
            }  # fmt: skip
            for kind, seed in seeds.items():
                for _, case in exercise.cases(seed):
                    for value in (*case.args, *case.kwargs.values()):
                        if hasattr(value, "numel") and value.numel() >= 3:
                            numbers = value.double().flatten()[:MAX_NUMBERS].tolist()
                            spelled_out[kind].add(spelled(numbers))
        return spelled_out["graded"] - spelled_out["practice"]

    def scripts(self, student: str) -> list[str]:
        """What of the student's would run in a reader's browser: in feedback, formgrader or a spreadsheet."""
        found = []
        for path in (self.root / "feedback" / student).rglob("*.html"):
            found += [f"feedback runs {what}" for what in active(path.read_text(errors="replace"))]
        found += [f"formgrader runs {what}" for what in active(self.formgrader_page(student))]
        for path in (self.root / "exports").glob("*.csv") if self.ours else []:
            rows = csv.reader(path.read_text().splitlines())
            cells = [c for row in rows for c in row if student in c or MARK in c]
            found += [f"{path.name} runs {c[:20]!r}" for c in cells if c[:1] in "=+-@\t\r"]
        return found

    def formgrader_page(self, student: str) -> str:
        """The submission as formgrader shows it to the instructor."""
        from llmr_ref.grading.attack_run import formgrader_page

        path = self.root / "autograded" / student / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
        if not path.is_file() or MARK[:6] not in path.read_text(errors="replace"):
            return ""  # rendering takes long, and nothing of an attack is in it
        try:
            return formgrader_page(self.root, path)
        except Exception as error:  # the instructor sees nothing of the submission
            if self.ours:
                raise
            self.stopped = self.stopped or f"formgrader fails with {type(error).__name__}"
            return ""


def _belongs(cell: NotebookNode) -> bool:
    """Whether a cell of the source belongs to the exercises that are attacked, or to the words."""
    grade_id = str(cell.metadata.get("nbgrader", {}).get("grade_id"))
    return grade_id.endswith(
        ("softmax", "causal-mask", "multi-head-self-attention", "cheating-model")
    )


def active(page: str) -> set[str]:
    """Elements and attributes of a page that would run or load what holds the mark of an attack."""
    found: set[str] = set()
    if not _marked(html.unescape(page)):
        return found
    for tag in BeautifulSoup(page, "html.parser").find_all(True):
        if tag.name in LOADING and _marked(html.unescape(str(tag))):
            found.add(f"<{tag.name}>")
        for name, value in tag.attrs.items():
            text = " ".join(value) if isinstance(value, list) else str(value)
            runs = name.startswith("on") or re.match(
                r"\s*(javascript|vbscript|data:text/html)", text, re.I
            )
            if runs and _marked(text):
                found.add(f"{tag.name} {name}")
    return found


def _marked(text: str) -> bool:
    """Whether a text holds the mark, with spaces as addresses or TeX write them."""
    return MARK in text.replace("%20", " ").replace("\xa0", " ")
