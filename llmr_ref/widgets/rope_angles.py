"""The RoPE angle visualizer: every pair of dimensions is a clock hand, and positions set the time.

>>> RopeAngles()  # d = 8, base 10 000, query at 12, key at 4
>>> RopeAngles(d=16, base=500_000.0, position=40, key_position=8)
>>> RopeAngles(rotary=my_apply_rope)  # a student's function over the reference
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from llmr_ref.rope import apply_rope, rope_angles, rope_frequencies, rope_wavelengths
from llmr_ref.widgets.embed import (
    Golden,
    StateError,
    StudentsWidget,
    code_lines,
    module_source,
)
from llmr_ref.widgets.still import rope_picture

CODE = [
    *code_lines(rope_frequencies, begin="return", theta="return"),
    *code_lines(apply_rope, begin="angles =", m="angles ="),
]
MOST_DIMENSIONS = 64
FARTHEST_POSITION = 1_000_000.0


def example_vectors(
    d: int, vectors: str = "aligned"
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """The query and the key before they are turned, float64.

    "aligned": q = k = (1, 0, 1, 0, ...), so the score is the plain sum of the cosines.
    "different": q_j = sin(1.3 j + 0.4), k_j = cos(0.7 j + 1): nothing special about them.
    """
    j = torch.arange(d, dtype=torch.float64)
    if vectors == "aligned":
        return 1 - j % 2, 1 - j % 2
    return (1.3 * j + 0.4).sin(), (0.7 * j + 1).cos()


class RopeAngles(StudentsWidget):
    """A dial per pair of dimensions; a query and a key that turn with their positions; their score.

    rotary: a student's `apply_rope(x, positions, base)`. It is called in Python for every state, once,
    with x of shape (4, d) = (query, key, query, key) and positions (position, key_position, and the same
    two plus `shift`), and drawn over the reference. Its error is shown in the widget.

    Traits, synchronised both ways: d, base, position, key_position, shift, vectors, span.
    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("rope_angles")

    d = traitlets.Int(8).tag(sync=True)
    base = traitlets.Float(10_000.0).tag(sync=True)
    position = traitlets.Float(12.0).tag(sync=True)
    key_position = traitlets.Float(4.0).tag(sync=True)
    shift = traitlets.Float(0.0).tag(sync=True)
    vectors = traitlets.Enum(("aligned", "different"), "aligned").tag(sync=True)
    span = traitlets.Int(64).tag(sync=True)
    code = traitlets.List(CODE).tag(sync=True)

    def __init__(
        self,
        d: int = 8,
        base: float = 10_000.0,
        position: float = 12.0,
        key_position: float = 4.0,
        *,
        shift: float = 0.0,
        vectors: str = "aligned",
        span: int = 64,
        rotary: Callable[..., Any] | None = None,
    ) -> None:
        if rotary is not None and not callable(rotary):
            raise TypeError(f"rotary must be callable, got {type(rotary).__name__}")
        self._rotary: Callable[..., Any] | None = None  # asks nothing until the state is whole
        super().__init__(
            d=d,
            base=float(base),
            position=float(position),
            key_position=float(key_position),
            shift=float(shift),
            vectors=vectors,
            span=span,
        )
        self._rotary = rotary
        self._call_rotary()

    @traitlets.validate("d")
    def _check_d(self, proposal: Any) -> int:
        d: int = proposal["value"]
        if not 2 <= d <= MOST_DIMENSIONS or d % 2:
            raise StateError(f"d must be even and lie in 2..{MOST_DIMENSIONS}, got {d}")
        return d

    @traitlets.validate("base")
    def _check_base(self, proposal: Any) -> float:
        base: float = proposal["value"]
        if not (base >= 1 and math.isfinite(base)):
            raise StateError(f"base must be a finite number of at least 1, got {base}")
        return base

    @traitlets.validate("position", "key_position", "shift")
    def _check_position(self, proposal: Any) -> float:
        value, name = proposal["value"], proposal["trait"].name
        if not abs(value) <= FARTHEST_POSITION:
            raise StateError(f"{name} must lie within +-{FARTHEST_POSITION:.0f}, got {value}")
        return value

    @traitlets.validate("span")
    def _check_span(self, proposal: Any) -> int:
        span: int = proposal["value"]
        if span < 1:
            raise StateError(f"span, the largest distance drawn, must be at least 1, got {span}")
        return span

    _STATE = ("d", "base", "position", "key_position", "shift", "vectors")

    @traitlets.observe(*_STATE)
    def _call_rotary(self, change: Any = None) -> None:
        """Send the student's vectors for the present state, or the error; `state` says which state."""
        if self._rotary is not None:
            self._ask_about(self._STATE, self._student_vectors)

    def _student_vectors(self) -> dict[str, Any]:
        positions = self._positions()
        x = torch.stack(example_vectors(self.d, self.vectors) * 2).float()  # (4, d)
        expected = apply_rope(x, positions, self.base)
        assert self._rotary is not None
        turned = torch.as_tensor(self._rotary(x.clone(), positions.clone(), self.base))
        if turned.shape != x.shape:
            raise ValueError(
                f"your function must return the shape of x, {tuple(x.shape)}, got {tuple(turned.shape)}"
            )
        if turned.is_complex() or not bool(torch.isfinite(turned).all()):
            raise ValueError("your function returned values that are not finite real numbers")
        turned = turned.detach().double()
        # A student may form angles in float32, which are off by 1e-7 of their size.
        tolerance = 1e-3 + 2e-7 * float(positions.abs().max())
        apart = (
            (turned - expected.double()).abs().unflatten(-1, (-1, 2)).amax(dim=(0, -1))
        )  # (pairs,)
        return {
            "query": turned[2].tolist(),
            "key": turned[3].tolist(),
            "score": float(turned[0] @ turned[1]),
            "shifted_score": float(turned[2] @ turned[3]),
            "differs": (apart > tolerance).tolist(),
        }

    def _positions(self) -> Tensor:
        """(m, n, m + s, n + s), whole numbers as int64."""
        m, n, s = self.position, self.key_position, self.shift
        values = [m, n, m + s, n + s]
        if all(v.is_integer() for v in values):
            return torch.tensor([int(v) for v in values])
        return torch.tensor(values, dtype=torch.float64)

    def scores(self) -> tuple[float, float]:
        """The reference's q . k at (position, key_position), and at both plus `shift`."""
        q, k = example_vectors(self.d, self.vectors)
        turned = apply_rope(torch.stack((q, k, q, k)), self._positions(), self.base)
        return float(turned[0] @ turned[1]), float(turned[2] @ turned[3])

    def description(self) -> str:
        before, after = self.scores()
        return (
            f"Rotary position embedding with d = {self.d} and base {self.base:g}: one dial per pair of "
            f"dimensions, query at position {self.position + self.shift:g}, key at position "
            f"{self.key_position + self.shift:g}. Their score is {after:.6f}"
            + (f", and {before:.6f} before both moved by {self.shift:g}." if self.shift else ".")
        )

    def picture(self) -> str:
        q, k = example_vectors(self.d, self.vectors)
        positions = self._positions()[2:]
        turned = apply_rope(torch.stack((q, k)), positions, self.base)
        distances = torch.linspace(-self.span, self.span, 129, dtype=torch.float64)
        curve = apply_rope(q.expand(129, -1), distances, self.base) @ k
        return rope_picture(
            query=turned[0].tolist(),
            key=turned[1].tolist(),
            wavelengths=rope_wavelengths(self.d, self.base).tolist(),
            angles=rope_angles(positions, self.d, self.base).tolist(),
            distances=distances.tolist(),
            scores=curve.tolist(),
            distance=self.position - self.key_position,
            score=self.scores()[1],
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        where = [0, 1, 2.5, -7, 63, 255, 4096.25, 123456.75, 1e6]
        positions = torch.tensor(where, dtype=torch.float64)
        for d, base in itertools.product((2, 4, 6, 8, 16, 32, 64), (1.5, 20, 10_000.0, 5e5, 1e8)):
            q, k = example_vectors(d, "different")
            yield Golden("exampleVectors", [d, "different"], {"q": q, "k": k})
            yield Golden("ropeAngles", [where, d, base], rope_angles(positions, d, base))
            yield Golden("ropeWavelengths", [d, base], rope_wavelengths(d, base))
            for position in where:
                at = torch.tensor([position, 3.25], dtype=torch.float64)
                turned = apply_rope(torch.stack((q, k)), at, base)
                yield Golden("rotate", [q, rope_angles(at, d, base)[0]], turned[0])
                yield Golden("score", [q, k, position, 3.25, base], turned[0] @ turned[1])
