"""What decides the score: the gate, the comparison, the codec for values, and the card."""

import ast
import contextlib
import itertools
import json
import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from llmr_ref.grading import check, exercises, practice_case, runner
from llmr_ref.grading.as_code import call_as_code, literal, show
from llmr_ref.grading.card import card_html, card_text
from llmr_ref.grading.exercise import Case, Exercise, submission_seed
from llmr_ref.grading.exercises import exercise_names, get_exercise
from llmr_ref.grading.practice import verdict_for
from llmr_ref.grading.verdict import (
    Counterexample,
    Misconception,
    PropertyResult,
    Trial,
    Verdict,
    judge,
    practice_trials,
    prepare,
)


def twice(x: Tensor) -> Tensor:
    return 2 * x


@pytest.fixture
def exercise_of(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable:
    """An exercise "double a tensor" with properties given as {sentence: (weight, cases)}."""

    def make(properties: dict[str, tuple[float, list[Case]]], points: float = 4.0) -> Exercise:
        name = request.node.name  # practice trials are cached by name
        made = Exercise(
            name, points=points, difficulty=1, minutes=1, reference=twice, chapter="masking"
        )
        for sentence, (weight, cases) in properties.items():
            made.property(sentence, weight=weight)(lambda draw, cases=cases: cases)
        monkeypatch.setattr(exercises, "get_exercise", lambda wanted: {name: made}[wanted])
        return made

    return make


def judged(exercise: Exercise, answer: Callable[..., Any]) -> Verdict:
    trials = practice_trials(exercise)
    return judge(exercise, trials, [runner.run_call(answer, t.call) for t in trials])


ONE, TWO, THREE = (torch.full((n,), float(n)) for n in (1, 2, 3))


def right_for(*lengths: int) -> Callable[[Tensor], Tensor]:
    return lambda x: 2 * x if len(x) in lengths else x


# --- scores --------------------------------------------------------------------------------------

PARTS = {
    "first": (2.0, [Case((ONE,))]),
    "second": (1.0, [Case((TWO,))]),
    "third": (1.0, [Case((THREE,))]),
}


@pytest.mark.parametrize(
    "lengths, score", [((1, 2, 3), 4.0), ((1, 2), 3.0), ((1,), 2.0), ((2, 3), 0.0), ((), 0.0)]
)
def test_properties_add_up_and_the_first_one_gates(
    exercise_of: Callable, lengths: tuple[int, ...], score: float
) -> None:
    assert judged(exercise_of(PARTS), right_for(*lengths)).score == score


@pytest.mark.parametrize("points", [1.0, 2.0, 5.0])
def test_rounding_never_makes_a_wrong_answer_whole(exercise_of: Callable, points: float) -> None:
    exercise = exercise_of(
        {"all": (99_999.0, [Case((ONE,))]), "a little": (0.1, [Case((TWO,))])}, points
    )
    verdict = judged(exercise, right_for(1))
    assert verdict.score == pytest.approx(points - 0.01)
    assert not verdict.full


def test_a_property_without_cases_earns_nothing(exercise_of: Callable) -> None:
    exercise = exercise_of({"first": (1.0, [Case((ONE,))]), "untested": (1.0, [])})
    assert judged(exercise, twice).score == 2.0


def test_one_failed_case_fails_its_property(exercise_of: Callable) -> None:
    exercise = exercise_of({"a": (1.0, [Case((ONE,))]), "b": (1.0, [Case((TWO,)), Case((THREE,))])})
    verdict = judged(exercise, right_for(1, 2))
    assert verdict.score == 2.0
    assert [p.passed for p in verdict.properties] == [True, False]


def test_outcomes_must_match_the_trials_in_number() -> None:
    exercise = get_exercise("causal_mask")
    with pytest.raises(ValueError, match="0 outcomes"):
        judge(exercise, practice_trials(exercise), [])


# --- answers that are refused --------------------------------------------------------------------


class EqualsEverything:
    shape, dtype = torch.Size([1]), torch.float32

    def __eq__(self, other: object) -> bool:
        return True

    def __getattr__(self, name: str) -> object:
        return lambda *args, **kwargs: self


class AgreeableTensor(Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.isclose, torch.equal, Tensor.all):
            return True
        return super().__torch_function__(func, types, args, kwargs or {})


class LyingFloat(float):
    def __eq__(self, other: object) -> bool:
        return True


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def changes_its_argument(x: Tensor) -> Tensor:
    with torch.no_grad():
        x *= 2
    return x.clone()


def exits(x: Tensor) -> Tensor:
    raise SystemExit(0)


def fails_with_markup(x: Tensor) -> Tensor:
    raise ValueError("<script>alert(1)</script>")


REFUSED = {
    "an object that equals everything": (lambda x: EqualsEverything(), "type EqualsEverything"),
    "a tensor subclass": (lambda x: (2 * x).as_subclass(AgreeableTensor), "type AgreeableTensor"),
    "a subclass of float": (lambda x: LyingFloat(2.0), "type LyingFloat"),
    "a function": (lambda x: print, "type builtin_function_or_method"),
    "a number": (lambda x: 2.0, "the result is a float, expected a tensor"),
    "a list": (lambda x: (2 * x).tolist(), "the result is a list, expected a tensor"),
    "nothing": (lambda x: None, "the result is None, expected a tensor"),
    "true": (lambda x: True, "the result is a bool, expected a tensor"),
    "another dtype": (lambda x: 2 * x.double(), "has dtype float64, expected float32"),
    "whole numbers": (lambda x: (2 * x).long(), "has dtype int64, expected float32"),
    "complex numbers": (lambda x: (2 * x) + 0j, "has dtype complex64, expected float32"),
    "another shape": (lambda x: (2 * x)[None], "has shape (1, 2), expected (2,)"),
    "a scalar that broadcasts": (lambda x: torch.tensor(4.0), "has shape (), expected (2,)"),
    "nan": (lambda x: x * math.nan, "the result holds nan"),
    "infinity": (lambda x: x * math.inf, "the result holds inf"),
    "a sparse tensor": (lambda x: (2 * x).to_sparse(), "layout torch.sparse_coo"),
    "a tensor without values": (lambda x: (2 * x).to("meta"), "on meta"),
    "a deep list": (lambda x: nested(10_000), "nested more than 20 deep"),
    "a changed input": (changes_its_argument, "argument 0 was changed by the call"),
    "an exit": (exits, "raised SystemExit: 0"),
    "a detached result": (lambda x: (2 * x).detach(), "the gradient of argument 0 does not exist"),
    "another gradient": (lambda x: x + x.detach(), "the gradient of argument 0 is off by"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_answer_gets_nothing_and_one_clear_sentence(
    exercise_of: Callable, kind: str
) -> None:
    answer, sentence = REFUSED[kind]
    exercise = exercise_of({"doubles": (1.0, [Case((TWO,), gradients=True)])})
    verdict = judged(exercise, answer)
    assert verdict.score == 0
    assert sentence in verdict.properties[0].message
    assert verdict.properties[0].message.count("\n") == 0


def test_a_missing_name_is_said_to_be_missing() -> None:
    verdict = verdict_for("causal_mask", None)
    assert verdict.score == 0
    assert "`causal_mask` is not defined" in verdict.properties[0].message


def test_any_float_widens_the_dtypes_but_not_the_tolerance(exercise_of: Callable) -> None:
    x = torch.tensor([1.0, 1.234])
    exercise = exercise_of({"doubles": (1.0, [Case((x,), any_float=True, tolerance=1e-5)])})
    assert judged(exercise, lambda x: 2 * x.double()).full
    assert judged(exercise, lambda x: 2 * x.half()).score == 0


def test_check_refuses_a_name_that_is_no_exercise() -> None:
    with pytest.raises(ValueError, match=r"no exercise 'sofmax'.*softmax"):
        check("sofmax")


def test_a_layer_without_the_agreed_weights_is_told_their_names() -> None:
    verdict = verdict_for("MultiHeadSelfAttention", lambda d_model, n_heads: nn.Linear(d_model, 1))
    assert verdict.score == 0
    assert verdict.properties[0].message


# --- counterexamples -----------------------------------------------------------------------------

every_wrong_answer = pytest.mark.parametrize(
    "name, key", [(n, a.key) for n in exercise_names() for a in get_exercise(n).wrong_answers]
)


@every_wrong_answer
def test_a_counterexample_runs_and_gives_what_it_promises(name: str, key: str) -> None:
    exercise = get_exercise(name)
    answer = next(a for a in exercise.wrong_answers if a.key == key)
    shown = verdict_for(name, answer.target).counterexample
    assert shown is not None
    namespace = {"torch": torch, "math": math, "Tensor": Tensor, name: exercise.reference}
    *setup, call = ast.parse(shown.call).body  # a layer is built or a driver defined, then called
    exec(compile(ast.Module(setup, []), "<setup>", "exec"), namespace)
    value = eval(ast.unparse(call), namespace)
    wanted = [t.case for t in practice_trials(exercise) if t.case.wanted == shown.expected]
    if wanted:  # judged by what it does
        assert any(case.accept(value) == "" for case in wanted)
    else:
        assert show(value.detach() if isinstance(value, Tensor) else value) == shown.expected
    assert shown.received != shown.expected


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=5),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_literal_is_the_tensor(values: list[float], dtype: torch.dtype) -> None:
    tensor = torch.tensor(values, dtype=dtype)
    again = eval(literal(tensor), {"torch": torch})
    assert again.dtype == dtype
    assert torch.equal(again.nan_to_num(1.5), tensor.nan_to_num(1.5))


# --- graded inputs -------------------------------------------------------------------------------


def quotes_its_input(x: Tensor, dim: int = -1) -> Tensor:
    raise ValueError(f"cannot handle {sequence(x)}")


def sequence(x: Tensor) -> str:
    return ", ".join(f"{v:.6g}" for v in x.flatten().tolist())


def neighbours(trials: list[Trial]) -> set[str]:
    """Every two numbers that follow each other in a random input, as text."""
    texts = [sequence(t.call["args"][0]).split(", ") for t in trials]
    return {f"{a}, {b}" for text in texts for a, b in itertools.pairwise(text)}


@pytest.mark.parametrize("answer", [quotes_its_input, lambda x, dim=-1: x, lambda x, dim=-1: 2 * x])
def test_graded_inputs_never_appear_on_a_card(answer: Callable) -> None:
    exercise = get_exercise("softmax")
    practice = practice_trials(exercise)
    trials = prepare(exercise, 123, practice=False) + practice
    verdict = judge(exercise, trials, [runner.run_call(answer, t.call) for t in trials])
    assert verdict.score == 0
    assert verdict.counterexample is not None
    assert verdict.counterexample.call in {call_as_code(exercise, t.case) for t in practice}
    secret = neighbours(trials[: -len(practice)]) - neighbours(practice)
    assert len(secret) > 20
    for card in (card_text(verdict), card_html(verdict)):
        assert [n for n in secret if n in card] == []


def test_without_a_failing_practice_case_there_is_no_counterexample() -> None:
    exercise = get_exercise("softmax")
    trials = prepare(exercise, 123, practice=False)
    verdict = judge(
        exercise, trials, [runner.run_call(lambda x, dim=-1: x, t.call) for t in trials]
    )
    assert verdict.score == 0
    assert verdict.counterexample is None


@given(st.binary(min_size=1, max_size=40), st.text(max_size=20), st.sampled_from(exercise_names()))
def test_a_seed_is_of_one_secret_student_and_exercise(
    secret: bytes, student: str, exercise: str
) -> None:
    seed = submission_seed(secret, student, exercise)
    assert seed == submission_seed(secret, student, exercise)
    assert seed != submission_seed(secret, student + "x", exercise)
    assert seed != submission_seed(secret + b"x", student, exercise)
    assert seed != submission_seed(secret, student, exercise + "x")


def test_names_cannot_be_moved_between_student_and_exercise() -> None:
    assert submission_seed(b"s", "a/b", "c") != submission_seed(b"s", "a", "b/c")


def test_students_get_inputs_of_their_own_and_the_same_ones_again() -> None:
    exercise = get_exercise("softmax")

    def calls(student: str) -> list[bytes]:
        seed = submission_seed(b"secret", student, exercise.name)
        return [runner.encode(t.call) for t in prepare(exercise, seed, practice=False)]

    assert calls("anna") == calls("anna")
    assert sum(a != b for a, b in zip(calls("anna"), calls("berta"), strict=True)) > 5


# --- cards ---------------------------------------------------------------------------------------


def test_a_card_escapes_whatever_it_shows() -> None:
    evil = "</pre><script>alert('x')</script>&\"<img src=x onerror=y>"
    verdict = Verdict(
        exercise=evil,
        score=0,
        points=1,
        message=evil,
        needs_look=evil,
        properties=[PropertyResult(sentence=evil, passed=False, points=1, message=evil)],
        misconception=Misconception(key="k", title=evil, hint=evil, see="masking#padding"),
        counterexample=Counterexample(call=evil, expected=evil, received=evil),
    )
    html = card_html(verdict)
    for forbidden in ("<script", "<img", "</pre><"):
        assert forbidden not in html
    assert html.count("&lt;script&gt;") >= 8


def test_an_error_message_of_a_student_reaches_the_card_escaped(exercise_of: Callable) -> None:
    html = card_html(judged(exercise_of(PARTS), fails_with_markup))
    assert "raised ValueError: &lt;script&gt;" in html
    assert "<script" not in html


# --- the codec -----------------------------------------------------------------------------------


def tensors() -> st.SearchStrategy[Tensor]:
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(
        lambda shape, dtype, seed: torch.randint(
            0, 2, shape, generator=torch.Generator().manual_seed(seed)
        ).to(dtype),
        shapes,
        st.sampled_from(dtypes),
        st.integers(0, 99),
    )


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    scalars | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@given(trees)
def test_a_tree_comes_back_as_it_went(tree: Any) -> None:
    assert same(runner.decode(runner.encode(tree)), tree)


@pytest.mark.parametrize("dtype", sorted(runner.DTYPES, key=str), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (4, 0, 1)], ids=str)
def test_tensors_of_every_dtype_that_crosses_come_back_bit_by_bit(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    count = math.prod(shape) * dtype.itemsize
    dots = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    sent = dots.view(dtype).reshape(shape)
    back = runner.decode(runner.encode([sent, 1]))[0]
    assert back.dtype == dtype and back.shape == shape
    assert torch.equal(back.reshape(-1).view(torch.uint8), dots)


def test_conjugates_and_negatives_cross_as_what_they_show() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    conjugate, imaginary = runner.decode(runner.encode([z.conj(), z.conj().imag]))
    assert conjugate.tolist() == [1 - 2j, 3 + 1j] and imaginary.tolist() == [-2.0, 1.0]


def test_a_dtype_that_does_not_cross_is_told() -> None:
    call = practice_trials(get_exercise("softmax"))[0].call
    said = runner.run_call(lambda x, dim=-1: x.to(torch.complex128), call)
    assert said["message"] == (
        "the result holds a tensor of dtype torch.complex128, which is not a plain value"
    )


def test_what_is_sent_at_once_is_what_is_described() -> None:
    for trial in practice_trials(get_exercise("softmax")):
        for target in (get_exercise("softmax").reference, torch.softmax, lambda x, dim=-1: 1 / 0):
            described = runner.run_call(target, trial.call)
            assert runner.run_encoded(target, trial.call) == runner.encode(described)


def test_views_parameters_and_shared_storage_cross_as_plain_tensors() -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tree = {"base": base, "view": base.T, "row": base[0].expand(2, 3), "p": nn.Parameter(base)}
    back = runner.decode(runner.encode(tree))
    for key, value in tree.items():
        assert type(back[key]) is Tensor
        assert torch.equal(back[key], value.detach())


ENCODED = runner.encode({"value": torch.arange(4.0), "more": [1, "two", None]})


@pytest.mark.parametrize("length", range(len(ENCODED)))
def test_a_truncated_value_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        runner.decode(ENCODED[:length])


@given(st.integers(0, len(ENCODED) * 8 - 1))
def test_a_flipped_bit_is_refused_or_changes_the_value_only(bit: int) -> None:
    data = bytearray(ENCODED)
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(ValueError):  # and nothing but a ValueError
        runner.decode(bytes(data))


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        runner.decode(data)


def with_header(header: object) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text


def with_tree(tree: object) -> bytes:
    text = tree if isinstance(tree, str) else json.dumps(tree)
    return with_header({"__metadata__": {"tree": text}})


MALFORMED = {
    "a huge header": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the data": struct.pack("<Q", 100) + b"{}",
    "a header beyond the limit": struct.pack("<Q", runner.MAX_HEADER_BYTES + 1)
    + b" " * (runner.MAX_HEADER_BYTES + 1),
    "a header that is not JSON": with_header("{"),
    "a header that is a list": with_header([]),
    "a header without a tree": with_header({"__metadata__": {}}),
    "a tree that is not JSON": with_tree("{"),
    "a tree that is a number": with_tree(3),
    "a node with two kinds": with_tree({"v": 1, "l": []}),
    "a node of an unknown kind": with_tree({"x": 1}),
    "a value that is a list": with_tree({"v": []}),
    "a tensor that is not there": with_tree({"t": "0"}),
    "a tensor named by a list": with_tree({"t": []}),
    "a list that is a number": with_tree({"l": 1}),
    "a dict that is a list": with_tree({"d": [1]}),
    "a deep tree": with_tree('{"l":[' * 100_000 + "]}" * 100_000),
    "a tensor beyond the data": with_header(
        {
            "__metadata__": {"tree": '{"t":"0"}'},
            "0": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]},
        }
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_bytes_are_refused(kind: str) -> None:
    with pytest.raises(ValueError):
        runner.decode(MALFORMED[kind])


def test_a_call_leaves_the_callers_threads_and_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    trial = practice_trials(get_exercise("softmax"))[0]
    runner.run_call(lambda x, dim=-1: torch.rand(3), trial.call)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_an_interrupt_stops_a_check_at_once():
    calls = []

    def interrupted(x, dim=-1):
        calls.append(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verdict_for("softmax", interrupted)
    assert len(calls) == 1


def test_a_call_with_large_inputs_fetches_them():
    exercise = get_exercise("softmax")
    case = Case((torch.zeros(10, 10), torch.tensor([1.0, 2.0])))
    code = call_as_code(exercise, case, 3)
    assert "# case.args[0]: a float32 tensor" in code and len(code) < 400
    namespace = {"softmax": exercise.reference, "torch": torch}
    *setup, call = ast.parse(code).body
    exec(compile(ast.Module(setup, []), "<setup>", "exec"), namespace)
    shown = practice_trials(exercise)[3]
    assert torch.equal(eval(ast.unparse(call), namespace), shown.expected["value"])
    namespace["case"].args[0].zero_()  # a copy: the check's own inputs stay as they are
    assert shown.case.args[0].any()


@pytest.mark.parametrize("name, number, words", [
    ("softmx", 0, "there is no exercise 'softmx'"), ("softmax", 99, "number is 99; softmax has"),
])  # fmt: skip
def test_a_practice_case_that_is_not_there_is_named(name, number, words):
    with pytest.raises(ValueError, match=words):
        practice_case(name, number)
