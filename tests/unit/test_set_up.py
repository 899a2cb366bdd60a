"""Set-up in a small repository of its own: real processes, signals and files, pretended packages."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmr_ref import set_up

SOURCE = Path(set_up.__file__)

# Runs the real set-up with the three long commands exchanged for the ones given as JSON.
DRIVER = f"""
import json, os, sys
from pathlib import Path
sys.path.insert(0, {str(SOURCE.parent)!r})
import set_up
steps = json.loads(os.environ["STEPS"])
set_up.install_steps = lambda root: [tuple(step) for step in steps["install"]]
set_up.project_step = lambda root: tuple(steps["project"])
os.geteuid = lambda: int(os.environ["EUID_HERE"])
sys.exit(set_up.main(Path(sys.argv[1])))
"""


def step(name: str, code: str) -> tuple[str, list[str]]:
    """A step that writes its name in the journal, then runs `code`."""
    note = f"open('journal', 'a').write({name + chr(10)!r})"
    prelude = f"import os, sys, time; from pathlib import Path; os.chdir(sys.argv[1]); {note}; "
    return (name, [sys.executable, "-c", prelude + code])


MAKE = step("make", "Path('.venv/bin').mkdir(parents=True); Path('.venv/bin/python').touch()")
FILL = step("fill", "Path('.venv/packages').write_text(Path('requirements.lock').read_text())")
FAIL = step("fail", "print('ERROR: no matching distribution for torch'); sys.exit(3)")
WAIT = step("wait", "Path('waiting').touch(); time.sleep(float(os.environ.get('PAUSE', 60)))")
PROJECT = step("project", "pass")


class Repository:
    def __init__(self, root: Path, commands: Path):
        self.root = root
        self.commands = commands
        (root / "requirements.lock").write_text("torch==2.13.0\n")
        self.write_pyproject("click>=8")
        for name in ("chromium", "bwrap"):
            self.provide(name)

    def write_pyproject(self, dependency: str, comment: str = "") -> None:
        (self.root / "pyproject.toml").write_text(
            f'[project]\nname = "x"\ndependencies = ["{dependency}"]  # {comment}\n'
            '[dependency-groups]\ndata = ["plays==3.0.0"]\n'
        )

    def provide(self, name: str, script: str = "exit 0") -> None:
        """Put a command on the PATH that set-up sees."""
        path = self.commands / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self, *install, euid: int = 0, **environment: str) -> subprocess.Popen:
        def with_place(a_step):
            return (a_step[0], [*a_step[1], str(self.root)])

        steps = {"install": [with_place(s) for s in install], "project": with_place(PROJECT)}
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "PATH": f"{self.commands}:{self.commands}/system",
                "STEPS": json.dumps(steps),
                "EUID_HERE": str(euid),
                **environment,
            },
        )

    def run(self, *install, **options) -> tuple[int, str]:
        process = self.start(*install, **options)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.root / name).exists():
            assert time.monotonic() < deadline, f"{name} did not appear"
            time.sleep(0.02)

    @property
    def journal(self) -> list[str]:
        path = self.root / "journal"
        return path.read_text().split() if path.exists() else []

    @property
    def packages(self) -> str | None:
        """What the environment holds: what the lock said when it was filled."""
        path = self.root / ".venv" / "packages"
        return path.read_text() if path.exists() else None

    def assert_nothing_half_made(self) -> None:
        assert not (self.root / ".venv.previous").exists()
        environment = self.root / ".venv"
        assert not environment.exists() or (environment / ".ready").exists()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "repo").mkdir()
    (tmp_path / "bin").mkdir()
    return Repository(tmp_path / "repo", tmp_path / "bin")


def test_makes_the_environment_once_and_then_does_nothing(repository):
    assert repository.run(MAKE, FILL)[0] == 0
    assert repository.journal == ["make", "fill"]
    code, output = repository.run(MAKE, FILL)
    assert (code, output) == (0, "")
    assert repository.journal == ["make", "fill"]


def test_new_data_packages_remake_the_environment(repository):
    repository.run(MAKE, FILL)
    pyproject = repository.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("plays==3.0.0", "plays==4"))
    repository.run(MAKE, FILL)
    assert repository.journal == ["make", "fill", "make", "fill"]


def test_a_comment_changes_nothing_but_a_new_lock_remakes_the_environment(repository):
    repository.run(MAKE, FILL)
    repository.write_pyproject("click>=8", comment="another reason")
    (repository.root / "requirements.lock").write_text("# a header\ntorch==2.13.0  # via llmr\n")
    repository.run(MAKE, FILL)
    assert repository.journal == ["make", "fill"]
    (repository.root / "requirements.lock").write_text("torch==9\n")
    assert repository.run(MAKE, FILL)[0] == 0
    assert repository.journal == ["make", "fill"] * 2
    assert repository.packages == "torch==9\n"
    repository.assert_nothing_half_made()


def test_a_change_of_the_project_alone_installs_the_project_alone(repository):
    repository.run(MAKE, FILL)
    repository.write_pyproject("click>=9")
    assert repository.run(MAKE, FILL)[0] == 0
    assert repository.journal == ["make", "fill", "project"]
    assert repository.run(MAKE, FILL) == (0, "")


def test_a_moved_repository_remakes_its_environment(repository, tmp_path):
    repository.run(MAKE, FILL)
    repository.root = repository.root.rename(tmp_path / "moved")
    assert repository.run(MAKE, FILL)[0] == 0
    assert repository.journal == ["make", "fill"] * 2


def test_a_failure_leaves_nothing_and_says_so_in_one_sentence(repository):
    code, output = repository.run(MAKE, FAIL)
    assert code == 1
    assert not (repository.root / ".venv").exists()
    last = output.strip().splitlines()[-1]
    assert last.startswith("Set-up failed while fail (")
    assert "exit code 3: ERROR: no matching distribution for torch" in last
    assert "no matching distribution" in (repository.root / "_build/set-up.log").read_text()


def test_a_failing_upgrade_keeps_the_environment_that_worked(repository):
    repository.run(MAKE, FILL)
    (repository.root / "requirements.lock").write_text("torch==9\n")
    assert repository.run(MAKE, FAIL)[0] == 1
    assert repository.packages == "torch==2.13.0\n"
    repository.assert_nothing_half_made()
    assert repository.run(MAKE, FILL)[0] == 0, "the next run tries again"
    assert repository.packages == "torch==9\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("worked_before", [False, True])
def test_a_signal_leaves_what_was_there_before(repository, number, worked_before):
    if worked_before:
        repository.run(MAKE, FILL)
        (repository.root / "requirements.lock").write_text("torch==9\n")
    process = repository.start(MAKE, WAIT, FILL)
    repository.wait_for("waiting")
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Nothing half-made is left." in output
    assert repository.packages == ("torch==2.13.0\n" if worked_before else None)
    repository.assert_nothing_half_made()


@pytest.mark.parametrize("worked_before", [False, True])
def test_the_run_after_a_kill_recovers_and_waits_for_what_the_killed_one_started(
    repository, worked_before
):
    if worked_before:
        repository.run(MAKE, FILL)
        (repository.root / "requirements.lock").write_text("torch==9\n")
    process = repository.start(MAKE, WAIT, PAUSE="2")
    repository.wait_for("waiting")
    process.kill()
    process.communicate(timeout=30)
    code, output = repository.run(MAKE, FILL)
    assert code == 0
    assert "Another set-up is running in this folder" in output
    assert repository.packages == (repository.root / "requirements.lock").read_text()
    repository.assert_nothing_half_made()


def test_two_set_ups_at_once_make_one_environment(repository):
    first = repository.start(MAKE, WAIT, FILL, PAUSE="1")
    repository.wait_for("waiting")
    code, output = repository.run(MAKE, WAIT, FILL, PAUSE="1")
    assert first.wait(timeout=30) == 0
    first.communicate()
    assert code == 0 and "waiting for it" in output
    assert repository.journal == ["make", "wait", "fill"]


def test_an_unfinished_environment_is_not_mistaken_for_a_finished_one(repository):
    (repository.root / ".venv" / "bin").mkdir(parents=True)
    (repository.root / ".venv" / "bin" / "python").touch()
    assert repository.run(MAKE, FILL)[0] == 0
    assert repository.journal == ["make", "fill"]


# --- system packages --------------------------------------------------------------------------


def test_without_root_the_line_to_run_is_printed_and_nothing_is_made(repository):
    shutil.rmtree(repository.commands)
    repository.commands.mkdir()
    repository.provide("apt-get", "echo must not run; exit 1")
    code, output = repository.run(MAKE, FILL, euid=1000)
    assert code == 1
    chromium = "chromium-browser" if set_up.is_ubuntu() else "chromium"
    assert output.splitlines()[-1].strip() == (
        f"sudo apt-get update && sudo apt-get install -y {chromium} bubblewrap fonts-dejavu-core"
    )
    assert repository.journal == [] and not (repository.root / ".venv").exists()


def test_root_installs_what_is_missing_with_apt(repository):
    (repository.commands / "bwrap").unlink()
    record, new = repository.root / "apt", repository.commands / "bwrap"
    repository.provide(
        "apt-get",
        f'echo "$DEBIAN_FRONTEND $@" >> {record}\n'
        f"if [ $1 = install ]; then printf '#!/bin/sh\\n' > {new}; /bin/chmod +x {new}; fi",
    )
    code, output = repository.run(MAKE, FILL)
    assert code == 0, output
    assert record.read_text().splitlines() == [
        "noninteractive update",
        "noninteractive install -y --no-install-recommends bubblewrap",
    ]
    assert repository.journal == ["make", "fill"]


def test_a_failing_apt_stops_set_up(repository):
    (repository.commands / "bwrap").unlink()
    repository.provide("apt-get", "echo 'E: Unable to locate package'; exit 100")
    code, output = repository.run(MAKE, FILL)
    assert code == 1
    assert "exit code 100: E: Unable to locate package" in output
    assert repository.journal == []


def test_a_package_that_apt_did_not_bring_is_named(repository):
    (repository.commands / "chromium").unlink()
    repository.provide("apt-get")
    code, output = repository.run(MAKE, FILL)
    assert code == 1
    assert re.search(r"yet chromium\S* is still not to be found", output)


def test_a_sandbox_that_cannot_start_is_a_loud_warning(repository):
    repository.provide("bwrap", "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    code, output = repository.run(MAKE, FILL)
    assert code == 0
    assert "Warning: bubblewrap cannot make a sandbox here" in output
    assert "No permissions to create new namespace" in output


def test_the_sandbox_check_agrees_with_bubblewrap():
    assert shutil.which("bwrap"), "bubblewrap is part of the set-up"
    ended = subprocess.run(
        ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], check=False, capture_output=True
    )
    assert (set_up.why_no_sandbox() is None) == (ended.returncode == 0)


# --- Python -----------------------------------------------------------------------------------


def test_an_old_python_is_told_so():
    with pytest.raises(set_up.SetUpError, match=r"Python 3\.9 is too old.*3\.11 or newer"):
        set_up.check_python((3, 9, 2))
    set_up.check_python((3, 11, 0))


def test_an_old_python_can_read_the_script_and_it_needs_the_standard_library_alone():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 7))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert imported <= sys.stdlib_module_names


def test_the_commands_install_the_lock_and_then_data_and_project_without_dependencies(repository):
    root = str(repository.root)
    commands = [command for _, command in set_up.install_steps(repository.root)]
    venv, lock, data, project, trial = commands
    assert venv[1:3] == ["-m", "venv"] and venv[-1] == f"{root}/.venv"
    assert lock[-2:] == ["-r", f"{root}/requirements.lock"]
    assert "--no-deps" in data and data[-1] == "plays==3.0.0"
    assert "--no-deps" in project and project[-2:] == ["--editable", root]
    assert all(command[0] == f"{root}/.venv/bin/python" for command in (lock, data, project, trial))
    outside = os.path.realpath(sys.executable)
    assert venv[0] == outside, "an environment cannot make the one that replaces it"
