"""Encoder-decoders against loops of one step, by enumeration, and by what attention makes possible."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from llmr_ref.seq2seq import Seq2Seq, additive_scores

ATTENTIONS = [None, "additive", "dot"]
EACH = pytest.mark.parametrize("attention", ATTENTIONS)
ATTENDING = pytest.mark.parametrize("attention", ["additive", "dot"])
DOUBLE = torch.float64


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=DOUBLE)


def randint(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def seq2seq(attention, **options):
    """7 source and 5 target tokens; weights of size 0.5, biases included."""
    model = Seq2Seq(7, 5, 3, 6, attention=attention, dtype=DOUBLE, **options)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=i) * 0.5)
    return model


# --- scores -------------------------------------------------------------------------------------


def test_additive_scores_are_the_formula_of_every_pair():
    Q, K = randn(2, 4, 3), randn(2, 5, 6, seed=1)
    W_Q, W_K, v = randn(7, 3, seed=2), randn(7, 6, seed=3), randn(7, seed=4)
    e = additive_scores(Q, K, W_Q, W_K, v)
    assert e.shape == (2, 4, 5)
    for b, t, i in itertools.product(range(2), range(4), range(5)):
        assert_close(e[b, t, i], v @ torch.tanh(W_Q @ Q[b, t] + W_K @ K[b, i]))
    assert torch.equal(additive_scores(Q[0], K[0], W_Q, W_K, v), e[0])


@ATTENDING
def test_attention_is_scores_softmax_and_a_weighted_sum(attention):
    model = seq2seq(attention)
    source, inputs = randint(7, 4, 5), randint(5, 4, 3, seed=1)
    encoded = model.encode(source)
    logits, _, trace = model.decode(inputs, encoded)
    states, _ = model.decoder(model.target_embedding(inputs), encoded.h)
    for b, t in itertools.product(range(4), range(3)):
        s, h = states[b, t], encoded.states[b]
        if attention == "dot":
            e = torch.stack([s @ h_i for h_i in h])
        else:
            W_Q, W_K, v = model.score_query, model.score_key, model.score_v
            e = torch.stack([v(torch.tanh(W_Q(s) + W_K(h_i)))[0] for h_i in h])
        alpha = e.exp() / e.exp().sum()
        c = sum(a * h_i for a, h_i in zip(alpha, h, strict=True))
        assert_close(trace.e[b, t], e)
        assert_close(trace.alpha[b, t], alpha)
        assert_close(trace.c[b, t], c)
        assert_close(logits[b, t], model.output(torch.tanh(model.mix(torch.cat([s, c])))))


def test_without_attention_the_last_state_is_all_there_is():
    model = seq2seq(None, n_layers=2)
    source, inputs = randint(7, 4, 5), randint(5, 4, 3, seed=1)
    encoder, decoder = model.encoder.rnn, model.decoder.rnn
    assert isinstance(encoder, nn.GRU)
    _, h_n = encoder(model.source_embedding(source))
    states, h = decoder(model.target_embedding(inputs), h_n)
    logits, h_ours, trace = model.decode(inputs, model.encode(source))
    assert_close(logits, model.output(states))
    assert_close(h_ours, h)
    assert trace is None


def test_both_directions_of_the_encoder_make_one_state():
    model = seq2seq("dot", bidirectional=True, n_layers=2)
    source = randint(7, 4, 5)
    encoded = model.encode(source)
    states, h_n = model.encoder.rnn(model.source_embedding(source))
    assert encoded.h.shape == (2, 4, 6)
    assert_close(encoded.states, states)
    for layer in range(2):
        assert_close(encoded.h[layer], torch.cat([h_n[2 * layer], h_n[2 * layer + 1]], dim=-1))
    # Of the last layer: forward at the end, backward at the beginning.
    assert_close(encoded.h[1], torch.cat([states[:, -1, :3], states[:, 0, 3:]], dim=-1))


# --- p(y | x) -----------------------------------------------------------------------------------

OPTIONS = [{}, {"bidirectional": True, "n_layers": 2}, {"cell": "elman"}]


@EACH
@pytest.mark.parametrize("options", OPTIONS)
def test_fused_equals_explicit(attention, options):
    fused = seq2seq(attention, **options)
    explicit = seq2seq(attention, implementation="explicit", **options)
    source, inputs = randint(7, 2, 2, 5), randint(5, 2, 2, 3, seed=1)
    lengths = torch.tensor([[5, 2], [1, 3]])
    logits = fused(source, inputs, lengths)
    assert logits.shape == (2, 2, 3, 5)
    assert_close(explicit(source, inputs, lengths), logits)
    assert explicit.encoder.implementation == explicit.decoder.implementation == "explicit"


@EACH
@pytest.mark.parametrize("options", OPTIONS)
def test_source_padding_changes_nothing(attention, options):
    model = seq2seq(attention, **options)
    source, inputs, lengths = randint(7, 3, 5), randint(5, 3, 4, seed=1), torch.tensor([2, 5, 1])
    logits, h, trace = model.decode(inputs, model.encode(source, lengths))
    for b, length in enumerate(lengths.tolist()):
        alone = model.decode(inputs[b], model.encode(source[b, :length]))
        assert_close(logits[b], alone[0])
        assert_close(h[:, b], alone[1])
        if attention:
            assert_close(trace.alpha[b, :, :length], alone[2].alpha)
            assert not trace.alpha[b, :, length:].any()


@EACH
def test_the_decoder_goes_on_from_its_state(attention):
    model = seq2seq(attention, n_layers=2)
    source, inputs = randint(7, 3, 5), randint(5, 3, 4, seed=1)
    encoded = model.encode(source)
    h, parts = None, []
    for t in range(4):
        logits, h, _ = model.decode(inputs[:, t : t + 1], encoded, h)
        parts.append(logits)
    assert_close(torch.cat(parts, dim=1), model(source, inputs))


@EACH
def test_probabilities_of_all_targets_of_a_length_sum_to_one(attention):
    model = seq2seq(attention)
    targets = torch.tensor(list(itertools.product(range(5), repeat=3)))
    source = randint(7, 4).expand(len(targets), 4)
    ln_p = model.log_probability(source, targets, bos=0)
    assert ln_p.shape == (125,)
    assert_close(ln_p.exp().sum().item(), 1.0)


@EACH
def test_log_probability_is_the_negative_cross_entropy_of_the_real_tokens(attention):
    model = seq2seq(attention)
    source, target = randint(7, 3, 5), randint(5, 3, 4, seed=1)
    source_lengths, target_lengths = torch.tensor([5, 3, 4]), torch.tensor([2, 4, 1])
    inputs = torch.cat([torch.full((3, 1), 4), target[:, :-1]], dim=1)
    logits = model(source, inputs, source_lengths)
    for lengths in (torch.tensor([4, 4, 4]), target_lengths):
        padded = target.masked_fill(torch.arange(4) >= lengths[:, None], -100)
        nll = F.cross_entropy(logits.mT, padded, reduction="none").sum(dim=1)
        ln_p = model.log_probability(
            source, target, bos=4, source_lengths=source_lengths, target_lengths=lengths
        )
        assert_close(ln_p, -nll)
    assert_close(
        model.log_probability(source, target, bos=4, source_lengths=source_lengths),
        -F.cross_entropy(logits.mT, target, reduction="none").sum(dim=1),
    )


@EACH
def test_leading_dimensions_are_free(attention):
    model = seq2seq(attention)
    source, target = randint(7, 2, 3, 1, 5), randint(5, 2, 3, 1, 4, seed=1)
    lengths, target_lengths = randint(5, 2, 3, 1) + 1, randint(4, 2, 3, 1, seed=2) + 1
    ln_p = model.log_probability(
        source, target, bos=0, source_lengths=lengths, target_lengths=target_lengths
    )
    flat = model.log_probability(
        source.view(6, 5),
        target.view(6, 4),
        bos=0,
        source_lengths=lengths.view(6),
        target_lengths=target_lengths.view(6),
    )
    assert ln_p.shape == (2, 3, 1)
    assert_close(ln_p.view(6), flat)
    greedy = model.greedy(source, bos=0, eos=99, max_length=4, source_lengths=lengths)
    alone = model.greedy(
        source[1, 2, 0], bos=0, eos=99, max_length=4, source_lengths=lengths[1, 2, 0]
    )
    assert greedy.shape == (2, 3, 1, 4)
    assert torch.equal(greedy[1, 2, 0], alone)


# --- decoding -----------------------------------------------------------------------------------


@EACH
def test_greedy_takes_the_best_token_at_every_step_and_stops_at_eos(attention):
    model = seq2seq(attention)
    with torch.no_grad():  # so that the sources decide, each otherwise
        model.source_embedding.weight *= 4
        model.output.bias.zero_()
    source, lengths = randint(7, 40, 5), randint(5, 40, seed=2) + 1
    endless = model.greedy(source, bos=0, eos=99, max_length=6, source_lengths=lengths)
    assert endless.shape == (40, 6)
    in_rows = [(endless == token).any(dim=1).sum().item() for token in range(5)]
    eos = min(range(5), key=lambda token: abs(in_rows[token] - 20))  # ends some, and not others
    assert 0 < in_rows[eos] < 40
    out = model.greedy(source, bos=0, eos=eos, max_length=6, source_lengths=lengths)
    for b in range(40):
        tokens = [0]
        while len(tokens) < 7 and (len(tokens) == 1 or tokens[-1] != eos):
            logits = model(source[b], torch.tensor(tokens), lengths[b])
            tokens.append(int(logits[-1].argmax()))
        assert out[b].tolist() == tokens[1:] + [eos] * (7 - len(tokens))


def test_greedy_is_no_longer_than_its_longest_sequence():
    model = seq2seq("dot")
    with torch.no_grad():
        model.output.bias[2] = 100.0
    out = model.greedy(randint(7, 2, 3, 5), bos=0, eos=2, max_length=6)
    assert out.tolist() == [[[2]] * 3] * 2
    assert not out.requires_grad


def test_attention_reverses_a_sequence_that_one_state_does_not_hold():
    exact = {attention: fraction_reversed(attention) for attention in ATTENTIONS}
    assert exact["additive"] > 0.3
    assert exact["dot"] > 0.5
    assert exact[None] < 0.2


def fraction_reversed(attention, V=8, T=7, steps=140):
    torch.manual_seed(0)
    model = Seq2Seq(V + 1, V + 1, 12, 24, attention=attention, bidirectional=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(1)

    def pairs(n):
        source = torch.randint(1, V + 1, (n, T), generator=generator)
        return source, source.flip(1)

    for _ in range(steps):
        source, target = pairs(32)
        loss = -model.log_probability(source, target, bos=0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    source, target = pairs(200)
    out = model.greedy(source, bos=0, eos=0, max_length=T)
    return (F.pad(out, (0, T - out.shape[1])) == target).all(dim=1).float().mean().item()


# --- shapes, devices, errors --------------------------------------------------------------------


@EACH
def test_gradients_reach_every_weight(attention):
    model = seq2seq(attention)
    model(randint(7, 3, 5), randint(5, 3, 4)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@EACH
def test_inputs_are_not_changed(attention):
    model = seq2seq(attention)
    source, target = randint(7, 3, 5), randint(5, 3, 4, seed=1)
    lengths = torch.tensor([5, 2, 3])
    model.log_probability(
        source, target, bos=0, source_lengths=lengths, target_lengths=torch.tensor([4, 1, 2])
    )
    model.greedy(source, bos=0, eos=1, max_length=3, source_lengths=lengths)
    assert torch.equal(source, randint(7, 3, 5))
    assert torch.equal(target, randint(5, 3, 4, seed=1))
    assert lengths.tolist() == [5, 2, 3]


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_lives_where_and_as_what_it_is_told(attention, dtype):
    model = Seq2Seq(7, 5, 3, 6, attention=attention, device="meta", dtype=dtype)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", dtype)}
    tokens = torch.zeros(2, 4, dtype=torch.int64, device="meta")
    logits = model(tokens, tokens)
    assert logits.is_meta
    assert logits.dtype == dtype
    here = Seq2Seq(7, 5, 3, 6, attention=attention, dtype=dtype)
    assert here(randint(7, 2, 4), randint(5, 2, 3)).dtype == dtype


def test_attention_is_additive_and_one_way_unless_told():
    model = Seq2Seq(7, 5, 3, 6)
    assert model.attention == "additive"
    assert model.encoder.n_directions == 1
    assert model.encoder.cell == model.decoder.cell == "gru"


SOURCE = torch.zeros(2, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Seq2Seq(7, 5, 3, 6, attention="cosine"),
            ValueError,
            "attention is 'cosine'; choose 'additive' or 'dot' or None",
        ),
        (lambda: Seq2Seq(7, 5, 3, 5, bidirectional=True), ValueError, "must be even; got 5"),
        (lambda: Seq2Seq(0, 5, 3, 6), ValueError, "source_vocab_size must be at least 1, got 0"),
        (lambda: Seq2Seq(7, 0, 3, 6), ValueError, "target_vocab_size must be at least 1, got 0"),
        (lambda: Seq2Seq(7, 5, 0, 6), ValueError, "d_embedding must be at least 1, got 0"),
        (lambda: Seq2Seq(7, 5, 3, 0), ValueError, "d_hidden must be at least 1, got 0"),
        (lambda: Seq2Seq(7, 5, 3, 6)(SOURCE + 7, SOURCE), IndexError, r"0\.\.6, got 7\.\.7"),
        (lambda: Seq2Seq(7, 5, 3, 6)(SOURCE, SOURCE + 5), IndexError, r"0\.\.4, got 5\.\.5"),
        (lambda: Seq2Seq(7, 5, 3, 6)(SOURCE.float(), SOURCE), TypeError, "integer ids, got"),
        (
            lambda: Seq2Seq(7, 5, 3, 6)(SOURCE, SOURCE, torch.tensor([4, 5])),
            ValueError,
            r"lengths must lie in 1\.\.T = 4, got 4\.\.5",
        ),
        (
            lambda: Seq2Seq(7, 5, 3, 6).log_probability(
                SOURCE, SOURCE, bos=0, target_lengths=torch.tensor([0, 4])
            ),
            ValueError,
            r"lengths must lie in 1\.\.T = 4, got 0\.\.4",
        ),
        (
            lambda: Seq2Seq(7, 5, 3, 6).greedy(SOURCE, bos=0, eos=1, max_length=0),
            ValueError,
            "max_length must be at least 1, got 0",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@EACH
def test_the_gpu_computes_what_the_cpu_does(attention):
    model = seq2seq(attention, bidirectional=True)
    source, inputs, lengths = randint(7, 3, 5), randint(5, 3, 4, seed=1), torch.tensor([2, 5, 1])
    expected = model(source, inputs, lengths)
    greedy = model.greedy(source, bos=0, eos=1, max_length=4)
    model.cuda()
    assert_close(model(source.cuda(), inputs.cuda(), lengths.cuda()).cpu(), expected)
    assert torch.equal(model.greedy(source.cuda(), bos=0, eos=1, max_length=4).cpu(), greedy)
    assert math.isfinite(model.log_probability(source.cuda(), inputs.cuda(), bos=0).sum().item())
