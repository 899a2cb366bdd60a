"""What the worker's frames say: limits, outcomes and how a run ended. Trusted side; frames are not."""

import dataclasses
import json
import struct
from typing import Any

from llmr_ref.grading import runner
from llmr_ref.grading.foreign_text import clean

MAX_CELL_ERRORS = 100


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


def read_frames(
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
            if kind == b"C" and stage in ("cells", "check"):
                (number,) = struct.unpack("<I", rest)
                current_cell = number if number < n_cells else current_cell
                stage = "cells"
            elif kind == b"E" and stage == "cells":
                said = json.loads(rest)
                cell_errors.append(
                    {"cell": int(said["cell"]), "type": clean(said["type"], 80),
                     "message": clean(said["message"], 500)}
                )  # fmt: skip
            elif frame == b"K" and stage in ("cells", "check"):
                current_cell, stage = None, "check"
            elif frame == b"T" and stage in ("cells", "check"):
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
