"""Peak memory of a process that generates with the larger model; for training see `training`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import torch

from llmr_ref.bench.harness import Comparison, measured

# One prompt: with many the cache outweighs all else, and everybody has the same.
LARGER = 2


def run(*, rounds: int, device: str) -> Iterator[Comparison]:
    """MB at the peak, three processes each; nothing on CUDA, where the process is not what fills up."""
    if device != "cpu":
        return
    names = ("Hugging Face", "generate")
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(3):
        for name in names:
            peaks[name].append(peak_memory(name))
    from llmr_ref.bench.generation import NEW, PROMPT, WORKS

    yield measured(
        f"peak memory of a process that generates {PROMPT} + {NEW} tokens, {WORKS[LARGER].name}",
        peaks,
        baseline="Hugging Face",
        targets={"generate": 1 / 0.78},
        unit="MB",
    )


def peak_memory(name: str) -> float:
    """MB at the peak of a process of its own: a peak never comes down."""
    done = subprocess.run(
        [sys.executable, "-m", "llmr_ref.bench.memory", name],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LLMR_BENCH_THREADS": str(torch.get_num_threads())},
    )
    return float(done.stdout.split()[-1])


def generate_once(name: str) -> None:
    """What one of those processes does; each builds its own model, with random weights.

    Raises: KeyError for a name that is not a competitor.
    """
    from llmr_ref.bench import generation as bench

    torch.set_num_threads(int(os.environ.get("LLMR_BENCH_THREADS", "2")))
    work = bench.WORKS[LARGER]

    def ours() -> None:
        from llmr_ref.generation import generate
        from llmr_ref.transformer import Transformer

        model = Transformer(work.config())
        generate(model, work.prompt("cpu"), max_new_tokens=bench.NEW, temperature=0)

    def theirs() -> None:
        bench.generate_by_hugging_face(bench.hugging_face(work, "cpu"), work.prompt("cpu"))

    competitors: dict[str, Callable[[], None]] = {"generate": ours, "Hugging Face": theirs}
    competitors[name]()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    generate_once(sys.argv[1])
