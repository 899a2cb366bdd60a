"""Sinusoidal, learned, T5's and ALiBi's positions against `transformers` and closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import T5Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
from transformers.models.t5.modeling_t5 import T5Attention

from llmr_ref.attention import attention_weights
from llmr_ref.masks import causal_mask
from llmr_ref.positions import (
    SCHEMES,
    LearnedPositions,
    RelativeBias,
    alibi_bias,
    alibi_slopes,
    relative_buckets,
    relative_positions,
    sinusoidal_encoding,
)

EVEN = st.integers(1, 8).map(lambda pairs: 2 * pairs)
BASES = st.sampled_from([10.0, 100.0, 10_000.0])
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ODD_POSITIONS = torch.tensor([[7, 0, 3], [100, 7, 41]])  # unordered, repeated, a batch
BUCKETS = [(32, 128), (64, 256), (8, 20), (34, 100), (4, 64), (32, 17)]


def randn(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# --- which scheme does what ---------------------------------------------------------------------


def test_the_lectures_table_of_schemes():
    # L4 "Visual comparison": where each acts, and whether it is learned.
    table = {
        "sinusoidal": ("input", False),
        "learned": ("input", True),
        "t5": ("scores", True),
        "rope": ("queries and keys", False),
    }
    for name, (acts_on, learned) in table.items():
        assert (SCHEMES[name].acts_on, SCHEMES[name].learned) == (acts_on, learned)


def test_schemes_are_as_they_say():
    modules = {
        "learned": LearnedPositions(6, 4),
        "t5": RelativeBias(4, bidirectional=False),
    }
    assert {name for name, scheme in SCHEMES.items() if scheme.learned} == set(modules)
    for module in modules.values():
        assert all(parameter.requires_grad for parameter in module.parameters())
        assert list(module.parameters())
    assert {name for name, scheme in SCHEMES.items() if not scheme.any_length} == {"learned"}
    for name, scheme in SCHEMES.items():
        # What is added to the input is there once; what acts on attention acts in every layer.
        assert scheme.every_layer == (scheme.acts_on not in ("input", "nothing")), name
    assert SCHEMES["alibi"].acts_on == "scores"
    assert SCHEMES["none"].acts_on == "nothing"


# --- sinusoidal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 6, 64])
def test_sinusoids_are_those_of_transformers(d):
    table = torch.empty(600, d)
    create_sinusoidal_embeddings(600, d, table)
    positions = torch.tensor([[5, 3, 0, 599], [44, 2, 9, 250]])
    # Theirs are float64 sines rounded to float32, as ours: the angles differ by 600 * 2^-52 at most.
    assert_close(sinusoidal_encoding(positions, d), table[positions], rtol=0, atol=2**-23)


@given(
    positions=st.lists(st.integers(-5000, 5000), min_size=1, max_size=5),
    d=EVEN,
    base=BASES,
)
def test_sinusoids_are_the_formula(positions, d, base):
    out = sinusoidal_encoding(torch.tensor(positions), d, base, dtype=torch.float64)
    expected = [
        [f(pos / base ** (2 * i / d)) for i in range(d // 2) for f in (math.sin, math.cos)]
        for pos in positions
    ]
    # Angles of up to 5000 are rounded twice.
    assert_close(out, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=5000 * 2**-51)


@given(p=st.integers(-500, 500), q=st.integers(-500, 500), shift=st.integers(-500, 500), d=EVEN)
def test_dot_products_of_sinusoids_depend_on_the_distance_alone(p, q, shift, d):
    def dot(p, q):
        a, b = sinusoidal_encoding(torch.tensor([p, q]), d, dtype=torch.float64)
        return (a @ b).item()

    assert dot(p, q) == pytest.approx(dot(p + shift, q + shift), abs=1e-11)
    closed = sum(math.cos((p - q) / 10_000 ** (2 * i / d)) for i in range(d // 2))
    assert dot(p, q) == pytest.approx(closed, abs=1e-11)


def test_the_nearest_positions_have_the_largest_dot_products():
    # L1: "closer words get higher dot products by default"; true of the first few positions.
    encoding = sinusoidal_encoding(torch.arange(20), 64, dtype=torch.float64)
    by_distance = encoding @ encoding[0]
    assert (by_distance[:5].diff() < 0).all()
    assert by_distance.argmax() == 0


@pytest.mark.parametrize("dtype", FLOATS)
def test_sinusoids_are_rounded_once_to_the_dtype_asked_for(dtype):
    positions = torch.tensor([0, 99_999])
    out = sinusoidal_encoding(positions, 16, dtype=dtype)
    assert out.dtype == dtype
    assert torch.equal(out, sinusoidal_encoding(positions, 16, dtype=torch.float64).to(dtype))
    assert sinusoidal_encoding(positions, 16).dtype == torch.float32


def test_sinusoids_live_with_their_positions():
    out = sinusoidal_encoding(ODD_POSITIONS.to("meta"), 8)
    assert out.is_meta
    assert out.shape == (2, 3, 8)


# --- learned ------------------------------------------------------------------------------------


def test_a_learned_position_is_a_row_of_the_table():
    table = LearnedPositions(101, 4)
    assert [name for name, _ in table.named_parameters()] == ["weight"]
    assert table.weight.shape == (101, 4)
    out = table(ODD_POSITIONS)
    for b in range(2):
        for t in range(3):
            assert torch.equal(out[b, t], table.weight[ODD_POSITIONS[b, t]])
    assert torch.equal(table(torch.tensor(100)), table.weight[100])
    assert table(torch.empty(2, 0, dtype=torch.long)).shape == (2, 0, 4)
    assert LearnedPositions(1, 1)(torch.tensor([0, 0])).shape == (2, 1)


def test_only_positions_that_occur_get_a_gradient():
    table = LearnedPositions(6, 4, dtype=torch.float64)
    table(torch.tensor([4, 1, 4])).sum().backward()
    assert table.weight.grad.sum(-1).tolist() == [0, 4, 0, 0, 8, 0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_learned_positions_have_the_dtype_and_device_asked_for(dtype):
    assert LearnedPositions(6, 4, dtype=dtype)(torch.tensor([5])).dtype == dtype
    table = LearnedPositions(6, 4, device="meta", dtype=dtype)
    assert table(torch.tensor([5], device="meta")).is_meta


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_learned_positions_may_be_any_integers(kind):
    table = LearnedPositions(6, 4)
    assert torch.equal(table(torch.tensor([5, 0], dtype=kind)), table.weight[[5, 0]])


def test_learned_positions_compile_to_one_graph():
    table = LearnedPositions(6, 4)
    torch._dynamo.reset()
    compiled = torch.compile(table, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.tensor([5, 0])), table.weight[[5, 0]])


# --- T5's relative bias -------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("n_buckets", "max_distance"), BUCKETS)
def test_buckets_are_those_of_transformers(bidirectional, n_buckets, max_distance):
    relative = torch.arange(-3000, 3000)
    expected = T5Attention._relative_position_bucket(
        relative, bidirectional, n_buckets, max_distance
    )
    ours = relative_buckets(
        relative, bidirectional=bidirectional, n_buckets=n_buckets, max_distance=max_distance
    )
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_there_are_32_buckets_up_to_a_distance_of_128_unless_told(bidirectional):
    relative = torch.arange(-300, 300)
    expected = T5Attention._relative_position_bucket(relative, bidirectional, 32, 128)
    assert torch.equal(relative_buckets(relative, bidirectional=bidirectional), expected)
    bias = RelativeBias(3, bidirectional=bidirectional)
    assert bias.buckets.weight.shape == (32, 3)
    out = bias(torch.tensor([300]), torch.arange(600))
    back = T5Attention._relative_position_bucket(torch.arange(600) - 300, bidirectional, 32, 128)
    assert torch.equal(out[:, 0], bias.buckets.weight[back].T)


@given(
    n_buckets=st.integers(2, 20).map(lambda n: 2 * n),
    beyond=st.integers(1, 200),
    bidirectional=st.booleans(),
)
def test_buckets_grow_with_distance_and_split_the_sides(n_buckets, beyond, bidirectional):
    one_side = n_buckets // 2 if bidirectional else n_buckets
    exact = one_side // 2
    options = dict(bidirectional=bidirectional, n_buckets=n_buckets, max_distance=exact + beyond)
    back = relative_buckets(-torch.arange(500), **options)
    ahead = relative_buckets(torch.arange(1, 500), **options)
    assert (back.diff() >= 0).all()
    assert back[:exact].tolist() == list(range(exact))  # a bucket each
    assert back[exact] == exact
    assert (back[exact + beyond :] == one_side - 1).all()
    if bidirectional:
        assert torch.equal(ahead, back[1:] + one_side)
    else:
        assert (ahead == 0).all()


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("past", [0, 5])
def test_the_bias_is_that_of_transformers(decoder, past):
    config = T5Config(
        d_model=12,
        d_kv=4,
        num_heads=3,
        is_decoder=decoder,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
    )
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = RelativeBias(3, bidirectional=not decoder, n_buckets=8, max_distance=20)
    ours.buckets.load_state_dict(theirs.relative_attention_bias.state_dict())
    T, S = 4, 40
    expected = theirs.compute_bias(T, S, past_seen_tokens=past)[0]
    out = ours(torch.arange(past, past + T), torch.arange(S))
    assert out.shape == (3, T, S)
    assert torch.equal(out, expected)


def test_every_sequence_of_a_batch_has_its_own_bias():
    bias = RelativeBias(3, bidirectional=True, n_buckets=8, max_distance=20)
    queries, keys = ODD_POSITIONS, torch.tensor([[1, 50, 2, 7], [0, 90, 41, 8]])
    out = bias(queries, keys)
    assert out.shape == (2, 3, 3, 4)
    for b in range(2):
        assert torch.equal(out[b], bias(queries[b], keys[b]))


def test_the_gradient_of_a_bucket_counts_its_pairs():
    bias = RelativeBias(2, bidirectional=False, n_buckets=4, max_distance=8, dtype=torch.float64)
    bias(torch.arange(3), torch.arange(3)).sum().backward()
    # Distances 0 (and what comes after), 1, 2: 3 + 3, 2 and 1 of the nine pairs.
    assert bias.buckets.weight.grad.tolist() == [[6, 6], [2, 2], [1, 1], [0, 0]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_bias_has_the_dtype_and_device_asked_for(dtype):
    positions = torch.arange(5)
    assert RelativeBias(2, bidirectional=True, dtype=dtype)(positions, positions).dtype == dtype
    bias = RelativeBias(2, bidirectional=True, device="meta", dtype=dtype)
    assert bias(positions.to("meta"), positions.to("meta")).is_meta


# --- ALiBi --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_heads", [*range(1, 34), 71, 112])
def test_slopes_are_blooms(n_heads):
    # Bloom's bias of key 1 is its slope: it adds slope * key, which differs by a constant per query.
    bloom = build_alibi_tensor(torch.ones(1, 2), n_heads, torch.float32)[:, 0, 1]
    slopes = alibi_slopes(n_heads)
    assert slopes.dtype == torch.float32
    assert_close(slopes, bloom, rtol=8 * 2**-23, atol=0)  # powers by repeated rounding


@pytest.mark.parametrize("n_heads", [1, 2, 4, 8, 16, 64])
def test_slopes_of_a_power_of_two_are_a_geometric_sequence_down_to_one_256th(n_heads):
    slopes = alibi_slopes(n_heads, dtype=torch.float64)
    expected = [2 ** (-8 * i / n_heads) for i in range(1, n_heads + 1)]
    assert_close(slopes, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)
    assert slopes[-1] == 2**-8


def test_the_papers_slopes_of_8_heads():
    assert alibi_slopes(8).tolist() == [1 / 2**i for i in range(1, 9)]


@given(
    n_heads=st.integers(1, 12),
    queries=st.lists(st.integers(-50, 500), min_size=1, max_size=4),
    keys=st.lists(st.integers(-50, 500), min_size=1, max_size=5),
)
def test_alibi_is_minus_slope_times_distance(n_heads, queries, keys):
    bias = alibi_bias(n_heads, torch.tensor(queries), torch.tensor(keys))
    slopes = alibi_slopes(n_heads).tolist()
    expected = [[[-m * abs(q - k) for k in keys] for q in queries] for m in slopes]
    assert_close(bias, torch.tensor(expected), rtol=2**-23, atol=0)


@pytest.mark.parametrize("n_heads", [4, 6])
def test_causal_attention_with_alibi_is_blooms(n_heads):
    T = 7
    Q, K = randn(n_heads, T, 4, seed=0), randn(n_heads, T, 4, seed=1)
    bloom = build_alibi_tensor(torch.ones(1, T), n_heads, torch.float64)  # (h, 1, T)
    positions = torch.arange(40, 40 + T)  # only distances count
    ours = alibi_bias(n_heads, positions, positions, dtype=torch.float64)
    weights = [attention_weights(Q, K, causal_mask(T), bias=b) for b in (ours, bloom.double())]
    assert_close(*weights, rtol=0, atol=1e-6)  # Bloom's slopes are float32
    assert not torch.allclose(weights[0], attention_weights(Q, K, causal_mask(T)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_alibi_has_the_dtype_asked_for_and_rounds_once(dtype):
    queries, keys = torch.tensor([900, 2]), torch.tensor([1, 30, 901])
    bias = alibi_bias(5, queries, keys, dtype=dtype)
    assert bias.dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(bias, alibi_bias(5, queries, keys, dtype=wide).to(dtype))
    assert alibi_bias(5, queries, keys).dtype == torch.float32
    assert alibi_slopes(5, dtype=dtype).dtype == dtype


def test_alibi_in_float64_is_exact():
    bias = alibi_bias(6, torch.tensor([9]), torch.tensor([2]), dtype=torch.float64)
    expected = [-7 * 2.0**-e for e in (2, 4, 6, 8, 1, 3)]
    assert bias.flatten().tolist() == expected


def test_alibi_of_a_batch_is_per_sequence():
    keys = torch.tensor([[1, 50, 2, 7], [0, 90, 41, 8]])
    out = alibi_bias(3, ODD_POSITIONS, keys)
    assert out.shape == (2, 3, 3, 4)
    for b in range(2):
        assert torch.equal(out[b], alibi_bias(3, ODD_POSITIONS[b], keys[b]))


def test_alibi_lives_with_its_positions():
    at = torch.arange(4, device="meta")
    assert alibi_bias(3, at, at).is_meta
    assert alibi_slopes(3, device="meta").is_meta


# --- caches -------------------------------------------------------------------------------------


def test_relative_positions_are_key_minus_query():
    out = relative_positions(torch.tensor([5, 1]), torch.tensor([0, 5, 9]))
    assert out.tolist() == [[-5, 0, 4], [-1, 4, 8]]


@given(T=st.integers(1, 6), past=st.integers(0, 6), scheme=st.sampled_from(["t5", "alibi"]))
def test_the_last_queries_alone_get_the_last_rows(T, past, scheme):
    keys = torch.arange(past + T)
    module = RelativeBias(3, bidirectional=False, n_buckets=4, max_distance=8)
    bias = module if scheme == "t5" else lambda queries, keys: alibi_bias(3, queries, keys)
    assert torch.equal(bias(keys[past:], keys), bias(keys, keys)[:, past:])


def test_what_is_added_to_the_input_continues_after_a_cache():
    positions, learned = torch.arange(6), LearnedPositions(6, 4)
    for encode in (learned, lambda at: sinusoidal_encoding(at, 4)):
        assert torch.equal(encode(positions)[4:], encode(positions[4:]))


def test_no_input_is_changed():
    queries, keys = ODD_POSITIONS.clone(), torch.tensor([3, 1, 200])
    sinusoidal_encoding(queries, 4)
    LearnedPositions(101, 4)(queries)
    RelativeBias(2, bidirectional=True)(queries, keys)
    relative_buckets(keys, bidirectional=False)
    alibi_bias(2, queries, keys)
    assert torch.equal(queries, ODD_POSITIONS)
    assert keys.tolist() == [3, 1, 200]


# --- errors name the value ----------------------------------------------------------------------

AT = torch.arange(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sinusoidal_encoding(AT, 5), ValueError, "got d = 5"),
        (lambda: sinusoidal_encoding(AT, 4, -1.0), ValueError, r"base must be .* got -1\.0"),
        (lambda: LearnedPositions(0, 4), ValueError, "at least 1, got 0 and 4"),
        (lambda: LearnedPositions(4, 0), ValueError, "at least 1, got 4 and 0"),
        (
            lambda: LearnedPositions(3, 4)(torch.tensor([0, 3])),
            ValueError,
            r"position 3 has no vector: max_length = 3 allows 0\.\.2",
        ),
        (lambda: LearnedPositions(3, 4)(AT - 1), ValueError, "position -1 has no vector"),
        (lambda: LearnedPositions(3, 4)(AT.float()), TypeError, r"positions .* torch\.float32"),
        (lambda: LearnedPositions(3, 4)(AT > 1), TypeError, r"positions .* torch\.bool"),
        (lambda: RelativeBias(0, bidirectional=True), ValueError, "n_heads .* got 0"),
        (
            lambda: RelativeBias(2, bidirectional=True, n_buckets=7),
            ValueError,
            "an even number, at least 4, with bidirectional=True, got 7",
        ),
        (lambda: RelativeBias(2, bidirectional=True, n_buckets=2), ValueError, "got 2"),
        (
            lambda: RelativeBias(2, bidirectional=False, n_buckets=1),
            ValueError,
            "at least 2 with bidirectional=False, got 1",
        ),
        (
            lambda: RelativeBias(2, bidirectional=True, max_distance=8),
            ValueError,
            "max_distance must be above 8, .* got 8",
        ),
        (
            lambda: relative_buckets(AT, bidirectional=False, max_distance=16),
            ValueError,
            "above 16, .* got 16",
        ),
        (
            lambda: relative_buckets(AT / 2, bidirectional=False),
            TypeError,
            r"relative must be integers, got torch\.float32",
        ),
        (lambda: relative_buckets(AT + 0j, bidirectional=False), TypeError, "complex64"),
        (lambda: alibi_slopes(0), ValueError, "n_heads must be at least 1, got 0"),
        (lambda: alibi_bias(-1, AT, AT), ValueError, "got -1"),
    ],
)
def test_an_error_names_the_offending_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives():
    queries, keys = ODD_POSITIONS, torch.tensor([[1, 50, 2, 7], [0, 90, 41, 8]])
    bias, learned = RelativeBias(3, bidirectional=True), LearnedPositions(101, 4)
    for encode in (
        lambda q, k: sinusoidal_encoding(q, 8),
        lambda q, k: alibi_bias(5, q, k),
        lambda q, k: learned.to(q.device)(q),
        lambda q, k: bias.to(q.device)(q, k),
    ):
        there = encode(queries.cuda(), keys.cuda())
        assert there.is_cuda
        assert_close(there.cpu(), encode(queries, keys), rtol=0, atol=2**-23)
    with pytest.raises(ValueError, match="position 101 has no vector"):
        learned.cuda()(torch.tensor([101], device="cuda"))


@pytest.mark.parametrize("n_heads", [6, 8, 12])
def test_alibi_in_64_bits_is_exact_to_64_bits(n_heads):
    bias = alibi_bias(n_heads, torch.arange(5), torch.arange(5), dtype=torch.float64)
    assert bias.dtype == torch.float64
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    slopes += [2 ** (-4 * i / power) for i in range(1, 2 * (n_heads - power), 2)]
    expected = [[[-slope * abs(i - j) for j in range(5)] for i in range(5)] for slope in slopes]
    assert_close(bias, torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0)


@pytest.mark.parametrize("n_buckets", [2, 3])
def test_two_buckets_are_enough_where_only_the_past_counts(n_buckets):
    relative = -torch.arange(6)
    buckets = relative_buckets(
        relative, bidirectional=False, n_buckets=n_buckets, max_distance=n_buckets + 2
    )
    assert buckets[0] == 0 and buckets[-1] == n_buckets - 1
