"""What every test shares: reproducible examples, one torch thread, a plain word about CUDA."""

import sys

import pytest
from hypothesis import settings

# The same examples on every machine, no example database and no deadline (the machine may be busy).
# Search for new ones with: pytest --hypothesis-profile=explore
settings.register_profile("deterministic", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("deterministic")

GPU_SKIPPED = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch := sys.modules.get("torch"):
        # The tensors here are small: a second thread costs more than it gives, and one thread adds
        # up floats in the same order every time.
        torch.set_num_threads(1)
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if torch.cuda.is_available():
        return
    config.stash[GPU_SKIPPED] = len(gpu_items)
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="needs CUDA, and torch finds no CUDA device here"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if skipped := config.stash.get(GPU_SKIPPED, 0):
        terminalreporter.write_line(
            f"{skipped} tests marked gpu were SKIPPED: torch finds no CUDA device here. "
            "Run `pytest -m gpu` on a machine that has one.",
            yellow=True,
        )
