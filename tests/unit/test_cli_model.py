"""`llmr train`, `sample`, `tokenize` and `count`: what a user types, sees and finds on the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from llmr_ref import cli, cli_model, corpora, loss_plot, runs, smollm2
from llmr_ref.checkpoints import list_checkpoints, read_metrics
from llmr_ref.data import CharTokenizer
from llmr_ref.shards import TokenShards
from llmr_ref.tokenizer import Tokenizer

SMALL = "--d-model 16 --layers 1 --heads 2 --length 16 --batch-size 4 --eval-every 5 --device cpu"
SMALL += " --checkpoint-every 5"
# All letters in a short text; "\u00e9" is one character of two bytes.
TEXT = "the quick brown fox jumps over the lazy dog at the caf\u00e9.\n" * 60


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(corpora, "GRAMMAR_STRINGS", 300)
    monkeypatch.setattr(corpora, "FINAL_TOKENS", 300)
    monkeypatch.setattr(runs, "FINAL_TOKENS", 300)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "pangram.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def tokenizer(tmp_path, text):
    path = tmp_path / "bpe.json"
    result = llmr("tokenize", "train", text, "--vocab-size", 300, "--output", path)
    assert result.exit_code == 0, result.output
    return path


def llmr(*arguments, input=None):
    return CliRunner().invoke(cli.llmr, [str(argument) for argument in arguments], input=input)


def train(folder, *arguments, steps=6):
    """`llmr train` of a tiny model; runs go in `folder`."""
    steps = () if steps is None else ("--steps", steps)
    return llmr("train", "--runs", folder, *SMALL.split(), *steps, *arguments)


def one_line(output):
    """Without the line ends that a narrow terminal puts in."""
    return " ".join(output.split())


# --- train --------------------------------------------------------------------------------------


def test_a_run_ends_with_a_comparison_a_sample_and_a_plot_in_its_folder(tmp_path):
    result = train(tmp_path, "--text", "grammar", "--name", "first")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "first"
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "loss.png",
        "metrics.jsonl",
        "run.json",
        "sample.txt",
        "tokenizer.json",
    }
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[4]["bits_per_character"] > 0
    output = result.output
    for part in (
        "uniform over",
        "3-gram",
        "5-gram",
        "the grammar itself",
        "this model",
        "A sample",
    ):
        assert part in output
    assert "step     5: held out" in output and str(folder / "loss.png") in one_line(output)
    assert (folder / "sample.txt").read_text() in output
    pixels = (255 * matplotlib.image.imread(folder / "loss.png")[..., :3]).round().astype(int)
    assert pixels.shape[0] > 500 and pixels.shape[1] > 900
    assert (pixels[0, 0] == 255).all()  # white paper
    colours = {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}
    for curve in (loss_plot.TRAINING, loss_plot.VALIDATION):
        assert tuple(bytes.fromhex(curve[1:])) in colours


def test_the_default_is_shakespeare_or_the_grammar_where_the_plays_are_absent(monkeypatch):
    monkeypatch.setattr(corpora, "shakespeare", lambda: TEXT)
    assert corpora.load_corpus().source == "shakespeare"

    def absent():
        raise FileNotFoundError("no plays")

    monkeypatch.setattr(corpora, "shakespeare", absent)
    corpus = corpora.load_corpus()
    assert corpus.source == "grammar" and corpus.entropy > 0
    with pytest.raises(FileNotFoundError, match="no plays"):
        corpora.load_corpus("shakespeare")


def test_without_options_the_settings_are_the_default_ones():
    corpus = corpora.load_corpus("grammar")
    run = runs.set_up(corpus, Path("x"), model={}, training={})
    assert run.training == runs.DEFAULT_TRAINING and run.model.max_length == run.training.length
    assert run.model.vocab_size == len(corpus.tokenizer.symbols)
    assert {name: getattr(run.model, name) for name in runs.DEFAULT_MODEL} == runs.DEFAULT_MODEL
    # --help states them without importing what they come from.
    stated = {
        parameter.name: float(parameter.help.split("[default: ")[1].rstrip("]"))
        for parameter in cli_model.train.params
        if "[default: " in (parameter.help or "") and parameter.name != "warmup"
    }
    settings = {**vars(run.model), **vars(run.training)}
    assert len(stated) == 15
    assert stated == {name: settings[name] for name in stated}


def test_options_reach_the_model_and_the_training(tmp_path, text):
    result = train(
        tmp_path,
        *("--text", text, "--name", "x", "--dropout", 0.1, "--max-lr", 0.01, "--min-lr", 0.005),
        *("--accumulation", 2, "--warmup", 2, "--weight-decay", 0.2, "--clip", 2, "--seed", 5),
        *("--precision", "bfloat16"),
    )
    assert result.exit_code == 0, result.output
    run = runs.Run.read(tmp_path / "x")
    assert (run.model.d_model, run.model.n_layers, run.model.n_heads) == (16, 1, 2)
    assert run.model.dropout == 0.1 and run.model.max_length == 16
    wanted = dict(max_lr=0.01, min_lr=0.005, accumulation=2, warmup=2, weight_decay=0.2, clip=2.0)
    wanted |= dict(seed=5, precision="bfloat16", steps=6, batch_size=4, length=16, eval_every=5)
    assert {name: getattr(run.training, name) for name in wanted} == wanted
    assert run.source == str(text)


def test_a_preset_gives_the_shape_and_the_text_its_vocabulary():
    corpus = corpora.load_corpus("grammar")
    run = runs.set_up(
        corpus, Path("x"), model={"n_layers": 1}, training={}, preset_name="smollm2-135m"
    )
    assert (run.model.d_model, run.model.n_kv_heads, run.model.n_layers) == (576, 3, 1)
    assert run.model.vocab_size == len(corpus.tokenizer.symbols) and run.model.tie_embeddings


def test_bits_per_character_are_held_against_what_is_known():
    corpus = corpora.load_corpus("grammar")
    found = runs.baselines(corpus)
    V = len(corpus.tokenizer.symbols)
    assert found[f"uniform over {V} tokens"] == pytest.approx(np.log2(V))
    values = list(found.values())
    assert values == sorted(values, reverse=True) and values[-1] == corpus.entropy


def test_a_second_run_of_a_text_gets_a_folder_of_its_own(tmp_path):
    assert train(tmp_path, "--text", "grammar", steps=1).exit_code == 0
    assert train(tmp_path, "--text", "grammar", steps=1).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grammar", "grammar-2"]
    result = train(tmp_path, "--text", "grammar", "--name", "grammar")
    assert result.exit_code == 2
    assert "a run 'grammar' already; go on with it by --resume grammar" in one_line(result.output)


def test_a_run_on_tokens_of_a_tokenizer_counts_characters_and_bytes(tmp_path, text, tokenizer):
    result = train(tmp_path / "r", "--text", text, "--tokenizer", tokenizer)
    assert result.exit_code == 0, result.output
    corpus = corpora.load_corpus(str(text), tokenizer)
    assert 1 < corpus.characters_per_token < corpus.bytes_per_token
    last = read_metrics(tmp_path / "r" / "pangram" / "metrics.jsonl")[-1]
    ratio = last["bits_per_byte"] / last["bits_per_character"]
    assert ratio == pytest.approx(corpus.characters_per_token / corpus.bytes_per_token)
    assert Tokenizer.load(tmp_path / "r" / "pangram" / "tokenizer.json").vocab


def test_a_run_on_shards_equals_the_run_on_their_text(tmp_path, text, tokenizer):
    shards = tmp_path / "shards"
    written = llmr("tokenize", "encode", tokenizer, text, "--shards", shards)
    assert written.exit_code == 0, written.output
    for name, source in {"shards": shards, "text": text}.items():
        result = train(
            tmp_path / "r", "--text", source, "--tokenizer", tokenizer, "--name", name, steps=2
        )
        assert result.exit_code == 0, result.output
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / "r" / name / "metrics.jsonl")]
        for name in ("shards", "text")
    ]
    assert losses[0] == losses[1]
    result = train(tmp_path / "r", "--text", shards)
    assert result.exit_code == 2 and "name the tokenizer" in one_line(result.output)


def test_ctrl_c_saves_and_says_how_to_go_on_with_the_same_steps(tmp_path):
    arguments = ["--text", "grammar", "--steps", "40", *SMALL.split()]
    command = [sys.executable, "-m", "llmr_ref.cli", "train", *arguments, "--runs"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, tmp_path, "--name", "stopped", "--steps", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(read_metrics(metrics)) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == cli_model.INTERRUPTED, output
    assert "Traceback" not in output
    step = len(read_metrics(metrics))
    stopped = f"Stopped after step {step} of 1000000, and saved."
    assert f"{stopped} Go on with: llmr train --resume {tmp_path / 'stopped'}" in one_line(output)
    saved = list_checkpoints(tmp_path / "stopped" / "checkpoints")
    assert saved[-1].name == f"step-{step:08d}.pt"


def test_a_resumed_run_goes_on_to_its_end_with_its_own_settings(tmp_path, monkeypatch):
    def stop(record):
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    shown = runs._Display.__call__
    with monkeypatch.context() as patched:
        patched.setattr(
            runs._Display, "__call__", lambda self, record: (shown(self, record), stop(record))
        )
        result = train(tmp_path, "--text", "grammar", "--name", "a")
    assert result.exit_code == cli_model.INTERRUPTED
    assert "Stopped after step 4 of 6" in one_line(result.output)
    again = llmr("train", "--runs", tmp_path, "--resume", "a", "--checkpoint-every", 1)
    assert again.exit_code == 0, again.output
    straight = train(tmp_path, "--text", "grammar", "--name", "b")
    assert straight.exit_code == 0
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")] for name in "ab"
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert (tmp_path / "a" / "sample.txt").read_text() == (
        tmp_path / "b" / "sample.txt"
    ).read_text()


def test_a_run_does_not_go_on_with_other_settings_or_another_text(tmp_path, text):
    assert train(tmp_path, "--text", text, "--name", "a", steps=2).exit_code == 0

    def resume(*arguments):
        return llmr("train", "--runs", tmp_path, "--resume", "a", *arguments)

    result = resume("--steps", 9)
    assert result.exit_code == 1
    assert "was made with steps = 2, and this run has steps = 9" in one_line(result.output)
    result = resume("--d-model", 32)
    assert result.exit_code == 1 and "d_model = 16" in one_line(result.output)
    result = resume("--text", text)
    assert result.exit_code == 2 and "takes its text from the run" in one_line(result.output)
    text.write_text(TEXT.replace("fox", "cat") + TEXT, encoding="utf-8")
    result = resume()
    assert result.exit_code == 1 and "has changed since the run" in one_line(result.output)


def test_a_diverging_run_ends_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(
        runs.Trainer, "step", lambda self: (_ for _ in ()).throw(runs_diverged("loss nan"))
    )
    result = train(tmp_path, "--text", "grammar")
    assert result.exit_code == 1 and result.output.rstrip().endswith("Error: loss nan")


def runs_diverged(message):
    from llmr_ref.trainer import TrainingDiverged

    return TrainingDiverged(message)


def test_skipped_steps_are_reported_at_the_end(tmp_path, monkeypatch):
    from llmr_ref import trainer

    norms = iter([float("nan")] + [1.0] * 9)
    monkeypatch.setattr(trainer, "clip_gradients", lambda *_: torch.tensor(next(norms)))
    result = train(tmp_path, "--text", "grammar", steps=3)
    assert result.exit_code == 0 and "not finite: 1 steps" in one_line(result.output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "0 is not in the range"),
        (["--text", "nowhere.txt"], "there is no text file nowhere.txt"),
        (["--tokenizer", "nowhere.json"], "'nowhere.json' does not exist"),
        (["--resume", "nowhere"], "there is no run 'nowhere'; in"),
        (["--text", "grammar", "--preset", "gpt9"], "there is no preset 'gpt9'; there are gpt2"),
        (
            ["--text", "grammar", "--heads", "5"],
            "n_heads must divide d_model = 128, got n_heads = 5",
        ),
        (["--text", "grammar", "--dropout", "1"], "dropout must lie in [0, 1), got 1.0"),
        (["--text", "grammar", "--max-lr", "-1"], "max_lr must be at least 0, got -1.0"),
        (["--text", "grammar", "--device", "gpu"], "device must be 'auto', 'cpu', 'cuda' or 'mps'"),
        (["--text", "grammar", "--precision", "int8"], "'int8' is not one of"),
        (["--text", "grammar", "--parallel", "ddp"], "needs several processes"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_and_nothing_is_left(tmp_path, arguments, message):
    result = llmr("train", "--runs", tmp_path / "runs", *arguments)
    assert result.exit_code == 2 and message in one_line(result.output)
    assert "Traceback" not in result.output and not (tmp_path / "runs").exists()


# --- sample -------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path):
    assert train(tmp_path, "--text", "grammar", "--name", "first", steps=2).exit_code == 0
    return tmp_path


def test_a_sample_begins_with_the_prompt_and_repeats_for_a_seed(trained):
    def sample(*arguments):
        result = llmr("sample", *arguments, "--runs", trained, "--device", "cpu")
        assert result.exit_code == 0, result.output
        return result.output

    first = sample("first", "--prompt", "the ", "--tokens", 30, "--seed", 3)
    assert first.startswith("the ") and len(first) == 4 + 30 + 1
    assert sample("first", "--prompt", "the ", "--tokens", 30, "--seed", 3) == first
    assert sample(trained / "first", "--prompt", "the ", "--tokens", 30, "--seed", 4) != first
    assert sample("--prompt", "the ", "--tokens", 30, "--seed", 3) == first  # the newest run
    greedy = ["first", "--prompt", "the ", "--tokens", 30]
    assert sample(*greedy, "--temperature", 0) == sample(*greedy, "--top-k", 1)


def test_text_ends_before_the_stop_token(trained):
    model, tokenizer = runs.Run.read(trained / "first").load(torch.device("cpu"))
    text = "".join(runs.sample_text(model, tokenizer, "the ", n_tokens=200, seed=0))
    (stop,) = tokenizer.encode(text[20])
    cut = runs.sample_text(model, tokenizer, "the ", n_tokens=200, seed=0, stop=stop)
    assert "".join(cut) == text[: text.index(text[20])]


def test_a_real_model_is_asked_in_its_chat_template_and_stops_at_its_end_of_turn(
    trained, monkeypatch
):
    model, tokenizer = runs.Run.read(trained / "first").load(torch.device("cpu"))
    text = "".join(runs.sample_text(model, tokenizer, "the cat ", n_tokens=400, seed=0))
    monkeypatch.setattr(smollm2, "load", lambda device: (model, tokenizer))
    monkeypatch.setattr(smollm2, "END_OF_TURN", text[20])
    monkeypatch.setattr(smollm2, "chat_prompt", lambda turns: turns[0]["content"] + " ")
    asked = ["sample", "smollm2", "--prompt", "the cat", "--seed", 0, "--runs", trained]
    result = llmr(*asked, "--device", "cpu", "--temperature", 0.8)
    assert result.output == text[: text.index(text[20])] + "\n"


def test_a_real_model_needs_a_question_and_its_weights(trained, monkeypatch):
    result = llmr("sample", "smollm2", "--runs", trained)
    assert result.exit_code == 2 and "ask one with --prompt" in result.output

    def absent():
        raise FileNotFoundError("the weights of SmolLM2-135M are not here")

    monkeypatch.setattr(smollm2, "model_file", absent)
    result = llmr("sample", "smollm2", "--prompt", "Hello", "--runs", trained)
    assert result.exit_code == 2 and "the weights of SmolLM2-135M are not here" in result.output


def test_a_sample_may_be_longer_than_the_model_was_trained_for(trained):
    run = runs.Run.read(trained / "first")
    model, tokenizer = run.load(torch.device("cpu"))
    for prompt, n_tokens in (("t", 50), ("the cat sleeps and sleeps", 20), ("the", 1)):
        pieces = list(runs.sample_text(model, tokenizer, prompt, n_tokens=n_tokens, seed=0))
        assert len("".join(pieces)) == n_tokens
    # The same prefix, and no more than the model's length, gives the same text.
    short = "".join(runs.sample_text(model, tokenizer, "t", n_tokens=15, seed=0))
    assert "".join(runs.sample_text(model, tokenizer, "t", n_tokens=50, seed=0)).startswith(short)


def test_the_model_never_reads_more_than_it_was_trained_for(trained, monkeypatch):
    run = runs.Run.read(trained / "first")
    model, tokenizer = run.load(torch.device("cpu"))
    lengths = []

    def stream(model, prompt, *, max_new_tokens, **choice):
        lengths.append((len(prompt), max_new_tokens))
        return iter([torch.tensor(0)] * max_new_tokens)

    monkeypatch.setattr(runs, "stream", stream)
    list(runs.sample_text(model, tokenizer, "t", n_tokens=30))
    assert lengths == [(1, 15), (8, 8), (8, 7)]
    lengths.clear()
    list(runs.sample_text(model, tokenizer, "the cat sleeps and sleeps", n_tokens=1))
    assert lengths == [(8, 1)]


def test_without_a_seed_every_sample_is_another_one(trained):
    run = runs.Run.read(trained / "first")
    model, tokenizer = run.load(torch.device("cpu"))
    one, other = ("".join(runs.sample_text(model, tokenizer, "the ")) for _ in range(2))
    assert one != other


def test_a_run_or_a_prompt_that_is_not_there_is_named(trained, tmp_path):
    def failed(*arguments):
        result = llmr("sample", *arguments)
        assert result.exit_code == 2 and "Traceback" not in result.output
        return one_line(result.output)

    assert "there is no run 'second'; in" in failed("second", "--runs", trained)
    assert "there is: first" in failed("second", "--runs", trained)
    assert "there is no run; in" in failed("--runs", tmp_path / "none")
    assert "symbol 1 of the text, 'Q'" in failed("first", "--runs", trained, "--prompt", "aQ")
    assert "top-p" in failed("first", "--runs", trained, "--top-p", 0)
    assert "the prompt is empty" in failed("first", "--runs", trained, "--prompt", "")


def test_a_damaged_run_is_named(trained):
    folder = trained / "first"
    checkpoint = list_checkpoints(folder / "checkpoints")[-1]
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    result = llmr("sample", "first", "--runs", trained)
    assert result.exit_code == 1 and "is damaged or cut short" in one_line(result.output)
    (folder / "run.json").write_text('{"model": {}}')
    result = llmr("sample", "first", "--runs", trained)
    assert result.exit_code == 2 and "run.json is damaged" in one_line(result.output)


def test_text_appears_as_soon_as_a_character_is_whole(tokenizer):
    coder = Tokenizer.load(tokenizer)
    ids = [coder.vocab and id for id in coder.encode("caf\u00e9 \u4e2d")]
    pieces = list(corpora.as_text(iter(ids), coder))
    assert "".join(pieces) == "caf\u00e9 \u4e2d" and "\ufffd" not in "".join(pieces)
    cut = list(corpora.as_text(iter(coder.encode("\u4e2d")[:-1]), coder))
    assert "".join(cut) == "\ufffd"
    characters = CharTokenizer("ab")
    assert list(corpora.as_text(iter([0, 1, 1]), characters)) == ["a", "b", "b"]
    assert runs.default_prompt(characters) == "a" and runs.default_prompt(coder) == "\n"


# --- tokenize -----------------------------------------------------------------------------------


def test_a_tokenizer_is_trained_and_text_goes_through_it_and_back(tmp_path, text, tokenizer):
    ids = llmr("tokenize", "encode", tokenizer, text)
    assert ids.exit_code == 0
    assert [int(id) for id in ids.output.split()] == Tokenizer.load(tokenizer).encode(TEXT)
    back = llmr("tokenize", "decode", tokenizer, input=ids.output)
    assert back.exit_code == 0 and back.stdout_bytes == TEXT.encode()


def test_line_ends_and_broken_characters_survive(tokenizer):
    given = "a\r\nb\rc\n\u4e2d"
    ids = llmr("tokenize", "encode", tokenizer, input=given.encode())
    back = llmr("tokenize", "decode", tokenizer, input=ids.output)
    assert back.stdout_bytes == given.encode()
    half = " ".join(ids.output.split()[:-1])
    assert llmr("tokenize", "decode", tokenizer, input=half).stdout_bytes == given.encode()[:-1]


def test_encoding_to_shards_writes_what_it_would_print(tmp_path, text, tokenizer):
    result = llmr("tokenize", "encode", tokenizer, text, "--shards", tmp_path / "shards")
    assert result.exit_code == 0, result.output
    shards = TokenShards(tmp_path / "shards")
    assert shards[:].tolist() == Tokenizer.load(tokenizer).encode(TEXT)
    assert f"{len(shards)} tokens are in {tmp_path / 'shards'}." in one_line(result.output)
    again = llmr("tokenize", "encode", tokenizer, text, "--shards", tmp_path / "shards")
    assert again.exit_code == 1 and "exists" in again.output


def test_special_tokens_and_the_default_text(tmp_path, monkeypatch):
    from llmr_ref import data

    monkeypatch.setattr(data, "shakespeare", lambda: TEXT)
    path = tmp_path / "new" / "bpe.json"
    result = llmr(
        *("tokenize", "train", "--vocab-size", 280, "--special", "<|end|>", "--output", path)
    )
    assert result.exit_code == 0, result.output
    assert "280 tokens, 23 merges" in one_line(result.output)
    ids = Tokenizer.load(path).encode("dog<|end|>")
    assert ids[-1] == Tokenizer.load(path).special_tokens["<|end|>"]


@pytest.mark.parametrize(
    ("arguments", "input", "code", "message"),
    [
        (["train", "nowhere.txt"], None, 2, "'nowhere.txt' does not exist"),
        (["train", "--vocab-size", "100"], None, 2, "100 is not in the range"),
        (["encode", "nowhere.json"], "x", 2, "'nowhere.json' does not exist"),
        (["encode", "TEXT"], "x", 2, "is damaged"),
        (["decode", "BPE"], "12 x7", 1, "got 'x7'"),
        (["decode", "BPE"], "99999", 1, "id 99999 is not in the vocabulary"),
        (["encode", "BPE"], b"\xff", 1, "can't decode byte 0xff"),
    ],
)
def test_what_cannot_be_tokenized_is_one_sentence(tokenizer, text, arguments, input, code, message):
    named = {"BPE": str(tokenizer), "TEXT": str(text)}
    result = llmr("tokenize", *(named.get(word, word) for word in arguments), input=input)
    assert result.exit_code == code and message in one_line(result.output)
    assert "Traceback" not in result.output


# --- count --------------------------------------------------------------------------------------


def test_the_presets_are_listed_with_their_sizes():
    result = llmr("count", "--list")
    assert result.exit_code == 0
    for name, size in {"gpt2": "124 M", "llama2-7b": "6.74 G", "falcon-7b": "71/1"}.items():
        (row,) = [line for line in result.output.splitlines() if f" {name} " in line]
        assert size in row


def test_a_model_is_counted_by_part():
    result = llmr("count", "gpt2", "--length", 1024, "--batch", 8, "--precision", "bfloat16")
    assert result.exit_code == 0
    for section in ("parameters", "training step", "memory", "inference", "training run"):
        assert section in result.output
    (total, *_) = [line for line in result.output.splitlines() if " total " in line]
    assert "124 M" in total
    (weights, *_) = [line for line in result.output.splitlines() if " weights " in line]
    assert "249 MB" in weights  # two bytes each
    assert llmr("count").output == llmr("count", "gpt2").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt9"], "there is no preset 'gpt9'; there are gpt2"),
        (["gpt2", "--hardware", "abacus"], "there is no device 'abacus'"),
        (["gpt2", "--tokens", "-1"], "n_tokens must be positive"),
        (["gpt2", "--length", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(arguments, message):
    result = llmr("count", *arguments)
    assert result.exit_code == 2 and message in one_line(result.output)


def test_curves_are_smoothed_and_labels_kept_apart():
    nan = float("nan")
    assert loss_plot.running_mean([1.0, 2.0, 6.0, 2.0], 1) == [1.0, 3.0, 10 / 3, 4.0]
    assert loss_plot.running_mean([1.0, nan, 6.0], 1) == [1.0, 3.5, 6.0]
    assert loss_plot.running_mean([1.0, 2.0, 3.0, 8.0, 6.0], 2) == [1.0, 2.0, 4.0, 4.75, 17 / 3]
    assert np.isnan(loss_plot.running_mean([nan, 3.0], 0)[0])
    assert loss_plot.spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    moved = loss_plot.spread([0.1, 0.5, 0.5, 0.52], 0.06)
    assert moved[0] == 0.1 and all(b - a >= 0.06 - 1e-12 for a, b in pairwise(moved))
    assert abs(np.mean(moved[1:]) - 0.506) < 0.03
    assert runs._smooth(nan, 2.0) == 2.0 and runs._smooth(2.0, nan) == 2.0
    assert runs._smooth(2.0, 3.0) == pytest.approx(2.1)


def test_the_description_of_a_run_comes_back_as_it_was(tmp_path):
    from llmr_ref.rope import RopeScaling

    corpus = corpora.load_corpus("grammar")
    scaling = RopeScaling("linear", 2.0, 256)
    run = runs.set_up(corpus, tmp_path / "x", model={"rope_scaling": scaling}, training={})
    run.write(corpus.tokenizer)
    assert runs.Run.read(tmp_path / "x") == run
    assert json.loads((tmp_path / "x" / "run.json").read_text())["folder"] is None
    assert (
        corpora.load_tokenizer(tmp_path / "x" / "tokenizer.json").symbols
        == corpus.tokenizer.symbols
    )
