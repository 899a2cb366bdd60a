"""Hostile submissions in one class with honest ones: nothing is raised, leaked, lost or stopped.

Here every second one, so that it takes a minute or two; all of them with LLMR_ATTACKS=all, and in `llmr
attack`, which also shows what the same submissions reach on stock nbgrader.
"""

import dataclasses
import os

import nbformat
import pytest
import torch

from llmr_ref.grading import attack_run, seccomp
from llmr_ref.grading.attack import GAINS, MARK, Target, active, load_suite, spelled
from llmr_ref.grading.attack_run import Result, run_ours
from llmr_ref.grading.autograde import KEY
from llmr_ref.grading.card import card_html, card_text
from llmr_ref.grading.engine import grade_exercise
from llmr_ref.grading.exercise import submission_seed
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.frames import Limits
from llmr_ref.grading.sandbox import EMPTY_CALL, Worker, available_tier
from llmr_ref.grading.verdict import GRADED_FAULT, practice_trials, prepare

pytestmark = pytest.mark.course

SUITE = load_suite()
EVERY = 1 if os.environ.get("LLMR_ATTACKS") == "all" else 2
TRIED = dict(list(SUITE.items())[::EVERY])
SECURITY = sorted(name for name, a in TRIED.items() if not a.look)
LOOK = sorted(name for name, a in TRIED.items() if a.look)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The class, graded once: the course that was attacked and what each attack reached."""
    assert available_tier() == (2, "bubblewrap works")
    return run_ours(list(TRIED.values()), tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="module")
def worker():
    with Worker(tier=2, limits=Limits(wall_seconds=6.0)) as worker:
        yield worker


# --- the class -----------------------------------------------------------------------------------


def test_the_suite_holds_at_least_60_attacks_of_every_kind():
    assert len([a for a in SUITE.values() if not a.look]) >= 120 and len(SECURITY) >= 60
    assert {a.gain for a in SUITE.values()} == {a.gain for a in TRIED.values()} == set(GAINS)
    assert len({a.author for a in SUITE.values()}) == len(SUITE)
    assert all(a.idea.endswith(".") for a in SUITE.values())


@pytest.mark.parametrize("name", SECURITY)
def test_an_attack_reaches_nothing(attacked, name):
    assert attacked[1][name] == Result()


@pytest.mark.parametrize("name", LOOK)
def test_what_is_no_matter_of_security_harms_nobody_else(attacked, name):
    result = attacked[1][name]
    assert dataclasses.replace(result, raised="") == Result()


def test_honest_students_between_the_attacks_have_exactly_their_scores(attacked):
    target, _ = attacked
    assert target.harmed() == "" and not target.stopped
    assert {v: target.scores(v) for v in target.victims} == {
        v: target.deserved[v] for v in target.victims
    }
    assert (
        0 < target.scores("zz-victim")["softmax"] < 3 or target.scores("zz-victim")["softmax"] == 0
    )


def test_every_attacker_has_a_state_and_reasons_where_one_is_needed(attacked):
    target, _ = attacked
    for name, one in TRIED.items():
        folder = target.root / "autograded" / one.author / "attention"
        notebook = nbformat.read(folder / "attention.ipynb", as_version=4)
        assert notebook.metadata[KEY]["graded"] and notebook.metadata[KEY]["tier"] == 2, name
        verdicts = [
            c.metadata[KEY] for c in notebook.cells if "exercise" in c.metadata.get(KEY, {})
        ]
        assert {v["exercise"] for v in verdicts} == set(target.deserved[one.author]), name
        assert not any("the grader failed" in v["needs_look"] for v in verdicts), (name, verdicts)


def test_no_token_of_the_course_stands_in_any_page_card_log_or_report(attacked):
    target, _ = attacked
    assert len(target.tokens) >= 6
    pages = [target.log]
    pages += [target.readable(s) for s in target.deserved if s not in target.victims]
    for place, token in target.tokens.items():
        if place != "the work of another student":
            assert not [page for page in pages if token in page], place


def test_no_graded_input_stands_in_the_page_of_anybody(attacked):
    target, _ = attacked
    secret = target.tokens["the course secret"].encode()
    looked_for = 0
    for student in target.deserved:
        text = target.readable(student)
        for numbers in target.graded_numbers(student, secret):
            assert numbers not in text, student
            looked_for += 1
    assert looked_for > 10 * len(target.deserved)


# --- the measures see what they are for ----------------------------------------------------------


@pytest.mark.parametrize("page, found", [
    (f"<script>x = '{MARK}'</script>", {"<script>"}),
    (f"<p><img src=x onerror=\"{MARK}\"></p>", {"img onerror"}),
    (f"<a href=\" JavaScript:'{MARK.replace(' ', '%20')}'\">x</a>", {"a href"}),
    (f"<iframe srcdoc='{MARK}'></iframe>", {"<iframe>"}),
    (f"<math><mtext><img/src='x'/onerror='{MARK.replace(' ', '&#xA0;')}'></mtext></math>", {"img onerror"}),
    (f"<pre>&lt;script&gt;{MARK}&lt;/script&gt;</pre>", set()),
    (f"<p title=\"{MARK}\">{MARK}</p><script>own()</script>", set()),
])  # fmt: skip
def test_what_runs_in_a_page_is_told_from_what_is_shown(page, found):
    assert active(page) == found


def test_tokens_numbers_points_and_losses_are_seen(attacked):
    """Planted by hand into a copy of one graded submission: each measure must notice its own."""
    target, _ = attacked
    one = next(
        a for a in TRIED.values() if a.gain == "leak" and a.change.__module__ == "attacks.looking"
    )
    page = target.feedback(one.author)
    page.chmod(0o644)
    honest = page.read_text()
    secret = target.tokens["the course secret"].encode()
    planted = {
        "a file in the course": target.tokens["a file in the course"],
        "graded inputs": sorted(target.graded_numbers(one.author, secret))[0],
    }
    for place, text in planted.items():
        page.write_text(honest + text)
        assert target.leaked(one) == place
    page.write_text(honest + f"<script>{MARK}</script>")
    assert target.raised(one) == "feedback runs <script>"
    page.unlink()
    assert target.lost(one) == "no feedback"
    page.write_text(honest)
    worth = target.deserved[one.author]
    assert target.raised(one) == target.leaked(one) == target.lost(one) == ""
    target.deserved[one.author] = {**worth, "causal_mask": 1.0}
    try:
        assert target.raised(one) == "causal_mask 2 for 1"
    finally:
        target.deserved[one.author] = worth
    assert "lost points" in _harm(target)


def _harm(target: Target) -> str:
    honest = target.deserved["00-victim"]
    target.deserved["00-victim"] = {**honest, "softmax": 2.5}
    try:
        return target.harmed()
    finally:
        target.deserved["00-victim"] = honest


def test_an_attack_that_does_not_exist_is_named(monkeypatch):
    with pytest.raises(
        RuntimeError, match=r"There is no attack 'none'\. There are: .*display-hook"
    ):
        attack_run.main(only="none")


def test_outside_of_a_checkout_the_command_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("llmr_ref.grading.attack.ROOT", tmp_path)
    with pytest.raises(RuntimeError, match="Run this in a checkout of the repository"):
        load_suite()


# --- graded inputs stay where they are -----------------------------------------------------------

TELLING = {
    "a message": "raise ValueError(repr(x))",
    "a type": "raise type('E' + repr(x)[:60], (Exception,), {})('x')",
    "an offset": "return torch.softmax(x, dim) + x.abs().sum()",
    "a shape": "return torch.zeros(int(x.abs().sum() * 10))",
    "a count of wrong places": "y = torch.softmax(x, dim); y[x > 0] += 1; return y",
    "a line": "lines[int(x.abs().sum()) % 3]()",
    "text": "return repr(x)",
    "an exit status": "seen.append(1); len(seen) > 30 and os._exit(int(x.abs().sum() * 10) % 250 + 1)",
    "all that was seen": "seen.append(repr(x)); raise ValueError(' '.join(seen))",
    "practice results that come late": (
        "seen.append(repr(x)); raise KeyError(seen[-1] if len(seen) < 15 else seen[14:])"
    ),
}


@pytest.mark.parametrize("way", TELLING)
def test_cards_of_the_same_code_are_identical_for_students_with_different_inputs(worker, way):
    cell = f"""
import os
import torch

seen = []
lines = [
    lambda: 1 / 0,
    lambda: [][1],
    lambda: {{}}["x"],
]


def softmax(x, dim=-1):
    {TELLING[way]}
"""
    exercise = get_exercise("softmax")
    seeds = [submission_seed(b"the secret", student, "softmax") for student in ("s01", "s02")]
    inputs = [[str(t.call) for t in prepare(exercise, s, practice=False)] for s in seeds]
    assert inputs[0] != inputs[1]
    verdicts = [grade_exercise(exercise, [cell], s, worker) for s in seeds]
    assert card_html(verdicts[0]) == card_html(verdicts[1])
    assert card_text(verdicts[0]) == card_text(verdicts[1])
    assert verdicts[0].score == 0.0


def test_code_that_fails_on_graded_inputs_alone_is_told_in_fixed_words(worker):
    exercise = get_exercise("softmax")
    cell = f"""
calls = []


def softmax(x, dim=-1):
    calls.append(x)
    if len(calls) > {len(practice_trials(exercise))}:
        raise ValueError(repr(calls))
    e = (x - x.amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)
"""
    verdict = grade_exercise(exercise, [cell], 7, worker)
    said = {p.message for p in verdict.properties if not p.passed}
    assert said == {GRADED_FAULT}
    assert verdict.score == 0.0 and verdict.counterexample is None and not verdict.misconception


def test_before_the_graded_calls_nothing_of_them_is_in_the_process(worker):
    """Frames and every object that the collector knows, in a cell and in a practice call."""
    graded = torch.tensor([0.123, 4.567, 8.901])
    code = """
import gc
import sys

import torch


def everything():
    held, frame = gc.get_objects(), sys._getframe()
    while frame:
        held += list(frame.f_locals.values())
        frame = frame.f_back
    found = [x for x in held if isinstance(x, torch.Tensor) and x.numel() == 3]
    for x in held:
        if isinstance(x, dict):
            found += [v for v in list(x.values()) if isinstance(v, torch.Tensor) and v.numel() == 3]
    return sorted({repr(x.tolist()) for x in found})


in_cell = everything()


def f(x):
    return [in_cell, everything()]
"""
    practice = {**EMPTY_CALL, "args": (torch.tensor([1.0, 2.0, 3.0]),)}
    ran = worker.run([code], "f", [practice], [{**EMPTY_CALL, "args": (graded,)}])
    shown = str(spelled(graded.tolist()).split(",")[0][:4])
    for stage in ran.outcomes[0]["value"]:
        assert not [held for held in stage if shown in held]
    assert any("0.12" in held for held in ran.outcomes[1]["value"][1])  # it would have been found


def test_results_of_practice_that_come_after_grading_began_do_not_count(worker):
    code = """
import json, os, struct
import safetensors.torch


def send(block):
    for descriptor in range(3, 16):
        try:
            os.write(descriptor, struct.pack("<I", len(block)) + block)
        except OSError:
            pass


def f(x):
    outcome = {"d": {k: {"v": v} for k, v in {
        "status": "error", "type": "T", "message": f"told {x}", "line": None}.items()}}
    late = safetensors.torch.save({}, metadata={"tree": json.dumps(outcome)})
    send(b"G")
    send(b"R" + struct.pack("<I", 0) + late)
    send(b"E" + json.dumps({"cell": 0, "type": "T", "message": f"told {x}"}).encode())
    send(b"C" + struct.pack("<I", 0))
    return x
"""
    ran = worker.run([code], "f", [{**EMPTY_CALL, "args": (1,)}], [{**EMPTY_CALL, "args": (2,)}])
    assert ran.ended == "early exit" and ran.cell_errors == [] and ran.stuck_cell is None
    assert "told" not in str(ran.outcomes[0])


# --- submissions from each other, and from the worker --------------------------------------------


def test_signals_to_the_process_group_reach_nobody_else(worker):
    assert _value(worker, "def f():\n    return 1") == 1
    process = worker._process._process.pid
    code = "import os\ndef f():\n    os.kill(0, 9)\n    os.killpg(0, 15)\n    return 2"
    assert _value(worker, code) == 2
    assert worker._process._process.pid == process and _value(worker, "def f():\n    return 3") == 3


def test_no_earlier_submission_is_in_the_memory_of_the_next_one(worker):
    """The whole memory of a fresh child, through a pipe, which refuses what is not mapped."""
    token = "d1f0c0ffee" * 3
    own = f"earlier = '{token}'\ndef f(x):\n    return [x, earlier * 3]"
    assert worker.run([own], "f", [{**EMPTY_CALL, "args": (token,)}]).ended == "done"
    look = """
import ctypes, gc, os
libc = ctypes.CDLL(None, use_errno=True)
read_end, write_end = os.pipe()
os.set_blocking(write_end, False)


def f(half):
    pages, found, seen = set(), 0, 0
    for held in gc.get_objects() + [half, f]:
        start = id(held) & ~0x3FFFF
        pages.update(range(start, start + 0x40000, 4096))
    token = (half * 2).encode()
    for address in sorted(pages):
        if libc.write(write_end, ctypes.c_void_p(address), 4096) == 4096:
            seen += 1
            found += os.read(read_end, 4096).count(token)
    return [found, seen]
"""
    call = {**EMPTY_CALL, "args": (token[:15],)}
    ran = worker.run([look], "f", [call])
    found, seen = ran.outcomes[0]["value"]
    assert seen > 100
    assert found <= 1  # the one that it has just put together itself


def test_more_threads_than_allowed_end_the_exercise_with_the_reason(worker):
    code = """
import threading, time
threading.stack_size(32768)
def f():
    for _ in range(500):
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    time.sleep(5)
"""
    ran = worker.run([code], "f", [EMPTY_CALL])
    said = ran.outcomes[0]["message"]
    assert (ran.ended == "threads" and said == "more than 64 threads at once") or "thread" in said


REFUSED = ("ptrace", "process_vm_readv", "mount", "keyctl", "bpf", "io_uring_setup", "userfaultfd",
           "perf_event_open", "memfd_create", "shmget", "setns", "pidfd_open", "kexec_load",
           "open_by_handle_at", "syslog")  # fmt: skip


def test_system_calls_around_the_walls_are_refused(worker):
    column = seccomp.MACHINES[os.uname().machine][0]
    numbers = [seccomp.REFUSED[name][column] for name in REFUSED]
    code = """
import ctypes
def f(numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    return [[libc.syscall(n, 0, 0, 0, 0, 0, 0), ctypes.get_errno()] for n in numbers]
"""
    assert _value(worker, code, numbers) == [[-1, 1]] * len(REFUSED)  # EPERM, each of them


def test_the_status_of_a_broken_sandbox_cannot_be_claimed_by_a_submission(worker):
    for status in (70, 3, 137):
        ran = worker.run([f"import os\nos._exit({status})"], "f", [EMPTY_CALL])
        assert ran.ended == "early exit"


def _value(worker, code, *args):
    (outcome,) = worker.run([code], "f", [{**EMPTY_CALL, "args": args}]).outcomes
    assert outcome["status"] == "ok", outcome
    return outcome["value"]
