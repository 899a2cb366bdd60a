"""Grade courses on a disk that is full and on file systems that are read-only; say what happened as JSON.

Run by test_machine_faults.py under bubblewrap, where DISK is a small file system of its own.
"""

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

from course_folder import Course, exit_code_and_words

KILOBYTE = 1 << 10


def leave_free(disk: Path, kilobytes: int) -> None:
    """Fill the disk but for so much."""
    state = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, state.f_bavail * state.f_frsize - kilobytes * KILOBYTE)))


def attempt(course: Course) -> dict:
    code, words = exit_code_and_words(course)
    with sqlite3.connect(f"file:{course.root / 'gradebook.db'}?mode=ro", uri=True) as db:
        (integrity,) = db.execute("PRAGMA integrity_check").fetchone()
    graded = sorted(p.parts[-3] for p in course.root.glob("autograded/*/*/*.ipynb"))
    return {"code": code, "words": words, "integrity": integrity, "graded": graded}


def main(start: Path, disk: Path, back: Path, read_only: list[str]) -> None:
    said = {}
    shutil.copytree(start, disk / "course")
    course = Course(disk / "course")
    for kilobytes in (0, 16, 120, 400):
        leave_free(disk, kilobytes)
        said[f"{kilobytes} KB free"] = attempt(course)
        (disk / "filler").unlink()
    shutil.copytree(course.root, back)
    for root in read_only:
        said[Path(root).name] = attempt(Course(Path(root)))
    print(json.dumps(said))


if __name__ == "__main__":
    start, disk, back, *read_only = sys.argv[1:]
    main(Path(start), Path(disk), Path(back), read_only)
