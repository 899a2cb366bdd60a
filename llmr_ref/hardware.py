"""How long a number of FLOPs takes on a device, and the energy and CO2 that it costs."""

import math
from dataclasses import dataclass


def require_positive(**numbers: float) -> None:
    """Raise ValueError, naming it, for a number that is not positive and finite."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive, got {number}")


@dataclass(frozen=True)
class Device:
    """Peak of dense 16-bit products with 32-bit sums in FLOP/s, W, B and B/s, as its maker states.

    Raises: ValueError for a number that is not positive.
    """

    name: str
    peak_flops: float
    power: float
    memory: float
    bandwidth: float
    source: str = ""

    def __post_init__(self) -> None:
        require_positive(
            peak_flops=self.peak_flops,
            power=self.power,
            memory=self.memory,
            bandwidth=self.bandwidth,
        )


DEVICES = {
    "t4": Device("NVIDIA T4", 65e12, 70, 16e9, 320e9, "NVIDIA T4 datasheet, 2019"),
    "v100": Device("NVIDIA V100 SXM2", 125e12, 300, 32e9, 900e9, "NVIDIA V100 datasheet, 2020"),
    "a100": Device("NVIDIA A100 SXM", 312e12, 400, 80e9, 2039e9, "NVIDIA A100 datasheet, 2021"),
    "h100": Device("NVIDIA H100 SXM", 989.4e12, 700, 80e9, 3.35e12, "NVIDIA H100 datasheet, 2023"),
    "h200": Device("NVIDIA H200 SXM", 989.4e12, 700, 141e9, 4.8e12, "NVIDIA H200 datasheet, 2024"),
    "rtx-4090": Device(
        "NVIDIA RTX 4090", 165.2e12, 450, 24e9, 1008e9, "NVIDIA Ada architecture whitepaper, 2022"
    ),
}

WORLD_GRID = 480.0  # g CO2 a kWh in 2023: Ember, Global Electricity Review 2024


@dataclass(frozen=True)
class Energy:
    """What a computation drew, and what the power plants emitted for it."""

    seconds: float
    kwh: float
    co2_g: float


def energy(
    seconds: float,
    power: float,
    *,
    n_devices: int = 1,
    pue: float = 1.0,
    grid: float = WORLD_GRID,
) -> Energy:
    """Energy of `n_devices` that draw `power` watts each for a time, in kWh and g CO2.

    `pue` (power usage effectiveness, at least 1) adds cooling; `grid` is in g CO2 a kWh.
    Raises: ValueError for a number out of range.
    Source: Patterson et al. 2021, section 2.5; L2 (energy as an evaluation criterion).
    """
    require_positive(seconds=seconds, power=power, n_devices=n_devices)
    if not pue >= 1:
        raise ValueError(f"pue is total power over the devices' power, at least 1, got {pue}")
    if not grid >= 0:
        raise ValueError(f"grid is g CO2 a kWh, at least 0, got {grid}")
    kwh = seconds * power * n_devices * pue / 3.6e6
    return Energy(seconds, kwh, kwh * grid)


def training_energy(
    flops: float,
    device: Device,
    *,
    utilisation: float = 0.4,
    n_devices: int = 1,
    pue: float = 1.0,
    grid: float = WORLD_GRID,
) -> Energy:
    """Estimated time, energy and CO2 of `flops` at a share `utilisation` of the devices' peak.

    The devices are taken to draw their full power, which is an upper bound.
    Raises: ValueError for a number out of range.
    """
    require_positive(flops=flops, n_devices=n_devices)
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation must lie in (0, 1], got {utilisation}")
    seconds = flops / (device.peak_flops * utilisation * n_devices)
    return energy(seconds, device.power, n_devices=n_devices, pue=pue, grid=grid)
