"""Time competitors in turn, round after round, so that a machine that slows down slows all of them."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One competitor: its values over the rounds, and how many times better than the baseline."""

    name: str
    values: list[float]
    ratio: float
    target: float | None  # what `ratio` should reach

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target


@dataclass(frozen=True)
class Comparison:
    """Competitors on one piece of work. A ratio above 1 is better than the baseline."""

    title: str
    unit: str
    baseline: str
    rows: list[Row] = field(default_factory=list)


def compare(
    title: str,
    competitors: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    targets: Mapping[str, float] | None = None,
    rounds: int = 7,
    warmup: int = 1,
    device: str = "cpu",
) -> Comparison:
    """Run every competitor once a round, in an order that rotates; seconds per run.

    The ratio is the baseline's median over the competitor's.
    Raises: KeyError for a baseline or a target that is not among the competitors.
    """
    names = list(competitors)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, rounds):
        gc.collect()
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            elapsed = _timed(competitors[name], device)
            if turn >= 0:
                seconds[name].append(elapsed)
    return measured(title, seconds, baseline=baseline, targets=targets)


def measured(
    title: str,
    values: Mapping[str, list[float]],
    *,
    baseline: str,
    targets: Mapping[str, float] | None = None,
    unit: str = "s",
    bigger_is_better: bool = False,
) -> Comparison:
    """A comparison of values that were measured elsewhere: memory, processes, rates.

    Raises: KeyError for a baseline or a target that is not among the values.
    """
    targets = dict(targets or {})
    unknown = {baseline, *targets} - set(values)
    if unknown:
        raise KeyError(f"{title}: no competitor is named {sorted(unknown)}")
    base = statistics.median(values[baseline])
    rows = []
    for name, own in values.items():
        ratio = base / statistics.median(own)
        rows.append(Row(name, own, 1 / ratio if bigger_is_better else ratio, targets.get(name)))
    return Comparison(title, unit, baseline, rows)


def _timed(run: Callable[[], object], device: str) -> float:
    gc.disable()  # one competitor's garbage must not be collected on another's time
    try:
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        return time.perf_counter() - start
    finally:
        gc.enable()


def synchronize(device: str) -> None:
    """Wait for what was queued: a CUDA kernel returns before it has run."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_memory(module: str, name: str) -> float:
    """MB at the peak of a process of its own that runs `module` with `name`: a peak never comes down.

    The module calls `use_given_threads` first and `print_peak` last.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, name],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LLMR_BENCH_THREADS": str(torch.get_num_threads())},
    )
    return float(done.stdout.split()[-1])


def use_given_threads() -> None:
    """As many threads as the process that started this one."""
    torch.set_num_threads(int(os.environ.get("LLMR_BENCH_THREADS", "2")))


def print_peak() -> None:
    """This process's peak in MB, for `peak_memory`."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands getrusage's peak on to the processes that a process starts
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        print(int(line.split()[1]) / 1024)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)  # bytes on macOS


def load_of_others(sample: float = 0.5) -> float:
    """Cores that other processes keep busy right now, from the processor's own counters."""
    import psutil

    own = psutil.Process()
    before = own.cpu_times()
    busy = psutil.cpu_percent(interval=sample) / 100 * (os.cpu_count() or 1)
    after = own.cpu_times()
    ours = (after.user + after.system - before.user - before.system) / sample
    return max(0.0, busy - ours)


def show(comparison: Comparison, console: Console) -> None:
    """Print one comparison: median, lowest and highest value, ratio, target, reached or not."""
    table = Table(title=comparison.title, title_justify="left")
    for column in ("", "median", "min", "max", f"against {comparison.baseline}", "wanted", ""):
        table.add_column(column, justify="left" if not column else "right")
    for row in comparison.rows:
        verdict = {None: "", True: "[green]reached[/]", False: "[red]not reached[/]"}[row.reached]
        table.add_row(
            row.name,
            *(_format(value, comparison.unit) for value in (row.median, min(row.values))),
            _format(max(row.values), comparison.unit),
            f"{row.ratio:.2f}x",
            "" if row.target is None else f"{row.target:.2f}x",
            verdict,
        )
    console.print(table)


def _format(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.4g} {unit}"
