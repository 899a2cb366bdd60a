"""Attention in the plane: drag a query and the keys, watch scores, weights and output.

>>> AttentionPlane()  # L1's sentence: the words are keys and values
>>> AttentionPlane(score="gaussian", bandwidth=0.5)
>>> AttentionPlane(keys=[[1, 0], [0, 1]], names=["a", "b"], values=[10, 20])
>>> AttentionPlane(score="scaled", attention=my_attention)  # a student's function of Q, K, V
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from llmr_ref.attention import (
    bilinear_scores,
    dot_scores,
    gaussian_scores,
    kernel_regression,
    scaled_dot_product_attention,
    softmax,
)
from llmr_ref.widgets.embed import (
    Golden,
    StateError,
    StudentsWidget,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import KEY, QUERY, _svg, _text

SCORES = ("dot", "scaled", "bilinear", "gaussian")
WORDS = ("the", "movie", "was", "great")
EMBEDDINGS = ((0.1, 0.0), (1.0, 0.2), (0.0, 0.1), (0.2, 1.0))  # as in the chapter; L1 prints none
FARTHEST = 10.0
FEWEST_KEYS, MOST_KEYS = 2, 5
DIFFERS = 1e-4


def plane_scores(
    query: Float[Tensor, " 2"],
    keys: Float[Tensor, "S 2"],
    score: str = "dot",
    matrix: Float[Tensor, "2 2"] | None = None,
    bandwidth: float = 1.0,
) -> Float[Tensor, " S"]:
    """The reference's scores of one query. "scaled" divides by the root of 2, the width here."""
    Q = query[None]
    if score == "bilinear":
        W = torch.eye(2, dtype=keys.dtype) if matrix is None else matrix
        return bilinear_scores(Q, keys, W)[0]
    if score == "gaussian":
        return gaussian_scores(Q, keys, bandwidth)[0]
    return dot_scores(Q, keys)[0] / (math.sqrt(2) if score == "scaled" else 1)


class AttentionPlane(StudentsWidget):
    """One query and two to five keys in the plane, any of the lectures' scores, the weighted average.

    keys: points [x, y] (the trait is `points`); names: of the keys; values: a number for each key, or
    [] where the keys are the values, so that the output is a point too. score: "dot", "scaled" (divided
    by the root of 2), "bilinear" (with `matrix`, 2 x 2) or "gaussian" (with `bandwidth`).
    attention: a student's function of (Q, K, V), shapes (1, 2), (S, 2), (S, S). It is asked for every
    state with the identity as V, so that what it returns are its weights, drawn over the reference.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("attention_plane")

    query = traitlets.List(traitlets.Float(), [0.0, 2.0]).tag(sync=True)
    points = traitlets.List(default_value=[list(e) for e in EMBEDDINGS]).tag(sync=True)
    names = traitlets.List(traitlets.Unicode(), list(WORDS)).tag(sync=True)
    values = traitlets.List(traitlets.Float()).tag(sync=True)
    score = traitlets.Enum(SCORES, "dot").tag(sync=True)
    matrix = traitlets.List(default_value=[[1.0, 0.0], [0.0, 1.0]]).tag(sync=True)
    bandwidth = traitlets.Float(1.0).tag(sync=True)
    code = traitlets.List(
        code_lines(
            dot_scores,
            bilinear_scores,
            gaussian_scores,
            kernel_regression,
            begin="return",
            dot="return Q @ K.transpose",
            bilinear="return (Q @ W.T)",
            gaussian="(-2 * bandwidth**2)",
            softmax="return softmax(",
            values="return softmax(",
        )
    ).tag(sync=True)

    def __init__(
        self,
        query: Sequence[float] | Tensor | None = None,
        keys: Sequence[Sequence[float]] | Tensor | None = None,
        *,
        attention: Callable[..., Any] | None = None,
        **state: Any,
    ) -> None:
        if attention is not None and not callable(attention):
            raise TypeError(f"attention must be callable, got {type(attention).__name__}")
        self._attention: Callable[..., Any] | None = None  # asks nothing until the state is whole
        if query is not None:
            state["query"] = torch.as_tensor(query, dtype=torch.float64).tolist()
        if keys is not None:
            state["points"] = torch.as_tensor(keys, dtype=torch.float64).tolist()
            state.setdefault("names", [f"k{i}" for i in range(1, len(state["points"]) + 1)])
        super().__init__(**state)
        self._attention = attention
        self._call_attention()

    @traitlets.validate("query")
    def _check_query(self, proposal: Any) -> list[float]:
        return _point("query", proposal["value"])

    @traitlets.validate("points")
    def _check_keys(self, proposal: Any) -> list[list[float]]:
        keys = proposal["value"]
        if not FEWEST_KEYS <= len(keys) <= MOST_KEYS:
            raise StateError(f"keys must number {FEWEST_KEYS} to {MOST_KEYS}, got {len(keys)}")
        return [_point("keys", key) for key in keys]

    @traitlets.validate("matrix")
    def _check_matrix(self, proposal: Any) -> list[list[float]]:
        if len(proposal["value"]) != 2:
            raise StateError(f"matrix must have two rows, got {len(proposal['value'])}")
        return [_point("matrix", row) for row in proposal["value"]]

    @traitlets.validate("bandwidth")
    def _check_bandwidth(self, proposal: Any) -> float:
        return within("bandwidth", proposal["value"], 0.05, 10)

    @traitlets.validate("values")
    def _check_values(self, proposal: Any) -> list[float]:
        if not all(abs(value) <= 1e6 for value in proposal["value"]):
            raise StateError(f"values must lie within +-1e6, got {proposal['value']}")
        return proposal["value"]

    def scores(self) -> Float[Tensor, " S"]:
        """The reference's scores for the present state."""
        query, keys, matrix = (
            torch.tensor(x, dtype=torch.float64) for x in (self.query, self.points, self.matrix)
        )
        return plane_scores(query, keys, self.score, matrix, self.bandwidth)

    def weights(self) -> Float[Tensor, " S"]:
        return softmax(self.scores())

    def output(self) -> Float[Tensor, " d_v"]:
        """Of width 2 where the keys are the values, else of width 1."""
        values = [[v] for v in self._numbers()] if self.values else self.points
        return self.weights() @ torch.tensor(values, dtype=torch.float64)

    def _numbers(self) -> list[float]:
        """A value for each key, also while keys and values arrive one after the other."""
        return [self.values[i] if i < len(self.values) else 0.0 for i in range(len(self.points))]

    def _names(self) -> list[str]:
        return [
            self.names[i] if i < len(self.names) else f"k{i + 1}" for i in range(len(self.points))
        ]

    # --- the student's function -----------------------------------------------------------------

    _STATE = ("query", "points", "score", "matrix", "bandwidth")

    @traitlets.observe(*_STATE)
    def _call_attention(self, change: Any = None) -> None:
        """Send the student's weights for the present state, or the error."""
        if self._attention is not None:
            self._ask_about(self._STATE, self._student_weights)

    def _student_weights(self) -> dict[str, Any]:
        assert self._attention is not None
        K = torch.tensor(self.points)
        answer = self._attention(torch.tensor([self.query]), K, torch.eye(len(K)))
        if isinstance(answer, tuple | list) and answer and isinstance(answer[0], Tensor):
            answer = answer[0]  # (output, weights), as many write it
        weights = torch.as_tensor(answer).detach().double()
        if weights.shape != (1, len(K)):
            raise ValueError(
                f"for Q (1, 2), K and V of {len(K)} rows it must return (1, {len(K)}), "
                f"got {tuple(weights.shape)}"
            )
        if not bool(weights.isfinite().all()):
            raise ValueError("it returned numbers that are not finite")
        apart = (weights[0] - self.weights()).abs()
        worst = int(apart.argmax())
        return {
            "weights": weights[0].tolist(),
            "worst": worst,
            "difference": float(apart[worst]),
            "agrees": float(apart[worst]) < DIFFERS,
        }

    # --- words and picture ----------------------------------------------------------------------

    def description(self) -> str:
        parts = ", ".join(
            f"{name} {w:.3f}"
            for name, w in zip(self._names(), self.weights().tolist(), strict=True)
        )
        output = ", ".join(f"{x:.3f}" for x in self.output().tolist())
        return (
            f"Attention in the plane with {self.score} scores, query at "
            f"({self.query[0]:g}, {self.query[1]:g}). Weights: {parts}. Output: {output}."
        )

    def picture(self) -> str:
        points = [*self.points, self.query, [0.0, 0.0]]
        low = [min(p[c] for p in points) - 0.4 for c in (0, 1)]
        high = [max(p[c] for p in points) + 0.4 for c in (0, 1)]
        unit = min(480 / (high[0] - low[0]), 300 / (high[1] - low[1]))

        def at(point: Sequence[float]) -> tuple[float, float]:
            return 20 + (point[0] - low[0]) * unit, 10 + (high[1] - point[1]) * unit

        zero = at((0, 0))
        parts = []
        weights = self.weights().tolist()
        marks = [
            *zip(self.points, self._names(), weights, strict=True),
            (self.query, "query", None),
        ]
        for point, name, weight in marks:
            x, y = at(point)
            colour, label = (QUERY, name) if weight is None else (KEY, f"{name} {weight:.2f}")
            parts.append(
                f'<path d="M{zero[0]:.1f} {zero[1]:.1f}L{x:.1f} {y:.1f}" stroke="{colour}" '
                f'stroke-width="1.5"/><circle cx="{x:.1f}" cy="{y:.1f}" '
                f'r="{5 + 9 * (weight or 0):.1f}" fill="{colour}"/>'
                f'<text x="{x + 12:.1f}" y="{y - 6:.1f}" font-size="12">{_text(label)}</text>'
            )
        if not self.values:
            x, y = at(self.output().tolist())
            parts.append(
                f'<path d="M{x - 6:.1f} {y:.1f}h12m-6 -6v12" stroke="currentColor" '
                f'stroke-width="2.5"/><text x="{x + 9:.1f}" y="{y + 14:.1f}" font-size="12">output</text>'
            )
        size = [(high[c] - low[c]) * unit for c in (0, 1)]
        return _svg(size[0] + 120, size[1] + 20, "Query, keys and output in the plane", parts)

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        generator = torch.Generator().manual_seed(4)
        sentence = torch.tensor(EMBEDDINGS, dtype=torch.float64)
        random = 3 * torch.randn(5, 2, generator=generator, dtype=torch.float64)
        huge = torch.tensor([[10.0, 10.0], [-10.0, 10.0], [10.0, 10.0]], dtype=torch.float64)
        matrices = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64)
        queries = torch.tensor([[0.0, 2.0], [1.3, -0.7], [10.0, 10.0], [0.0, 0.0]]).double()
        for K, q, score in itertools.product((sentence, random, huge), queries, SCORES):
            for W, h in zip(matrices, (0.05, 1.5), strict=True):
                s = plane_scores(q, K, score, W, h)
                numbers = torch.arange(len(K), dtype=torch.float64) * 7 - 3
                options = {"score": score, "matrix": W, "bandwidth": h}
                a = softmax(s)
                yield Golden(
                    "attendTo",
                    [q, K, [], options],
                    {"scores": s, "weights": a, "output": a @ K},
                )
                yield Golden(
                    "attendTo",
                    [q, K, numbers, options],
                    {"weights": a, "output": (a @ numbers)[None]},
                )
        # The two functions that a chapter calls as a whole
        q, V = queries[1][None], torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]).double()
        arguments: list[Any] = [q[0], random, V[:, 0]]
        by_kernel = kernel_regression(q, random, V, 0.7)[0]
        by_root = scaled_dot_product_attention(q, random, V)[0]
        gaussian = {"score": "gaussian", "bandwidth": 0.7}
        yield Golden("attendTo", [*arguments, gaussian], {"output": by_kernel})
        yield Golden("attendTo", [*arguments, {"score": "scaled"}], {"output": by_root})


def _point(name: str, point: Any) -> list[float]:
    try:
        x, y = (float(v) for v in point)
    except (TypeError, ValueError):
        raise StateError(f"{name} must hold pairs of numbers, got {point!r}") from None
    return [within(name, v, -FARTHEST, FARTHEST) for v in (x, y)]
