"""Run the hostile submissions: all in one class through our pipeline, each alone on stock nbgrader."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nbconvert.exporters import HTMLExporter
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.server_extensions.formgrader import handlers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from traitlets.config import PyFileConfigLoader

from llmr_ref.grading import pictures, sandbox
from llmr_ref.grading.attack import ASSIGNMENT, ROOT, Attack, Target, load_suite

STOCK_SECONDS = 400  # for an attack and its victim; honest ones need a tenth
RESULTS = ROOT / "_build" / "attacks.json"
MEASURES = ("raised", "leaked", "lost", "stopped")
# Long enough for honest work on a busy machine, short enough for a table of attacks that wait.
SHORT: dict[str, Any] = {"wall_seconds": 5.0, "cpu_seconds": 4}


@dataclasses.dataclass(frozen=True)
class Result:
    """What an attack reached, in words; all empty when it reached nothing."""

    raised: str = ""
    leaked: str = ""
    lost: str = ""
    stopped: str = ""

    @property
    def nothing(self) -> bool:
        return not any(dataclasses.astuple(self))


# --- ours ----------------------------------------------------------------------------------------


def run_ours(attacks: Sequence[Attack], folder: Path) -> tuple[Target, dict[str, Result]]:
    """All attacks in one class, with honest students between them, through the course's own pipeline."""
    target = Target(folder / "course", attacks, ours=True)
    with _environment_kept():
        target.prepare()
        with limits_shortened(), said(target):
            convert(target.root, GenerateAssignment)
            target.hand_in()
            autograde(target)
            with contextlib.suppress(NbGraderException):  # seen as feedback that is not there
                convert(target.root, GenerateFeedback)
            _write_pages(target)
        harm = target.harmed()
        results = {
            a.name: Result(target.raised(a), target.leaked(a), target.lost(a)) for a in attacks
        }
    if harm:  # in one class nobody can say whose doing it was
        results["everybody together"] = Result(stopped=harm)
    return target, results


def convert(root: Path, converter: type) -> None:
    """One of nbgrader's converters with the course's own configuration, in this process."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    config.CourseDirectory.root = str(root)
    coursedir = CourseDirectory(config=config)
    coursedir.assignment_id = ASSIGNMENT
    converter(coursedir=coursedir, config=config).start()


def autograde(target: Target) -> None:
    """Grade the class; when the run ends early, that is what is noted."""
    try:
        convert(target.root, Autograde)
    except Exception as error:
        target.stopped = f"the run ended early: {type(error).__name__}: {str(error)[:200]}"


def _write_pages(target: Target) -> None:
    from llmr_ref.grading.report import write_report

    with contextlib.suppress(FileExistsError):
        (target.root / "exports").mkdir()
    target.log += write_report(target.root, ASSIGNMENT, target.root / "report.html").read_text()


@contextlib.contextmanager
def limits_shortened() -> Iterator[None]:
    """Grade with short limits: attacks that wait are meant to meet them."""
    worker = sandbox.shared_worker(2)
    usual = worker.limits, pictures.LIMITS
    worker.limits = dataclasses.replace(worker.limits, **SHORT)
    pictures.LIMITS = dataclasses.replace(pictures.LIMITS, **SHORT)
    try:
        yield
    finally:
        worker.limits, pictures.LIMITS = usual


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def said(target: Target) -> Iterator[None]:
    """Keep what nbgrader logs."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            target.log += record.getMessage() + "\n"

    logger, keep = logging.getLogger("traitlets"), Keep()
    logger.addHandler(keep)
    try:
        yield
    finally:
        logger.removeHandler(keep)


def formgrader_page(root: Path, notebook: Path) -> str:
    """A graded notebook as formgrader renders it with the course's configuration."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    config.HTMLExporter.template_name = "formgrade"
    config.HTMLExporter.extra_template_basedirs = [
        *config.HTMLExporter.get("extra_template_basedirs", []), handlers.template_path
    ]  # fmt: skip
    names = ("assignment_id", "notebook_id", "submission_id", "base_url", "student", "last_name",
             "first_name", "notebook_path")  # fmt: skip
    resources: dict[str, Any] = {**dict.fromkeys(names, "x"), "index": 0, "total": 1}
    return str(HTMLExporter(config=config).from_filename(str(notebook), resources=resources)[0])


# --- stock ---------------------------------------------------------------------------------------


def run_stock(attack: Attack) -> Result:
    """One attack beside one honest student on stock nbgrader, locked up with a course of its own."""
    folder = Path(tempfile.mkdtemp(prefix="llmr-stock-"))
    target = Target(folder / "home" / "course", [attack], ours=False)
    try:
        with _environment_kept():
            target.prepare()
            (folder / "home" / ".credentials").write_text(target.token("the home folder"))
            for step in ("generate_assignment", "autograde", "generate_feedback"):
                if step == "autograde":
                    target.hand_in()
                if not _locked_up(target, folder / "home", step) and step == "autograde":
                    target.stopped = "the run ended early"
        return Result(
            target.raised(attack), target.leaked(attack), target.lost(attack), target.harmed()
        )
    except FileNotFoundError as error:
        if not Path(str(error.filename)).is_relative_to(target.root):
            raise
        # All of the course lies open to the attack.
        return Result("", "", f"{Path(str(error.filename)).name} of the course", target.stopped)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _locked_up(target: Target, home: Path, step: str) -> bool:
    """Run an nbgrader command where nothing but this course can be harmed; whether all went well.

    The attacks really run here: with processes, memory and files of an ordinary account.
    """
    command = [
        "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/",
        "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--bind", str(home), str(home),
        "--chdir", str(target.root), "--setenv", "HOME", str(home), "prlimit", "--as=12000000000",
        "--fsize=300000000", "--core=0", sys.executable, "-m", "nbgrader", step, ASSIGNMENT,
    ]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    own = {"JUPYTER_CONFIG_DIR": str(home), "IPYTHONDIR": str(home), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, env={**os.environ, **own, "PATH": path}, timeout=STOCK_SECONDS,
            capture_output=True, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        target.stopped = f"no end within {STOCK_SECONDS} s"
        return False
    target.log += done.stdout + done.stderr
    return done.returncode == 0


# --- the command ---------------------------------------------------------------------------------


def main(*, only: str = "", stock: bool = False, jobs: int = 2) -> int:
    """Run the attacks and print what each one reached; 0 when ours gave nothing away, else 1.

    Raises: RuntimeError outside of a checkout, without bubblewrap, or for an attack that does not exist.
    """
    suite = load_suite()
    if only and only not in suite:
        raise RuntimeError(f"There is no attack {only!r}. There are: {', '.join(sorted(suite))}.")
    attacks = [a for a in suite.values() if not only or a.name == only]
    tier, reason = sandbox.available_tier()
    if tier < 2:
        raise RuntimeError(f"The attacks are run in tier 2, which is not available here: {reason}.")
    console = Console()
    columns: dict[str, dict[str, Result]] = {}
    with (
        console.status(f"{len(attacks)} attacks in one class"),
        tempfile.TemporaryDirectory() as folder,
    ):
        _, columns["ours"] = run_ours(attacks, Path(folder))
    if stock:
        columns["stock nbgrader"] = _all_stock(attacks, jobs, console)
    console.print(_table(attacks, columns))
    for name, results in columns.items():
        looked = {a.name for a in attacks if a.look}
        sums = {m: sum(bool(getattr(r, m)) for n, r in results.items() if n not in looked)
                for m in MEASURES}  # fmt: skip
        console.print(f"{name}: " + ", ".join(f"{m} {n}" for m, n in sums.items()))
        if name == "ours":
            held = not any(sums.values())
    return 0 if held else 1


def _all_stock(attacks: Sequence[Attack], jobs: int, console: Console) -> dict[str, Result]:
    """Every attack on stock nbgrader; what was found before for an attack that is the same is kept."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results = {a.name: Result(**known[_key(a)]) for a in attacks if _key(a) in known}
    todo = [a for a in attacks if a.name not in results]
    failed: list[str] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("stock nbgrader", total=len(attacks), completed=len(results))
        command = [sys.executable, "-m", __name__]
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            started = {
                pool.submit(subprocess.run, [*command, a.name], capture_output=True, text=True): a
                for a in todo
            }
            for done in concurrent.futures.as_completed(started):
                attack, process = started[done], done.result()
                progress.advance(task)
                if process.returncode != 0:
                    failed.append(f"{attack.name}: {process.stderr[-800:]}")
                    continue
                results[attack.name] = Result(**json.loads(process.stdout.splitlines()[-1]))
                known[_key(attack)] = dataclasses.asdict(results[attack.name])
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(known, indent=1))
    if failed:  # all others are kept: the same command tries these again
        raise RuntimeError("on stock nbgrader failed\n" + "\n".join(failed))
    return results


def _key(attack: Attack) -> str:
    source = textwrap.dedent(inspect.getsource(attack.change))
    return f"{attack.name} {hashlib.sha256(source.encode()).hexdigest()[:16]}"


def _table(attacks: Sequence[Attack], columns: dict[str, dict[str, Result]]) -> Table:
    table = Table(title=f"{len(attacks)} hostile submissions", show_lines=False)
    table.add_column("attack")
    for name in columns:
        table.add_column(name, overflow="fold")
    for name in dict.fromkeys(
        [*(a.name for a in attacks), *(n for c in columns.values() for n in c)]
    ):
        rows = [_words(results.get(name, Result())) for results in columns.values()]
        look = any(a.name == name and a.look for a in attacks)
        table.add_row(f"{name} (to look at)" if look else name, *rows)
    return table


def _words(result: Result) -> str:
    said = [f"{m}: {getattr(result, m)}" for m in MEASURES if getattr(result, m)]
    return "; ".join(said) or "nothing"


if __name__ == "__main__":  # one attack on stock nbgrader, in a process of its own
    print(json.dumps(dataclasses.asdict(run_stock(load_suite()[sys.argv[1]]))))
