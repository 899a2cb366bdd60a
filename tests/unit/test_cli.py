"""The `llmr` command: what it passes on, what it says when something is wrong, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmr_ref import cli, demo, doctor, lab


@pytest.fixture
def course(tmp_path: Path) -> Path:
    for name in ("attention", "tokenizer"):
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.ipynb").write_text("{}")
    (tmp_path / "nbgrader_config.py").write_text("c = get_config()\n")
    return tmp_path


def llmr(*arguments: object):
    return CliRunner().invoke(cli.llmr, [str(argument) for argument in arguments])


def in_a_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from llmr_ref.cli import main; main()"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_starts_without_its_heavy_parts():
    listed = subprocess.run(
        [sys.executable, "-c", "import sys, llmr_ref.cli; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"torch", "nbgrader", "jupyterlab", "matplotlib", "rich", "numpy"} & set(listed)


@pytest.mark.parametrize(
    "command",
    [
        (),
        *((name,) for name in cli.llmr.commands),
        *(
            (group, name)
            for group in ("book", "bench", "tokenize")
            for name in cli.llmr.commands[group].commands
        ),
    ],
)
def test_every_command_explains_itself(command):
    result = llmr(*command, "--help")
    assert result.exit_code == 0 and result.output.startswith("Usage: ")


def test_the_makefile_calls_only_commands_that_exist():
    makefile = (cli.ROOT / "Makefile").read_text()
    called = {
        line.split("$(BIN)/llmr ")[1].split()[0]
        for line in makefile.splitlines()
        if "$(BIN)/llmr " in line
    }
    assert called and called <= set(cli.llmr.commands)


@pytest.mark.parametrize("command", ["grade", "report", "matrix", "sample-class"])
def test_an_unknown_assignment_is_named_and_the_known_ones_are_listed(command, course):
    result = llmr(command, "attenton", "--course", course)
    assert result.exit_code == 2
    assert "There is no assignment 'attenton'. There is: attention, tokenizer." in result.output


def test_a_folder_without_assignments_says_so(tmp_path):
    result = llmr("grade", "attention", "--course", tmp_path)
    assert result.exit_code == 2 and "holds no notebook" in result.output
    result = llmr("lab", "--course", tmp_path)
    assert result.exit_code == 1 and "holds no assignment to open" in result.output


def test_a_course_that_does_not_exist_is_a_usage_error(tmp_path):
    result = llmr("grade", "attention", "--course", tmp_path / "nowhere")
    assert result.exit_code == 2 and "nowhere" in result.output


def test_grading_nothing_says_how_to_get_submissions(course):
    result = llmr("grade", "attention", "--course", course)
    assert result.exit_code == 1
    assert "Nobody has submitted 'attention'" in result.output
    assert "llmr sample-class attention" in result.output


@pytest.mark.parametrize("code", [0, 3])
def test_grade_passes_the_course_and_the_exit_code_on(course, monkeypatch, code):
    from llmr_ref.grading import course as grading

    calls = []
    monkeypatch.setattr(grading, "grade", lambda *args, **kw: calls.append((args, kw)) or code)
    (course / "submitted" / "someone" / "attention").mkdir(parents=True)
    result = llmr("grade", "attention", "--course", course, "--tier", "1")
    assert result.exit_code == code
    own = {"workers": None, "scheduler": "", "feedback": True}
    assert calls == [((course, "attention"), {"tier": "1", **own})]
    options = ("--workers", 3, "--scheduler", "tcp://host:8786", "--no-feedback")
    assert llmr("grade", "attention", "--course", course, *options).exit_code == code
    own = {"workers": 3, "scheduler": "tcp://host:8786", "feedback": False}
    assert calls[1] == ((course, "attention"), {"tier": "auto", **own})


def test_a_report_needs_a_gradebook(course):
    result = llmr("report", "attention", "--course", course)
    assert result.exit_code == 1 and "llmr grade attention" in result.output


def test_the_report_is_written_where_it_is_asked_for(course, monkeypatch):
    from llmr_ref.grading import report

    monkeypatch.setattr(report, "write_report", lambda course, assignment, out: out)
    (course / "gradebook.db").touch()
    result = llmr("report", "attention", "--course", course, "--output", course / "a" / "b.html")
    assert result.exit_code == 0
    assert str(course / "a" / "b.html") in result.output and (course / "a").is_dir()


def test_the_schema_of_the_report_is_printed_and_nothing_is_written(course):
    result = llmr("report", "attention", "--course", course, "--schema")
    assert result.exit_code == 0
    assert {"students", "items", "states"} <= json.loads(result.output)["properties"].keys()
    assert not (course / "reports").exists()


@pytest.mark.parametrize("target", ["nbgrader", "canvas", "gradescope"])
def test_export_passes_on_what_it_is_asked_for(course, monkeypatch, target):
    from llmr_ref.grading import exporters

    calls = []
    monkeypatch.setattr(
        exporters, "export_assignment", lambda *args, **kw: calls.append((args, kw)) or "written"
    )
    extra = ["--canvas-id", "7"] if target == "canvas" else []
    result = llmr("export", "attention", "--course", course, "--to", target, "--out", "x", *extra)
    assert (result.exit_code, result.output) == (0, "written\n")
    ((args, options),) = calls
    assert args == (course, "attention", target, Path("x"))
    assert options["canvas_id"] == ("7" if extra else "")


def test_options_of_canvas_are_refused_elsewhere(course):
    result = llmr("export", "attention", "--course", course, "--to", "nbgrader", "--canvas-id", "7")
    assert result.exit_code == 2 and "belong to --to canvas, not nbgrader" in result.output


@pytest.mark.parametrize(
    ("options", "typed", "answered"), [(["--yes"], "", True), ([], "y\n", True), ([], "\n", False)]
)
def test_regrade_asks_unless_told_not_to(course, monkeypatch, options, typed, answered):
    from llmr_ref.grading import regrade

    answers = []
    monkeypatch.setattr(
        regrade, "regrade", lambda c, a, e, confirm: answers.append((c, a, e, confirm()))
    )
    runner = CliRunner()
    arguments = ["regrade", "attention", "softmax", "--course", str(course), *options]
    result = runner.invoke(cli.llmr, arguments, input=typed)
    assert result.exit_code == 0, result.output
    assert answers == [(course, "attention", "softmax", answered)]
    assert ("Write this?" in result.output) == (not options)


def test_the_sample_class_has_the_size_and_seed_asked_for(course, monkeypatch):
    from llmr_ref.grading import sample_class

    calls = []
    monkeypatch.setattr(
        sample_class,
        "write_sample_class",
        lambda *args: calls.append(args) or [Path("x")] * args[2],
    )
    result = llmr("sample-class", "attention", "--course", course, "--students", 5, "--seed", 7)
    assert result.exit_code == 0 and "Wrote 5 submissions" in result.output
    assert calls == [(course, "attention", 5, 7)]
    assert llmr("sample-class", "attention", "--students", 0).exit_code == 2


@pytest.mark.parametrize("code", [0, 1])
def test_matrix_ends_with_what_the_matrix_says(monkeypatch, code):
    from llmr_ref.grading import matrix

    monkeypatch.setattr(matrix, "main", lambda assignments, at_most: code)
    assert llmr("matrix", "attention").exit_code == code


@pytest.mark.parametrize("arguments, at_most", [([], 60), (["--full"], None)])
def test_matrix_takes_one_assignment_or_all(monkeypatch, arguments, at_most):
    from llmr_ref.grading import matrix

    calls = []
    monkeypatch.setattr(matrix, "main", lambda names, at_most: calls.append((names, at_most)))
    llmr("matrix", "attention", *arguments)
    llmr("matrix", "--all", *arguments)
    assert calls == [(["attention"], at_most), (list(matrix.ASSIGNMENTS), at_most)]
    assert llmr("matrix").exit_code == 2
    assert llmr("matrix", "attention", "--all").exit_code == 2
    assert len(calls) == 2


@pytest.mark.parametrize("code", [0, 1])
def test_bench_check_measures_an_assignment(course, monkeypatch, code):
    from llmr_ref.grading import bench

    calls = []
    monkeypatch.setattr(bench, "main", lambda assignment: calls.append(assignment) or code)
    assert llmr("bench", "check", "tokenizer", "--course", course).exit_code == code
    assert llmr("bench", "check").exit_code == code
    assert calls == ["tokenizer", "attention"]
    result = llmr("bench", "check", "attenton", "--course", course)
    assert result.exit_code == 2 and "There is: attention, tokenizer." in result.output


@pytest.mark.parametrize("code", [0, 1])
def test_bench_book_wants_the_book_as_it_is(monkeypatch, code):
    from llmr_ref import book_bench, doctor

    monkeypatch.setattr(book_bench, "main", lambda directory: code)
    monkeypatch.setattr(doctor, "book_state", lambda root: "built")
    assert llmr("bench", "book").exit_code == code
    monkeypatch.setattr(doctor, "book_state", lambda root: "older than its sources")
    refused = llmr("bench", "book")
    assert refused.exit_code == 1 and "`make book` builds it" in refused.output


@pytest.mark.parametrize("code", [0, 1])
def test_bench_reference_passes_its_options_on(monkeypatch, code):
    from llmr_ref.bench import reference

    calls = []
    monkeypatch.setattr(reference, "main", lambda **options: calls.append(options) or code)
    assert llmr("bench", "reference").exit_code == code
    options = ("--device", "cuda", "--rounds", 9, "--only", "rotary", "--only", "memory")
    assert llmr("bench", "reference", *options).exit_code == code
    assert calls == [
        {"device": "cpu", "rounds": 7, "only": ()},
        {"device": "cuda", "rounds": 9, "only": ("rotary", "memory")},
    ]


@pytest.mark.parametrize("code", [0, 1])
def test_bench_grading_passes_what_is_asked_and_the_exit_code_on(course, monkeypatch, code):
    from llmr_ref.grading import bench_grading

    calls = []
    monkeypatch.setattr(bench_grading, "main", lambda *a, **options: calls.append(options) or code)
    options = ("--students", 4, "--stock-students", 9, "--growth", "--course", course)
    assert llmr("bench", "grading", "attention", *options).exit_code == code
    assert calls == [{"students": 4, "stock_students": 4, "growth": True}]


def test_bench_reference_refuses_a_topic_that_is_not_there():
    result = llmr("bench", "reference", "--only", "poetry")
    assert result.exit_code == 2 and "no topic ['poetry']" in result.output
    assert llmr("bench", "reference", "--rounds", 1).exit_code == 2


def test_serving_a_book_that_is_not_built_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    result = llmr("book", "serve")
    assert result.exit_code == 1 and "llmr book build" in result.output


def test_what_a_user_can_mend_is_one_sentence(tmp_path):
    ended = in_a_process("book", "serve", "--port", "not-a-port")
    assert ended.returncode == 2 and "not-a-port" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- lab ----------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """The command line of the JupyterLab that would have been started, and where."""
    seen = {}

    def execv(path, arguments):
        seen.update(path=path, arguments=arguments, folder=Path.cwd())

    monkeypatch.setattr(lab.os, "execv", execv)
    return seen


@pytest.fixture
def repository(tmp_path, monkeypatch):
    root = tmp_path / "repository"
    (root / "book" / "attention").mkdir(parents=True)
    (root / "book" / "_ext").mkdir()
    (root / "book" / "errata.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return root


@pytest.fixture
def generated(monkeypatch):
    from llmr_ref.grading import course as grading

    names = []

    def generate(course, assignment):
        names.append(assignment)
        notebook = lab.release_notebook(course, assignment)
        notebook.parent.mkdir(parents=True)
        notebook.write_text("{}")

    monkeypatch.setattr(grading, "generate", generate)
    return names


def test_lab_opens_the_release_and_the_chapters(course, repository, started, generated):
    lab.run(repository, course, ["attention"], arguments=("--no-browser",))
    assert generated == ["attention"]
    folder = repository / "_build" / "lab"
    assert started["folder"] == folder
    assert f"--ServerApp.root_dir={folder}" in started["arguments"]
    assert (
        "--LabApp.default_url=/lab/tree/assignments/attention/attention.ipynb"
        in started["arguments"]
    )
    assert "--ServerApp.ip=127.0.0.1" in started["arguments"]
    assert started["arguments"][-1] == "--no-browser"
    assert (folder / "assignments" / "attention" / "attention.ipynb").read_text() == "{}"
    assert sorted(p.name for p in (folder / "chapters").iterdir()) == ["attention", "errata.ipynb"]


def test_lab_leaves_answers_alone_and_says_when_the_source_is_newer(
    course, repository, started, generated, capsys
):
    notebook = lab.release_notebook(course, "attention")
    notebook.parent.mkdir(parents=True)
    notebook.write_text("my answer")
    lab.run(repository, course, ["attention"])
    lab.run(repository, course, ["attention"])
    assert generated == [] and notebook.read_text() == "my answer"
    assert "older than its source" not in capsys.readouterr().out
    lab.os.utime(notebook, (0, 0))
    lab.run(repository, course, ["attention"])
    assert notebook.read_text() == "my answer"
    assert "older than its source" in capsys.readouterr().out


def test_an_instructor_gets_the_whole_course(course, repository, started, generated):
    lab.run(repository, course, ["attention"], instructor=True)
    assert started["folder"] == course
    assert f"--ServerApp.root_dir={course}" in started["arguments"]


# --- doctor -------------------------------------------------------------------------------------


def test_doctor_fails_only_for_what_is_missing(capsys):
    ok = doctor.Finding("one", "ok", "here")
    weaker = doctor.Finding("two", "weaker", "less", "do this")
    missing = doctor.Finding("three", "missing", "nowhere", "install three")
    assert doctor.examine((lambda: ok, lambda: weaker)) == 0
    assert "do this" in capsys.readouterr().out
    assert doctor.examine((lambda: ok, lambda: missing)) == 1
    printed = capsys.readouterr().out
    assert "install three" in printed and "Missing: three." in printed


def test_doctor_sees_this_machine():
    findings = {finding.subject: finding for check in doctor.CHECKS for finding in [check()]}
    import torch

    assert torch.__version__ in findings["torch"].found
    assert findings["nbgrader"].state == "ok"
    assert findings["JupyterLab"].state == "ok"
    assert findings["Jupyter Book"].found.startswith("1.")
    for finding in findings.values():
        assert finding.found
        assert finding.state == "ok" or finding.remedy, f"{finding.subject}: what to do about it?"


def test_doctor_says_what_to_do_without_chromium_and_bubblewrap(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_chromium().state == "missing"
    assert "apt-get install chromium" in doctor.check_chromium().remedy
    assert doctor.check_bubblewrap().state == "missing"
    assert "apt-get install bubblewrap" in doctor.check_bubblewrap().remedy


@pytest.mark.parametrize(
    ("package", "installed", "check"),
    [
        ("nbgrader", "0.9.5", doctor.check_nbgrader),
        ("jupyter-book", "2.0.0", doctor.check_jupyter_book),
        ("torch", None, doctor.check_torch),
        ("jupyterlab", None, doctor.check_jupyterlab),
    ],
)
def test_doctor_refuses_versions_that_do_not_do(monkeypatch, package, installed, check):
    monkeypatch.setattr(doctor, "_installed", {package: installed}.get)
    assert check().state == "missing" and check().remedy


def test_the_book_is_stale_when_anything_it_is_made_from_is_newer(tmp_path):
    for folder in ("book", "llmr_ref", "_build/html"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml", "book/a.ipynb", "llmr_ref/masks.py"):
        (tmp_path / name).touch()
        lab.os.utime(tmp_path / name, (1000, 1000))
    assert doctor.book_state(tmp_path) == "missing"
    page = tmp_path / "_build/html/index.html"
    page.touch()
    lab.os.utime(page, (2000, 2000))
    assert doctor.book_state(tmp_path) == "built"
    for name in ("_toc.yml", "book/a.ipynb", "llmr_ref/masks.py"):
        lab.os.utime(tmp_path / name, (3000, 3000))
        assert doctor.book_state(tmp_path) == "stale", name
        lab.os.utime(tmp_path / name, (1000, 1000))


# --- demo ---------------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """The demo with its long steps noted instead of done."""
    calls = []
    for name in ("fresh_course", "write_class", "grade_class", "assemble"):
        monkeypatch.setattr(demo, name, lambda *args, name=name: calls.append(name))
    monkeypatch.setattr(demo.book, "build", lambda root: calls.append("book"))
    monkeypatch.setattr(
        demo, "book_state", lambda root: "missing" if "book" not in calls else "built"
    )
    monkeypatch.setenv("LLMR_BOOK_URL", "")
    (tmp_path / "assignments" / "source" / "attention").mkdir(parents=True)
    (tmp_path / "assignments" / "nbgrader_config.py").touch()
    return calls


def test_the_demo_does_each_step_once_and_goes_on_where_it_stopped(steps, tmp_path, monkeypatch):
    assert demo.run(tmp_path, serve=False) == 0
    assert steps == ["book", "fresh_course", "write_class", "grade_class", "assemble"]
    del steps[1:]
    assert demo.run(tmp_path, serve=False) == 0
    assert steps == ["book", "assemble"]


def test_the_demo_grades_anew_when_the_course_changes(steps, tmp_path):
    demo.run(tmp_path, serve=False)
    del steps[1:]
    (tmp_path / "assignments" / "source" / "attention" / "attention.ipynb").write_text("changed")
    demo.run(tmp_path, serve=False)
    assert steps == ["book", "fresh_course", "write_class", "grade_class", "assemble"]


def test_a_failing_step_is_done_again_and_the_ones_before_it_are_not(steps, tmp_path, monkeypatch):
    def fail(course):
        raise RuntimeError("Grading the sample class ended with exit code 1.")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(demo, "grade_class", fail)
        demo.run(tmp_path, serve=False)
    del steps[1:]
    demo.run(tmp_path, serve=False)
    assert steps == ["book", "grade_class", "assemble"]


def test_a_taken_port_stops_the_demo_before_its_long_work(steps, tmp_path):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="choose another one with --port"):
            demo.run(tmp_path, port=other.getsockname()[1])
    assert steps == []


def test_an_address_that_is_none_is_refused_before_anything_is_built():
    refused = llmr("book", "build", "--url", "example.org")
    assert refused.exit_code == 2
    assert "--url: url is 'example.org'; give the whole address" in refused.output
