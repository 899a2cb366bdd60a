"""Turning queries and keys by cosines and sines at hand, against Hugging Face's Llama."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llmr_ref.bench.harness import Comparison, compare
from llmr_ref.rope import Implementation, Layout, rope_table, rotate

BATCH, HEADS, LENGTH, WIDTH = 8, 16, 1024, 64
WANTED = 2.5
PEER = "Hugging Face"
Turn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def run(*, rounds: int, device: str) -> Iterator[Comparison]:
    """Forward on dense heads and on a projection's output seen as heads; then with gradients."""
    cos, sin = rope_table(torch.arange(LENGTH, device=device), WIDTH)
    wide_cos, wide_sin = (torch.cat((table, table), dim=-1)[None] for table in (cos, sin))

    def hugging_face(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        turned: tuple[Tensor, Tensor] = apply_rotary_pos_emb(q, k, wide_cos, wide_sin)
        return turned

    def ours(layout: Layout, implementation: Implementation) -> Turn:
        def turn(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            q = rotate(q, cos, sin, layout, implementation=implementation)
            return q, rotate(k, cos, sin, layout, implementation=implementation)

        return turn

    turns = {
        PEER: hugging_face,
        "interleaved, fused": ours("interleaved", "fused"),
        "half, fused": ours("half", "fused"),
        "interleaved, explicit": ours("interleaved", "explicit"),
        "half, explicit": ours("half", "explicit"),
    }
    targets = {"interleaved, fused": WANTED, "half, fused": WANTED}
    shape = f"q and k of ({BATCH}, {HEADS}, {LENGTH}, {WIDTH})"
    generator = torch.Generator().manual_seed(0)

    def heads(*, dense: bool) -> Tensor:
        x = torch.randn(BATCH, LENGTH, HEADS, WIDTH, generator=generator).to(device)
        return x.transpose(1, 2).contiguous() if dense else x.transpose(1, 2)

    for dense, kind in ((True, "dense"), (False, "a projection's output, seen as heads")):
        q, k = heads(dense=dense), heads(dense=dense)
        with torch.no_grad():
            yield compare(
                f"{shape}, {kind}",
                {name: partial(turn, q, k) for name, turn in turns.items()},
                baseline=PEER,
                targets=targets,
                rounds=rounds,
                device=device,
            )
    gradients = heads(dense=False), heads(dense=False)
    q, k = q.requires_grad_(), k.requires_grad_()

    def train(turn: Turn) -> object:
        return torch.autograd.grad(turn(q, k), (q, k), gradients)

    yield compare(
        f"{shape}, forward and backward",
        {name: partial(train, turn) for name, turn in turns.items()},
        baseline=PEER,
        rounds=rounds,
        device=device,
    )
