"""Run the notebook once, in the sandbox, so that formgrader and feedback show its plots and prints."""

import functools
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from nbformat.notebooknode import NotebookNode
from nbgrader.preprocessors import Execute

from llmr_ref.grading import seccomp
from llmr_ref.grading.intake import KEY
from llmr_ref.grading.sandbox import SCRATCH, bubblewrap_command, grading_tier, worker_environment

MAX_STREAM_CHARACTERS = 20_000
HERE = Path(__file__).parent


@functools.cache
def matplotlib_font_lists() -> list[Path]:
    """Matplotlib's list of the system's fonts, which every kernel would otherwise spend seconds on."""
    import matplotlib.font_manager  # writes the list on its first import

    return sorted(Path(matplotlib.get_cachedir()).glob("fontlist-*.json"))


class SandboxedKernelManager(AsyncKernelManager):
    """A kernel in bubblewrap: no network, so it speaks over sockets in a folder that both sides see."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        command = super().format_kernel_cmd(extra_arguments)
        connection = Path(self.connection_file)
        binds = ["--bind", str(connection.parent), str(connection.parent)]
        for fonts in matplotlib_font_lists():
            binds += ["--ro-bind", str(fonts), f"{SCRATCH}/{fonts.name}"]
        bounded = ["prlimit", "--cpu=120", "--core=0", "--fsize=50000000"]
        # CUDA builds of torch reserve much address space; what is really used stays below 2 GiB.
        bounded += ["--data=2147483648", "--as=17179869184"]
        rules = connection.parent / "seccomp"
        rules.write_bytes(seccomp.no_new_processes())
        binds += ["--seccomp", "9"]  # from file descriptor 9, which the shell opens
        quiet = "--IPKernelApp.log_level=50"
        return [
            *("sh", "-c", 'exec "$@" 9< "$0"', str(rules)),
            *bounded,
            *bubblewrap_command(*command, quiet, binds=binds),
        ]


class PlainKernelManager(AsyncKernelManager):
    """Tier 1: an ordinary kernel that still does not find the reference under its name."""

    async def _async_pre_start_kernel(self, **kw: Any) -> Any:
        command, kw = await super()._async_pre_start_kernel(**kw)
        kw["env"] = {**kw.get("env", os.environ), **worker_environment(
            str(HERE / "stand_in"), tempfile.gettempdir())}  # fmt: skip
        return command, kw


class RunForPictures(Execute):
    """Run the notebook so that formgrader and feedback show its plots and prints; scores come elsewhere.

    Nothing that happens here is fatal: a dead kernel or an endless cell leaves the pictures out.
    """

    interrupt_on_timeout = False

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any], km: Any = None
    ) -> tuple[NotebookNode, dict[str, Any]]:
        tier, _ = grading_tier()
        folder = tempfile.mkdtemp(prefix="llmr-kernel-")
        cleared = json.loads(json.dumps(nb))
        self.kernel_manager_class = SandboxedKernelManager if tier == 2 else PlainKernelManager
        self.config.KernelManager.transport = "ipc"
        self.config.KernelManager.ip = f"{folder}/socket"
        self.config.KernelManager.connection_file = f"{folder}/kernel.json"
        try:
            nb, resources = super().preprocess(nb, resources)
        except (
            Exception
        ) as error:  # CellTimeoutError, DeadKernelError, RuntimeError: all the same here
            reason = f"the notebook did not run to its end ({type(error).__name__})"
            self.log.warning("%s: %s", resources["nbgrader"]["student"], reason)
            for cell, blank in zip(nb.cells, cleared["cells"], strict=True):
                if cell.cell_type == "code":
                    cell.outputs = cell.get("outputs") or []
                    cell.source = blank["source"]
            nb.metadata[KEY]["intake"].append(reason)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for cell in nb.cells:
            for output in cell.get("outputs", []):
                _tame(output)
        return nb, resources


def _tame(output: NotebookNode) -> None:
    """Keep text and bitmap pictures, cut what is long: no HTML of a student's reaches an instructor."""
    if output.output_type == "stream" and len(output.text) > MAX_STREAM_CHARACTERS:
        kept = output.text[:MAX_STREAM_CHARACTERS]
        output.text = f"{kept}\n... {len(output.text) - len(kept)} more characters\n"
    if "data" in output:
        kinds = ("text/plain", "image/png", "image/jpeg")
        output.data = NotebookNode({k: v for k, v in output.data.items() if k in kinds})
        if len(output.data.get("text/plain", "")) > MAX_STREAM_CHARACTERS:
            output.data["text/plain"] = output.data["text/plain"][:MAX_STREAM_CHARACTERS] + " ..."
