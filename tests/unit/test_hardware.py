"""Time and energy against hand calculations and published training runs."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llmr_ref.hardware import DEVICES, WORLD_GRID, Device, Energy, energy, training_energy

POSITIVE = st.floats(1e-3, 1e12)


def test_a_kilowatt_for_an_hour_is_a_kilowatt_hour():
    assert energy(3600.0, 1000.0) == Energy(3600.0, 1.0, WORLD_GRID)


@given(POSITIVE, POSITIVE, st.integers(1, 1000), st.floats(1, 3), st.floats(0, 1000))
def test_energy_is_power_times_time(seconds, power, n_devices, pue, grid):
    drawn = energy(seconds, power, n_devices=n_devices, pue=pue, grid=grid)
    joules = seconds * power * n_devices * pue
    assert drawn.seconds == seconds
    assert_close(drawn.kwh, joules / 3.6e6, rtol=1e-12, atol=0)
    assert_close(drawn.co2_g, joules / 3.6e6 * grid, rtol=1e-12, atol=0)


def test_gpt3s_training_as_estimated_by_patterson_et_al():
    # Table 4 there: 3.14e23 FLOPs on 10,000 V100 at a measured 24.6 TFLOP/s and 330 W each, PUE 1.1,
    # 429 g a kWh: 14.8 days, 1287 MWh, 552 t.
    v100 = dataclasses.replace(DEVICES["v100"], power=330)
    run = training_energy(
        3.14e23, v100, utilisation=24.6 / 125, n_devices=10_000, pue=1.1, grid=429.0
    )
    assert_close(run.seconds / 86_400, 14.8, rtol=0.01, atol=0)
    assert_close(run.kwh, 1_287_000.0, rtol=0.01, atol=0)
    assert_close(run.co2_g, 552e6, rtol=0.01, atol=0)


def test_more_devices_take_less_time_and_the_same_energy():
    one, eight = (training_energy(1e20, DEVICES["a100"], n_devices=n) for n in (1, 8))
    assert_close(one.seconds, 8 * eight.seconds)
    assert_close(one.kwh, eight.kwh)
    assert_close(one.seconds, 1e20 / (0.4 * 312e12))
    assert_close(one.co2_g, one.kwh * WORLD_GRID)


def test_devices_say_where_their_numbers_are_from_and_become_json():
    for name, device in DEVICES.items():
        assert name.split("-")[-1].upper() in device.name
        assert "NVIDIA" in device.source
        # A product of this many FLOPs for each byte read keeps them busy: tens to hundreds.
        assert 50 < device.peak_flops / device.bandwidth < 400
        assert json.loads(json.dumps(dataclasses.asdict(device)))["power"] == device.power


GOOD = {"peak_flops": 1.0, "power": 1.0, "memory": 1.0, "bandwidth": 1.0}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_device_has_positive_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        Device("x", **{**GOOD, name: value})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: energy(0.0, 1.0), r"seconds must be positive, got 0\.0"),
        (lambda: energy(1.0, -1.0), r"power must be positive, got -1\.0"),
        (lambda: energy(1.0, 1.0, n_devices=0), "n_devices must be positive, got 0"),
        (lambda: energy(1.0, 1.0, pue=0.9), r"at least 1, got 0\.9"),
        (lambda: energy(1.0, 1.0, grid=-1.0), r"at least 0, got -1\.0"),
        (lambda: training_energy(0.0, DEVICES["t4"]), "flops must be positive"),
        (lambda: training_energy(1.0, DEVICES["t4"], utilisation=0.0), r"in \(0, 1\], got 0\.0"),
        (lambda: training_energy(1.0, DEVICES["t4"], utilisation=1.1), r"in \(0, 1\], got 1\.1"),
        (lambda: training_energy(1.0, DEVICES["t4"], n_devices=0), "n_devices .* got 0"),
        (lambda: training_energy(1.0, DEVICES["t4"], pue=0.5), r"at least 1, got 0\.5"),
    ],
)
def test_an_error_names_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
