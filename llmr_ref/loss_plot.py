"""The loss of a run as a picture: training and held-out text, and the models it is compared to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, TRAINING, VALIDATION, GRID = "#333333", "#2f66b3", "#b8400c", "#dddddd"
LABELS_APART = 0.06  # of the height of the axes


def plot_loss(
    lines: list[dict[str, Any]], path: Path, *, to_bits: float, others: Mapping[str, float]
) -> Path:
    """Draw the metrics of a run in bits per character, with what it is compared to; the file.

    to_bits: bits per character in a nat per token.
    """
    steps = [line["step"] for line in lines]
    loss = [math.nan if line["loss"] is None else line["loss"] * to_bits for line in lines]
    smooth = running_mean(loss, len(loss) // 40)
    held_out = [
        (line["step"], line["bits_per_character"])
        for line in lines
        if line.get("bits_per_character") is not None
    ]
    figure = Figure(figsize=(8, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for bits in others.values():
        axes.axhline(bits, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(steps, loss, color=TRAINING, alpha=0.3, linewidth=0.8)
    axes.plot(steps, smooth, color=TRAINING, linewidth=1.8)
    axes.plot(*zip(*held_out, strict=True), "o-", color=VALIDATION, linewidth=1.8, markersize=4)
    axes.set_xlim(0, max(steps))
    axes.set_ylim(0, 1.05 * max(*others.values(), *(bits for bits in loss if bits == bits)))
    labels = [(bits, name, INK) for name, bits in others.items()]
    labels += [(smooth[-1], "training", TRAINING), (held_out[-1][1], "held out", VALIDATION)]
    labels.sort(key=lambda label: label[0])
    top = axes.get_ylim()[1]
    places = spread([bits / top for bits, _, _ in labels], LABELS_APART)
    line = {"arrowstyle": "-", "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 0}
    for (bits, name, colour), place in zip(labels, places, strict=True):
        axes.annotate(
            f"{name}  {bits:.2f}",
            (1, bits),
            xycoords=("axes fraction", "data"),
            xytext=(1.03, place),
            textcoords="axes fraction",
            arrowprops=line | {"color": colour},
            va="center",
            fontsize=9,
            color=colour,
        )
    axes.set_xlabel("step")
    axes.set_ylabel("bits per character")
    axes.set_title(f"Loss of {path.parent.name}", loc="left", fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return path


def running_mean(values: list[float], reach: int) -> list[float]:
    """Each value averaged with `reach` neighbours on both sides, fewer at the ends, without nan."""
    means = []
    for i in range(len(values)):
        near = min(reach, i)  # nothing that comes later drags the first value down
        finite = [value for value in values[i - near : i + near + 1] if value == value]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def spread(places: list[float], apart: float) -> list[float]:
    """Rising places moved so that neighbours are at least `apart`."""
    up, down = [places[0]], [places[-1]]
    for place in places[1:]:
        up.append(max(place, up[-1] + apart))
    for place in places[-2::-1]:
        down.append(min(place, down[-1] - apart))
    # Both are far enough apart, so their mean is, and it stays nearer to where they were.
    return [(a + b) / 2 for a, b in zip(up, reversed(down), strict=True)]
