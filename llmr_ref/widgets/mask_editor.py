"""The mask editor: click an attention mask together and watch scores, weights and loss follow.

>>> MaskEditor()  # L1's sentence under the causal mask
>>> MaskEditor(mask="sliding window", window=2)
>>> MaskEditor(mask=[[True, False], [True, True]], tokens=["a", "b"])
>>> MaskEditor(mask_function=my_causal_mask)  # a student's function against the reference
"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import traitlets
from torch import Tensor

from llmr_ref import masks
from llmr_ref.attention import masked_softmax
from llmr_ref.widgets.embed import (
    EmbeddableWidget,
    Golden,
    StateError,
    ask,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.leak import leak_losses, look_ahead_scores, look_ahead_weights
from llmr_ref.widgets.still import mask_picture

FAMILIES = ("none", "causal", "sliding window", "prefix", "padding", "packed documents")
LECTURE_SENTENCE = ("<s>", "I", "saw", "the", "dog")  # L1 "A small problem with Transformer LMs"
PADDING_TOKEN = "<pad>"
MOST_TOKENS = 16


def family_mask(
    family: str,
    n: int,
    *,
    window: int = 2,
    prefix_length: int = 2,
    n_real: int | None = None,
    padding_side: str = "right",
    documents: Sequence[int] | None = None,
    causal: bool = True,
) -> Tensor:
    """The reference's (n, n) mask of a family, True = may attend.

    Padding and packed documents are not causal by themselves; `causal` combines them with the causal
    mask. `n_real` counts the tokens that are not padding; padding stands on `padding_side`.
    Raises: ValueError for an unknown family, and what `llmr_ref.masks` raises.
    """
    everything = torch.ones(n, n, dtype=torch.bool)
    also_causal = masks.causal_mask(n) if causal else everything
    if family == "none":
        return everything
    if family == "causal":
        return masks.causal_mask(n)
    if family == "sliding window":
        return masks.sliding_window_mask(n, window)
    if family == "prefix":
        return masks.prefix_mask(n, prefix_length)
    if family == "padding":
        real = masks.padding_mask(torch.tensor(n if n_real is None else n_real), n)
        return (real.flip(-1) if padding_side == "left" else real) & also_causal
    if family == "packed documents":
        ids = torch.tensor([0] * n if documents is None else list(documents))
        return masks.document_mask(ids) & also_causal
    raise ValueError(f"family is {family!r}; choose one of {', '.join(FAMILIES)}")


class MaskEditor(EmbeddableWidget):
    """A T x T attention mask under the reader's hands, queries in rows, keys in columns.

    mask: a family's name (see `FAMILIES`) or a square nested list (or tensor) of bool, True = may attend.
    mask_function: a student's function of T (or of n_queries, n_keys); it is called with the number of
    tokens and drawn against the reference mask of the family given by `mask`. Its error is shown.

    Traits, synchronised both ways: tokens, mask, family, window, prefix_length, n_real, padding_side,
    documents, causal, stage. Setting a parameter recomputes the mask; setting `mask` to something else
    makes the family "custom".
    Raises: ValueError or TypeError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("mask_editor")

    tokens = traitlets.List(traitlets.Unicode(), list(LECTURE_SENTENCE)).tag(sync=True)
    mask = traitlets.Any().tag(sync=True)
    family = traitlets.Unicode("causal").tag(sync=True)
    edited_from = traitlets.Unicode("causal").tag(sync=True)
    window = traitlets.Int(2).tag(sync=True)
    prefix_length = traitlets.Int(2).tag(sync=True)
    n_real = traitlets.Int(3).tag(sync=True)
    padding_side = traitlets.Enum(("right", "left"), "right").tag(sync=True)
    documents = traitlets.List(traitlets.Int()).tag(sync=True)
    causal = traitlets.Bool(True).tag(sync=True)
    stage = traitlets.Enum(("scores", "masked", "weights"), "weights").tag(sync=True)
    function_mask = traitlets.Any([]).tag(sync=True)
    function_error = traitlets.Unicode("").tag(sync=True)
    reference_family = traitlets.Unicode("").tag(sync=True)
    code = traitlets.List(
        code_lines(
            masked_softmax, begin="row_is_empty", softmax="softmax(scores", mask="masked_fill"
        )
    ).tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str] | None = None,
        mask: str | Sequence[Sequence[bool]] | Tensor = "causal",
        *,
        window: int | None = None,
        prefix_length: int | None = None,
        n_real: int | None = None,
        padding_side: str = "right",
        documents: Sequence[int] | None = None,
        causal: bool = True,
        mask_function: Callable[..., Any] | None = None,
    ) -> None:
        if mask_function is not None and not callable(mask_function):
            raise TypeError(f"mask_function must be callable, got {type(mask_function).__name__}")
        if isinstance(mask, str) and mask not in FAMILIES:
            raise ValueError(
                f"mask is {mask!r}; choose one of {', '.join(FAMILIES)}, or give cells"
            )
        if mask_function is not None and not isinstance(mask, str):
            raise ValueError(
                "with mask_function, mask names the reference family, such as 'causal'"
            )
        words = [str(t) for t in (LECTURE_SENTENCE if tokens is None else tokens)]
        n = len(words)
        self._mask_function = mask_function
        self._settling = True  # observers rest until the state is whole
        super().__init__(
            tokens=words,
            mask=family_mask("causal", n).tolist(),
            window=min(2, n) if window is None else window,
            prefix_length=min(2, n) if prefix_length is None else prefix_length,
            n_real=max(1, n - 2) if n_real is None else n_real,
            padding_side=padding_side,
            documents=_halves(n) if documents is None else list(documents),
            causal=causal,
        )
        self._settling = False
        if isinstance(mask, str):
            self.edited_from = mask
            self.family = mask
            self._recompute_mask()
        else:
            self.mask = mask
        if mask_function is not None:
            self.reference_family = self.family
            self._call_function()

    # --- checks ---------------------------------------------------------------------------------

    @traitlets.validate("tokens")
    def _check_tokens(self, proposal: Any) -> list[str]:
        tokens = proposal["value"]
        if not 2 <= len(tokens) <= MOST_TOKENS:
            raise StateError(f"tokens must number 2 to {MOST_TOKENS}, got {len(tokens)}")
        return tokens

    @traitlets.validate("family", "edited_from")
    def _check_family(self, proposal: Any) -> str:
        allowed = (*FAMILIES, "custom", "function")
        if proposal["value"] not in allowed:
            raise StateError(
                f"family is {proposal['value']!r}; choose one of {', '.join(FAMILIES)}"
            )
        return proposal["value"]

    @traitlets.validate("mask")
    def _check_mask(self, proposal: Any) -> list[list[bool]]:
        n = len(self.tokens)
        try:
            return _as_cells(proposal["value"], n, f"mask must be {n} x {n} booleans, one per cell")
        except (TypeError, ValueError) as error:
            raise StateError(str(error)) from None

    @traitlets.validate("window")
    def _check_window(self, proposal: Any) -> int:
        return within("window", proposal["value"], 1, MOST_TOKENS)

    @traitlets.validate("prefix_length")
    def _check_prefix_length(self, proposal: Any) -> int:
        return within("prefix_length", proposal["value"], 0, len(self.tokens))

    @traitlets.validate("n_real")
    def _check_n_real(self, proposal: Any) -> int:
        return within("n_real", proposal["value"], 1, len(self.tokens))

    @traitlets.validate("documents")
    def _check_documents(self, proposal: Any) -> list[int]:
        ids, n = proposal["value"], len(self.tokens)
        if len(ids) != n:
            raise StateError(f"documents needs one document number per token: {n}, got {len(ids)}")
        return ids

    # --- state that follows other state ---------------------------------------------------------

    @traitlets.observe("tokens")
    def _fit_to_tokens(self, change: Any) -> None:
        if self._settling:
            return
        n = len(self.tokens)
        self._settling = True
        self.prefix_length = min(self.prefix_length, n)
        self.n_real = min(self.n_real, n)
        if len(self.documents) != n:
            self.documents = _halves(n)
        if len(self.mask) != n and self.family == "custom":
            self.family = "causal"
        self._settling = False
        self._call_function()
        self._recompute_mask()

    @traitlets.observe(
        "family", "window", "prefix_length", "n_real", "padding_side", "documents", "causal"
    )
    def _recompute_mask(self, change: Any = None) -> None:
        if self._settling or self.family == "custom":
            return
        self._settling = True
        try:
            self.edited_from = self.family
            self.mask = self._mask_of(self.family)
        finally:
            self._settling = False

    @traitlets.observe("mask")
    def _notice_custom_mask(self, change: Any) -> None:
        if self._settling or self.family == "custom":
            return
        if self.mask != self._mask_of(self.family):
            self.edited_from = self.family
            self.family = "custom"

    def _mask_of(self, family: str) -> list[list[bool]]:
        if family == "function" and self.function_mask:
            return [list(row) for row in self.function_mask]
        if family == "function":
            family = self.reference_family or "causal"
        cells: list[list[bool]] = family_mask(
            family,
            len(self.tokens),
            window=self.window,
            prefix_length=self.prefix_length,
            n_real=self.n_real,
            padding_side=self.padding_side,
            documents=self.documents,
            causal=self.causal,
        ).tolist()
        return cells

    # --- the student's function -----------------------------------------------------------------

    def _call_function(self) -> None:
        """Run the student's function on the present length; whatever it does stays in the widget."""
        if self._mask_function is None:
            return
        n = len(self.tokens)
        function, expectation = (
            self._mask_function,
            f"it must return {n} x {n} booleans for T = {n}",
        )
        cells, self.function_error = ask(
            lambda: _as_cells(function(*_length_arguments(function, n)), n, expectation)
        )
        self.function_mask = cells or []
        if self.function_error:
            if self.family == "function":
                self.family = self.reference_family
            return
        self.family = "function"
        self._recompute_mask()

    # --- words and picture ----------------------------------------------------------------------

    def shown_tokens(self) -> list[str]:
        """The tokens as the model sees them: under the padding family some are `<pad>`."""
        n = len(self.tokens)
        if self._scoring_family() != "padding":
            return list(self.tokens)
        first = n - self.n_real if self.padding_side == "left" else 0
        return [
            t if first <= i < first + self.n_real else PADDING_TOKEN
            for i, t in enumerate(self.tokens)
        ]

    def scored_positions(self) -> list[bool]:
        """Whose prediction counts: positions with a next word that is real, of the same document, and
        not part of a given prefix."""
        n, family, shown = len(self.tokens), self._scoring_family(), self.shown_tokens()
        scored = [t < n - 1 and PADDING_TOKEN not in (shown[t], shown[t + 1]) for t in range(n)]
        if family == "prefix":
            scored = [s and t >= self.prefix_length - 1 for t, s in enumerate(scored)]
        if family == "packed documents":
            scored = [
                s and self.documents[t] == self.documents[t + 1] for t, s in enumerate(scored)
            ]
        return scored

    def _scoring_family(self) -> str:
        family = self.edited_from if self.family == "custom" else self.family
        return self.reference_family if family == "function" else family

    def description(self) -> str:
        mask = torch.tensor(self.mask)
        losses = leak_losses(self.shown_tokens(), mask, torch.tensor(self.scored_positions()))
        leaky = [t for t in range(len(mask)) if bool(mask[t, t + 1 :].any())]
        sees = (
            f"{len(leaky)} of {len(mask)} positions see the future"
            if leaky
            else "no position sees the future"
        )
        return (
            f"Attention mask ({self.family}) over the tokens {' '.join(self.shown_tokens())}, queries in "
            f"rows, keys in columns; numbers are attention weights. Here {sees}. Loss of the toy model: "
            f"{losses.training:.3f} in training with this mask, {losses.writing:.3f} when it writes, "
            f"{losses.honest:.3f} for the honest causal model."
        )

    def picture(self) -> str:
        mask = torch.tensor(self.mask)
        return mask_picture(self.shown_tokens(), self.mask, look_ahead_weights(mask).tolist())

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        for family, n, options in _golden_families():
            mask = family_mask(family, n, **options)
            yield Golden("maskFor", [family, n, options], mask)
        generator = torch.Generator().manual_seed(8)
        repeated = ["the", "dog", "saw", "the", "dog", "saw", "the", "cat"]  # the past helps here
        texts = (list(LECTURE_SENTENCE), repeated, ["a", "a"], [f"w{i}" for i in range(16)])
        for tokens in texts:
            n = len(tokens)
            every = torch.ones(n, n, dtype=torch.bool)
            scattered = [torch.rand(n, n, generator=generator) < p for p in (0.2, 0.5, 0.8)]
            shapes = [every.tril(diagonal) for diagonal in (n, 0, 1, -1)]
            scores = look_ahead_scores(n)
            yield Golden("lookAheadScores", [n], scores)
            for mask in (*shapes, every.triu(), ~every, *scattered):
                scored = torch.arange(n) < n - 1
                if n > 4:
                    scored[1] = False
                yield Golden("softmaxRows", [scores, mask], look_ahead_weights(mask))
                yield Golden(
                    "softmaxRows", [1e4 * scores, mask], masked_softmax(1e4 * scores, mask)
                )
                losses = leak_losses(tokens, mask, scored)._asdict()
                yield Golden("leakLosses", [tokens, mask, scored], losses)


def _golden_families() -> Iterator[tuple[str, int, dict[str, Any]]]:
    for n in (2, 5, 9):
        yield from (("none", n, {}), ("causal", n, {}))
        for window in (1, 2, n, n + 3):
            yield "sliding window", n, {"window": window}
        for length in (0, 1, n):
            yield "prefix", n, {"prefix_length": length}
        for causal in (True, False):
            for n_real, side in itertools.product((1, n - 1, n), ("left", "right")):
                yield "padding", n, {"n_real": n_real, "padding_side": side, "causal": causal}
            ids = [7 * (i % 3 == 0) for i in range(n)]
            yield "packed documents", n, {"documents": ids, "causal": causal}


def _halves(n: int) -> list[int]:
    """Two documents side by side."""
    return [0] * (n // 2) + [1] * (n - n // 2)


def _as_cells(value: Any, n: int, expectation: str) -> list[list[bool]]:
    """An (n, n) boolean tensor, array or nested list as nested lists of bool."""
    if isinstance(value, Tensor) and value.is_floating_point():
        raise TypeError(
            f"{expectation}, got {value.dtype}; True = may attend, so compare or .bool() it"
        )
    cells = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(cells, list | tuple) or not all(isinstance(r, list | tuple) for r in cells):
        raise TypeError(f"{expectation}, got {type(value).__name__}")
    if len(cells) != n or any(len(row) != n for row in cells):
        shape = f"{len(cells)} rows of {sorted({len(row) for row in cells})} cells"
        raise ValueError(f"{expectation}, got {shape}")
    if any(cell not in (0, 1) for row in cells for cell in row):
        bad = next(cell for row in cells for cell in row if cell not in (0, 1))
        raise TypeError(f"{expectation}, got the cell {bad!r}")
    return [[bool(cell) for cell in row] for row in cells]


def _length_arguments(function: Callable[..., Any], n: int) -> tuple[int, ...]:
    """(n, n) for a function that requires two lengths, otherwise (n,)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return (n,)
    required = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return (n, n) if len(required) == 2 else (n,)
