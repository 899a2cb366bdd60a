"""Numbers about a class: against outside formulas, and silent where the class is too small to say."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from scipy.stats import pearsonr

from llmr_ref.grading.class_record import Answer, Question, Student
from llmr_ref.grading.class_statistics import (
    LEAST_FOR_CORRELATION,
    discrimination,
    item,
    misconception_map,
    misconceptions,
    timing,
)
from llmr_ref.grading.verdict import Misconception, PropertyResult, Verdict

QUESTIONS = [Question("nb", f"q{k}", f"q{k}", 4.0, manual=False) for k in range(3)]


def answer(score: float, kind: str | None = None, verdict: Verdict | None = None) -> Answer:
    return Answer(
        score, kind or ("full" if score >= 4 else "partial" if score else "zero"), verdict=verdict
    )


def student(name: str, *scores: float) -> Student:
    answers = dict(zip(QUESTIONS, map(answer, scores), strict=True))
    return Student(name, status="graded", answers=answers)


def noisy_class(n: int, seed: int = 3) -> list[Student]:
    chance = random.Random(seed)
    found = []
    for k in range(n):
        strength = chance.random()
        scores = [
            min(4.0, max(0.0, round(4 * strength + chance.gauss(0, 1), 2))) for _ in QUESTIONS
        ]
        found.append(student(f"s{k}", *scores))
    return found


def judged(score: float, **passed: bool) -> Answer:
    results = [PropertyResult(sentence=s, passed=p, points=1) for s, p in passed.items()]
    return answer(score, verdict=Verdict(exercise="q0", score=score, points=4, properties=results))


# --- discrimination ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [LEAST_FOR_CORRELATION, 57])
def test_discrimination_is_the_corrected_item_total_correlation_with_fishers_interval(n):
    students = noisy_class(n)
    for q in QUESTIONS:
        own = [s.answers[q].score for s in students]
        rest = [sum(s.answers[o].score for o in QUESTIONS if o is not q) for s in students]
        outside = pearsonr(own, rest)
        low, high = outside.confidence_interval(0.95)
        found = discrimination(q, students, QUESTIONS)
        assert found.students == n and not found.why_not
        assert found.value == pytest.approx(outside.statistic, abs=1e-9)
        assert (found.low, found.high) == (
            pytest.approx(low, abs=1e-4),
            pytest.approx(high, abs=1e-4),
        )


def test_too_few_students_give_no_coefficient_and_the_number_is_said():
    found = discrimination(QUESTIONS[0], noisy_class(LEAST_FOR_CORRELATION - 1), QUESTIONS)
    assert found.value is None and found.why_not == "too few: n = 9, needs 10"


def test_students_with_an_answer_that_waits_do_not_count():
    students = noisy_class(12)
    students[0].answers[QUESTIONS[1]] = answer(0.0, "not graded yet")
    del students[1].answers[QUESTIONS[2]]
    assert discrimination(QUESTIONS[0], students, QUESTIONS).students == 10


def test_no_variance_gives_no_coefficient():
    same = [student(f"s{k}", 4.0, k % 4, k % 3) for k in range(12)]
    found = discrimination(QUESTIONS[0], same, QUESTIONS)
    assert found.value is None and "everybody has the same score on this question" in found.why_not
    found = discrimination(QUESTIONS[0], same, QUESTIONS[:1])
    assert "no other autograded question" in found.why_not


def test_a_perfect_correlation_has_an_interval_too():
    found = discrimination(
        QUESTIONS[0], [student(f"s{k}", k % 5, k % 5, 0) for k in range(12)], QUESTIONS
    )
    assert (found.low, found.value, found.high) == pytest.approx((1, 1, 1))


def test_a_manual_question_is_compared_with_the_autograded_ones_alone():
    manual = Question("nb", "essay", "essay", 3.0, manual=True)
    students = noisy_class(20)
    for k, s in enumerate(students):
        s.answers[manual] = answer(k % 4)
    found = discrimination(manual, students, QUESTIONS)
    totals = [sum(s.answers[q].score for q in QUESTIONS) for s in students]
    assert found.value == pytest.approx(pearsonr([k % 4 for k in range(20)], totals).statistic)


# --- what looks broken ---------------------------------------------------------------------------


def concerns(students: list[Student]) -> list[str]:
    return item(QUESTIONS[0], students, QUESTIONS).concerns


def with_answer(n: int, given: Answer) -> list[Student]:
    students = noisy_class(n)
    for s in students:
        s.answers[QUESTIONS[0]] = given
    return students


def test_everybody_failing_is_a_concern_but_not_two_of_two():
    assert concerns(with_answer(9, answer(0.0))) == ["Nobody who tried earned a point, out of 9."]
    assert concerns(with_answer(2, answer(0.0))) == []


def test_nobody_attempting_is_a_concern():
    assert concerns(with_answer(5, answer(0.0, "not attempted"))) == [
        "Nobody attempted it, out of 5."
    ]


def test_full_marks_for_everybody_are_none():
    assert concerns(with_answer(20, answer(4.0))) == []


def test_a_property_that_nobody_passes_is_named():
    failing = judged(2.0, **{"keeps the dtype": False, "sums to one": True})
    assert concerns(with_answer(4, failing)) == [
        "Nobody passes “keeps the dtype”, out of 4 who tried."
    ]
    students = with_answer(4, failing)
    students[0].answers[QUESTIONS[0]] = judged(
        4.0, **{"keeps the dtype": True, "sums to one": True}
    )
    assert concerns(students) == []


def test_negative_discrimination_is_a_concern_and_chance_is_said():
    against = [student(f"s{k}", 4 - k % 5, k % 5, k % 5) for k in range(40)]
    (sentence,) = concerns(against)
    assert "does worse here: r = −1.00, n = 40." in sentence and "chance" not in sentence
    scores = [(1, 1, 1), (2, 1, 0), (0, 1, 1), (3, 2, 1)] * 3
    weak = [student(f"s{k}", *s) for k, s in enumerate(scores)]
    found = discrimination(QUESTIONS[0], weak, QUESTIONS)
    flipped = [student(f"s{k}", 4 - own, *rest) for k, (own, *rest) in enumerate(scores)]
    negative = discrimination(QUESTIONS[0], flipped, QUESTIONS)
    assert negative.value == pytest.approx(-found.value) and negative.high > 0 > negative.value
    assert "which may be chance" in concerns(flipped)[0]


def test_a_grader_that_could_not_judge_half_the_class_is_a_concern():
    unjudged = Answer(0.0, "not graded yet", verdict=Verdict(exercise="q0", score=0, points=4))
    students = with_answer(6, unjudged)
    assert concerns(students) == ["The grader could not judge 6 of 6 answers."]


# --- misconceptions, time ------------------------------------------------------------------------


def test_the_map_counts_every_wrong_answer_once_and_in_the_order_of_the_assignment():
    ideas = [Misconception(key=k, title=k, hint="", see="masking") for k in ("a", "b")]
    students = noisy_class(7)
    for k, s in enumerate(students):
        for q, share in ((QUESTIONS[2], 1), (QUESTIONS[0], 2)):
            idea = None if k == 6 else ideas[k % 3 == 0] if share == 1 else ideas[0]
            verdict = Verdict(exercise=q.title, score=0, points=4, misconception=idea)
            s.answers[q] = answer(0.0, verdict=verdict)
        s.answers[QUESTIONS[1]] = answer(4.0)
    rows = misconception_map(QUESTIONS, *misconceptions(students))
    assert [(r.exercise, r.wrong, r.unnamed) for r in rows] == [("q0", 7, 1), ("q2", 7, 1)]
    assert [(h.misconception.key, len(h.students)) for h in rows[1].held] == [("a", 4), ("b", 2)]


DUE = datetime(2025, 11, 20, 12, tzinfo=UTC)


def handed_in(hours_before: float | None, due: datetime | None = DUE) -> Student:
    at = None if hours_before is None else DUE - timedelta(hours=hours_before)
    return Student("s", status="graded", handed_in_at=at, due=due)


@pytest.mark.parametrize(
    ("hours", "label"),
    [
        (1000, "more than a week before"), (168.1, "more than a week before"),
        (168, "2 to 7 days before"), (48, "1 to 2 days before"), (24, "6 to 24 hours before"),
        (6, "1 to 6 hours before"), (1, "the last hour"), (0, "the last hour"),
        (-0.01, "up to a day late"), (-24, "up to a day late"), (-24.01, "more than a day late"),
    ],
)  # fmt: skip
def test_every_moment_falls_into_one_span_and_on_the_dot_is_in_time(hours, label):
    found = timing([handed_in(hours)], 10)
    assert [s.label for s in found.spans if s.count] == [label]
    assert found.late == (hours < 0) and found.median_hours == pytest.approx(hours)


def test_without_dates_nothing_is_said_about_time():
    found = timing([handed_in(None), handed_in(5, due=None)], 10)
    assert found.stamped == 1 and found.median_hours is None and found.late == 0
    assert not any(s.count for s in found.spans)


def test_an_extension_moves_the_date_due():
    assert timing([handed_in(-30, due=DUE + timedelta(days=2))], 10).late == 0
