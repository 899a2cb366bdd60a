"""One batch: its inputs, the targets one place further on, and the loss of every position.

>>> BatchLoss()  # L2's sentence, L1's, and one from the book's grammar
>>> BatchLoss(["the dog sings .", "the cats wait ."], order=3)
>>> BatchLoss(loss_function=next_token_loss)  # a student's function, beside the reference's mean
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import traitlets
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmr_ref.data import IGNORE, pad_batch
from llmr_ref.grammar import ProbabilisticGrammar
from llmr_ref.ngram import NGramModel, perplexity
from llmr_ref.training import loss_by_position, next_token_loss, token_losses
from llmr_ref.widgets.embed import (
    Golden,
    StateError,
    StudentsWidget,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import bars_picture

L2_SENTENCE = "So long and thanks for all the fish"
L1_SENTENCE = "I saw the dog"
TEXTS = (L2_SENTENCE, L1_SENTENCE, "the cats that see the king sleep")
GRAMMAR_STRINGS, REPEATS = 300, 6
MOST_TEXTS, MOST_WORDS = 4, 12
PADDINGS = ("ignored", "averaged", "target")


@functools.cache
def training_words() -> tuple[str, ...]:
    """What the model is counted on: sentences of the book's grammar, and each of the lectures' six times."""
    sentences = [f"{L2_SENTENCE} . {L1_SENTENCE} ."] * REPEATS
    sentences += ProbabilisticGrammar().sample(GRAMMAR_STRINGS, seed=0)
    return tuple(" ".join(sentences).replace(".", " .").split())


@functools.cache
def vocabulary() -> tuple[str, ...]:
    return tuple(sorted(set(training_words())))


@functools.cache
def training_ids() -> tuple[int, ...]:
    return tuple(vocabulary().index(word) for word in training_words())


@functools.cache
def model(order: int) -> NGramModel:
    return NGramModel(list(training_ids()), order, vocab_size=len(vocabulary()))


class Batch(NamedTuple):
    """Inputs and targets (B, T), which targets count, and the logits of a counted model."""

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    counted: Bool[Tensor, "B T"]
    logits: Float[Tensor, "B T V"]


def make_batch(
    rows: Sequence[Sequence[int]], order: int, padding: str, off: Sequence[Sequence[int]]
) -> Batch:
    """Rows of ids, padded with id 0 and shifted. Targets in `off` do not count, padding's seldom."""
    tokens, _, real = pad_batch([torch.tensor(row) for row in rows], pad_id=0)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    counted = real[:, 1:].clone() if padding != "target" else torch.ones_like(targets).bool()
    for r, c in off:
        if r < len(rows) and c < targets.shape[1]:
            counted[r, c] = False
    counts = model(order)
    p = [
        [counts.probabilities(row[max(0, t + 2 - order) : t + 1]) for t in range(len(row))]
        for row in inputs.tolist()
    ]
    return Batch(
        inputs,
        targets.masked_fill(~counted, IGNORE),
        counted,
        torch.stack([torch.stack(row) for row in p]).log(),
    )


def mean_loss(batch: Batch, padding: str) -> float:
    """The mean over what counts; "averaged" divides by all places, which is the mistake."""
    if padding == "averaged":
        return float(token_losses(batch.logits, batch.targets).sum() / batch.targets.numel())
    return float(next_token_loss(batch.logits, batch.targets))


class BatchLoss(StudentsWidget):
    """A padded batch with its shifted targets and their losses under a model of counted words.

    texts: up to 4 sequences of up to 12 words of the model's vocabulary. order: 1, 2 or 3, the n of the
    n-gram model (Witten-Bell), which sees n - 1 words. padding: "ignored" (right), "averaged" (left out of
    the sum but not of the count), "target" (a target like others). off: places [sequence, position] whose
    target does not count.
    loss_function: a student's (logits, targets) -> mean loss, with -100 for what does not count.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("batch_loss")

    texts = traitlets.List(traitlets.Unicode(), default_value=list(TEXTS)).tag(sync=True)
    order = traitlets.Int(2).tag(sync=True)
    padding = traitlets.Enum(PADDINGS, "ignored").tag(sync=True)
    off = traitlets.List(traitlets.List(traitlets.Int())).tag(sync=True)
    words = traitlets.List(traitlets.Unicode()).tag(sync=True)
    corpus = traitlets.Unicode().tag(sync=True)
    code = traitlets.List(
        code_lines(
            token_losses,
            begin="ignored = targets ==",
            count="ignored = targets ==",
            loss="log_p = torch.log_softmax",
            target="target_log_p = log_p.gather",
        )
        + code_lines(next_token_loss, begin="losses = token_losses", mean="return losses.sum()")[:3]
    ).tag(sync=True)

    def __init__(
        self,
        texts: Sequence[str] = TEXTS,
        *,
        loss_function: Callable[..., Any] | None = None,
        **more: Any,
    ) -> None:
        if loss_function is not None and not callable(loss_function):
            raise TypeError(f"loss_function must be callable, got {type(loss_function).__name__}")
        self._loss_function: Callable[..., Any] | None = None  # not asked before all is set
        super().__init__(
            texts=list(texts),
            words=list(vocabulary()),
            corpus="".join(chr(65 + i) for i in training_ids()),
            **more,
        )
        self._loss_function = loss_function
        self._call_function()

    @traitlets.validate("texts")
    def _check_texts(self, proposal: Any) -> list[str]:
        texts: list[str] = proposal["value"]
        if not 1 <= len(texts) <= MOST_TEXTS:
            raise StateError(f"texts must number 1 to {MOST_TEXTS}, got {len(texts)}")
        for text in texts:
            words = text.split()
            if not 1 <= len(words) <= MOST_WORDS:
                raise StateError(f"a text has 1 to {MOST_WORDS} words, got {text!r}")
            if unknown := [word for word in words if word not in vocabulary()]:
                raise StateError(f"{unknown[0]!r} is not among the words of the model")
        if max(len(text.split()) for text in texts) < 2:
            raise StateError("no text has two words, so there is nothing to predict")
        return texts

    @traitlets.validate("order")
    def _check_order(self, proposal: Any) -> int:
        return within("order", proposal["value"], 1, 3)

    @traitlets.validate("off")
    def _check_off(self, proposal: Any) -> list[list[int]]:
        for place in proposal["value"]:
            if len(place) != 2 or min(place) < 0:
                raise StateError(f"off must hold places [sequence, position], got {place}")
        return proposal["value"]

    def rows(self) -> list[list[int]]:
        return [[vocabulary().index(word) for word in text.split()] for text in self.texts]

    def batch(self) -> Batch:
        return make_batch(self.rows(), self.order, self.padding, self.off)

    def mean(self) -> float:
        """The loss that is shown; nan if no target counts."""
        return mean_loss(self.batch(), self.padding)

    _STATE = ("texts", "order", "padding", "off")

    @traitlets.observe(*_STATE)
    def _call_function(self, change: Any = None) -> None:
        """Send the student's loss of the present batch, or the error."""
        if self._loss_function is not None:
            self._ask_about(self._STATE, self._checked)

    def _checked(self) -> dict[str, Any]:
        assert self._loss_function is not None
        batch = self.batch()
        answer = torch.as_tensor(self._loss_function(batch.logits.float(), batch.targets.clone()))
        if answer.numel() != 1:
            raise ValueError(f"it must return one number, got the shape {tuple(answer.shape)}")
        loss = float(answer)
        if math.isnan(loss) and not batch.counted.any():
            return {"loss": None}
        if not math.isfinite(loss):
            raise ValueError(f"it returned {loss}")
        return {"loss": loss}

    def description(self) -> str:
        batch = self.batch()
        B, T = batch.targets.shape
        n = int(batch.counted.sum())
        mean = mean_loss(batch, self.padding)
        return (
            f"A batch of {B} sequences and {T} positions; each target is the word one place further on. "
            f"{n} of {B * T} targets count. Their mean loss is {mean:.3f} nats, "
            f"a perplexity of {perplexity(mean):.2f}."
        )

    def picture(self) -> str:
        batch = self.batch()
        losses = token_losses(batch.logits, batch.targets)
        rows = []
        for r, text in enumerate(self.texts):
            words = text.split()
            for t, (word, target) in enumerate(itertools.pairwise(words)):
                if batch.counted[r, t]:
                    loss = float(losses[r, t])
                    rows.append((f"{word} → {target}", loss, f"{loss:.2f}"))
        return bars_picture("Loss of each target, in nats", rows or [("nothing counts", 0.0, "")])

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        V, corpus = len(vocabulary()), list(training_ids())
        generator = torch.Generator().manual_seed(3)
        ids = [[vocabulary().index(word) for word in text.split()] for text in TEXTS]
        strange = [torch.randint(V, (n,), generator=generator).tolist() for n in (12, 2, 7, 1)]
        for order in (1, 2, 3):
            for h in ([], [5], [0, 20], [20, 5], [7, 7]):
                p = model(order).probabilities(h)
                yield Golden("probabilities", [corpus, V, order, h], p)
            for rows, off in ((ids, []), (ids, [[0, 2], [1, 0], [3, 50]]), (strange, [[1, 0]])):
                for padding in PADDINGS:
                    batch = make_batch(rows, order, padding, off)
                    each = loss_by_position(batch.logits, batch.targets).tolist()
                    yield Golden(
                        "batchLosses",
                        [corpus, V, rows, order, padding, off],
                        {
                            "inputs": batch.inputs,
                            "targets": batch.targets,
                            "losses": token_losses(batch.logits, batch.targets),
                            "mean": mean_loss(batch, padding),
                            "byPosition": [None if math.isnan(x) else x for x in each],
                        },
                    )
