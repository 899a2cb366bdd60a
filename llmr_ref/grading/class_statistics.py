"""What the numbers of a class say: distributions, how well each question works, misconceptions, timing."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmr_ref.grading.class_record import Answer, Kind, Question, Student
from llmr_ref.grading.verdict import Misconception

# In the order in which the bars stack them.
KINDS: tuple[Kind, ...] = ("full", "partial", "zero", "not attempted", "not graded yet")

LEAST_FOR_CORRELATION = 10  # students; with fewer the coefficient says next to nothing
LEAST_FOR_CONCERN = 3  # answers; fewer that all fail are bad luck


@dataclass(frozen=True)
class Bin:
    """A column of the score distribution: students in it, of these how many can still gain points."""

    label: str
    count: int
    waiting: int


@dataclass(frozen=True)
class Distribution:
    """One histogram and what it is about."""

    title: str
    out_of: float
    bins: list[Bin]
    mean: float
    median: float
    waiting: int


@dataclass(frozen=True)
class Discrimination:
    """Corrected item-total correlation with its 95 % interval, or why there is none.

    value: Pearson's r between the points for this question and the points for all other autograded ones,
    over students with a graded answer to each. low, high: from Fisher's z, artanh(r) ± 1.96 / sqrt(n - 3).
    """

    students: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Item:
    """How a question went.

    share: points earned of points possible, over the graded answers: the item's difficulty.
    concerns: why the question itself may be broken, in sentences.
    """

    question: Question
    counts: dict[str, int]
    share: float | None
    discrimination: Discrimination
    concerns: list[str]


@dataclass(frozen=True)
class Held:
    """A misconception and who holds it."""

    exercise: str
    misconception: Misconception
    students: list[Student]


@dataclass(frozen=True)
class MapRow:
    """One exercise of the misconception map: what its wrong answers are, the most frequent first."""

    exercise: str
    wrong: int
    held: list[Held]
    unnamed: int


@dataclass(frozen=True)
class Span:
    """A stretch of time before or after the date due: who handed in then, and their middle share."""

    label: str
    count: int
    median_share: float | None


@dataclass(frozen=True)
class Timing:
    """When the class handed in. median_hours: before the date due, over those with both dates."""

    stamped: int
    spans: list[Span]
    median_hours: float | None
    late: int


# --- scores --------------------------------------------------------------------------------------


def distributions(students: Sequence[Student], questions: Sequence[Question]) -> list[Distribution]:
    """The autograded part, and the whole where it differs: manual questions or late penalties."""
    auto = sum(q.points for q in questions if not q.manual)
    whole = sum(q.points for q in questions)
    found = []
    if auto:
        scores = [(s.auto_points, s.auto_waiting) for s in students]
        found.append(_distribution("Autograded questions", scores, auto))
    if whole > auto or any(s.penalty for s in students):
        scores = [(s.total, s.waiting > 0) for s in students]
        late = ", late penalties taken off" if any(s.penalty for s in students) else ""
        found.append(_distribution(f"All questions{late}", scores, whole))
    return found


def _distribution(title: str, scores: Sequence[tuple[float, bool]], out_of: float) -> Distribution:
    """Twelve columns: nothing, ten tenths of the points, everything."""
    labels = ["none", *(f"{10 * k} to {10 * k + 10} %" for k in range(10)), "all"]
    counts, waiting = Counter[int](), Counter[int]()
    for score, unfinished in scores:
        share = score / out_of
        column = 0 if share <= 0 else 11 if share >= 1 else 1 + int(share * 10)
        counts[column] += 1
        waiting[column] += unfinished
    values = [score for score, _ in scores]
    return Distribution(
        title=title,
        out_of=out_of,
        bins=[Bin(label, counts[k], waiting[k]) for k, label in enumerate(labels)],
        mean=statistics.fmean(values),
        median=statistics.median(values),
        waiting=waiting.total(),
    )


# --- questions -----------------------------------------------------------------------------------


def item(
    question: Question, students: Sequence[Student], auto_questions: Sequence[Question]
) -> Item:
    """Count the kinds of answers to a question and say how well it works."""
    answers = [s.answers[question] for s in students if question in s.answers]
    counts = Counter(a.kind for a in answers)
    graded = [a.score for a in answers if a.kind != "not graded yet"]
    possible = question.points * len(graded)
    found = discrimination(question, students, auto_questions)
    return Item(
        question=question,
        counts={kind: counts[kind] for kind in KINDS},
        share=sum(graded) / possible if possible else None,
        discrimination=found,
        concerns=_concerns(answers, found),
    )


def discrimination(
    question: Question, students: Iterable[Student], auto_questions: Sequence[Question]
) -> Discrimination:
    """Whether those who do well elsewhere do well here; see `Discrimination` for the formula."""
    rest = [q for q in auto_questions if q is not question]
    own, others = [], []
    for s in students:
        needed = [s.answers.get(q) for q in (question, *rest)]
        if all(a is not None and a.kind != "not graded yet" for a in needed):
            own.append(s.answers[question].score)
            others.append(sum(s.answers[q].score for q in rest))
    n = len(own)
    if not rest:
        return Discrimination(n, why_not="there is no other autograded question")
    if n < LEAST_FOR_CORRELATION:
        return Discrimination(n, why_not=f"too few: n = {n}, needs {LEAST_FOR_CORRELATION}")
    for scores, whose in ((own, "on this question"), (others, "on the other questions")):
        if max(scores) - min(scores) < 1e-9:
            return Discrimination(n, why_not=f"everybody has the same score {whose}")
    r = min(max(statistics.correlation(own, others), -1.0), 1.0)
    if abs(r) > 1 - 1e-12:
        return Discrimination(n, r, r, r)
    half = 1.96 / math.sqrt(n - 3)
    return Discrimination(n, r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))


def _concerns(answers: Sequence[Answer], found: Discrimination) -> list[str]:
    """Full marks for everybody are no concern: an easy question is not a broken one."""
    judged = [a for a in answers if a.kind != "not graded yet"]
    tried = [a for a in judged if a.kind != "not attempted"]
    concerns = []
    if len(judged) >= LEAST_FOR_CONCERN and not tried:
        concerns.append(f"Nobody attempted it, out of {len(judged)}.")
    elif len(tried) >= LEAST_FOR_CONCERN and not any(a.score for a in tried):
        concerns.append(f"Nobody who tried earned a point, out of {len(tried)}.")
    else:
        concerns += _properties_that_nobody_passes(tried)
    if found.value is not None and found.value < 0:
        chance = found.high is not None and found.high >= 0
        concerns.append(
            f"Who does better elsewhere does worse here: r = {signed(found.value)}, "
            f"n = {found.students}{', which may be chance' if chance else ''}."
        )
    unjudged = len(answers) - len(judged)
    if any(a.verdict for a in answers) and unjudged >= max(LEAST_FOR_CONCERN, len(answers) / 2):
        concerns.append(f"The grader could not judge {unjudged} of {len(answers)} answers.")
    return concerns


def _properties_that_nobody_passes(tried: Sequence[Answer]) -> list[str]:
    passed: dict[str, list[bool]] = defaultdict(list)
    for answer in tried:
        for prop in answer.verdict.properties if answer.verdict else ():
            passed[prop.sentence].append(prop.passed)
    return [
        f"Nobody passes “{sentence}”, out of {len(results)} who tried."
        for sentence, results in passed.items()
        if len(results) >= LEAST_FOR_CONCERN and not any(results)
    ]


def signed(value: float) -> str:
    """A coefficient with two digits and a true minus sign."""
    return f"{value:.2f}".replace("-", "−")


# --- misconceptions ------------------------------------------------------------------------------


def misconceptions(
    students: Iterable[Student],
) -> tuple[list[Held], list[tuple[str, list[Student]]]]:
    """What the class holds, the most frequent first; and the wrong answers that no name fits."""
    named: dict[tuple[str, str], tuple[Misconception, list[Student]]] = {}
    unnamed: dict[str, list[Student]] = defaultdict(list)
    for student in students:
        for verdict in (a.verdict for a in student.answers.values() if a.verdict):
            if verdict.misconception:
                key = (verdict.exercise, verdict.misconception.key)
                named.setdefault(key, (verdict.misconception, []))[1].append(student)
            elif verdict.attempted and not verdict.full and not verdict.needs_look:
                unnamed[verdict.exercise].append(student)
    held = [Held(exercise, m, who) for (exercise, _), (m, who) in named.items()]
    held.sort(key=lambda h: (-len(h.students), h.exercise, h.misconception.key))
    return held, sorted(unnamed.items())


def misconception_map(
    questions: Iterable[Question],
    held: Sequence[Held],
    unnamed: Sequence[tuple[str, list[Student]]],
) -> list[MapRow]:
    """One row for each exercise with wrong answers, in the order of the assignment."""
    nameless = {exercise: len(who) for exercise, who in unnamed}
    rows = []
    for question in questions:
        own = [h for h in held if h.exercise == question.title]
        wrong = sum(len(h.students) for h in own) + nameless.get(question.title, 0)
        if wrong:
            rows.append(MapRow(question.title, wrong, own, nameless.get(question.title, 0)))
    return rows


# --- time ----------------------------------------------------------------------------------------

# Hours before the date due at which a span begins; the last ones are after it.
SPANS = (
    ("more than a week before", math.inf),
    ("2 to 7 days before", 168.0),
    ("1 to 2 days before", 48.0),
    ("6 to 24 hours before", 24.0),
    ("1 to 6 hours before", 6.0),
    ("the last hour", 1.0),
    ("up to a day late", 0.0),
    ("more than a day late", -24.0),
)


def timing(students: Sequence[Student], out_of: float) -> Timing:
    """When submissions came in, by the timestamp that nbgrader keeps. Nothing else about time is known."""
    shares: dict[str, list[float]] = {label: [] for label, _ in SPANS}
    hours = []
    for s in students:
        if s.hours_before_due is None:
            continue
        hours.append(s.hours_before_due)
        shares[_span(s.hours_before_due)].append(s.total / out_of if out_of else 0.0)
    return Timing(
        stamped=sum(s.handed_in_at is not None for s in students),
        spans=[
            Span(label, len(found), statistics.median(found) if found else None)
            for label, found in shares.items()
        ],
        median_hours=statistics.median(hours) if hours else None,
        late=sum(h < 0 for h in hours),
    )


def _span(hours: float) -> str:
    """On the dot is in time, and a day late to the second is not more than a day late."""
    begun = [label for label, h in SPANS if hours < h or (hours == h and h > 0)]
    return begun[-1]
