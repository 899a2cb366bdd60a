"""Experiments on one corpus: small models of Shakespeare's plays, letter by letter."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llmr_ref.config import TransformerConfig
from llmr_ref.corpora import Corpus, load_corpus, vocab_size
from llmr_ref.data import get_batch
from llmr_ref.ngram import NGramModel
from llmr_ref.optim import AdamW, clip_gradients, cosine_schedule, parameter_groups
from llmr_ref.quantization import quantize_model, state_bytes
from llmr_ref.recurrent import FeedForwardLanguageModel, RecurrentLanguageModel
from llmr_ref.training import evaluate, loss_by_position, next_token_loss
from llmr_ref.transformer import Transformer


@functools.cache
def plays() -> Corpus:
    return load_corpus("shakespeare")


def _model(*, layers: int = 2, width: int = 64, heads: int = 4, **changes: Any) -> Transformer:
    return Transformer(
        TransformerConfig(
            vocab_size=vocab_size(plays().tokenizer),
            d_model=width,
            n_layers=layers,
            n_heads=heads,
            **changes,
        )
    )


def _train(
    model: nn.Module,
    seed: int,
    *,
    steps: int,
    batch: int,
    length: int,
    rate: float,
    warmup: int | None = None,
    every: int = 0,
) -> Iterator[tuple[int, float]]:
    """Train on the plays; yields (step, mean loss since the last) every `every` steps, and at the end."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = AdamW(parameter_groups(model, 0.1), lr=rate)
    losses: list[float] = []
    for step in range(steps):
        lr = cosine_schedule(
            step, max_lr=rate, min_lr=rate / 10, warmup_steps=steps // 20 if warmup is None else warmup,
            total_steps=steps,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs, targets = get_batch(plays().training, batch, length, generator=generator)
        optimizer.zero_grad()
        loss = next_token_loss(model(inputs), targets)
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (every and (step + 1) % every == 0) or step == steps - 1:
            yield step + 1, sum(losses) / len(losses)
            losses = []


def _bits(model: nn.Module, length: int, windows: int = 256) -> float:
    """Bits per byte on held-out text."""
    found = evaluate(
        model, plays().validation, batch_size=32, length=length, max_batches=windows // 32,
        bytes_per_token=plays().bytes_per_token,
    )  # fmt: skip
    bits = found.bits_per_byte
    assert bits is not None
    return bits


# --- positions beyond the training length -------------------------------------------------------

METHODS = ("none", "learned", "sinusoidal", "t5", "alibi", "rope")


@torch.no_grad()
def _by_position(model: Transformer, length: int, parts: int) -> list[float]:
    """Bits per letter on held-out text, by the position in the window, in `parts` parts."""
    windows, targets = _held_out(length, 64)
    found = torch.stack(
        [loss_by_position(model(w), t) for w, t in zip(windows, targets, strict=True)]
    )
    means = found.mean(0).unflatten(0, (parts, -1)).mean(-1) / math.log(2)
    return means.tolist()


def _held_out(length: int, n: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = get_batch(plays().validation, n, length, generator=generator)
    return inputs.split(8), targets.split(8)


def beyond_the_training_length(
    seed: int, *, length: int, longest: int, parts: int, steps: int, batch: int, rate: float
) -> dict[str, list[float]]:
    """Bits per letter by position, up to `longest`, of models that were trained on `length`."""
    answer = {}
    for method in METHODS:
        torch.manual_seed(seed)
        model = _model(positions=method, max_length=longest)
        for _ in _train(model, seed, steps=steps, batch=batch, length=length, rate=rate):
            pass
        answer[method] = _by_position(model.eval(), longest, parts)
    return answer


# --- where the norm stands ----------------------------------------------------------------------


def where_the_norm_stands(
    seed: int, *, layers: int, rates: list[float], warmups: list[int], steps: int, every: int,
    batch: int, length: int,
) -> dict[str, dict[str, list[float]]]:  # fmt: skip
    """Training curves of pre-norm and post-norm, by learning rate and length of warm-up."""
    answer: dict[str, dict[str, list[float]]] = {}
    for block in ("pre", "post"):
        answer[block] = {}
        for rate in rates:
            for warmup in warmups:
                torch.manual_seed(seed)
                model = _model(layers=layers, width=48, block=block)
                curve = [
                    loss
                    for _, loss in _train(
                        model,
                        seed,
                        steps=steps,
                        batch=batch,
                        length=length,
                        rate=rate,
                        warmup=warmup,
                        every=every,
                    )
                ]
                answer[block][f"{rate:g}, {warmup}"] = curve
    return answer


# --- batch and accumulation ---------------------------------------------------------------------


def batch_and_accumulation(
    seed: int, *, steps: int, parts: int, batch: int, length: int, rate: float
) -> dict[str, list[float]]:
    """Loss at every step: one large batch, its parts accumulated, and the mean of the parts' means.

    Sequences are padded to different lengths, so the parts hold different numbers of targets.
    """
    curves: dict[str, list[float]] = {}
    for way in ("one batch", "accumulated", "mean of means"):
        torch.manual_seed(seed)
        model = _model()
        generator = torch.Generator().manual_seed(seed)
        optimizer = AdamW(parameter_groups(model, 0.1), lr=rate)
        curve = []
        for _ in range(steps):
            inputs, targets = get_batch(plays().training, batch, length, generator=generator)
            lengths = torch.randint(4, length + 1, (batch,), generator=generator).sort().values
            targets = targets.masked_fill(torch.arange(length) >= lengths[:, None], -100)
            n = (targets != -100).sum()
            optimizer.zero_grad()
            total = 0.0
            pieces = 1 if way == "one batch" else parts
            for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
                loss, own = next_token_loss(model(x), y), (y != -100).sum()
                share = 1 / pieces if way == "mean of means" else own / n
                (loss * share).backward()
                total += loss.item() * float(own / n)
            optimizer.step()
            curve.append(total)
        curves[way] = curve
    return curves


# --- from counting to the transformer -----------------------------------------------------------


class _AttentionOnly(nn.Module):
    """One layer of attention over embeddings, with no feed-forward network: what attention adds by itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.model = _model(layers=1, width=width, heads=heads)
        self.model.layers[0].ffn = nn.Identity()
        self.model.layers[0].ln2 = _Nothing()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)


class _Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def from_counting_to_the_transformer(
    seed: int, *, orders: list[int], steps: int, every: int, batch: int, length: int, rate: float,
    width: int,
) -> dict[str, object]:  # fmt: skip
    """Bits per byte on held-out text of models of the same corpus, and of the neural ones as they learn."""
    training, validation = plays().training, plays().validation
    assert isinstance(training, Tensor) and isinstance(validation, Tensor)
    V = vocab_size(plays().tokenizer)
    answer: dict[str, object] = {}
    for n in orders:
        counted = NGramModel(training, n, vocab_size=V)
        answer[f"{n}-gram"] = float(
            -counted.log_probabilities(validation[:20_000]).mean() / math.log(2)
        )
    makers = {
        "feed-forward": lambda: FeedForwardLanguageModel(V, 8, width // 4, 4 * width),
        "recurrent": lambda: RecurrentLanguageModel(V, width, 2 * width),
        "attention": lambda: _AttentionOnly(2 * width, 4),
        "transformer": lambda: _model(layers=2, width=width),
    }
    for name, make in makers.items():
        torch.manual_seed(seed)
        model = make()
        curve = []
        for step, _ in _train(
            model, seed, steps=steps, batch=batch, length=length, rate=rate, every=every
        ):
            curve.append([step * batch * length, _bits(model, length)])
        answer[name] = {
            "curve": curve, "parameters": sum(p.numel() for p in model.parameters()),
        }  # fmt: skip
    return answer


# --- fewer bits ---------------------------------------------------------------------------------


def fewer_bits(
    seed: int, *, bits: list[int], groups: list[int | None], steps: int, batch: int, length: int,
    rate: float, width: int,
) -> dict[str, object]:  # fmt: skip
    """Bits per byte and size of a trained model whose weights are stored with fewer bits."""
    torch.manual_seed(seed)
    model = _model(layers=2, width=width)
    for _ in _train(model, seed, steps=steps, batch=batch, length=length, rate=rate):
        pass
    model.eval()
    answer: dict[str, object] = {
        "32": {"bits per byte": _bits(model, length), "bytes": state_bytes(model)}
    }
    for b in bits:
        for group in groups:
            small = quantize_model(model, bits=b, group_size=group)
            answer[f"{b}, {group or 'channel'}"] = {
                "bits per byte": _bits(small, length), "bytes": state_bytes(small),
            }  # fmt: skip
    return answer
