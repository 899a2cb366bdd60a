"""Results ahead of nbgrader: computed in processes of this machine, or on a cluster that runs dask.

Work goes out as text and comes back as text; nothing here knows the course secret or the gradebook. What
does not come back is computed by nbgrader's own run, so no failure here changes a score.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import util
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import Synchronized
from typing import Any, TypeVar

import torch

from llmr_ref.grading.engine import do_text
from llmr_ref.grading.launch import Line
from llmr_ref.grading.sandbox import Worker, close_shared_worker, grading_tier, share_worker

Result = TypeVar("Result")
ATTEMPTS = 3  # with new processes, when one was killed
CONNECT_SECONDS = 30

log = logging.getLogger(__name__)


class Processes:
    """Processes of this machine, each with a sandboxed worker of its own; killed ones are replaced.

    lines: to servers in a worker that the caller has started and will end, for the first processes.
    """

    def __init__(self, number: int, lines: Sequence[Line] = ()) -> None:
        self.number = number
        self._pool = self._new(lines)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:  # interrupted: nobody waits for an endless loop to reach its limit
            for process in multiprocessing.active_children():
                process.terminate()

    def _new(self, lines: Sequence[Line] = ()) -> ProcessPoolExecutor:
        # A fork has every import already, but only a process with one thread can be forked safely.
        alone = sys.platform == "linux" and threading.active_count() == 1
        context = multiprocessing.get_context("fork" if alone else "spawn")
        arguments = (lines if alone else (), context.Value("i", 0))
        pool = ProcessPoolExecutor(
            self.number, mp_context=context, initializer=_begin, initargs=arguments
        )
        pool.submit(
            os.getpid
        )  # they are forked with the first call, so now, before there are threads
        return pool

    def tier(self) -> tuple[int, str]:
        """The tier that these processes grade in, and why. Raises: RuntimeError when it is too weak."""
        started = [self._pool.submit(grading_tier) for _ in range(self.number)]
        return started[0].result()

    def each(
        self, function: Callable[..., Result], calls: Mapping[str, tuple[Any, ...]]
    ) -> Iterator[tuple[str, Result]]:
        """The function's results as they come, by name; those that fail are left out, with a warning."""
        left = dict(calls)
        for _ in range(ATTEMPTS):
            try:
                futures = {self._pool.submit(function, *left[name]): name for name in left}
                for future in as_completed([*futures]):
                    name = futures.pop(future)  # and with it the result, once it is handed on
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    del left[name]
                    if error is None:
                        yield name, future.result()
                    else:
                        log.warning("%s: %r", name, error)
                return
            except BrokenProcessPool:  # by the machine, short of memory: student code cannot
                log.warning("A process was killed; its work is done again.")
                self._pool.shutdown(wait=False)
                self._pool = self._new()


def _begin(lines: Sequence[Line], begun: "Synchronized[int]") -> None:
    """In a new process: Ctrl-C is for the parent, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end())
    torch.set_num_threads(1)
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    mine = lines[number] if number < len(lines) else None
    for line in lines:
        if line is not mine:
            line.close()
    share_worker(Worker(tier=2, line=mine) if mine else None)
    util.Finalize(None, close_shared_worker, exitpriority=100)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _end() -> None:
    close_shared_worker()
    os._exit(1)


def on_cluster(address: str, texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What `do_text` makes of the texts on the dask cluster at `address`, as it comes.

    A worker of the cluster that dies costs time only: its work goes to another one.
    Raises: RuntimeError when there is no such scheduler.
    """
    from distributed import Client
    from distributed import as_completed as as_they_come

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise RuntimeError(
            f"there is no dask scheduler at {address}: {error}. Start one with `dask scheduler`, "
            "and on each machine with this package `dask worker ADDRESS`."
        ) from error
    with client:
        futures = {client.submit(do_text, text, pure=False, retries=ATTEMPTS): name
                   for name, text in texts.items()}  # fmt: skip
        for future in as_they_come(list(futures), loop=client.loop):
            name = futures[future]
            if future.status == "finished":
                yield name, future.result()
            else:
                log.warning("%s: %r", name, future.exception())
            future.release()
