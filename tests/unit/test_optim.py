"""Optimisers, schedules and clipping against torch's and Hugging Face's."""

import copy
import io
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_inverse_sqrt_schedule,
)

from llmr_ref.optim import (
    SGD,
    AdamW,
    clip_gradients,
    constant_schedule,
    cosine_schedule,
    inverse_sqrt_schedule,
    parameter_groups,
)

PATHS = ["fused", "explicit"]
BOTH = pytest.mark.parametrize("implementation", PATHS)
SEEDS = st.integers(0, 2**31)
# About 20 steps whose sizes are at most 0.3, each a few roundings of 2^-53.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
SHAPES = [(4, 3), (5,), (), (2, 1, 3), (7, 11)]  # 7 x 11: more than a vector register holds


def randn(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def new_parameters(seed=0, dtype=torch.float64, shapes=SHAPES):
    return [nn.Parameter(randn(*s, seed=seed + i, dtype=dtype)) for i, s in enumerate(shapes)]


def set_gradients(parameters, seed):
    for i, p in enumerate(parameters):
        p.grad = randn(*p.shape, seed=1000 * seed + i, dtype=p.dtype) * 10.0 ** (i - 1)


def walk(optimizer, steps=20, first=1):
    """Steps on gradients that depend on nothing but the step's number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(first, first + steps):
        set_gradients(parameters, step)
        optimizer.step()
    return parameters


def assert_same(ours, theirs, **tolerance):
    for p, q in zip(ours, theirs, strict=True):
        assert_close(p, q, **tolerance)


def adamw_settings():
    return st.fixed_dictionaries(
        {
            "lr": st.floats(0, 0.3),
            "betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)),
            "eps": st.floats(1e-9, 1.0),
            "weight_decay": st.floats(0, 1.0),
        }
    )


def sgd_settings():
    return st.fixed_dictionaries(
        {
            "lr": st.floats(0, 0.1),
            "momentum": st.floats(0.01, 0.99) | st.just(0.0),
            "weight_decay": st.floats(0.0, 1.0) | st.just(0.0),
            "nesterov": st.booleans(),
        }
    ).map(lambda s: s | {"nesterov": s["nesterov"] and s["momentum"] > 0})


# --- against torch's optimisers -----------------------------------------------------------------


@BOTH
@given(hyper=adamw_settings(), seed=SEEDS)
def test_adamw_is_torchs_over_many_steps(implementation, hyper, seed):
    ours = walk(AdamW(new_parameters(seed), **hyper, implementation=implementation))
    theirs = walk(torch.optim.AdamW(new_parameters(seed), **hyper, foreach=False))
    assert_same(ours, theirs, **EXACT)


@BOTH
@given(hyper=sgd_settings(), seed=SEEDS)
def test_sgd_is_torchs_over_many_steps(implementation, hyper, seed):
    ours = walk(SGD(new_parameters(seed), **hyper, implementation=implementation))
    theirs = walk(torch.optim.SGD(new_parameters(seed), **hyper, foreach=False))
    # With momentum 0.99 a gradient of 100 moves a parameter by up to 1e4 * lr in 20 steps.
    assert_same(ours, theirs, rtol=1e-12, atol=1e-9)


@BOTH
def test_defaults_are_torchs(implementation):
    for ours, theirs in ((SGD, torch.optim.SGD), (AdamW, torch.optim.AdamW)):
        p = walk(ours(new_parameters(), implementation=implementation))
        assert_same(p, walk(theirs(new_parameters())), **EXACT)


def test_the_fused_path_is_the_default():
    assert AdamW(new_parameters()).param_groups[0]["fused"] is True
    assert SGD(new_parameters()).param_groups[0]["fused"] is True
    explicit = AdamW(new_parameters(), implementation="explicit")
    assert explicit.param_groups[0]["fused"] is False


def test_the_lectures_step_downhill():
    # L2 "Backprop: compute new weights": 2, -1, 1 less 0.01 times 16, -12, 4.
    w = nn.Parameter(torch.tensor([2.0, -1.0, 1.0], dtype=torch.float64))
    w.grad = torch.tensor([16.0, -12.0, 4.0], dtype=torch.float64)
    SGD([w], lr=0.01).step()
    assert_close(w.data, torch.tensor([1.84, -0.88, 0.96], dtype=torch.float64))


@BOTH
def test_adamw_decays_before_the_update_and_apart_from_it(implementation):
    p = nn.Parameter(torch.tensor([4.0], dtype=torch.float64))
    p.grad = torch.tensor([123.0], dtype=torch.float64)
    AdamW([p], lr=0.1, eps=0.0, weight_decay=0.5, implementation=implementation).step()
    # A first step is the gradient's sign whatever its size; decay takes gamma lambda of 4.
    assert_close(p.data, torch.tensor([4 * (1 - 0.1 * 0.5) - 0.1], dtype=torch.float64))


@BOTH
@pytest.mark.parametrize("make", [SGD, AdamW])
def test_groups_have_their_own_settings(make, implementation):
    theirs = torch.optim.SGD if make is SGD else torch.optim.AdamW

    def groups(seed):
        a, b, *rest = new_parameters(seed)
        first = {"params": [a, b], "lr": 0.05, "weight_decay": 0.3}
        return [first | ({"momentum": 0.9} if make is SGD else {}), {"params": rest}]

    ours = make(groups(3), lr=0.01, weight_decay=0.1, implementation=implementation)
    torchs = theirs(groups(3), lr=0.01, weight_decay=0.1)
    assert_same(walk(ours), walk(torchs), **EXACT)


@BOTH
def test_a_learning_rate_changed_between_steps_is_followed(implementation):
    ours = AdamW(new_parameters(), implementation=implementation)
    theirs = torch.optim.AdamW(new_parameters())
    for step in range(1, 6):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.1 / step
            walk(optimizer, 1, first=step)
    assert_same(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], **EXACT)


@BOTH
@pytest.mark.parametrize("make", [lambda p, **k: SGD(p, momentum=0.9, **k), AdamW])
def test_a_parameter_without_gradient_stays_and_starts_when_it_gets_one(make, implementation):
    (p, q) = new_parameters(shapes=[(3,), (3,)])
    before = q.detach().clone()
    optimizer = make([p, q], lr=0.1, implementation=implementation)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(q, before)
    assert q not in optimizer.state
    q.grad = torch.ones_like(q)
    optimizer.step()  # p's second step and q's first
    alone = nn.Parameter(before.clone())
    alone.grad = torch.ones_like(alone)
    make([alone], lr=0.1, implementation=implementation).step()
    assert_close(q, alone)


@BOTH
def test_gradients_are_left_as_they_were(implementation):
    for make in (lambda p, **k: SGD(p, momentum=0.9, nesterov=True, **k), AdamW):
        parameters = new_parameters()
        set_gradients(parameters, 1)
        before = [p.grad.clone() for p in parameters]
        optimizer = make(parameters, weight_decay=0.1, implementation=implementation)
        optimizer.step()
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters, before, strict=True))


LAYOUTS = {
    "gradient transposed": (lambda x: x, lambda g: g.T.contiguous().T),
    "gradient a slice": (lambda x: x, lambda g: torch.cat([g, g], dim=1)[:, ::2]),
    "gradient expanded": (lambda x: x, lambda g: g[:1, :1].expand(4, 6)),
    "parameter transposed": (lambda x: x.T.contiguous().T, lambda g: g.contiguous()),
    "parameter a slice": (lambda x: torch.cat([x, x], dim=1)[:, ::2], lambda g: g.contiguous()),
}


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [lambda p, **k: SGD(p, momentum=0.9, **k), AdamW])
def test_strides_do_not_matter(make, layout, implementation):
    # torch's fused kernels for the CPU read memory in order: there it mixes up the elements.
    arrange_parameter, arrange_gradient = LAYOUTS[layout]
    results = []
    for strided in (True, False):
        x = arrange_parameter(randn(4, 6, seed=0))
        p = nn.Parameter(x if strided else x.contiguous())
        optimizer = make([p], lr=0.1, implementation=implementation)
        for step in range(3):
            g = arrange_gradient(randn(4, 6, seed=step + 1))
            p.grad = g if strided else g.contiguous()
            optimizer.step()
        results.append(p.detach())
    assert_close(*results, **EXACT)


@BOTH
def test_a_closure_is_run_with_gradients_and_its_loss_returned(implementation):
    p = nn.Parameter(torch.tensor([3.0]))
    optimizer = SGD([p], lr=0.5, implementation=implementation)

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert p.item() == 0.0
    assert optimizer.step() is None


def test_a_torch_scheduler_drives_them():
    optimizer = AdamW(new_parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    walk(optimizer, 1)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * (1 + math.cos(math.pi / 10)) / 2)


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [lambda p, **k: SGD(p, momentum=0.9, **k), AdamW])
def test_both_paths_agree_in_every_dtype_and_keep_it(make, dtype):
    fused, explicit = (
        make(new_parameters(dtype=dtype), lr=0.01, weight_decay=0.1, implementation=path)
        for path in PATHS
    )
    ours, theirs = walk(fused), walk(explicit)
    # Both compute in at least 32 bits and round what they store, so a rounding may fall either
    # way in each of 20 steps; parameters here are below 8, momentum's below 128.
    largest = max(p.abs().max().item() for p in theirs)
    assert_same(ours, theirs, rtol=0, atol=20 * torch.finfo(dtype).eps * largest)
    for optimizer in (fused, explicit):
        for p in optimizer.param_groups[0]["params"]:
            assert p.dtype == dtype
            state = {k: v for k, v in optimizer.state[p].items() if k != "step"}
            assert {x.dtype for x in state.values()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [lambda p, **k: SGD(p, momentum=0.9, **k), AdamW])
@BOTH
def test_a_16_bit_step_is_the_32_bit_step_rounded_once(make, dtype, implementation):
    p = nn.Parameter(randn(50, seed=0, dtype=dtype))
    wide = nn.Parameter(p.detach().float())
    p.grad = randn(50, seed=1, dtype=dtype)
    wide.grad = p.grad.float()
    for x in (p, wide):
        make([x], lr=0.3, weight_decay=0.1, implementation=implementation).step()
    # The fused kernel may contract to fused multiply-adds: a tie can go the other way.
    assert_close(p.detach(), wide.detach().to(dtype), rtol=torch.finfo(dtype).eps, atol=0)
    assert (p == wide.to(dtype)).float().mean() > 0.9


@BOTH
def test_parameters_of_several_dtypes_are_each_kept(implementation):
    p, q = nn.Parameter(randn(3, seed=0)), nn.Parameter(randn(3, seed=1, dtype=torch.float32))
    optimizer = AdamW([p, q], lr=0.1, implementation=implementation)
    walk(optimizer)
    alone = nn.Parameter(randn(3, seed=0))
    for step in range(1, 21):
        alone.grad = randn(3, seed=1000 * step) * 0.1
        if step == 1:
            other = torch.optim.AdamW([alone], lr=0.1)
        other.step()
    assert_close(p, alone, **EXACT)
    assert q.dtype == torch.float32


# --- state --------------------------------------------------------------------------------------

MAKERS = {
    "sgd": (lambda p, **k: SGD(p, lr=0.1, momentum=0.9, **k), torch.optim.SGD),
    "adamw": (lambda p, **k: AdamW(p, lr=0.1, **k), torch.optim.AdamW),
}


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@BOTH
@pytest.mark.parametrize("name", MAKERS)
def test_saved_and_loaded_the_next_steps_are_the_same_to_the_bit(name, implementation):
    make, _ = MAKERS[name]
    whole = make(new_parameters(), implementation=implementation)
    walk(whole, 8)
    first = make(new_parameters(), implementation=implementation)
    parameters = [nn.Parameter(p.detach().clone()) for p in walk(first, 5)]
    second = make(parameters, implementation=implementation)
    second.load_state_dict(through_a_file(first.state_dict()))
    walk(second, 3, first=6)
    assert_same(parameters, whole.param_groups[0]["params"], rtol=0, atol=0)


@BOTH
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("torch_path", ["fused", "foreach", "neither"])
def test_torch_continues_our_state_and_we_continue_torchs(name, torch_path, implementation):
    make, torchs = MAKERS[name]
    settings = {"lr": 0.1} | ({"momentum": 0.9} if name == "sgd" else {})
    if torch_path == "neither":
        settings["foreach"] = False
    else:
        settings[torch_path] = True
    whole = walk(torchs(new_parameters(), **settings), 8)

    def ours(parameters):
        return make(parameters, implementation=implementation)

    def theirs(parameters):
        return torchs(parameters, **settings)

    for begin, end in ((ours, theirs), (theirs, ours)):
        first = begin(new_parameters())
        parameters = [nn.Parameter(p.detach().clone()) for p in walk(first, 5)]
        second = end(parameters)
        second.load_state_dict(through_a_file(first.state_dict()))
        walk(second, 3, first=6)
        assert_same(parameters, whole, **EXACT)


@pytest.mark.parametrize("name", MAKERS)
def test_loading_takes_the_settings_but_not_the_path_nor_the_tensors(name):
    make, _ = MAKERS[name]
    first = make(new_parameters(), implementation="explicit")
    first.param_groups[0]["lr"] = 0.25
    walk(first, 2)
    state = first.state_dict()
    before = copy.deepcopy(state)
    second = make(new_parameters())
    second.load_state_dict(state)
    assert second.param_groups[0]["fused"] is True
    assert second.param_groups[0]["lr"] == 0.25
    walk(second, 2)
    for key, kept in before["state"].items():
        for tensor_name, value in kept.items():
            assert torch.equal(state["state"][key][tensor_name], value)


def test_torchs_sgd_state_without_a_buffer_starts_one():
    plain = torch.optim.SGD(new_parameters(), lr=0.1)
    walk(plain, 2)
    state = plain.state_dict()
    state["param_groups"][0]["momentum"] = 0.9
    state["state"] = {0: {"momentum_buffer": None}}
    ours = SGD(new_parameters(), lr=0.1, momentum=0.9)
    ours.load_state_dict(state)
    expected = walk(torch.optim.SGD(new_parameters(), lr=0.1, momentum=0.9))
    assert_same(walk(ours), expected, **EXACT)


@BOTH
def test_a_copied_optimiser_goes_on_alone(implementation):
    optimizer = AdamW(new_parameters(), lr=0.1, implementation=implementation)
    walk(optimizer, 2)
    twin = copy.deepcopy(optimizer)
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    after = walk(twin, 3, first=3)
    assert_same(optimizer.param_groups[0]["params"], before, rtol=0, atol=0)
    assert_same(walk(optimizer, 3, first=3), after, rtol=0, atol=0)


def test_the_step_counter_moves_to_its_parameter():
    on_cpu = torch.optim.AdamW(new_parameters())
    walk(on_cpu, 1)
    elsewhere = AdamW([nn.Parameter(p.detach().to("meta")) for p in new_parameters()])
    elsewhere.load_state_dict(on_cpu.state_dict())
    for state in elsewhere.state.values():
        assert {x.device.type for x in state.values()} == {"meta"}


def test_state_is_made_where_the_parameter_lies():
    p = nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = AdamW([p])
    state = [*optimizer._state(optimizer.param_groups[0], p), optimizer.state[p]["step"]]
    assert all(x.is_meta for x in state)


@pytest.fixture
def one_process_mesh():
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@BOTH
@pytest.mark.parametrize("name", MAKERS)
def test_sharded_parameters_are_stepped_and_clipped_like_whole_ones(
    one_process_mesh, name, implementation
):
    from torch.distributed.tensor import Shard, distribute_tensor

    make, _ = MAKERS[name]
    whole, shards = randn(4, 3, seed=0), randn(4, 3, seed=0)
    whole = nn.Parameter(whole)
    shards = nn.Parameter(distribute_tensor(shards, one_process_mesh, [Shard(0)]))
    optimizers = [make([p], implementation=implementation) for p in (whole, shards)]
    for step in range(3):
        g = randn(4, 3, seed=step + 1)
        whole.grad, shards.grad = g.clone(), distribute_tensor(g, one_process_mesh, [Shard(0)])
        norms = [clip_gradients([p], 0.5) for p in (whole, shards)]
        assert_close(*norms)
        for optimizer in optimizers:
            optimizer.step()
    assert_close(shards.full_tensor(), whole)


# --- parameter groups ---------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.hidden = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


def test_matrices_decay_gains_and_biases_do_not():
    model = Small()
    decayed, free = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in decayed["params"]] == [
        id(model.embedding.weight),
        id(model.hidden.weight),
    ]
    assert [id(p) for p in free["params"]] == [
        id(model.norm.weight),
        id(model.norm.bias),
        id(model.hidden.bias),
    ]


def test_groups_reach_the_optimiser():
    model = Small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = AdamW(parameter_groups(model, 0.5), lr=0.1, weight_decay=0.9)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    for name, p in model.named_parameters():
        shrunk = p.dim() == 2 and p.requires_grad
        assert_close(p.detach(), before[name] * (0.95 if shrunk else 1.0))


# --- clipping -----------------------------------------------------------------------------------


@given(seed=SEEDS, max_norm=st.floats(1e-3, 1e4), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_clipping_is_torchs(seed, max_norm, scale):
    ours, theirs = new_parameters(seed), new_parameters(seed)
    for parameters in (ours, theirs):
        set_gradients(parameters, 1)
        for p in parameters:
            p.grad *= scale
    norm = clip_gradients(ours, max_norm)
    assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm))
    assert_same([p.grad for p in ours], [p.grad for p in theirs])


def test_the_norm_is_that_of_one_long_vector_before_clipping():
    parameters = new_parameters()
    set_gradients(parameters, 1)
    long = torch.cat([p.grad.flatten() for p in parameters])
    assert_close(clip_gradients(iter(parameters), 0.5), long.norm())
    clipped = torch.cat([p.grad.flatten() for p in parameters])
    assert_close(clipped, long * 0.5 / long.norm(), rtol=1e-5, atol=0)  # torch's 1e-6
    assert clipped.norm() <= 0.5


def test_a_small_gradient_is_not_enlarged():
    (p,) = new_parameters(shapes=[(5,)])
    p.grad = torch.full((5,), 1e-3, dtype=torch.float64)
    clip_gradients(p, 1.0)
    assert torch.equal(p.grad, torch.full((5,), 1e-3, dtype=torch.float64))


def test_an_infinite_limit_only_measures():
    parameters = new_parameters()
    set_gradients(parameters, 1)
    before = [p.grad.clone() for p in parameters]
    assert clip_gradients(parameters, math.inf) > 1
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, before, strict=True))


def test_no_gradients_and_zero_gradients_have_norm_zero():
    parameters = new_parameters()
    assert clip_gradients(parameters, 1.0) == 0
    assert clip_gradients([], 1.0) == 0
    parameters[0].grad = torch.zeros_like(parameters[0])
    assert clip_gradients(parameters, 1.0) == 0
    assert torch.equal(parameters[0].grad, torch.zeros_like(parameters[0]))
    assert parameters[1].grad is None


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_reported_and_left(bad):
    parameters = new_parameters()
    set_gradients(parameters, 1)
    parameters[1].grad[2] = bad
    before = [p.grad.clone() for p in parameters]
    assert not clip_gradients(parameters, 1.0).isfinite()
    for p, g in zip(parameters, before, strict=True):
        assert_close(p.grad, g, rtol=0, atol=0, equal_nan=True)


def test_the_norm_of_16_bit_gradients_is_summed_in_32():
    p, q = nn.Parameter(torch.zeros(5000, dtype=torch.float16)), nn.Parameter(torch.zeros(3))
    p.grad = torch.full((5000,), 1000.0, dtype=torch.float16)  # norm 70711: infinite in float16
    q.grad = torch.full((3,), 1000.0)
    norm = clip_gradients([p, q], 1.0)
    assert norm.dtype == torch.float32
    assert_close(norm, torch.tensor(1000.0 * math.sqrt(5003)))
    assert p.grad.dtype == torch.float16
    assert_close(q.grad, torch.full((3,), 1 / math.sqrt(5003)))
    assert_close(p.grad, torch.full((5000,), 1 / math.sqrt(5003)).half())


# --- schedules ----------------------------------------------------------------------------------


def by_scheduler(make, steps):
    """The learning rates that a scheduler of torch's kind sets, from the first step on."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.7)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@settings(max_examples=25)
@given(warmup=st.integers(0, 12), decay=st.integers(1, 20))
def test_cosine_is_hugging_faces(warmup, decay):
    total = warmup + decay
    theirs = by_scheduler(lambda o: get_cosine_schedule_with_warmup(o, warmup, total), total + 1)
    ours = [
        cosine_schedule(t, max_lr=0.7, min_lr=0.0, warmup_steps=warmup, total_steps=total)
        for t in range(total + 1)
    ]
    assert ours == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=25)
@given(decay=st.integers(1, 20), min_lr=st.floats(0, 0.7))
def test_cosine_without_warmup_is_torchs(decay, min_lr):
    theirs = by_scheduler(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, decay, eta_min=min_lr), decay + 1
    )
    ours = [
        cosine_schedule(t, max_lr=0.7, min_lr=min_lr, warmup_steps=0, total_steps=decay)
        for t in range(decay + 1)
    ]
    assert ours == pytest.approx(theirs, abs=1e-12)


@given(warmup=st.integers(0, 50), decay=st.integers(0, 50), after=st.integers(0, 10**6))
def test_cosine_starts_at_zero_peaks_and_stays_at_its_minimum(warmup, decay, after):
    def rate(step):
        return cosine_schedule(
            step, max_lr=0.7, min_lr=0.07, warmup_steps=warmup, total_steps=warmup + decay
        )

    assert rate(warmup + decay + after) == 0.07
    if warmup:
        assert rate(0) == 0
    if decay:
        assert rate(warmup) == pytest.approx(0.7)
    rates = [rate(t) for t in range(warmup + decay + 1)]
    assert all(a < b for a, b in itertools.pairwise(rates[:warmup]))
    assert all(a > b for a, b in itertools.pairwise(rates[warmup:]))


@pytest.mark.parametrize("warmup", [1, 4, 10])
def test_inverse_square_root_is_hugging_faces(warmup):
    theirs = by_scheduler(lambda o: get_inverse_sqrt_schedule(o, warmup), 40)
    ours = [inverse_sqrt_schedule(t, max_lr=0.7, warmup_steps=warmup) for t in range(40)]
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_inverse_square_root_is_the_transformer_papers():
    d_model, warmup = 512, 4000
    for step in (1, 100, 4000, 4001, 100_000):
        rate = inverse_sqrt_schedule(step, max_lr=(d_model * warmup) ** -0.5, warmup_steps=warmup)
        assert rate == pytest.approx(d_model**-0.5 * min(step**-0.5, step * warmup**-1.5))


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_constant_is_hugging_faces(warmup):
    theirs = by_scheduler(lambda o: get_constant_schedule_with_warmup(o, warmup), 20)
    ours = [constant_schedule(t, max_lr=0.7, warmup_steps=warmup) for t in range(20)]
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_constant_needs_no_warmup():
    assert constant_schedule(0, max_lr=0.7) == 0.7


# --- errors name the value ----------------------------------------------------------------------

P = [nn.Parameter(torch.zeros(2))]
COSINE = {"max_lr": 1.0, "min_lr": 0.1, "warmup_steps": 2, "total_steps": 10}


def loading(optimizer, **changes):
    state = optimizer.state_dict()
    state["param_groups"][0] |= changes
    return lambda: optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdamW(P, lr=-1.0), r"lr must be at least 0, got -1\.0"),
        (lambda: AdamW(P, lr=math.nan), "lr must be at least 0, got nan"),
        (lambda: AdamW(P, betas=(1.0, 0.9)), r"betas must be two in \[0, 1\), got \(1\.0, 0\.9\)"),
        (lambda: AdamW(P, betas=(0.9, -0.1)), r"betas must be two in \[0, 1\)"),
        (lambda: AdamW(P, betas=(0.9,)), r"got \(0\.9,\)"),
        (lambda: AdamW(P, eps=-1e-8), "eps must be at least 0, got -1e-08"),
        (lambda: AdamW(P, weight_decay=-0.1), r"weight_decay must be at least 0, got -0\.1"),
        (lambda: AdamW([{"params": P, "lr": -2.0}]), r"lr must be at least 0, got -2\.0"),
        (lambda: AdamW(P, implementation="fast"), "implementation is 'fast'; choose 'fused'"),
        (lambda: SGD(P, lr=-1.0), r"lr must be at least 0, got -1\.0"),
        (lambda: SGD(P, momentum=1.0), r"momentum must be in \[0, 1\), got 1\.0"),
        (lambda: SGD(P, momentum=-0.5), r"momentum must be in \[0, 1\), got -0\.5"),
        (lambda: SGD(P, weight_decay=-0.1), r"weight_decay must be at least 0, got -0\.1"),
        (lambda: SGD(P, nesterov=True), r"got momentum = 0"),
        (lambda: SGD(P, implementation="fast"), "implementation is 'fast'"),
        (loading(AdamW(P), amsgrad=True), "amsgrad = True: AdamW has amsgrad = False"),
        (loading(AdamW(P), maximize=True), "maximize = True"),
        (loading(AdamW(P), decoupled_weight_decay=False), "decoupled_weight_decay = False"),
        (loading(SGD(P), dampening=0.1), r"dampening = 0\.1: SGD has dampening = 0"),
        (loading(SGD(P), maximize=True), "maximize = True"),
        (lambda: parameter_groups(nn.Linear(2, 2), -0.1), r"weight_decay .* got -0\.1"),
        (lambda: clip_gradients(P, 0.0), r"max_norm must be positive, got 0\.0"),
        (lambda: clip_gradients(P, -1.0), r"max_norm must be positive, got -1\.0"),
        (lambda: clip_gradients(P, math.nan), "max_norm must be positive, got nan"),
        (lambda: constant_schedule(-1, max_lr=1.0), "step must be at least 0, got -1"),
        (lambda: constant_schedule(0, max_lr=-1.0), r"max_lr must be at least 0, got -1\.0"),
        (
            lambda: constant_schedule(0, max_lr=1.0, warmup_steps=-1),
            "warmup_steps must be at least 0, got -1",
        ),
        (
            lambda: inverse_sqrt_schedule(0, max_lr=1.0, warmup_steps=0),
            "warmup_steps must be at least 1, got 0",
        ),
        (lambda: inverse_sqrt_schedule(-1, max_lr=1.0, warmup_steps=1), "step must be"),
        (lambda: cosine_schedule(-1, **COSINE), "step must be at least 0, got -1"),
        (
            lambda: cosine_schedule(0, **COSINE | {"min_lr": 2.0}),
            r"min_lr must be in 0\.\.max_lr = 1\.0, got 2\.0",
        ),
        (lambda: cosine_schedule(0, **COSINE | {"min_lr": -0.1}), r"min_lr .* got -0\.1"),
        (
            lambda: cosine_schedule(0, **COSINE | {"total_steps": 1}),
            "total_steps must be at least warmup_steps = 2, got 1",
        ),
    ],
)
def test_an_error_names_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_group_is_not_added():
    optimizer = AdamW(new_parameters())
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


@BOTH
def test_sparse_and_complex_gradients_are_refused(implementation):
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match=r"must be dense and real, got torch\.sparse_coo"):
        AdamW(table.parameters(), implementation=implementation).step()
    z = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    with pytest.raises(TypeError, match=r"dense and real, got torch\.strided of torch\.complex64"):
        SGD([z], implementation=implementation).step()


# --- the same on CUDA ---------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@BOTH
@pytest.mark.parametrize("name", MAKERS)
def test_cuda_steps_equal_the_cpus(name, implementation):
    make, _ = MAKERS[name]
    here = make(new_parameters(), implementation=implementation)
    there = make([nn.Parameter(p.detach().cuda()) for p in new_parameters()])
    for step in range(1, 6):
        for optimizer in (here, there):
            parameters = optimizer.param_groups[0]["params"]
            for i, p in enumerate(parameters):
                p.grad = randn(*p.shape, seed=1000 * step + i).to(p.device)
            norm = clip_gradients(parameters, 1.0)
            assert norm.device == parameters[0].device
            optimizer.step()
        if step == 3:  # a state from the CPU goes on where the parameters are
            there.load_state_dict(here.state_dict())
    for p, q in zip(here.param_groups[0]["params"], there.param_groups[0]["params"], strict=True):
        assert q.is_cuda
        assert_close(q.cpu(), p, **EXACT)
