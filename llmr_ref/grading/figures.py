"""Small pictures of a counterexample: chosen from its values, and told in words; drawings.py draws them."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel
from torch import Tensor

MAX_ROWS, MAX_COLUMNS, MAX_POINTS = 12, 12, 40
MAX_TABLE_COLUMNS = 8

Number = float | str  # nan and the infinities as words: JSON has no numbers for them


class Figure(BaseModel):
    """Expected and received rows of numbers, and the places of the received ones that differ."""

    kind: Literal["mask", "distributions", "curves", "table"]
    expected: list[list[Number]]
    received: list[list[Number]]
    wrong: list[tuple[int, int]]
    row_names: list[str]

    @property
    def same_shape(self) -> bool:
        return [len(r) for r in self.expected] == [len(r) for r in self.received]


# --- choosing ------------------------------------------------------------------------------------


def choose_figure(expected: object, received: object, wrong: Tensor | None) -> Figure | None:
    """The picture that shows best how `received` differs; None where none helps or they are too large.

    wrong: where the two differ, None when their shapes do.
    """
    if not (isinstance(expected, Tensor) and isinstance(received, Tensor)):
        return None
    if not (_drawable(expected) and _drawable(received)):
        return None
    if wrong is not None and not wrong.any():  # the dtype is wrong, which no picture shows
        return None
    if expected.dtype == torch.bool:
        if received.dtype != torch.bool or max(expected.dim(), received.dim()) > 2:
            return None
        return _figure("mask", expected, received, wrong)
    if received.dtype == torch.bool or wrong is None:
        return None
    for dim in reversed(range(expected.dim())):
        if _sums_to_one(expected, dim):
            return _figure("distributions", expected, received, wrong, dim)
    rows, columns = expected.numel() // expected.shape[-1], expected.shape[-1]
    if columns <= MAX_TABLE_COLUMNS and (rows > 1 or columns < MAX_TABLE_COLUMNS):
        return _figure("table", expected, received, wrong)
    return _figure("curves", expected, received, wrong) if rows <= 3 else None


def _drawable(tensor: Tensor) -> bool:
    if tensor.dim() == 0 or tensor.numel() == 0 or tensor.is_complex():
        return False
    rows, columns = tensor.numel() // tensor.shape[-1], tensor.shape[-1]
    return rows <= MAX_ROWS and columns <= (MAX_COLUMNS if rows > 3 else MAX_POINTS)


def _sums_to_one(tensor: Tensor, dim: int) -> bool:
    if not tensor.is_floating_point() or not 2 <= tensor.shape[dim] <= MAX_TABLE_COLUMNS:
        return False
    if tensor.numel() // tensor.shape[dim] > MAX_ROWS:
        return False
    values = tensor.double()
    sums = values.sum(dim)
    return bool((values >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=0.02)


def _figure(
    kind: Literal["mask", "distributions", "curves", "table"],
    expected: Tensor, received: Tensor, wrong: Tensor | None, dim: int = -1,
) -> Figure:  # fmt: skip
    places = _rows(wrong, dim).nonzero().tolist() if wrong is not None else []
    return Figure(
        kind=kind,
        expected=_numbers(_rows(expected, dim)),
        received=_numbers(_rows(received, dim)),
        wrong=[(i, j) for i, j in places],
        row_names=_row_names(expected.shape, dim % expected.dim()),
    )


def _rows(tensor: Tensor, dim: int) -> Tensor:
    moved = tensor.movedim(dim, -1)
    return moved.reshape(-1, moved.shape[-1])


def _row_names(shape: Sequence[int], dim: int) -> list[str]:
    """What each row is, as an index of the tensor: "row 0", "column 2" or "[0, :, 1]"."""
    if len(shape) == 1:
        return [""]
    others = [range(n) for i, n in enumerate(shape) if i != dim]
    if len(shape) == 2:
        return [f"{'row' if dim == 1 else 'column'} {i}" for i in others[0]]
    names = []
    for index in torch.cartesian_prod(*[torch.tensor(list(r)) for r in others]).tolist():
        index.insert(dim, ":")
        names.append("[" + ", ".join(map(str, index)) + "]")
    return names


def _numbers(rows: Tensor) -> list[list[Number]]:
    def plain(x: float) -> Number:
        return float(f"{x:.6g}") if math.isfinite(x) else str(x)

    return [[plain(float(x)) for x in row] for row in rows.tolist()]


# --- words ---------------------------------------------------------------------------------------


def short(x: Number) -> str:
    """A number in at most seven characters."""
    if isinstance(x, str):
        return x
    if x == 0 or 1e-3 <= abs(x) < 1e4:
        text = f"{x:.3f}"[: 6 if x < 0 else 5]
        return text.rstrip("0").rstrip(".") if "." in text else text
    texts = [
        f"{x:.{d}e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e") for d in (1, 0)
    ]
    return min(texts, key=lambda text: len(text) > 7)


def in_words(figure: Figure, side: Literal["expected", "received"]) -> str:
    """What a panel shows, for a reader who does not see it."""
    rows = figure.expected if side == "expected" else figure.received
    spoken = [
        f"{name or 'values'}: {' '.join(map(short, row))}"
        for name, row in zip(_names_of(figure, rows), rows, strict=True)
    ]
    places = ""
    if side == "received" and figure.wrong:
        names = _names_of(figure, rows)
        places = ". Differs at " + ", ".join(
            f"{names[i]} place {j}".strip() for i, j in figure.wrong
        )
    return f"{side}. {'; '.join(spoken)}{places}"


def grid_text(figure: Figure) -> str:
    """A mask in plain text: expected and received side by side, differing cells in brackets."""
    wrong = set(figure.wrong)

    def lines(rows: list[list[Number]], marked: set[tuple[int, int]]) -> list[str]:
        return [
            "".join(
                f"[{short(x)}]" if (i, j) in marked else f" {short(x)} " for j, x in enumerate(r)
            )
            for i, r in enumerate(rows)
        ]

    left, right = lines(figure.expected, set()), lines(figure.received, wrong)
    width = max(len("expected"), *(len(line) for line in left)) + 3
    height = max(len(left), len(right))
    left, right = ([*side, *[""] * (height - len(side))] for side in (left, right))
    head = f"{'expected':<{width}}received"
    return "\n".join(
        [head, *(f"{a:<{width}}{b}".rstrip() for a, b in zip(left, right, strict=True))]
    )


def _names_of(figure: Figure, rows: list[list[Number]]) -> list[str]:
    """Names of the rows; the received ones may be more or fewer than the expected ones."""
    if len(rows) == len(figure.row_names):
        return figure.row_names
    return [f"row {i}" for i in range(len(rows))]
