"""The worker in tier 1 (a process) and tier 2 (bubblewrap): what student code can reach, and what ends it."""

import contextlib
import json
import os
import signal
import struct
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch

from llmr_ref.grading import frames, runner, sandbox
from llmr_ref.grading.engine import grade_exercise
from llmr_ref.grading.exercises import exercise_names, get_exercise
from llmr_ref.grading.frames import Limits
from llmr_ref.grading.sandbox import (
    EMPTY_CALL,
    SandboxError,
    Worker,
    available_tier,
    close_shared_worker,
)

pytestmark = pytest.mark.course

QUICK = Limits(wall_seconds=3.0, cpu_seconds=10)
IMPORTS = "import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import Tensor, nn"


@pytest.fixture(scope="module", params=[2, 1], ids=["tier 2", "tier 1"])
def worker(request):
    """One worker for the module, as for a class: each test also shows that the last one did no harm."""
    tier, reason = available_tier()
    assert tier == 2, reason
    with Worker(tier=request.param, limits=QUICK) as worker:
        yield worker


@pytest.fixture
def limited(worker, monkeypatch):
    """Run code in the shared worker under other limits."""

    def run(code, *args, **limits):
        monkeypatch.setattr(worker, "limits", Limits(**{"wall_seconds": 3.0, **limits}))
        return attempt(worker, code, *args)

    return run


@pytest.fixture(autouse=True)
def still_usable(request):
    """After each test the worker answers as if nothing had happened."""
    yield
    if "worker" in request.fixturenames:
        worker = request.getfixturevalue("worker")
        assert value(attempt(worker, "def f(x):\n    return x + 1", 41)) == 42


def attempt(worker, code, *args):
    call = {**EMPTY_CALL, "args": args}
    return worker.run([textwrap.dedent(code)], "f", [call])


def value(ran):
    (outcome,) = ran.outcomes
    assert outcome["status"] == "ok", outcome
    return outcome["value"]


def failure(ran):
    (outcome,) = ran.outcomes
    assert outcome["status"] == "error", outcome
    return outcome["message"]


def only_in_tier_2(worker):
    if worker.tier != 2:
        pytest.skip("tier 1 does not promise this: the process sees what its user sees")


# --- limits --------------------------------------------------------------------------------------


def test_a_loop_that_sleeps_ends_at_the_wall_clock(limited):
    ran = limited("import time\ndef f():\n    time.sleep(60)", wall_seconds=1.0)
    assert ran.ended == "wall time" and ran.stuck_cell is None
    assert "no answer within 1 s" in failure(ran)


def test_a_loop_that_computes_ends_at_its_cpu_time(limited):
    ran = limited("def f():\n    while True:\n        pass", wall_seconds=30.0, cpu_seconds=1)
    assert ran.ended == "cpu time"
    assert "more than 1 s of computing: is there a loop that never ends?" in failure(ran)


def test_a_loop_in_a_cell_names_the_cell(worker, monkeypatch):
    monkeypatch.setattr(worker, "limits", Limits(wall_seconds=1.0))
    ran = worker.run(
        ["a = 1", "while True:\n    pass", "def f():\n    return a"], "f", [EMPTY_CALL]
    )
    assert ran.ended == "wall time" and ran.stuck_cell == 1
    again = worker.run(["a = 1", None, "def f():\n    return a"], "f", [EMPTY_CALL])
    assert value(again) == 1


@pytest.mark.parametrize("code", [
    "def f():\n    held = []\n    while True:\n        held.append(bytes(1 << 26))",
    "def f():\n    return bytes(1 << 40)",
], ids=["little by little", "at once"])  # fmt: skip
def test_memory_ends_with_the_reason(limited, code):
    ran = limited(code, memory_bytes=256 << 20)
    assert ran.ended == "done" and failure(ran) == "more memory was asked for than is allowed"


def test_memory_of_tensors_is_limited_too(limited):
    ran = limited("import torch\ndef f():\n    return torch.ones(1 << 30).sum()",
                  memory_bytes=256 << 20)  # fmt: skip
    assert "memory" in failure(ran)


def test_a_file_has_a_largest_size(limited):
    code = """
        import os, tempfile
        def f():
            with open(os.path.join(os.environ["TMPDIR"], "large"), "wb") as file:
                for _ in range(64):
                    file.write(bytes(1 << 16))
            return "written"
        """
    ran = limited(code, file_bytes=1 << 20)
    assert "File too large" in failure(ran)


def test_scratch_space_has_a_largest_size(worker, limited):
    only_in_tier_2(worker)
    code = """
        def f():
            for number in range(64):
                with open(f"/scratch/{number}", "wb") as file:
                    file.write(bytes(1 << 20))
        """
    assert "No space left" in failure(limited(code, scratch_bytes=8 << 20))


def test_a_result_that_is_too_large_is_refused_with_the_reason(worker):
    ran = attempt(worker, "import torch\ndef f():\n    return torch.zeros(1 << 24)")
    assert "too much to send back" in failure(ran)


def test_a_flood_of_results_ends_at_the_output_size(limited):
    code = """
        import os
        def f():
            while True:
                for descriptor in range(3, 64):
                    try:
                        os.write(descriptor, bytes(1 << 16))
                    except OSError:
                        pass
        """
    ran = limited(code, output_bytes=1 << 20, wall_seconds=10.0)
    assert ran.ended == "output size" and "more than 1 MB of results" in failure(ran)


def test_printing_ten_megabytes_costs_nothing(worker):
    code = "import sys\nprint('x' * 10**7)\ndef f():\n    print('y' * 10**7)\n    return 1"
    assert value(attempt(worker, code)) == 1


# --- processes -----------------------------------------------------------------------------------


FORKS = """
    import os, subprocess, sys
    def f(way):
        started = 0
        try:
            for _ in range(100):
                if way == "subprocess":
                    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"])
                else:
                    pid = os.fork() if way == "fork" else os.posix_spawn("/bin/sleep", ["sleep", "5"], {})
                    if pid == 0:
                        import time
                        time.sleep(5)
                        os._exit(0)
                started += 1
        except OSError as error:
            return [started, error.errno]
        return [started, 0]
    """


@pytest.mark.parametrize("way", ["fork", "posix_spawn", "subprocess"])
def test_no_process_can_be_started_so_a_fork_bomb_does_not_go_off(worker, way):
    started, errno = value(attempt(worker, FORKS, way))
    assert started == 0 and errno == 1  # EPERM


def test_threads_are_allowed_and_end_with_the_exercise(worker):
    code = """
        import threading, time
        def f():
            results = []
            one = threading.Thread(target=lambda: results.append(1))
            one.start()
            one.join()
            for _ in range(3):
                threading.Thread(target=time.sleep, args=(60,)).start()
            return results
        """
    worker._start()
    start = time.monotonic()
    before = descendants(worker)
    assert value(attempt(worker, code)) == [1]
    assert time.monotonic() - start < 30
    while descendants(worker) - before:  # the answer comes a moment before its process is gone
        assert time.monotonic() - start < 30
        time.sleep(0.01)


def test_new_namespaces_are_refused(worker):
    code = """
        import ctypes
        def f():
            libc = ctypes.CDLL(None, use_errno=True)
            return [libc.unshare(0x10000000), ctypes.get_errno()]
        """
    assert value(attempt(worker, code)) == [-1, 1]


@pytest.mark.parametrize("status", [0, 1, 70, 137])
def test_ending_the_process_is_no_result(worker, status):
    ran = attempt(worker, f"import os\ndef f():\n    os._exit({status})")
    assert ran.ended != "done" and failure(ran)


def test_ending_the_process_in_a_cell_names_the_cell(worker):
    ran = worker.run(
        ["a = 1", "import os\nos._exit(0)", "def f():\n    return 1"], "f", [EMPTY_CALL]
    )
    assert ran.ended == "early exit" and ran.stuck_cell == 1


@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "raise KeyboardInterrupt", "exit()"])
def test_leaving_by_exception_is_only_an_error(worker, ending):
    ran = attempt(worker, f"import sys\ndef f():\n    {ending}")
    assert ran.ended == "done" and ran.outcomes[0]["status"] == "error"


def test_a_crash_is_told_by_its_signal(worker):
    ran = attempt(worker, "import ctypes\ndef f():\n    ctypes.string_at(0)")
    assert ran.ended == "died: SIGSEGV" and "SIGSEGV" in failure(ran)


def test_process_1_of_the_sandbox_is_the_student_itself(worker):
    only_in_tier_2(worker)
    code = """
        import os
        def f():
            for pid in range(2, 200):
                try:
                    os.kill(pid, 9)
                    return [pid]
                except OSError:
                    pass
            try:
                os.kill(-1, 9)
            except OSError as error:
                return [os.getpid(), os.getppid(), error.errno]
        """
    assert value(attempt(worker, code)) == [1, 0, 3]  # ESRCH: there is nobody else
    ran = attempt(
        worker, "import os, signal\ndef f():\n    os.kill(1, signal.SIGKILL)\n    return 1"
    )
    assert value(ran) == 1  # the kernel protects process 1 from itself


def test_killing_the_process_above_is_noticed(worker):
    if worker.tier == 2:
        pytest.skip("in tier 2 there is no process above: test_process_1_of_the_sandbox_...")
    with pytest.raises(SandboxError, match="the worker failed"):
        attempt(worker, "import os\ndef f():\n    os.kill(os.getppid(), 9)\n    return 1")


def descendants(worker):
    process = psutil.Process(worker._process._process.pid)
    return {p.pid for p in [process, *process.children(recursive=True)]}


def test_when_the_worker_is_killed_the_run_fails_and_the_next_one_works(worker):
    attempt(worker, "def f():\n    return 1")
    for pid in descendants(worker):
        with contextlib.suppress(ProcessLookupError):  # it died with one above it
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    # Whether the dead pipe is noticed when writing or before, the next run has a new worker.
    worker._process.running = lambda: True
    with pytest.raises(SandboxError, match="the worker failed"):
        attempt(worker, "def f():\n    return 1")
    assert value(attempt(worker, "def f():\n    return 2")) == 2


def test_closing_a_worker_leaves_no_process_and_no_folder():
    with Worker(tier=2, limits=QUICK) as own:
        attempt(own, "def f():\n    return 1")
        pids, scratch = descendants(own), Path(own._process._scratch.name)
        assert len(pids) >= 2 and scratch.is_dir()
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(p) for p in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(p) for p in pids) and not scratch.exists()


# --- what can be seen ----------------------------------------------------------------------------


def test_the_environment_holds_only_what_python_needs(worker, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_INSTRUCTOR", "1")
    with Worker(tier=worker.tier, limits=QUICK) as fresh:
        seen = value(attempt(fresh, "import os\ndef f():\n    return dict(os.environ)"))
    allowed = {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PWD",
               "OMP_NUM_THREADS", "MPLCONFIGDIR", "IPYTHONDIR", "LC_CTYPE"}  # fmt: skip
    assert set(seen) <= allowed and "SECRET_OF_THE_INSTRUCTOR" not in seen


def test_there_is_no_network(worker):
    only_in_tier_2(worker)
    code = """
        import socket
        def f(port):
            seen = [name for _, name in socket.if_nameindex()]
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1)
                return [seen, "connected"]
            except OSError as error:
                return [seen, type(error).__name__]
        """
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        seen, outcome = value(attempt(worker, code, server.getsockname()[1]))
    assert set(seen) <= {"lo"} and outcome != "connected"


def test_the_file_system_holds_python_and_an_empty_scratch_folder(worker):
    only_in_tier_2(worker)
    code = """
        import os
        def f():
            return {d: sorted(os.listdir(d)) for d in ("/", "/proc", "/scratch", "/sandbox", "/dev/shm")}
        """
    seen = value(attempt(worker, code))
    assert seen["/proc"] == [] and seen["/scratch"] == [] and seen["/dev/shm"] == []
    assert seen["/sandbox"] == ["runner.py", "seccomp.py", "shell.py", "stand_in", "worker.py"]
    prefixes = {Path(sys.prefix).parts[1], Path(sys.base_prefix).parts[1]}
    expected = {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sandbox", "sbin", "scratch",
                "tmp", "usr"} | prefixes  # fmt: skip
    assert set(seen["/"]) <= expected | {Path(sys.executable).resolve().parts[1]}


def test_course_repository_and_reference_are_not_there(worker, limited):
    only_in_tier_2(worker)
    code = """
        import os
        def f(names):
            found = []
            for folder, _, files in os.walk("/", followlinks=False):
                found += [os.path.join(folder, n) for n in files if n in names]
            return found
        """
    names = ["gradebook.db", ".course_secret", "nbgrader_config.py", "causal_mask.py", "rope.py",
             "masks.py", "verdict.py", "attention.ipynb"]  # fmt: skip
    found = value(limited(code, names, wall_seconds=100.0, cpu_seconds=100))
    own = Path(sandbox.__file__).parents[1]
    assert not [f for f in found if "llmr" in f or f.startswith(str(own))], found
    # Other packages may have a masks.py of theirs; none of what was found is ours.
    ours = {p.read_bytes() for p in own.rglob("*.py")}
    visible = [Path(f) for f in found if Path(f).exists()]
    assert not [f for f in visible if f.read_bytes() in ours]


@pytest.mark.parametrize("module", [
    "llmr_ref.attention", "llmr_ref.masks", "llmr_ref.rope", "llmr_ref.grading.exercises",
    "llmr_ref.grading.verdict", "llmr_ref.grading.exercises.causal_mask",
])  # fmt: skip
def test_the_reference_cannot_be_imported(worker, module):
    code = f"""
        import importlib
        def f():
            try:
                return str(importlib.import_module("{module}"))
            except ImportError as error:
                return "ImportError"
        """
    assert value(attempt(worker, code)) == "ImportError"


def test_imports_of_the_notebook_work(worker):
    code = """
        from llmr_ref.grading import check
        from llmr_ref.widgets import MaskEditor, RopeAngles
        def f():
            check("causal_mask")
            return repr(MaskEditor(tokens=["a"]))
        """
    assert "MaskEditor" in value(attempt(worker, code))


def test_nothing_that_one_submission_leaves_is_seen_by_the_next(worker):
    only_in_tier_2(worker)
    code = """
        import os
        def f():
            earlier, written = [], []
            for folder, folders, files in os.walk("/"):
                if folder.count("/") > 3:
                    folders.clear()
                path = os.path.join(folder, "left_by_a_student")
                earlier += [path] * os.path.exists(path)
                try:
                    with open(path, "w") as file:
                        file.write("the answers")
                    written.append(path)
                except OSError:
                    pass
            return [earlier, written]
        """
    earlier, written = value(attempt(worker, code))
    assert earlier == [] and written == ["/scratch/left_by_a_student"]
    assert value(attempt(worker, code))[0] == []


def test_nothing_in_memory_passes_from_one_submission_to_the_next(worker):
    leave = "import torch, builtins\nbuiltins.left = torch.left = 1\ndef f():\n    return 1"
    look = "import torch, builtins\ndef f():\n    return [hasattr(torch, 'left'), hasattr(builtins, 'left')]"
    assert value(attempt(worker, leave)) == 1
    assert value(attempt(worker, look)) == [False, False]


def test_no_descriptor_but_the_pipes_for_values_and_for_graded_calls_is_open(worker):
    code = """
        import os
        def f():
            open_files = []
            for descriptor in range(4096):
                try:
                    os.fstat(descriptor)
                    open_files.append(descriptor)
                except OSError:
                    pass
            return open_files
        """
    # Input, output and errors, all of them /dev/null; values out; graded calls in, when they are due.
    assert len(value(attempt(worker, code))) == 5


# --- forgery -------------------------------------------------------------------------------------


FORGE = """
    import os, struct
    def f(blocks, last):
        for descriptor in range(3, 64):
            for block in blocks:
                data = bytes.fromhex(block)
                try:
                    os.write(descriptor, data)
                except OSError:
                    break
        if last == "exit":
            os._exit(0)
        return "honest"
    """


def framed(block):
    return (struct.pack("<I", len(block)) + block).hex()


GARBAGE = {
    "zeros": b"\0" * 40,
    "an enormous length": struct.pack("<I", 2**32 - 1) + b"R",
    "random": bytes(range(256)) * 4,
}
FRAMES = {
    "empty": b"",
    "unknown kind": b"Z123",
    "short result": b"R\0",
    "result that is no safetensors": b"R\0\0\0\0" + b"x" * 50,
    "result that is a list": b"R\0\0\0\0" + runner.encode([1, 2]),
    "result with a status of its own": b"R\0\0\0\0" + runner.encode({"status": "full marks"}),
    "result with odd fields": b"R\0\0\0\0" + runner.encode(
        {"status": "ok", "value": 1, "arguments": 5, "gradients": [], "state": 3}),
    "cell of a large number": b"C" + struct.pack("<I", 2**31),
    "error that is no object": b"E[1]",
    "error of an infinite cell": b'E{"cell": 1e999, "type": "", "message": ""}',
    "error nested deeply": b"E" + b"[" * 100_000,
    "error that is not UTF-8": b"E\xff\xfe",
}  # fmt: skip


@pytest.mark.parametrize("last", ["return", "exit"])
@pytest.mark.parametrize("kind", FRAMES)
def test_frames_that_are_not_ours_are_passed_over(worker, kind, last):
    ran = attempt(worker, FORGE, [framed(FRAMES[kind])], last)
    if last == "return":
        assert value(ran) == "honest"
    else:
        assert ran.ended == "early exit" and failure(ran)


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_on_every_descriptor_is_no_result(worker, kind):
    ran = attempt(worker, FORGE, [GARBAGE[kind].hex()], "exit")
    assert ran.ended != "done" and failure(ran)


def test_a_forged_result_counts_as_a_value_and_no_more(worker):
    forged = {"status": "ok", "value": torch.ones(3, 3, dtype=torch.bool), "arguments": {"0": 3},
              "gradients": {}, "state": None, "score": 5.0, "passed": True}  # fmt: skip
    exercise = get_exercise("causal_mask")
    block = framed(b"R\0\0\0\0" + runner.encode(forged))
    code = textwrap.dedent(FORGE).replace("def f(blocks, last)", "def forge(blocks, last)")
    cell = f"{code}\ndef causal_mask(*args):\n    return forge([{block!r}], 'return')"
    verdict = grade_exercise(exercise, [cell], 1, worker)
    assert verdict.score == 0.0 and verdict.misconception is None


def test_the_worker_is_given_inputs_and_never_a_right_result(worker):
    """Whatever student code finds in memory, it can only be what was sent: calls, without outcomes."""
    code = """
        import sys
        def f():
            frame = sys._getframe()
            while "job" not in frame.f_locals:
                frame = frame.f_back
            job = frame.f_locals["job"]
            (check,) = job["checks"]
            return [sorted(job), sorted(check), sorted(check["calls"][0])]
        """
    sent, check, call = value(attempt(worker, code))
    assert sent == ["cells", "checks", "limits", "show"] and check == ["at", "calls", "name"]
    assert call == ["args", "cotangent", "init", "kwargs", "state"] == sorted(EMPTY_CALL)


# --- tiers ---------------------------------------------------------------------------------------


@pytest.fixture
def asked_again():
    """No answer and no running worker of earlier tests, nor of these for later ones."""
    close_shared_worker()
    available_tier.cache_clear()
    yield
    close_shared_worker()
    available_tier.cache_clear()


def test_without_bubblewrap_the_tier_says_what_to_install(monkeypatch, tmp_path, asked_again):
    monkeypatch.setenv("PATH", str(tmp_path))
    tier, reason = available_tier()
    assert tier == 1 and "not installed" in reason and "apt-get install bubblewrap" in reason


@pytest.mark.parametrize("script, said", [
    ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "No permissions to create"),
    ("exit 0", "did not start"),
])  # fmt: skip
def test_a_bubblewrap_that_fails_is_said_with_its_own_words(
    monkeypatch, tmp_path, asked_again, script, said
):
    broken = tmp_path / "bwrap"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tier, reason = available_tier()
    assert tier == 1 and "does not work here" in reason and said in reason


def test_a_sandbox_that_cannot_isolate_submissions_is_not_tier_2(monkeypatch, asked_again):
    """Where nested namespaces are forbidden, the worker starts but every exercise dies in set-up."""
    ran = frames.Ran(outcomes=[], cell_errors=[], ended="died: the sandbox could not be set up",
                      stuck_cell=None)  # fmt: skip
    monkeypatch.setattr(Worker, "run", lambda self, *_: ran)
    tier, reason = available_tier()
    assert tier == 1 and "could not be set up" in reason


def test_on_other_systems_the_tier_says_why(monkeypatch, asked_again):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert available_tier() == (1, "bubblewrap exists only for Linux")


@pytest.mark.parametrize("tier", [0, 3, "2"])
def test_a_worker_of_another_tier_is_refused(tier):
    with pytest.raises(ValueError, match=r"tier 1 .* or 2"):
        Worker(tier=tier)


# --- exercises -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", exercise_names())
def test_right_answers_get_full_marks_and_a_wrong_one_its_name(worker, name, monkeypatch):
    monkeypatch.setattr(worker, "limits", Limits())
    exercise = get_exercise(name)
    for answer in exercise.right_answers:
        verdict = grade_exercise(exercise, [IMPORTS, answer.source(name)], 11, worker)
        assert verdict.full, (answer.key, [p.message for p in verdict.properties])
        assert verdict.tier == worker.tier and not verdict.needs_look
    for wrong in exercise.wrong_answers[:2]:
        verdict = grade_exercise(exercise, [IMPORTS, wrong.source(name)], 11, worker)
        assert not verdict.full and verdict.misconception.key == wrong.key
        assert verdict.counterexample is not None
    verdict = grade_exercise(exercise, [IMPORTS], 11, worker)
    assert verdict.score == 0.0 and "is not defined" in verdict.properties[0].message
    json.dumps(verdict.model_dump())  # it goes into the notebook
