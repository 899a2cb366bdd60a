"""Temporary folders: gone when their process ends, however it ends, and never while it lives."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llmr_ref.grading import scratch
from llmr_ref.grading.scratch import IN_USE, PREFIX, ScratchFolder, remove_abandoned

MODULE = Path(scratch.__file__)
OTHER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("scratch", sys.argv[1])
scratch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scratch)
folder = scratch.ScratchFolder()
print(folder.name, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def other_process():
    """A process of its own with a scratch folder, and the folder."""
    process = subprocess.Popen([sys.executable, "-c", OTHER, str(MODULE)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_removed_when_it_is_closed_and_when_its_process_ends():
    own = ScratchFolder()
    assert Path(own.name, IN_USE).is_file()
    own.cleanup()
    own.cleanup()
    assert not Path(own.name).exists()
    process, folder = other_process()
    assert folder.is_dir()
    process.communicate("\n")
    assert process.returncode == 0 and not folder.exists()


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(temporary):
    dead, abandoned = other_process()
    living, used = other_process()
    own = ScratchFolder()
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert abandoned.is_dir()
    remove_abandoned()
    assert sorted(temporary.iterdir()) == sorted([used, Path(own.name)])
    living.communicate("\n")
    own.cleanup()
    assert list(temporary.iterdir()) == []


def test_what_only_looks_like_a_scratch_folder_stays(temporary):
    (temporary / f"{PREFIX}mine").mkdir()
    (temporary / f"{PREFIX}mine" / "notes").touch()
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / IN_USE).touch()
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    before = sorted(temporary.rglob("*"))
    remove_abandoned()
    assert sorted(temporary.rglob("*")) == before
