"""Heads of a trained model: where each head of a small transformer looks, text by text.

>>> TrainedHeads()
>>> TrainedHeads(layer=2, head=1, token=7)

The model is trained, and its scores are stored, by `python -m llmr_ref.widgets.train_heads`.
"""

import json
from collections.abc import Iterator
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from llmr_ref.attention import MultiHeadAttention, attention_weights
from llmr_ref.widgets.embed import EmbeddableWidget, Golden, code_lines, module_source, within
from llmr_ref.widgets.still import heatmap_picture
from llmr_ref.widgets.stored_heads import FILE, portrait, read_weights, write_scores

_weights_code = code_lines(
    attention_weights,
    begin="scale = 1 / math.sqrt",
    scale="scale = 1 / math.sqrt",
    mask="mask = combine_masks",
    softmax="return masked_softmax",
)
CODE = [
    *code_lines(MultiHeadAttention.forward, begin="Q = self._split", head="= self._split")[:3],
    *_weights_code[:3],
    ["    …", ""],
    *_weights_code[-3:],
]


class TrainedHeads(EmbeddableWidget):
    """The attention of every head of a model that was really trained, on texts that it has not seen.

    text: number of the text; layer and head count from 1, token (the query) from 0.
    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("trained_heads")

    text = traitlets.Int(0).tag(sync=True)
    layer = traitlets.Int(4).tag(sync=True)
    head = traitlets.Int(4).tag(sync=True)
    token = traitlets.Int(11).tag(sync=True)
    model = traitlets.Dict(json.loads(FILE.read_text(encoding="utf-8"))).tag(sync=True)
    code = traitlets.List(CODE).tag(sync=True)

    @traitlets.validate("text", "layer", "head", "token")
    def _check_number(self, proposal: Any) -> int:
        name, texts = proposal["trait"].name, self.model["texts"]
        scores = texts[0]["scores"]
        low, high = {
            "text": (0, len(texts) - 1),
            "layer": (1, len(scores)),
            "head": (1, len(scores[0])),
            "token": (0, max(len(text["tokens"]) for text in texts) - 1),
        }[name]
        value: int = within(name, proposal["value"], low, high)
        return value

    def tokens(self) -> list[str]:
        tokens: list[str] = self.model["texts"][self.text]["tokens"]
        return tokens

    def weights(self) -> Float[Tensor, "T T"]:
        """Of the present head, from the stored scores."""
        written = self.model["texts"][self.text]["scores"][self.layer - 1][self.head - 1]
        return read_weights(written, len(self.tokens()))

    def description(self) -> str:
        tokens, t = self.tokens(), min(self.token, len(self.tokens()) - 1)
        row = self.weights()[t]
        return (
            f"Attention of layer {self.layer}, head {self.head} of a small transformer trained on "
            f"Shakespeare. At “{tokens[t].strip()}” (token {t}) its largest weight is {row.max():.2f}, "
            f"on “{tokens[int(row.argmax())].strip()}” (token {int(row.argmax())})."
        )

    def picture(self) -> str:
        shown = min(len(self.tokens()), 12)
        names = [token.strip() or "↵" for token in self.tokens()[:shown]]
        return heatmap_picture(
            f"Attention weights of the first {shown} tokens, queries in rows",
            names,
            names,
            self.weights()[:shown, :shown].tolist(),
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        generator = torch.Generator().manual_seed(2)
        for T, size in ((1, 1.0), (2, 0.0), (9, 1.0), (24, 4.0)):
            scores = size * torch.randn(T, T, generator=generator, dtype=torch.float64)
            written = write_scores(scores)
            weights = read_weights(written, T)
            yield Golden("readWeights", [written, T], weights)
            ids = torch.randint(5, (T,), generator=generator)
            if T > 1:
                yield Golden(
                    "portrait",
                    [weights, ["\n" if i == 0 else f"t{i}" for i in ids.tolist()]],
                    portrait(weights, ids, ids == 0),
                )
        for number, text in enumerate(cls().model["texts"]):
            kinds = sorted(set(text["tokens"]))
            ids = torch.tensor([kinds.index(token) for token in text["tokens"]])
            widget = cls(text=number, layer=1 + number % 2, head=2)
            breaks = torch.tensor(["\n" in token for token in text["tokens"]])
            expected = portrait(widget.weights(), ids, breaks)
            yield Golden("portrait", [widget.weights(), text["tokens"]], expected)
