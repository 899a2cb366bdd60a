"""Attacks on the machine: time, memory, disk, processes, and on the process that runs the code.

What grows without end elsewhere is bounded here, so that stock nbgrader can be shown to fall to it
without harm to the machine that shows it.
"""

from llmr_ref.grading.attack import attack


@attack("stop", "A loop without end that swallows every interrupt.")
def endless_loop(hand):
    hand.answer(
        "softmax",
        """
        import signal

        def NAME(*args, **kwargs):
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            while True:
                try:
                    while True:
                        pass
                except BaseException:
                    pass
        """,
    )


@attack("stop", "A cell that sleeps for ever, beyond the reach of limits on computing.")
def endless_sleep(hand):
    hand.cell("""
        import time

        while True:
            time.sleep(3600)
        """)


@attack("lose", "The process ends in the middle of a call, with a status that says success.")
def process_ended(hand):
    hand.answer(
        "softmax",
        """
        import os

        def NAME(*args, **kwargs):
            os._exit(0)
        """,
    )


@attack(
    "lose",
    "The process ends with the status by which the sandbox says that it could not be set up.",
)
def status_of_the_sandbox(hand):
    hand.answer(
        "softmax",
        """
        import os

        os._exit(70)
        """,
    )


@attack("lose", "The process kills itself, with every signal in turn.")
def killed_by_itself(hand):
    hand.answer(
        "softmax",
        """
        import os
        import signal

        def NAME(*args, **kwargs):
            for kind in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGABRT, signal.SIGKILL):
                os.kill(os.getpid(), kind)
            os.abort()
        """,
    )


@attack("lose", "A crash in machine code.")
def crash(hand):
    hand.answer(
        "softmax",
        """
        import ctypes

        def NAME(*args, **kwargs):
            ctypes.string_at(0)
        """,
    )


@attack(
    "stop",
    "All memory is taken, in pieces and behind the limit: System V segments and files in memory.",
)
def memory_taken(hand):
    hand.answer(
        "softmax",
        """
        import ctypes
        import os

        libc = ctypes.CDLL(None, use_errno=True)
        held = []

        def NAME(*args, **kwargs):
            for _ in range(12):
                held.append(bytes(1 << 28))

        for _ in range(12):
            try:
                file = os.memfd_create("held")
                os.posix_fallocate(file, 0, 1 << 28)
                held.append(file)
            except OSError:
                pass
            libc.shmget(0, ctypes.c_size_t(1 << 28), 0o1600)
        while len(held) < 12:
            held.append(bytes(1 << 28))
        """,
    )


@attack("stop", "Processes start processes, by every way that Python knows.")
def fork_bomb(hand):
    hand.answer(
        "softmax",
        """
        import os
        import subprocess
        import sys
        import time

        def NAME(*args, **kwargs):
            for _ in range(60):
                try:
                    if os.fork() == 0:
                        os.setsid()
                        time.sleep(90)
                        os._exit(0)
                except OSError:
                    pass
                try:
                    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(90)"],
                                     start_new_session=True)
                except OSError:
                    pass
            return None
        """,
    )


@attack("stop", "Three thousand threads, which no limit of an ordinary account counts for root.")
def thread_bomb(hand):
    hand.answer(
        "softmax",
        """
        import threading
        import time

        threading.stack_size(32768)

        def NAME(*args, **kwargs):
            for _ in range(3000):
                try:
                    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                except RuntimeError:
                    break
            return None
        """,
    )


@attack("stop", "The disk is filled: one large file, many small ones, folders in folders.")
def disk_filled(hand):
    hand.answer(
        "softmax",
        """
        import os
        import tempfile

        def NAME(*args, **kwargs):
            for place in (".", tempfile.gettempdir(), "/dev/shm", "/tmp"):
                try:
                    os.makedirs(place + "/" + "x/" * 200, exist_ok=True)
                    for number in range(300):
                        with open(f"{place}/f{number}", "wb") as file:
                            file.write(bytes(1 << 19))
                except OSError:
                    pass
            return None
        """,
    )


@attack("stop", "Every descriptor is used up, and every limit lowered or raised.")
def limits_changed(hand):
    hand.answer(
        "softmax",
        """
        import os
        import resource

        def NAME(*args, **kwargs):
            kinds = [k for k in dir(resource) if k.startswith("RLIMIT_")]
            for kind in kinds:
                for value in (resource.RLIM_INFINITY, 1 << 40):
                    try:
                        resource.setrlimit(getattr(resource, kind), (value, value))
                    except (OSError, ValueError):
                        pass
            try:
                while True:
                    os.open(os.devnull, os.O_RDONLY)
            except OSError:
                pass
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, 1))
            return args[0]
        """,
    )


@attack("lose", "Recursion without end, with the guard against it switched off.")
def recursion(hand):
    hand.answer(
        "softmax",
        """
        import sys

        sys.setrecursionlimit(10**8)

        def NAME(*args, **kwargs):
            return NAME(*args, **kwargs)
        """,
    )


@attack(
    "lose",
    "Exceptions that are no Exceptions: exits, interrupts, and one that raises when it is read.",
)
def odd_exceptions(hand):
    hand.answer(
        "softmax",
        """
        class Unreadable(BaseException):
            def __str__(self):
                raise Unreadable

            __repr__ = __str__

            @property
            def __traceback__(self):
                raise Unreadable

        kinds = [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), Unreadable(), StopIteration(3.0)]

        def NAME(*args, **kwargs):
            kinds.append(kinds.pop(0))
            raise kinds[0]
        """,
    )
    hand.cell("raise type('E', (BaseException,), {'__str__': lambda self: 1 / 0})()")


@attack(
    "lose", "Work at the end: exit hooks, destructors and threads that never let the process go."
)
def exit_hooks(hand):
    hand.answer(
        "softmax",
        """
        import atexit
        import threading
        import time

        class Undead:
            def __del__(self):
                while True:
                    pass

        undead = Undead()
        atexit.register(time.sleep, 3600)
        threading.Thread(target=time.sleep, args=(3600,)).start()

        def NAME(x, dim=-1):
            return Undead()
        """,
    )


@attack("stop", "Half a gigabyte of results, one large tensor at a time.")
def large_results(hand):
    hand.answer(
        "softmax",
        """
        import torch

        def NAME(x, dim=-1):
            return [torch.zeros(1 << 22), "x" * (1 << 20)]
        """,
    )


@attack("stop", "Fifty megabytes of prints, in many lines and in one.")
def large_prints(hand):
    hand.cell("""
        print("x" * 25_000_000)
        for number in range(25_000):
            print(number, "." * 1000)
        """)


@attack("stop", "A thousand large pictures.")
def many_pictures(hand):
    hand.cell("""
        import base64
        from IPython.display import display

        picture = base64.b64encode(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(100_000)).decode()
        for number in range(1000):
            display({"image/png": picture, "text/plain": "a picture"}, raw=True)
        """)


@attack(
    "stop", "The kernel is asked for doors around the walls: namespaces, mounts, io_uring, bpf."
)
def kernel_doors(hand):
    hand.answer(
        "softmax",
        """
        import ctypes
        import os

        libc = ctypes.CDLL(None, use_errno=True)
        opened = []
        # unshare, mount, pivot_root, setns, ptrace, bpf, io_uring_setup, userfaultfd, perf_event_open,
        # keyctl, open_by_handle_at, fsopen, process_vm_readv, pidfd_open, kexec_load, init_module
        for number in (272, 165, 155, 308, 101, 321, 425, 323, 298, 250, 304, 430, 310, 434, 246, 175):
            if number == 272:
                result = libc.syscall(number, 0x10000000 | 0x20000)
            elif number == 101:
                result = libc.syscall(number, 16, 1, 0, 0)
            elif number == 434:
                result = libc.syscall(number, os.getpid(), 0)
            else:
                result = libc.syscall(number, 0, 0, 0, 0, 0)
            if result >= 0 or ctypes.get_errno() not in (1, 38):
                opened.append((number, ctypes.get_errno()))

        def NAME(x, dim=-1):
            raise ValueError(f"open: {opened}")
        """,
    )


@attack(
    "stop",
    "The sandbox's own folders are removed, replaced by links, and left as the working folder.",
)
def scratch_removed(hand):
    hand.answer(
        "softmax",
        """
        import os
        import shutil

        def NAME(*args, **kwargs):
            here = os.getcwd()
            for entry in os.listdir("."):
                shutil.rmtree(entry, ignore_errors=True)
                try:
                    os.remove(entry)
                except OSError:
                    pass
            try:
                os.symlink("/", "everything")
                os.chdir("/")
                os.rmdir(here)
            except OSError:
                pass
            return None
        """,
    )


@attack("stop", "A cell whose magics must be rewritten five hundred times before it can be read.")
def many_magics(hand):
    hand.answer(
        "softmax",
        "def NAME(x, dim=-1):\n    return x\n\n"
        + "\n".join(f"a{n} = !echo {'.' * 60}" for n in range(1500)),
    )


@attack("stop", "Code that is nested or long beyond what a parser likes.")
def deep_code(hand):
    hand.answer(
        "softmax",
        "def NAME(x, dim=-1):\n    return x\n\nvalue = "
        + "-" * 60_000
        + "1\n"
        + "x = "
        + "[" * 150
        + "]" * 150
        + "\ny = "
        + "+".join(["1"] * 20_000)
        + "\n"
        + "z = a"
        + ".b" * 20_000,
    )
