"""Exercise: how to divide a budget of FLOPs between the model and the data."""

import math

from llmr_ref.grading.exercise import Case, Draw, Exercise
from llmr_ref.scaling import ChinchillaLaw


def compute_optimal(
    C: float, E: float, A: float, B: float, alpha: float, beta: float
) -> dict[str, float]:
    law = ChinchillaLaw(E, A, B, alpha, beta)
    N, D = law.optimal(C)
    return {"N": N, "D": D, "loss": law(N, D)}


exercise = Exercise(
    "compute_optimal",
    points=3,
    difficulty=3,
    minutes=25,
    reference=compute_optimal,
    chapter="scaling#compute-optimal",
)

CLOSE = 1e-6  # of an N or D, relative; a numerical search is near enough


@exercise.property("of all N and D with 6 N D = C the pair of lowest loss", weight=2)
def lowest(draw: Draw):
    yield Case((600.0, 1.0, 2.0, 8.0, 0.5, 0.5), note="equal exponents", tolerance=CLOSE)
    yield Case((6e6, 1.5, 10.0, 10.0, 0.4, 0.3), note="equal coefficients", tolerance=CLOSE)
    A, B = float(draw.integer(200, 900)), float(draw.integer(200, 900))
    exponents = draw.integer(25, 34) / 100, draw.integer(36, 45) / 100
    yield Case((1e20, 1.8, A, B, *exponents), note="another law", tolerance=CLOSE)


@exercise.property("published laws give the published sizes", weight=1)
def published(draw: Draw):
    law = (1.69, 406.4, 410.7, 0.34, 0.28)
    yield Case((5.76e23, *law), note="Chinchilla's budget", tolerance=CLOSE)
    yield Case((draw.integer(1, 9) * 1e21, *law), note="another budget", tolerance=CLOSE)
    refit = (1.8172, 482.01, 2085.43, 0.3478, 0.3658)
    yield Case((draw.integer(1, 9) * 1e24, *refit), note="the law as refitted", tolerance=CLOSE)


@exercise.property("a hundred times the compute divides as the exponents say", weight=1)
def growth(draw: Draw):
    law = (1.2, 300.0, 700.0, draw.integer(40, 60) / 100, 0.25)
    for C in (1e18, 1e20):
        yield Case((C, *law), note=f"C={C:.0e}", tolerance=CLOSE)


@exercise.wrong(
    "spends one FLOP on a parameter and token",
    hint="A training step costs 6 FLOPs per parameter and token. Where do they go in?",
    see="scaling#compute-optimal",
)
def no_six(C, E, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * C ** (beta / (alpha + beta))
    D = C / N
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "spends 2 FLOPs on a parameter and token",
    hint="That is the forward pass. Training costs three times as much.",
    see="scaling#compute-optimal",
)
def forward_only(C, E, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 2) ** (beta / (alpha + beta))
    D = C / (2 * N)
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "lets N grow with alpha instead of beta",
    hint="If more data helps quickly (beta large), less data is enough and the rest goes into"
    " the model. Which exponent does N get?",
    see="scaling#compute-optimal",
)
def exponents_swapped(C, E, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (alpha / (alpha + beta))
    D = C / (6 * N)
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "turns the ratio in G round",
    hint="The more a small model costs (A large), the larger the best one. Is your N larger for"
    " a larger A?",
    see="scaling#compute-optimal",
)
def ratio_inverted(C, E, A, B, alpha, beta):
    G = (beta * B / (alpha * A)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (beta / (alpha + beta))
    D = C / (6 * N)
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "balances the two terms instead of their slopes",
    hint="At the minimum the sum no longer changes: the slopes are equal, and a slope has the"
    " exponent as a factor.",
    see="scaling#compute-optimal",
)
def no_derivative(C, E, A, B, alpha, beta):
    G = (A / B) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (beta / (alpha + beta))
    D = C / (6 * N)
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "forgets the exponent of G",
    hint="Solve alpha A / N^alpha = beta B / D^beta with D = C / (6 N) for N. To which power is N?",
    see="scaling#compute-optimal",
)
def no_root(C, E, A, B, alpha, beta):
    G = alpha * A / (beta * B)
    N = G * (C / 6) ** (beta / (alpha + beta))
    D = C / (6 * N)
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "divides the budget evenly between N and D",
    hint="N and D are equal only by accident. What do the coefficients say?",
    see="scaling#compute-optimal",
)
def equal_split(C, E, A, B, alpha, beta):
    N = D = (C / 6) ** 0.5
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "takes twenty tokens per parameter",
    hint="That is what one law says near one budget. Compute it from the law that is given.",
    see="scaling#twenty-tokens",
)
def twenty(C, E, A, B, alpha, beta):
    N = (C / 6 / 20) ** 0.5
    D = 20 * N
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "lets N grow with the root of C in any law",
    hint="The exponents of N and D are 1/2 only if alpha and beta are equal.",
    see="scaling#compute-optimal",
)
def square_root(C, E, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** 0.5
    D = C / (6 * N)
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.wrong(
    "leaves the irreducible loss out",
    hint="No budget brings the loss below E.",
    see="scaling#the-irreducible-loss",
)
def no_floor(C, E, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (beta / (alpha + beta))
    D = C / (6 * N)
    return {"N": N, "D": D, "loss": A / N**alpha + B / D**beta}


@exercise.wrong(
    "lets the loss grow with N and D",
    hint="More parameters and more data lower the loss. Which sign have the exponents?",
    see="scaling#power-laws",
)
def growing(C, E, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (beta / (alpha + beta))
    D = C / (6 * N)
    return {"N": N, "D": D, "loss": E + A * N**alpha + B * D**beta}


@exercise.wrong(
    "forgets the 6 in D",
    hint="6 N D is the whole budget: multiply your N and D to check.",
    see="scaling#compute-optimal",
)
def all_into_N(C, E, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (beta / (alpha + beta))
    D = C / N
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.right("the formula")
def formula(C, E, A, B, alpha, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (beta / (alpha + beta))
    D = C / (6 * N)
    return {"N": N, "D": D, "loss": E + A / N**alpha + B / D**beta}


@exercise.right("a search along the budget")
def ternary_search(C, E, A, B, alpha, beta):
    def slope(n):  # of the loss in log N, along 6 N D = C
        d = math.log(C / 6) - n
        return beta * B * math.exp(-beta * d) - alpha * A * math.exp(-alpha * n)

    low, high = -50.0, 150.0
    for _ in range(200):
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    N, D = math.exp(low), math.exp(math.log(C / 6) - low)
    return {"N": N, "D": D, "loss": E + A * N**-alpha + B * D**-beta}


@exercise.right("in logarithms")
def logarithms(C, E, A, B, alpha, beta):
    total = math.log(C / 6)
    n = (math.log(alpha * A) - math.log(beta * B) + beta * total) / (alpha + beta)
    N, D = math.exp(n), math.exp(total - n)
    return dict(N=N, D=D, loss=E + A * math.exp(-alpha * n) + B * math.exp(-beta * (total - n)))
