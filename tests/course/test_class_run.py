"""`llmr grade`: the same result as nbgrader's own commands, whatever is killed on the way."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from course_folder import ASSIGNMENT, SECRET, Course, files, gradebook_entries

from llmr_ref.grading import ahead, class_run, engine, sandbox
from llmr_ref.grading.course import grade
from llmr_ref.grading.engine import Work, as_text, do, do_text, look_up
from llmr_ref.grading.sample_class import sample_class, write_sample_class

pytestmark = pytest.mark.course

KINDS = ("all right", "one misconception", "mixture", "os._exit", "renamed notebook", "empty file",
         "duplicated test cell")  # fmt: skip


def class_of(released: Course, root: Path, kinds=KINDS) -> Course:
    """A course in which the first student of each kind has handed in."""
    shutil.copytree(released.root, root)
    write_sample_class(root, ASSIGNMENT, 24)
    kept = {s.kind: s.name for s in reversed(sample_class(ASSIGNMENT, 24)) if s.kind in kinds}
    for folder in (root / "submitted").iterdir():
        if folder.name not in kept.values():
            shutil.rmtree(folder)
    return Course(root)


@pytest.fixture(scope="module")
def plain(released, tmp_path_factory) -> Course:
    """Graded by nbgrader's own commands. Do not change it."""
    course = class_of(released, tmp_path_factory.mktemp("plain") / "course")
    course.nbgrader("autograde", ASSIGNMENT)
    course.nbgrader("generate_feedback", ASSIGNMENT)
    return course


@pytest.fixture
def handed_in(released, tmp_path) -> Course:
    return class_of(released, tmp_path / "course")


def without_clocks(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if "timestamp" not in name}


def assert_same_as(plain: Course, course: Course, *folders: str) -> None:
    assert gradebook_entries(course) == gradebook_entries(plain)
    mine, theirs = (without_clocks(files(c.root, *folders)) for c in (course, plain))
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_the_same_scores_verdicts_notes_and_files_as_nbgraders_own_commands(
    plain, handed_in, monkeypatch
):
    monkeypatch.delattr(sandbox._of_thread, "worker", raising=False)
    assert grade(handed_in.root, ASSIGNMENT, workers=2) == 0
    assert_same_as(plain, handed_in, "autograded", "feedback")
    # All of it was computed ahead, in the other processes: this one started no worker for it.
    own = getattr(sandbox._of_thread, "worker", None)
    assert own is None or own._process is None
    assert (handed_in.root / "exports" / f"{ASSIGNMENT}.csv").is_file()
    assert (handed_in.root / "reports" / f"{ASSIGNMENT}.html").is_file()

    # A second run finds everything done, one after a loss of the gradebook finds every result.
    before = files(handed_in.root, "autograded")
    times = {p: p.stat().st_mtime_ns for p in (handed_in.root / "autograded").rglob("*.ipynb")}
    monkeypatch.setattr(class_run.Processes, "tier", lambda self: pytest.fail("nothing is to do"))
    assert grade(handed_in.root, ASSIGNMENT, workers=1, feedback=False) == 0
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    monkeypatch.undo()
    shutil.rmtree(handed_in.root / "autograded")
    monkeypatch.setattr(ahead.Processes, "each", lambda *_: pytest.fail("every result is known"))
    assert grade(handed_in.root, ASSIGNMENT, workers=1, feedback=False) == 0
    assert files(handed_in.root, "autograded") == before


def test_killed_in_the_middle_it_leaves_no_process_and_goes_on_where_it_stopped(plain, handed_in):
    command = [sys.executable, "-m", "llmr_ref.cli", "grade", ASSIGNMENT, "--workers", "2",
               "--course", str(handed_in.root)]  # fmt: skip
    process = subprocess.Popen(
        command, env=handed_in.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    try:
        while not list(handed_in.root.glob(f"autograded/*/{ASSIGNMENT}/*.ipynb")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 2
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive, [p.cmdline() for p in alive]
    known = files(handed_in.root, ".llmr/cache")
    assert grade(handed_in.root, ASSIGNMENT, workers=2) == 0
    assert_same_as(plain, handed_in, "autograded", "feedback")
    now = files(handed_in.root, ".llmr/cache")
    assert all(now[name] == content for name, content in known.items() if name.endswith("json"))


# --- processes -----------------------------------------------------------------------------------


def killed_once(folder: str, name: str) -> str:
    """Takes the process down, the first time that it is called for this name."""
    marker = Path(folder) / name
    if name == "b" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return name.upper()


def failing(name: str) -> str:
    if name == "b":
        raise ZeroDivisionError("a fault of ours")
    return name.upper()


def test_a_killed_process_is_replaced_and_its_work_done_again(tmp_path):
    with ahead.Processes(2) as processes:
        calls = {name: (str(tmp_path), name) for name in "abcde"}
        assert dict(processes.each(killed_once, calls)) == {n: n.upper() for n in "abcde"}


def test_what_fails_is_left_out_and_said(caplog):
    with ahead.Processes(1) as processes, caplog.at_level(logging.WARNING):
        found = dict(processes.each(failing, {name: (name,) for name in "abc"}))
    assert found == {"a": "A", "c": "C"} and "a fault of ours" in caplog.text


@pytest.mark.parametrize("fault", [
    lambda *_: iter(()),
    lambda *_: (_ for _ in ()).throw(RuntimeError("no processes")),
], ids=["nothing comes back", "it fails"])  # fmt: skip
def test_without_results_ahead_nbgrader_computes_the_same_itself(
    released, tmp_path, plain, monkeypatch, fault
):
    course = class_of(released, tmp_path / "course", ("all right", "mixture"))
    monkeypatch.setattr(ahead.Processes, "each", fault)
    assert grade(course.root, ASSIGNMENT, workers=1, feedback=False) == 0
    for student in (p.name for p in (course.root / "submitted").iterdir()):
        assert course.verdicts(student) == plain.verdicts(student)
        assert course.scores(student) == plain.scores(student)


# --- work ----------------------------------------------------------------------------------------


WORK = Work(
    cells=[("import torch", None), ("def causal_mask(n, k=None):\n    return 1", None),
           ('check("causal_mask")', "causal_mask"), ("print('shown')", None)],
    seeds={"causal_mask": 5}, tier=2,
)  # fmt: skip


def test_work_is_a_function_of_values_and_what_is_known_is_not_done_again(monkeypatch):
    first = do(WORK, {})
    assert len(first) == 2 and json.loads(do_text(as_text(WORK, {}))) == first
    monkeypatch.setattr(sandbox.Worker, "job", lambda *_, **__: pytest.fail("it is known"))
    assert do(WORK, first) == {}
    assert look_up(WORK, first) == (True, first)
    verdict = next(k for k, v in first.items() if "score" in v)
    assert look_up(WORK, {verdict: first[verdict]}) == (False, {verdict: first[verdict]})
    assert look_up(WORK, {}) == (False, {})


TOGETHER = Work(
    cells=[
        ("import torch\nfrom torch import Tensor, nn\nimport math", None),
        ("def softmax(x, dim=-1):\n    torch.tril = None\n"
         "    return x.exp() / x.exp().sum(dim, keepdim=True)", None),
        ('check("softmax")', "softmax"),
        ("def causal_mask(n, m=None):\n    m = m or n\n"
         "    return torch.tril(torch.ones(m, m)).bool()[m - n :]", None),
        ('check("causal_mask")', "causal_mask"),
        ("def rope_angles(positions, d, base=10000.0):\n    raise NotImplementedError", None),
        ('check("rope_angles")', "rope_angles"),
        ("def scaled_dot_product_attention(Q, K, V, mask=None):\n    return 0.3 * V.cos()", None),
        ('check("scaled_dot_product_attention")', "scaled_dot_product_attention"),
    ],
    seeds={"softmax": 1, "causal_mask": 2, "rope_angles": 3, "scaled_dot_product_attention": 4},
    tier=2,
)  # fmt: skip


def test_the_common_run_gives_what_runs_of_their_own_give(monkeypatch):
    alone, run = [], sandbox.Worker.run

    def counted(self, cells, name, *calls):
        alone.append(name)
        return run(self, cells, name, *calls)

    monkeypatch.setattr(sandbox.Worker, "run", counted)
    together = do(TOGETHER, {})
    # Settled: a named mistake, no attempt. Not: what calling softmax spoilt, and what has no name.
    assert alone == ["causal_mask", "scaled_dot_product_attention"]
    monkeypatch.setattr(engine, "run_once", lambda *_: None)
    assert do(TOGETHER, {}) == together and alone[2:] == [*TOGETHER.seeds]
    verdicts = {v["exercise"]: v for v in together.values() if "exercise" in v}
    assert verdicts["softmax"]["misconception"] and not verdicts["rope_angles"]["attempted"]
    assert verdicts["causal_mask"]["score"] == verdicts["causal_mask"]["points"]


def test_a_cell_that_raises_is_told_of_beside_a_named_mistake():
    cells = [("import torch", None), ("1 / 0", None), *TOGETHER.cells[1:3]]
    (verdict,) = (v for v in do(Work(cells, {"softmax": 1}, 2), {}).values() if "exercise" in v)
    assert verdict["misconception"] and "ZeroDivisionError" in verdict["message"]


def test_work_that_fails_is_left_out(monkeypatch):
    monkeypatch.setattr(engine, "run_once", lambda *_: None)
    monkeypatch.setattr(sandbox.Worker, "run", lambda *_: 1 / 0)
    (only,) = do(WORK, {}).values()
    assert "outputs" in only


# --- a cluster -----------------------------------------------------------------------------------


def dask(*arguments: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers on this machine, each a process of its own: address, workers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", str(port), folder=tmp_path)
    options = ("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1")
    workers = [dask("worker", address, *options, folder=tmp_path) for _ in range(2)]
    yield address, workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


def test_on_a_cluster_that_loses_a_worker_the_scores_are_the_same_and_the_secret_stays_here(
    plain, handed_in, cluster, monkeypatch
):
    address, workers = cluster
    monkeypatch.delattr(sandbox._of_thread, "worker", raising=False)
    sent, back = {}, []
    on_cluster = class_run.on_cluster

    def listening(address, texts):
        sent.update(texts)
        for number, result in enumerate(on_cluster(address, texts)):
            if number == 0:
                workers[0].send_signal(signal.SIGKILL)
            back.append(result[0])
            yield result

    monkeypatch.setattr(class_run, "on_cluster", listening)
    assert grade(handed_in.root, ASSIGNMENT, scheduler=address, feedback=False) == 0
    assert workers[0].poll() == -signal.SIGKILL and workers[1].poll() is None
    assert_same_as(plain, handed_in, "autograded")
    assert len(sent) == len(KINDS) and sorted(back) == sorted(sent)
    for name, text in sent.items():
        assert SECRET not in text and name.split("/")[0] not in text


def test_without_a_scheduler_the_run_says_how_to_start_one(monkeypatch):
    monkeypatch.setattr(ahead, "CONNECT_SECONDS", 1)
    with pytest.raises(RuntimeError, match=r"no dask scheduler at tcp:.*dask worker"):
        list(ahead.on_cluster("tcp://127.0.0.1:1", {"a": "{}"}))
