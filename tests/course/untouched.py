"""Notebooks run as on a student's laptop: real checks, a minute of processor time, 4 GB of memory.

One process loads what notebooks need and runs each in a fork of itself. A path on standard input, one line
of JSON back.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

ADDRESS_SPACE = 4 * 10**9
CPU_SECONDS = 60


def run(path: str) -> dict[str, Any]:
    """Run all cells in IPython, as a kernel does, errors and all."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    shell = InteractiveShell.instance()
    cells = [c for c in json.loads(Path(path).read_text())["cells"] if c["cell_type"] == "code"]
    errors, scores, said = [], {}, ""
    for cell in cells:
        source = "".join(cell["source"])
        with capture_output() as captured:
            done = shell.run_cell(source, store_history=True)
        said += captured.stdout
        if not done.success:
            errors.append(f"{cell['id']}: {done.error_before_exec or done.error_in_exec!r}")
        if cell["metadata"].get("nbgrader", {}).get("grade"):
            scores[source] = done.result
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "errors": errors, "scores": scores, "said": said, "cells": len(cells),
        "peak_bytes": usage.ru_maxrss * 1024, "seconds": usage.ru_utime + usage.ru_stime,
    }  # fmt: skip


def main() -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    import llmr_ref.grading  # noqa: F401 - and torch, before any fork

    config = Config()
    config.HistoryManager.enabled = False  # no thread that a fork would lose
    shell = InteractiveShell.instance(config=config)
    shell.run_cell("import torch, matplotlib.pyplot; torch.set_num_threads(1)")
    for line in sys.stdin:
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                reply = json.dumps(run(line.rstrip("\n")))
            except BaseException as error:
                reply = json.dumps({"errors": [repr(error)]})
            with os.fdopen(writes, "w") as pipe:
                pipe.write(reply)
            os._exit(0)
        os.close(writes)
        with os.fdopen(reads) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        sys.__stdout__.write((text or json.dumps({"errors": [f"ended with {ended}"]})) + "\n")
        sys.__stdout__.flush()


if __name__ == "__main__":
    main()
