"""Still SVG pictures of the widgets, for print and for pages without scripts.

Lines and letters take the page's own ink (currentColor), so that they read in light and in dark.
"""

import math
from collections.abc import Sequence

QUERY, KEY = "#0072b2", "#c2410c"
SERIES = (QUERY, KEY, "#009e73", "#b05a95", "#a58500")  # read on white and on black
_DASHES = ("", "5 3", "9 3", "2 3", "9 3 2 3")
_FONT = 'font-family="system-ui, sans-serif" fill="currentColor"'


def bars_picture(
    label: str,
    rows: Sequence[tuple[str, float, str]],
    *,
    ghosts: Sequence[float] = (),
    off: Sequence[bool] = (),
) -> str:
    """Horizontal bars (label, value >= 0, text), outlined at `ghosts`; those that are `off` are hollow."""
    left, right, step, width = 110, 70, 26, 520
    longest = max([*(value for _, value, _ in rows), *ghosts]) or 1.0
    parts = []
    for i, (name, value, text) in enumerate(rows):
        y, length = i * step + 6, value / longest * (width - left - right)
        hollow = bool(off) and off[i]
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end" font-size="12">{_text(name)}</text>'
            f'<rect x="{left}" y="{y}" width="{max(length, 0.5):.1f}" height="16" '
            + ('fill="none" stroke="currentColor" ' if hollow else f'fill="{QUERY}" ')
            + f'/><text x="{width - 4}" y="{y + 13}" text-anchor="end" font-size="12">{_text(text)}</text>'
        )
        if ghosts:
            end = left + ghosts[i] / longest * (width - left - right)
            parts.append(
                f'<path d="M{left} {y - 2}H{end:.1f}V{y + 18}H{left}" fill="none" stroke="currentColor"/>'
            )
    return _svg(width, len(rows) * step + 10, label, parts)


def lines_picture(
    label: str,
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """Curves (name, xs, ys) in one frame, with their names below, each in a colour and dash of its own."""
    width, height, left, top = 520, 240, 56, 24

    def scale(values: list[float], log: bool, start: float, end: float) -> tuple[float, ...]:
        low, high = min(values), max(values)
        if log:
            low, high = math.log(low), math.log(high)
        return low, (end - start) / ((high - low) or 1.0), start

    def place(value: float, log: bool, how: tuple[float, ...]) -> float:
        return how[2] + ((math.log(value) if log else value) - how[0]) * how[1]

    all_x = [x for _, xs, _ in series for x in xs]
    all_y = [y for _, _, ys in series for y in ys]
    across = scale(all_x, log_x, left, width - 12)
    down = scale(all_y, log_y, top + height, top)
    parts = [
        f'<path d="M{left} {top}V{top + height}H{width - 12}" fill="none" stroke="currentColor"/>'
        f'<text x="{left}" y="{top - 10}" font-size="11">{_text(y_label)}</text>'
        f'<text x="{width - 12}" y="{top + height + 32}" text-anchor="end" font-size="11">'
        f"{_text(x_label)}</text>"
    ]
    for value in sorted({min(all_x), max(all_x)}):
        parts.append(
            f'<text x="{place(value, log_x, across):.1f}" y="{top + height + 16}" '
            f'text-anchor="middle" font-size="11">{value:g}</text>'
        )
    for value in sorted({min(all_y), max(all_y)}):
        parts.append(
            f'<text x="{left - 6}" y="{place(value, log_y, down) + 4:.1f}" text-anchor="end" '
            f'font-size="11">{value:.3g}</text>'
        )
    foot = top + height + 52
    for i, (name, xs, ys) in enumerate(series):
        style = (
            f'fill="none" stroke="{SERIES[i % 5]}" stroke-width="2" '
            f'stroke-dasharray="{_DASHES[i % 5]}"'
        )
        points = " ".join(
            f"{place(x, log_x, across):.1f},{place(y, log_y, down):.1f}"
            for x, y in zip(xs, ys, strict=True)
        )
        y = foot + 16 * i
        parts.append(
            f'<polyline points="{points}" {style}/><path d="M{left} {y}h28" {style}/>'
            f'<text x="{left + 36}" y="{y + 4}" font-size="11">{_text(name)}</text>'
        )
    return _svg(width, foot + 16 * len(series), label, parts)


def heatmap_picture(
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    places: int = 2,
) -> str:
    """A table of numbers: the larger the size, the fuller the colour; negative ones in orange."""
    cell, left, top = 44, 76, 26
    largest = max(abs(v) for row in values for v in row) or 1.0
    parts = [
        f'<text x="{left + (c + 0.5) * cell:g}" y="{top - 8}" text-anchor="middle" '
        f'font-size="12">{_text(name)}</text>'
        for c, name in enumerate(columns)
    ]
    for r, name in enumerate(rows):
        y = top + r * cell
        parts.append(
            f'<text x="{left - 8}" y="{y + cell / 2 + 4:g}" text-anchor="end" font-size="12">'
            f"{_text(name)}</text>"
        )
        for c, value in enumerate(values[r]):
            x = left + c * cell
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" stroke="currentColor" '
                f'stroke-opacity=".3" fill="{QUERY if value >= 0 else KEY}" '
                f'fill-opacity="{0.05 + 0.5 * abs(value) / largest:.3f}"/>'
                f'<text x="{x + cell / 2:g}" y="{y + cell / 2 + 4:g}" text-anchor="middle" '
                f'font-size="12">{value:.{places}f}</text>'
            )
    return _svg(left + len(columns) * cell + 8, top + len(rows) * cell + 8, label, parts)


def mask_picture(tokens: list[str], mask: list[list[bool]], weights: list[list[float]]) -> str:
    """The grid: weights where attending is allowed, hatched where not, the diagonal's stairs in bold."""
    n, cell, left, top = len(tokens), 44, 76, 40
    width, height = left + n * cell + 8, top + n * cell + 8
    parts = [
        f'<text x="{left - 8}" y="{top - 22}" text-anchor="end" font-size="11">query \\ key</text>'
    ]
    for i, token in enumerate(tokens):
        parts.append(
            f'<text x="{left + (i + 0.5) * cell:g}" y="{top - 8}" text-anchor="middle" '
            f'font-size="12">{_text(token)}</text>'
            f'<text x="{left - 8}" y="{top + (i + 0.5) * cell + 4:g}" text-anchor="end" '
            f'font-size="12">{_text(token)}</text>'
        )
    for t in range(n):
        for i in range(n):
            x, y = left + i * cell, top + t * cell
            box = f'x="{x}" y="{y}" width="{cell}" height="{cell}" stroke="currentColor"'
            if mask[t][i]:
                colour = QUERY if i <= t else KEY
                parts.append(
                    f'<rect {box} stroke-opacity=".3" fill="{colour}" '
                    f'fill-opacity="{0.08 + 0.5 * weights[t][i]:.3f}"/>'
                    f'<text x="{x + cell / 2:g}" y="{y + cell / 2 + 4:g}" text-anchor="middle" '
                    f'font-size="12">{weights[t][i]:.2f}</text>'
                )
            else:
                lines = " ".join(
                    f"M{x + a} {y + cell}L{x + cell} {y + a}M{x} {y + a}L{x + a} {y}"
                    for a in range(0, cell, 11)
                )
                parts.append(
                    f'<rect {box} stroke-opacity=".3" fill="none"/>'
                    f'<path d="{lines}" stroke="currentColor" stroke-opacity=".25" fill="none"/>'
                )
    stairs = "".join(f"V{top + (t + 1) * cell}H{left + (t + 2) * cell}" for t in range(n - 1))
    parts.append(
        f'<path d="M{left + cell} {top}{stairs}V{top + n * cell}" fill="none" '
        'stroke="currentColor" stroke-width="2"/>'
    )
    return _svg(width, height, "Attention mask with its weights", parts)


def rope_picture(
    *,
    query: list[float],
    key: list[float],
    wavelengths: list[float],
    angles: list[list[float]],
    distances: list[float],
    scores: list[float],
    distance: float,
    score: float,
) -> str:
    """Dials with the turned query (solid) and key (dashed), and the score against the distance."""
    pairs, cell, per_row = len(wavelengths), 108, 4
    rows = math.ceil(pairs / per_row)
    width, plot_top, plot_height = cell * per_row, rows * (cell + 24) + 34, 130
    longest = (
        max(math.hypot(*v[2 * k : 2 * k + 2]) for v in (query, key) for k in range(pairs)) or 1.0
    )
    parts = []
    for k in range(pairs):
        x, y = (k % per_row + 0.5) * cell, (k // per_row) * (cell + 24) + 50
        parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="42" fill="none" stroke="currentColor"/>')
        for vector, colour, dash in ((query, QUERY, ""), (key, KEY, ' stroke-dasharray="5 3"')):
            a, b = (v / longest * 40 for v in vector[2 * k : 2 * k + 2])
            parts.append(
                f'<line x1="{x:g}" y1="{y:g}" x2="{x + a:.2f}" y2="{y - b:.2f}" stroke="{colour}" '
                f'stroke-width="3"{dash}/>'
            )
        for line, words in enumerate((f"pair {k}", f"{angles[0][k] - angles[1][k]:.3g} rad apart")):
            parts.append(
                f'<text x="{x:g}" y="{y + 57 + 14 * line:g}" text-anchor="middle" '
                f'font-size="11">{words}</text>'
            )
    low, high = min(scores), max(scores)
    room = (high - low) or 1.0

    def across(value: float) -> float:
        return (value - distances[0]) / (distances[-1] - distances[0]) * (width - 16) + 8

    def down(value: float) -> float:
        return plot_top + plot_height - (value - low) / room * plot_height

    points = " ".join(
        f"{across(d):.1f},{down(s):.1f}" for d, s in zip(distances, scores, strict=True)
    )
    parts.append(
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    )
    if distances[0] <= distance <= distances[-1]:
        parts.append(
            f'<circle cx="{across(distance):.1f}" cy="{down(score):.1f}" r="5" fill="{QUERY}"/>'
        )
    parts.append(
        f'<text x="{width / 2}" y="{plot_top + plot_height + 18}" text-anchor="middle" font-size="11">'
        f"relative distance {distances[0]:g} to {distances[-1]:g}; at {distance:g} the score is "
        f"{score:.3f}</text>"
    )
    return _svg(width, plot_top + plot_height + 28, "RoPE dials and score curve", parts)


def _svg(width: float, height: float, label: str, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{_text(label)}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">'
        f"<g {_FONT}>{''.join(parts)}</g></svg>"
    )


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
