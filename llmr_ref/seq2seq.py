"""Encoder and decoder, without attention and with it: the bottleneck that attention removes.

Letters: h_i is the encoder's state at position i, s_t the decoder's at t, e_ti their score, alpha_ti
the weight, c_t the context. Shapes: S positions of the source, T of the target, H numbers in a
state, V tokens in the target's vocabulary. Leading dimensions (...) are free.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmr_ref.attention import Implementation, dot_scores, masked_softmax
from llmr_ref.masks import padding_mask
from llmr_ref.recurrent import (
    Cell,
    Recurrent,
    check_choice,
    check_lengths,
    check_sizes,
    embed,
    side_by_side,
)

Score = Literal["additive", "dot"]


def additive_scores(
    Q: Float[Tensor, "... T d_q"],
    K: Float[Tensor, "... S d_k"],
    W_Q: Float[Tensor, "d d_q"],
    W_K: Float[Tensor, "d d_k"],
    v: Float[Tensor, " d"],
) -> Float[Tensor, "... T S"]:
    """e_ti = v . tanh(W_Q q_t + W_K k_i): a small network compares query and key.

    Source: L5 "RNN variants: attention"; Bahdanau et al. 2015, appendix A.1.2.
    """
    return torch.tanh((Q @ W_Q.T)[..., :, None, :] + (K @ W_K.T)[..., None, :, :]) @ v


class AttentionTrace(NamedTuple):
    """What a decoder looked at: c_t = sum_i alpha_ti h_i with alpha_t = softmax(e_t)."""

    e: Float[Tensor, "... T S"]  # scores, before the mask
    alpha: Float[Tensor, "... T S"]  # weights; 0 on padding
    c: Float[Tensor, "... T H"]  # contexts


class Encoded(NamedTuple):
    """What the decoder is given of the source."""

    states: Float[Tensor, "... S H"]
    mask: Bool[Tensor, "... 1 S"] | None  # False on padding
    h: Float[Tensor, "L ... H"]  # the state after the last position: the decoder's first


class Seq2Seq(nn.Module):
    """p(y | x): an encoder reads the source x, a decoder is a language model of y that begins there.

    `attention` None: the last state is all the decoder gets. Otherwise, with s_t its state,
    e_ti = score(s_t, h_i) and c_t, the logits come from tanh(W [s_t; c_t]). A bidirectional encoder
    has d_hidden / 2 a direction, so that its states are as wide as the decoder's.
    Raises: as `Recurrent`; ValueError for an unknown attention, or an odd d_hidden with a
    bidirectional encoder.
    Source: L5 "Sequence to sequence", "RNN variants: attention"; Sutskever et al. 2014; Luong et
    al. 2015, equations 5 to 8 (where s_t is taken after y_{t-1} is read; Bahdanau takes s_{t-1}).
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        d_embedding: int,
        d_hidden: int,
        *,
        attention: Score | None = "additive",
        cell: Cell = "gru",
        n_layers: int = 1,
        bidirectional: bool = False,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(
            source_vocab_size=source_vocab_size,
            target_vocab_size=target_vocab_size,
            d_embedding=d_embedding,
        )
        check_choice("attention", attention, (*get_args(Score), None))
        if bidirectional and d_hidden % 2:
            raise ValueError(f"both directions share d_hidden, so it must be even; got {d_hidden}")
        self.attention: Score | None = attention
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        kind: dict[str, Any] = {
            "cell": cell,
            "n_layers": n_layers,
            "implementation": implementation,
        }
        self.source_embedding = nn.Embedding(source_vocab_size, d_embedding, **place)
        self.target_embedding = nn.Embedding(target_vocab_size, d_embedding, **place)
        self.encoder = Recurrent(
            d_embedding,
            d_hidden // 2 if bidirectional else d_hidden,
            bidirectional=bidirectional,
            **kind,
            **place,
        )
        self.decoder = Recurrent(d_embedding, d_hidden, **kind, **place)
        if attention is not None:
            self.mix = nn.Linear(2 * d_hidden, d_hidden, **place)
        if attention == "additive":
            self.score_query = nn.Linear(d_hidden, d_hidden, bias=False, **place)
            self.score_key = nn.Linear(d_hidden, d_hidden, bias=False, **place)
            self.score_v = nn.Linear(d_hidden, 1, bias=False, **place)
        self.output = nn.Linear(d_hidden, target_vocab_size, **place)

    def forward(
        self,
        source: Int[Tensor, "... S"],
        inputs: Int[Tensor, "... T"],
        source_lengths: Int[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "... T V"]:
        """Logits of every target token, given the ones before it (`inputs`, a begin token first).

        Raises: as `Recurrent.forward`; TypeError and IndexError for tokens.
        """
        return self.decode(inputs, self.encode(source, source_lengths))[0]

    def encode(
        self, source: Int[Tensor, "... S"], lengths: Int[Tensor, "..."] | None = None
    ) -> Encoded:
        """Read the source. Raises: as `forward`."""
        states, h_n = self.encoder(embed(source, self.source_embedding), lengths=lengths)
        mask = None if lengths is None else padding_mask(lengths.to(h_n.device), source.shape[-1])
        return Encoded(states, mask, side_by_side(h_n, self.encoder.n_directions))

    def decode(
        self,
        inputs: Int[Tensor, "... T"],
        encoded: Encoded,
        h: Float[Tensor, "L ... H"] | None = None,
    ) -> tuple[Float[Tensor, "... T V"], Float[Tensor, "L ... H"], AttentionTrace | None]:
        """Logits, the state to go on from (h None: the source's), and what was attended to.

        Raises: as `forward`.
        """
        states, h = self.decoder(
            embed(inputs, self.target_embedding), encoded.h if h is None else h
        )
        if self.attention is None:
            return self.output(states), h, None
        trace = self._attend(states, encoded)
        mixed = torch.tanh(self.mix(torch.cat([states, trace.c], dim=-1)))
        return self.output(mixed), h, trace

    def _attend(self, states: Float[Tensor, "... T H"], encoded: Encoded) -> AttentionTrace:
        if self.attention == "dot":
            e = dot_scores(states, encoded.states)
        else:
            e = additive_scores(
                states,
                encoded.states,
                self.score_query.weight,
                self.score_key.weight,
                self.score_v.weight[0],
            )
        alpha = masked_softmax(e, encoded.mask)
        return AttentionTrace(e, alpha, alpha @ encoded.states)

    def log_probability(
        self,
        source: Int[Tensor, "... S"],
        target: Int[Tensor, "... T"],
        *,
        bos: int,
        source_lengths: Int[Tensor, "..."] | None = None,
        target_lengths: Int[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """ln p(y | x) = sum_t ln p(y_t | y_1 .. y_{t-1}, x), nats; y includes its end token.

        Raises: as `forward`; ValueError for target_lengths outside 1..T.
        """
        inputs = torch.cat([torch.full_like(target[..., :1], bos), target[..., :-1]], dim=-1)
        ln_p = self(source, inputs, source_lengths).log_softmax(dim=-1)
        ln_p = ln_p.gather(-1, target[..., None]).squeeze(-1)
        if target_lengths is not None:
            check_lengths(target_lengths, target.shape[:-1], target.shape[-1])
            real = padding_mask(target_lengths.to(ln_p.device), target.shape[-1]).squeeze(-2)
            ln_p = ln_p.masked_fill(~real, 0.0)
        return ln_p.sum(dim=-1)

    @torch.no_grad()
    def greedy(
        self,
        source: Int[Tensor, "... S"],
        *,
        bos: int,
        eos: int,
        max_length: int,
        source_lengths: Int[Tensor, "..."] | None = None,
    ) -> Int[Tensor, "... T"]:
        """The most probable token again and again, up to max_length; eos fills up after an eos.

        Raises: as `forward`; ValueError for a max_length below 1.
        """
        check_sizes(max_length=max_length)
        encoded = self.encode(source, source_lengths)
        token = torch.full_like(source[..., :1], bos)
        ended = torch.zeros_like(token, dtype=torch.bool)
        h, tokens = None, []
        for _ in range(max_length):
            logits, h, _ = self.decode(token, encoded, h)
            token = logits.argmax(dim=-1).masked_fill(ended, eos)
            tokens.append(token)
            ended = ended | (token == eos)
            if ended.all():
                break
        return torch.cat(tokens, dim=-1)
