"""Counts against built models, torch's FLOP counter, what autograd saves, and published tables."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from llmr_ref.accounting import (
    Activations,
    FLOPs,
    Parameters,
    Row,
    TrainingMemory,
    activation_memory,
    approximate_parameters,
    approximate_training_flops,
    as_duration,
    forward_flops,
    generation_flops,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    model_flops_utilisation,
    parameters,
    report,
    training_flops,
    training_memory,
    with_prefix,
)
from llmr_ref.config import PRESETS, TransformerConfig, preset
from llmr_ref.hardware import DEVICES, Device
from llmr_ref.lecture_tables import LECTURE_TABLES
from llmr_ref.optim import AdamW
from llmr_ref.transformer import Transformer

# Nothing equals anything else: 3 heads over 1 of keys, of 10 each, not adding up to d_model.
SMALL = TransformerConfig(
    vocab_size=37,
    d_model=24,
    n_layers=2,
    n_heads=3,
    n_kv_heads=1,
    d_head=10,
    d_ff=40,
    max_length=16,
    norm="layernorm",
    norm_bias=True,
    bias=True,
    positions="learned",
)

CONFIGS = st.builds(
    lambda kv, group, **fields: TransformerConfig(n_heads=kv * group, n_kv_heads=kv, **fields),
    kv=st.integers(1, 3),
    group=st.integers(1, 3),
    vocab_size=st.integers(2, 40),
    d_model=st.sampled_from([8, 24]),
    n_layers=st.integers(1, 3),
    d_head=st.sampled_from([2, 6]),
    d_ff=st.integers(1, 50),
    max_length=st.integers(4, 9),
    norm=st.sampled_from(["rmsnorm", "layernorm", "nonparametric"]),
    block=st.sampled_from(["pre", "post", "parallel"]),
    activation=st.sampled_from(["swiglu", "gelu", "gelu_tanh", "relu"]),
    positions=st.sampled_from(["rope", "learned", "sinusoidal", "t5", "alibi", "none"]),
    window=st.sampled_from([None, 2]),
    bias=st.booleans(),
    norm_bias=st.booleans(),
    tie_embeddings=st.booleans(),
)


# --- parameters ---------------------------------------------------------------------------------


def by_part(model):
    """A built model's parameters, sorted into the parts by their names."""
    counts = dict.fromkeys((f.name for f in dataclasses.fields(Parameters)), 0)
    for name, weight in model.named_parameters():
        if name.startswith("token_embeddings"):
            part = "embedding"
        elif name.startswith(("position_embeddings", "relative_bias")):
            part = "positions"
        elif ".attn." in name:
            part = "attention"
        elif ".ffn." in name:
            part = "feed_forward"
        elif name.startswith("lm_head"):
            part = "head"
        else:
            part = "norms"
        counts[part] += weight.numel()
    return counts


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_counted_as_it_is_built(name):
    model = Transformer(PRESETS[name], device="meta")
    assert dict(parameters(PRESETS[name])) == by_part(model)


@given(CONFIGS)
@settings(deadline=None, max_examples=40)
def test_every_shape_is_counted_as_it_is_built(config):
    assert dict(parameters(config)) == by_part(Transformer(config, device="meta"))


def test_counts_agree_with_the_models_names():
    for name, millions in [("gpt2", 124.4), ("gpt2-xl", 1557.6), ("smollm2-135m", 134.5)]:
        assert round(parameters(PRESETS[name]).total / 1e6, 1) == millions
    # Touvron et al. 2023: Llama 2 7B has 6,738,415,616.
    assert parameters(PRESETS["llama2-7b"]).total == 6_738_415_616


def test_the_approximation_is_12_d2_l_plus_d_v_and_close_for_its_architecture():
    assert approximate_parameters(SMALL) == 12 * 24 * 24 * 2 + 24 * 37
    exact = parameters(PRESETS["gpt3-175b"])
    assert_close(
        float(approximate_parameters(PRESETS["gpt3-175b"])), float(exact.total), rtol=1e-3, atol=0
    )
    per_layer = exact.attention / 96, exact.feed_forward / 96
    assert_close(per_layer[0], 4 * 12288.0**2, rtol=1e-4, atol=0)
    assert_close(per_layer[1], 8 * 12288.0**2, rtol=1e-4, atol=0)


def test_embeddings_are_left_out_of_kaplans_n():
    counted = parameters(SMALL)
    assert counted.non_embedding == counted.total - 37 * 24 - 16 * 24


# --- FLOPs --------------------------------------------------------------------------------------


def counted(config, length, *, batch=1, backward=False, dtype=torch.bfloat16):
    """By torch, which reads the shapes of matrix products, on the meta device."""
    model = Transformer(config, device="meta", dtype=dtype)
    tokens = torch.zeros(batch, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        out = model(tokens)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


@given(CONFIGS, st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None, max_examples=12)
def test_forward_and_training_flops_are_torchs(config, length, batch):
    assert forward_flops(config, length, batch=batch).total == counted(config, length, batch=batch)
    training = training_flops(config, length, batch=batch).total
    assert training == counted(config, length, batch=batch, backward=True)


@pytest.mark.parametrize("name", ["gpt2", "gpt3-large", "gpt3-175b", "falcon-7b", "palm-8b"])
def test_flops_of_large_models_are_torchs(name):
    config = PRESETS[name]
    assert forward_flops(config, config.max_length).total == counted(config, config.max_length)


def test_the_parts_are_those_of_each_module():
    config = dataclasses.replace(SMALL, implementation="explicit")  # its kernels are all counted
    model = Transformer(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 11, dtype=torch.long))
    modules = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    flops = forward_flops(config, 11, batch=3)
    projections = [f"Transformer.layers.{n}.attn" for n in range(2)]
    assert flops.projections + flops.attention == sum(modules[name] for name in projections)
    assert flops.feed_forward == sum(modules[f"Transformer.layers.{n}.ffn"] for n in range(2))
    assert flops.logits == modules["Transformer.lm_head"]
    assert flops.attention == 3 * 2 * 2 * (2 * 11 * 11 * 30)


def test_torch_does_not_count_the_fused_kernel_of_the_cpu():
    # Why the counts above are made on the meta device or with the explicit formula.
    model = Transformer(SMALL)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 11, dtype=torch.long))
    flops = forward_flops(SMALL, 11, batch=3)
    assert counter.get_total_flops() == flops.total - flops.attention


@pytest.mark.parametrize(
    ("name", "truth", "tolerance"),
    [
        ("gpt3-large", (0.25, 0.50, 0.17, 0.08), 0.006),
        ("gpt3-175b", (0.32, 0.65, 0.03, 0.003), 0.006),
    ],
)
def test_l1s_split_of_flops_is_not_what_these_shapes_do(name, truth, tolerance):
    table = LECTURE_TABLES["flops"]
    printed = dict(zip(table.column("preset"), table.rows, strict=True))[name]
    shares = forward_flops(PRESETS[name], 2048).shares()
    ours = tuple(shares[part] for part in table.columns[1:])
    assert all(abs(o - t) < tolerance for o, t in zip(ours, truth, strict=True))
    assert max(abs(o - p) for o, p in zip(ours, printed[1:], strict=True)) > 0.05
    # Two projections' worth of work in the feed-forward network, whatever the size.
    assert_close(shares["feed_forward"] / shares["projections"], 2.0)


def test_cached_tokens_add_attention_alone():
    without, behind = forward_flops(SMALL, 3, batch=2), forward_flops(SMALL, 3, batch=2, cached=7)
    assert behind.attention - without.attention == 2 * 2 * (2 * 2 * 3 * 7 * 30)
    assert dataclasses.replace(behind, attention=without.attention) == without


def test_sums_and_multiples_of_flops():
    assert FLOPs(1, 2, 3, 4) + FLOPs(10, 20, 30, 40) == FLOPs(11, 22, 33, 44)
    assert FLOPs(1, 2, 3, 4) * 3 == FLOPs(3, 6, 9, 12)


def test_6nd_is_within_reach_of_the_exact_count_for_large_models():
    config = PRESETS["gpt3-175b"]
    exact = training_flops(config, 2048).total
    approximate = approximate_training_flops(parameters(config).total, 2048)
    assert_close(approximate, exact, rtol=0.04, atol=0)
    assert approximate_training_flops(10, 7) == 420


def test_generation_with_a_cache_processes_every_token_once():
    prompt, new = 5, 4
    with_cache = generation_flops(SMALL, prompt, new, batch=2)
    # The last token sampled is never read.
    once = forward_flops(SMALL, prompt + new - 1, batch=2)
    assert with_cache.projections == once.projections
    assert with_cache.logits == once.logits
    assert with_cache.feed_forward == once.feed_forward
    pairs = prompt * prompt + sum(range(prompt + 1, prompt + new))
    assert with_cache.attention == 2 * 2 * (2 * 2 * pairs * 30)


def test_generation_without_a_cache_starts_again_each_time():
    without = generation_flops(SMALL, 5, 3, cache=False)
    passes = [forward_flops(SMALL, length) for length in (5, 6, 7)]
    assert without == passes[0] + passes[1] + passes[2]
    assert generation_flops(SMALL, 5, 1, cache=False) == generation_flops(SMALL, 5, 1)


def test_without_a_cache_the_work_of_sampling_grows_a_power_faster():
    # L5 calls the time of sampling linear: that is steps, each of which costs more than the last.
    config = preset("gpt2", max_length=100_000)
    for cache, least, most in ((True, 1.0, 2.0), (False, 2.0, 3.0)):
        short, long = (generation_flops(config, 1, T, cache=cache).total for T in (500, 1000))
        assert 2**least <= long / short <= 2**most


# --- memory -------------------------------------------------------------------------------------


def saved_bytes(config, length, batch, dtype=torch.float32):
    """Storage that autograd keeps for the backward pass, without the parameters."""
    model = Transformer(config, dtype=dtype)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), x)  # x: the address is not used again
        return x

    tokens = torch.randint(config.vocab_size, (batch, length))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        F.cross_entropy(model(tokens).flatten(0, -2).float(), tokens.flatten())
    return sum(size for size, _ in kept.values())


MEMORY = TransformerConfig(
    vocab_size=300,
    d_model=96,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    d_head=40,
    d_ff=200,
    max_length=96,
    norm="layernorm",
)


@pytest.mark.parametrize("implementation", ["fused", "explicit"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "nonparametric", "activation": "relu", "bias": True},
        {"activation": "gelu", "norm_bias": True, "positions": "learned"},
        {"activation": "gelu_tanh", "block": "parallel"},
        {"block": "post", "positions": "none", "n_kv_heads": None},
        {"positions": "alibi"},
        {"window": 20},
        {"window": 96},
        {"causal": False, "tie_embeddings": True},
    ],
    ids=str,
)
def test_activation_memory_is_what_autograd_keeps(implementation, changes):
    config = dataclasses.replace(MEMORY, implementation=implementation, **changes)
    measured = saved_bytes(config, 90, batch=12)
    estimate = activation_memory(config, 90, batch=12).total
    # Token numbers, masks and tables of angles, which no formula here counts, are below 1 %.
    assert 0 <= measured / estimate - 1 < 0.01


def test_rmsnorm_on_the_cpu_keeps_its_normalised_input_too():
    config = dataclasses.replace(MEMORY, norm="rmsnorm")
    kernels_for_the_cpu = 7 * (12 * 90) * 96 * 4
    measured = saved_bytes(config, 90, batch=12) - kernels_for_the_cpu
    assert 0 <= measured / activation_memory(config, 90, batch=12).total - 1 < 0.01
    explicit = dataclasses.replace(config, implementation="explicit")
    estimate = activation_memory(explicit, 90, batch=12).total
    assert 0 <= saved_bytes(explicit, 90, batch=12) / estimate - 1 < 0.01


def test_activation_memory_in_16_bits():
    measured = saved_bytes(MEMORY, 90, batch=12, dtype=torch.bfloat16)
    estimate = activation_memory(MEMORY, 90, batch=12, dtype=torch.bfloat16)
    # The loss in float32 is exact in both; norms keep 16-bit statistics where we count 32.
    assert_close(measured, estimate.total, rtol=0.02, atol=0)
    single = activation_memory(MEMORY, 90, batch=12)
    assert estimate.attention * 2 == single.attention
    assert estimate.feed_forward * 2 == single.feed_forward


def test_explicit_attention_grows_with_the_square_of_the_length_and_fused_does_not():
    explicit = dataclasses.replace(MEMORY, implementation="explicit")
    assert activation_memory(explicit, 2000).scores > 3.9 * activation_memory(explicit, 1000).scores
    assert activation_memory(MEMORY, 2000).scores == 2 * activation_memory(MEMORY, 1000).scores


def test_training_memory_is_16_bytes_a_parameter_either_way():
    N = parameters(MEMORY).total
    single = training_memory(MEMORY, 50, batch=2)
    mixed = training_memory(MEMORY, 50, batch=2, dtype=torch.bfloat16, master_weights=True)
    for memory, dtype in ((single, torch.float32), (mixed, torch.bfloat16)):
        assert memory.total - memory.activations == 16 * N
        assert memory.activations == activation_memory(MEMORY, 50, batch=2, dtype=dtype).total
    assert (single.weights, single.gradients, single.optimizer) == (4 * N, 4 * N, 8 * N)
    assert (mixed.weights, mixed.gradients, mixed.optimizer) == (2 * N, 2 * N, 12 * N)
    pure = training_memory(MEMORY, 50, batch=2, dtype=torch.bfloat16)
    assert pure.optimizer == 4 * N


def test_adamw_keeps_what_is_counted():
    model = Transformer(MEMORY)
    optimizer = AdamW(model.parameters())
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    optimizer.step()
    kept = sum(
        x.nbytes for state in optimizer.state.values() for x in state.values() if x.dim() > 0
    )
    assert kept == training_memory(MEMORY, 3).optimizer


def test_the_kv_cache_holds_keys_and_values_of_the_heads_that_have_them():
    assert kv_cache_bytes_per_token(SMALL, dtype=torch.float32) == 2 * 2 * 1 * 10 * 4
    assert kv_cache_bytes_per_token(SMALL) == 2 * 2 * 1 * 10 * 2
    assert kv_cache_bytes(SMALL, 7, batch=3) == 7 * 3 * 80
    # Llama 2 7B, 16 bits: 512 KiB a token.
    assert kv_cache_bytes_per_token(PRESETS["llama2-7b"]) == 512 * 1024
    full = kv_cache_bytes_per_token(preset("falcon-7b", n_kv_heads=None))
    assert full == 71 * kv_cache_bytes_per_token(PRESETS["falcon-7b"])


def test_a_window_bounds_the_cache():
    config = dataclasses.replace(SMALL, window=5)
    assert kv_cache_bytes(config, 4) == kv_cache_bytes(SMALL, 4)
    assert kv_cache_bytes(config, 400) == kv_cache_bytes(SMALL, 5)


# --- the lectures' and papers' tables -------------------------------------------------------------


def test_gpt3s_counts_are_table_d1_but_for_the_two_inconsistent_shapes():
    table = LECTURE_TABLES["gpt3-training"]
    repaired = {
        "gpt3-xl": preset("gpt3-xl", n_heads=16),
        "gpt3-13b": preset("gpt3-13b", d_model=5120, d_ff=4 * 5120),
    }
    for name, N, D, flops in table.rows:
        count = parameters(repaired.get(name, PRESETS[name])).total
        assert_close(float(count), float(N), rtol=0.004, atol=0)
        assert_close(approximate_training_flops(N, D), flops, rtol=0.004, atol=0)
    assert round(parameters(PRESETS["gpt3-xl"]).total / 1e9, 2) == 1.52
    assert round(parameters(PRESETS["gpt3-13b"]).total / 1e9, 2) == 12.94


@pytest.mark.parametrize("table", ["gpt2", "gpt3"])
def test_presets_are_the_tables_rows(table):
    for row in LECTURE_TABLES[table].rows:
        config = PRESETS[row[0]]
        shape = (config.n_layers, config.d_model, config.n_heads, config.head_width)
        assert row[2:] == shape[: len(row) - 2]


def test_gpt2s_printed_counts_are_too_small():
    counts = [
        round(parameters(PRESETS[name]).total / 1e6)
        for name in LECTURE_TABLES["gpt2"].column("preset")
    ]
    assert counts == [124, 355, 774, 1558]
    assert all(
        n * 1e6 > p
        for n, p in zip(counts, LECTURE_TABLES["gpt2"].column("printed parameters"), strict=True)
    )


def test_the_7b_presets_are_the_tables_columns():
    table = LECTURE_TABLES["7b"]
    rows = {row[0]: row[1:] for row in table.rows}
    for n, name in enumerate(table.columns[1:]):
        config = PRESETS[name]
        assert config.d_model == rows["Dimension"][n]
        assert config.n_heads == rows["Num heads"][n]
        assert config.n_layers == rows["Num layers"][n]
        assert config.max_length == rows["Sequence length"][n]
        assert (config.block == "parallel") == (rows["Block type"][n] == "parallel")
        assert (config.kv_heads == 1) == (rows["Attention variant"][n] == "MQA")
        assert config.activation == rows["Activation"][n].lower()
        assert config.positions == rows["Positional embeddings"][n].lower()
        assert config.norm_bias == (rows["Biases"][n] == "in LN only")
        ratio = {"~8/3": 8 / 3, "4": 4}[rows["MLP ratio"][n]]
        assert abs(config.ffn_width / config.d_model - ratio) < 0.03
        assert 6.5e9 < parameters(config).total < 9e9
    # The lecture says GQA; the model has as many heads of K and V as of Q.
    assert rows["Attention variant"][1] == "GQA"
    assert PRESETS["llama2-7b"].kv_heads == PRESETS["llama2-7b"].n_heads


def test_every_table_is_rectangular_and_named():
    for table in LECTURE_TABLES.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert table.source.startswith(("L1", "L3", "L4", "Brown"))
        json.dumps(dataclasses.asdict(table))


# --- use of a device ----------------------------------------------------------------------------


def test_utilisation_is_flops_needed_over_peak():
    device = Device("test", peak_flops=1e12, power=1, memory=1, bandwidth=1)
    per_token = counted(MEMORY, 50, backward=True) / 50
    share = model_flops_utilisation(MEMORY, 2000.0, 50, device, n_devices=2)
    assert_close(share, per_token * 2000 / 2e12)


# --- printing and reporting -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (7, "7.00 B"),
        (999.4, "999 B"),
        (999.6, "1.00 kB"),
        (1234, "1.23 kB"),
        (123_456, "123 kB"),
        (5e9, "5.00 GB"),
        (3.14e23, "314 ZB"),
        (1e27, "1.00e+03 YB"),
        (0.5, "0.500 B"),
    ],
)
def test_numbers_are_written_with_three_digits_and_a_prefix(value, text):
    assert with_prefix(value, "B") == text
    assert with_prefix(value, "") == text.removesuffix("B").rstrip()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (7199, "120.0 min"),
        (7200, "2.0 h"),
        (172_800, "2.0 days"),
        (3.156e11, "10,000.0 years"),
    ],
)
def test_durations_are_written_in_a_unit_of_which_there_are_two(seconds, text):
    assert as_duration(seconds) == text


def test_parts_print_as_a_table_and_become_json():
    parts = Parameters(600, 0, 1000, 2000, 400, 0)
    assert str(parts).splitlines() == [
        "embedding              600    15.0%",
        "positions                0     0.0%",
        "attention           1.00 k    25.0%",
        "feed forward        2.00 k    50.0%",
        "norms                  400    10.0%",
        "head                     0     0.0%",
        "total               4.00 k   100.0%",
    ]
    assert json.loads(json.dumps(dataclasses.asdict(parts)))["norms"] == 400
    assert parts.shares()["attention"] == 0.25
    assert str(FLOPs(1, 1, 1, 1)).splitlines()[0] == "projections     1.00 FLOPs    25.0%"
    assert "1.00 kB" in str(Activations(1000, 0, 0, 0, 0))
    assert "1.00 MB" in str(TrainingMemory(10**6, 0, 0, 0))


def test_a_report_says_what_the_functions_say():
    config = PRESETS["gpt2"]
    rows = {
        (row.section, row.name): row
        for row in report(
            config,
            length=512,
            batch=4,
            dtype=torch.bfloat16,
            n_tokens=1e9,
            device="h100",
            n_devices=8,
            utilisation=0.5,
            grid=100.0,
        )
    }
    assert rows["parameters", "total"].value == parameters(config).total
    assert rows["parameters", "feed forward"].value == parameters(config).feed_forward
    assert rows["parameters", "feed forward"].share == parameters(config).shares()["feed_forward"]
    assert rows["parameters", "12 d² L + d V"].value == approximate_parameters(config)
    step = training_flops(config, 512, batch=4)
    assert rows["training step", "total"].value == step.total
    assert rows["training step", "6 N D"].value == 6 * parameters(config).total * 2048
    memory = training_memory(config, 512, batch=4, dtype=torch.bfloat16)
    assert rows["memory", "activations"].value == memory.activations
    assert rows["inference", "weights"].value == 2 * parameters(config).total
    assert rows["inference", "KV cache a token"].value == kv_cache_bytes_per_token(config)
    assert rows["inference", "KV cache"].value == kv_cache_bytes(config, 512, batch=4)
    following = forward_flops(config, 1, batch=4, cached=511)
    assert rows["inference", "FLOPs of the next token"].value == following.total
    run = step.total / 2048 * 1e9
    assert_close(rows["training run", "FLOPs"].value, run)
    seconds = run / (8 * 0.5 * 989.4e12)
    assert_close(rows["training run", "time on 8 x NVIDIA H100 SXM"].value, seconds)
    watt_hours = seconds * 8 * 700 / 3600
    assert_close(rows["training run", "energy"].value, watt_hours)
    assert_close(rows["training run", "CO2"].value, watt_hours / 1000 * 100)
    assert rows["training run", "tokens"].value == 1e9
    json.dumps([dataclasses.asdict(row) for row in rows.values()])


def test_a_report_needs_nothing_but_a_model():
    config = PRESETS["gpt2"]
    rows = {(row.section, row.name): row for row in report(config)}
    assert rows["training run", "tokens"].value == 20 * parameters(config).total
    assert rows["training step", "total"].value == training_flops(config, 1024).total
    assert rows["memory", "total"].value == training_memory(config, 1024).total
    assert rows["training run", "time on 1 x NVIDIA A100 SXM"].text == "4.7 h"
    assert rows["parameters", "total"].text == "124 M"
    assert report(config, device=DEVICES["a100"]) == report(config)


def test_a_row_writes_its_value():
    assert Row("memory", "weights", 1.5e9, "B").text == "1.50 GB"
    assert Row("training run", "time", 180.0, "s").text == "3.0 min"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: forward_flops(SMALL, 0), "length must be positive, got 0"),
        (lambda: forward_flops(SMALL, 1, batch=0), "batch must be positive, got 0"),
        (lambda: forward_flops(SMALL, 1, cached=-1), "at least 0, got -1"),
        (lambda: training_flops(SMALL, -2), "length must be positive, got -2"),
        (lambda: approximate_training_flops(0, 1), "n_parameters must be positive, got 0"),
        (lambda: approximate_training_flops(1, 0), "n_tokens must be positive, got 0"),
        (lambda: generation_flops(SMALL, 0, 1), "prompt must be positive, got 0"),
        (lambda: generation_flops(SMALL, 1, 0), "new must be positive, got 0"),
        (lambda: activation_memory(SMALL, 0), "length must be positive, got 0"),
        (lambda: training_memory(SMALL, 3, batch=-1), "batch must be positive, got -1"),
        (lambda: kv_cache_bytes(SMALL, 0), "length must be positive, got 0"),
        (lambda: kv_cache_bytes(SMALL, 1, batch=0), "batch must be positive, got 0"),
        (
            lambda: model_flops_utilisation(SMALL, 0.0, 5, DEVICES["t4"]),
            r"tokens_per_second must be positive, got 0\.0",
        ),
        (
            lambda: model_flops_utilisation(SMALL, 1.0, 5, DEVICES["t4"], n_devices=0),
            "n_devices must be positive, got 0",
        ),
        (lambda: report(SMALL, device="abacus"), "no device 'abacus'; choose one of t4, "),
        (lambda: report(SMALL, n_tokens=0), "n_tokens must be positive, got 0"),
        (lambda: report(SMALL, utilisation=1.5), r"utilisation must lie in \(0, 1\], got 1\.5"),
        (
            lambda: LECTURE_TABLES["gpt2"].column("n_heads"),
            "no column 'n_heads'; choose one of preset",
        ),
    ],
)
def test_an_error_names_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
