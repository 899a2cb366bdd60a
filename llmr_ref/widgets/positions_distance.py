"""Position and distance: what each positional method adds to a score, by how far apart two words are.

>>> PositionsDistance()  # sinusoidal, query 8 positions after its key
>>> PositionsDistance("alibi", head=1, distance=40)
>>> PositionsDistance("learned", start=100)
>>> PositionsDistance("rope", projected=True, start=1000)
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from llmr_ref.positions import (
    SCHEMES,
    LearnedPositions,
    RelativeBias,
    alibi_bias,
    relative_buckets,
    sinusoidal_encoding,
)
from llmr_ref.rope import apply_rope
from llmr_ref.widgets.embed import (
    EmbeddableWidget,
    Golden,
    StateError,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import lines_picture

NAMES = {
    "sinusoidal": "sinusoidal",
    "learned": "learned",
    "t5": "T5 bias",
    "alibi": "ALiBi",
    "rope": "RoPE",
    "none": "no positions",
}
TRAINED = 128  # positions; as many vectors are learned
FARTHEST = 255
HEADS = 8


def noise(rows: Tensor, columns: int, seed: int) -> Float[Tensor, "rows columns"]:
    """Numbers as good as random, mean 0 and variance 1, that JavaScript computes alike."""
    angle = 12.9898 * rows.double()[:, None] + 78.233 * torch.arange(columns).double()
    u = (angle + 37.719 * seed).sin() * 43758.5453
    return math.sqrt(12) * (u - u.floor() - 0.5)


def t5_bias() -> RelativeBias:
    """One head whose table falls by 0.05 from bucket to bucket: our example, nothing is trained."""
    bias = RelativeBias(1, bidirectional=False, dtype=torch.float64)
    with torch.no_grad():
        bias.buckets.weight.copy_(-0.05 * torch.arange(32.0)[:, None])
    return bias


@torch.no_grad()
def position_score(
    method: str, m: int, n: int, *, d: int = 64, base: float = 10_000.0, head: int = 8,
    projected: bool = False,
) -> float | None:  # fmt: skip
    """What the method gives the score of a query at m and a key at n; None where it has no vector.

    Methods that add to the input: the dot product of the two vectors, divided by that of one with
    itself. Methods that add to the scores: what they add. RoPE and "none": the score of two vectors of
    ones over d. projected: W_Q and W_K, random, stand between the vectors and the dot product.
    """
    at = torch.tensor([m, n])
    if method == "t5":
        return float(t5_bias()(at[:1], at[1:])[0, 0, 0])
    if method == "alibi":
        return float(alibi_bias(HEADS, at[:1], at[1:], dtype=torch.float64)[head - 1, 0, 0])
    size = float(d)
    if method == "sinusoidal":
        x, size = sinusoidal_encoding(at, d, base, dtype=torch.float64), d / 2
    elif method == "learned":
        if max(m, n) >= TRAINED:
            return None
        table = LearnedPositions(TRAINED, d, dtype=torch.float64)
        table.weight.copy_(noise(torch.arange(TRAINED), d, 1))
        x = table(at)
    else:
        x = torch.ones(2, d, dtype=torch.float64)
    if projected:
        rows = torch.arange(d)
        W_Q, W_K = (noise(rows, d, seed) / math.sqrt(d) for seed in (2, 3))
        x = torch.stack((W_Q @ x[0], W_K @ x[1]))
    if method == "rope":
        x = apply_rope(x, at, base)
    return float(x[0] @ x[1]) / size


class PositionsDistance(EmbeddableWidget):
    """Six positional methods in one plot, and the scores of one of them at neighbouring positions.

    method: "sinusoidal", "learned" (random vectors, 128 of them), "t5", "alibi", "rope" or "none". The
    key stands at `start`, the query `distance` after it. d, base: of the vectors. head: of ALiBi's
    eight, from 1. projected: random W_Q and W_K stand between the vectors and the score.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("positions_distance")

    method = traitlets.Enum(tuple(NAMES), "sinusoidal").tag(sync=True)
    distance = traitlets.Int(8).tag(sync=True)
    start = traitlets.Int(0).tag(sync=True)
    d = traitlets.Int(64).tag(sync=True)
    base = traitlets.Float(10_000.0).tag(sync=True)
    head = traitlets.Int(8).tag(sync=True)
    projected = traitlets.Bool(False).tag(sync=True)
    code = traitlets.List(
        [
            *code_lines(sinusoidal_encoding, begin="angles =", input="torch.stack"),
            *code_lines(apply_rope, begin="angles =", rotation="return rotate_pairs"),
            *code_lines(alibi_bias, begin="distance =", bias="-slopes["),
            *code_lines(RelativeBias.forward, begin="bias: Tensor", bias="self.buckets(bucket)"),
        ]
    ).tag(sync=True)

    def __init__(self, method: str = "sinusoidal", **settings: Any) -> None:
        super().__init__(method=method, **settings)

    @traitlets.validate("distance", "start", "base", "head")
    def _check_number(self, proposal: Any) -> Any:
        name = proposal["trait"].name
        low, high = {
            "distance": (0, FARTHEST),
            "start": (0, 100_000),
            "base": (2, 1e9),
            "head": (1, HEADS),
        }[name]
        return within(name, proposal["value"], low, high)

    @traitlets.validate("d")
    def _check_d(self, proposal: Any) -> int:
        d: int = proposal["value"]
        if not 2 <= d <= 128 or d % 2:
            raise StateError(f"d must be even and lie in 2..128, got {d}")
        return d

    def score(self, method: str, distance: int) -> float | None:
        """Of the present state, with another method or distance."""
        settings = {name: getattr(self, name) for name in ("d", "base", "head", "projected")}
        return position_score(method, self.start + distance, self.start, **settings)

    def description(self) -> str:
        values = [(NAMES[method], self.score(method, self.distance)) for method in NAMES]
        given = ", ".join(
            f"{name} {'no vector' if value is None else f'{value:.3f}'}" for name, value in values
        )
        return (
            f"What position gives the score of a key at {self.start} and a query {self.distance} "
            f"after it: {given}."
        )

    def picture(self) -> str:
        series = []
        for method, name in NAMES.items():
            points = [(x, self.score(method, x)) for x in range(0, 128, 3)]
            known = [(float(x), max(-2.0, y)) for x, y in points if y is not None]
            if known:
                series.append((name, [x for x, _ in known], [y for _, y in known]))
        return lines_picture(
            "Part of the score that position gives, against distance",
            series,
            x_label="distance of query and key",
            y_label="part of the score",
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        yield Golden("noise", [2, 5, 3], noise(torch.tensor([2]), 5, 3)[0])
        distances = [0, 1, 7, 15, 16, 17, 31, 32, 64, 100, 112, 113, 127, 128, 200, 255, 5000]
        yield Golden(
            "buckets", [distances], relative_buckets(-torch.tensor(distances), bidirectional=False)
        )
        for settings in (
            {},
            {"d": 2, "base": 2.0, "head": 1},
            {"d": 16, "base": 100.0, "head": 3},
            {"projected": True},
            {"d": 6, "base": 5e5, "head": 5, "projected": True},
        ):
            for method in NAMES:
                for m, n in (
                    (0, 0),
                    (8, 0),
                    (127, 100),
                    (130, 122),
                    (1255, 1000),
                    (60_000, 59_800),
                ):
                    expected = position_score(method, m, n, **settings)
                    yield Golden("positionScore", [method, m, n, settings], expected)
        assert set(NAMES) == set(SCHEMES)
