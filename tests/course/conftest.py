"""Courses to test with: a released one, a copy of it for each test, and one graded sample class."""

import shutil
import time

import pytest
from course_folder import ASSIGNMENT, ROOT, SECRET, STUDENTS, Course, GradedClass, files

from llmr_ref.grading.sample_class import sample_class, write_sample_class


@pytest.fixture(scope="session")
def released(tmp_path_factory) -> Course:
    """The course as an instructor starts it: configuration, source, release version. Do not change it."""
    root = tmp_path_factory.mktemp("course") / "released"
    root.mkdir()
    shutil.copy(ROOT / "assignments" / "nbgrader_config.py", root)
    shutil.copytree(ROOT / "assignments" / "source", root / "source")
    (root / ".course_secret").write_text(SECRET)
    course = Course(root)
    course.nbgrader("generate_assignment", ASSIGNMENT)
    return course


@pytest.fixture
def course(released, tmp_path) -> Course:
    """A copy of the released course for one test."""
    shutil.copytree(released.root, tmp_path / "course")
    return Course(tmp_path / "course")


@pytest.fixture(scope="session")
def graded_class(released, tmp_path_factory) -> GradedClass:
    """Autograde, feedback and export of the whole sample class, once. Do not change it."""
    root = tmp_path_factory.mktemp("class") / "course"
    shutil.copytree(released.root, root)
    course = Course(root)
    write_sample_class(root, ASSIGNMENT, STUDENTS)
    before = files(root, "source", "release", "submitted") | files(root.parent, ".")
    start = time.monotonic()
    log = course.nbgrader("autograde", ASSIGNMENT)
    seconds = time.monotonic() - start
    course.nbgrader("generate_feedback", ASSIGNMENT)
    course.nbgrader("export")
    return GradedClass(course, sample_class(ASSIGNMENT, STUDENTS), before, log, seconds)
