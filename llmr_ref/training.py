"""Training: shifted targets, the loss of each prediction, its mean on held-out text, the settings.

Shapes: B sequences of T positions, V tokens in the vocabulary. A loss is in nats a token. The loop that
lowers it is in `trainer`.
"""

import itertools
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmr_ref.attention import Implementation, require_implementation
from llmr_ref.data import IGNORE, Stream, sequential_batches
from llmr_ref.distributed import OneProcess
from llmr_ref.ngram import perplexity
from llmr_ref.optim import cosine_schedule

Precision = Literal["float32", "bfloat16", "float16"]

# --- loss ---------------------------------------------------------------------------------------


def next_token_loss(
    logits: Float[Tensor, "... T V"],
    targets: Int[Tensor, "... T"],
    *,
    ignore_index: int = IGNORE,
    implementation: Implementation = "fused",
) -> Float[Tensor, ""]:
    """L = -1/T sum_t log p(w_t): the mean over targets that are not `ignore_index`, at least float32.

    nan if every target is ignored, as in torch.
    Raises: ValueError for shapes that do not fit, a target outside 0 .. V - 1 (on the CPU; a GPU would
    have to wait), or an unknown implementation; TypeError for logits that are not floating point, or
    targets that are not int64.
    Source: L1 "Training"; L2 "Cross-entropy loss".
    """
    require_implementation(implementation)
    if implementation == "explicit":
        losses = token_losses(logits, targets, ignore_index=ignore_index)
        return losses.sum() / (targets != ignore_index).sum()
    _check_targets(logits, targets, ignore_index)
    return cross_entropy(logits, targets, ignore_index=ignore_index, reduction="mean")


def token_losses(
    logits: Float[Tensor, "... T V"], targets: Int[Tensor, "... T"], *, ignore_index: int = IGNORE
) -> Float[Tensor, "... T"]:
    """-log p(w_t | w_<t) of every position by itself, zero where the target is ignored.

    Raises: as `next_token_loss`.
    Source: L2 "Teacher forcing".
    """
    _check_targets(logits, targets, ignore_index)
    ignored = targets == ignore_index
    log_p = torch.log_softmax(_at_least_32_bits(logits), dim=-1)
    target_log_p = log_p.gather(-1, targets.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1)
    return -target_log_p.masked_fill(ignored, 0.0)


def loss_by_position(
    logits: Float[Tensor, "... T V"], targets: Int[Tensor, "... T"], *, ignore_index: int = IGNORE
) -> Float[Tensor, " T"]:
    """The mean over sequences at each position: what a longer context is worth.

    nan at a position where every target is ignored.
    Raises: as `next_token_loss`.
    """
    losses = token_losses(logits, targets, ignore_index=ignore_index)
    T = targets.shape[-1]
    counted = (targets != ignore_index).reshape(-1, T).sum(0)
    return losses.reshape(-1, T).sum(0) / counted


def cross_entropy(
    logits: Float[Tensor, "... T V"],
    targets: Int[Tensor, "... T"],
    *,
    ignore_index: int = IGNORE,
    reduction: Literal["mean", "sum"],
) -> Float[Tensor, ""]:
    """`next_token_loss` without its checks, or the sum in place of the mean."""
    logits, targets = logits.flatten(0, -2), targets.flatten()
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return F.cross_entropy(
            _at_least_32_bits(logits), targets, ignore_index=ignore_index, reduction=reduction
        )
    total = _SummedCrossEntropy.apply(logits, targets, ignore_index)
    return total if reduction == "sum" else total / (targets != ignore_index).sum()


class _SummedCrossEntropy(torch.autograd.Function):
    """The sum over rows of logsumexp(z) - z_target, with the gradient softmax(z) - onehot(target).

    torch's own writes three arrays as large as the logits on the CPU: the log-probabilities, zeros
    for the gradient of the picked ones, and the gradient. This one writes the last alone.
    """

    ROWS = 256  # a block that stays in the processor's cache between its passes

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        lse = torch.cat(
            [
                torch.logsumexp(_at_least_32_bits(z), dim=-1)
                for z in logits.split(_SummedCrossEntropy.ROWS)
            ]
        )
        counted = targets != ignore_index
        target_logits = logits.gather(-1, targets.masked_fill(~counted, 0)[:, None])[:, 0]
        ctx.save_for_backward(logits, targets, lse, counted)
        return (lse - target_logits).masked_fill(~counted, 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, lse, counted = ctx.saved_tensors
        out = torch.empty_like(logits, dtype=lse.dtype)
        weights = (grad * counted).to(lse.dtype)[:, None]
        blocks = zip(
            *(x.split(_SummedCrossEntropy.ROWS) for x in (out, logits, lse[:, None], weights)),
            strict=True,
        )
        for g, z, normaliser, weight in blocks:
            torch.sub(z, normaliser, out=g).exp_().mul_(weight)
        out.scatter_add_(-1, targets.masked_fill(~counted, 0)[:, None], -weights)
        return out.to(logits.dtype), None, None


def _at_least_32_bits(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_targets(logits: Tensor, targets: Tensor, ignore_index: int) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if targets.dtype != torch.int64:
        raise TypeError(f"targets must be int64, got {targets.dtype}")
    if logits.shape[:-1] != targets.shape or not targets.dim():
        raise ValueError(
            f"logits (..., T, V) need targets (..., T), got {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}"
        )
    # Elsewhere, looking at a value waits for the device; a compiled graph would break in two.
    if targets.device.type == "cpu" and not torch.compiler.is_compiling():
        V = logits.shape[-1]
        wrong = (targets != ignore_index) & ((targets < 0) | (targets >= V))
        if wrong.any():
            raise ValueError(
                f"targets must lie in 0..{V - 1} or be {ignore_index}, got {int(targets[wrong][0])}"
            )


# --- evaluation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """Loss on held-out tokens, in nats a token, and what follows from it."""

    loss: float
    n_tokens: int
    characters_per_token: float | None = None
    bytes_per_token: float | None = None

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model is in doubt."""
        return perplexity(self.loss)

    @property
    def bits_per_character(self) -> float | None:
        """Comparable between tokenizers, as perplexity is not."""
        return self._bits_per(self.characters_per_token)

    @property
    def bits_per_byte(self) -> float | None:
        return self._bits_per(self.bytes_per_token)

    def _bits_per(self, units_per_token: float | None) -> float | None:
        return None if units_per_token is None else self.loss / math.log(2) / units_per_token


@torch.no_grad()  # inference_mode would leave tensors behind in the model that cannot be trained with
def evaluate(
    model: nn.Module,
    tokens: Stream,
    *,
    batch_size: int = 32,
    length: int = 128,
    max_batches: int | None = None,
    precision: Precision = "float32",
    characters_per_token: float | None = None,
    bytes_per_token: float | None = None,
    processes: OneProcess | None = None,
) -> Evaluation:
    """The mean loss over tokens in windows of `length` side by side; each target counts once.

    `max_batches` None reads all of them. The model is back in its mode afterwards.
    Raises: ValueError as `data.sequential_batches`, or for max_batches below 1.
    """
    if max_batches is not None and max_batches < 1:
        raise ValueError(f"max_batches must be at least 1 or None, got {max_batches}")
    processes = processes or OneProcess()
    device = next(model.parameters()).device
    batches = itertools.islice(sequential_batches(tokens, batch_size, length), max_batches)
    total = torch.zeros(2, dtype=torch.float64)  # nats, tokens
    was_training = model.training
    model.eval()
    # One batch a process. A shard of a model cannot rest while others compute: who has no batch left
    # computes the first again and does not count it.
    while group := list(itertools.islice(batches, processes.size)):
        has_one = processes.rank < len(group)
        inputs, targets = (x.to(device) for x in group[processes.rank if has_one else 0])
        with autocast(device, precision):
            loss = cross_entropy(model(inputs), targets, reduction="sum")
        if has_one:
            total += torch.tensor([loss.item(), targets.numel()], dtype=torch.float64)
    model.train(was_training)
    nats, n_tokens = processes.sum(total).tolist()
    return Evaluation(nats / n_tokens, int(n_tokens), characters_per_token, bytes_per_token)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Matrix products in 16 bits, sums and losses in 32; nothing at all for "float32"."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


# --- configuration ------------------------------------------------------------------------------

# What changes how a run is carried out, not what it computes (but for rounding).
FREE_TO_CHANGE = (
    "accumulation",
    "eval_every",
    "eval_batches",
    "checkpoint_every",
    "keep",
    "max_skipped",
    "compile",
    "device",
)


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that fixes a run but the model and the data.

    batch_size: sequences in one step, over all processes. accumulation: how many parts a process
    cuts its share into, one after the other in memory. warmup: steps, None for a twentieth of all.
    clip: largest gradient norm, inf for none. eval_batches: None for all held-out tokens. keep: how
    many checkpoints besides the best. max_skipped: steps in a row without a finite loss and gradient
    after which training stops.
    Raises: ValueError naming the field, its value and what was expected.
    """

    steps: int = 1000
    batch_size: int = 32
    length: int = 128
    accumulation: int = 1
    max_lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int | None = None
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    eval_every: int = 100
    eval_batches: int | None = 20
    checkpoint_every: int = 100
    keep: int = 2
    max_skipped: int = 5
    seed: int = 0
    precision: Precision = "float32"
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        whole = ["steps", "batch_size", "length", "accumulation", "eval_every", "checkpoint_every"]
        whole += ["keep", "max_skipped"] + ["eval_batches"] * (self.eval_batches is not None)
        for name in whole:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision is {self.precision!r}; choose one of {', '.join(get_args(Precision))}"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation must divide batch_size = {self.batch_size}, got {self.accumulation}"
            )
        if not self.clip > 0:
            raise ValueError(f"clip must be positive (inf for none), got {self.clip}")
        self.learning_rate(1)  # the schedule checks its own arguments

    def learning_rate(self, step: int) -> float:
        """Of step 1, 2, ... steps; the first is above zero, the last is min_lr."""
        return cosine_schedule(
            step,
            max_lr=self.max_lr,
            min_lr=self.min_lr,
            warmup_steps=self.steps // 20 if self.warmup is None else self.warmup,
            total_steps=self.steps,
        )
