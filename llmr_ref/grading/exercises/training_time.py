"""Exercise: how long a training run takes."""

from llmr_ref.accounting import approximate_training_flops
from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.hardware import Device, training_energy


def training_time(
    N: float, D: float, peak: float, devices: int = 1, utilisation: float = 0.4
) -> dict[str, float]:
    device = Device("any", peak, 1.0, 1.0, 1.0)
    C = approximate_training_flops(N, D)
    seconds = training_energy(C, device, utilisation=utilisation, n_devices=devices).seconds
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds,
    }


exercise = Exercise(
    "training_time",
    points=2,
    difficulty=1,
    minutes=15,
    reference=training_time,
    chapter="how-big#training-time",
)


def run(N: float, D: float, peak: float, note: str, **settings: float) -> Case:
    return Case((float(N), float(D), float(peak)), settings, note=note, tolerance=1e-9)


@exercise.property("6 N D FLOPs at the rate that one device reaches", weight=2)
def one_device(draw: Draw):
    yield run(100, 1000, 1e6, "100 parameters, 1000 tokens", utilisation=0.5)
    yield run(124e6, 2.5e9, 312e12, "GPT-2 on one device", utilisation=0.3)
    n, d = draw.integer(1, 9) * 1e8, draw.integer(20, 90) * 1e9
    yield run(n, d, draw.integer(1, 9) * 1e14, "other sizes", utilisation=0.45)


@exercise.property("many devices share the work, and each of them is paid for", weight=2)
def many(draw: Draw):
    yield run(100, 1000, 1e6, "two devices", devices=2, utilisation=0.5)
    yield run(7e9, 2e12, 312e12, "the size of LLaMA 2 7B", devices=1024, utilisation=0.45)
    devices = draw.integer(8, 512)
    yield run(draw.integer(1, 70) * 1e9, 1.4e12, 989e12, "many devices", devices=devices)


@exercise.property("a lower utilisation takes longer, 0.4 by default")
def utilisations(draw: Draw):
    yield run(1000, 10_000, 1e6, "the default")
    yield run(1000, 10_000, 1e6, "utilisation=1", utilisation=1.0)
    yield run(1e9, 2e10, 1e14, "a low one", utilisation=draw.integer(5, 30) / 100, devices=4)


@exercise.wrong(
    "counts the forward pass alone",
    hint="2 N FLOPs a token is what generation costs. Training has a backward pass.",
    see="how-big#flops",
)
def forward_only(N, D, peak, devices=1, utilisation=0.4):
    seconds = 2 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "takes the backward pass to cost as much as the forward pass",
    hint="Backward makes two products where forward makes one.",
    see="how-big#flops",
)
def forward_twice(N, D, peak, devices=1, utilisation=0.4):
    seconds = 4 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "expects the peak of the device",
    hint="No program reaches the peak. Which share of it does this one reach?",
    see="how-big#training-time",
)
def full_peak(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * devices)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "lets a low utilisation make the run shorter",
    hint="Halve the utilisation: should it take half as long or twice as long?",
    see="how-big#training-time",
)
def utilisation_above(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D * utilisation / (peak * devices)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "forgets that there are many devices",
    hint="How many FLOPs do all devices together do in a second?",
    see="how-big#training-time",
)
def rate_of_one(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "counts the hours of one device",
    hint="Every device is paid for while the run lasts.",
    see="how-big#training-time",
)
def hours_of_one(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "divides the hours by the devices once more",
    hint="Device-hours do not depend on how many devices share the work.",
    see="how-big#training-time",
)
def hours_twice(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds / devices / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "takes an hour for 60 seconds",
    hint="How many seconds has an hour?",
    see="how-big#training-time",
)
def minutes(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 60,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "gives the tokens of one device a second",
    hint="The run as a whole reads D tokens in this time.",
    see="how-big#training-time",
)
def tokens_of_one(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds / devices,
    }


@exercise.wrong(
    "forgets the number of tokens",
    hint="6 N is the cost of one token.",
    see="how-big#flops",
)
def per_token(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.wrong(
    "gives seconds per token",
    hint="Tokens per second is the other way round.",
    see="how-big#training-time",
)
def seconds_per_token(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": seconds / D,
    }


@exercise.wrong(
    "gives device-days",
    hint="Device-hours are asked for.",
    see="how-big#training-time",
)
def days(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 86400,
        "tokens_per_second": D / seconds,
    }


@exercise.right("one fraction")
def one_fraction(N, D, peak, devices=1, utilisation=0.4):
    seconds = 6 * N * D / (peak * devices * utilisation)
    return {
        "seconds": seconds,
        "device_hours": seconds * devices / 3600,
        "tokens_per_second": D / seconds,
    }


@exercise.right("a rate first")
def rate_first(N, D, peak, devices=1, utilisation=0.4):
    per_device = peak * utilisation / (6 * N)  # tokens a second
    rate = per_device * devices
    return dict(seconds=D / rate, device_hours=D / per_device / 3600, tokens_per_second=rate)


@exercise.right("forward and backward apart")
def apart(N, D, peak, devices=1, utilisation=0.4):
    forward = 2 * N * D
    backward = 2 * forward
    hours = (forward + backward) / peak / utilisation / 60 / 60
    seconds = hours / devices * 3600
    return {"seconds": seconds, "device_hours": hours, "tokens_per_second": D / seconds}
