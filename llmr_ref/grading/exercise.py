"""What an exercise is: a reference, the cases that test it, and a bank of wrong and right answers."""

import ast
import dataclasses
import hashlib
import hmac
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])
PRACTICE_SEED = (
    20_170_612  # the inputs of `check` in JupyterLab; graded inputs are drawn per student
)


class Draw:
    """Random inputs from a seed. Values are rounded so that a counterexample can be printed and pasted."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed % 2**63)

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal times `scale`, two decimals."""
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return (values * scale).mul(100).round().div(100).to(dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from low to high, both included."""
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def integer(self, low: int, high: int) -> int:
        """One whole number from low to high, both included."""
        return int(self.integers(low, high, 1))

    def booleans(self, *shape: int, p: float = 0.5) -> Tensor:
        """True with probability p."""
        return torch.rand(shape, generator=self.generator) < p

    def permutation(self, n: int) -> Tensor:
        """0 .. n-1 in random order."""
        return torch.randperm(n, generator=self.generator)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call that an answer must get right.

    note: what is special about the input, in words that complete "with ...".
    init, state: for an exercise that is a class, the constructor's keywords and the weights to load.
    gradients: also compare the gradients of every floating-point input and parameter.
    any_float: accept any floating dtype in the result.
    tolerance: absolute and relative, in place of the one that follows from the dtype.
    accept: in place of a comparison with the reference's result: what is wrong with a result, in words
    that complete "the result ...", or nothing. For behaviour: a loss that is low enough, a sample from
    the right distribution. Runs on the trusted side.
    wanted: what `accept` asks for, in words, for the card.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
    init: dict[str, Any] | None = None
    state: dict[str, Tensor] | None = None
    gradients: bool = False
    any_float: bool = False
    tolerance: float | None = None
    accept: Callable[[Any], str] | None = None
    wanted: str = ""


@dataclasses.dataclass(frozen=True)
class Property:
    """A sentence that is true of a right answer, its share of the points, and the cases that test it."""

    sentence: str
    weight: float
    cases: Callable[[Draw], Iterable[Case]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A function or class from the bank. Wrong ones carry the misconception; right ones only a style."""

    title: str
    target: Callable[..., Any]
    hint: str = ""
    see: str = ""

    @property
    def key(self) -> str:
        return self.target.__name__

    def source(self, name: str) -> str:
        """The answer as a student would have written it: renamed to `name`, without the decorator."""
        code = textwrap.dedent(inspect.getsource(self.target))
        node = ast.parse(code).body[0]
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        lines = code.splitlines()[node.lineno - 1 :]
        keyword = "def" if isinstance(node, ast.FunctionDef) else "class"
        lines[0] = lines[0].replace(f"{keyword} {node.name}", f"{keyword} {name}", 1)
        return "\n".join(lines) + "\n"


class Exercise:
    """An autograded task.

    name: what the student defines and what `check` is called with.
    points, difficulty (1 to 5), minutes: as the assignment states them.
    reference: the function or class that is right by definition.
    chapter: "page#section" in the book.
    forbids: full names of what the exercise asks to build, like torch.nn.functional.softmax.
    rule: what is forbidden, in the words of the assignment.
    forbidden_share: the share of the points that an answer earns which uses it all the same; None leaves
    it to the course (`c.Grade.forbidden_share`).
    The first property decides whether there is anything to score: an answer that fails it gets 0.
    """

    def __init__(
        self,
        name: str,
        *,
        points: float,
        difficulty: int,
        minutes: int,
        reference: Callable[..., Any],
        chapter: str,
        forbids: Sequence[str] = (),
        rule: str = "",
        forbidden_share: float | None = None,
    ) -> None:
        if bool(forbids) != bool(rule):
            raise ValueError(f"{name}: forbids and rule go together, got {forbids!r} and {rule!r}")
        self.name, self.points = name, points
        self.difficulty, self.minutes = difficulty, minutes
        self.reference, self.chapter = reference, chapter
        self.forbids, self.rule, self.forbidden_share = tuple(forbids), rule, forbidden_share
        self.properties: list[Property] = []
        self.wrong_answers: list[Answer] = []
        self.right_answers: list[Answer] = []
        self.shortcuts: list[Answer] = []
        self.equivalents: dict[str, str] = {}
        self.driver_source: str | None = None

    def driver(self, function: F) -> F:
        """Register how an answer is used where one call is not enough: methods of a class, many steps.

        The function gets the answer and the case's arguments, and its result is compared. It runs where
        the answer runs, so it holds no secret and decides nothing; it finds torch, Tensor and math. The
        card shows its source.
        """
        code = textwrap.dedent(inspect.getsource(function))
        node = ast.parse(code).body[0]
        assert isinstance(node, ast.FunctionDef)
        self.driver_source = "\n".join(code.splitlines()[node.lineno - 1 :]) + "\n"
        return function

    def property(self, sentence: str, *, weight: float = 1.0) -> Callable[[F], F]:
        """Register a generator of cases, called with a `Draw`, under the sentence that it tests."""

        def register(cases: F) -> F:
            self.properties.append(Property(sentence, weight, cases))
            return cases

        return register

    def wrong(self, title: str, *, hint: str, see: str) -> Callable[[F], F]:
        """Register an answer that students give, by the idea that it gets wrong.

        hint: at most 60 words, points without solving. see: "page#section" in the book.
        """

        def register(target: F) -> F:
            self.wrong_answers.append(Answer(title, target, hint, see))
            return target

        return register

    def right(self, style: str) -> Callable[[F], F]:
        """Register a correct answer in a style of its own."""

        def register(target: F) -> F:
            self.right_answers.append(Answer(style, target))
            return target

        return register

    def shortcut(self, title: str) -> Callable[[F], F]:
        """Register an answer that is right and uses what the exercise forbids."""

        def register(target: F) -> F:
            self.shortcuts.append(Answer(title, target))
            return target

        return register

    def equivalent(self, *changes: str, because: str) -> None:
        """List mutants of the first right answer that no input can tell from it, and say why.

        changes: as `llmr matrix` prints them, "before -> after". One that a check catches after all, or
        that no longer exists, fails the matrix.
        """
        self.equivalents |= dict.fromkeys(changes, because)

    def cases(self, seed: int) -> Iterator[tuple[int, Case]]:
        """All cases in order, each with the number of its property. One seed, one list."""
        for number, prop in enumerate(self.properties):
            digest = hashlib.sha256(f"{seed}/{prop.sentence}".encode()).digest()
            draw = Draw(int.from_bytes(digest[:8], "big"))
            for case in prop.cases(draw):
                yield number, case

    def bank(self) -> Sequence[Answer]:
        return [*self.wrong_answers, *self.right_answers]


def submission_seed(secret: bytes, student: str, exercise: str) -> int:
    """The seed of a student's graded inputs: reproducible with the secret, unpredictable without."""
    message = f"{len(student)}:{student}/{exercise}".encode()
    return int.from_bytes(hmac.new(secret, message, hashlib.sha256).digest()[:8], "big")
