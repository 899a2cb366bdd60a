"""`llmr bench reference`: every comparison of the reference with its peers, in one run."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Sequence

import torch
from rich.console import Console

from llmr_ref.bench import harness

TOPICS = ("training", "generation", "memory", "tokenizer", "sampling", "rotary")
THREADS = 2


def main(*, device: str = "cpu", rounds: int = 7, only: Sequence[str] = ()) -> int:
    """Run the topics and print their tables; 0 if every wanted ratio was reached, else 1.

    Raises: RuntimeError for a device that is not there; ValueError for an unknown topic or fewer
    rounds than a median needs.
    """
    unknown = set(only) - set(TOPICS)
    if unknown:
        raise ValueError(f"no topic {sorted(unknown)}; there are {', '.join(TOPICS)}")
    if rounds < 3:
        raise ValueError(f"rounds must be at least 3, got {rounds}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            "this machine has no CUDA device: the benchmarks on CUDA did not run. "
            "Without --device they run on the CPU."
        )
    torch.set_num_threads(THREADS)
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(THREADS)
    console = Console()
    console.print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, {THREADS} threads "
        f"for every competitor, the system's allocator, {rounds} interleaved rounds, device {device}."
    )
    missed = []
    for topic in only or TOPICS:
        module = importlib.import_module(f"llmr_ref.bench.{topic}")
        load = harness.load_of_others()
        console.print(f"\n[bold]{topic}[/] (other processes keep {load:.1f} cores busy)")
        for comparison in module.run(rounds=rounds, device=device):
            harness.show(comparison, console)
            missed += [
                f"{comparison.title}: {row.name} {row.ratio:.2f}x of {row.target:.2f}x"
                for row in comparison.rows
                if row.reached is False
            ]
    for line in missed:
        console.print(f"[red]not reached[/] {line}")
    return 1 if missed else 0
