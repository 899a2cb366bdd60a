"""Run one call of a student's function and carry values across a process boundary.

This file is all that the sandbox sees of the package, beside worker.py: it imports torch, safetensors
and the standard library, knows no reference and no bank, and decides nothing. The same code runs a
student's function in JupyterLab, in the sandbox, and the reference on the trusted side.

Values are JSON trees with tensors in safetensors beside them. Nothing is ever pickled.
"""

import collections
import contextlib
import functools
import io
import json
import math
import struct
import traceback
from collections.abc import Iterator
from typing import Any

import safetensors.torch
import torch
from safetensors import TensorSpec
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

MAX_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 4 * 2**20
MAX_TEXT = 2_000  # characters of an error message that are kept
DTYPES = frozenset({
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
})  # fmt: skip


class ForeignValue(Exception):
    """A value that does not cross: not a tensor, number, string, None or a container of these."""


def encode(tree: Any) -> bytes:
    """Pack nested tuples, lists, dicts, scalars and tensors into safetensors bytes.

    Raises: ForeignValue for any other type, tensor subclasses included.
    """
    return _serialized(*_packed(tree))


def _serialized(header: str, tensors: dict[str, Tensor]) -> bytes:
    """In safetensors format. Straight from memory: `safetensors.torch.save` takes ten times as long."""
    specs = {
        key: TensorSpec(
            dtype=str(t.dtype).removeprefix("torch."), shape=t.shape, data_ptr=t.data_ptr(),
            data_len=t.nbytes,
        )
        for key, t in tensors.items()
    }  # fmt: skip
    return bytes(safetensors.serialize(specs, {"tree": header}))


def _packed(tree: Any) -> tuple[str, dict[str, Tensor]]:
    """The tree as JSON that names its tensors, and the tensors. Raises: ForeignValue as `encode`."""
    tensors: dict[str, Tensor] = {}

    def pack(value: Any, depth: int = 0) -> Any:
        if depth > 20:
            raise ForeignValue("nested more than 20 deep")
        if value is None or type(value) in (bool, int, float, str):
            return {"v": value}
        if type(value) in (Tensor, nn.Parameter):
            if value.layout != torch.strided or value.is_meta:
                raise ForeignValue(f"a tensor with layout {value.layout} on {value.device}")
            if value.dtype not in DTYPES:
                raise ForeignValue(f"a tensor of dtype {value.dtype}")
            key = str(len(tensors))
            plain = value.detach().cpu().resolve_conj().resolve_neg()
            # A fresh copy, whole and in one piece, whatever the student's tensor looks at.
            tensors[key] = plain.clone(memory_format=torch.contiguous_format)
            return {"t": key}
        if type(value) is bytes:
            return {"b": value.hex()}
        if type(value) in (dict, collections.Counter, collections.defaultdict):
            if all(type(k) is str for k in value):
                return {"d": {k: pack(v, depth + 1) for k, v in value.items()}}
            return {"m": [[pack_key(k), pack(v, depth + 1)] for k, v in value.items()]}
        if type(value) in (list, tuple):
            kind = "l" if type(value) is list else "u"
            return {kind: [pack(v, depth + 1) for v in value]}
        raise ForeignValue(f"a value of type {type(value).__name__}")

    def pack_key(key: Any) -> Any:
        parts = key if type(key) is tuple else (key,)
        if not all(part is None or type(part) in (bool, int, float, str, bytes) for part in parts):
            raise ForeignValue(f"a dict with a key of type {type(key).__name__}")
        return pack(key)

    header = json.dumps(pack(tree))
    size = len(header) + sum(t.nbytes for t in tensors.values())
    if len(header) > MAX_HEADER_BYTES // 4 or size > MAX_BYTES // 2:
        raise ForeignValue(f"{size / 2**20:.1f} MB, too much to send back")
    return header, tensors


def decode(data: bytes) -> Any:
    """Undo `encode`. Raises: ValueError for bytes that `encode` would not have written."""
    if not 8 <= len(data) <= MAX_BYTES:
        raise ValueError(f"{len(data)} bytes is outside 8..{MAX_BYTES}")
    (header_size,) = struct.unpack("<Q", data[:8])
    if header_size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"a header of {header_size} bytes is too long")
    try:
        header = json.loads(data[8 : 8 + header_size])
        packed = json.loads(header["__metadata__"]["tree"])
        tensors = safetensors.torch.load(data)

        def unpack(node: Any) -> Any:
            ((kind, content),) = node.items()
            if kind == "v" and (content is None or isinstance(content, bool | int | float | str)):
                return content
            if kind == "t":
                return tensors[content]
            if kind == "b":
                return bytes.fromhex(content)
            if kind == "d":
                return {k: unpack(v) for k, v in content.items()}
            if kind == "m":
                return {unpack(k): unpack(v) for k, v in content}
            if kind in ("l", "u"):
                return (list if kind == "l" else tuple)(unpack(v) for v in content)
            raise ValueError(f"unknown node {kind!r}")

        return unpack(packed)
    except ValueError:
        raise
    except Exception as error:  # safetensors, json and lookups each raise their own
        raise ValueError(f"not an encoded value: {type(error).__name__}: {error}"[:300]) from error


def run_call(target: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Call `target` once and describe what happened, as a tree that `encode` accepts.

    call: args, kwargs, init (None, or the constructor's keyword arguments when `target` is a class),
    state (None, or the state dict to load), cotangent (None, or the gradient to send back from the
    output), driver (None, or the source of a function that is given `target` and the arguments and uses
    it), and optionally forbids (names of torch's functions). Inputs are copied first, so a call cannot
    change what the next one sees.
    Returns: {"status": "ok", value, arguments (after the call), gradients, state (name -> shape)} or
    {"status": "error", type, message, line}; with forbids also "forbidden", those that were called.
    Only KeyboardInterrupt passes through.
    """
    outcome, _ = _run(target, call)
    return {k: _detached(v) for k, v in outcome.items()}


def run_encoded(target: Any, call: dict[str, Any]) -> bytes:
    """`encode(run_call(target, call))`, packed once."""
    _, packed = _run(target, call)
    return _serialized(*packed)


class CallRecorder(TorchFunctionMode):
    """Notes which of the named functions of torch are called from outside of torch; changes nothing."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.functions = _functions(tuple(names))
        self.called: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = self.functions.get(func)
        if name is not None and name not in self.called:
            self.called.append(name)
        return func(*args, **(kwargs or {}))


@functools.cache
def _functions(names: tuple[str, ...]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for name in names:
        value: Any = torch
        for part in name.split(".")[1:]:
            value = getattr(value, part, None)
        found.setdefault(value, name)
    return found


def _run(target: Any, call: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, dict[str, Tensor]]]:
    """What `run_call` describes, and the same packed."""
    recorder = CallRecorder(call["forbids"]) if call.get("forbids") else None
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        _on_its_own(),
    ):
        try:
            outcome = _called(target, call, recorder or contextlib.nullcontext())
            if recorder:
                outcome["forbidden"] = recorder.called
            return outcome, _packed(outcome)  # what cannot cross is refused where it can be told
        except ForeignValue as error:
            outcome = _error(
                "ForeignValue", f"the result holds {error}, which is not a plain value"
            )
        except MemoryError as error:
            message = "more memory was asked for than is allowed"
            outcome = _error("MemoryError", message, _student_line(error))
        except KeyboardInterrupt:  # in a notebook it is the student who wants to stop
            raise
        except BaseException as error:  # SystemExit from student code included
            outcome = _error(type(error).__name__, str(error), _student_line(error))
    if recorder:
        outcome["forbidden"] = recorder.called
    return outcome, _packed(outcome)


def _called(
    target: Any, call: dict[str, Any], recorder: contextlib.AbstractContextManager[Any]
) -> dict[str, Any]:
    """The outcome of a call that raises nothing. Only what the target does is seen by the recorder."""
    args, kwargs, init = _copy(call["args"]), _copy(call["kwargs"]), _copy(call.get("init"))
    cotangent = call.get("cotangent")
    leaves: dict[str, Tensor] = {}
    if cotangent is not None:
        named = {str(i): a for i, a in enumerate(args)} | kwargs
        leaves = {
            k: v.requires_grad_()
            for k, v in named.items()
            if type(v) is Tensor and v.is_floating_point()
        }
    state_shapes: dict[str, Any] | None = None
    gradients: dict[str, Any] = {}
    function = target
    if init is not None:
        with recorder:
            function = target(**init)
        state_shapes = {k: list(v.shape) for k, v in function.state_dict().items()}
        if call.get("state") is not None:
            function.load_state_dict(_copy(call["state"]))
        if cotangent is not None:
            leaves |= {f"parameter {k}": p for k, p in function.named_parameters()}
    with recorder:
        if call.get("driver") is not None:
            value = _driver(call["driver"])(function, *args, **kwargs)
        else:
            value = function(*args, **kwargs)
        if cotangent is not None:
            gradients = _gradients(value, cotangent, leaves)
    return {
        "status": "ok",
        "value": value,
        "arguments": {str(i): a for i, a in enumerate(args)} | kwargs,
        "gradients": gradients,
        "state": state_shapes,
    }


def _driver(source: str) -> Any:
    """The function that `source` defines; it finds torch, math and nothing else."""
    space: dict[str, Any] = {"torch": torch, "math": math, "Tensor": Tensor}
    exec(compile(source, "<driver>", "exec"), space)
    return next(reversed(space.values()))


@contextlib.contextmanager
def _on_its_own() -> Iterator[None]:
    """One thread and a seeded generator; the caller's own are put back.

    On tensors this small, waking a second thread costs up to a hundred times the work.
    """
    threads, generator = torch.get_num_threads(), torch.default_generator.get_state()
    torch.set_num_threads(1)
    torch.default_generator.manual_seed(0)  # torch.manual_seed seeds every device, 100 times slower
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.default_generator.set_state(generator)


def interrupted() -> dict[str, Any]:
    """The outcome of a call that raised KeyboardInterrupt where nobody can have pressed a key."""
    return _error("KeyboardInterrupt", "")


def missing(name: str) -> dict[str, Any]:
    """The outcome of a call to a name that the notebook never defined."""
    return _error("Missing", f"`{name}` is not defined when its check cell is reached")


def _error(kind: str, message: str, line: int | None = None) -> dict[str, Any]:
    return {"status": "error", "type": kind[:80], "message": message[:MAX_TEXT], "line": line}


def _gradients(value: Any, cotangent: Tensor, leaves: dict[str, Tensor]) -> dict[str, Any]:
    if type(value) is not Tensor or value.shape != cotangent.shape or not value.requires_grad:
        return {}
    if value.device != cotangent.device or not value.is_floating_point():
        return {}  # the comparison of the values says what is wrong
    # The same gradients; given the cotangent itself, torch imports 500 modules to compare two shapes.
    scalar = (value * cotangent).sum()
    found = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def _copy(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {k: _copy(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_copy(v) for v in tree)
    return tree


def _detached(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach()
    if isinstance(tree, dict):
        return {k: _detached(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_detached(v) for v in tree)
    return tree


def _student_line(error: BaseException) -> int | None:
    """Line of the last frame in a notebook cell, as the student counts it."""
    frames = traceback.extract_tb(error.__traceback__)
    places = (
        "<cell",
        "<ipython-input",
    )  # in the worker; JupyterLab's kernel names a file of its own
    lines = [f.lineno for f in frames if f.filename.startswith(places) or "ipykernel" in f.filename]
    return lines[-1] if lines else None
