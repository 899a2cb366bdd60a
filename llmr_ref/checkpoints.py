"""What a run leaves on disk: checkpoints that are whole or absent, and one line of metrics a step."""

import json
import os
import random
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 1
BEST = "best"
KEYS = {"format", "model", "optimizer", "progress"}

# --- one checkpoint -----------------------------------------------------------------------------


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write state beside its place, force it to the disk, then rename it: never half a file.

    State: tensors, numbers, strings, and lists, tuples and dictionaries of them.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state of `save_checkpoint`, on the CPU; a file from a stranger cannot run code.

    Raises: FileNotFoundError; ValueError for a file that is damaged or no checkpoint of a run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes the checksums and does not read them
            intact = archive.testzip() is None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what damaged bytes raise depends on where the damage is
        raise damaged(path) from error
    if not intact:
        raise damaged(path)
    if not isinstance(state, dict) or set(state) != KEYS:
        raise ValueError(f"{path} is not a checkpoint of a training run")
    if state["format"] != FORMAT:
        raise ValueError(
            f"the checkpoint {path} has format {state['format']}, and this version reads {FORMAT}"
        )
    return state


def damaged(path: str | os.PathLike[str]) -> ValueError:
    """What to raise for bytes that are no longer those that were written."""
    return ValueError(
        f"the checkpoint {path} is damaged or cut short; remove it and go on from an older one"
    )


def check_same(
    path: str | os.PathLike[str],
    saved: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    but: Iterable[str] = (),
) -> None:
    """Raises: ValueError naming the first setting that differs, both values, and what to do."""
    for name in {**saved, **given}:
        theirs, ours = (_comparable(settings.get(name)) for settings in (saved, given))
        if name not in but and theirs != ours:
            raise ValueError(
                f"the checkpoint {path} was made with {name} = {theirs!r}, and this run has "
                f"{name} = {ours!r}; set {name} to {theirs!r} to go on, or start anew in another "
                "folder"
            )


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk: a rename alone may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- a folder of them ---------------------------------------------------------------------------


def checkpoint_path(folder: str | os.PathLike[str], step: int) -> Path:
    """Where the checkpoint of a step lies, without the suffix: in a file, or a folder of shards."""
    return Path(folder) / f"step-{step:08d}"


def list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(Path(folder).glob("step-" + "[0-9]" * 8 + "*"))


def latest_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """Raises: FileNotFoundError when there is none."""
    found = list_checkpoints(folder)
    if not found:
        raise FileNotFoundError(f"there is no checkpoint in {folder}")
    return found[-1]


def best_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """The one with the lowest loss on held-out data, or the latest if nothing was held out.

    Raises: FileNotFoundError when there is none.
    """
    best = Path(folder) / BEST
    return best.resolve() if best.exists() else latest_checkpoint(folder)


def mark_best(path: Path) -> None:
    """Let the name `best` stand for this checkpoint."""
    partial = path.with_name(f".{BEST}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(path.name)
    os.replace(partial, path.with_name(BEST))


def remove_old(folder: str | os.PathLike[str], keep: int) -> None:
    """Leave the `keep` newest checkpoints, and the best one."""
    best = (Path(folder) / BEST).resolve()
    for path in list_checkpoints(folder)[:-keep]:
        if path.resolve() == best:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# --- random numbers -----------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """The state of every global generator: torch's, CUDA's of this process, Python's, numpy's."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put every global generator where `random_state` found it."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


# --- metrics ------------------------------------------------------------------------------------


class MetricsLog:
    """A JSONL file, one line a step. Opening it drops the lines of steps after `last_step`.

    Those are left when a run was killed after its last checkpoint; it will make these steps again.
    """

    def __init__(self, path: str | os.PathLike[str], *, last_step: int = 0) -> None:
        self.path = Path(path)
        kept = [line for line in read_metrics(self.path) if line["step"] <= last_step]
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text("".join(map(_line, kept)), encoding="utf-8")
        os.replace(partial, self.path)

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line. A number that is not finite becomes null: JSON has no word for it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(values))


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a `MetricsLog`; none without a file. A last line that was cut short is left out.

    Raises: ValueError for another line that is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    values = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last "\n" is unfinished
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is not JSON; remove the line") from error
    return values


def _line(values: Mapping[str, Any]) -> str:
    finite = {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite) + "\n"
