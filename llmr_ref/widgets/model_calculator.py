"""The model calculator: from the shape of a transformer to its parameters, FLOPs and memory, by part.

>>> ModelCalculator()  # GPT-2, as in the table of L3
>>> ModelCalculator("llama2-7b", batch=32)
>>> ModelCalculator("gpt3-175b", n_kv_heads=8, precision="float32")
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import traitlets

from llmr_ref.accounting import (
    Parameters,
    TrainingMemory,
    activation_memory,
    approximate_parameters,
    kv_cache_bytes,
    parameters,
    training_flops,
    training_memory,
    with_prefix,
)
from llmr_ref.config import PRESETS, TransformerConfig, preset
from llmr_ref.lecture_tables import LECTURE_TABLES
from llmr_ref.widgets.embed import (
    EmbeddableWidget,
    Golden,
    StateError,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import bars_picture

RANGES = {
    "n_layers": 1_000,
    "d_model": 100_000,
    "n_heads": 1_024,
    "n_kv_heads": 1_024,
    "d_head": 4_096,
    "d_ff": 1_000_000,
    "vocab_size": 10_000_000,
    "length": 10_000_000,
    "batch": 1_000_000,
}
NORMS = ("layernorm", "layernorm without bias", "rmsnorm", "nonparametric")
LECTURE_MODELS = tuple(
    str(name)
    for names in (
        LECTURE_TABLES["gpt2"].column("preset"),
        LECTURE_TABLES["gpt3"].column("preset"),
        LECTURE_TABLES["7b"].columns[1:],
    )
    for name in names
)


def shape_of(config: TransformerConfig) -> dict[str, Any]:
    """The widget's traits for a configuration, without batch and precision.

    Raises: ValueError for a shape that the calculator does not draw.
    """
    if config.block == "post" or config.positions in ("t5",):
        raise ValueError(
            f"the calculator draws pre-norm and parallel blocks without T5's biases, got block "
            f"{config.block!r} and positions {config.positions!r}"
        )
    norm = config.norm
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.kv_heads,
        "d_head": config.head_width,
        "d_ff": config.ffn_width,
        "length": config.max_length,
        "gated": config.activation == "swiglu",
        "norm": "layernorm without bias" if norm == "layernorm" and not config.norm_bias else norm,
        "block": config.block,
        "learned_positions": config.positions == "learned",
        "bias": config.bias,
        "tied": config.tie_embeddings,
    }


class ModelCalculator(EmbeddableWidget):
    """Parameters by part, 12 d^2 L + d V, the FLOPs and the memory of a training step, and the cache.

    model: a preset of llmr_ref.config, or a TransformerConfig. Every trait may be given besides: the
    shape (n_layers, d_model, n_heads, n_kv_heads, d_head, d_ff, vocab_size, length), batch, precision
    ("mixed" or "float32"), gated, norm, block, learned_positions, bias, tied.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("model_calculator")

    n_layers = traitlets.Int(12).tag(sync=True)
    d_model = traitlets.Int(768).tag(sync=True)
    n_heads = traitlets.Int(12).tag(sync=True)
    n_kv_heads = traitlets.Int(12).tag(sync=True)
    d_head = traitlets.Int(64).tag(sync=True)
    d_ff = traitlets.Int(3072).tag(sync=True)
    vocab_size = traitlets.Int(50_257).tag(sync=True)
    length = traitlets.Int(1024).tag(sync=True)
    batch = traitlets.Int(1).tag(sync=True)
    precision = traitlets.Enum(("mixed", "float32"), "mixed").tag(sync=True)
    norm = traitlets.Enum(NORMS, "layernorm").tag(sync=True)
    block = traitlets.Enum(("pre", "parallel"), "pre").tag(sync=True)
    gated = traitlets.Bool(False).tag(sync=True)
    learned_positions = traitlets.Bool(True).tag(sync=True)
    bias = traitlets.Bool(True).tag(sync=True)
    tied = traitlets.Bool(True).tag(sync=True)
    code = traitlets.List(
        [
            *code_lines(
                approximate_parameters,
                begin="return 12",
                layers="return 12",
                attention="return 12",
                ffn="return 12",
                embedding="return 12",
            ),
            *code_lines(
                parameters,
                begin="attention = d * queries",
                attention="attention = d *",
                ffn="feed_forward = matrices",
                embedding="embedding=V * d",
                layers="=L *",
            ),
        ]
    ).tag(sync=True)

    def __init__(self, model: str | TransformerConfig = "gpt2", **shape: Any) -> None:
        config = preset(model) if isinstance(model, str) else model
        shape = {**shape_of(config), **shape}
        unknown = shape.keys() - set(self.trait_names())
        if unknown:
            raise TypeError(f"there is no {', '.join(sorted(unknown))}")
        super().__init__(**shape)

    @traitlets.validate(*RANGES)
    def _check_size(self, proposal: Any) -> int:
        name = proposal["trait"].name
        value: int = within(name, proposal["value"], 1, RANGES[name])
        heads = value if name == "n_heads" else self.n_heads
        shared = value if name == "n_kv_heads" else self.n_kv_heads
        if name in ("n_heads", "n_kv_heads") and heads % shared:
            raise StateError(f"n_kv_heads must divide n_heads = {heads}, got {shared}")
        return value

    def config(self) -> TransformerConfig:
        """The reference's configuration of this shape."""
        return TransformerConfig(
            vocab_size=self.vocab_size,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            d_head=self.d_head,
            d_ff=self.d_ff,
            max_length=self.length,
            norm="layernorm" if self.norm.startswith("layernorm") else self.norm,  # type: ignore[arg-type]
            norm_bias=self.norm == "layernorm",
            block=self.block,  # type: ignore[arg-type]
            activation="swiglu" if self.gated else "gelu",
            positions="learned" if self.learned_positions else "none",
            bias=self.bias,
            tie_embeddings=self.tied,
        )

    def parameters(self) -> Parameters:
        """By part, as the reference counts them."""
        return parameters(self.config())

    def memory(self) -> TrainingMemory:
        """Of a training step in the present precision."""
        mixed = self.precision == "mixed"
        return training_memory(
            self.config(),
            self.length,
            batch=self.batch,
            dtype=torch.bfloat16 if mixed else torch.float32,
            master_weights=mixed,
        )

    def description(self) -> str:
        flops = training_flops(self.config(), self.length, batch=self.batch)
        return (
            f"A transformer of {self.n_layers} layers and width {self.d_model} with "
            f"{self.vocab_size:,} tokens has {self.parameters().total:,} parameters. A training step "
            f"on {self.batch * self.length:,} tokens costs {with_prefix(flops.total, 'FLOPs')} and "
            f"holds {with_prefix(self.memory().total, 'B')}."
        )

    def picture(self) -> str:
        return bars_picture(
            "Parameters by part",
            [
                (name.replace("_", "-"), float(value), with_prefix(value, ""))
                for name, value in self.parameters()
            ],
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        for name in LECTURE_MODELS:
            yield Golden("presetShape", [name], shape_of(PRESETS[name]))
        odd = dataclasses.replace(
            PRESETS["llama2-7b"], n_layers=3, n_kv_heads=4, d_head=100, d_ff=1000, bias=True
        )
        models = {name: PRESETS[name] for name in LECTURE_MODELS} | {
            "odd": odd,
            "tied": dataclasses.replace(odd, tie_embeddings=True, block="parallel"),
            "one": TransformerConfig(vocab_size=2, d_model=2, n_layers=1, n_heads=1, max_length=1),
        }
        for config in models.values():
            for batch, precision in ((1, "mixed"), (7, "float32")):
                widget = cls(config, batch=batch, precision=precision)
                state, config = widget.embedded_state(), widget.config()
                width = torch.bfloat16 if precision == "mixed" else torch.float32
                length = widget.length
                kept = activation_memory(config, length, batch=batch, dtype=width)
                for function, parts in {
                    "parameters": widget.parameters(),
                    "trainingFlops": training_flops(config, length, batch=batch),
                    "activationMemory": kept,
                    "trainingMemory": widget.memory(),
                }.items():
                    yield Golden(function, [state], {**dict(parts), "total": parts.total})
                yield Golden("approximateParameters", [state], approximate_parameters(config))
                yield Golden("cacheBytes", [state], kv_cache_bytes(config, length, batch=batch))
