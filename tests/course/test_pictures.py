"""The notebook's own run in the sandbox: what is shown, what ends it, and what a student may not show."""

import base64
import json
import struct

import nbformat
import pytest

from llmr_ref.grading import pictures
from llmr_ref.grading.frames import Limits
from llmr_ref.grading.pictures import take_pictures
from llmr_ref.grading.sandbox import Worker, available_tier

pytestmark = pytest.mark.course

PNG = base64.b64encode(pictures.SIGNATURES["image/png"] + b"...").decode()


@pytest.fixture(scope="module", params=[2, 1], ids=["tier 2", "tier 1"])
def worker(request):
    assert available_tier()[0] == 2, available_tier()
    with Worker(tier=request.param) as worker:
        yield worker


def shown(worker, *cells):
    """What each cell shows, in short."""
    taken = take_pictures(cells, worker)
    assert taken.ended == "done", taken
    return [[brief(o) for o in taken.outputs.get(n, [])] for n in range(len(cells))]


def brief(output):
    kind = output["output_type"]
    if kind == "stream":
        return output["name"], output["text"]
    if kind == "error":
        return kind, output["ename"], output["evalue"]
    return kind, *(output["data"][k] if k == "text/plain" else k for k in sorted(output["data"]))


def test_prints_values_figures_and_errors_are_shown_below_their_cells_and_the_rest_still_runs(
    worker,
):
    plot = "import matplotlib.pyplot as plt\nfigure = plt.plot([1, 2])"
    seen = shown(
        worker,
        "print('a'); print('b')\nimport sys\nprint('c', file=sys.stderr)\n40 + 2",
        "_ + 1;", "Out[1], In[1][:5]", plot, "1 / 0", "def f(:", "", "display(1, 2)\n3", "x",
    )  # fmt: skip
    assert seen[0] == [("stdout", "a\nb\n"), ("stderr", "c\n"), ("execute_result", "42")]
    assert seen[1] == [] and seen[2] == [("execute_result", "(42, 'print')")]
    assert seen[3] == [("display_data", "image/png", "<Figure size 640x480 with 1 Axes>")]
    assert seen[4] == [("error", "ZeroDivisionError", "division by zero")]
    assert seen[5][0][:2] == ("error", "SyntaxError") and seen[6] == []
    assert seen[7] == [("display_data", "1"), ("display_data", "2"), ("execute_result", "3")]
    assert seen[8] == [("error", "NameError", "name 'x' is not defined")]


def test_what_notebooks_do_with_ipython_works(worker):
    seen = shown(
        worker,
        "%matplotlib inline\n%timeit -n 1 -r 1 1",
        "import asyncio\nawait asyncio.sleep(0)\n'awaited'",
        "handle = display('before', display_id='d')", "handle.update('after')",
        "from IPython.display import clear_output\nprint('old'); clear_output(); print('new')",
        "exit()", "raise SystemExit(1)", "print('still here')",
    )  # fmt: skip
    assert "loop" in seen[0][0][1] and seen[1] == [("execute_result", "'awaited'")]
    assert seen[2] == [("display_data", "'after'")] and seen[3] == []
    assert seen[4] == [("stdout", "new\n")]
    assert seen[6][0][:2] == ("error", "SystemExit") and seen[7] == [("stdout", "still here\n")]


def test_nothing_is_left_for_the_next_notebook(worker):
    shown(
        worker, "import builtins, matplotlib.pyplot as plt\nbuiltins.mine = 1\nplt.figure()\nx = 1"
    )
    seen = shown(worker, "print('mine' in dir(__builtins__), 'x' in dir())", "In")
    assert seen[0] == [("stdout", "False False\n")]
    assert "mine" in seen[1][0][1] and "builtins.mine" not in seen[1][0][1]


def test_html_and_scripts_are_not_shown(worker):
    seen = shown(worker, "from IPython.display import *\ndisplay(HTML('<script>x</script>'))\n"
                         "display(Javascript('x'), Markdown('x'), SVG('<svg/>'))\n"
                         "display({'text/html': 'x', 'image/png': 'x'}, raw=True)")  # fmt: skip
    assert len(seen[0]) == 4 and "<script" not in str(seen) and "<svg" not in str(seen)
    assert {len(o) for o in seen[0]} == {2} and "image/png" not in str(seen[0])


@pytest.mark.parametrize("ending, said", [
    ("import os\nos._exit(0)", "early exit"),
    ("import ctypes\nctypes.string_at(0)", "died: SIGSEGV"),
    ("while True:\n    pass", "cpu time"),
    ("import time\ntime.sleep(60)", "wall time"),
])  # fmt: skip
def test_what_came_before_the_end_is_kept_and_the_reason_told(worker, monkeypatch, ending, said):
    monkeypatch.setattr(pictures, "LIMITS", Limits(
        wall_seconds=30.0 if said == "cpu time" else 3.0, cpu_seconds=1))  # fmt: skip
    taken = take_pictures(["print('kept')\n5", ending, "print('never')"], worker)
    assert taken.ended == said and said in taken.note
    assert [brief(o) for o in taken.outputs[0]] == [("stdout", "kept\n"), ("execute_result", "5")]
    assert taken.outputs.get(1, []) == [] and 2 not in taken.outputs


def test_much_output_is_cut_and_the_other_cells_are_still_shown(worker):
    seen = shown(worker, "for _ in range(10000):\n    print('x' * 1000)",
                 "for i in range(1000):\n    display(i)", "'y' * 10**6", "print('end')")  # fmt: skip
    assert 10_000 < len(seen[0][0][1]) < 30_000 and "left out" in seen[0][-1][1]
    assert len(seen[1]) <= pictures.MAX_OUTPUTS
    assert len(seen[2][0][1]) < 30_000 and seen[3] == [("stdout", "end\n")]


def frame(**said):
    return b"O" + json.dumps({"cell": 0, **said}).encode()


UNTRUSTED = {
    "no json": b"O{",
    "nested deeply": b"O" + b"[" * 100_000,
    "no such cell": frame(cell=7, output_type="stream", name="stdout", text="x"),
    "cell that is no number": frame(cell=[], output_type="stream", name="stdout", text="x"),
    "unknown kind": frame(output_type="pwned", data={}),
    "stream of another name": frame(output_type="stream", name="x", text="x"),
    "text that is no text": frame(output_type="stream", name="stdout", text=["x"]),
    "data that is no object": frame(output_type="display_data", data=[1]),
    "html": frame(output_type="display_data", data={"text/html": "<script>", "text/plain": 1}),
    "picture that is none": frame(output_type="display_data", data={"image/png": "PHNjcmlwdD4="}),
    "traceback that is none": frame(output_type="error", ename="x", evalue="x", traceback=5),
    "result with fields of its own": frame(
        output_type="execute_result", data={"image/png": PNG}, metadata={"x": 1}, execution_count="x"),
    "cell of a large number": b"C" + struct.pack("<I", 2**31),
    "half a character": frame(output_type="stream", name="stdout", text="\ud83d"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_frames_of_any_kind_end_as_outputs_that_a_notebook_can_hold(kind):
    class Forged:
        def job(self, cells, checks, limits, show):
            return "done", [b"C" + struct.pack("<I", 0), UNTRUSTED[kind], b"T"]

    taken = take_pictures(["1"], Forged())
    cell = nbformat.v4.new_code_cell("1", outputs=taken.outputs[0])
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))
    assert taken.ended == "done" and set(taken.outputs) == {0}
    text = json.dumps(taken.model_dump(mode="json"))
    assert "script" not in text and "pwned" not in text
    json.dumps(cell).encode("utf-8")


def test_a_flood_of_frames_is_not_followed_to_its_end():
    class Forged:
        def job(self, cells, checks, limits, show):
            one = frame(output_type="stream", name="stdout", text="x" * 1000)
            return "done", [b"C" + struct.pack("<I", 0), *[one] * 10_000, b"T"]

    taken = take_pictures(["1"], Forged())
    assert taken.ended == "output size"
    assert sum(len(o["text"]) for o in taken.outputs[0]) < 30_000
