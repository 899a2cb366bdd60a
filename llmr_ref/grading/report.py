"""The class report: a static page, a CSV and a JSON file that say what the class got right and wrong.

The files depend on the gradebook and the autograded notebooks alone: same data, same files.
"""

import inspect
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llmr_ref.grading import pages, similarity
from llmr_ref.grading.class_record import (
    ClassRecord,
    Question,
    Student,
    code_by_exercise,
    read_class,
)
from llmr_ref.grading.class_statistics import (
    KINDS,
    LEAST_FOR_CORRELATION,
    Distribution,
    Held,
    Item,
    MapRow,
    Timing,
    distributions,
    item,
    misconception_map,
    misconceptions,
    timing,
)
from llmr_ref.grading.exercises import exercise_names, get_exercise
from llmr_ref.grading.gradebook import NothingToReport
from llmr_ref.grading.report_file import report_csv, report_file
from llmr_ref.grading.safe_csv import write_whole
from llmr_ref.grading.tiers import TIERS
from llmr_ref.grading.trajectories import write_course_page

__all__ = ["NothingToReport", "write_report"]

PAIRS_SHOWN = 25


@dataclass(frozen=True)
class ClassReport:
    """Everything the page says, as numbers and names."""

    record: ClassRecord
    items: list[Item]
    distributions: list[Distribution]
    held: list[Held]
    unnamed: list[tuple[str, list[Student]]]  # exercise, and who has it wrong in a way of their own
    map: list[MapRow]
    timing: Timing
    pairs: list[similarity.Pair]

    @property
    def assignment(self) -> str:
        return self.record.assignment

    @property
    def questions(self) -> list[Question]:
        return self.record.questions

    @property
    def students(self) -> list[Student]:
        return self.record.students

    @property
    def graded(self) -> list[Student]:
        return self.record.graded

    @property
    def handed_in(self) -> list[Student]:
        return self.record.handed_in

    @cached_property
    def states(self) -> Counter[str]:
        return Counter(s.state for s in self.students)

    @cached_property
    def places(self) -> dict[str, int]:
        """Where a student stands in the list, for links within the page."""
        return {s.id: place for place, s in enumerate(self.students)}

    @property
    def look(self) -> list[Student]:
        """Students with something to look at, the settled ones last."""
        noted = [s for s in self.students if s.reasons]
        return sorted(noted, key=lambda s: not s.open_reasons)

    @property
    def tiers(self) -> dict[int, int]:
        """How many submissions were graded at which tier, the weakest first."""
        return dict(sorted(Counter(t for s in self.graded for t in s.tiers).items()))

    @property
    def manual_questions(self) -> list[Question]:
        return [q for q in self.questions if q.manual]

    @property
    def concerned(self) -> list[Item]:
        return [i for i in self.items if i.concerns]

    @property
    def out_of(self) -> float:
        return self.record.out_of

    @property
    def waiting(self) -> int:
        return sum(s.waiting for s in self.graded)

    @property
    def overridden(self) -> bool:
        """Whether an autograded score was set by hand anywhere."""
        return any(a.by_hand and not q.manual for s in self.graded for q, a in s.answers.items())

    def person(self, student: str) -> Student:
        return self.students[self.places[student]]


def write_report(
    course: Path,
    assignment: str,
    out: Path,
    *,
    feedback_root: Path | None = None,
    with_course: bool = False,
) -> Path:
    """Write the class report of `assignment` as a self-contained HTML page, with CSV and JSON beside it.

    In the course's own reports folder the page over all assignments is brought up to date as well.
    feedback_root: where the feedback pages are, if not in course/feedback; links are relative to `out`.
    with_course: whether the page over all assignments stands beside `out` in another folder as well.
    Returns the path of the page.
    Raises: NothingToReport without a gradebook, without the assignment, or before anything is graded.
    """
    record = read_class(course, assignment, base=out.parent, feedback_root=feedback_root)
    report = examine(record, similar(course, record))
    at_home = with_course or out.parent.resolve() == (course / "reports").resolve()
    page = pages.render(
        "report.html.jinja", r=report, kinds=KINDS, tiers=TIERS, least=LEAST_FOR_CORRELATION,
        shown=PAIRS_SHOWN, similarity=similarity, files=out.stem, at_home=at_home,
    )  # fmt: skip
    data = report_file(record, report.items, report.held, report.pairs)
    write_whole(out.with_suffix(".csv"), report_csv(record))
    text = json.dumps(data.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_whole(out.with_suffix(".json"), text + "\n")
    write_whole(out, page)
    if at_home:
        write_course_page(course, out.parent / "index.html")
    return out


def examine(record: ClassRecord, pairs: list[similarity.Pair]) -> ClassReport:
    """Everything that is counted over a class."""
    auto = [q for q in record.questions if not q.manual]
    held, unnamed = misconceptions(record.graded)
    return ClassReport(
        record=record,
        items=[item(q, record.graded, auto) for q in record.questions],
        distributions=distributions(record.graded, record.questions),
        held=held,
        unnamed=unnamed,
        map=misconception_map(record.questions, held, unnamed),
        timing=timing(record.handed_in, record.out_of),
        pairs=pairs,
    )


def similar(course: Path, record: ClassRecord) -> list[similarity.Pair]:
    """Pairs of students whose code is alike, and students whose code is like the reference."""
    known = {q.title for q in record.questions if not q.manual}.intersection(exercise_names())
    answers = {
        s.id: {exercise: code for exercise, code in s.code.items() if exercise in known}
        for s in record.graded
    }
    reference = {name: inspect.getsource(get_exercise(name).reference) for name in known}
    for path in sorted((course / "source" / record.assignment).glob("*.ipynb")):
        solved = code_by_exercise(json.loads(path.read_text("utf-8"))["cells"])
        reference |= {
            name: f"{reference[name]}\n\n{code}" for name, code in solved.items() if name in known
        }
    return similarity.similar_pairs(answers, reference, record.template)
