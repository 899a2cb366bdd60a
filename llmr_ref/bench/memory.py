"""Peak memory of a process that generates with the larger model; for training see `training`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from llmr_ref.bench.harness import Comparison, measured, peak_memory, print_peak, use_given_threads
from llmr_ref.bench.peers import hugging_face

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
            peaks[name].append(peak_memory(__name__, name))
    from llmr_ref.bench.generation import NEW, PROMPT, WORKS

    yield measured(
        f"peak memory of a process that generates {PROMPT} + {NEW} tokens, {WORKS[LARGER].name}",
        peaks,
        baseline="Hugging Face",
        targets={"generate": 1 / 0.78},
        unit="MB",
    )


def generate_once(name: str) -> None:
    """What one of those processes does; each builds its own model, with random weights.

    Raises: KeyError for a name that is not a competitor.
    """
    from llmr_ref.bench import generation as bench

    use_given_threads()
    work = bench.WORKS[LARGER]

    def ours() -> None:
        from llmr_ref.generation import generate
        from llmr_ref.transformer import Transformer

        model = Transformer(work.config())
        generate(model, work.prompt("cpu"), max_new_tokens=bench.NEW, temperature=0)

    def theirs() -> None:
        model = hugging_face(work.config(), "cpu").eval()
        bench.generate_by_hugging_face(model, work.prompt("cpu"))

    competitors: dict[str, Callable[[], None]] = {"generate": ours, "Hugging Face": theirs}
    competitors[name]()
    print_peak()


if __name__ == "__main__":
    generate_once(sys.argv[1])
