"""What a notebook shows when it runs: its plots and prints, for formgrader and feedback.

The notebook runs in a fork of the worker like every exercise. What comes back is untrusted: only text and
bitmaps pass, cut to size; no HTML of a student's reaches an instructor.
"""

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

import nbformat
from pydantic import BaseModel

from llmr_ref.grading.frames import Limits
from llmr_ref.grading.sandbox import Worker

LIMITS = Limits(  # of the notebook as a whole
    wall_seconds=40.0, cpu_seconds=30, memory_bytes=2 << 30, output_bytes=16 << 20
)
MAX_FRAMES = 5_000
MAX_OUTPUTS = 100  # of one cell
MAX_STREAM_CHARACTERS = 20_000
MAX_TRACEBACK_CHARACTERS = 20_000
MAX_PICTURE_BYTES = 2 << 20
SIGNATURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}

Output = dict[str, Any]


class Pictures(BaseModel):
    """What each cell that began has shown, and how the run ended."""

    outputs: dict[int, list[Output]]
    ended: str

    @property
    def note(self) -> str:
        """What the instructor is told; empty when the notebook ran to its end."""
        return "" if self.ended == "done" else f"the notebook did not run to its end ({self.ended})"


def take_pictures(cells: Sequence[str | None], worker: Worker) -> Pictures:
    """Run the cells in IPython, in a fork of the worker, and keep what they show.

    Raises: SandboxError when the worker itself fails; a student's fault is never an exception.
    """
    return read_pictures(*worker.job(cells, (), LIMITS, show=True), len(cells))


def read_pictures(ended: str, frames: Sequence[bytes], n_cells: int) -> Pictures:
    """What untrusted frames show, up to where the code learns what it is graded on."""
    shown: dict[int, list[Output]] = {}
    finished = False
    for frame in frames[:MAX_FRAMES]:
        try:
            if frame[:1] == b"C":
                (number,) = struct.unpack("<I", frame[1:])
                if number < n_cells:
                    shown.setdefault(number, [])
            elif frame[:1] == b"O":
                _add(shown, json.loads(frame[1:]))
            elif frame == b"T":
                finished = True
            elif frame == b"G":
                break
        except Exception:
            continue  # not what our shell sends
    if ended == "done" and not finished:
        ended = "early exit" if len(frames) <= MAX_FRAMES else "output size"
    outputs = {n: [_finished(o) for o in own] for n, own in shown.items()}
    return Pictures(outputs=outputs, ended=ended)


def _add(shown: dict[int, list[Output]], said: dict[str, Any]) -> None:
    """Add one untrusted output, or change those that are there. Raises: anything, for what is none."""
    own, kind = shown[said["cell"]], said["output_type"]
    if kind == "clear":
        own.clear()
    elif kind == "update" and said["display_id"] is not None:
        data = _tame(said["data"])
        for output in (o for outputs in shown.values() for o in outputs):
            if output.get("display_id") == said["display_id"]:
                output["data"] = data
    elif kind == "stream" and own and own[-1].get("name") == said["name"]:
        own[-1]["text"] += _text(said["text"])[: MAX_STREAM_CHARACTERS + 1]
    elif len(own) < MAX_OUTPUTS:
        own.append(_output(kind, said))


def _output(kind: str, said: dict[str, Any]) -> Output:
    """An output with the fields of its kind and no others. Raises: ValueError, KeyError, TypeError."""
    if kind == "stream" and said["name"] in ("stdout", "stderr"):
        return {"output_type": kind, "name": said["name"], "text": _text(said["text"])}
    if kind == "display_data":
        named = {"display_id": said.get("display_id")}
        return {"output_type": kind, "data": _tame(said["data"]), "metadata": {}, **named}
    if kind == "execute_result":
        count = {"execution_count": None}  # the cell's, once it is known
        return {"output_type": kind, "data": _tame(said["data"]), "metadata": {}, **count}
    if kind == "error":
        lines = [_text(line) for line in said["traceback"]]
        if sum(map(len, lines)) > MAX_TRACEBACK_CHARACTERS:
            lines = ["\n".join(lines)[-MAX_TRACEBACK_CHARACTERS:]]
        name, value = _text(said["ename"])[:200], _text(said["evalue"])[:MAX_STREAM_CHARACTERS]
        return {"output_type": kind, "ename": name, "evalue": value, "traceback": lines}
    raise ValueError(f"{kind!r} is no output")


def _finished(output: Output) -> Output:
    """The finished output, as nbformat has it: long text cut, no display_id."""
    output = {k: v for k, v in output.items() if k != "display_id"}
    if output["output_type"] == "stream" and len(output["text"]) > MAX_STREAM_CHARACTERS:
        output["text"] = output["text"][:MAX_STREAM_CHARACTERS] + "\n... the rest is left out\n"
    nbformat.validate(nbformat.from_dict(output), version=4, ref="output")
    return output


def _tame(data: dict[str, Any]) -> dict[str, str]:
    """Keep text and bitmap pictures, cut what is long."""
    kept = {}
    text = _text(data.get("text/plain", ""))
    if len(text) > MAX_STREAM_CHARACTERS:
        text = text[:MAX_STREAM_CHARACTERS] + " ..."
    for kind, signature in SIGNATURES.items():
        picture = data.get(kind)
        if not isinstance(picture, str) or len(picture) > MAX_PICTURE_BYTES:
            continue
        bitmap = base64.b64decode(picture)
        if bitmap.startswith(signature):
            kept[kind] = base64.b64encode(bitmap).decode()
    return {"text/plain": text, **kept} if text or not kept else kept


def _text(value: Any) -> str:
    """Text that a file can hold. Raises: TypeError for what is no text."""
    if type(value) is not str:
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()
