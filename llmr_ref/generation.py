"""Generating: read what there is, choose a token, append it, go on.

Shapes: B prompts of T tokens, V tokens in the vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmr_ref.cache import KVCache
from llmr_ref.decoding import DecodingStep
from llmr_ref.sampling import greedy, sample
from llmr_ref.transformer import EncoderDecoder, Transformer

Model = Transformer | EncoderDecoder
Lists = Sequence[Sequence[int]]


@overload
def generate(model: Model, prompt: Tensor, *, max_new_tokens: int, **options: Any) -> Tensor: ...
@overload
def generate(
    model: Model, prompt: Lists, *, max_new_tokens: int, **options: Any
) -> list[list[int]]: ...
def generate(
    model: Model, prompt: Tensor | Lists, *, max_new_tokens: int, **options: Any
) -> Tensor | list[list[int]]:
    """Every prompt with its continuation; `options` are those of `stream`.

    Shapes: a tensor (..., T) gives (..., T + n), n the longest continuation, shorter ones filled up
    with the pad token. Lists, of any lengths, give lists, which end with their stop token.
    Raises: as `stream`.
    """
    new = list(stream(model, prompt, max_new_tokens=max_new_tokens, **options))
    if isinstance(prompt, Tensor):
        prompt = prompt.to(_device(model))
        return torch.cat((prompt, torch.stack(new, dim=-1)), dim=-1) if new else prompt.clone()
    stop = _as_list(options.get("stop_tokens", ()))
    rows = torch.stack(new, dim=-1).tolist() if new else [[] for _ in prompt]
    return [[*old, *_up_to(stop, row)] for old, row in zip(prompt, rows, strict=True)]


def stream(
    model: Model,
    prompt: Int[Tensor, "... T"] | Lists,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop_tokens: int | Sequence[int] = (),
    pad_token: int | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    cache: bool = True,
    prefill_chunk: int | None = None,
    source: Int[Tensor, "... S"] | None = None,
    source_mask: Bool[Tensor, "... 1 S"] | None = None,
) -> Iterator[Int[Tensor, "..."]]:
    """One new token for every prompt at a time, as soon as it is chosen.

    Prompts of different lengths (lists) are padded on the left; each goes on as it would alone, up to
    rounding, as long as no die is rolled. Choosing: see `sampling.sample`; temperature 0 takes the
    most probable token. A row that has produced one of `stop_tokens` gets `pad_token` from then on
    (the first stop token if None); when all have, the stream ends.
    seed, or a generator of the model's device: the same one gives the same tokens. cache=False reads
    everything again for every token. prefill_chunk: so many tokens of the prompt are read at once;
    None for all. source: what an `EncoderDecoder` encodes, with its padding mask.
    Raises: TypeError and ValueError for prompts, sizes, tokens or sources that do not fit the model,
    both a seed and a generator, or dropout that is switched on; IndexError for a token outside the
    vocabulary; as `sampling.sample`.
    Source: L5 "Transformer Sampling"; L3 "Generating new tokens".
    """
    tokens, padding = _batch(prompt, model)
    _check_count("max_new_tokens", max_new_tokens, least=0)
    stop = torch.tensor(_as_list(stop_tokens), dtype=torch.long, device=tokens.device)
    pad = pad_token if pad_token is not None else int(stop[0]) if len(stop) else 0
    _check_tokens("stop_tokens", stop, model)
    _check_tokens("pad_token", torch.tensor([pad]), model)
    if seed is not None:
        if generator is not None:
            raise ValueError(f"give either a seed or a generator, got both, seed = {seed}")
        generator = torch.Generator(tokens.device).manual_seed(seed)
    reader = Reader(
        model,
        tokens.shape[-1] + max_new_tokens - 1,  # nobody reads the last token
        len(tokens),
        padding=padding,
        cache=cache,
        chunk=prefill_chunk,
        source=source,
        source_mask=source_mask,
    )
    choice: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "generator": generator,
    }
    lead = prompt.shape[:-1] if isinstance(prompt, Tensor) else (len(tokens),)
    return _stream(reader, tokens, max_new_tokens, choice, stop, pad, torch.Size(lead))


def _stream(
    reader: "Reader",
    prompt: Tensor,
    max_new_tokens: int,
    choice: dict[str, Any],
    stop: Tensor,
    pad: int,
    lead: torch.Size,
) -> Iterator[Tensor]:
    T = prompt.shape[-1]
    history = prompt.new_full((len(prompt), T + max_new_tokens), pad)
    history[:, :T] = prompt
    finished = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    for n in range(T, T + max_new_tokens):
        with torch.inference_mode():  # not around the loop: it would reach into the caller's code
            logits = reader.next_logits(history[:, :n])
            if choice["temperature"] == 0 and choice["repetition_penalty"] is None:
                chosen = greedy(logits)
            else:
                chosen = sample(logits, previous=reader.without_padding(history[:, :n]), **choice)
            if len(stop):
                chosen = chosen.masked_fill(finished, pad)
                finished |= torch.isin(chosen, stop)
            history[:, n] = chosen
        yield chosen.clone().view(lead)  # a clone outside may be trained on
        if len(stop) and finished.all():
            return


class Reader:
    """A model that is fed a growing sequence and asked for the logits of what comes next.

    Raises: as `stream`.
    """

    def __init__(
        self,
        model: Model,
        max_length: int,
        batch_size: int,
        *,
        padding: Int[Tensor, " B"] | None = None,
        cache: bool = True,
        chunk: int | None = None,
        source: Int[Tensor, "... S"] | None = None,
        source_mask: Bool[Tensor, "... 1 S"] | None = None,
    ) -> None:
        config = model.config
        if model.training and config.dropout:
            raise ValueError(
                f"the model drops {config.dropout} of its activations at random; call model.eval()"
            )
        if config.positions == "learned" and max_length > config.max_length:
            raise ValueError(
                f"prompt and new tokens need {max_length} positions, the model has learned "
                f"max_length = {config.max_length}; shorten the prompt or generate less"
            )
        if not config.causal:
            raise ValueError(
                "an encoder (causal=False) cannot generate: it has seen what comes next"
            )
        if chunk is not None:
            _check_count("prefill_chunk", chunk, least=1)
        self.model, self.padding, self.chunk = model, padding, chunk
        with torch.inference_mode():
            self.memory = _encode(model, source, source_mask, batch_size)
            self.memory_mask = source_mask
            self.cache, self.step = None, None
            if cache:
                weight = model.lm_head.weight
                self.cache = KVCache(
                    config,
                    batch_size,
                    max(1, max_length),
                    padding=padding,
                    device=weight.device,
                    dtype=weight.dtype,
                )
                if isinstance(model, Transformer) and DecodingStep.fits(model):
                    self.step = DecodingStep(model, self.cache)

    def next_logits(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """Logits after the last of these tokens, of which a cache has read all but the new ones."""
        if self.cache is None:
            return self._read(tokens)
        new = tokens[:, self.cache.length :]
        if self.step is not None and new.shape[-1] == 1:
            return self.step(new[:, 0])
        for piece in new.split(self.chunk or new.shape[-1], dim=-1):
            logits = self._read(piece)
        return logits

    def _read(self, tokens: Tensor) -> Tensor:
        model = self.model
        if isinstance(model, EncoderDecoder):
            assert self.memory is not None
            return model.decode(
                tokens, self.memory, memory_mask=self.memory_mask, cache=self.cache
            )[:, -1]
        mask = positions = None
        if self.padding is not None and self.cache is None:
            column = torch.arange(tokens.shape[-1], device=tokens.device)
            mask = (column >= self.padding[:, None])[:, None]  # (B, 1, T)
            positions = (column - self.padding[:, None]).clamp(min=0)
        hidden = model.hidden(tokens, mask=mask, positions=positions, cache=self.cache)
        return model.lm_head(hidden[:, -1])  # V columns for one position, not for T

    def without_padding(self, tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """The same tokens, with -1 where there is none."""
        if self.padding is None:
            return tokens
        column = torch.arange(tokens.shape[-1], device=tokens.device)
        return tokens.where(column >= self.padding[:, None], -1)

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Let sequence b go on from what sequence rows[b] has been so far."""
        if self.cache is not None:
            self.cache.select(rows)


# --- beam search ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beam:
    """A prompt with its continuation, and the score by which beams compete."""

    tokens: Int[Tensor, " T"]
    score: float


def beam_search(
    model: Model,
    prompt: Int[Tensor, " T"] | Sequence[int],
    *,
    max_new_tokens: int,
    beams: int,
    length_penalty: float = 1.0,
    stop_tokens: int | Sequence[int] = (),
    cache: bool = True,
    source: Int[Tensor, " S"] | None = None,
    source_mask: Bool[Tensor, "1 S"] | None = None,
) -> list[Beam]:
    """The best continuations found by keeping the `beams` most probable beginnings; best first.

    The score is log p(continuation | prompt) / n^length_penalty, n its tokens, the stop token among
    them: 0 compares probabilities, which favours short ones, 1 the mean per token. The search ends
    when no beginning can still overtake the worst of `beams` finished ones.
    Raises: as `stream`; ValueError for fewer than 1 beam or new token, or more than one prompt.
    Source: Sutskever et al. 2014, section 3.2; Wu et al. 2016, section 7 (with a simpler penalty).
    """
    tokens, _ = _batch([prompt] if not isinstance(prompt, Tensor) else prompt, model)
    if len(tokens) != 1:
        raise ValueError(f"beam search takes one prompt, got {len(tokens)}; call it for each")
    _check_count("max_new_tokens", max_new_tokens, least=1)
    _check_count("beams", beams, least=1)
    stop = _as_list(stop_tokens)
    _check_tokens("stop_tokens", torch.tensor(stop, dtype=torch.long), model)
    T, V = tokens.shape[-1], model.config.vocab_size
    reader = Reader(
        model,
        T + max_new_tokens - 1,
        beams,
        cache=cache,
        source=None if source is None else source.expand(beams, -1),
        source_mask=None if source_mask is None else source_mask.expand(beams, -1, -1),
    )
    history = tokens.expand(beams, -1)
    # All beams are the prompt at first: only one of them may be continued.
    log_p = torch.full((beams,), -math.inf, dtype=torch.float64, device=tokens.device)
    log_p[0] = 0
    finished: list[Beam] = []

    def finish(row: Tensor, total: float) -> None:
        finished.append(Beam(row, total / (len(row) - T) ** length_penalty))
        finished.sort(key=lambda beam: beam.score, reverse=True)
        del finished[beams:]

    for n in range(1, max_new_tokens + 1):
        with torch.inference_mode():
            logits = reader.next_logits(history)
        totals = log_p[:, None] + logits.double().log_softmax(dim=-1)  # (beams, V)
        # So many are enough: each beam can lose one continuation to each stop token.
        best = totals.flatten().topk(min(beams * (1 + len(stop)), totals.numel()))
        rows, ids = best.indices // V, best.indices % V
        keep: list[int] = []
        for rank, (row, token, total) in enumerate(
            zip(rows.tolist(), ids.tolist(), best.values.tolist(), strict=True)
        ):
            if token not in stop:
                keep.append(rank)
            elif rank < beams and total > -math.inf:
                finish(torch.cat((history[row], ids[rank : rank + 1])), total)
        keep = keep[:beams]
        history = torch.cat((history[rows[keep]], ids[keep, None]), dim=-1)
        log_p = best.values[keep]
        if n == max_new_tokens or not keep:
            break
        # A log-probability only falls; the divisor that helps it most is that of one of the ends.
        furthest = max_new_tokens if length_penalty > 0 else n + 1
        best_possible = log_p[0].item() / furthest**length_penalty
        if len(finished) == beams and best_possible <= finished[-1].score:
            return finished
        with torch.inference_mode():
            reader.select(rows[keep])
    for row, total in zip(history, log_p.tolist(), strict=True):
        if total > -math.inf:
            finish(row, total)
    return finished


# --- checks --------------------------------------------------------------------------------------


def _device(model: Model) -> torch.device:
    return model.lm_head.weight.device


def _as_list(tokens: int | Sequence[int]) -> list[int]:
    return [tokens] if isinstance(tokens, int) else list(tokens)


def _up_to(stop: Sequence[int], row: list[int]) -> list[int]:
    ends = [n for n, token in enumerate(row) if token in stop]
    return row[: ends[0] + 1] if ends else row


def _batch(prompt: Tensor | Lists, model: Model) -> tuple[Tensor, Tensor | None]:
    """Prompts as one (B, T) tensor on the model's device, and how much padding each begins with."""
    padding = None
    if isinstance(prompt, Tensor):
        if prompt.is_floating_point() or prompt.dtype == torch.bool:
            raise TypeError(f"a prompt is token ids, so whole numbers, got {prompt.dtype}")
        if prompt.dim() == 0 or prompt.numel() == 0:
            raise ValueError(
                f"a prompt needs at least one token, got shape {tuple(prompt.shape)}; begin with a "
                "token that stands for the beginning"
            )
        tokens = prompt.flatten(0, -2) if prompt.dim() > 1 else prompt[None]
    else:
        if not all(isinstance(row, Sequence) for row in prompt):
            raise TypeError("prompts are a tensor or a list of lists of token ids: [[1, 2, 3]]")
        lengths = [len(row) for row in prompt]
        if 0 in lengths or not lengths:
            raise ValueError(
                f"every prompt needs at least one token, got lengths {lengths}; begin with a token "
                "that stands for the beginning"
            )
        T = max(lengths)
        tokens = torch.tensor([[0] * (T - len(row)) + list(row) for row in prompt])
        if min(lengths) < T:
            if isinstance(model, EncoderDecoder):
                raise ValueError(
                    f"an encoder-decoder's targets begin together, got lengths {lengths}"
                )
            padding = torch.tensor([T - length for length in lengths], device=_device(model))
    _check_tokens("prompt", tokens, model)
    return tokens.long().to(_device(model)), padding


def _encode(
    model: Model,
    source: Tensor | None,
    source_mask: Tensor | None,
    batch_size: int,
) -> Tensor | None:
    if isinstance(model, Transformer):
        if source is not None or source_mask is not None:
            raise ValueError(
                "source is for an EncoderDecoder; a Transformer reads the prompt alone"
            )
        return None
    if source is None:
        raise ValueError("an EncoderDecoder needs a source to encode")
    source = source.reshape(-1, source.shape[-1]).to(_device(model))
    if len(source) != batch_size:
        raise ValueError(f"need one source a prompt, got {len(source)} for {batch_size} prompts")
    return model.encode(source, mask=source_mask)


def _check_count(name: str, count: int, *, least: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")


def _check_tokens(name: str, tokens: Tensor, model: Model) -> None:
    V = model.config.vocab_size
    if tokens.numel() and not (tokens.min() >= 0 and tokens.max() < V):
        low, high = (int(bound) for bound in tokens.aminmax())
        raise IndexError(f"{name} must lie in 0..{V - 1}, the vocabulary, got {low}..{high}")
