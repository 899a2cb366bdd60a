"""The shape of a transformer, and the models of the lectures' tables as presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llmr_ref.attention import Implementation
from llmr_ref.layers import Activation, Norm, default_d_ff
from llmr_ref.rope import Layout, RopeScaling

Positions = Literal["rope", "learned", "sinusoidal", "t5", "alibi", "none"]
BlockKind = Literal["pre", "post", "parallel"]


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that fixes a model's shape; a checkpoint stores it.

    n_kv_heads: as n_heads if None, 1 for multi-query. d_head: d_model / n_heads if None. d_ff: see
    `layers.default_d_ff` if None. window: how far back a position looks, its own included; None for
    all the way. Widths are in dimensions, lengths in tokens.
    Raises: ValueError for sizes that are not positive or do not fit, or an unknown name.
    Source: L1 "Dimensions"; L4 model table.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int | None = None
    d_head: int | None = None
    d_ff: int | None = None
    max_length: int = 1024
    norm: Norm = "rmsnorm"
    norm_eps: float = 1e-5
    block: BlockKind = "pre"
    activation: Activation = "swiglu"
    positions: Positions = "rope"
    rope_base: float = 10_000.0
    rope_layout: Layout = "interleaved"
    rope_scaling: RopeScaling | None = None
    window: int | None = None
    causal: bool = True
    bias: bool = False
    norm_bias: bool = False
    tie_embeddings: bool = False
    dropout: float = 0.0
    implementation: Implementation = "fused"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "max_length"):
            self._check_positive(name)
        for name in ("n_kv_heads", "d_head", "d_ff", "window"):
            if getattr(self, name) is not None:
                self._check_positive(name)
        if self.d_head is None and self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads must divide d_model = {self.d_model}, got n_heads = {self.n_heads}; "
                "or name a d_head"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(
                f"n_kv_heads must divide n_heads = {self.n_heads}, got {self.n_kv_heads}"
            )
        if self.positions == "rope" and self.head_width % 2:
            raise ValueError(f"RoPE turns pairs: d_head must be even, got {self.head_width}")
        for name in ("norm_eps", "rope_base"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        choices = {
            "norm": Norm,
            "block": BlockKind,
            "activation": Activation,
            "positions": Positions,
            "rope_layout": Layout,
            "implementation": Implementation,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of "
                    f"{', '.join(get_args(allowed))}"
                )

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "TransformerConfig":
        """The configuration whose `dataclasses.asdict` was stored, in a checkpoint or as JSON.

        Raises: TypeError for a field that does not exist; ValueError as the constructor.
        """
        scaling = stored.get("rope_scaling")
        if scaling is not None:
            stored = {**stored, "rope_scaling": RopeScaling(**scaling)}
        return cls(**stored)

    @property
    def kv_heads(self) -> int:
        """Heads of K and V."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_width(self) -> int:
        """Dimensions of one head."""
        return self.d_model // self.n_heads if self.d_head is None else self.d_head

    @property
    def ffn_width(self) -> int:
        """Dimensions inside the feed-forward network."""
        return default_d_ff(self.d_model, self.activation) if self.d_ff is None else self.d_ff


# --- the lectures' models ------------------------------------------------------------------------


def _gpt(n_layers: int, d_model: int, n_heads: int, **changes: object) -> TransformerConfig:
    """The shape that GPT-2 and GPT-3 share."""
    config = TransformerConfig(
        vocab_size=50257,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        d_head=64,
        d_ff=4 * d_model,
        norm="layernorm",
        norm_bias=True,
        activation="gelu_tanh",
        positions="learned",
        bias=True,
        tie_embeddings=True,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _7b(**changes: object) -> TransformerConfig:
    """What the models of L4's table have in common, more or less."""
    config = TransformerConfig(
        vocab_size=32000, d_model=4096, n_layers=32, n_heads=32, d_ff=11008, max_length=2048
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


# Sources: Radford et al. 2019, table 2; Brown et al. 2020, table 2.1 as printed, so that GPT-3 XL has
# heads of 128 that do not add up to d_model, and 13B a d_model that its heads do not divide; Groeneveld
# et al. 2024 (OLMo), table 2, which is L4's, with the vocabularies and widths of the released models.
PRESETS: dict[str, TransformerConfig] = {
    "gpt2": _gpt(12, 768, 12),
    "gpt2-medium": _gpt(24, 1024, 16),
    "gpt2-large": _gpt(36, 1280, 20),
    "gpt2-xl": _gpt(48, 1600, 25),
    "gpt3-small": _gpt(12, 768, 12, max_length=2048),
    "gpt3-medium": _gpt(24, 1024, 16, max_length=2048),
    "gpt3-large": _gpt(24, 1536, 16, d_head=96, max_length=2048),
    "gpt3-xl": _gpt(24, 2048, 24, d_head=128, max_length=2048),
    "gpt3-2.7b": _gpt(32, 2560, 32, d_head=80, max_length=2048),
    "gpt3-6.7b": _gpt(32, 4096, 32, d_head=128, max_length=2048),
    "gpt3-13b": _gpt(40, 5140, 40, d_head=128, max_length=2048),
    "gpt3-175b": _gpt(96, 12288, 96, d_head=128, max_length=2048),
    "olmo-7b": _7b(vocab_size=50304, norm="nonparametric"),
    "llama2-7b": _7b(max_length=4096),
    "openlm-7b": _7b(vocab_size=50432, norm="layernorm", norm_bias=True),
    "falcon-7b": _7b(
        vocab_size=65024,
        d_model=4544,
        n_heads=71,
        n_kv_heads=1,
        d_ff=4 * 4544,
        norm="layernorm",
        norm_bias=True,
        block="parallel",
        activation="gelu",
    ),
    "palm-8b": _7b(
        vocab_size=256000,
        n_heads=16,
        n_kv_heads=1,
        d_ff=4 * 4096,
        norm="layernorm",
        block="parallel",
        tie_embeddings=True,
    ),
    "smollm2-135m": TransformerConfig(
        vocab_size=49152,
        d_model=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        d_ff=1536,
        max_length=8192,
        rope_base=100_000.0,
        tie_embeddings=True,
    ),
}


def preset(name: str, **changes: object) -> TransformerConfig:
    """The configuration of a model of the lectures' tables, with the changes that are named.

    Raises: ValueError for a name that is not in `PRESETS`, or an impossible change; TypeError for a
    field that does not exist.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)  # type: ignore[arg-type]
