"""A training step, forward to optimiser, against Hugging Face's Llama of the same shape."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmr_ref.bench.harness import (
    Comparison,
    compare,
    measured,
    peak_memory,
    print_peak,
    use_given_threads,
)
from llmr_ref.bench.peers import hugging_face
from llmr_ref.config import TransformerConfig
from llmr_ref.optim import AdamW
from llmr_ref.training import next_token_loss
from llmr_ref.transformer import Transformer
from llmr_ref.weights import llama_weights

SGEMM = 2048


@dataclass(frozen=True)
class Work:
    """One row of the table: a model, a batch, and the ratios to Hugging Face that are wanted."""

    name: str
    d_model: int
    n_layers: int
    length: int
    vocab_size: int
    batch: int
    wanted: dict[str, float]
    utilisation: float

    @property
    def n_heads(self) -> int:
        return self.d_model // 64

    def config(self, **changes: object) -> TransformerConfig:
        return TransformerConfig(
            self.vocab_size,
            self.d_model,
            self.n_layers,
            self.n_heads,
            max_length=self.length,
            rope_layout="half",
            **changes,  # type: ignore[arg-type]
        )

    def batch_of(self, device: str) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.length + 1)
        tokens = torch.randint(self.vocab_size, shape, generator=generator).to(device)
        return tokens[:, :-1], tokens[:, 1:].contiguous()


SMALL = Work(
    "d 256, 4 layers, T 256, V 4096, B 8",
    *(256, 4, 256, 4096, 8),
    wanted={"fused": 1.0, "compiled": 1.05, "explicit": 0.75},
    utilisation=0.62,
)
LARGER = Work(
    "d 512, 8 layers, T 512, V 8192, B 2",
    *(512, 8, 512, 8192, 2),
    wanted={"fused": 1.0, "compiled": 1.03, "explicit": 0.75},
    utilisation=0.71,
)


def run(*, rounds: int, device: str) -> Iterator[Comparison]:
    """Step times and utilisation of both works, then the peak memory of the larger one."""
    for work in (SMALL, LARGER):
        steps = competitors(work, device)
        A = torch.randn(SGEMM, SGEMM, device=device)
        comparison = compare(
            f"training step, {work.name}",
            {**steps, f"sgemm {SGEMM}^3": partial(torch.matmul, A, A)},
            baseline="Hugging Face",
            targets=work.wanted,
            rounds=rounds,
            warmup=2,
            device=device,
        )
        *timed, sgemm = comparison.rows
        yield Comparison(comparison.title, comparison.unit, comparison.baseline, timed)
        yield utilisation(work, {row.name: row.values for row in timed}, sgemm.values)
    if device == "cpu":
        peaks = {
            name: [peak_memory(__name__, name) for _ in range(3)]
            for name in ("Hugging Face", "fused")
        }
        yield measured(
            f"peak memory of a training process, {LARGER.name}",
            peaks,
            baseline="Hugging Face",
            targets={"fused": 1 / 0.97},
            unit="MB",
        )


def utilisation(work: Work, seconds: dict[str, list[float]], sgemm: list[float]) -> Comparison:
    """6 N tokens a second over the rate of a large matrix product; N counts every parameter."""
    n_parameters = sum(p.numel() for p in Transformer(work.config(), device="meta").parameters())
    flops = 6 * n_parameters * work.batch * work.length
    shares = {
        name: [
            flops / step / (2 * SGEMM**3 / product)
            for step, product in zip(own, sgemm, strict=True)
        ]
        for name, own in seconds.items()
    }
    shares["wanted"] = [work.utilisation]
    return measured(
        f"6N tokens/s over the rate of a {SGEMM}^3 sgemm, {work.name}",
        shares,
        baseline="wanted",
        targets={"fused": 1.0},
        unit="of sgemm",
        bigger_is_better=True,
    )


def competitors(work: Work, device: str) -> dict[str, Callable[[], object]]:
    """One step of each on the same batch from the same weights; they agree on the first loss."""
    inputs, targets = work.batch_of(device)
    torch.manual_seed(0)
    fused = Transformer(work.config(), device=device)
    explicit = Transformer(work.config(implementation="explicit"), device=device)
    explicit.load_state_dict(fused.state_dict())
    compiled = Transformer(work.config(), device=device)
    compiled.load_state_dict(fused.state_dict())
    theirs = hugging_face(work.config(), device)
    theirs.load_state_dict(llama_weights(fused))
    models: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor], bool]] = {
        "Hugging Face": (theirs, lambda tokens: theirs(tokens, use_cache=False).logits, False),
        "fused": (fused, fused, True),
        "compiled": (compiled, torch.compile(compiled), True),
        "explicit": (explicit, explicit, True),
    }
    steps: dict[str, Callable[[], object]] = {}
    first: dict[str, Tensor] = {}
    for name, (model, forward, ours) in models.items():
        steps[name] = make_step(model, forward, inputs, targets, ours=ours)
        first[name] = steps[name]()  # type: ignore[assignment]
    for name, loss in first.items():
        torch.testing.assert_close(loss, first["Hugging Face"], rtol=1e-4, atol=1e-4, msg=name)
    return steps


def make_step(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    ours: bool,
) -> Callable[[], Tensor]:
    """Forward, loss, backward, AdamW. The peer gets torch's fused AdamW, ours gets our own."""
    optimizer: torch.optim.Optimizer
    if ours:
        optimizer = AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def step() -> Tensor:
        logits = forward(inputs)
        if ours:
            loss = next_token_loss(logits, targets)
        else:
            loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


# --- memory: a process of its own for each, since a peak never comes down --------------------------


def train_a_little(name: str) -> None:
    use_given_threads()
    inputs, targets = LARGER.batch_of("cpu")
    ours = name != "Hugging Face"
    model = Transformer(LARGER.config()) if ours else hugging_face(LARGER.config(), "cpu")

    def forward(tokens: Tensor) -> Tensor:
        return model(tokens) if ours else model(tokens, use_cache=False).logits

    step = make_step(model, forward, inputs, targets, ours=ours)
    for _ in range(3):
        step()
    print_peak()


if __name__ == "__main__":
    train_a_little(sys.argv[1])
