"""Start worker processes, in bubblewrap where that is wanted, and speak with them block by block.

Imports no torch: a class run starts its workers first, and they load theirs while it loads its own.
"""

import contextlib
import functools
import os
import select
import shutil
import struct
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from llmr_ref.grading.scratch import ScratchFolder

HERE = Path(__file__).parent
SCRATCH = "/scratch"  # the one writable folder in the sandbox
START_SECONDS = 120.0
MAX_BLOCK = (64 << 20) + 16  # bytes; what runner.py lets through, and a frame's own


class Line:
    """Two pipes to one of the servers in a worker process."""

    def __init__(self, to_worker: int, from_worker: int) -> None:
        self.to_worker, self.from_worker = to_worker, from_worker
        self._greeted = False
        self._unread = bytearray()

    def greet(self) -> None:
        """Wait until the server is ready. Raises: OSError or ValueError when it does not get there."""
        if not self._greeted:
            ready = self.receive(time.monotonic() + START_SECONDS)
            if ready != b"ready":
                raise ValueError(f"expected 'ready', got {ready[:40]!r}")
            self._greeted = True

    def send(self, block: bytes) -> None:
        """Raises: OSError when nobody reads."""
        view = memoryview(struct.pack("<I", len(block)) + block)
        while view:
            view = view[os.write(self.to_worker, view) :]

    def receive(self, deadline: float) -> bytes:
        """The next block. Raises: OSError when none comes in time, ValueError for one that is too long."""
        (size,) = struct.unpack("<I", self._read(4, deadline))
        if size > MAX_BLOCK:
            raise ValueError(f"a block of {size} bytes is over the limit")
        return self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        while len(self._unread) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.from_worker], [], [], left)[0]:
                raise OSError("no answer in time")
            chunk = os.read(self.from_worker, 1 << 16)
            if not chunk:
                raise OSError("it ended without an answer")
            self._unread += chunk
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def close(self) -> None:
        """Hang up: the server ends."""
        for fd in (self.to_worker, self.from_worker):
            with contextlib.suppress(OSError):
                os.close(fd)


class WorkerProcess:
    """A worker process with torch loaded once, and a server in it for each of its lines."""

    def __init__(self, tier: int, lines: int = 1) -> None:
        """Raises: OSError when the process cannot be made."""
        self._scratch = ScratchFolder()
        self._errors = open(Path(self._scratch.name) / "stderr", "w+b")  # noqa: SIM115 - lives as long
        pairs = [(*os.pipe(), *os.pipe()) for _ in range(lines)]
        self.lines = [Line(to_worker, from_worker) for _, to_worker, from_worker, _ in pairs]
        theirs = [(requests, replies) for requests, _, _, replies in pairs]
        arguments = ["--lines", *(f"{requests},{replies}" for requests, replies in theirs)]
        try:
            self._process = self._start(tier, arguments, [fd for pair in theirs for fd in pair])
        except BaseException:
            for line in self.lines:
                line.close()
            self._errors.close()
            self._scratch.cleanup()
            raise
        finally:
            for fd in (fd for pair in theirs for fd in pair):
                os.close(fd)

    def _start(self, tier: int, arguments: list[str], fds: list[int]) -> subprocess.Popen[bytes]:
        python = [sys.executable, "-u"]
        if tier == 2:
            command = bubblewrap_command(*python, "/sandbox/worker.py", "--isolate", *arguments)
            environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
        else:
            command = [*python, str(HERE / "worker.py"), *arguments]
            environment = worker_environment(str(HERE / "stand_in"), self._scratch.name)
            for fonts in matplotlib_font_lists():
                shutil.copy(fonts, self._scratch.name)
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors,
            env=environment, cwd=self._scratch.name, start_new_session=True, pass_fds=fds,
        )  # fmt: skip

    def running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """The end of what it wrote on standard error."""
        self._errors.seek(0)
        return self._errors.read()[-500:].decode(errors="replace").strip()

    def close(self) -> None:
        """End the process and everything in it."""
        self._process.kill()
        self._process.wait()
        for line in self.lines:
            line.close()
        self._errors.close()
        self._scratch.cleanup()


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
