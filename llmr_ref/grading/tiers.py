"""The three tiers of grading: what each stops and what it does not, in the words of every page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tier:
    """How well a score is protected from the code that it is given to."""

    name: str
    stops: str
    leaves: str


TIERS = {
    0: Tier(
        "stock nbgrader",
        "Nothing. The score is decided inside the student’s own process.",
        "Code that is written to cheat can set its own score, read files and use the network.",
    ),
    1: Tier(
        "a process of its own",
        "The score is decided outside the student’s process, on inputs that the student has not seen. "
        "Limits on time, memory and output end a runaway exercise.",
        "Hostile code can still read the instructor’s files, use the network and disturb other processes.",
    ),
    2: Tier(
        "a process of its own in a sandbox",
        "All that tier 1 stops. The code sees no course file, no reference, no network and no other "
        "submission; what it writes is gone when it ends.",
        "A fault in the kernel or in bubblewrap, and answers that were copied or written by somebody else.",
    ),
}


def tier_in_words(number: int) -> str:
    """ "tier 2, a process of its own in a sandbox"; a number that this version does not know stays one."""
    tier = TIERS.get(number)
    return f"tier {number}, {tier.name}" if tier else f"tier {number}"
