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
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
    init: dict[str, Any] | None = None
    state: dict[str, Tensor] | None = None
    gradients: bool = False
    any_float: bool = False
    tolerance: float | None = None


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
    ) -> None:
        self.name, self.points = name, points
        self.difficulty, self.minutes = difficulty, minutes
        self.reference, self.chapter = reference, chapter
        self.properties: list[Property] = []
        self.wrong_answers: list[Answer] = []
        self.right_answers: list[Answer] = []

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
