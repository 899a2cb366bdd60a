"""A run of `llmr train`: a text, a model and a folder in which everything about it lies."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from llmr_ref.checkpoints import best_checkpoint, read_metrics
from llmr_ref.config import TransformerConfig, preset
from llmr_ref.corpora import (
    FINAL_TOKENS,
    Corpus,
    as_text,
    load_corpus,
    load_tokenizer,
    save_tokenizer,
    vocab_size,
)
from llmr_ref.data import CharTokenizer
from llmr_ref.distributed import OneProcess, load_weights
from llmr_ref.generation import stream
from llmr_ref.loss_plot import plot_loss
from llmr_ref.ngram import NGramModel
from llmr_ref.rope import RopeScaling
from llmr_ref.tokenizer import Tokenizer
from llmr_ref.trainer import StepRecord, Trainer
from llmr_ref.training import Evaluation, TrainingConfig, evaluate
from llmr_ref.transformer import Transformer

# Two cores train these in a minute or two.
DEFAULT_MODEL: dict[str, Any] = {"d_model": 128, "n_layers": 4, "n_heads": 4}
DEFAULT_TRAINING = TrainingConfig(
    steps=600, batch_size=16, length=128, max_lr=3e-3, min_lr=3e-4, eval_every=100, eval_batches=10
)
NGRAMS = (3, 5)

DESCRIPTION, TOKENIZER, METRICS, PLOT, SAMPLE = (
    "run.json",
    "tokenizer.json",
    "metrics.jsonl",
    "loss.png",
    "sample.txt",
)


# --- folder -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The folder of a run, and how it was set up."""

    folder: Path
    source: str
    fingerprint: int
    model: TransformerConfig
    training: TrainingConfig

    def write(self, tokenizer: CharTokenizer | Tokenizer) -> None:
        self.folder.mkdir(parents=True)
        save_tokenizer(tokenizer, self.folder / TOKENIZER)
        values = {**dataclasses.asdict(self), "folder": None}
        text = json.dumps(values, indent=1)
        (self.folder / DESCRIPTION).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Raises: FileNotFoundError for a folder that holds no run; ValueError for a damaged one."""
        path = folder / DESCRIPTION
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no run: there is no {path.name} in it")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            model, training = values["model"], values["training"]
            if model["rope_scaling"] is not None:
                model["rope_scaling"] = RopeScaling(**model["rope_scaling"])
            training["betas"] = tuple(training["betas"])
            return cls(
                folder,
                values["source"],
                values["fingerprint"],
                TransformerConfig(**model),
                TrainingConfig(**training),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); start a new run") from error

    def load(self, device: torch.device) -> tuple[Transformer, CharTokenizer | Tokenizer]:
        """The model with its best weights, and its tokenizer."""
        model = Transformer(self.model, device=device)
        load_weights(best_checkpoint(self.folder / "checkpoints"), model)
        return model.eval(), load_tokenizer(self.folder / TOKENIZER)


def choose_folder(runs: Path, name: str | None, corpus: Corpus) -> Path:
    """Of a new run: by its name, or by that of its text with -2, -3 ... if there is one already.

    Raises: FileExistsError for a name that is taken.
    """
    if name is not None:
        if (runs / name).exists():
            raise FileExistsError(
                f"there is a run {name!r} already; go on with it by --resume {name}, or choose "
                "another name"
            )
        return runs / name
    name = Path(corpus.source).stem
    folder, number = runs / name, 1
    while folder.exists():
        number += 1
        folder = runs / f"{name}-{number}"
    return folder


def find_run(runs: Path, name: str | None) -> Path:
    """A run by its name or folder; None is the newest.

    Raises: FileNotFoundError naming the runs that there are.
    """
    there = sorted(runs.glob(f"*/{DESCRIPTION}"), key=lambda path: path.stat().st_mtime)
    if name is None and there:
        return there[-1].parent
    if name is not None:
        for folder in (Path(name), runs / name):
            if (folder / DESCRIPTION).is_file():
                return folder
    names = ", ".join(path.parent.name for path in there) or "none"
    wanted = "no run" if name is None else f"no run {name!r}"
    raise FileNotFoundError(f"there is {wanted}; in {runs} there is: {names}")


# --- training -----------------------------------------------------------------------------------


def set_up(
    corpus: Corpus,
    folder: Path,
    *,
    model: Mapping[str, Any],
    training: Mapping[str, Any],
    preset_name: str | None = None,
) -> Run:
    """A new run with the default settings, or a preset's model, and what is changed of them.

    Raises: ValueError naming the setting.
    """
    settings = dataclasses.replace(DEFAULT_TRAINING, **training)
    size = {"vocab_size": vocab_size(corpus.tokenizer), "max_length": settings.length}
    if preset_name is None:
        shape = TransformerConfig(**{**DEFAULT_MODEL, **size, **model})
    else:
        shape = preset(preset_name, **{**size, **model})
    return Run(folder, corpus.source, corpus.fingerprint, shape, settings)


def reopen(
    folder: Path, *, model: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[Run, Corpus]:
    """A run to go on with, and its text. What is changed is checked against the checkpoint later.

    Raises: as `Run.read` and `load_corpus`; ValueError naming a setting out of range.
    """
    run = Run.read(folder)
    tokenizer = folder / TOKENIZER
    is_bpe = isinstance(load_tokenizer(tokenizer), Tokenizer)
    run = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, **model),
        training=dataclasses.replace(run.training, **training),
    )
    return run, load_corpus(run.source, tokenizer if is_bpe else None)


def train_run(
    run: Run,
    corpus: Corpus,
    group: OneProcess,
    device: torch.device,
    *,
    resume: bool = False,
) -> bool:
    """Train, compare with n-grams, sample and plot; False when a signal stopped it before the end.

    Raises: as `Trainer`; ValueError for a text that is no longer the one the run began with.
    """
    if corpus.fingerprint != run.fingerprint:
        raise ValueError(
            f"{corpus.source} has changed since the run in {run.folder} began; start a new run"
        )
    # Each process chose a folder before any of them made one; the first one's choice counts.
    run = dataclasses.replace(run, folder=group.gather(run.folder)[0])
    leads = group.rank == 0
    console = Console(quiet=not leads)
    if leads and not resume:
        run.write(corpus.tokenizer)
    torch.manual_seed(run.training.seed)
    model = Transformer(run.model, device=device)
    n_parameters = sum(p.numel() for p in model.parameters())
    console.print(
        f"{n_parameters / 1e6:.3g} million parameters on {_names(group, device)}; "
        f"{len(corpus.training) / 1e6:.3g} million tokens of {corpus.source}, "
        f"{vocab_size(corpus.tokenizer)} different. The run is in {_short(run.folder)}.",
        highlight=False,
    )
    trainer = Trainer(
        model,
        corpus.training,
        run.training,
        validation=corpus.validation,
        folder=run.folder,
        resume=resume,
        characters_per_token=corpus.characters_per_token,
        bytes_per_token=corpus.bytes_per_token,
        processes=group,
        device=device,
    )
    with _Display(console, trainer.steps_done, run.training.steps, corpus) as display:
        trainer.callbacks = [display]
        outcome = trainer.run()
    if outcome.skipped:
        console.print(
            f"Skipped, for a loss or gradient that is not finite: {outcome.skipped} steps."
        )
    if not outcome.finished:
        console.print(
            f"Stopped after step {outcome.step} of {run.training.steps}, and saved. "
            f"Go on with: llmr train --resume {_short(run.folder)}",
            soft_wrap=True,
        )
        return False
    final = evaluate(
        model,
        corpus.validation[: FINAL_TOKENS + 1],
        batch_size=run.training.batch_size,
        length=run.training.length,
        precision=run.training.precision,
        characters_per_token=corpus.characters_per_token,
        bytes_per_token=corpus.bytes_per_token,
        processes=group,
    )
    if leads:
        _finish(run, corpus, final, device, console)
    group.wait()
    return True


def _finish(
    run: Run, corpus: Corpus, final: Evaluation, device: torch.device, console: Console
) -> None:
    with console.status("Counting n-grams to compare with"):
        others = baselines(corpus)
    table = Table()
    table.add_column("on held-out text")
    table.add_column("bits/character", justify="right")
    ours = final.bits_per_character
    assert ours is not None
    rows = {**others, "this model": ours}
    for name, bits in sorted(rows.items(), key=lambda row: -row[1]):
        bold = "[bold]" if name == "this model" else ""
        table.add_row(f"{bold}{name}", f"{bold}{bits:.2f}")
    console.print(table)
    metrics = read_metrics(run.folder / METRICS)
    to_bits = 1 / math.log(2) / corpus.characters_per_token
    plot = plot_loss(metrics, run.folder / PLOT, to_bits=to_bits, others=others)
    model, tokenizer = run.load(device)
    console.print("A sample:\n", style="bold")
    text = []
    for piece in sample_text(model, tokenizer, seed=run.training.seed):
        text.append(piece)
        console.out(piece, end="", highlight=False)
    console.print()
    (run.folder / SAMPLE).write_text("".join(text), encoding="utf-8")
    console.print(f"\nLoss plot: {_short(plot)}", soft_wrap=True, highlight=False)
    console.print(f"More text: llmr sample {_short(run.folder)}", soft_wrap=True, highlight=False)


def baselines(corpus: Corpus) -> dict[str, float]:
    """Bits per character of models that need no training, on the same held-out text."""
    V = vocab_size(corpus.tokenizer)
    to_bits = 1 / math.log(2) / corpus.characters_per_token
    found = {f"uniform over {V} tokens": math.log(V) * to_bits}
    held_out = np.asarray(corpus.validation[: FINAL_TOKENS + 1])
    training = np.asarray(corpus.training[:])
    for n in NGRAMS:
        model = NGramModel(training, n, vocab_size=V)
        nats = -model.log_probability(held_out) / len(held_out)
        found[f"{n}-gram (Witten-Bell)"] = nats * to_bits
    if corpus.entropy is not None:
        found["the grammar itself"] = corpus.entropy
    return found


class _Display:
    """A progress bar; every evaluation leaves a line."""

    def __init__(self, console: Console, done: int, steps: int, corpus: Corpus) -> None:
        self.bits = 1 / math.log(2) / corpus.characters_per_token
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[loss]} bits/character"),
            TextColumn("{task.fields[rate]} tokens/s"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.progress.add_task("", total=steps, completed=done, loss="-", rate="-")
        self.rate = self.loss = math.nan

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def __call__(self, record: StepRecord) -> None:
        self.rate = _smooth(self.rate, record.tokens_per_second)
        self.loss = _smooth(self.loss, record.loss * self.bits)
        self.progress.update(
            self.task,
            completed=record.step,
            loss=f"{self.loss:.2f}",
            rate=f"{self.rate:,.0f}",
        )
        if record.evaluation is not None:
            found = record.evaluation
            self.progress.print(
                f"step {record.step:>5}: held out {found.bits_per_character:.3f} bits/character, "
                f"perplexity {found.perplexity:.2f}; training {self.loss:.3f}",
                highlight=False,
            )


def _smooth(before: float, value: float) -> float:
    if not math.isfinite(value):
        return before
    return value if math.isnan(before) else 0.9 * before + 0.1 * value


def _names(group: OneProcess, device: torch.device) -> str:
    return device.type if group.size == 1 else f"{group.size} processes ({device.type})"


def _short(path: Path) -> str:
    """Relative to where the reader is, if that is shorter to type."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


# --- sample -------------------------------------------------------------------------------------


def default_prompt(tokenizer: CharTokenizer | Tokenizer) -> str:
    """A new line, or the first character where the text had none."""
    if isinstance(tokenizer, CharTokenizer) and "\n" not in tokenizer.symbols:
        return tokenizer.symbols[0]
    return "\n"


def sample_text(
    model: Transformer,
    tokenizer: CharTokenizer | Tokenizer,
    prompt: str | None = None,
    *,
    n_tokens: int = 400,
    temperature: float = 0.8,
    seed: int | None = None,
    stop: int | None = None,
    **choice: Any,
) -> Iterator[str]:
    """What follows the prompt, piece by piece, up to the token `stop`; `choice` as in `sampling.sample`.

    Raises: ValueError for a prompt that is empty or that the tokenizer cannot encode.
    """
    ids = tokenizer.encode(default_prompt(tokenizer) if prompt is None else prompt)
    if not ids:
        raise ValueError("the prompt is empty: begin with something, a new line for instance")
    device = model.lm_head.weight.device
    generator = torch.Generator(device)
    generator.seed() if seed is None else generator.manual_seed(seed)
    choice |= {"temperature": temperature, "generator": generator}
    return as_text(_continue(model, ids, n_tokens, stop, choice), tokenizer)


def _continue(
    model: Transformer, ids: list[int], n_tokens: int, stop: int | None, choice: Mapping[str, Any]
) -> Iterator[int]:
    """New tokens. At the length the model was trained on, half of the text is forgotten."""
    longest = model.config.max_length
    while n_tokens > 0:
        if len(ids) >= longest:
            ids = ids[-max(1, longest // 2) :]
        room = min(n_tokens, max(1, longest - len(ids)))
        for new in stream(model, torch.tensor(ids), max_new_tokens=room, **choice):
            if new == stop:
                return
            ids = [*ids, int(new)]
            yield ids[-1]
        n_tokens -= room
