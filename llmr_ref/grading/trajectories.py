"""The page over all assignments of a course: everybody's scores from one assignment to the next.

It reads the gradebook alone, one query for each assignment, so that a large course stays quick.
"""

import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from nbgrader.api import Assignment, Grade, SubmittedAssignment, SubmittedNotebook

from llmr_ref.grading import pages
from llmr_ref.grading.exercises import ASSIGNMENTS
from llmr_ref.grading.gradebook import open_gradebook
from llmr_ref.grading.safe_csv import write_whole

WIDTH, HEIGHT, MARGIN = 96, 28, 4  # of a sparkline, in pixels


@dataclass(frozen=True)
class Score:
    """What one student has for one assignment. waiting: a part of it still waits for a grade."""

    points: float
    share: float
    waiting: bool


@dataclass(frozen=True)
class CourseAssignment:
    """One column. link: its report, when there is one beside the page."""

    name: str
    out_of: float
    due: datetime | None
    link: str
    graded: int
    median: float | None


@dataclass
class Trajectory:
    """One student: a score for each assignment, None where nothing is graded."""

    student: str
    name: str
    scores: list[Score | None] = field(default_factory=list)

    @property
    def mean(self) -> float | None:
        shares = [s.share for s in self.scores if s]
        return statistics.fmean(shares) if shares else None

    @property
    def change(self) -> float | None:
        """The latest share less the mean of those before it."""
        shares = [s.share for s in self.scores if s]
        return shares[-1] - statistics.fmean(shares[:-1]) if len(shares) > 1 else None

    @property
    def points(self) -> list[tuple[float, float] | None]:
        """Where the sparkline's dots are."""
        step = (WIDTH - 2 * MARGIN) / max(len(self.scores) - 1, 1)
        return [
            None if s is None
            else (MARGIN + k * step, MARGIN + (1 - min(s.share, 1.0)) * (HEIGHT - 2 * MARGIN))
            for k, s in enumerate(self.scores)
        ]  # fmt: skip

    @property
    def lines(self) -> list[str]:
        """The dots joined, broken where nothing is graded."""
        runs: list[list[str]] = [[]]
        for point in self.points:
            if point is None:
                runs.append([])
            else:
                runs[-1].append(f"{point[0]:.1f},{point[1]:.1f}")
        return [" ".join(run) for run in runs if len(run) > 1]


@dataclass(frozen=True)
class CourseRecord:
    """Every assignment with something graded, in the order in which they are due, and everybody."""

    assignments: list[CourseAssignment]
    students: list[Trajectory]

    @property
    def moved(self) -> list[Trajectory]:
        """Those whose latest score is furthest below their own earlier ones."""
        fallen = [t for t in self.students if t.change is not None and t.change <= -0.2]
        return sorted(fallen, key=lambda t: (t.change or 0.0, t.student))[:10]


def _place(entry: Assignment) -> tuple[datetime, int, str]:
    """Order by the date due; those without one come first, in the order in which they are studied."""
    reading = list(ASSIGNMENTS)
    number = reading.index(entry.name) if entry.name in reading else len(reading)
    return entry.duedate or datetime.min, number, entry.name


def read_course(course: Path, reports: Path) -> CourseRecord:
    """Scores of every assignment in the gradebook. reports: the folder with the assignments' reports.

    Raises: NothingToReport without a gradebook.
    """
    with open_gradebook(course, "ASSIGNMENT") as gradebook:
        students = {
            s.id: Trajectory(s.id, " ".join(filter(None, (s.first_name, s.last_name))))
            for s in gradebook.students
        }
        assignments = []
        for entry in sorted(gradebook.assignments, key=_place):
            out_of = float(entry.max_score or 0.0)
            graded = {
                a.id
                for a in gradebook.db.query(SubmittedAssignment.id)
                .join(SubmittedNotebook, SubmittedNotebook.assignment_id == SubmittedAssignment.id)
                .join(Grade, Grade.notebook_id == SubmittedNotebook.id)
                .filter(Grade.auto_score.is_not(None) | Grade.manual_score.is_not(None))
                .filter(SubmittedAssignment.assignment_id == entry.id)
            }
            rows = (
                gradebook.db.query(
                    SubmittedAssignment.id, SubmittedAssignment.student_id,
                    SubmittedAssignment.score, SubmittedAssignment.late_submission_penalty,
                    SubmittedAssignment.needs_manual_grade,
                ).filter(SubmittedAssignment.assignment_id == entry.id)
            )  # fmt: skip
            found = {}
            for key, student, score, penalty, waiting in rows:
                if key in graded:
                    total = max(0.0, float(score or 0.0) - float(penalty or 0.0))
                    found[student] = Score(total, total / out_of if out_of else 0.0, bool(waiting))
            if not found:
                continue
            page = reports / f"{entry.name}.html"
            due = entry.duedate.replace(tzinfo=UTC) if entry.duedate else None
            assignments.append(CourseAssignment(
                entry.name, out_of, due, quote(page.name) if page.is_file() else "", len(found),
                statistics.median(s.share for s in found.values()),
            ))  # fmt: skip
            for trajectory in students.values():
                trajectory.scores.append(found.get(trajectory.student))
    return CourseRecord(assignments, sorted(students.values(), key=lambda t: t.student))


def write_course_page(course: Path, out: Path) -> Path:
    """Write everybody's trajectory over the assignments as one self-contained page.

    Raises: NothingToReport without a gradebook.
    """
    record = read_course(course, out.parent)
    return write_whole(out, pages.render("course.html.jinja", r=record, width=WIDTH, height=HEIGHT))
