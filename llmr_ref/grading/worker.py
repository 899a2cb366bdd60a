"""The process that runs students' code. Started by sandbox.py, inside bubblewrap where that works.

It imports torch once, then forks a server for each of its lines, and that a fresh child for every job. A
child gets its own process, mount, network and user namespace (when --isolate is given), limits on time,
memory, threads and file size, no way to start processes, and a pipe that takes values only. Nothing here
knows a right answer or decides a score.

Wire, both ways: 4 bytes of length, then that many bytes. Request: `runner.encode` of
{cells: [str], show: bool, checks: [{at: n, name: str, calls: [call]}], limits: {...}}, then of the calls
that are graded, [[call]], in the order of the checks. A check makes its calls before cell `at`; show runs
the cells as a notebook. Reply: JSON line {"ended": ..., "frames": n} then n frames. Frames of a child:
b"C" + cell number (the cell begins), b"E" + JSON (the cell raised), b"O" + JSON (the cell shows something),
b"K" (a check begins), b"R" + call number + encoded outcome, b"T" (the cells are done), b"G" (only now the
child is given the graded calls; its code may have sent this earlier, so whoever reads the frames lets
nothing after it reach the student). Calls are numbered through all checks, those that are graded after all
others.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import struct
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NoReturn

import runner  # type: ignore[import-not-found]  # beside this file in the sandbox
import seccomp  # type: ignore[import-not-found]  # likewise
import shell  # type: ignore[import-not-found]  # likewise
import torch
from IPython.core.inputtransformer2 import TransformerManager

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
LARGE_PAGE, MADV_COLLAPSE = 1 << 21, 25
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2

NOT_SET_UP = "died: the sandbox could not be set up"
MAX_FRAMES = 20_000
LOOK_SECONDS = 0.1  # between two looks at how many threads there are

libc = ctypes.CDLL(None, use_errno=True)


def parse_arguments(arguments: Sequence[str]) -> tuple[bool, list[tuple[int, int]]]:
    """Whether to isolate, and the lines: the file descriptors of requests and replies."""
    isolate = arguments[0] == "--isolate"
    pairs = arguments[arguments.index("--lines") + 1 :]
    return isolate, [(int(a), int(b)) for a, b in (pair.split(",") for pair in pairs)]


def start_server(line: tuple[int, int], lines: Sequence[tuple[int, int]], *, isolate: bool) -> int:
    """Fork a server that sees its own line alone."""
    parent = os.getpid()
    server = os.fork()
    if server == 0:
        call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        for fd in (fd for other in lines if other != line for fd in other):
            os.close(fd)
        requests, replies = line[0], os.fdopen(line[1], "wb")
        replies.write(struct.pack("<I", 5) + b"ready")
        replies.flush()
        serve(requests, replies, isolate=isolate)
        os._exit(0)
    return server


def serve(requests: int, replies: BinaryIO, *, isolate: bool) -> None:
    """Answer requests until the trusted side closes the pipe.

    Each is read by a fork of its own, the keeper: this process, which all later ones are copies of, never
    holds anything of a submission, so none can be found in the memory of another.
    """
    while True:
        select.select([requests], [], [])
        keeper = os.fork()
        if keeper == 0:
            status = 1
            with contextlib.suppress(BaseException):
                call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                answer(requests, replies, isolate=isolate)
                status = 0
            os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1]) != 0:
            return  # the pipe was closed, or the keeper broke down: the trusted side sees an end


def answer(requests: int, replies: BinaryIO, *, isolate: bool) -> None:
    """In the keeper: read one request, run it in a child, reply. Raises: EOFError at the end of the pipe."""
    job = runner.decode(read_block(requests))
    ended, frames = run_job(job, requests, isolate=isolate)
    summary = json.dumps({"ended": ended, "frames": len(frames)}).encode()
    for block in (summary, *frames):
        replies.write(struct.pack("<I", len(block)) + block)
    replies.flush()


def run_job(job: dict[str, Any], requests: int, *, isolate: bool) -> tuple[str, list[bytes]]:
    """Fork, collect the child's frames until it ends or breaks a limit, and make sure that it is gone.

    Returns how it ended ("done", "wall time", "output size", "cpu time", "threads", "died: ...") and its
    frames.
    """
    limits = job["limits"]
    proc = os.open("/proc", os.O_PATH)  # the child hides it from itself, and so from here
    frames_read, frames_write = os.pipe()
    graded_read, graded_write = os.pipe()
    if isolate:
        try:
            enter_namespaces()
        except OSError:
            read_block(requests)
            return NOT_SET_UP, []
    child = os.fork()
    if child == 0:
        become_child(job, frames_write, graded_read, isolate=isolate)
    os.close(frames_write)
    os.close(graded_read)
    # Only now: what the child copied of this process holds no input that it is graded on.
    graded = read_block(requests)
    ended, frames = collect(frames_read, graded_write, graded, limits, f"{child}/stat", proc)
    if ended:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    if not ended:
        ended = how_it_ended(os.waitstatus_to_exitcode(status), began=bool(frames))
        used = usage.ru_utime + usage.ru_stime
        # The kernel ends the process on a clock of its own, a tick or two before this sum is full.
        if ended == "died: SIGKILL" and used >= 0.9 * limits["cpu_seconds"]:
            ended = "cpu time"
    return ended, frames


def collect(
    frames_read: int, graded_write: int, graded: bytes, limits: dict[str, Any], stat: str, proc: int
) -> tuple[str, list[bytes]]:
    """Read the child's frames to their end, the deadline or a limit; says which, "" for the end.

    At the child's first b"G" it is sent the graded calls. Frames after that one may tell about them.
    """
    deadline = time.monotonic() + limits["wall_seconds"]
    data, at = bytearray(), 0
    frames: list[bytes] = []
    unsent = memoryview(b"")
    os.set_blocking(graded_write, False)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            left += starved(stat, proc)
        if left <= 0:
            return "wall time", frames
        writable = [graded_write] if unsent else []
        ready, free, _ = select.select([frames_read], writable, [], min(left, LOOK_SECONDS))
        if threads(stat, proc) > limits["processes"]:
            return "threads", frames
        if free:
            try:
                unsent = unsent[os.write(graded_write, unsent) :]
            except BrokenPipeError:
                unsent = memoryview(b"")
        if not ready:
            continue
        chunk = os.read(frames_read, 1 << 20)
        if not chunk:
            return "", frames
        data += chunk
        if len(data) > limits["output_bytes"]:
            return "output size", frames
        while at + 4 <= len(data):
            (size,) = struct.unpack_from("<I", data, at)
            if at + 4 + size > len(data):
                break  # the rest comes, or is cut off by a limit and dropped
            frames.append(bytes(data[at + 4 : at + 4 + size]))
            at += 4 + size
            if len(frames) > MAX_FRAMES:
                return "output size", frames
            if frames[-1] == b"G" and graded:
                unsent, graded = memoryview(struct.pack("<I", len(graded)) + graded), b""


def threads(stat: str, proc: int) -> int:
    """How many threads the child has; 0 when it is gone.

    The kernel's own limit does not hold for root, and instructors grade in containers.
    """
    try:
        fd = os.open(stat, os.O_RDONLY, dir_fd=proc)
    except OSError:
        return 0
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return 0
    finally:
        os.close(fd)
    return int(fields[17])


def starved(stat: str, proc: int) -> float:
    """Seconds for which the child could have run and had no core: a busy machine's, not its own."""
    try:
        fd = os.open(stat.replace("stat", "schedstat"), os.O_RDONLY, dir_fd=proc)
    except OSError:
        return 0.0
    try:
        return int(os.read(fd, 4096).split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
    finally:
        os.close(fd)


def how_it_ended(code: int, *, began: bool) -> str:
    """The child's exit code in words. The number itself is the student's choice, so it is not told."""
    if code == 70 and not began:
        return NOT_SET_UP
    if code < 0:
        return f"died: {signal.Signals(-code).name}"
    return "done" if code == 0 else "early exit"


def enter_namespaces() -> None:
    """New user, process, mount, network, message and host name spaces for the child to come."""
    uid, gid = os.getuid(), os.getgid()
    call(libc.unshare, CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC
         | CLONE_NEWNET | CLONE_NEWUTS)  # fmt: skip
    write_text("/proc/self/setgroups", "deny")
    write_text("/proc/self/uid_map", f"65534 {uid} 1")
    write_text("/proc/self/gid_map", f"65534 {gid} 1")


def become_child(
    job: dict[str, Any], frames_write: int, graded_read: int, *, isolate: bool
) -> NoReturn:
    """In the fork: shut the doors, run the student's code, end."""
    try:
        os.setsid()  # a group of its own: signals to the group reach nobody else
        call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        close_files(keep=(frames_write, graded_read))
        if isolate:
            shut_the_doors(job["limits"])
        set_limits(job["limits"])
        forbid_new_processes()
        run_student(job, frames_write, graded_read)
        os._exit(0)
    finally:  # only our own set-up can raise here: student code is caught where it is called
        os._exit(70)


def shut_the_doors(limits: dict[str, Any]) -> None:
    """As pid 1 of the new namespaces: an empty /proc, a scratch folder of its own, no capabilities."""
    call(libc.mount, None, b"/", None, MS_REC | MS_PRIVATE, None)
    call(libc.mount, b"none", b"/proc", b"tmpfs", MS_NOSUID | MS_NODEV, b"size=4k,mode=555")
    call(libc.mount, b"none", b"/dev/shm", b"tmpfs", MS_NOSUID | MS_NODEV, b"size=4k,mode=555")
    size = b"size=%d,mode=700" % limits["scratch_bytes"]
    call(libc.mount, b"none", b"/scratch", b"tmpfs", MS_NOSUID | MS_NODEV, size)
    os.chdir("/scratch")
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    call(libc.capset, header, (ctypes.c_uint32 * 6)(0, 0, 0, 0, 0, 0))


def set_limits(limits: dict[str, Any]) -> None:
    """Limits of the child; the address space counts on top of what torch already takes."""
    address_space = BASE_PAGES * resource.getpagesize() + limits["memory_bytes"]
    for kind, value in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def forbid_new_processes() -> None:
    """Refuse fork and namespaces from here on; threads stay allowed.

    RLIMIT_NPROC alone does not do it: the kernel never applies it to root, and instructors grade in
    containers. With no child process, nothing outlives the exercise either.
    """
    program = seccomp.no_new_processes()
    code = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(libc.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)


def close_files(keep: Sequence[int]) -> None:
    """Close every descriptor but `keep`; standard input, output and error lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    first = 3
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 4096)


def run_student(job: dict[str, Any], frames_write: int, graded_read: int) -> None:
    """Execute the cells in order, then make the calls; every step is a frame on the pipe."""

    def send(frame: bytes) -> None:
        view = memoryview(struct.pack("<I", len(frame)) + frame)
        while view:
            view = view[os.write(frames_write, view) :]

    run_cell = as_notebook(send) if job["show"] else as_module(send)
    space = sys.modules["__main__"].__dict__
    checks = job["checks"]
    targets = []
    made = 0

    def make(target: Any, name: str, calls: Sequence[dict[str, Any]]) -> None:
        nonlocal made
        for call_ in calls:
            try:
                if target is None:
                    outcome = runner.encode(runner.missing(name))
                else:
                    outcome = runner.run_encoded(target, call_)
            except KeyboardInterrupt:
                outcome = runner.encode(runner.interrupted())
            send(b"R" + struct.pack("<I", made) + outcome)
            made += 1

    for number, cell in enumerate([*job["cells"], None]):
        for check in checks:
            if check["at"] == number:
                send(b"K")
                targets.append(space.get(check["name"]))
                with shell.showing.nothing():
                    make(targets[-1], check["name"], check["calls"])
        if cell is not None:  # left out: it broke a limit before
            send(b"C" + struct.pack("<I", number))
            run_cell(number, cell)
    send(b"T")
    shell.showing.send = None
    send(
        b"G"
    )  # from here on the code knows what it is graded on, and nothing that it says is shown
    if checks:
        graded = runner.decode(read_block(graded_read))
        for check, target, calls in zip(checks, targets, graded, strict=True):
            make(target, check["name"], calls)


def as_module(send: Callable[[bytes], None]) -> Callable[[int, str], None]:
    """What executes a cell in a new module; an error is a frame, and the next cell runs."""
    SHELL.display_formatter.active_types = []  # nobody sees these: no figure need be drawn
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__dict__["get_ipython"] = NoShell
    transform = TransformerManager().transform_cell

    def run_cell(number: int, cell: str) -> None:
        try:
            exec(compile(transform(cell), f"<cell {number}>", "exec"), module.__dict__)
        except BaseException as error:
            said = {"cell": number, "type": type(error).__name__[:80], "message": str(error)[:500]}
            send(b"E" + json.dumps(said).encode())

    return run_cell


def as_notebook(send: Callable[[bytes], None]) -> Callable[[int, str], None]:
    """What executes a cell in IPython; everything that it shows is a frame."""
    sys.modules["__main__"] = SHELL.user_module
    return shell.notebook(SHELL, send)


class NoShell:
    """Stands in for IPython's shell: magics and shell commands do nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def read_block(fd: int) -> bytes:
    """One length-prefixed block. Raises: EOFError at the end of the pipe."""
    (size,) = struct.unpack("<I", read_exactly(fd, 4))
    return read_exactly(fd, size)


def read_exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(fd, min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError("the pipe was closed")
        data += chunk
    return bytes(data)


def call(function: Any, *args: Any) -> None:
    """Call into libc. Raises: OSError with errno when it returns non-zero."""
    if function(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}: {os.strerror(number)}")


def write_text(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def use_large_pages() -> None:
    """Gather this process's memory in large pages: a fork copies the table of pages, and that is its cost.

    A kernel that cannot (before Linux 6.1) refuses, and forks stay several times slower.
    """
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with open("/proc/self/maps") as maps:
        areas = [line.split() for line in maps]
    for span, access, _, _, inode, *name in areas:
        if access.startswith("rw") and inode == "0" and name in ([], ["[heap]"]):
            start, end = (int(x, 16) for x in span.split("-"))
            start, end = -(-start // LARGE_PAGE) * LARGE_PAGE, end // LARGE_PAGE * LARGE_PAGE
            if start < end:
                libc.madvise(start, end - start, MADV_COLLAPSE)


def address_space_pages() -> int:
    """Size of this process's address space, in pages."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    # What the first call of all does once is done here, not in every fork.
    x = torch.ones(2, 2)
    warm_up: dict[str, Any] = {
        "args": (x,),
        "kwargs": {},
        "init": None,
        "state": None,
        "cotangent": x,
    }
    runner.run_encoded(lambda x: x @ x, warm_up)
    SHELL = shell.prepare_shell()
    gc.collect()
    gc.freeze()  # what is here now stays: children need not walk it, nor copy it for that
    use_large_pages()
    BASE_PAGES = address_space_pages()  # before any fork: a child has no /proc to read it from
    isolated, lines = parse_arguments(sys.argv[1:])
    servers = [start_server(line, lines, isolate=isolated) for line in lines]
    for fd in (fd for line in lines for fd in line):
        os.close(fd)
    for server in servers:
        os.waitpid(server, 0)
