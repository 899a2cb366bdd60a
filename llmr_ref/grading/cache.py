"""Results by the content that they follow from: same code, bank, seed and limits, same verdict.

A result is a JSON file under the course's .llmr/cache, written whole or not at all; one that cannot be
read counts as none. The key holds everything that a result depends on, so nothing is ever stale.
"""

import ast
import contextlib
import functools
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from llmr_ref.grading.exercise import Exercise

FOLDER = Path(".llmr") / "cache"  # in the course
MAX_BYTES = 1 << 30  # about 20,000 submissions; what was used longest ago goes first
PACKAGE = Path(__file__).parents[1]
IN_THE_SANDBOX = ("worker.py", "runner.py", "seccomp.py", "shell.py", "stand_in")


class Store(Protocol):
    """Where results are looked up and put."""

    def get(self, key: str, /) -> Any: ...

    def put(self, key: str, value: Any, /) -> None: ...


class Memory(dict[str, Any]):
    """Results that are handed over rather than kept: what was known, and what is new."""

    def __init__(self, known: dict[str, Any]) -> None:
        super().__init__(known)
        self.new: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> None:
        self[key] = self.new[key] = value


class Found(dict[str, Any]):
    """Notes what another store has; a result that it does not have is `Found.Nothing`."""

    class Nothing(Exception):
        """There is no such result."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def get(self, key: str, default: Any = None) -> Any:
        value = self.store.get(key)
        if value is None:
            raise Found.Nothing(key)
        self[key] = value
        return value

    def put(self, key: str, value: Any) -> None:
        """Nothing is computed, so nothing is put."""


class Cache:
    """Results in a course folder; safe against other writers, a kill and a full disk."""

    def __init__(self, course: Path) -> None:
        self.folder = course / FOLDER

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Any:
        """The result, or None when there is none that can be read."""
        path = self._path(key)
        try:
            digest, text = path.read_text("utf-8").split("\n", 1)
            if digest != _digest(f"{key}\n{text}"):
                raise ValueError("the file was cut off or changed")
            value = json.loads(text)
            os.utime(path)  # it was of use, so it stays longest
            return value
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value; where that fails, as on a full disk, it is computed again another time."""
        text = json.dumps(value)
        path = self._path(key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(fd, "w", encoding="utf-8") as file:
                    digest = _digest(f"{key}\n{text}")
                    file.write(f"{digest}\n{text}")
                os.replace(name, path)
            except BaseException:
                os.unlink(name)
                raise

    def prune(self, max_bytes: int = MAX_BYTES) -> None:
        """Remove what was used longest ago until the rest fits, and what a killed process left."""
        found = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        kept = 0
        for _, size, path in sorted(found, reverse=True):
            kept += size
            if kept > max_bytes or path.suffix == ".part":
                with contextlib.suppress(OSError):
                    path.unlink()


def key(*parts: Any) -> str:
    """The name of a result: a digest of everything that it follows from, as JSON."""
    return _digest(json.dumps(parts, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@functools.cache
def exercise_fingerprint(exercise: Exercise) -> str:
    """A digest of the sources of an exercise: bank, cases, reference, and what those import of ours."""
    functions = (
        exercise.reference,
        *(p.cases for p in exercise.properties),
        *(a.target for a in exercise.bank()),
    )
    files = {Path(sys.modules[f.__module__].__file__ or "") for f in functions}
    return _digest(json.dumps([grader_fingerprint(), *_contents(_with_imports(files))]))


@functools.cache
def grader_fingerprint() -> str:
    """A digest of what runs and judges students' code, and of the libraries that it stands on."""
    inside = [PACKAGE / "grading" / name for name in IN_THE_SANDBOX]
    sources = [f for p in inside for f in (p.rglob("*.py") if p.is_dir() else [p])]
    grader = _with_imports({PACKAGE / "grading" / "engine.py"})
    libraries = [version(name) for name in ("torch", "numpy", "ipython", "matplotlib")]
    return key(_contents({*sources, *grader}), libraries, platform.python_version())


def _contents(files: Iterable[Path]) -> list[str]:
    return [_digest(f.read_text("utf-8")) for f in sorted(files)]


def _with_imports(files: set[Path]) -> set[Path]:
    """The files and every file of this package that they import, directly or not."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports(file)
    return found


@functools.cache
def _imports(file: Path) -> list[Path]:
    """The files of this package that a file imports itself."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    stems = [PACKAGE.joinpath(*n.split(".")[1:]) for n in names if n.split(".")[0] == PACKAGE.name]
    candidates = [c for stem in stems for c in (stem.with_suffix(".py"), stem / "__init__.py")]
    return [c for c in candidates if c.is_file()]
