"""Cache growth: what a text that is being written keeps, reads and computes for one more token.

>>> CacheGrowth()  # LLaMA2-7B after 2000 tokens
>>> CacheGrowth("gpt3-175b", batch=32, length=2048)
>>> CacheGrowth(my_config, device="h100")
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import traitlets

from llmr_ref.accounting import (
    forward_flops,
    generation_flops,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    parameters,
    with_prefix,
)
from llmr_ref.config import TransformerConfig, preset
from llmr_ref.hardware import DEVICES
from llmr_ref.widgets.embed import (
    EmbeddableWidget,
    Golden,
    StateError,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import lines_picture

MODELS = {
    "gpt2": "GPT-2",
    "gpt3-175b": "GPT-3 175B",
    "llama2-7b": "LLaMA2-7B",
    "falcon-7b": "Falcon-7B",
    "palm-8b": "PaLM-8B",
}
RANGES = {
    "n_kv_heads": (1, 1024),
    "length": (1, 1_000_000),
    "batch": (1, 100_000),
    "window": (0, 1_000_000),
}


def shape_of(config: TransformerConfig, name: str) -> dict[str, Any]:
    """What the module has to know of a model; its parameters are linear in the heads of K and V."""
    one, all_ = (
        int(parameters(dataclasses.replace(config, n_kv_heads=n)).total)
        for n in (1, config.n_heads)
    )
    per_head = (all_ - one) // max(1, config.n_heads - 1)
    return {
        "name": name,
        "n_layers": config.n_layers,
        "d_model": config.d_model,
        "n_heads": config.n_heads,
        "n_kv_heads": config.kv_heads,
        "d_head": config.head_width,
        "d_ff": config.ffn_width,
        "matrices": 3 if config.activation == "swiglu" else 2,
        "vocab_size": config.vocab_size,
        "without_kv": one - per_head,
        "per_kv_head": per_head,
    }


class CacheGrowth(EmbeddableWidget):
    """Memory, reads and FLOPs of one more token: with a cache, without, with shared heads, in an RNN.

    model: a name of MODELS, or a TransformerConfig ("own"). n_kv_heads: heads of keys and values, those of
    the model if not given. length: tokens so far; batch: texts at once; window: how far back (0: all).
    device: a name of llmr_ref.hardware.DEVICES.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("cache_growth")

    model = traitlets.Unicode("llama2-7b").tag(sync=True)
    n_kv_heads = traitlets.Int(32).tag(sync=True)
    length = traitlets.Int(2000).tag(sync=True)
    batch = traitlets.Int(1).tag(sync=True)
    window = traitlets.Int(0).tag(sync=True)
    shapes = traitlets.Dict().tag(sync=True)
    device = traitlets.Dict().tag(sync=True)
    code = traitlets.List(
        [
            *code_lines(kv_cache_bytes_per_token, begin="return 2 *", kv="return 2 *"),
            *code_lines(
                kv_cache_bytes, begin="kept = min", length="kept = min", batch="return batch"
            ),
            *code_lines(
                generation_flops,
                begin="if cache:",
                cached="cached=length - 1",
                again="forward_flops(config, length, batch=batch)",
            ),
        ]
    ).tag(sync=True)

    def __init__(
        self,
        model: str | TransformerConfig = "llama2-7b",
        *,
        n_kv_heads: int | None = None,
        device: str = "a100",
        **state: Any,
    ) -> None:
        unknown = state.keys() - {"length", "batch", "window"}
        if unknown:
            raise TypeError(f"there is no {', '.join(sorted(unknown))}")
        if device not in DEVICES:
            raise ValueError(f"there is no device {device!r}; choose one of {', '.join(DEVICES)}")
        self._configs = {name: preset(name) for name in MODELS}
        shapes = {name: shape_of(self._configs[name], title) for name, title in MODELS.items()}
        if isinstance(model, TransformerConfig):
            self._configs["own"] = model
            shapes["own"] = shape_of(model, "your model")
            model = "own"
        if model not in shapes:
            raise ValueError(f"there is no model {model!r}; choose one of {', '.join(MODELS)}")
        chosen = DEVICES[device]
        super().__init__(
            shapes=shapes,
            model=model,
            n_kv_heads=shapes[model]["n_kv_heads"] if n_kv_heads is None else n_kv_heads,
            device={
                "name": chosen.name.removeprefix("NVIDIA "),
                "peak": chosen.peak_flops,
                "bandwidth": chosen.bandwidth,
            },
            **state,
        )

    @traitlets.validate(*RANGES)
    def _check_number(self, proposal: Any) -> int:
        name = proposal["trait"].name
        value: int = within(name, proposal["value"], *RANGES[name])
        if name == "n_kv_heads":
            self._check_heads(self.model, value)
        return value

    @traitlets.validate("model")
    def _check_model(self, proposal: Any) -> str:
        if proposal["value"] not in self.shapes:
            raise StateError(
                f"model is {proposal['value']!r}; choose one of {', '.join(self.shapes)}"
            )
        self._check_heads(proposal["value"], self.n_kv_heads)
        return proposal["value"]

    def _check_heads(self, model: str, n_kv_heads: int) -> None:
        heads = self.shapes[model]["n_heads"]
        if heads % n_kv_heads:
            raise StateError(f"n_kv_heads must divide the {heads} heads, got {n_kv_heads}")

    def config(self) -> TransformerConfig:
        """The reference's configuration: the model with the chosen heads and window."""
        return dataclasses.replace(
            self._configs[self.model], n_kv_heads=self.n_kv_heads, window=self.window or None
        )

    def description(self) -> str:
        config = self.config()
        cached, again = (
            forward_flops(config, 1, batch=self.batch, cached=self.length).total,
            forward_flops(config, self.length + 1, batch=self.batch).total,
        )
        kept = kv_cache_bytes(config, self.length, batch=self.batch)
        return (
            f"After {self.length:,} tokens, {self.shapes[self.model]['name']} with {self.n_kv_heads} "
            f"heads of keys and values keeps {with_prefix(kept, 'B')} for {self.batch} "
            f"text{'s' if self.batch > 1 else ''}. The next token costs "
            f"{with_prefix(cached, 'FLOPs')} with the cache and {with_prefix(again, 'FLOPs')} without."
        )

    def picture(self) -> str:
        config = self.config()
        lengths = [2.0**k for k in range(18)]
        kept = {
            f"{n} heads of keys and values": [
                kv_cache_bytes(dataclasses.replace(config, n_kv_heads=n), int(T), batch=self.batch)
                for T in lengths
            ]
            for n in dict.fromkeys((config.n_heads, self.n_kv_heads, 1))
        }
        state = self.batch * config.n_layers * config.d_model * 2
        return lines_picture(
            "Bytes kept for the past against tokens",
            [
                *((name, lengths, [float(x) for x in values]) for name, values in kept.items()),
                ("the state of an RNN of this width and depth", lengths, [float(state)] * 18),
            ],
            x_label="tokens so far",
            y_label="bytes kept for the past",
            log_x=True,
            log_y=True,
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        own = TransformerConfig(
            vocab_size=50, d_model=64, n_layers=2, n_heads=4, d_head=8, bias=True
        )
        shapes = cls(own).shapes
        configs = {"own": own, **{name: preset(name) for name in MODELS}}
        for name, config in configs.items():
            shape = shapes[name]
            for n in dict.fromkeys((config.n_heads, config.kv_heads, 1)):
                shared = dataclasses.replace(config, n_kv_heads=n)
                yield Golden("weightsOf", [shape, n], parameters(shared).total)
                yield Golden("bytesPerToken", [shape, n], kv_cache_bytes_per_token(shared))
                for length, batch, window in ((1, 1, 0), (2000, 3, 0), (5000, 2, 1024)):
                    case = {
                        "n_kv_heads": n,
                        "length": length,
                        "batch": batch,
                        "window": window,
                    }
                    bounded = dataclasses.replace(shared, window=window or None)
                    kept = kv_cache_bytes(bounded, length, batch=batch)
                    yield Golden("cacheBytes", [shape, case], kept)
                    seen = min(length, window - 1) if window else length
                    one = forward_flops(shared, 1, batch=batch, cached=seen)
                    yield Golden("nextTokenFlops", [shape, case], {**dict(one), "total": one.total})
                    again = forward_flops(shared, length + 1, batch=batch)
                    yield Golden(
                        "nextTokenFlops",
                        [shape, {**case, "cache": False, "window": 0}],
                        {**dict(again), "total": again.total},
                    )
