"""Recurrent layers against torch.nn.RNN and GRU, against loops, and by what padding may change."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from llmr_ref.recurrent import (
    FeedForwardLanguageModel,
    Recurrent,
    RecurrentLanguageModel,
    SequenceClassifier,
    TimeSeriesRegressor,
    elman_step,
    gru_step,
)

CELLS = ["elman", "gru"]
EACH_CELL = pytest.mark.parametrize("cell", CELLS)
BOTH = pytest.mark.parametrize("implementation", ["fused", "explicit"])
WAYS = pytest.mark.parametrize("bidirectional", [False, True])
DOUBLE = torch.float64


def randn(*shape, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=DOUBLE).to(dtype)


def randint(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def spread(module, seed=0):
    """Weights that differ in size and are never zero, biases included."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=seed + i) * 0.5)
    return module


def recurrent(cell="gru", seed=0, **options):
    return spread(Recurrent(3, 4, cell=cell, dtype=DOUBLE, **options), seed)


def torchs_own(model):
    kind = nn.RNN if model.cell == "elman" else nn.GRU
    theirs = kind(
        model.d_input,
        model.d_hidden,
        num_layers=model.n_layers,
        bidirectional=model.n_directions == 2,
        batch_first=True,
        dtype=DOUBLE,
    )
    theirs.load_state_dict(model.rnn.state_dict())
    return theirs


# --- one step -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "cell"), [(elman_step, nn.RNNCell), (gru_step, nn.GRUCell)])
def test_a_step_is_torchs_cell(step, cell):
    cell = spread(cell(3, 4, dtype=DOUBLE))
    x, h = randn(2, 5, 3, seed=20), randn(2, 5, 4, seed=21)
    weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    expected = cell(x.view(10, 3), h.view(10, 4)).view(2, 5, 4)
    assert_close(step(x, h, *weights), expected)


# --- many steps ---------------------------------------------------------------------------------


@BOTH
@EACH_CELL
@WAYS
@pytest.mark.parametrize("n_layers", [1, 3])
def test_a_sequence_is_torchs_module_with_the_same_weights(
    implementation, cell, bidirectional, n_layers
):
    model = recurrent(
        cell, n_layers=n_layers, bidirectional=bidirectional, implementation=implementation
    )
    x = randn(5, 7, 3, seed=50)
    h_0 = randn(n_layers * model.n_directions, 5, 4, seed=51)
    for given_h, theirs in (
        (None, torchs_own(model)(x)),
        (h_0, torchs_own(model)(x, h_0)),
    ):
        out, h_n = model(x, given_h)
        assert_close(out, theirs[0])
        assert_close(h_n, theirs[1])


@EACH_CELL
@WAYS
@settings(max_examples=25)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    T=st.integers(1, 6),
    n_layers=st.integers(1, 2),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_fused_equals_explicit(cell, bidirectional, lead, T, n_layers, seed, data):
    model = recurrent(cell, seed % 1000, n_layers=n_layers, bidirectional=bidirectional)
    x = randn(*lead, T, 3, seed=seed)
    h_0 = randn(n_layers * model.n_directions, *lead, 4, seed=seed + 1)
    B = math.prod(lead)
    lengths = data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B))
    for some in (None, torch.tensor(lengths).reshape(lead)):
        model.implementation = "fused"
        out, h_n = model(x, h_0, some)
        model.implementation = "explicit"
        expected = model(x, h_0, some)
        assert out.shape == (*lead, T, 4 * model.n_directions)
        assert h_n.shape == (n_layers * model.n_directions, *lead, 4)
        assert_close(out, expected[0])
        assert_close(h_n, expected[1])


@BOTH
@EACH_CELL
@WAYS
def test_padding_changes_nothing(implementation, cell, bidirectional):
    model = recurrent(cell, n_layers=2, bidirectional=bidirectional, implementation=implementation)
    lengths = torch.tensor([4, 1, 6])
    x, h_0 = randn(3, 6, 3, seed=60), randn(2 * model.n_directions, 3, 4, seed=61)
    out, h_n = model(x, h_0, lengths)
    for b, length in enumerate(lengths.tolist()):
        alone, h_alone = model(x[b : b + 1, :length], h_0[:, b : b + 1])
        assert_close(out[b, :length], alone[0])
        assert_close(h_n[:, b], h_alone[:, 0])
        assert not out[b, length:].any()


@BOTH
@EACH_CELL
def test_a_sequence_may_be_read_in_two_parts(implementation, cell):
    model = recurrent(cell, n_layers=2, implementation=implementation)
    x = randn(5, 7, 3)
    whole, h_whole = model(x)
    first, h = model(x[:, :3])
    second, h = model(x[:, 3:], h)
    assert_close(torch.cat([first, second], dim=1), whole)
    assert_close(h, h_whole)


@BOTH
@EACH_CELL
def test_one_direction_sees_the_past_and_two_see_everything(implementation, cell):
    x = randn(1, 6, 3)
    for bidirectional in (False, True):
        model = recurrent(cell, bidirectional=bidirectional, implementation=implementation)
        J = torch.autograd.functional.jacobian(lambda x, m=model: m(x)[0].sum(dim=-1), x)
        depends = J[0, :, 0].abs().sum(dim=-1) > 0  # (T out, T in)
        expected = torch.ones(6, 6, dtype=torch.bool)
        assert torch.equal(depends, expected if bidirectional else expected.tril())


@BOTH
@EACH_CELL
def test_gradients_are_right_in_inputs_state_and_weights(implementation, cell):
    model = recurrent(cell, implementation=implementation)
    x, h_0 = randn(2, 3, 3).requires_grad_(), randn(1, 2, 4, seed=1).requires_grad_()
    lengths = torch.tensor([3, 2])
    assert torch.autograd.gradcheck(lambda x, h: model(x, h, lengths), (x, h_0))
    x = x.detach()
    grads = torch.autograd.grad(model(x)[0].square().sum(), list(model.parameters()))
    theirs = torchs_own(model)
    expected = torch.autograd.grad(theirs(x)[0].square().sum(), list(theirs.parameters()))
    for grad, other in zip(grads, expected, strict=True):
        assert_close(grad, other)


@BOTH
@EACH_CELL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(implementation, cell, dtype):
    model = Recurrent(3, 4, cell=cell, implementation=implementation, dtype=dtype)
    exact = recurrent(cell, implementation=implementation)
    exact.load_state_dict(model.state_dict())
    x = randn(2, 5, 3, dtype=dtype)
    out, h_n = model(x)
    assert out.dtype == h_n.dtype == dtype
    # Five steps of a contracting map: the error of one step, a few eps of numbers up to 1, adds up.
    expected = exact(x.double())[0]
    assert_close(out.double(), expected, rtol=0, atol=20 * torch.finfo(dtype).eps)


@BOTH
@EACH_CELL
def test_inputs_may_be_strided_and_are_not_changed(implementation, cell):
    model = recurrent(cell, implementation=implementation)
    x, h_0, lengths = randn(4, 5, 3), randn(1, 4, 4, seed=1), torch.tensor([5, 2, 3, 1])
    strided, h_strided = x.mT.contiguous().mT, h_0.mT.contiguous().mT
    assert not strided.is_contiguous()
    assert not h_strided.is_contiguous()
    out, h_n = model(strided, h_strided, lengths)
    assert_close(out, model(x, h_0, lengths)[0])
    assert_close(h_n, model(x, h_0, lengths)[1])
    assert torch.equal(strided, randn(4, 5, 3))
    assert torch.equal(h_strided, randn(1, 4, 4, seed=1))
    assert lengths.tolist() == [5, 2, 3, 1]


def test_the_cell_is_a_gru_and_the_kernel_is_used_unless_told():
    model = Recurrent(3, 4)
    assert isinstance(model.rnn, nn.GRU)
    assert (model.implementation, model.n_layers, model.n_directions) == ("fused", 1, 1)


# --- a window -----------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("window", [1, 3, 9])
def test_the_window_model_is_the_formula_at_every_position(direct, window):
    model = spread(FeedForwardLanguageModel(11, window, 2, 5, direct=direct, dtype=DOUBLE))
    tokens = randint(11, 3, 7)
    logits = model(tokens)
    C, H, d = model.embedding.weight, model.hidden.weight, model.hidden.bias
    U, b = model.output.weight, model.output.bias
    for n, t in itertools.product(range(3), range(7)):
        before = [C[i] for i in tokens[n, max(0, t - window + 1) : t + 1]]
        x = torch.cat([torch.zeros(2, dtype=DOUBLE)] * (window - len(before)) + before)
        y = b + U @ torch.tanh(d + H @ x)
        if direct:
            y = y + model.direct.weight @ x
        assert_close(logits[n, t], y)


def test_the_window_model_has_direct_connections_unless_told():
    assert FeedForwardLanguageModel(11, 3, 2, 5).direct is not None


def test_the_window_is_all_that_the_window_model_sees():
    model = spread(FeedForwardLanguageModel(11, 3, 2, 5, dtype=DOUBLE))
    tokens = randint(11, 8)
    other = tokens.clone()
    other[2] = (other[2] + 1) % 11
    changed = (model(tokens) != model(other)).any(dim=-1)
    assert changed.tolist() == [2 <= t < 5 for t in range(8)]


# --- the language model -------------------------------------------------------------------------


@BOTH
@EACH_CELL
def test_the_language_model_goes_on_from_its_state(implementation, cell):
    model = spread(
        RecurrentLanguageModel(
            11, 3, 5, cell=cell, n_layers=2, implementation=implementation, dtype=DOUBLE
        )
    )
    tokens = randint(11, 2, 3, 6)
    whole = model(tokens)
    assert whole.shape == (2, 3, 6, 11)
    h, parts = None, []
    for t in range(6):
        logits, h = model.run(tokens[..., t : t + 1], h)
        parts.append(logits)
    assert_close(torch.cat(parts, dim=-2), whole)
    assert h.shape == (2, 2, 3, 5)


def test_the_language_model_learns_what_a_window_cannot_see():
    """After a b, ... the last token is what came first: further back than the window reaches."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(1, 5, (64, 1), generator=generator)
    tokens = torch.cat([first, torch.zeros(64, 6, dtype=torch.int64), first], dim=1)
    losses = {}
    for name in ("window", "recurrent"):
        torch.manual_seed(0)
        model = (
            FeedForwardLanguageModel(5, 4, 8, 16)
            if name == "window"
            else RecurrentLanguageModel(5, 8, 16)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(120):
            optimizer.zero_grad()
            loss = cross_entropy(model(tokens[:, :-1])[:, -1], tokens[:, -1])
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
    assert losses["recurrent"] < 0.1
    frequencies = torch.bincount(first[:, 0])[1:] / 64
    entropy = -(frequencies * frequencies.log()).sum().item()
    assert losses["window"] > entropy - 1e-3  # the best guess without the first token


# --- the classifier -----------------------------------------------------------------------------


@BOTH
@EACH_CELL
@WAYS
def test_a_sequence_is_classified_as_it_would_be_without_padding(
    implementation, cell, bidirectional
):
    model = spread(
        SequenceClassifier(
            11,
            3,
            2,
            5,
            cell=cell,
            n_layers=2,
            bidirectional=bidirectional,
            implementation=implementation,
            dtype=DOUBLE,
        )
    )
    tokens, lengths = randint(11, 2, 2, 6), torch.tensor([[6, 2], [1, 4]])
    logits = model(tokens, lengths)
    assert logits.shape == (2, 2, 3)
    for i, j in itertools.product(range(2), range(2)):
        alone = model(tokens[i, j, : lengths[i, j]])
        assert_close(logits[i, j], alone)
    repadded = torch.where(torch.arange(6) < lengths[..., None], tokens, 7)
    assert torch.equal(model(repadded, lengths), logits)


@EACH_CELL
def test_the_classifier_reads_the_last_layers_final_states(cell):
    model = spread(
        SequenceClassifier(11, 3, 2, 5, cell=cell, n_layers=2, bidirectional=True, dtype=DOUBLE)
    )
    tokens = randint(11, 4, 6)
    states, _ = model.recurrent(model.embedding(tokens))
    full = torch.cat([states[:, -1, :5], states[:, 0, 5:]], dim=-1)  # those that saw everything
    assert_close(model(tokens), model.output(full))


# --- the regressor ------------------------------------------------------------------------------


@BOTH
@EACH_CELL
def test_the_regressor_is_a_linear_output_on_torchs_states(implementation, cell):
    model = spread(
        TimeSeriesRegressor(5, cell=cell, n_layers=2, implementation=implementation, dtype=DOUBLE)
    )
    series = randn(2, 3, 9)
    states, _ = torchs_own(model.recurrent)(series.view(6, 9, 1))
    expected = model.output(states)[..., 0].view(2, 3, 9)
    assert_close(model(series), expected)
    error = (expected[..., :-1] - series[..., 1:]).square().mean()
    assert_close(model.loss(series), error)


@EACH_CELL
def test_a_forecast_feeds_each_guess_back(cell):
    model = spread(TimeSeriesRegressor(5, cell=cell, n_layers=2, dtype=DOUBLE))
    series = randn(2, 3, 6)
    forecast = model.forecast(series, 4)
    assert forecast.shape == (2, 3, 4)
    for n in range(4):
        so_far = torch.cat([series, forecast[..., :n]], dim=-1)
        assert_close(forecast[..., n], model(so_far)[..., -1])
    assert_close(model.forecast(series, 1), forecast[..., :1])


def test_a_sine_is_learned():
    torch.manual_seed(0)
    phase = torch.arange(8)[:, None]
    series = torch.sin(0.6 * torch.arange(24) + phase)
    model = TimeSeriesRegressor(12)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = model.loss(series).item()
    for _ in range(120):
        optimizer.zero_grad()
        loss = model.loss(series)
        loss.backward()
        optimizer.step()
    assert before > 0.3
    assert loss.item() < 0.03
    truth = torch.sin(0.6 * torch.arange(24, 28) + phase)
    assert (model.forecast(series, 4) - truth).square().mean() < 0.05


# --- devices, dtypes, errors --------------------------------------------------------------------

MODELS = {
    "window": lambda **place: FeedForwardLanguageModel(11, 3, 2, 5, **place),
    "language": lambda **place: RecurrentLanguageModel(11, 2, 5, **place),
    "classifier": lambda **place: SequenceClassifier(11, 3, 2, 5, bidirectional=True, **place),
    "regressor": lambda **place: TimeSeriesRegressor(5, **place),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_lives_where_and_as_what_it_is_told(name):
    model = MODELS[name](device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    shape = {"device": "meta"}
    x = (
        torch.zeros(2, 4, dtype=torch.bfloat16, **shape)
        if name == "regressor"
        else torch.zeros(2, 4, dtype=torch.int64, **shape)
    )
    out = model(x)
    assert out.is_meta
    assert out.dtype == torch.bfloat16


@BOTH
@EACH_CELL
def test_states_live_where_the_input_does(implementation, cell):
    model = Recurrent(3, 4, cell=cell, implementation=implementation, device="meta")
    out, h_n = model(torch.zeros(2, 5, 3, device="meta"))
    assert out.is_meta
    assert h_n.is_meta


TOKENS = torch.zeros(2, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Recurrent(0, 4), ValueError, "d_input must be at least 1, got 0"),
        (lambda: Recurrent(3, 0), ValueError, "d_hidden must be at least 1, got 0"),
        (lambda: Recurrent(3, 4, n_layers=0), ValueError, "n_layers must be at least 1, got 0"),
        (
            lambda: Recurrent(3, 4, cell="lstm"),
            ValueError,
            "cell is 'lstm'; choose 'elman' or 'gru'",
        ),
        (
            lambda: Recurrent(3, 4, implementation="fast"),
            ValueError,
            "implementation is 'fast'; choose 'fused' or 'explicit'",
        ),
        (
            lambda: Recurrent(3, 4)(torch.zeros(2, 5, 4)),
            ValueError,
            r"x must be \(..., T, 3\) with T at least 1, got \(2, 5, 4\)",
        ),
        (lambda: Recurrent(3, 4)(torch.zeros(2, 0, 3)), ValueError, r"got \(2, 0, 3\)"),
        (lambda: Recurrent(3, 4)(torch.zeros(3)), ValueError, r"got \(3,\)"),
        (
            lambda: Recurrent(3, 4, n_layers=2)(torch.zeros(2, 5, 3), torch.zeros(1, 2, 4)),
            ValueError,
            r"h_0 must be \(2, 2, 4\), got \(1, 2, 4\)",
        ),
        (
            lambda: Recurrent(3, 4)(torch.zeros(2, 5, 3), lengths=torch.tensor([5])),
            ValueError,
            r"lengths must be \(2,\), one a sequence, got \(1,\)",
        ),
        (
            lambda: Recurrent(3, 4)(torch.zeros(2, 5, 3), lengths=torch.tensor([5, 0])),
            ValueError,
            r"lengths must lie in 1\.\.T = 5, got 0\.\.5",
        ),
        (
            lambda: Recurrent(3, 4)(torch.zeros(2, 5, 3), lengths=torch.tensor([6, 1])),
            ValueError,
            r"lengths must lie in 1\.\.T = 5, got 1\.\.6",
        ),
        (lambda: FeedForwardLanguageModel(0, 3, 2, 5), ValueError, "vocab_size must be at least 1"),
        (lambda: FeedForwardLanguageModel(11, 0, 2, 5), ValueError, "window must be at least 1"),
        (lambda: FeedForwardLanguageModel(11, 3, 0, 5), ValueError, "d_embedding must be at least"),
        (lambda: FeedForwardLanguageModel(11, 3, 2, 0), ValueError, "d_hidden must be at least 1"),
        (lambda: RecurrentLanguageModel(0, 2, 5), ValueError, "vocab_size must be at least 1"),
        (lambda: RecurrentLanguageModel(11, 0, 5), ValueError, "d_embedding must be at least 1"),
        (
            lambda: SequenceClassifier(11, 0, 2, 5),
            ValueError,
            "n_classes must be at least 1, got 0",
        ),
        (lambda: SequenceClassifier(0, 3, 2, 5), ValueError, "vocab_size must be at least 1"),
        (lambda: SequenceClassifier(11, 3, 0, 5), ValueError, "d_embedding must be at least 1"),
        (lambda: TimeSeriesRegressor(0), ValueError, "d_hidden must be at least 1"),
        (
            lambda: TimeSeriesRegressor(5).loss(torch.zeros(3, 1)),
            ValueError,
            "at least 2 numbers, got 1",
        ),
        (
            lambda: TimeSeriesRegressor(5).forecast(torch.zeros(3), 0),
            ValueError,
            "n_steps must be at least 1, got 0",
        ),
        (
            lambda: RecurrentLanguageModel(3, 2, 5)(TOKENS + 3),
            IndexError,
            r"tokens must lie in 0\.\.2, got 3\.\.3",
        ),
        (
            lambda: FeedForwardLanguageModel(3, 2, 2, 5)(TOKENS - 1),
            IndexError,
            r"tokens must lie in 0\.\.2, got -1\.\.-1",
        ),
        (
            lambda: RecurrentLanguageModel(3, 2, 5)(torch.zeros(2, 4)),
            TypeError,
            "integer ids, got torch.float32",
        ),
        (
            lambda: SequenceClassifier(3, 2, 2, 5)(TOKENS.bool()),
            TypeError,
            "integer ids, got torch.bool",
        ),
        (
            lambda: SequenceClassifier(3, 2, 2, 5)(TOKENS.to(torch.cfloat)),
            TypeError,
            "integer ids, got torch.complex64",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@EACH_CELL
@WAYS
def test_the_gpu_computes_what_the_cpu_does(cell, bidirectional):
    x, lengths = randn(3, 6, 3, seed=60), torch.tensor([4, 1, 6])
    model = recurrent(cell, n_layers=2, bidirectional=bidirectional)
    expected = model(x, lengths=lengths)
    model.cuda()
    for implementation in ("fused", "explicit"):
        model.implementation = implementation
        out = model(x.cuda(), lengths=lengths.cuda())
        assert_close(out[0].cpu(), expected[0])
        assert_close(out[1].cpu(), expected[1])
