"""The loop that trains: a batch, its gradient in parts, a step; checkpoints to go on from."""

import dataclasses
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from llmr_ref.checkpoints import (
    MetricsLog,
    check_same,
    checkpoint_path,
    latest_checkpoint,
    list_checkpoints,
    mark_best,
    random_state,
    remove_old,
    set_random_state,
)
from llmr_ref.data import IGNORE, Stream, get_batch
from llmr_ref.distributed import OneProcess, read_progress, resolve_device
from llmr_ref.optim import AdamW, clip_gradients, parameter_groups
from llmr_ref.training import (
    FREE_TO_CHANGE,
    Evaluation,
    TrainingConfig,
    autocast,
    cross_entropy,
    evaluate,
)

Batch = tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]  # inputs and targets
Batches = Callable[[torch.Generator], Batch]  # draws the next batch; the generator is all its state


@dataclass(frozen=True)
class StepRecord:
    """One step: what the metrics file and the callbacks get. A skipped step changed no weight."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float
    skipped: bool = False
    evaluation: Evaluation | None = None

    def line(self) -> dict[str, Any]:
        """The record as one flat line of metrics."""
        line = {name: value for name, value in vars(self).items() if name != "evaluation"}
        if self.evaluation is not None:
            line["validation_loss"] = self.evaluation.loss
            line["perplexity"] = self.evaluation.perplexity
            line["bits_per_character"] = self.evaluation.bits_per_character
            line["bits_per_byte"] = self.evaluation.bits_per_byte
        return line


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `finished` is False when a signal stopped it; then it can go on later."""

    step: int
    finished: bool
    skipped: int
    evaluation: Evaluation | None
    checkpoint: Path | None


class TrainingDiverged(RuntimeError):
    """Several steps in a row had a loss or a gradient that is not finite."""


class Trainer:
    """A model, its data and its optimizer, one step after another.

    `data` is a stream of tokens, or a function that draws the next batch of `batch_size` sequences
    from a generator, which is all the state it may have. In `folder` go metrics.jsonl and, with
    `resume`, come from there the weights, the optimizer, the step and all random numbers: the next
    step is the one that would have been. Sets the seed of torch's global generator.
    Raises: ValueError for a batch that the processes cannot share, a checkpoint of other settings, or
    nothing to compile with; FileExistsError for a folder with checkpoints, unless it resumes;
    FileNotFoundError if it does and there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Stream | Batches,
        config: TrainingConfig,
        *,
        validation: Stream | None = None,
        folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        characters_per_token: float | None = None,
        bytes_per_token: float | None = None,
        callbacks: Sequence[Callable[[StepRecord], None]] = (),
        processes: OneProcess | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.config, self.data, self.validation = config, data, validation
        self.callbacks = callbacks
        self.units = {
            "characters_per_token": characters_per_token,
            "bytes_per_token": bytes_per_token,
        }
        self.processes = processes = processes or OneProcess()
        if config.batch_size % (processes.size * config.accumulation):
            raise ValueError(
                f"batch_size must be a multiple of {processes.size} processes times accumulation = "
                f"{config.accumulation}, got {config.batch_size}"
            )
        self.device = resolve_device(device or config.device)
        if config.compile and self.device.type == "cpu":
            _check_compiler()
        self.model = model.to(self.device)
        self._wrapped = processes.wrap(self.model)
        self._loss = torch.compile(_summed_loss) if config.compile else _summed_loss
        self.optimizer = AdamW(
            parameter_groups(self.model, config.weight_decay), lr=config.max_lr, betas=config.betas
        )
        # Small float16 gradients would round to zero: they are computed a power of two too large.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.generator = torch.Generator().manual_seed(config.seed)
        torch.manual_seed(config.seed + processes.rank)  # dropout differs between processes
        self.steps_done = self.skipped = self.skipped_in_a_row = 0
        self.best_loss = math.inf
        self.folder = None if folder is None else Path(folder)
        self._log: MetricsLog | None = None
        if self.folder is not None:
            self._open(self.folder, resume)

    def _open(self, folder: Path, resume: bool) -> None:
        self.checkpoints = folder / "checkpoints"
        if resume:
            self._restore(latest_checkpoint(self.checkpoints))
        elif list_checkpoints(self.checkpoints):
            raise FileExistsError(
                f"{folder} holds the checkpoints of a run; resume it, or name another folder"
            )
        if self.processes.rank == 0:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._log = MetricsLog(folder / "metrics.jsonl", last_step=self.steps_done)
        self.processes.wait()

    def run(self) -> Outcome:
        """Steps up to `config.steps`, with evaluations, metrics and checkpoints on the way.

        SIGINT or SIGTERM ends it after the step at hand, with a checkpoint; a second one at once.
        Raises: TrainingDiverged after `max_skipped` steps in a row without a finite loss.
        """
        config = self.config
        evaluation = checkpoint = None
        with _signals() as received:
            while self.steps_done < config.steps:
                record = self.step()
                last = self.steps_done == config.steps
                # Processes that hear a signal in different steps have to stop in the same one.
                stop = bool(self.processes.sum(torch.tensor(float(bool(received)))) > 0)
                is_best = False
                if self.validation is not None and (last or record.step % config.eval_every == 0):
                    evaluation = self.evaluate()
                    record = dataclasses.replace(record, evaluation=evaluation)
                    is_best = evaluation.loss < self.best_loss
                    self.best_loss = min(self.best_loss, evaluation.loss)
                self._report(record)
                if self.skipped_in_a_row >= config.max_skipped:
                    raise TrainingDiverged(self._divergence(record))
                if self.folder is not None and (
                    is_best or last or stop or record.step % config.checkpoint_every == 0
                ):
                    checkpoint = self.save(is_best=is_best)
                if stop:
                    break
        finished = self.steps_done == config.steps
        return Outcome(self.steps_done, finished, self.skipped, evaluation, checkpoint)

    def step(self) -> StepRecord:
        """One batch: its loss, the gradient, clipped, and a step of the optimizer.

        The parts of a batch are weighted by their targets: their sum is the loss of the whole.
        Source: L1 "Batched LM training", point 5; L2 "Training a transformer language model".
        """
        config, size = self.config, self.processes.size
        started = time.perf_counter()
        step, lr = self.steps_done + 1, self.config.learning_rate(self.steps_done + 1)
        self.model.train()
        parts, n_targets, n_tokens = self._draw()
        total = torch.zeros((), device=self.device)  # wider where the loss is
        for i, (inputs, targets) in enumerate(parts):
            more = i + 1 < len(parts)
            with self.processes.no_exchange(self._wrapped) if more else nullcontext():
                with autocast(self.device, config.precision):
                    loss = self._loss(self._wrapped, inputs, targets) / n_targets
                # Processes average their gradients, and a sum is wanted.
                self.scaler.scale(loss * size).backward()
            total = total + loss.detach()
        self.scaler.unscale_(self.optimizer)
        norm = float(clip_gradients(self.model.parameters(), config.clip))
        mean_loss = float(self.processes.sum(total))
        skipped = not (math.isfinite(mean_loss) and math.isfinite(norm))
        self._count(skipped, overflow=math.isfinite(mean_loss) and self.scaler.get_scale() > 1)
        if not skipped:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.steps_done = step
        rate = n_tokens / (time.perf_counter() - started)
        return StepRecord(step, mean_loss, lr, norm, rate, skipped)

    def evaluate(self) -> Evaluation:
        """Loss on `eval_batches` of the held-out tokens. Raises: ValueError if there are none."""
        if self.validation is None:
            raise ValueError("evaluation needs held-out tokens: give validation")
        return evaluate(
            self.model,
            self.validation,
            batch_size=self.config.batch_size,
            length=self.config.length,
            max_batches=self.config.eval_batches,
            precision=self.config.precision,
            processes=self.processes,
            **self.units,
        )

    def save(self, *, is_best: bool = False) -> Path:
        """A checkpoint of this moment; old ones go. Raises: ValueError without a folder."""
        if self.folder is None:
            raise ValueError("a checkpoint needs a place: give folder")
        progress = {
            "steps_done": self.steps_done,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "best_loss": self.best_loss,
            "scaler": self.scaler.state_dict(),
            "batches": self.generator.get_state(),
            "random": self.processes.gather(random_state()),
            "training": dataclasses.asdict(self.config),
            "model": self._model_config(),
        }
        path = self.processes.save(
            checkpoint_path(self.checkpoints, self.steps_done),
            self.model,
            self.optimizer,
            progress,
        )
        if self.processes.rank == 0:
            if is_best:
                mark_best(path)
            remove_old(self.checkpoints, self.config.keep)
        return path

    def _restore(self, path: Path) -> None:
        settings = read_progress(path)
        check_same(path, settings["model"], self._model_config(), but=["implementation"])
        check_same(path, settings["training"], dataclasses.asdict(self.config), but=FREE_TO_CHANGE)
        progress = self.processes.load(path, self.model, self.optimizer)
        for name in ("steps_done", "skipped", "skipped_in_a_row", "best_loss"):
            setattr(self, name, progress[name])
        self.scaler.load_state_dict(progress["scaler"])
        self.generator.set_state(progress["batches"])
        # With other processes than before, the random numbers of their dropout are new ones.
        if len(progress["random"]) == self.processes.size:
            set_random_state(progress["random"][self.processes.rank])

    def _model_config(self) -> dict[str, Any]:
        config = getattr(self.model, "config", None)
        return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else {}  # type: ignore[arg-type]

    def _draw(self) -> tuple[list[Batch], int, int]:
        """This process's rows of the next batch, part by part; targets and tokens of all of it."""
        config, processes = self.config, self.processes
        if callable(self.data):
            inputs, targets = self.data(self.generator)
            if len(inputs) != config.batch_size:
                raise ValueError(
                    f"data must give batch_size = {config.batch_size} sequences, got {len(inputs)}"
                )
        else:
            inputs, targets = get_batch(
                self.data, config.batch_size, config.length, generator=self.generator
            )
        n_targets = int((targets != IGNORE).sum())
        if not n_targets:
            raise ValueError(f"step {self.steps_done + 1} has a batch without a target to predict")
        # Every process draws all of the batch, so that it does not depend on how many there are.
        parts = [
            (x.to(self.device), y.to(self.device))
            for x, y in zip(
                inputs.chunk(processes.size)[processes.rank].chunk(config.accumulation),
                targets.chunk(processes.size)[processes.rank].chunk(config.accumulation),
                strict=True,
            )
        ]
        return parts, n_targets, inputs.numel()

    def _count(self, skipped: bool, *, overflow: bool) -> None:
        self.skipped += skipped
        if not skipped:
            self.skipped_in_a_row = 0
        elif not overflow:  # the scaler tries a smaller scale next: that is no divergence
            self.skipped_in_a_row += 1

    def _report(self, record: StepRecord) -> None:
        if self._log is not None:
            self._log.write(record.line())
        for callback in self.callbacks:
            callback(record)

    def _divergence(self, record: StepRecord) -> str:
        saved = list_checkpoints(self.checkpoints) if self.folder is not None else []
        return (
            f"training stopped at step {record.step}: {self.skipped_in_a_row} steps in a row had no "
            f"finite loss and gradient (loss {record.loss:.4g}, gradient norm "
            f"{record.grad_norm:.4g}, learning rate {record.lr:.3g}); the last good checkpoint is "
            f"{saved[-1] if saved else 'none'}; lower max_lr, or use precision 'float32'"
        )


def train(
    model: nn.Module, data: Stream | Batches, config: TrainingConfig, **options: Any
) -> Outcome:
    """Train the model in place. Options and errors: as `Trainer` and `Trainer.run`."""
    return Trainer(model, data, config, **options).run()


def _check_compiler() -> None:
    names = os.environ.get("CXX", "g++ clang++").split()
    if not any(map(shutil.which, names)):
        raise ValueError(
            f"compile needs a C++ compiler, and {' and '.join(names)} are not on PATH; install one, "
            "or leave compile off"
        )


def _summed_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(model(inputs), targets, reduction="sum")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are put in; the second of them does what it always did."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only that one may listen
        yield received
        return

    def listen(number: int, frame: object) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, listen) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        restore()
