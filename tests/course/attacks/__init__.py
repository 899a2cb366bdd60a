"""Hostile submissions, thought up like the best student of the class; `llmr attack` runs them.

Each is a function that turns honest work into an attack, with its idea in one sentence and what it would
gain: raise a score, leak what nobody may see, lose a submission, stop or slow the class.
"""

from . import (  # noqa: F401 - each registers its attacks
    forging,
    looking,
    machine,
    notebooks,
    pages,
    rules,
    scores,
    submissions,
)
