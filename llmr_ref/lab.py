"""JupyterLab for a student (release notebooks and chapters) or an instructor (the whole course)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

# No pop-up about news and no look for updates: after the set-up nothing needs the network.
OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    }
}


def release_notebook(course: Path, assignment: str) -> Path:
    return course / "release" / assignment / f"{assignment}.ipynb"


def ensure_release(course: Path, assignment: str) -> None:
    """Generate the release if there is none. One that is there may hold answers: it is left alone."""
    notebook = release_notebook(course, assignment)
    source = course / "source" / assignment / f"{assignment}.ipynb"
    if not notebook.exists():
        from llmr_ref.grading.course import generate

        generate(course, assignment)
    elif notebook.stat().st_mtime < source.stat().st_mtime:
        click.echo(
            f"Note: {notebook} is older than its source. To replace it, answers included: "
            f"nbgrader generate_assignment {assignment} --force"
        )


def link(place: Path, target: Path) -> None:
    if place.is_symlink():
        place.unlink()
    place.symlink_to(target.resolve())


def student_folder(root: Path, course: Path) -> Path:
    """_build/lab: the assignments to solve and the chapters to read, as links, and nothing else."""
    folder = root / "_build" / "lab"
    chapters = folder / "chapters"
    chapters.mkdir(parents=True, exist_ok=True)
    link(folder / "assignments", course / "release")
    for part in sorted((root / "book").iterdir()):
        if part.suffix == ".ipynb" or (part.is_dir() and part.name[0] not in "_."):
            link(chapters / part.name, part)
    return folder


def settings_folder(root: Path) -> Path:
    folder = root / "_build" / "lab-settings"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overrides.json").write_text(json.dumps(OVERRIDES, indent=1))
    return folder


def command(folder: Path, settings: Path, start: str, arguments: tuple[str, ...]) -> list[str]:
    as_root = ["--allow-root"] if os.geteuid() == 0 else []
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.default_url={start}",
        f"--LabApp.app_settings_dir={settings}",
        "--LabApp.extension_manager=readonly",
        *as_root,
        *arguments,
    ]


def run(
    root: Path,
    course: Path,
    assignments: list[str],
    *,
    instructor: bool = False,
    arguments: tuple[str, ...] = (),
) -> NoReturn:
    """Become a JupyterLab server; it works in the folder it shows, where nbgrader looks for its course."""
    course = course.resolve()
    for assignment in assignments:
        ensure_release(course, assignment)
    if instructor:
        folder, start = course, "/lab"
    else:
        folder = student_folder(root, course)
        start = f"/lab/tree/assignments/{assignments[0]}/{assignments[0]}.ipynb"
    os.chdir(folder)
    become = command(folder, settings_folder(root), start, arguments)
    os.execv(become[0], become)
