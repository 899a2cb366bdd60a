"""The trusted side of the worker: start it, send calls, receive values; and what protects from what.

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
import select
import shutil
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmr_ref.grading import runner
from llmr_ref.grading.foreign_text import clean
from llmr_ref.grading.scratch import ScratchFolder

HERE = Path(__file__).parent
SCRATCH = "/scratch"  # the one writable folder in the sandbox
START_SECONDS = 120.0
MAX_CELL_ERRORS = 100
SPARE_SECONDS = 120.0  # beyond a job's own limit, before the worker itself is given up


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one exercise of one submission may use. Waiting for a free core is no wall time."""

    wall_seconds: float = 20.0
    cpu_seconds: int = 15
    memory_bytes: int = 1 << 30
    output_bytes: int = runner.MAX_BYTES
    scratch_bytes: int = 32 << 20
    file_bytes: int = 16 << 20
    processes: int = 64


@dataclasses.dataclass
class Ran:
    """What came back: one outcome per call, cells that raised, and the limit that ended it, if any."""

    outcomes: list[dict[str, Any]]
    cell_errors: list[dict[str, Any]]
    ended: str
    stuck_cell: int | None


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


EMPTY_CALL: dict[str, Any] = {
    "args": (), "kwargs": {}, "init": None, "state": None, "cotangent": None
}  # fmt: skip


_of_thread = threading.local()


def shared_worker(tier: int) -> "Worker":
    """The calling thread's own worker, started when it first runs something: torch is imported once."""
    worker: Worker | None = getattr(_of_thread, "worker", None)
    if worker is None or worker.tier != tier:
        if worker is not None:
            worker.close()
        worker = _of_thread.worker = Worker(tier=tier)
    return worker


def leave_shared_worker() -> None:
    """In a forked process: the worker is the parent's, which alone may use it or end it."""
    # Kept: the end of this object would remove the worker's folder.
    _of_thread.parents = getattr(_of_thread, "worker", None)
    _of_thread.worker = None


def close_shared_worker() -> None:
    """End the calling thread's own worker, if it has one."""
    worker: Worker | None = getattr(_of_thread, "worker", None)
    if worker is not None:
        worker.close()


@functools.cache
def matplotlib_font_lists() -> list[Path]:
    """Matplotlib's list of the system's fonts, which every worker would otherwise spend seconds on."""
    import matplotlib

    def found() -> list[Path]:
        return sorted(Path(matplotlib.get_cachedir()).glob("fontlist-*.json"))

    if not found():
        import matplotlib.font_manager  # writes the list on its first import
    return found()


def bubblewrap_command(*arguments: str) -> list[str]:
    """bwrap with Python and its packages read-only, and nothing of the course or of this package."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    for name, value in worker_environment("/sandbox/stand_in", SCRATCH).items():
        command += ["--setenv", name, value]
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        path = Path(folder)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), folder]
        elif path.is_dir():
            command += ["--ro-bind", folder, folder]
    for file in ("/etc/ld.so.cache", "/etc/fonts", "/etc/alternatives"):
        command += ["--ro-bind-try", file, file]
    prefixes = {
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).resolve().parent.parent,
    }
    for prefix in sorted(prefixes):
        if not prefix.is_relative_to("/usr"):
            command += ["--ro-bind", str(prefix), str(prefix)]
    installed = Path(sysconfig.get_paths()["purelib"]) / "llmr_ref"
    if installed.is_dir():
        command += ["--tmpfs", str(installed)]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", SCRATCH, "--chdir", SCRATCH]
    for name in ("worker.py", "runner.py", "seccomp.py", "shell.py", "stand_in"):
        command += ["--ro-bind", str(HERE / name), f"/sandbox/{name}"]
    for fonts in matplotlib_font_lists():
        command += ["--ro-bind", str(fonts), f"{SCRATCH}/{fonts.name}"]
    # /dev is a file system of its own: left writable, one submission could leave files for the next.
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", *arguments]


def worker_environment(stand_in: str, scratch: str) -> dict[str, str]:
    """The whole environment of student code: nothing of the instructor's passes."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "PYTHONPATH": stand_in,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MPLCONFIGDIR": scratch,
        "IPYTHONDIR": f"{scratch}/ipython",
    }


class Worker:
    """A worker process with torch loaded. One job at a time; a broken one is replaced on the next job."""

    def __init__(self, *, tier: int, limits: Limits | None = None) -> None:
        if tier not in (1, 2):
            raise ValueError(f"a worker has tier 1 (process) or 2 (bubblewrap), got {tier}")
        self.tier, self.limits = tier, limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: ScratchFolder | None = None

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
        """Execute the cells in a fresh fork, then call what they define as `name`.

        graded: more calls, which the code is given only when the outcomes of `calls` are sent. What comes
        after may tell about them, so it becomes outcomes of `graded` and nothing else.
        Raises: SandboxError when the worker itself fails; a student's fault is never an exception.
        """
        ended, frames = self._job(cells, name, calls, graded, self.limits)
        return _read_frames(frames, ended, name, len(cells), len(calls), len(graded), self.limits)

    def show(self, cells: Sequence[str | None], limits: Limits) -> tuple[str, list[bytes]]:
        """Run the cells as a notebook in a fresh fork: how it ended, and the untrusted frames of it.

        Raises: SandboxError when the worker itself fails.
        """
        return self._job(cells, None, (), (), limits)

    def _job(
        self,
        cells: Sequence[str | None],
        name: str | None,
        calls: Sequence[dict[str, Any]],
        graded: Sequence[dict[str, Any]],
        limits: Limits,
    ) -> tuple[str, list[bytes]]:
        job = {
            "cells": list(cells),
            "name": name,
            "calls": list(calls),
            "limits": dataclasses.asdict(limits),
        }
        try:
            self._start()
            self._send(runner.encode(job))
            self._send(runner.encode(list(graded)))
            deadline = time.monotonic() + limits.wall_seconds + SPARE_SECONDS
            summary = json.loads(self._receive(deadline))
            return str(summary["ended"]), [
                self._receive(deadline) for _ in range(summary["frames"])
            ]
        except (OSError, ValueError, KeyError) as error:
            self.close()
            raise SandboxError(f"the worker failed: {error}") from error

    def close(self) -> None:
        """End the worker and everything in it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._scratch = ScratchFolder()
        arguments = [sys.executable, "-u"]
        if self.tier == 2:
            command = bubblewrap_command(*arguments, "/sandbox/worker.py", "--isolate")
            environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
        else:
            command = [*arguments, str(HERE / "worker.py")]
            environment = worker_environment(str(HERE / "stand_in"), self._scratch.name)
            for fonts in matplotlib_font_lists():
                shutil.copy(fonts, self._scratch.name)
        errors = open(Path(self._scratch.name) / "stderr", "w+b")  # noqa: SIM115 - lives with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env=environment, cwd=self._scratch.name, start_new_session=True,
        )  # fmt: skip
        try:
            ready = self._receive(time.monotonic() + START_SECONDS)
        except OSError as error:
            errors.seek(0)
            said = errors.read()[-500:].decode(errors="replace").strip()
            raise OSError(f"it did not start ({error}): {said}") from error
        finally:
            errors.close()
        if ready != b"ready":
            raise ValueError(f"expected 'ready', got {ready[:40]!r}")

    def _send(self, block: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(struct.pack("<I", len(block)) + block)
        self._process.stdin.flush()

    def _receive(self, deadline: float) -> bytes:
        (size,) = struct.unpack("<I", self._read(4, deadline))
        if size > runner.MAX_BYTES + 16:
            raise ValueError(f"a block of {size} bytes is over the limit")
        return self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        fd = self._process.stdout.fileno()
        data = bytearray()
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise OSError("no answer in time")
            chunk = os.read(fd, size - len(data))
            if not chunk:
                raise OSError("it ended without an answer")
            data += chunk
        return bytes(data)


def _read_frames(
    frames: list[bytes],
    ended: str,
    name: str,
    n_cells: int,
    n_calls: int,
    n_graded: int,
    limits: Limits,
) -> Ran:
    """Turn untrusted frames into outcomes; calls without a valid one get the reason as theirs."""
    outcomes: dict[int, dict[str, Any]] = {}
    cell_errors: list[dict[str, Any]] = []
    current_cell: int | None = None
    stage = "cells"
    for frame in frames:
        kind, rest = frame[:1], frame[1:]
        try:
            if kind == b"C" and stage == "cells":
                (number,) = struct.unpack("<I", rest)
                current_cell = number if number < n_cells else current_cell
            elif kind == b"E" and stage == "cells":
                said = json.loads(rest)
                cell_errors.append(
                    {"cell": int(said["cell"]), "type": clean(said["type"], 80),
                     "message": clean(said["message"], 500)}
                )  # fmt: skip
            elif frame == b"T" and stage == "cells":
                current_cell, stage = None, "calls"
            elif frame == b"G":
                current_cell, stage = None, "graded"
            elif kind == b"R":
                (number,) = struct.unpack("<I", rest[:4])
                due = range(n_calls) if stage != "graded" else range(n_calls, n_calls + n_graded)
                if number in due and number not in outcomes:
                    outcomes[number] = _checked(runner.decode(rest[4:]))
        except Exception:
            continue  # not what our runner writes: the call stays without an outcome
    if ended == "done" and len(outcomes) < n_calls + n_graded:
        ended = "early exit"
    reason = {
        "status": "error",
        "type": "Limit",
        "message": explain(ended, name, limits),
        "line": None,
    }
    return Ran(
        outcomes=[outcomes.get(i, reason) for i in range(n_calls + n_graded)],
        cell_errors=cell_errors[:MAX_CELL_ERRORS],
        ended=ended,
        stuck_cell=current_cell if ended != "done" else None,
    )


def _checked(outcome: Any) -> dict[str, Any]:
    """The outcome if it has the fields that `run_call` gives. Raises: ValueError or TypeError if not."""
    if outcome["status"] == "ok":
        fields = {"status": str, "arguments": dict, "gradients": dict}
        state = outcome["state"]
        if state is not None and not all(
            type(shape) is list and all(type(n) is int for n in shape) for shape in state.values()
        ):
            raise ValueError("state")
        _ = outcome["value"]
    elif outcome["status"] == "error":
        fields = {"type": str, "message": str}
        line = outcome["line"]
        if line is not None and not (type(line) is int and 0 < line < 10**6):
            raise ValueError("line")
        outcome["type"] = clean(outcome["type"], 80)
        outcome["message"] = clean(outcome["message"], runner.MAX_TEXT)
    else:
        raise ValueError("status")
    for field, kind in fields.items():
        if type(outcome[field]) is not kind:
            raise ValueError(field)
    return outcome


def explain(ended: str, name: str, limits: Limits) -> str:
    """Why calls have no result, for the card."""
    reasons = {
        "early exit": f"`{name}` ended the process or its results were not readable",
        "wall time": f"no answer within {limits.wall_seconds:g} s: is there a loop that never ends?",
        "cpu time": f"more than {limits.cpu_seconds} s of computing: is there a loop that never ends?",
        "output size": f"more than {limits.output_bytes >> 20} MB of results",
        "threads": f"more than {limits.processes} threads at once",
    }
    return reasons.get(ended, f"the process {ended}")
