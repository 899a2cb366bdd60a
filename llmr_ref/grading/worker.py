"""The process that runs students' code. Started by sandbox.py, inside bubblewrap where that works.

It imports torch once, then forks a fresh child for every exercise of every submission. A child gets its
own pid, mount, network and user namespace (when --isolate is given), limits on time, memory, threads
and file size, no way to start processes, and a pipe that takes values only. Nothing here knows a right
answer or decides a score.

Wire, both ways: 4 bytes of length, then that many bytes. Request: `runner.encode` of
{cells: [str], name: str, calls: [call], limits: {...}}. Reply: JSON line {"ended": ..., "frames": n}
then n frames. Frames of a child: b"C" + cell number (the cell begins), b"E" + JSON (the cell raised),
b"T" (the calls begin), b"R" + call number + encoded outcome.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import time
import types
from typing import Any, BinaryIO

import runner  # type: ignore[import-not-found]  # beside this file in the sandbox
import seccomp  # type: ignore[import-not-found]  # likewise
import torch
from IPython.core.inputtransformer2 import TransformerManager

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2

libc = ctypes.CDLL(None, use_errno=True)


def serve(requests: BinaryIO, replies: BinaryIO, *, isolate: bool) -> None:
    """Answer requests until the trusted side closes the pipe."""
    while (request := read_block(requests)) is not None:
        job = runner.decode(request)
        ended, frames = run_job(job, isolate=isolate)
        summary = json.dumps({"ended": ended, "frames": len(frames)}).encode()
        for block in (summary, *frames):
            replies.write(struct.pack("<I", len(block)) + block)
        replies.flush()


def run_job(job: dict[str, Any], *, isolate: bool) -> tuple[str, list[bytes]]:
    """Fork, collect the child's frames until it ends or breaks a limit, and make sure that it is gone.

    Returns how it ended ("done", "wall time", "output size", "cpu time", "died: ...") and its frames.
    """
    read_end, write_end = os.pipe()
    pid_read, pid_write = os.pipe()
    guard = os.fork()
    if guard == 0:
        os.close(read_end)
        os.close(pid_read)
        with contextlib.suppress(BaseException):
            become_guard(job, write_end, pid_write, isolate=isolate)
        os._exit(70)
    os.close(write_end)
    os.close(pid_write)
    raw_pid = os.read(pid_read, 4)
    os.close(pid_read)
    child = struct.unpack("<i", raw_pid)[0] if len(raw_pid) == 4 else 0
    ended, data = collect(read_end, job["limits"])
    if ended:
        for pid in filter(None, (child, guard)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(guard, 0)
    os.close(read_end)
    if not ended:
        ended = how_it_ended(os.waitstatus_to_exitcode(status))
        used = usage.ru_utime + usage.ru_stime
        # The kernel ends the process on a clock of its own, a tick or two before this sum is full.
        if ended == "died: SIGKILL" and used >= 0.9 * job["limits"]["cpu_seconds"]:
            ended = "cpu time"
    return ended, split_frames(data)


def collect(read_end: int, limits: dict[str, Any]) -> tuple[str, bytes]:
    """Read the child's pipe to its end, the deadline or the size limit; says which, "" for the end."""
    deadline = time.monotonic() + limits["wall_seconds"]
    data = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([read_end], [], [], left)[0]:
            return "wall time", bytes(data)
        chunk = os.read(read_end, 1 << 20)
        if not chunk:
            return "", bytes(data)
        data += chunk
        if len(data) > limits["output_bytes"]:
            return "output size", bytes(data[: limits["output_bytes"]])


def how_it_ended(code: int) -> str:
    """The guard's exit code in words."""
    if code == 0:
        return "done"
    if code == 70:
        return "died: the sandbox could not be set up"
    if code < 0:  # the guard itself was killed
        code = 128 - code
    if code > 128:
        return f"died: {signal.Signals(code - 128).name}"
    return f"died: exit code {code}"


def split_frames(data: bytes) -> list[bytes]:
    """Whole frames in `data`; a frame that was cut off by a limit is dropped."""
    frames, at = [], 0
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            break
        frames.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return frames


def become_guard(job: dict[str, Any], write_end: int, pid_write: int, *, isolate: bool) -> None:
    """In the fork: enter new namespaces, fork the child that runs the code, pass on how it ends."""
    limits = job["limits"]
    if isolate:
        uid, gid = os.getuid(), os.getgid()
        call(libc.unshare, CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC
             | CLONE_NEWNET | CLONE_NEWUTS)  # fmt: skip
        write_text("/proc/self/setgroups", "deny")
        write_text("/proc/self/uid_map", f"65534 {uid} 1")
        write_text("/proc/self/gid_map", f"65534 {gid} 1")
    child = os.fork()
    if child == 0:
        try:
            os.close(pid_write)
            call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            close_files(keep=write_end)
            if isolate:
                shut_the_doors(limits)
            set_limits(limits)
            forbid_new_processes()
            run_student(job, write_end)
            os._exit(0)
        except BaseException as error:
            # Only our own set-up can raise here: student code is caught where it is called.
            os.write(2, f"worker: {error!r}\n".encode())
            os._exit(70)
    os.write(pid_write, struct.pack("<i", child))
    os.close(pid_write)
    os.close(write_end)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


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


def close_files(keep: int) -> None:
    """Close every descriptor but standard error and the pipe for values."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)


def run_student(job: dict[str, Any], write_end: int) -> None:
    """Execute the cells in order, then make the calls; every step is a frame on the pipe."""

    def send(frame: bytes) -> None:
        view = memoryview(struct.pack("<I", len(frame)) + frame)
        while view:
            view = view[os.write(write_end, view) :]

    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    space = module.__dict__
    space["get_ipython"] = NoShell
    transform = TransformerManager().transform_cell
    for number, cell in enumerate(job["cells"]):
        if cell is None:  # left out: it broke a limit before
            continue
        send(b"C" + struct.pack("<I", number))
        try:
            exec(compile(transform(cell), f"<cell {number}>", "exec"), space)
        except BaseException as error:
            said = {"cell": number, "type": type(error).__name__[:80], "message": str(error)[:500]}
            send(b"E" + json.dumps(said).encode())
    send(b"T")
    target = space.get(job["name"])
    for number, call_ in enumerate(job["calls"]):
        try:
            known = target is not None
            outcome = runner.run_call(target, call_) if known else runner.missing(job["name"])
        except KeyboardInterrupt:
            outcome = runner.interrupted()
        send(b"R" + struct.pack("<I", number) + runner.encode(outcome))


class NoShell:
    """Stands in for IPython's shell: magics and shell commands do nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def read_block(stream: BinaryIO) -> bytes | None:
    """One length-prefixed block; None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return stream.read(struct.unpack("<I", head)[0])


def call(function: Any, *args: Any) -> None:
    """Call into libc. Raises: OSError with errno when it returns non-zero."""
    if function(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}: {os.strerror(number)}")


def write_text(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def address_space_pages() -> int:
    """Size of this process's address space, in pages."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    # A call with gradients makes torch import 500 modules: here once, not in every fork.
    x = torch.ones(2, 2)
    warm_up: dict[str, Any] = {
        "args": (x,),
        "kwargs": {},
        "init": None,
        "state": None,
        "cotangent": x,
    }
    runner.encode(runner.run_call(lambda x: x @ x, warm_up))
    BASE_PAGES = address_space_pages()  # before any fork: a child has no /proc to read it from
    # The pipes move out of the way of standard input and output, which students may use.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    replies.write(struct.pack("<I", 5) + b"ready")
    replies.flush()
    serve(requests, replies, isolate="--isolate" in sys.argv)
