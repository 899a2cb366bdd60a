"""The trusted side of the worker: send it calls, receive values; and what protects from what.

Tier 2: the worker lives in bubblewrap. It sees Python and its packages read-only, an empty scratch
folder, no network, no process but its own, neither the course nor this package; and each submission is
isolated once more from the worker. Tier 1: the same protocol with a plain subprocess: the score is
still decided here, but hostile code could read files, use the network or disturb other processes.
Tier 0: stock nbgrader, everything in the student's kernel.
"""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from llmr_ref.grading import runner
from llmr_ref.grading.frames import Limits, Ran, read_frames
from llmr_ref.grading.launch import Line, WorkerProcess

SPARE_SECONDS = 120.0  # beyond a job's own limit, before the worker itself is given up
EMPTY_CALL: dict[str, Any] = {
    "args": (), "kwargs": {}, "init": None, "state": None, "cotangent": None
}  # fmt: skip


class SandboxError(RuntimeError):
    """The worker could not be started or does not answer."""


_found_before: list[tuple[int, str]] = []


@contextlib.contextmanager
def tier_is_known(tier: int, reason: str) -> Iterator[None]:
    """Take over what another process of this machine found, rather than start a worker to find it."""
    _found_before[:] = [(tier, reason)]
    available_tier.cache_clear()
    try:
        yield
    finally:
        _found_before.clear()
        available_tier.cache_clear()


@functools.cache
def available_tier() -> tuple[int, str]:
    """The strongest tier that works on this machine, and why it is not stronger."""
    if _found_before:
        return _found_before[0]
    if sys.platform != "linux":
        return 1, "bubblewrap exists only for Linux"
    if shutil.which("bwrap") is None:
        return 1, "bubblewrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)"
    worker = shared_worker(2)
    try:
        ended = worker.run(["answer = lambda: 1"], "answer", [EMPTY_CALL]).ended
    except SandboxError as error:
        return 1, f"bubblewrap is installed but does not work here: {error}"
    if ended != "done":  # it starts, but cannot isolate one submission from the next
        return 1, f"bubblewrap is installed but does not work here: the process {ended}"
    return 2, "bubblewrap works"


def grading_tier() -> tuple[int, str]:
    """The tier in use and why. Raises: RuntimeError when it is weaker than LLMR_LOWEST_TIER (2) allows."""
    lowest = os.environ.get("LLMR_LOWEST_TIER", "2")
    if lowest not in ("1", "2"):
        raise RuntimeError(f"LLMR_LOWEST_TIER is {lowest!r}; set it to 1 or 2, or leave it unset.")
    tier, reason = available_tier()
    if tier < int(lowest):
        raise RuntimeError(
            f"grading tier {lowest} is required but only tier {tier} is available: {reason}. "
            "Install what is missing, or set LLMR_LOWEST_TIER=1 to grade without the sandbox."
        )
    return tier, reason


_of_thread = threading.local()


def shared_worker(tier: int) -> "Worker":
    """The calling thread's own worker, started when it first runs something: torch is imported once."""
    worker: Worker | None = getattr(_of_thread, "worker", None)
    if worker is None or worker.tier != tier:
        if worker is not None:
            worker.close()
        worker = _of_thread.worker = Worker(tier=tier)
    return worker


def share_worker(worker: "Worker | None") -> None:
    """In a new process: this is the calling thread's worker from now on. What was is the parent's."""
    _of_thread.parents = getattr(_of_thread, "worker", None)  # kept: its end would end the parent's
    _of_thread.worker = worker


def close_shared_worker() -> None:
    """End the calling thread's own worker, if it has one."""
    worker: Worker | None = getattr(_of_thread, "worker", None)
    if worker is not None:
        worker.close()


@dataclasses.dataclass(frozen=True)
class Check:
    """Calls of what is called `name` once the first `at` cells have run.

    graded: calls that the code is given only when the outcomes of all `calls` are sent. What comes after
    may tell about them, so it becomes outcomes of `graded` and nothing else.
    """

    at: int
    name: str
    calls: Sequence[dict[str, Any]]
    graded: Sequence[dict[str, Any]] = ()


class Worker:
    """A server in a worker process. One job at a time; a broken one is replaced on the next job.

    line: to a server that somebody else has started and will end; by default it starts a process itself.
    """

    def __init__(
        self, *, tier: int, limits: Limits | None = None, line: Line | None = None
    ) -> None:
        if tier not in (1, 2):
            raise ValueError(f"a worker has tier 1 (process) or 2 (bubblewrap), got {tier}")
        self.tier, self.limits = tier, limits or Limits()
        self._line = line
        self._process: WorkerProcess | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        cells: Sequence[str | None],
        name: str,
        calls: Sequence[dict[str, Any]],
        graded: Sequence[dict[str, Any]] = (),
    ) -> Ran:
        """Execute the cells in a fresh fork, then call what they define as `name`; see `Check`.

        Raises: SandboxError when the worker itself fails; a student's fault is never an exception.
        """
        check = Check(len(cells), name, calls, graded)
        ended, frames = self.job(cells, [check], self.limits, show=False)
        return read_frames(frames, ended, name, len(cells), len(calls), len(graded), self.limits)

    def job(
        self, cells: Sequence[str | None], checks: Sequence[Check], limits: Limits, *, show: bool
    ) -> tuple[str, list[bytes]]:
        """Run the cells in a fresh fork, with the checks in their places: how it ended, its frames.

        show: as a notebook, and with frames of what it shows.
        Raises: SandboxError when the worker itself fails.
        """
        job = {
            "cells": list(cells),
            "show": show,
            "checks": [{"at": c.at, "name": c.name, "calls": list(c.calls)} for c in checks],
            "limits": dataclasses.asdict(limits),
        }
        try:
            line = self._start()
            line.send(runner.encode(job))
            line.send(runner.encode([list(c.graded) for c in checks]))
            deadline = time.monotonic() + limits.wall_seconds + SPARE_SECONDS
            summary = json.loads(line.receive(deadline))
            frames = [line.receive(deadline) for _ in range(summary["frames"])]
            return str(summary["ended"]), frames
        except (OSError, ValueError, KeyError) as error:
            self.close()
            raise SandboxError(f"the worker failed: {error}") from error

    def close(self) -> None:
        """End the process that this worker has started, or hang up."""
        if self._process is not None:
            self._process.close()
        elif self._line is not None:
            self._line.close()
        self._process = self._line = None

    def _start(self) -> Line:
        if self._line is not None:
            if self._process is None or self._process.running():
                with contextlib.suppress(OSError, ValueError):
                    self._line.greet()
                    return self._line
            self.close()
        self._process = WorkerProcess(self.tier)
        self._line = self._process.lines[0]
        try:
            self._line.greet()
        except OSError as error:
            raise OSError(f"it did not start ({error}): {self._process.said()}") from error
        return self._line
