"""Which mutants of an exercise keep full marks: run in a fork that may hang, grow or die."""

import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmr_ref.grading import runner
from llmr_ref.grading.exercise import Exercise
from llmr_ref.grading.mutants import Mutant, mutants, sample
from llmr_ref.grading.verdict import Trial, difference

# An endless loop costs this much, plus five times what the right answer takes.
SPARE_SECONDS = 2
SPARE_BYTES = 2**30
IDLE_SECONDS = 60.0  # for one that waits and uses no processor time


@dataclass
class Hunt:
    """What became of the mutants of one exercise.

    made, tried: how many there are and how many were run. survivors: those that keep full marks and are
    not listed as equivalent. faults: what is wrong with the list, or with the right answer itself.
    """

    made: int = 0
    tried: int = 0
    equivalent: int = 0
    caught: int = 0
    survivors: list[Mutant] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def hunt(exercise: Exercise, trials: Sequence[Trial], at_most: int | None) -> Hunt:
    """Run `at_most` mutants (None: all) on the trials. Needs a process without other threads."""
    made = mutants(exercise)
    listed = exercise.equivalents
    tried = made if at_most is None else sample(made, at_most, set(listed), exercise.name)
    result = Hunt(made=len(made), tried=len(tried))
    missing = set(listed) - {m.change for m in made}
    result.faults += [f"no such mutant: {change}" for change in listed if change in missing]
    right = exercise.right_answers[0].source(exercise.name)
    fates = fates_of(exercise, [right, *(m.source for m in tried)], trials)
    if fates[0]:
        result.faults.append(
            f"the first right answer is not right, so nothing is known: {fates[0]}"
        )
        return result
    for mutant, fate in zip(tried, fates[1:], strict=True):
        if mutant.change in listed and fate:
            result.faults.append(f"listed as equivalent but caught ({fate}): {mutant.change}")
        elif mutant.change in listed:
            result.equivalent += 1
        elif fate:
            result.caught += 1
        else:
            result.survivors.append(mutant)
    return result


def fates_of(exercise: Exercise, sources: Sequence[str], trials: Sequence[Trial]) -> list[str]:
    """By what each source was caught; empty for one that is right on every trial.

    The first is taken to be right: the others may use five times its processor time.
    """
    context = multiprocessing.get_context("fork")
    fates: list[str] = []
    while len(fates) < len(sources):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(
            target=_run, args=(exercise, sources, trials, len(fates), theirs), daemon=True
        )
        child.start()
        theirs.close()
        try:
            while ours.poll(IDLE_SECONDS):
                fates.append(ours.recv())
        except EOFError:
            pass
        ours.close()
        child.kill()
        child.join()
        if len(fates) < len(sources):
            fates.append("never ends, or takes its process down")
    return fates


def _run(
    exercise: Exercise,
    sources: Sequence[str],
    trials: Sequence[Trial],
    first: int,
    pipe: Connection,
) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + SPARE_BYTES
    _lower(resource.RLIMIT_AS, most)
    _lower(resource.RLIMIT_CORE, 0)
    start = time.process_time()
    fate = _fate(exercise, sources[0], trials)
    allowed = SPARE_SECONDS + 5 * (time.process_time() - start)
    if first == 0:
        pipe.send(fate)
    for source in sources[max(first, 1) :]:
        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + allowed))
        pipe.send(_fate(exercise, source, trials))


def _lower(kind: int, value: int) -> None:
    """Set the soft limit alone, so that it can be raised again for the next one."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _fate(exercise: Exercise, source: str, trials: Sequence[Trial]) -> str:
    module = sys.modules[exercise.right_answers[0].target.__module__]
    space: dict[str, Any] = vars(module) | {exercise.name: None}
    try:
        exec(compile(source, "<mutant>", "exec"), space)
    except Exception as error:
        return f"raises {type(error).__name__} when it is defined"
    for trial in trials:
        outcome = runner.run_call(space[exercise.name], trial.call)
        fault = difference(trial.expected, outcome, trial.case)
        if fault:
            return fault
    return ""
