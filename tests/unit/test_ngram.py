"""n-gram estimates against plain recursions over dictionaries, by hand, and by their promises."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from llmr_ref.data import CharTokenizer, WordTokenizer, shakespeare
from llmr_ref.grammar import ProbabilisticGrammar
from llmr_ref.ngram import NGramModel, bits_per_byte, bits_per_character, perplexity

ESTIMATES = ["add-k", "witten-bell", "kneser-ney"]
EVERY = pytest.mark.parametrize("estimate", ESTIMATES)
V = 4
TEXTS = st.lists(st.integers(0, V - 1), min_size=4, max_size=40)
CONTEXTS = st.lists(st.integers(0, V - 1), max_size=5)


class Plain:
    """The same estimates, one formula a method, over a dictionary of every m-gram's count."""

    def __init__(self, text, n, vocab_size, k=1.0):
        self.n, self.V, self.k = n, vocab_size, k
        self.c = Counter(
            tuple(text[i : i + m]) for m in range(1, n + 1) for i in range(len(text) - m + 1)
        )

    def add_k(self, h, w):
        h = h[max(0, len(h) - self.n + 1) :]
        followed = sum(self.c[(*h, v)] for v in range(self.V))
        return (self.c[(*h, w)] + self.k) / (followed + self.k * self.V)

    def witten_bell(self, h, w):
        return self._interpolate(h, w, lambda gram: self.c[gram], self._witten_bell)

    def _witten_bell(self, count, total, types, lower, order):
        return (count + types * lower) / (total + types)

    def kneser_ney(self, h, w):
        def weight(gram):
            if len(gram) == self.n:
                return self.c[gram]
            return sum(self.c[(v, *gram)] > 0 for v in range(self.V))

        def discount(m):
            values = [weight(g) for g in itertools.product(range(self.V), repeat=m)]
            n1, n2 = values.count(1), values.count(2)
            return n1 / (n1 + 2 * n2) if n1 > 0 and n2 > 0 else 0.5

        def estimate(count, total, types, lower, m):
            D = discount(m)
            return max(count - D, 0) / total + D * types / total * lower

        return self._interpolate(h, w, weight, estimate)

    def _interpolate(self, h, w, weight, estimate):
        h = h[max(0, len(h) - self.n + 1) :]
        p = 1 / self.V
        for m in range(1, len(h) + 2):
            end = tuple(h[len(h) - m + 1 :])
            weights = [weight((*end, v)) for v in range(self.V)]
            if total := sum(weights):
                p = estimate(weights[w], total, sum(x > 0 for x in weights), p, m)
        return p


def plain(text, n, estimate, k=1.0):
    return getattr(Plain(text, n, V, k), estimate.replace("-", "_"))


# --- estimates ----------------------------------------------------------------------------------


@EVERY
@settings(max_examples=40)
@given(text=TEXTS, n=st.integers(1, 4), context=CONTEXTS, k=st.sampled_from([0.3, 1.0, 2.5]))
def test_probabilities_equal_the_plain_recursion(estimate, text, n, context, k):
    model = NGramModel(text, n, estimate=estimate, k=k, vocab_size=V)
    expected = [plain(text, n, estimate, k)(context, w) for w in range(V)]
    p = model.probabilities(context)
    assert p.dtype == torch.float64
    assert_close(p, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@EVERY
@settings(max_examples=40)
@given(text=TEXTS, n=st.integers(1, 6), context=CONTEXTS)
def test_probabilities_are_positive_and_sum_to_one(estimate, text, n, context):
    n = min(n, len(text))
    p = NGramModel(text, n, estimate=estimate, vocab_size=V + 2).probabilities(context)
    assert p.shape == (V + 2,)
    assert (p > 0).all()
    assert_close(p.sum().item(), 1.0, rtol=1e-12, atol=0)


@EVERY
@settings(max_examples=40)
@given(text=TEXTS, n=st.integers(1, 4), sequence=CONTEXTS)
def test_a_sequence_is_the_product_of_its_tokens(estimate, text, n, sequence):
    model = NGramModel(text, n, estimate=estimate, vocab_size=V)
    ln_p = model.log_probabilities(sequence)
    expected = [model.probabilities(sequence[:i])[w].log() for i, w in enumerate(sequence)]
    assert ln_p.dtype == torch.float64
    assert_close(ln_p.tolist(), [x.item() for x in expected], rtol=1e-12, atol=1e-15)
    assert_close(model.log_probability(sequence), sum(ln_p.tolist(), 0.0), rtol=1e-12, atol=1e-15)


@EVERY
def test_probabilities_of_all_strings_of_a_length_sum_to_one(estimate):
    text = ProbabilisticGrammar().sample(5, seed=0)
    ids = [id % 3 for id in CharTokenizer.from_text("".join(text)).encode("".join(text))]
    model = NGramModel(ids, 3, estimate=estimate)
    total = sum(math.exp(model.log_probability(s)) for s in itertools.product(range(3), repeat=5))
    assert math.isclose(total, 1, rel_tol=1e-12)


@EVERY
def test_a_longer_text_equals_the_plain_recursion(estimate):
    text = shakespeare()[:3000]
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    model = NGramModel(text[:2700], 4, estimate=estimate, tokenizer=tokenizer)
    slow = Plain(ids[:2700], 4, tokenizer.vocab_size)
    if estimate == "kneser-ney":
        expected = [kneser_ney_of_a_text(slow, ids[2690 : 2690 + i]) for i in range(1, 60)]
    else:
        one = getattr(slow, estimate.replace("-", "_"))
        expected = [one(ids[2690 : 2690 + i - 1], ids[2690 + i - 1]) for i in range(1, 60)]
    ln_p = model.log_probabilities(text[2690:2749])
    assert_close(ln_p.exp().tolist(), expected, rtol=1e-11, atol=0)


def kneser_ney_of_a_text(slow, sequence):
    """Modified counts from sets of different m-grams: quicker than asking for every predecessor."""
    grams = {m: {g: c for g, c in slow.c.items() if len(g) == m} for m in range(1, slow.n + 1)}
    *h, w = sequence
    p = 1 / slow.V
    for m in range(1, min(slow.n, len(sequence)) + 1):
        weights = grams[m] if m == slow.n else Counter(g[1:] for g in grams[m + 1])
        frequency = Counter(weights.values())
        D = frequency[1] / (frequency[1] + 2 * frequency[2])
        end = tuple(h[len(h) - m + 1 :])
        after = {g: c for g, c in weights.items() if g[:-1] == end}
        if total := sum(after.values()):
            p = max(after.get((*end, w), 0) - D, 0) / total + D * len(after) / total * p
    return p


def test_kneser_ney_by_hand():
    # a a b a c: bigrams aa, ab, ba, ac once each, so n2 = 0 and D = 1/2.
    # Continuations: a after a and b (2), b after a (1), c after a (1); n1 = 2, n2 = 1: D = 1/2.
    model = NGramModel("aabac", 2, estimate="kneser-ney")
    a = (2 - 1 / 2) / 4 + (1 / 2) * 3 / 4 / 3
    b = (1 - 1 / 2) / 4 + (1 / 2) * 3 / 4 / 3
    assert_close(model.probabilities("").tolist(), [a, b, b])  # 0.5, 0.25, 0.25
    after_a = [(1 - 1 / 2) / 3 + (1 / 2) * 3 / 3 * lower for lower in (a, b, b)]
    assert_close(model.probabilities("a").tolist(), after_a)
    assert_close(model.probabilities("b").tolist(), [(1 - 1 / 2) + (1 / 2) * a, b / 2, b / 2])
    assert_close(model.probabilities("c").tolist(), [a, b, b])  # nothing ever followed c


def test_kneser_ney_counts_predecessors_where_witten_bell_counts_occurrences():
    # "Francisco" is frequent behind one word alone, so it is unlikely behind a new one.
    text = "San Francisco " * 6 + "red glasses blue glasses my glasses new cars"
    words = WordTokenizer.from_text(text)
    francisco, glasses = (words.symbols.index(w) for w in ("Francisco", "glasses"))
    kn, wb = (
        NGramModel(text, 2, estimate=e, tokenizer=words).probabilities("cars")
        for e in ("kneser-ney", "witten-bell")
    )
    assert kn[glasses] > kn[francisco]
    assert wb[glasses] < wb[francisco]


def test_witten_bell_by_hand():
    # a a b a c: a is followed by a, b, c once each; 5 unigrams of 3 types.
    model = NGramModel("aabac", 2)
    unigrams = [(c + 3 / 3) / (5 + 3) for c in (3, 1, 1)]
    assert_close(model.probabilities("").tolist(), unigrams)
    assert_close(model.probabilities("a").tolist(), [(1 + 3 * p) / (3 + 3) for p in unigrams])
    assert_close(model.probabilities("c").tolist(), unigrams)


def test_add_k_is_laplace_unless_told_and_the_relative_frequency_at_zero():
    text = "abracadabra"
    one, zero = (NGramModel(text, 2, estimate="add-k", **kw) for kw in ({}, {"k": 0}))
    assert_close(one.probabilities("a").tolist(), [1 / 9, 3 / 9, 2 / 9, 2 / 9, 1 / 9])
    assert_close(zero.probabilities("a").tolist(), [0.0, 2 / 4, 1 / 4, 1 / 4, 0.0])
    assert_close(zero.log_probability("abr"), math.log(5 / 11 * 2 / 4 * 1))
    assert zero.log_probability("ba") == -math.inf


def test_without_smoothing_a_context_that_nothing_follows_has_no_estimate():
    model = NGramModel("ab", 2, estimate="add-k", k=0)
    with pytest.raises(ValueError, match="context 'b' is never followed by anything, and k = 0"):
        model.probabilities("b")
    with pytest.raises(ValueError, match=r"context \[1\] is never followed"):
        NGramModel([0, 1], 2, estimate="add-k", k=0).probabilities([1])
    assert model.log_probabilities("aba").tolist() == [math.log(0.5), 0, -math.inf]


def test_witten_bell_is_the_estimate_unless_told():
    text = "abracadabra"
    assert_close(
        NGramModel(text, 3).log_probability(text),
        NGramModel(text, 3, estimate="witten-bell").log_probability(text),
        rtol=0,
        atol=0,
    )


@EVERY
def test_only_the_last_n_minus_1_tokens_matter(estimate):
    model = NGramModel("abracadabra", 3, estimate=estimate)
    assert torch.equal(model.probabilities("cbra"), model.probabilities("ra"))
    assert not torch.equal(model.probabilities("ra"), model.probabilities("a"))


def test_a_text_as_long_as_n_is_enough():
    model = NGramModel([2, 0, 1], 3)
    assert model.vocab_size == 3
    assert model.counts([2, 0]).tolist() == [0, 1, 0]


# --- counts -------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(text=TEXTS, n=st.integers(1, 4), context=CONTEXTS, estimate=st.sampled_from(ESTIMATES))
def test_counts_are_how_often_each_token_followed(text, n, context, estimate):
    context = context[: n - 1]
    counts = NGramModel(text, n, estimate=estimate, vocab_size=V).counts(context)
    L = len(context)
    follows = [text[i + L] for i in range(len(text) - L) if text[i : i + L] == context]
    assert counts.tolist() == [follows.count(w) for w in range(V)]
    assert counts.dtype == torch.int64


def test_i_visited_san_for_three_contexts():
    text = "I visited San Francisco . you visited San Diego . we left San Diego . San Jose is far ."
    words = WordTokenizer.from_text(text)
    for context, expected in (
        ("San", {"Diego": 2, "Francisco": 1, "Jose": 1}),
        ("visited San", {"Diego": 1, "Francisco": 1}),
        ("I visited San", {"Francisco": 1}),
    ):
        model = NGramModel(text, len(context.split()) + 1, tokenizer=words)
        counts = model.counts(context)
        assert {words.symbols[i]: int(counts[i]) for i in counts.nonzero()} == expected


def test_a_vocabulary_of_two_to_the_32_and_any_n_fit():
    ids = [2**32 - 1, 5, 2**32 - 2, 2**32 - 1, 5, 7, 2**31]
    model = NGramModel(ids, 7, vocab_size=2**32)
    small = {id: i for i, id in enumerate(sorted(set(ids)))}
    reduced = NGramModel([small[id] for id in ids], 7, vocab_size=2**32)
    expected = reduced.log_probabilities([small[id] for id in ids[2:]])
    assert torch.equal(model.log_probabilities(ids[2:]), expected)


# --- what comes out of a text -------------------------------------------------------------------


def test_longer_contexts_help_until_they_are_too_rare():
    """On 0.2 million characters the best n lies between; Kneser-Ney is best."""
    text = shakespeare()[-200_000:]
    tokenizer = CharTokenizer.from_text(text)
    ids = torch.tensor(tokenizer.encode(text))
    train, held_out = ids[:180_000], ids[180_000:]
    losses = {
        estimate: [
            -NGramModel(train, n, estimate=estimate, vocab_size=tokenizer.vocab_size)
            .log_probabilities(held_out)
            .mean()
            .item()
            for n in (1, 2, 4, 7)
        ]
        for estimate in ESTIMATES
    }
    wb, kn, add = (losses[e] for e in ("witten-bell", "kneser-ney", "add-k"))
    assert wb[0] > wb[1] > wb[2] < wb[3]
    assert kn[2] < wb[2] < add[2]
    assert kn[3] < wb[3] < add[3]


def test_the_loss_on_the_grammar_stays_above_its_entropy_and_comes_near():
    grammar = ProbabilisticGrammar()
    train, held_out = ("".join(grammar.sample(n, seed=n)) for n in (8000, 300))
    tokenizer = CharTokenizer.from_text(train)
    model = NGramModel(train, 7, tokenizer=tokenizer)
    loss = -model.log_probabilities(held_out).mean().item()
    strings = held_out.splitlines(keepends=True)
    least = -sum(map(grammar.log_probability, strings)) / len(held_out)
    assert least < loss < least * 1.35


# --- generation ---------------------------------------------------------------------------------


@EVERY
def test_generation_has_the_models_frequencies(estimate):
    model = NGramModel("abracadabra", 2, estimate=estimate)
    generator = torch.Generator().manual_seed(0)
    n = 700
    drawn = [model.generate(2, context="a", generator=generator) for _ in range(n)]
    after_a = model.probabilities("a")
    expected = [
        n * after_a[i].item() * model.probabilities([i])[j].item()
        for i in range(5)
        for j in range(5)
    ]
    observed = Counter(map(tuple, drawn))
    observed = [observed[(i, j)] for i in range(5) for j in range(5)]
    assert chisquare(observed, expected).pvalue > 1e-3


def test_temperature_sharpens_and_flattens():
    model = NGramModel("abracadabra", 1)
    p = model.probabilities("")
    for temperature in (0.5, 2.0):
        generator = torch.Generator().manual_seed(1)
        drawn = model.generate(1500, temperature=temperature, generator=generator)
        expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        observed = np.bincount(drawn, minlength=5)
        assert chisquare(observed, 1500 * expected.numpy()).pvalue > 1e-3
        assert chisquare(observed, 1500 * p.numpy()).pvalue < 1e-3


def test_temperature_zero_takes_the_most_probable_and_a_tiny_one_does_so_too():
    model = NGramModel("abracadabra", 3)
    greedy = model.generate(8, context="ab", temperature=0)
    assert model.tokenizer.decode(greedy[:3]) == "rac"
    assert model.generate(8, context="ab", temperature=1e-320) == greedy


def test_generation_repeats_with_the_generators_state():
    model = NGramModel(shakespeare()[:5000], 3)
    first, again, other = (
        model.generate(30, context="The ", generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(first) == 30
    assert model.generate(0) == []
    torch.manual_seed(4)
    unseeded = model.generate(10)
    torch.manual_seed(4)
    assert model.generate(10) == unseeded


def test_generation_never_does_what_has_probability_zero():
    text = "abracadabra"
    model = NGramModel(text + "b", 2, estimate="add-k", k=0)
    generator = torch.Generator().manual_seed(0)
    drawn = model.generate(200, context="a", temperature=3.0, generator=generator)
    pairs = {a + b for a, b in itertools.pairwise("a" + model.tokenizer.decode(drawn))}
    assert pairs == {a + b for a, b in itertools.pairwise(text + "b")}


# --- units --------------------------------------------------------------------------------------


@given(losses=st.lists(st.floats(0, 20), min_size=1, max_size=9))
def test_perplexity_is_the_inverse_geometric_mean_of_the_probabilities(losses):
    product = math.exp(-sum(losses))
    expected = product ** (-1 / len(losses)) if product > 0 else None
    value = perplexity(torch.tensor(losses, dtype=torch.float64))
    if expected:
        assert math.isclose(value, expected, rel_tol=1e-9)
    assert math.isclose(perplexity(sum(losses) / len(losses)), value, rel_tol=1e-12)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    logits, targets = torch.zeros(2, 3, 50), torch.zeros(2, 3, dtype=torch.int64)
    nll = cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    assert math.isclose(perplexity(nll), 50, rel_tol=1e-6)
    assert perplexity(torch.zeros(4)) == 1
    assert perplexity(1000.0) == math.inf


def test_bits_are_nats_over_ln_2_for_every_unit():
    text = "naïve"
    model = NGramModel(text * 3, 2)
    nll = -model.log_probabilities(text)
    bits = -nll.sum().item() / math.log(2)
    assert math.isclose(bits_per_character(nll.sum(), 5), -bits / 5)
    assert math.isclose(bits_per_byte(nll.sum().item(), len(text.encode())), -bits / 6)
    assert math.isclose(bits_per_byte(8 * math.log(256), 8), 8)
    assert math.isclose(bits_per_byte(math.log(2), 1), 1)
    assert math.isclose(bits_per_character(math.log(2), 1), 1)


# --- kinds of input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        lambda ids: np.array(ids, dtype=np.uint16),
        lambda ids: torch.tensor(ids, dtype=torch.int32),
        lambda ids: torch.tensor(ids).repeat_interleave(2)[::2],
    ],
)
def test_every_kind_of_sequence_gives_the_same(kind):
    ids = [0, 1, 4, 0, 2, 0, 3, 0, 1, 4, 0]
    expected = NGramModel("abracadabra", 3)
    given = kind(ids)
    model = NGramModel(given, 3)
    assert torch.equal(model.probabilities(kind([0, 1])), expected.probabilities("ab"))
    assert model.log_probability(kind(ids)) == expected.log_probability("abracadabra")
    assert list(map(int, given)) == ids


def test_counts_live_on_the_device_asked_for():
    model = NGramModel("abracadabra", 2, device="cpu")
    assert model.device == torch.device("cpu")
    with pytest.raises(RuntimeError, match="device"):
        NGramModel("abracadabra", 2, device="nowhere")


def test_an_empty_sequence_has_probability_one():
    model = NGramModel("abracadabra", 3)
    assert model.log_probability("") == model.log_probability([]) == 0
    assert model.log_probabilities(torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: NGramModel("abc", 0), ValueError, "n must be at least 1, got 0"),
        (lambda: NGramModel("abc", 4), ValueError, "n = 4 needs at least 4 tokens, got 3"),
        (lambda: NGramModel("", 1), ValueError, "at least 1 tokens, got 0"),
        (lambda: NGramModel([], 1), ValueError, "at least 1 tokens, got 0"),
        (lambda: NGramModel("abc", 2, k=-0.1), ValueError, r"k must be at least 0.*got -0\.1"),
        (lambda: NGramModel("abc", 2, k=math.nan), ValueError, "k must be at least 0.*got nan"),
        (lambda: NGramModel("abc", 2, k=math.inf), ValueError, "finite, got inf"),
        (lambda: NGramModel("abc", 2, estimate="katz"), ValueError, "estimate is 'katz'; choose"),
        (lambda: NGramModel([0, 3], 1, vocab_size=3), ValueError, r"0\.\.2, got 3"),
        (lambda: NGramModel([0, -1], 1), ValueError, r"ids must lie in 0\.\.inf, got -1"),
        (lambda: NGramModel([0.5, 1.0], 1), TypeError, "integer ids, got torch.float32"),
        (lambda: NGramModel(torch.ones(2, dtype=torch.bool), 1), TypeError, "got torch.bool"),
        (lambda: NGramModel(torch.ones(2, dtype=torch.cfloat), 1), TypeError, "torch.complex64"),
        (lambda: NGramModel([[0, 1]], 1), ValueError, r"one sequence, \(N,\), got \(1, 2\)"),
        (lambda: NGramModel("abc", 2).probabilities("x"), ValueError, "symbol 0 of the text, 'x'"),
        (lambda: NGramModel("abc", 2).probabilities([3]), ValueError, r"0\.\.2, got 3"),
        (lambda: NGramModel("abc", 2).log_probability([-1]), ValueError, r"0\.\.2, got -1"),
        (lambda: NGramModel([0, 1], 2).probabilities("a"), TypeError, "give it a tokenizer"),
        (lambda: NGramModel("abc", 2).counts("ab"), ValueError, "1 tokens at most, got 2"),
        (lambda: NGramModel("abc", 2).generate(-1), ValueError, "n_tokens must be at least 0"),
        (
            lambda: NGramModel("abc", 2).generate(1, temperature=-1.0),
            ValueError,
            r"temperature must be at least 0, got -1\.0",
        ),
        (
            lambda: NGramModel("abc", 2).generate(1, temperature=math.nan),
            ValueError,
            "temperature must be at least 0, got nan",
        ),
        (lambda: perplexity(torch.zeros(0)), ValueError, "at least one loss"),
        (lambda: bits_per_byte(1.0, 0), ValueError, "n_bytes must be at least 1, got 0"),
        (lambda: bits_per_character(1.0, 0), ValueError, "n_characters must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@EVERY
def test_the_gpu_counts_as_the_cpu_does(estimate):
    text = shakespeare()[:20_000]
    ids = torch.tensor(CharTokenizer.from_text(text).encode(text))
    cpu = NGramModel(ids, 4, estimate=estimate)
    for gpu in (
        NGramModel(ids, 4, estimate=estimate, device="cuda"),
        NGramModel(ids.cuda(), 4, estimate=estimate),
    ):
        ln_p = gpu.log_probabilities(ids[:500])
        assert ln_p.is_cuda
        assert_close(ln_p.cpu(), cpu.log_probabilities(ids[:500]))
        assert gpu.probabilities(ids[:3]).is_cuda
        generator = torch.Generator("cuda").manual_seed(0)
        assert len(gpu.generate(5, generator=generator)) == 5
