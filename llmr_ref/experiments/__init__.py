"""Experiments of the book: each answers one question, over several seeds, and leaves a small file.

`llmr experiment NAME` runs one and writes book/results/NAME.json; the chapters plot what is stored there,
and the build never runs one. A file names seeds, versions and seconds of computing. What is there of an
interrupted run is kept, seed by seed.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"


@dataclass(frozen=True)
class Experiment:
    """A question, and what answers it for one seed as a JSON value. settings: all that fixes the answer."""

    name: str
    question: str
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    run: Callable[..., Any]  # run(seed, **settings)

    def carry_out(
        self, folder: Path = RESULTS, *, say: Callable[[str], object] = print
    ) -> dict[str, Any]:
        """Run every seed that the stored file lacks, and return the whole. One thread, so that the machine
        decides as little as possible."""
        path = folder / f"{self.name}.json"
        stored = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        kept = stored.get("results", {}) if stored.get("settings") == self.settings else {}
        seconds = stored.get("seconds", 0.0) if kept else 0.0
        torch.set_num_threads(1)
        for seed in self.seeds:
            if str(seed) in kept:
                continue
            say(f"{self.name}: seed {seed}")
            started = time.process_time()
            kept[str(seed)] = _rounded(self.run(seed, **self.settings))
            seconds += time.process_time() - started
            stored = {
                "experiment": self.name,
                "question": self.question,
                "settings": self.settings,
                "seconds": round(seconds),
                "date": date.today().isoformat(),
                "versions": {"python": platform.python_version(), "torch": version("torch")},
                "machine": f"{platform.machine()}, one thread of {os.cpu_count()}",
                "results": kept,
            }
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(stored, indent=1, allow_nan=False) + "\n", "utf-8")
            part.replace(path)
        return stored


def result(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """What is stored of an experiment; `results` maps each seed, as text, to its answer.

    Raises: FileNotFoundError that says how to make it.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; make it with `llmr experiment {name}`.")
    stored: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return stored


def over_seeds(name: str, *keys: Any, folder: Path = RESULTS) -> torch.Tensor:
    """One value, or curve, of every seed, stacked: shape (seeds, ...)."""
    values = []
    for answer in result(name, folder)["results"].values():
        for key in keys:
            answer = answer[key]
        values.append(answer)
    return torch.tensor(values)


def largest_difference(one: Any, other: Any) -> float:
    """Between the numbers of two answers of one shape; infinite where the shapes differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = list(zip(one, other, strict=True))
    elif isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other)
    else:
        return math.inf
    return max((largest_difference(a, b) for a, b in pairs), default=0.0)


def draw_over_seeds(
    panel: Any,
    x: Sequence[float] | torch.Tensor,
    values: torch.Tensor,
    label: str,
    style: str = "-",
) -> None:
    """Plot a curve's mean over seeds, and a band from the least to the largest.

    panel: matplotlib Axes; x: shape (points,); values: shape (seeds, points).
    """
    (line,) = panel.plot(x, values.mean(0), style, label=label)
    low, high = values.amin(0), values.amax(0)
    panel.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _rounded(tree: Any) -> Any:
    """Five digits of every number: more are noise, and files stay small."""
    if isinstance(tree, float):
        return float(f"{tree:.5g}")
    if isinstance(tree, dict):
        return {str(k): _rounded(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_rounded(v) for v in tree]
    return tree
