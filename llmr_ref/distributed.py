"""Several processes, one run: each has its rows of the batch, and their gradients are added up.

torchrun starts them, on one machine or on many:
    torchrun --standalone --nproc-per-node 2 -m llmr_ref.cli train --parallel ddp
"ddp": every process holds the whole model. "fsdp" (FSDP2): parameters, gradients and optimizer state
lie in as many shards as there are processes, and a block is whole only while it computes.
"""

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmr_ref.checkpoints import damaged, load_checkpoint, save_checkpoint, sync_folder

Parallel = Literal["ddp", "fsdp"]
PROGRESS = "progress.pt"  # in a folder of shards: what is not cut in shards


class OneProcess:
    """Nobody to share with. Several processes do the same and exchange what this need not."""

    rank = 0
    size = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training. The optimizer is made after this."""
        return model

    def no_exchange(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Gradients stay where they are within it: for all parts of a batch but the last."""
        return contextlib.nullcontext()

    def sum(self, x: Tensor) -> Tensor:
        """The sum of what each process has, on every one."""
        return x

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in the order of their ranks, on every one."""
        return [value]

    def wait(self) -> None:
        """Until every process is here."""

    def save(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Mapping[str, Any],
    ) -> Path:
        """Write all that a run needs to go on, whole or not at all; the place, with its suffix."""
        path = path.with_suffix(".pt")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(path, {**state, "progress": progress})
        return path

    def load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """Fill the model and the optimizer; return the progress.

        Raises: FileNotFoundError; ValueError for a checkpoint that is damaged or of another model.
        """
        if path.is_dir():
            return _load_shards(path, model, optimizer)
        state = load_checkpoint(path)
        load_state(path, model, state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return state["progress"]


class SeveralProcesses(OneProcess):
    """The processes of torchrun, with their gradients averaged in one of two ways.

    Raises: ValueError for an unknown `parallel`.
    Source: Li et al. 2020 (DDP); Rajbhandari et al. 2020 (ZeRO-3), Zhao et al. 2023 (FSDP).
    """

    def __init__(self, parallel: Parallel, device: torch.device) -> None:
        if parallel not in get_args(Parallel):
            raise ValueError(f"parallel is {parallel!r}; choose 'ddp' or 'fsdp'")
        self.parallel, self.device = parallel, device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def wrap(self, model: nn.Module) -> nn.Module:
        if self.parallel == "ddp":
            return nn.parallel.DistributedDataParallel(model)
        from torch.distributed.fsdp import fully_shard

        for module in model.modules():
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    fully_shard(layer)
        fully_shard(model)  # turns the model itself into one of shards
        return model

    @contextlib.contextmanager
    def no_exchange(self, wrapped: Any) -> Iterator[None]:
        if self.parallel == "ddp":
            with wrapped.no_sync():
                yield
            return
        wrapped.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            wrapped.set_requires_gradient_sync(True)

    def sum(self, x: Tensor) -> Tensor:
        total = x.to(self.device, copy=True)
        dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        dist.barrier()

    def save(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Mapping[str, Any],
    ) -> Path:
        if self.parallel == "fsdp":
            self._save_shards(path, model, optimizer, progress)
        else:
            path = path.with_suffix(".pt")
            if self.rank == 0:
                super().save(path, model, optimizer, progress)
        self.wait()  # nobody ends before the checkpoint is there
        return path

    def _save_shards(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Mapping[str, Any],
    ) -> None:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.state_dict import get_state_dict

        partial = path.with_name(f".{path.name}.partial")
        if self.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            save_checkpoint(
                partial / PROGRESS, {"model": None, "optimizer": None, "progress": progress}
            )
        self.wait()
        model_state, optimizer_state = get_state_dict(model, optimizer)
        writer = checkpoint.FileSystemWriter(partial, sync_files=True)
        checkpoint.save({"model": model_state, "optimizer": optimizer_state}, storage_writer=writer)
        if self.rank == 0:
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
            sync_folder(path.parent)

    def load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        if self.parallel == "ddp":
            return super().load(path, model, optimizer)
        if not path.is_dir():
            raise ValueError(
                f"{path} is not in shards, and 'fsdp' goes on from shards; use parallel 'ddp'"
            )
        return _load_shards(path, model, optimizer)


@contextlib.contextmanager
def processes(
    parallel: Parallel | None = None, device: torch.device | str = "auto"
) -> Iterator[tuple[OneProcess, torch.device]]:
    """The processes that torchrun started, with this one's device; outside torchrun only this one.

    `parallel` None means "ddp" under torchrun. CUDA's processes talk through NCCL, others by gloo.
    Raises: ValueError for a `parallel` without torchrun, or a device as `resolve_device`.
    """
    device = resolve_device(device)
    if not dist.is_torchelastic_launched():
        if parallel is not None:
            raise ValueError(
                f"parallel = {parallel!r} needs several processes; start them with: torchrun "
                "--standalone --nproc-per-node 2 -m llmr_ref.cli train"
            )
        yield OneProcess(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield SeveralProcesses(parallel or "ddp", device), device
    finally:
        dist.destroy_process_group()


def resolve_device(device: torch.device | str = "auto") -> torch.device:
    """The device named, or for "auto" CUDA, else MPS, else the CPU.

    Raises: ValueError for a name that torch does not know, or CUDA or MPS where there is none.
    """
    present: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device == "auto":
        return torch.device(next((name for name, here in present.items() if here()), "cpu"))
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda' or 'mps', got {device!r}"
        ) from error
    if found.type in present and not present[found.type]():
        raise ValueError(f"device is {str(device)!r}, and torch finds none here; use 'auto'")
    return found


# --- checkpoints --------------------------------------------------------------------------------


def read_progress(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Step, settings and random numbers of a checkpoint, in one file or in shards.

    Raises: FileNotFoundError; ValueError for a checkpoint that is damaged.
    """
    path = Path(path)
    return load_checkpoint(path / PROGRESS if path.is_dir() else path)["progress"]


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Fill a whole model from a checkpoint, in one file or in shards; return its run's progress.

    Raises: FileNotFoundError; ValueError for a checkpoint that is damaged or of another model.
    """
    path = Path(path)
    if path.is_dir():
        _read_shards(path, {"model": model.state_dict()}, alone=True)
        return read_progress(path)
    state = load_checkpoint(path)
    load_state(path, model, state["model"])
    return state["progress"]


def load_state(path: Path, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises: ValueError naming what is missing, left over or misshapen."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        what = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        raise ValueError(f"the checkpoint {path} is of another model: {what}") from error


def _load_shards(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill this process's part of the model and the optimizer; every process must call it."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model_state, optimizer_state = get_state_dict(model, optimizer)
    _read_shards(
        path,
        {"model": model_state, "optimizer": optimizer_state},
        alone=not dist.is_initialized(),
    )
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)
    return read_progress(path)


def _read_shards(path: Path, state: dict[str, Any], *, alone: bool) -> None:
    """Fill the tensors of a state in place, alone or together with the other processes."""
    from torch.distributed import checkpoint

    read_progress(path)  # a folder without it is not a checkpoint, whatever else is in it
    try:
        with warnings.catch_warnings():  # that one process alone reads is what is meant
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            checkpoint.load(state, checkpoint_id=path, no_dist=alone)
    except checkpoint.CheckpointException as error:
        raise damaged(path) from error
