"""The picture of a counterexample as SVG, without script.

Colours are readable on light and on dark pages, and none carries a meaning alone: what differs is framed,
what was expected is hollow, what was received is filled.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup

from llmr_ref.grading.figures import Figure, Number, in_words, short

BLUE, ORANGE = "#2171b5", "#d55e00"
# Of every text, unless it says otherwise.
TEXT = (
    'font-family="ui-monospace,monospace" font-size="11" text-anchor="middle" fill="currentColor"'
)


def figure_html(figure: Figure) -> Markup:
    """The picture as panels that stand side by side where there is room."""
    panels, note = PAINTERS[figure.kind](figure)
    inside = Markup("").join(
        Markup(
            '<div style="margin:0"><div style="font-size:.9em;opacity:.8">{}</div>{}</div>'
        ).format(caption, svg)
        for caption, svg in panels
    )
    return Markup(
        '<div style="display:flex;flex-wrap:wrap;gap:.5em 1.5em;margin:.5em 0 0">{}</div>'
        '<div style="font-size:.9em;opacity:.8;margin:.2em 0 0">{}</div>'
    ).format(inside, note)


Panels = tuple[list[tuple[str, Markup]], str]


def _svg(width: float, height: float, label: str, parts: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg role="img" aria-label="{}" width="{:g}" height="{:g}" viewBox="0 0 {:g} {:g}" '
        + TEXT
        + ' style="display:block;max-width:100%;height:auto;overflow:visible">{}</svg>'
    ).format(label, width, height, width, height, Markup("").join(parts))


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "middle",
          colour: str = "currentColor", opacity: float = 1.0) -> Markup:  # fmt: skip
    own = _attributes(
        ("text-anchor", anchor, "middle"), ("font-size", size, 11), ("fill", colour, "currentColor"),
        ("fill-opacity", f"{opacity:g}", "1"),
    )  # fmt: skip
    return Markup('<text x="{:g}" y="{:g}"{}>{}</text>').format(x, y, own, text)


def _rect(x: float, y: float, width: float, height: float, *, fill: str = "none",
          fill_opacity: float = 1.0, stroke: str = "none", stroke_width: float = 1.0,
          stroke_opacity: float = 1.0) -> Markup:  # fmt: skip
    own = _attributes(
        ("fill", fill, ""), ("fill-opacity", f"{fill_opacity:.3g}", "1"), ("stroke", stroke, "none"),
        ("stroke-width", f"{stroke_width:g}", "1"), ("stroke-opacity", f"{stroke_opacity:g}", "1"),
    )  # fmt: skip
    return Markup('<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" rx="2"{}/>').format(
        x, y, width, height, own
    )


def _attributes(*given: tuple[str, object, object]) -> Markup:
    """Those of (name, value, default) that differ from their default."""
    return Markup("").join(
        Markup(' {}="{}"').format(name, value) for name, value, default in given if value != default
    )


def _line(points: Sequence[tuple[float, float]], colour: str, *, width: float = 1.5,
          opacity: float = 1.0) -> Markup:  # fmt: skip
    joined = " ".join(f"{x:g},{y:g}" for x, y in points)
    return Markup(
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="{:g}" stroke-opacity="{:g}"/>'
    ).format(joined, colour, width, opacity)


def _frame(x: float, y: float, width: float, height: float) -> Markup:
    """Around what differs."""
    return _rect(x, y, width, height, stroke=ORANGE, stroke_width=2.5)


def _differing(figure: Figure, what: str) -> str:
    if not figure.same_shape:
        shapes = [f"{len(r)} × {len(r[0])}" for r in (figure.expected, figure.received)]
        return f"expected {shapes[0]}, received {shapes[1]}"
    total = sum(map(len, figure.received))
    return f"{what} {len(figure.wrong)} of {total} places that differ"


def _mask(figure: Figure) -> Panels:
    def grid(rows: list[list[Number]], marked: set[tuple[int, int]], label: str) -> Markup:
        size, left, top = 19.0, 16.0, 14.0
        parts = [_text(left + (j + 0.5) * size, top - 4, str(j), size=9, opacity=0.75)
                 for j in range(len(rows[0]))]  # fmt: skip
        for i, row in enumerate(rows):
            y = top + i * size
            parts.append(
                _text(left - 5, y + size * 0.68, str(i), size=9, anchor="end", opacity=0.75)
            )
            for j, value in enumerate(row):
                x = left + j * size
                on = value == 1
                parts.append(_rect(
                    x + 1, y + 1, size - 2, size - 2, fill=BLUE if on else "none",
                    stroke="currentColor", stroke_opacity=0.0 if on else 0.35,
                ))  # fmt: skip
                parts.append(_text(
                    x + size / 2, y + size * 0.7, short(value),
                    colour="#fff" if on else "currentColor",
                ))  # fmt: skip
        parts += [
            _frame(left + j * size + 0.5, top + i * size + 0.5, size - 1, size - 1)
            for i, j in marked
        ]
        return _svg(left + len(rows[0]) * size + 2, top + len(rows) * size + 2, label, parts)

    panels = [
        ("expected", grid(figure.expected, set(), in_words(figure, "expected"))),
        ("received", grid(figure.received, set(figure.wrong), in_words(figure, "received"))),
    ]
    return panels, f"1 is True. {_differing(figure, 'Framed:')}."


def _distributions(figure: Figure) -> Panels:
    top, bottom = _range([*figure.expected, *figure.received], low=0.0, high=1.0)
    top, bottom = min(top, 1.5), max(bottom, -0.5)
    height, left, bar = 66.0, 22.0, 11.0
    scale = height / (top - bottom)
    step = 2 * bar + 10

    def level(value: float) -> float:
        return 6 + (top - min(max(value, bottom), top)) * scale

    def panel(number: int, expected: list[Number], received: list[Number]) -> Markup:
        parts = [_text(left - 4, level(v) + 3, short(v), size=9, anchor="end", opacity=0.75)
                 for v in (0.0, 1.0)]  # fmt: skip
        width = left + len(expected) * step + 4
        parts += [
            _line([(left, level(v)), (width, level(v))], "currentColor", width=1, opacity=0.25)
            for v in (0.0, 1.0)
        ]
        for j, (e, r) in enumerate(zip(expected, received, strict=True)):
            x = left + 5 + j * step
            differs = (number, j) in figure.wrong
            for value, at, hollow in ((e, x, True), (r, x + bar + 1, False)):
                if isinstance(value, str):
                    parts.append(_text(at + bar / 2, level(0) - 3, value, size=9))
                    continue
                a, b = sorted((level(value), level(0)))
                colour = "currentColor" if hollow else ORANGE if differs else BLUE
                parts.append(_rect(
                    at, a, bar, max(b - a, 1.0), fill="none" if hollow else colour,
                    stroke=colour, stroke_width=1.5 if hollow else 1.0,
                ))  # fmt: skip
                if not bottom <= value <= top:
                    edge = level(value) + (-1 if value > 0 else 9)
                    parts.append(_text(at + bar / 2, edge, short(value), size=9))
            parts.append(_text(x + bar, height + 18, str(j), size=9, opacity=0.75))
        words = (
            f"{figure.row_names[number] or 'values'}. expected {' '.join(map(short, expected))}; "
            f"received {' '.join(map(short, received))}"
        )
        return _svg(width, height + 20, words, parts)

    panels = []
    for number, (e, r) in enumerate(zip(figure.expected, figure.received, strict=True)):
        total = sum(float(x) for x in r)
        name = figure.row_names[number]
        caption = "" if abs(total - 1) < 0.005 else f"received sums to {short(_plain(total))}"
        panels.append((", ".join(filter(None, (name, caption))), panel(number, e, r)))
    return panels, "Hollow: expected. Filled: received, orange where it differs."


def _plain(x: float) -> Number:
    return x if math.isfinite(x) else str(x)


def _range(
    rows: Iterable[Iterable[Number]], low: float = math.inf, high: float = -math.inf
) -> tuple[float, float]:
    """Largest and smallest finite number."""
    finite = [x for row in rows for x in row if not isinstance(x, str)]
    return max([*finite, high]), min([*finite, low])


def _curves(figure: Figure) -> Panels:
    height, left, width = 96.0, 44.0, 290.0

    def panel(number: int, expected: list[Number], received: list[Number]) -> Markup:
        top, bottom = _range([expected, received], 0.0, 0.0)
        span = (top - bottom) or 1.0

        def place(j: int, value: float) -> tuple[float, float]:
            x = left + 6 + j * (width - left - 12) / max(len(expected) - 1, 1)
            return round(x, 1), round(6 + (top - value) / span * height, 1)

        parts = [
            _text(left - 4, place(0, v)[1] + 3, short(v), size=9, anchor="end", opacity=0.75)
            for v in {top, bottom, 0.0}
        ]
        parts.append(
            _line([(left, place(0, 0)[1]), (width, place(0, 0)[1])], "currentColor", opacity=0.25)
        )
        for row, colour in ((expected, "currentColor"), (received, ORANGE)):
            points = [place(j, v) for j, v in enumerate(row) if not isinstance(v, str)]
            parts.append(_line(points, colour))
            if row is expected:
                parts += [
                    Markup(
                        '<circle cx="{:g}" cy="{:g}" r="4" fill="none" stroke="currentColor"/>'
                    ).format(*p)
                    for p in points
                ]
            else:
                parts += [_rect(x - 2.5, y - 2.5, 5, 5, fill=ORANGE) for x, y in points]
        words = (
            f"{figure.row_names[number] or 'values'}. expected {' '.join(map(short, expected))}; "
            f"received {' '.join(map(short, received))}"
        )
        return _svg(width, height + 12, words, parts)

    panels = [
        (figure.row_names[i], panel(i, e, r))
        for i, (e, r) in enumerate(zip(figure.expected, figure.received, strict=True))
    ]
    return panels, "Circles: expected. Squares: received."


def _table(figure: Figure) -> Panels:
    wide, tall, top_space = 44.0, 20.0, 14.0
    named = len(figure.expected) > 1
    left = 8.0 + 6.0 * max(len(_index_of(n)) for n in figure.row_names) if named else 2.0
    largest = max(map(abs, _range([*figure.expected, *figure.received], 0.0, 0.0)))

    def table(rows: list[list[Number]], scale: float, marked: set[tuple[int, int]],
              label: str) -> Markup:  # fmt: skip
        parts = [_text(left + (j + 0.5) * wide, top_space - 4, str(j), size=9, opacity=0.75)
                 for j in range(len(rows[0]))]  # fmt: skip
        for i, row in enumerate(rows):
            y = top_space + i * tall
            if named:
                parts.append(_text(
                    left - 5, y + 13, _index_of(figure.row_names[i]), size=9, anchor="end",
                    opacity=0.75,
                ))  # fmt: skip
            for j, value in enumerate(row):
                x = left + j * wide
                tint = 0.0 if isinstance(value, str) else min(1.0, abs(value) / (scale or 1.0))
                colour = ORANGE if isinstance(value, str) or value < 0 else BLUE
                parts.append(_rect(
                    x + 1, y + 1, wide - 2, tall - 2, fill=colour, fill_opacity=0.06 + 0.34 * tint
                ))  # fmt: skip
                parts.append(_text(x + wide / 2, y + 14, short(value)))
        parts += [_frame(left + j * wide + 1, top_space + i * tall + 1, wide - 2, tall - 2)
                  for i, j in sorted(marked)]  # fmt: skip
        size = left + len(rows[0]) * wide + 2, top_space + len(rows) * tall + 2
        return _svg(*size, label, parts)

    difference: list[list[Number]] = [
        [_plain(float(r) - float(e)) for e, r in zip(a, b, strict=True)]
        for a, b in zip(figure.expected, figure.received, strict=True)
    ]
    off = max(map(abs, _range(difference, 0.0, 0.0)))
    marked = set(figure.wrong)
    panels = [
        ("expected", table(figure.expected, largest, set(), in_words(figure, "expected"))),
        ("received", table(figure.received, largest, marked, in_words(figure, "received"))),
        ("received minus expected", table(difference, off, set(), _difference_words(difference))),
    ]
    return panels, f"Blue is positive, orange is negative. {_differing(figure, 'Framed:')}."


def _index_of(name: str) -> str:
    """The row's index alone: "row 3" as "3"."""
    return name.removeprefix("row ")


def _difference_words(rows: list[list[Number]]) -> str:
    return "received minus expected. " + "; ".join(" ".join(map(short, row)) for row in rows)


PAINTERS: dict[str, Callable[[Figure], Panels]] = {
    "mask": _mask,
    "distributions": _distributions,
    "curves": _curves,
    "table": _table,
}
