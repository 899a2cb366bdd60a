"""Exercises of every form: bytes and dictionaries, classes that are used, behaviour in place of values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmr_ref.grading import runner
from llmr_ref.grading.as_code import call_as_code
from llmr_ref.grading.exercise import Case, Exercise
from llmr_ref.grading.verdict import judge, prepare

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
)
KEYS = st.one_of(SCALARS, st.tuples(SCALARS, SCALARS))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


@given(TREES)
def test_what_is_encoded_comes_back_as_it_was(tree):
    back = runner.decode(runner.encode(tree))
    assert back == tree
    assert repr(back) == repr(tree)  # True is not 1, (1,) is not [1]


@pytest.mark.parametrize("key", [torch.ones(1), frozenset(), (1, (2, 3)), 1j, object()])
def test_a_key_that_is_no_plain_value_does_not_cross(key):
    with pytest.raises(runner.ForeignValue, match="a dict with a key of type"):
        runner.encode({key: 1})


class Counter:
    def __init__(self):
        self.counts = {}

    def add(self, word):
        self.counts[word] = self.counts.get(word, 0) + 1


class ForgetsTheFirst(Counter):
    def add(self, word):
        self.counts[word] = self.counts.get(word, -1) + 1


def counting():
    exercise = Exercise(
        "Counter", points=2, difficulty=1, minutes=5, reference=Counter, chapter="page#section"
    )

    @exercise.driver
    def count(Counter, words):
        counter = Counter()
        for word in words:
            counter.add(word)
        return {tuple(word.split("-")): n for word, n in counter.counts.items()}

    @exercise.property("every word counts")
    def every_word(draw):
        yield Case((["a-b", "c-d", "a-b"],))
        yield Case((["a-b"],))

    exercise.wrong("forgets the first", hint="Count again.", see="page#section")(ForgetsTheFirst)
    return exercise


def verdict_on(exercise, answer, seed=1):
    trials = prepare(exercise, seed, practice=True)
    return judge(exercise, trials, [runner.run_call(answer, t.call) for t in trials])


def test_a_driver_uses_a_class_and_its_result_is_compared():
    exercise = counting()
    assert verdict_on(exercise, Counter).full
    wrong = verdict_on(exercise, ForgetsTheFirst)
    assert wrong.score == 0
    assert wrong.misconception is not None and wrong.misconception.key == "ForgetsTheFirst"


def test_a_driver_crosses_to_another_process_as_text():
    for trial in prepare(counting(), 1, practice=True):
        call = runner.decode(runner.encode(trial.call))
        assert runner.run_call(Counter, call)["value"] == trial.expected["value"]


def test_the_counterexample_of_a_driver_can_be_pasted():
    code = call_as_code(counting(), Case((["a-b"],)))
    space = {"Counter": Counter}
    exec(code.replace("\ncount(", "\nresult = count("), space)
    assert space["result"] == {("a", "b"): 1}


def sampling():
    """A behaviour: a mean of many draws near 3, whoever draws them and how."""

    def reference(n):
        return torch.randn(n) + 3

    exercise = Exercise(
        "draw", points=1, difficulty=1, minutes=5, reference=reference, chapter="page#section"
    )

    def near_3(value):
        mean = float(value.mean())
        return "" if abs(mean - 3) < 0.2 else f"has the mean {mean:.2f}"

    @exercise.property("the mean is 3")
    def mean(draw):
        yield Case((2000,), accept=near_3, wanted="numbers around 3")

    @exercise.wrong("forgets the shift", hint="Where is the centre?", see="page#section")
    def centred(n):
        return torch.randn(n)

    return exercise


def test_a_behaviour_is_accepted_whatever_the_values():
    assert verdict_on(sampling(), lambda n: torch.rand(n) + 2.5).full


def test_a_behaviour_that_is_refused_is_named_by_the_words_not_by_the_numbers():
    verdict = verdict_on(sampling(), lambda n: torch.rand(n) - 0.5)
    assert verdict.score == 0
    assert verdict.properties[0].message.startswith("the result has the mean ")
    assert verdict.misconception is not None and verdict.misconception.key == "centred"
    assert verdict.counterexample is not None
    assert verdict.counterexample.expected == "numbers around 3"


@pytest.mark.parametrize("value", [None, "3", [3.0] * 2000, {"mean": 3}])
def test_a_behaviour_of_another_kind_is_refused_not_raised(value):
    verdict = verdict_on(sampling(), lambda n: value)
    assert verdict.score == 0
    assert "not what the exercise asks for" in verdict.properties[0].message


def test_a_reference_that_its_own_check_refuses_is_a_fault_of_the_bank():
    exercise = sampling()
    exercise.reference = lambda n: torch.zeros(n)
    with pytest.raises(RuntimeError, match=r"the reference of draw is refused: it has the mean"):
        prepare(exercise, 1, practice=True)
