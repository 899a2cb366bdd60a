"""How big, how much work, how much memory, how long: counted from a model's configuration alone.

Letters: d width, L layers, h heads, V vocabulary, B sequences of T tokens, N parameters, D tokens
trained on. FLOPs count a multiplication and an addition as two, and matrix products only.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from llmr_ref.config import TransformerConfig
from llmr_ref.hardware import DEVICES, WORLD_GRID, Device, require_positive, training_energy


class Parts:
    """What the frozen dataclasses below share: numbers that add up, and print as a table."""

    unit = ""

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Names and values of the parts."""
        for part in dataclasses.fields(self):  # type: ignore[arg-type]
            yield part.name, getattr(self, part.name)

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(value for _, value in self)

    def shares(self) -> dict[str, float]:
        """Each part's fraction of the total."""
        return {name: value / self.total for name, value in self}

    def __str__(self) -> str:
        rows = [*self, ("total", self.total)]
        return "\n".join(
            f"{name.replace('_', ' '):<14}{with_prefix(value, self.unit):>12}"
            f"{value / self.total:>9.1%}"
            for name, value in rows
        )


def with_prefix(value: float, unit: str) -> str:
    """1234567.0, "B" -> "1.23 MB": three digits and a decimal prefix, up to yotta."""
    if value == 0:
        return f"0 {unit}".rstrip()
    digits, _, exponent = f"{value:.2e}".partition("e")  # rounded first: 999.9 k is 1.00 M
    step = min(max(int(exponent) // 3, 0), len(PREFIXES) - 1)
    number = float(digits) * 10.0 ** (int(exponent) - 3 * step)
    return f"{number:#.3g}".rstrip(".") + f" {PREFIXES[step]}{unit}".rstrip()


def as_duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are at least two."""
    for unit, size in (("years", 3.156e7), ("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.3g} s"


PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


# --- parameters ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters(Parts):
    """Parameters by part; with tied embeddings the head has none of its own."""

    embedding: int
    positions: int
    attention: int
    feed_forward: int
    norms: int
    head: int

    @property
    def non_embedding(self) -> int:
        """What Kaplan et al. 2020 call N: without the embeddings of tokens and positions."""
        return self.attention + self.feed_forward + self.norms + self.head


def parameters(config: TransformerConfig) -> Parameters:
    """The exact number that `Transformer(config)` has, tied weights counted once.

    Source: L3 "How large are the models?"; L4 model table.
    """
    d, L, V = config.d_model, config.n_layers, config.vocab_size
    queries, keys = config.n_heads * config.head_width, config.kv_heads * config.head_width
    attention = d * queries + 2 * d * keys + queries * d
    matrices = 3 if config.activation == "swiglu" else 2
    feed_forward = matrices * d * config.ffn_width
    if config.bias:
        attention += queries + 2 * keys + d
        feed_forward += (matrices - 1) * config.ffn_width + d
    per_norm = {"nonparametric": 0, "rmsnorm": d, "layernorm": d + d * config.norm_bias}
    positions = {"learned": config.max_length * d, "t5": T5_BUCKETS * config.n_heads}
    return Parameters(
        embedding=V * d,
        positions=positions.get(config.positions, 0),
        attention=L * attention,
        feed_forward=L * feed_forward,
        norms=_n_norms(config) * per_norm[config.norm],
        head=0 if config.tie_embeddings else V * d,
    )


T5_BUCKETS = 32  # of distances, see `positions.RelativeBias`


def approximate_parameters(config: TransformerConfig) -> int:
    """12 d^2 L + d V: four d x d matrices in attention, 8 d^2 in the feed-forward network.

    Source: L3 "How large are the models?".
    """
    return 12 * config.d_model**2 * config.n_layers + config.d_model * config.vocab_size


def _n_norms(config: TransformerConfig) -> int:
    """Two a block and a final one; a parallel block has one, a post-norm stack no final one."""
    L = config.n_layers
    return {"pre": 2 * L + 1, "post": 2 * L, "parallel": L + 1}[config.block]


# --- FLOPs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FLOPs(Parts):
    """FLOPs by part. L1 calls the projections "MHA", the scores and values "attention computation"."""

    projections: float
    attention: float
    feed_forward: float
    logits: float

    unit = "FLOPs"

    def __add__(self, other: "FLOPs") -> "FLOPs":
        return FLOPs(*(a + b for (_, a), (_, b) in zip(self, other, strict=True)))

    def __mul__(self, factor: float) -> "FLOPs":
        return FLOPs(*(value * factor for _, value in self))


def forward_flops(
    config: TransformerConfig, length: int, *, batch: int = 1, cached: int = 0
) -> FLOPs:
    """One pass over `batch` sequences of `length` tokens after `cached` ones whose K and V are kept.

    Every query times every key is counted, masked or not, as dense kernels, L1 and torch's FLOP
    counter do.
    Raises: ValueError for a count that is not positive, or a negative `cached`.
    Source: L1 "FLOPs Distribution"; Kaplan et al. 2020, table 1.
    """
    require_positive(length=length, batch=batch)
    if cached < 0:
        raise ValueError(f"cached counts earlier tokens, at least 0, got {cached}")
    d, L = config.d_model, config.n_layers
    n = batch * length
    queries, keys = config.n_heads * config.head_width, config.kv_heads * config.head_width
    matrices = 3 if config.activation == "swiglu" else 2
    return FLOPs(
        projections=2 * n * L * (2 * d * queries + 2 * d * keys),
        attention=2 * n * L * 2 * (cached + length) * queries,
        feed_forward=2 * n * L * matrices * d * config.ffn_width,
        logits=2 * n * d * config.vocab_size,
    )


def training_flops(config: TransformerConfig, length: int, *, batch: int = 1) -> FLOPs:
    """Forward and backward: each product of the forward pass needs two more for its gradients.

    What a fused attention kernel computes a second time is not counted.
    Raises: as `forward_flops`.
    """
    return forward_flops(config, length, batch=batch) * 3


def approximate_training_flops(n_parameters: float, n_tokens: float) -> float:
    """C = 6 N D.

    Raises: ValueError for a number that is not positive.
    Source: Kaplan et al. 2020, section 2.1; Hoffmann et al. 2022, appendix F.
    """
    require_positive(n_parameters=n_parameters, n_tokens=n_tokens)
    return 6 * n_parameters * n_tokens


def generation_flops(
    config: TransformerConfig, prompt: int, new: int, *, cache: bool = True, batch: int = 1
) -> FLOPs:
    """Read a prompt and sample `new` tokens, with a KV cache or computing everything again each time.

    Raises: ValueError for a count that is not positive.
    Source: L5 "Transformers vs RNNs" (costs of sampling).
    """
    require_positive(prompt=prompt, new=new)
    total = forward_flops(config, prompt, batch=batch)  # gives the first new token
    for length in range(prompt + 1, prompt + new):
        if cache:
            total += forward_flops(config, 1, batch=batch, cached=length - 1)
        else:
            total += forward_flops(config, length, batch=batch)
    return total


# --- memory -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activations(Parts):
    """Bytes that the forward pass keeps for the backward pass."""

    norms: int
    attention: int
    scores: int
    feed_forward: int
    logits: int

    unit = "B"


# Vectors of width d_ff that the feed-forward network keeps: inputs of activations and of products.
_KEPT_IN_FFN = {
    "fused": {"swiglu": 4, "gelu": 2, "gelu_tanh": 2, "relu": 2},
    "explicit": {"swiglu": 5, "gelu": 4, "gelu_tanh": 4, "relu": 2},
}


def activation_memory(
    config: TransformerConfig, length: int, *, batch: int = 1, dtype: torch.dtype = torch.float32
) -> Activations:
    """By part, for `config.implementation`, without dropout and recomputation.

    norms: each norm's input and statistics. attention: the projections' input, Q, K, V and the
    heads' outputs. scores: the matrices of queries by keys, which a fused kernel replaces by one
    number a query, unless a window or bias keeps it from that. logits: the head's input and the log
    probabilities in float32. In 16 bits the explicit path keeps some float32 copies besides.
    Raises: ValueError for a count that is not positive.
    Source: Korthikanti et al. 2022, section 4.1, for the idea; what is kept is torch's.
    """
    require_positive(length=length, batch=batch)
    d, L, h = config.d_model, config.n_layers, config.n_heads
    n, width = batch * length, dtype.itemsize
    explicit = config.implementation == "explicit"
    # The explicit norm keeps the normalised vectors as well, if it then multiplies them by a gain.
    kept_in_norm = 2 if explicit and config.norm != "nonparametric" else 1
    statistics = 1 if config.norm == "rmsnorm" or explicit else 2
    if explicit:
        # The exponentials of the scores in float32, the weights in dtype; one over the row's sum.
        scores = (4 + width) * length + 4
    elif (config.window or length) < length or config.positions in ("t5", "alibi"):
        scores = width * length
    else:
        scores = 4  # log of the softmax's denominator
    # A parallel block's two halves read the same vectors.
    shared_input = config.block == "parallel"
    return Activations(
        norms=n * _n_norms(config) * (kept_in_norm * d * width + 4 * statistics),
        attention=n * L * (d + 4 * h * config.head_width) * width,
        scores=n * L * h * scores,
        feed_forward=n
        * L
        * (
            d * (not shared_input)
            + _KEPT_IN_FFN[config.implementation][config.activation] * config.ffn_width
        )
        * width,
        logits=n * (d * width + config.vocab_size * 4),
    )


@dataclass(frozen=True)
class TrainingMemory(Parts):
    """Bytes during a training step with AdamW."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    unit = "B"


def training_memory(
    config: TransformerConfig,
    length: int,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    master_weights: bool = False,
) -> TrainingMemory:
    """Weights, gradients, AdamW's two moments, and activations, all in `dtype`.

    With `master_weights` the optimiser keeps the moments and a copy of the weights in float32.
    Raises: ValueError for a count that is not positive.
    Source: Rajbhandari et al. 2020 (ZeRO), section 3.1.
    """
    N = int(parameters(config).total)
    activations = activation_memory(config, length, batch=batch, dtype=dtype)
    return TrainingMemory(
        weights=N * dtype.itemsize,
        gradients=N * dtype.itemsize,
        optimizer=N * (4 + 4 + 4 if master_weights else 2 * dtype.itemsize),
        activations=int(activations.total),
    )


def kv_cache_bytes_per_token(
    config: TransformerConfig, *, dtype: torch.dtype = torch.float16
) -> int:
    """K and V of every layer for one more token: 2 L n_kv_heads d_head numbers.

    Source: Shazeer 2019 (multi-query), Ainslie et al. 2023 (grouped-query); L4 model table.
    """
    return 2 * config.n_layers * config.kv_heads * config.head_width * dtype.itemsize


def kv_cache_bytes(
    config: TransformerConfig, length: int, *, batch: int = 1, dtype: torch.dtype = torch.float16
) -> int:
    """The whole cache after `length` tokens; a window bounds it.

    Raises: ValueError for a count that is not positive.
    """
    require_positive(length=length, batch=batch)
    kept = min(length, config.window or length)
    return batch * kept * kv_cache_bytes_per_token(config, dtype=dtype)


# --- use of a device ----------------------------------------------------------------------------


def model_flops_utilisation(
    config: TransformerConfig,
    tokens_per_second: float,
    length: int,
    device: Device,
    *,
    n_devices: int = 1,
) -> float:
    """FLOPs that training needs, a second, over the devices' peak.

    Raises: ValueError for a number that is not positive.
    Source: Chowdhery et al. 2022 (PaLM), appendix B.
    """
    require_positive(tokens_per_second=tokens_per_second, n_devices=n_devices)
    per_token = training_flops(config, length).total / length
    return per_token * tokens_per_second / (device.peak_flops * n_devices)


# --- one page about a model ---------------------------------------------------------------------

Section = Literal["parameters", "training step", "memory", "inference", "training run"]


@dataclass(frozen=True)
class Row:
    """One line of a report; `share` is its part of the section's total."""

    section: Section
    name: str
    value: float
    unit: str
    share: float | None = None

    @property
    def text(self) -> str:
        """The value as people write it."""
        if self.unit == "s":
            return as_duration(self.value)
        return with_prefix(self.value, self.unit)


def report(
    config: TransformerConfig,
    *,
    length: int | None = None,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    n_tokens: float | None = None,
    device: str | Device = "a100",
    n_devices: int = 1,
    utilisation: float = 0.4,
    grid: float = WORLD_GRID,
) -> list[Row]:
    """Parameters, FLOPs, memory, time and energy of a model, line by line.

    `length` is config.max_length if None, `n_tokens` twenty a parameter (Hoffmann et al. 2022).
    Raises: ValueError for an unknown device or a number out of range.
    """
    if isinstance(device, str):
        if device not in DEVICES:
            raise ValueError(f"there is no device {device!r}; choose one of {', '.join(DEVICES)}")
        device = DEVICES[device]
    length = config.max_length if length is None else length
    N = parameters(config).total
    n_tokens = 20 * N if n_tokens is None else n_tokens
    require_positive(n_tokens=n_tokens)
    step = training_flops(config, length, batch=batch)
    run = step.total / (batch * length) * n_tokens
    cost = training_energy(run, device, utilisation=utilisation, n_devices=n_devices, grid=grid)
    return [
        *_rows("parameters", parameters(config), ""),
        Row("parameters", "12 d² L + d V", approximate_parameters(config), ""),
        *_rows("training step", step, "FLOPs"),
        Row("training step", "6 N D", approximate_training_flops(N, batch * length), "FLOPs"),
        *_rows("memory", training_memory(config, length, batch=batch, dtype=dtype), "B"),
        Row("inference", "weights", N * dtype.itemsize, "B"),
        Row("inference", "KV cache a token", kv_cache_bytes_per_token(config, dtype=dtype), "B"),
        Row(
            "inference",
            "KV cache",
            kv_cache_bytes(config, length, batch=batch, dtype=dtype),
            "B",
        ),
        Row(
            "inference",
            "FLOPs of the next token",
            forward_flops(config, 1, batch=batch, cached=length - 1).total,
            "FLOPs",
        ),
        Row("training run", "tokens", n_tokens, ""),
        Row("training run", "FLOPs", run, "FLOPs"),
        Row("training run", f"time on {n_devices} x {device.name}", cost.seconds, "s"),
        Row("training run", "energy", cost.kwh * 1000, "Wh"),
        Row("training run", "CO2", cost.co2_g, "g"),
    ]


def _rows(section: Section, parts: Parts, unit: str) -> Iterator[Row]:
    for name, share in parts.shares().items():
        yield Row(section, name.replace("_", " "), getattr(parts, name), unit, share)
    yield Row(section, "total", parts.total, unit)
