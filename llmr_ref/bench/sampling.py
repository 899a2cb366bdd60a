"""The nucleus of 64 rows of a GPT-2 vocabulary against Hugging Face's `TopPLogitsWarper`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from transformers import TopPLogitsWarper

from llmr_ref.bench.harness import Comparison, compare
from llmr_ref.sampling import keep_top_p

ROWS, VOCABULARY, MASS = 64, 50_257, 0.9
PEER = "Hugging Face"


def run(*, rounds: int, device: str) -> Iterator[Comparison]:
    """Peaked rows, rows as Zipf's law has them, flat rows."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(ROWS, VOCABULARY, generator=generator)
    ranks = torch.rand(ROWS, VOCABULARY, generator=generator).argsort(dim=-1) + 1.0
    works = {
        "peaked rows (4 randn)": (noise * 4, 4.0),
        "Zipf rows (-1.5 ln rank)": (-1.5 * ranks.log(), 4.0),
        "flat rows (0.1 randn)": (noise * 0.1, 1.5),
    }
    warper: Any = TopPLogitsWarper(MASS)
    for name, (logits, wanted) in works.items():
        logits = logits.to(device)
        yield compare(
            f"top-p {MASS} on {ROWS} x {VOCABULARY}, {name}",
            {
                PEER: partial(warper, None, logits),
                "fused": partial(keep_top_p, logits, MASS),
                "explicit": partial(keep_top_p, logits, MASS, implementation="explicit"),
            },
            baseline=PEER,
            targets={"fused": wanted},
            rounds=rounds,
            device=device,
        )
