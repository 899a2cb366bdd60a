"""Neural language models before the transformer: a fixed window, then a recurrent state.

Letters: x_t is the input at position t, h_t the hidden state after it. Shapes: T positions, H
numbers in a state, V tokens in the vocabulary. Leading dimensions (...) are free.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llmr_ref.attention import Implementation
from llmr_ref.masks import padding_mask

Cell = Literal["elman", "gru"]

# --- a window ------------------------------------------------------------------------------------


class FeedForwardLanguageModel(nn.Module):
    """Logits of the next token from the last `window` tokens: y = b + W x + U tanh(d + H x).

    x is their embeddings side by side; places before the beginning are zeros. `direct` False leaves
    W x out. `hidden` holds H and d, `output` U and b, `direct` W.
    Raises: ValueError for a size below 1.
    Source: L1 "Neural language models"; Bengio et al. 2003, equation 1.
    """

    def __init__(
        self,
        vocab_size: int,
        window: int,
        d_embedding: int,
        d_hidden: int,
        *,
        direct: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(
            vocab_size=vocab_size, window=window, d_embedding=d_embedding, d_hidden=d_hidden
        )
        self.window = window
        d_x = window * d_embedding
        self.embedding = nn.Embedding(vocab_size, d_embedding, device=device, dtype=dtype)
        self.hidden = nn.Linear(d_x, d_hidden, device=device, dtype=dtype)
        self.output = nn.Linear(d_hidden, vocab_size, device=device, dtype=dtype)
        self.direct = (
            nn.Linear(d_x, vocab_size, bias=False, device=device, dtype=dtype) if direct else None
        )

    def forward(self, tokens: Int[Tensor, "... T"]) -> Float[Tensor, "... T V"]:
        """Raises: TypeError for tokens that are not integers; IndexError for unknown ones."""
        embedded = embed(tokens, self.embedding)  # (..., T, d)
        padded = F.pad(embedded, (0, 0, self.window - 1, 0))
        x = padded.unfold(-2, self.window, 1).transpose(-2, -1).flatten(-2)  # (..., T, window * d)
        y = self.output(self.hidden(x).tanh())
        return y if self.direct is None else y + self.direct(x)


# --- one step, and many --------------------------------------------------------------------------


def elman_step(
    x: Float[Tensor, "... d"],
    h: Float[Tensor, "... H"],
    W_ih: Float[Tensor, "H d"],
    W_hh: Float[Tensor, "H H"],
    b_ih: Float[Tensor, " H"],
    b_hh: Float[Tensor, " H"],
) -> Float[Tensor, "... H"]:
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    Source: L5 "Sequence modeling"; Elman 1990, "Finding structure in time".
    """
    return torch.tanh(F.linear(x, W_ih, b_ih) + F.linear(h, W_hh, b_hh))


def gru_step(
    x: Float[Tensor, "... d"],
    h: Float[Tensor, "... H"],
    W_ih: Float[Tensor, "3H d"],
    W_hh: Float[Tensor, "3H H"],
    b_ih: Float[Tensor, " 3H"],
    b_hh: Float[Tensor, " 3H"],
) -> Float[Tensor, "... H"]:
    """h_t = (1 - z) n + z h_{t-1}: the update gate z keeps the old state or takes the new one.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h +
    b_hn)); the rows of every weight are r, z, n. As in cuDNN, r multiplies after W_hn, not before.
    Source: Cho et al. 2014, equations 5 to 8, there with z and 1 - z exchanged.
    """
    x_r, x_z, x_n = F.linear(x, W_ih, b_ih).chunk(3, dim=-1)
    h_r, h_z, h_n = F.linear(h, W_hh, b_hh).chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return (1 - z) * n + z * h


STEPS = {"elman": elman_step, "gru": gru_step}


class Recurrent(nn.Module):
    """Layers of Elman or GRU cells over a sequence, forward or in both directions.

    `rnn` is torch's own module and owns the weights; "fused" runs its kernel, "explicit" the step
    equations on the same weights. A bidirectional layer's output is forward and backward, side by
    side.
    Raises: ValueError for a size below 1, an unknown cell or an unknown implementation.
    Source: L5 "RNNs beyond language modeling"; Schuster and Paliwal 1997 (both directions).
    """

    def __init__(
        self,
        d_input: int,
        d_hidden: int,
        *,
        cell: Cell = "gru",
        n_layers: int = 1,
        bidirectional: bool = False,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(d_input=d_input, d_hidden=d_hidden, n_layers=n_layers)
        check_choice("cell", cell, get_args(Cell))
        check_choice("implementation", implementation, get_args(Implementation))
        self.d_input, self.d_hidden, self.n_layers = d_input, d_hidden, n_layers
        self.cell: Cell = cell
        self.implementation: Implementation = implementation
        self.n_directions = 2 if bidirectional else 1
        kernel = nn.RNN if cell == "elman" else nn.GRU
        self.rnn = kernel(
            d_input,
            d_hidden,
            num_layers=n_layers,
            bidirectional=bidirectional,
            batch_first=True,
            device=device,
            dtype=dtype,
        )

    def forward(
        self,
        x: Float[Tensor, "... T d"],
        h_0: Float[Tensor, "L*D ... H"] | None = None,
        lengths: Int[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "... T D*H"], Float[Tensor, "L*D ... H"]]:
        """The last layer's state at every position, and every layer's state after its last one.

        Shapes: L layers of D directions; h_0 None is zeros. With `lengths`, one a sequence, what
        lies behind a sequence's end is ignored, and the output there is zero.
        Raises: ValueError for no positions, an x or h_0 of other shapes, or lengths outside 1..T.
        """
        if x.dim() < 2 or x.shape[-1] != self.d_input or x.shape[-2] == 0:
            raise ValueError(
                f"x must be (..., T, {self.d_input}) with T at least 1, got {tuple(x.shape)}"
            )
        *lead, T, _ = x.shape
        n_states = self.n_layers * self.n_directions
        if h_0 is None:
            h_0 = x.new_zeros(n_states, *lead, self.d_hidden)
        if h_0.shape != (n_states, *lead, self.d_hidden):
            raise ValueError(
                f"h_0 must be {(n_states, *lead, self.d_hidden)}, got {tuple(h_0.shape)}"
            )
        if lengths is not None:
            check_lengths(lengths, lead, T)
            lengths = lengths.reshape(-1)
        run = self._fused if self.implementation == "fused" else self._explicit
        B = math.prod(lead)
        out, h_n = run(x.reshape(B, T, -1), h_0.reshape(n_states, B, -1).contiguous(), lengths)
        return out.view(*lead, T, -1), h_n.view(n_states, *lead, -1)

    def _fused(
        self, x: Tensor, h_0: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:  # (B, T, d), (L * D, B, H) -> (B, T, D * H), (L * D, B, H)
        if lengths is None:
            out, h_n = self.rnn(x, h_0)
            return out, h_n
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, h_n = self.rnn(packed, h_0)
        return pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])[0], h_n

    def _explicit(
        self, x: Tensor, h_0: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:  # as _fused
        T = x.shape[1]
        real = None if lengths is None else padding_mask(lengths.to(x.device), T).mT  # (B, T, 1)
        final = []
        for layer in range(self.n_layers):
            directions = []
            for direction in range(self.n_directions):
                h = h_0[layer * self.n_directions + direction]
                weights = self.rnn.all_weights[layer * self.n_directions + direction]
                states = [h] * T
                for t in reversed(range(T)) if direction == 1 else range(T):
                    new = STEPS[self.cell](x[:, t], h, *weights)
                    # Padding leaves a state as it is: forward what it was at the end, backward
                    # what it began with.
                    h = new if real is None else torch.where(real[:, t], new, h)
                    states[t] = h if real is None else h.masked_fill(~real[:, t], 0.0)
                final.append(h)
                directions.append(torch.stack(states, dim=1))
            x = torch.cat(directions, dim=-1)
        return x, torch.stack(final)


# --- a language model, a classifier, a regressor -------------------------------------------------


class RecurrentLanguageModel(nn.Module):
    """Logits of the next token from a state that has read all before it.

    Raises: as `Recurrent`; ValueError for a vocab_size below 1.
    Source: L5 "Sequence modeling"; Mikolov et al. 2010.
    """

    def __init__(
        self,
        vocab_size: int,
        d_embedding: int,
        d_hidden: int,
        *,
        cell: Cell = "gru",
        n_layers: int = 1,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, d_embedding=d_embedding)
        self.embedding = nn.Embedding(vocab_size, d_embedding, device=device, dtype=dtype)
        self.recurrent = Recurrent(
            d_embedding,
            d_hidden,
            cell=cell,
            n_layers=n_layers,
            implementation=implementation,
            device=device,
            dtype=dtype,
        )
        self.output = nn.Linear(d_hidden, vocab_size, device=device, dtype=dtype)

    def forward(self, tokens: Int[Tensor, "... T"]) -> Float[Tensor, "... T V"]:
        """Raises: TypeError for tokens that are not integers; IndexError for unknown ones."""
        return self.run(tokens)[0]

    def run(
        self, tokens: Int[Tensor, "... T"], h: Float[Tensor, "L ... H"] | None = None
    ) -> tuple[Float[Tensor, "... T V"], Float[Tensor, "L ... H"]]:
        """The logits, and the state to go on from: all that is kept of what was read."""
        states, h = self.recurrent(embed(tokens, self.embedding), h)
        return self.output(states), h


class SequenceClassifier(nn.Module):
    """Logits of a class for a whole sequence, from the last state.

    Bidirectional: from the forward state at the end and the backward one at the beginning, the two
    that have seen everything.
    Raises: as `Recurrent`; ValueError for a vocab_size or n_classes below 1.
    Source: L5 "Sequence classification".
    """

    def __init__(
        self,
        vocab_size: int,
        n_classes: int,
        d_embedding: int,
        d_hidden: int,
        *,
        cell: Cell = "gru",
        n_layers: int = 1,
        bidirectional: bool = False,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, n_classes=n_classes, d_embedding=d_embedding)
        self.embedding = nn.Embedding(vocab_size, d_embedding, device=device, dtype=dtype)
        self.recurrent = Recurrent(
            d_embedding,
            d_hidden,
            cell=cell,
            n_layers=n_layers,
            bidirectional=bidirectional,
            implementation=implementation,
            device=device,
            dtype=dtype,
        )
        d_last = self.recurrent.n_directions * d_hidden
        self.output = nn.Linear(d_last, n_classes, device=device, dtype=dtype)

    def forward(
        self, tokens: Int[Tensor, "... T"], lengths: Int[Tensor, "..."] | None = None
    ) -> Float[Tensor, "... C"]:
        """What lies behind a sequence's length changes nothing.

        Raises: as `Recurrent.forward`; IndexError for unknown tokens.
        """
        _, h_n = self.recurrent(embed(tokens, self.embedding), lengths=lengths)
        last_layer = h_n[-self.recurrent.n_directions :]
        return self.output(side_by_side(last_layer, self.recurrent.n_directions)[0])


class TimeSeriesRegressor(nn.Module):
    """The next number of a series: no embedding, and one linear output.

    Raises: as `Recurrent`.
    Source: L5 "Sequence modeling", tokens to numbers.
    """

    def __init__(
        self,
        d_hidden: int,
        *,
        cell: Cell = "gru",
        n_layers: int = 1,
        implementation: Implementation = "fused",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.recurrent = Recurrent(
            1,
            d_hidden,
            cell=cell,
            n_layers=n_layers,
            implementation=implementation,
            device=device,
            dtype=dtype,
        )
        self.output = nn.Linear(d_hidden, 1, device=device, dtype=dtype)

    def forward(self, series: Float[Tensor, "... T"]) -> Float[Tensor, "... T"]:
        """At position t the guess of number t + 1."""
        return self._run(series, None)[0]

    def loss(self, series: Float[Tensor, "... T"]) -> Float[Tensor, ""]:
        """Mean squared error of the guesses. Raises: ValueError for fewer than 2 numbers."""
        if series.shape[-1] < 2:
            raise ValueError(f"a series needs at least 2 numbers, got {series.shape[-1]}")
        return F.mse_loss(self(series[..., :-1]), series[..., 1:])

    def forecast(self, series: Float[Tensor, "... T"], n_steps: int) -> Float[Tensor, "... n"]:
        """The n_steps numbers after the series, each from the guesses before it.

        Raises: ValueError for n_steps below 1.
        """
        check_sizes(n_steps=n_steps)
        guesses, h = self._run(series, None)
        steps = [guesses[..., -1:]]
        for _ in range(n_steps - 1):
            guess, h = self._run(steps[-1], h)
            steps.append(guess)
        return torch.cat(steps, dim=-1)

    def _run(self, series: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        states, h = self.recurrent(series[..., None], h)
        return self.output(states).squeeze(-1), h


# --- what seq2seq needs as well ------------------------------------------------------------------


def side_by_side(h: Float[Tensor, "L*D ... H"], n_directions: int) -> Float[Tensor, "L ... D*H"]:
    """The final states of every layer's directions next to each other."""
    directions = h.unflatten(0, (-1, n_directions)).unbind(1)  # D of (L, ..., H)
    return torch.cat(directions, dim=-1)


def embed(tokens: Int[Tensor, "... T"], embedding: nn.Embedding) -> Float[Tensor, "... T d"]:
    """A row of the table for every token.

    Raises: TypeError for tokens that are not integers; IndexError naming the range of the others.
    """
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens must be integer ids, got {tokens.dtype}")
    try:
        embedded: Tensor = embedding(tokens)
    except IndexError as error:
        low, high = (int(bound) for bound in tokens.aminmax())
        raise IndexError(
            f"tokens must lie in 0..{embedding.num_embeddings - 1}, got {low}..{high}"
        ) from error
    return embedded


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    """Raise ValueError for a value that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose {' or '.join(map(repr, choices))}")


def check_lengths(lengths: Tensor, lead: Sequence[int], T: int) -> None:
    """Raise ValueError for lengths that are not one a sequence, or outside 1..T."""
    if lengths.shape != torch.Size(lead):
        raise ValueError(
            f"lengths must be {tuple(lead)}, one a sequence, got {tuple(lengths.shape)}"
        )
    if ((lengths < 1) | (lengths > T)).any():
        low, high = (int(bound) for bound in lengths.aminmax())
        raise ValueError(f"lengths must lie in 1..T = {T}, got {low}..{high}")
