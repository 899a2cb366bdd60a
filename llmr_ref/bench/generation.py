"""Greedy generation of 256 tokens after 32 with a cache, against Hugging Face's `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmr_ref import generation
from llmr_ref.bench.harness import Comparison, compare
from llmr_ref.bench.peers import hugging_face
from llmr_ref.cache import KVCache
from llmr_ref.config import TransformerConfig
from llmr_ref.transformer import Transformer
from llmr_ref.weights import llama_weights

PROMPT, NEW = 32, 256


@dataclass(frozen=True)
class Work:
    """One row of the table: a model, a batch, and the ratio to Hugging Face that is wanted."""

    d_model: int
    n_layers: int
    vocab_size: int
    batch: int
    wanted: float

    @property
    def name(self) -> str:
        return f"d {self.d_model}, {self.n_layers} layers, V {self.vocab_size}, B {self.batch}"

    def config(self) -> TransformerConfig:
        return TransformerConfig(
            self.vocab_size,
            self.d_model,
            self.n_layers,
            self.d_model // 64,
            max_length=PROMPT + NEW,
        )

    def prompt(self, device: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, PROMPT)
        return torch.randint(self.vocab_size, shape, generator=generator).to(device)


WORKS = [
    Work(256, 4, 4096, batch=1, wanted=1.7),
    Work(256, 4, 4096, batch=8, wanted=1.55),
    Work(512, 8, 8192, batch=1, wanted=1.4),
    Work(512, 8, 8192, batch=8, wanted=1.2),
]


def run(*, rounds: int, device: str) -> Iterator[Comparison]:
    """Seconds of every work."""
    for work in WORKS:
        yield compare(
            f"generate {PROMPT} + {NEW} tokens greedily, {work.name}",
            competitors(work, device),
            baseline="Hugging Face",
            targets={"generate": work.wanted},
            rounds=rounds,
            device=device,
        )


def competitors(work: Work, device: str) -> dict[str, Callable[[], object]]:
    """The same prompts through the same weights; all of them choose the same tokens.

    Raises: AssertionError if they do not.
    """
    torch.manual_seed(0)
    model = Transformer(work.config(), device=device)
    theirs = hugging_face(work.config(), device).eval()
    theirs.load_state_dict(llama_weights(model))
    prompt = work.prompt(device)

    def generate(**options: bool) -> Tensor:
        return generation.generate(model, prompt, max_new_tokens=NEW, temperature=0, **options)

    runs: dict[str, Callable[[], Tensor]] = {
        "Hugging Face": lambda: generate_by_hugging_face(theirs, prompt),
        "generate": generate,
        "through the modules": lambda: through_the_modules(model, prompt),
    }
    if work == WORKS[0]:  # the others would take minutes
        runs["no cache"] = lambda: generate(cache=False)
    first = {name: run() for name, run in runs.items()}
    for name, tokens in first.items():
        # Two nearly equal logits may change places: what follows differs, and is none of our business.
        agree = (tokens == first["Hugging Face"]).double().mean().item()
        assert agree > 0.9, f"{name} agrees with Hugging Face on {agree:.0%} of the tokens"
    return dict(runs)


@torch.inference_mode()
def generate_by_hugging_face(model: nn.Module, prompt: Tensor) -> Tensor:
    return model.generate(  # type: ignore[operator]
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


@torch.inference_mode()
def through_the_modules(model: Transformer, prompt: Tensor) -> Tensor:
    """The plain loop of the book: the model's own forward pass with a preallocated cache."""
    cache = KVCache(model.config, len(prompt), PROMPT + NEW, device=prompt.device)
    tokens, new = prompt, prompt
    for _ in range(NEW):
        logits = model.lm_head(model.hidden(new, cache=cache)[:, -1])
        new = logits.argmax(dim=-1, keepdim=True)
        tokens = torch.cat((tokens, new), dim=-1)
    return tokens
