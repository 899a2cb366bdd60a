"""The instructors' guide: every command in it runs, every setting exists, every number is the program's."""

import contextlib
import csv
import dataclasses
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from course_folder import ROOT, Course
from traitlets.config import Config, PyFileConfigLoader

from llmr_ref.book import pages_in_order
from llmr_ref.cli import llmr
from llmr_ref.grading.exercises import ASSIGNMENTS
from llmr_ref.grading.frames import Limits
from llmr_ref.grading.tiers import TIERS

PAGES = ROOT / "book" / "teaching"
BLOCK = re.compile(
    r"^```(?:\{code-block\} )?(?P<language>\w+)\n(?::caption: (?P<caption>[^\n]*)\n)?(?P<body>.*?)^```$",
    re.M | re.S,
)
QUESTIONS = 3.0  # points of the question in words, which a person gives
TOTAL = 24.0


@dataclasses.dataclass
class Block:
    """A fenced block of a page: its language, its caption and what is in it."""

    language: str
    caption: str
    body: str

    @property
    def commands(self) -> str:
        """The lines after `$ ` as a script."""
        lines = self.body.splitlines()
        assert all(line.startswith("$ ") for line in lines), lines
        return "\n".join(line.removeprefix("$ ") for line in lines)


def blocks(page: str) -> list[Block]:
    text = (PAGES / f"{page}.md").read_text()
    found = [
        Block(m["language"], (m["caption"] or "").strip(), m["body"]) for m in BLOCK.finditer(text)
    ]
    assert len(found) * 2 == len(re.findall("^```", text, re.M))
    return found


class Shell:
    """Runs the blocks of a page in order, as the reader would: one working folder, one environment."""

    def __init__(self, home: Path) -> None:
        self.here = home
        self.environment = Course(home / "course").environment(
            LLMR=str(ROOT), HOME=str(home), PATH=f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        )
        self.student = home / "student"
        self.student.mkdir(parents=True)

    def run(self, block: Block) -> None:
        if block.language == "python":
            with open(self.here / block.caption, "a") as file:
                file.write(f"\n{block.body}")
        elif block.caption == "in a terminal of its own":
            self.serve(block.commands)
        elif block.caption == "in three terminals":
            self.cluster(block.commands.splitlines())
        elif block.caption == "as a student":
            self.bash(block.commands, self.student)
        elif block.language == "console":
            self.here = self.bash(block.commands, self.here)

    def bash(self, script: str, folder: Path) -> Path:
        """Run the script to its end; the folder that it ends in. Fails the test when a line of it fails."""
        end = folder / ".ended-in"
        done = subprocess.run(
            ["bash", "-exc", f"{script}\npwd > {shlex.quote(str(end))}"], cwd=folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
        ended = Path(end.read_text().strip())
        end.unlink()
        return ended

    def serve(self, command: str) -> None:
        """Start a server, wait until it says its address, and end it."""
        with subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.here, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "http://127.0.0.1:" in line or "http://localhost:" in line:
                    break
            else:
                pytest.fail("".join(said)[-4000:])
            for _ in range(30):  # a server that is still starting lets the first signal pass
                os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2)
                    break
            else:
                os.killpg(process.pid, signal.SIGKILL)
                pytest.fail(f"{command} did not end: " + "".join(said)[-4000:])

    def cluster(self, commands: list[str]) -> None:
        """Keep all commands but the last one running beside it."""
        *servers, last = commands
        beside = [
            subprocess.Popen(
                shlex.split(c), cwd=self.here, env=self.environment, start_new_session=True
            )
            for c in servers
        ]
        try:
            self.bash(last, self.here)
        finally:
            for process in beside:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, without its head."""
    text = (PAGES / f"{page}.md").read_text().split(f"## {heading}\n")[1]
    lines = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- from nothing to grades ----------------------------------------------------------------------


@pytest.mark.course
def test_the_course_page_leads_from_nothing_to_grades(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    page = blocks("course")
    again = next(i for i, b in enumerate(page) if "2030-01-31 12:00:00" in b.body)
    for block in page[:again]:
        shell.run(block)
    course = Course(shell.here)
    with open(course.root / "grades.csv", newline="") as file:
        grades = {row["student_id"]: row for row in csv.DictReader(file)}
    assert float(grades["ada"]["score"]) == 0
    assert float(grades["grace"]["raw_score"]) == TOTAL - QUESTIONS
    assert float(grades["grace"]["late_submission_penalty"]) == pytest.approx(2.1)
    assert float(grades["grace"]["score"]) == pytest.approx(0.9 * (TOTAL - QUESTIONS))
    assert grades["grace"]["email"] == "grace@example.org"
    assert len(grades) == 4  # two of the sample class
    assert (course.root / "reports" / "attention.html").is_file()
    for student in grades:
        assert (course.root / "feedback" / student / "attention" / "attention.html").is_file()
    before = (course.root / "autograded" / "grace" / "attention" / "attention.ipynb").stat()
    for block in page[again:]:
        shell.run(block)
    assert sum(v or 0 for v in course.scores("ada").values()) == TOTAL - QUESTIONS
    after = (course.root / "autograded" / "grace" / "attention" / "attention.ipynb").stat()
    assert before.st_mtime_ns == after.st_mtime_ns
    assert (course.root / "backup.tar.gz").stat().st_size > 0


# --- servers -------------------------------------------------------------------------------------


def server_shell(home: Path) -> Shell:
    """A shell in a course whose configuration is the servers page's, with an exchange of its own."""
    shell = Shell(home)
    etc = Path(shell.environment["JUPYTER_CONFIG_DIR"])
    etc.mkdir(parents=True)
    settings = next(b for b in blocks("servers") if b.caption == "/etc/jupyter/nbgrader_config.py")
    # Asks a running JupyterHub who may do what; there is none.
    kept = [line for line in settings.body.splitlines() if "JupyterHubAuthPlugin" not in line]
    (etc / "nbgrader_config.py").write_text(in_this_folder("\n".join(kept), home))
    (home / "course").mkdir()
    shutil.copy(ROOT / "assignments" / "nbgrader_config.py", home / "course")
    shutil.copytree(ROOT / "assignments" / "source", home / "course" / "source")
    shell.here = home / "course"
    return shell


def in_this_folder(text: str, home: Path) -> str:
    return text.replace("/srv/nbgrader/exchange", str(home / "exchange"))


@pytest.mark.course
def test_an_assignment_goes_through_the_exchange_and_its_feedback_comes_back(
    tmp_path: Path,
) -> None:
    shell = server_shell(tmp_path)
    for block in blocks("servers"):
        if block.language == "console" and block.caption != "in three terminals":
            shell.run(dataclasses.replace(block, body=in_this_folder(block.body, tmp_path)))
    course = Course(shell.here)
    (folder,) = (course.root / "submitted").iterdir()
    assert set(course.scores(folder.name).values()) == {0.0}  # handed in as it was fetched
    (feedback,) = shell.student.rglob("feedback/**/*.html")
    assert "0 of 3 points" in feedback.read_text()


@pytest.mark.course
@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="dask.distributed is not installed"
)
def test_a_cluster_grades_as_the_page_says(course: Course, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.here = course.root
    submitted = course.submitted("grace")
    submitted.parent.mkdir(parents=True)
    shutil.copy(course.root / "source" / "attention" / "attention.ipynb", submitted)
    shell.run(next(b for b in blocks("servers") if b.caption == "in three terminals"))
    assert sum(v or 0 for v in course.scores("grace").values()) == TOTAL - QUESTIONS


def postgres_programs() -> Path | None:
    """The folder with initdb and pg_ctl, which Debian keeps off the PATH."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr/local/bin"), Path("/usr/bin")]
    return next((f for f in folders if (f / "initdb").exists() and (f / "pg_ctl").exists()), None)


def has_driver() -> bool:
    return importlib.util.find_spec("psycopg") is not None


@pytest.fixture
def postgres() -> Iterator[Path]:
    """A server of its own that listens on a socket in a folder; yields the folder."""
    programs = postgres_programs()
    assert programs is not None
    # Not below pytest's folder, which is closed to other accounts and too deep for a socket's name.
    temporary = tempfile.TemporaryDirectory(prefix="llmr-postgres-")
    folder = Path(temporary.name)
    as_whom: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_whom = ["runuser", "-u", "postgres", "--"]

    def run(*arguments: str) -> None:
        subprocess.run([*as_whom, *arguments], check=True, cwd="/", stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run(str(programs / "initdb"), "-D", data, "-A", "trust", "-U", "llmr")
    start = ("-o", options, "-l", f"{folder}/log", "-w", "-t", "300", "start")
    run(str(programs / "pg_ctl"), "-D", data, *start)
    try:
        run(str(programs / "createdb"), "-h", str(folder), "-U", "llmr", "llmr")
        yield folder
    finally:
        run(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "-t", "300", "stop")
        temporary.cleanup()


@pytest.mark.course
@pytest.mark.skipif(
    postgres_programs() is None or not has_driver(),
    reason="Postgres or its driver is missing: apt-get install postgresql, pip install --group postgres",
)
def test_the_course_runs_on_postgres(postgres: Path, tmp_path: Path) -> None:
    shell = server_shell(tmp_path / "home")
    setting = next(b for b in blocks("servers") if "db_url" in b.body)
    body = setting.body.replace("/var/run/postgresql", str(postgres))
    shell.run(dataclasses.replace(setting, body=body))
    shell.bash(
        "nbgrader generate_assignment attention\n"
        "mkdir -p submitted/grace/attention\n"
        "cp source/attention/attention.ipynb submitted/grace/attention/\n"
        "llmr grade attention --course .\n"
        "nbgrader export --to grades.csv",
        shell.here,
    )
    with open(shell.here / "grades.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["student_id"], float(row["score"])) == ("grace", TOTAL - QUESTIONS)
    assert not (shell.here / "gradebook.db").exists()


# --- settings ------------------------------------------------------------------------------------


def loaded(block: Block, folder: Path) -> Config:
    """The block as traitlets reads it."""
    head = "" if "get_config()" in block.body else "c = get_config()\n"
    path = folder / "config.py"
    path.write_text(head + block.body)
    return PyFileConfigLoader(path.name, str(folder)).load_config()


def settings() -> list[Block]:
    own_code = ("authors", "chapters")
    pages = [p for p in sorted(PAGES.glob("*.md")) if p.stem not in own_code]
    found = [b for p in pages for b in blocks(p.stem) if b.language == "python"]
    assert len(found) >= 5
    return found


@pytest.mark.parametrize("block", settings(), ids=lambda b: b.body.strip().splitlines()[-1][:40])
def test_every_setting_loads_and_is_one_that_exists(block: Block, tmp_path: Path) -> None:
    from nbgrader.auth import Authenticator
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.exchange.default import Exchange
    from nbgrader.preprocessors import AssignLatePenalties

    from llmr_ref.grading.autograde import Grade

    config = loaded(block, tmp_path)
    assert config
    if block.caption == "jupyterhub_config.py":
        assert set(config) == {"JupyterHub"}
        return
    known = {
        k.__name__: k
        for k in (Authenticator, CourseDirectory, Exchange, AssignLatePenalties, Grade)
    }
    for name, values in config.items():
        traits = known[name].class_traits(config=True)
        for key, value in values.items():
            traits[key].validate(known[name](), value)


def test_the_hub_lets_in_the_groups_that_it_names(tmp_path: Path) -> None:
    block = next(b for b in settings() if b.caption == "jupyterhub_config.py")
    hub = loaded(block, tmp_path).JupyterHub
    groups = {g for role in hub.load_roles for g in role.get("groups", [])}
    assert groups == set(hub.load_groups) == {"formgrade-llmr", "nbgrader-llmr"}
    (service,) = hub.services
    assert service["user"] in hub.load_groups["formgrade-llmr"]
    for role in hub.load_roles[:2]:
        assert any(scope.endswith(f"!service={service['name']}") for scope in role["scopes"])


# --- what the pages say --------------------------------------------------------------------------


def test_the_page_on_protection_tells_the_tiers_as_the_program_does() -> None:
    rows = table("protection", "Three tiers")
    assert rows == [[str(n), t.name, t.stops, t.leaves] for n, t in TIERS.items()]


def test_the_page_on_protection_tells_the_limits_in_use() -> None:
    limits = Limits()
    megabytes = [limits.memory_bytes, limits.output_bytes, limits.scratch_bytes, limits.file_bytes]
    assert [row[1] for row in table("protection", "Limits")] == [
        f"{limits.wall_seconds:g} s", f"{limits.cpu_seconds} s",
        *(f"{n >> 20} MB" for n in megabytes), str(limits.processes), "none",
    ]  # fmt: skip


def test_the_page_on_teaching_tells_the_assignments_as_they_are() -> None:
    stated = table("teach", "What there is to plan with")
    assert [row[0].strip("`") for row in stated] == list(ASSIGNMENTS)
    for name, exercises, points, minutes, _ in stated:
        name = name.strip("`")
        path = ROOT / "assignments" / "source" / name / f"{name}.ipynb"
        cells = json.loads(path.read_text())["cells"]
        graded = [c["metadata"].get("nbgrader", {}) for c in cells]
        first_cell = "".join(cells[0]["source"])
        assert int(exercises) == len(ASSIGNMENTS[name])
        assert int(points) == sum(c["points"] for c in graded if c.get("grade"))
        assert int(minutes) == sum(map(int, re.findall(r"\| *(\d+) \|$", first_cell, re.M)))


def test_a_course_of_twelve_weeks_has_every_chapter_and_every_assignment_once() -> None:
    weeks = table("teach", "Twelve weeks")
    assert sorted(row[2].strip("`") for row in weeks if row[2]) == sorted(ASSIGNMENTS)
    read = [page for row in weeks for page in re.findall(r"<\.\./([^>]+)>", row[1])]
    chapters = [name for name in pages_in_order() if "/" in name and "teaching/" not in name]
    assert sorted(read) == sorted(chapters)


def test_every_command_named_in_a_sentence_exists() -> None:
    named = {
        command
        for page in PAGES.glob("*.md")
        for command in re.findall(r"`(llmr [^`]*)`", page.read_text())
    }
    assert len(named) > 1
    for command in named:
        _, *words = shlex.split(command)
        parser: click.Command = llmr
        while isinstance(parser, click.Group) and words:
            parser = parser.commands[words.pop(0)]
        with click.Context(parser) as context:
            try:
                parser.make_parser(context).parse_args(list(words))
            except click.UsageError as error:
                assert "Missing argument" in str(error), command


def test_the_guide_is_in_the_table_of_contents() -> None:
    listed = (ROOT / "_toc.yml").read_text()
    for page in PAGES.glob("*.md"):
        assert f"file: teaching/{page.stem}\n" in listed
