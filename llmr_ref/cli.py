"""The `llmr` command. Thin: each command imports what it calls only when it runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from llmr_ref import cli_model

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_PORT = 8000

course_option = click.option(
    "--course",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    default=ROOT / "assignments",
    show_default="assignments/",
    help="An nbgrader course: the folder with nbgrader_config.py.",
)
port_option = click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True
)


def assignments_of(course: Path) -> list[str]:
    """Names of the assignments in a course, from its source folder."""
    return sorted({path.parent.name for path in course.glob("source/*/*.ipynb")})


def known_assignment(course: Path, assignment: str) -> str:
    """Raises: UsageError (exit code 2) when the course has no such assignment."""
    names = assignments_of(course)
    if assignment not in names:
        there = ", ".join(names) or f"none: {course / 'source'} holds no notebook"
        raise click.UsageError(f"There is no assignment {assignment!r}. There is: {there}.")
    return assignment


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llmr")
def llmr() -> None:
    """A book on language models, a reference, and assignments that grade themselves."""


# --- book ------------------------------------------------------------------------------------


@llmr.group("book")
def book_group() -> None:
    """Build and read the book."""


@book_group.command("build")
@click.option("--clean", is_flag=True, help="Forget the last build first.")
@click.option("--url", default="", help="Where the site will live: for sitemap and previews.")
def book_build(clean: bool, url: str) -> None:
    """Run every chapter and write the site to _build/html."""
    from llmr_ref import book

    try:
        built = book.build(ROOT, clean=clean, url=url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None
    click.echo(f"The book is in {built}.")


@book_group.command("pdf")
def book_pdf() -> None:
    """Print the built book into _build/llmr.pdf."""
    from llmr_ref import book

    target = ROOT / "_build" / "llmr.pdf"
    sheets = book.print_pdf(_built_book(), target)
    click.echo(f"{sheets} sheets: {target}")


@book_group.command("serve")
@port_option
def book_serve(port: int) -> None:
    """Serve the built book on this machine."""
    from llmr_ref import book

    book.serve(_built_book(), port)


def _built_book() -> Path:
    from llmr_ref.doctor import book_state

    if book_state(ROOT) == "missing":
        raise click.ClickException("The book is not built yet. Build it: llmr book build")
    return ROOT / "_build" / "html"


# --- students ----------------------------------------------------------------------------------


@llmr.command(context_settings={"ignore_unknown_options": True})
@course_option
@click.option(
    "--instructor", is_flag=True, help="Open the whole course, with formgrader, not the release."
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(course: Path, instructor: bool, arguments: tuple[str, ...]) -> None:
    """Open JupyterLab on the release notebooks and the chapters.

    What follows `--` goes to JupyterLab: llmr lab -- --no-browser --port 9000
    """
    from llmr_ref.lab import run

    names = assignments_of(course)
    if not names:
        raise click.ClickException(f"{course / 'source'} holds no assignment to open.")
    run(ROOT, course, names, instructor=instructor, arguments=arguments)


# --- instructors -------------------------------------------------------------------------------


@llmr.command()
@click.argument("assignment")
@course_option
@click.option(
    "--tier",
    type=click.Choice(["auto", "1", "2"]),
    default="auto",
    show_default=True,
    help="1 grades without the sandbox; auto and 2 stop where there is none.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    show_default="one a core",
    help="Processes that run submissions.",
)
@click.option(
    "--scheduler",
    default="",
    metavar="ADDRESS",
    help="Run submissions on a dask cluster instead: tcp://host:8786.",
)
@click.option("--feedback/--no-feedback", default=True, help="Write feedback pages, or not.")
def grade(
    assignment: str, course: Path, tier: str, workers: int | None, scheduler: str, feedback: bool
) -> None:
    """Grade every submission of ASSIGNMENT; write feedback, grades and the class report.

    Interrupted and started again, it goes on where it stopped.
    """
    known_assignment(course, assignment)
    if not any((course / "submitted").glob(f"*/{assignment}")):
        raise click.ClickException(
            f"Nobody has submitted {assignment!r} to {course / 'submitted'}. "
            f"Collect submissions, or make some: llmr sample-class {assignment}"
        )
    from llmr_ref.grading import course as grading

    sys.exit(grading.grade(
        course, assignment, tier=tier, workers=workers, scheduler=scheduler, feedback=feedback
    ))  # fmt: skip


@llmr.command()
@click.argument("assignment")
@course_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="reports/ASSIGNMENT.html in the course",
)
@click.option(
    "--schema",
    is_flag=True,
    help="Print the JSON schema of the report's JSON file and write nothing.",
)
def report(assignment: str, course: Path, output: Path | None, schema: bool) -> None:
    """Write the class report of ASSIGNMENT as an HTML page, with CSV and JSON beside it."""
    known_assignment(course, assignment)
    if schema:
        from llmr_ref.grading.report_file import ReportFile

        click.echo(json.dumps(ReportFile.model_json_schema(), indent=1))
        return
    from llmr_ref.grading.report import NothingToReport, write_report

    output = output or course / "reports" / f"{assignment}.html"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        click.echo(f"The report is in {write_report(course, assignment, output)}.")
    except NothingToReport as error:
        raise click.ClickException(str(error)) from None


@llmr.command()
@click.argument("assignment")
@course_option
@click.option(
    "--to", "target", type=click.Choice(["nbgrader", "canvas", "gradescope"]), required=True
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    show_default="exports/ in the course",
    help="A CSV file; for gradescope a folder.",
)
@click.option("--canvas-id", default="", help="The assignment's number in Canvas.")
@click.option(
    "--roster",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A gradebook that Canvas exported; names students and assignments as Canvas does.",
)
@click.option(
    "--visibility",
    type=click.Choice(["hidden", "after_due_date", "after_published", "visible"]),
    default="after_published",
    show_default=True,
    help="When students see Gradescope's results.",
)
def export(
    assignment: str,
    course: Path,
    target: str,
    out: Path | None,
    canvas_id: str,
    roster: Path | None,
    visibility: str,
) -> None:
    """Write the grades of ASSIGNMENT for another system."""
    known_assignment(course, assignment)
    if (canvas_id or roster) and target != "canvas":
        raise click.UsageError(f"--canvas-id and --roster belong to --to canvas, not {target}.")
    from llmr_ref.grading.exporters import export_assignment

    said = export_assignment(
        course, assignment, target, out, canvas_id=canvas_id, roster=roster, visibility=visibility
    )
    click.echo(said)


@llmr.command()
@click.argument("assignment")
@click.argument("exercise")
@course_option
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option(
    "--tier",
    type=click.Choice(["auto", "1", "2"]),
    default="auto",
    show_default=True,
    help="1 grades without the sandbox; auto and 2 stop where there is none.",
)
def regrade(assignment: str, exercise: str, course: Path, yes: bool, tier: str) -> None:
    """Judge EXERCISE of ASSIGNMENT again for everybody, after its bank or reference was mended.

    Shows who changes and by how much before anything is written. Manual grades and comments stay.
    """
    known_assignment(course, assignment)
    from llmr_ref.grading.course import lowest_tier
    from llmr_ref.grading.regrade import regrade as judge_again

    with lowest_tier(tier):
        judge_again(course, assignment, exercise, lambda: yes or click.confirm("Write this?"))


@llmr.command("sample-class")
@click.argument("assignment")
@course_option
@click.option("--students", type=click.IntRange(1), default=24, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def sample_class(assignment: str, course: Path, students: int, seed: int) -> None:
    """Write submissions of ASSIGNMENT made from the banks of right and wrong answers."""
    known_assignment(course, assignment)
    from llmr_ref.grading.sample_class import write_sample_class

    written = write_sample_class(course, assignment, students, seed)
    click.echo(f"Wrote {len(written)} submissions to {course / 'submitted'}.")


@llmr.command()
@click.option("--only", default="", metavar="NAME", help="One attack of all.")
@click.option("--stock", is_flag=True, help="Also each alone on stock nbgrader; resumable.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
def attack(only: str, stock: bool, jobs: int) -> None:
    """Let the hostile submissions of the tests loose on the grader; exit code 1 if one reaches anything."""
    from llmr_ref.grading import attack_run

    sys.exit(attack_run.main(only=only, stock=stock, jobs=jobs))


@llmr.command()
@click.argument("assignment", required=False)
@click.option("--all", "everything", is_flag=True, help="All assignments.")
@click.option("--full", is_flag=True, help="Run all mutants, not a sample of them.")
@course_option
def matrix(assignment: str | None, everything: bool, full: bool, course: Path) -> None:
    """Show which wrong answers and mutants the checks of ASSIGNMENT catch; exit code 1 below the bars."""
    if (assignment is None) != everything:
        raise click.UsageError("Name one assignment, or say --all.")
    from llmr_ref.grading import matrix as kill_matrix

    if assignment is not None and assignment not in kill_matrix.ASSIGNMENTS:
        known_assignment(course, assignment)
        raise click.UsageError(f"{assignment!r} has no exercises with banks.")
    assignments = [assignment] if assignment else list(kill_matrix.ASSIGNMENTS)
    sys.exit(kill_matrix.main(assignments, at_most=None if full else kill_matrix.SAMPLE))


# --- models ------------------------------------------------------------------------------------

for command in cli_model.COMMANDS:
    llmr.add_command(command)


# --- measurements ------------------------------------------------------------------------------


@llmr.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Run every experiment.")
@click.option("--again", is_flag=True, help="Run them anew into _build/results and compare.")
def experiment(names: tuple[str, ...], everything: bool, again: bool) -> None:
    """Run the book's experiments: NAMES, or say what there is.

    What is stored already, seed by seed, is not run again; remove book/results/NAME.json for that.
    """
    from llmr_ref import experiments
    from llmr_ref.experiments.catalogue import EXPERIMENTS

    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise click.ClickException(
            f"there is no experiment {unknown[0]!r}; there are: {', '.join(EXPERIMENTS)}"
        )
    if not names and not everything:
        for each in EXPERIMENTS.values():
            click.echo(f"{each.name:14} {each.question}")
    folder = ROOT / "_build" / "results" if again else experiments.RESULTS
    for name in EXPERIMENTS if everything else names:
        stored = EXPERIMENTS[name].carry_out(folder, say=click.echo)
        click.echo(f"{name}: {len(stored['results'])} seeds, {stored['seconds']} s in all")
        if again:
            apart = experiments.largest_difference(
                stored["results"], experiments.result(name)["results"]
            )
            click.echo(f"{name}: at most {apart:.2g} from the stored result")


@llmr.group("bench")
def bench_group() -> None:
    """Measure how long things take."""


@bench_group.command("book")
def bench_book() -> None:
    """Measure first visits to the built book's pages; exit code 1 where one is slower or heavier than
    wanted."""
    from llmr_ref import book_bench
    from llmr_ref.doctor import book_state

    if book_state(ROOT) != "built":
        raise click.ClickException("The book is not built as it is now: `make book` builds it.")
    sys.exit(book_bench.main(ROOT / "_build" / "html"))


@bench_group.command("check")
@click.argument("assignment", default="attention")
@course_option
def bench_check(assignment: str, course: Path) -> None:
    """Measure how long a student waits for the check of each exercise of ASSIGNMENT."""
    known_assignment(course, assignment)
    from llmr_ref.grading import bench as waiting

    sys.exit(waiting.main(assignment))


@bench_group.command("grading")
@click.argument("assignment", default="attention")
@course_option
@click.option("--students", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--stock-students",
    type=click.IntRange(2),
    default=8,
    show_default=True,
    help="How many of them stock nbgrader grades; it takes as long for each.",
)
@click.option("--growth", is_flag=True, help="Also time and memory from 16 to 1,024 students.")
def bench_grading(
    assignment: str, course: Path, students: int, stock_students: int, growth: bool
) -> None:
    """Measure `llmr grade` against stock nbgrader; exit code 1 where it is slower than wanted."""
    known_assignment(course, assignment)
    from llmr_ref.grading import bench_grading as grading

    sys.exit(grading.main(
        course, assignment, students=students, stock_students=min(stock_students, students),
        growth=growth,
    ))  # fmt: skip


@bench_group.command("reference")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--rounds", type=click.IntRange(3), default=7, show_default=True)
@click.option("--only", multiple=True, metavar="TOPIC", help="One topic of all; repeatable.")
def bench_reference(device: str, rounds: int, only: tuple[str, ...]) -> None:
    """Measure the reference against its peers; exit code 1 where it is slower than wanted."""
    from llmr_ref.bench import reference

    try:
        sys.exit(reference.main(device=device, rounds=rounds, only=only))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


# --- everybody ---------------------------------------------------------------------------------


@llmr.command()
def doctor() -> None:
    """Say what is present, what is missing, and what to do about it."""
    from llmr_ref.doctor import examine

    sys.exit(examine())


@llmr.command()
@click.option("--serve/--no-serve", default=True, help="Serve the page when it is made, or not.")
@port_option
def demo(serve: bool, port: int) -> None:
    """Build the book, grade a sample class and show both on one page."""
    from llmr_ref.demo import run

    sys.exit(run(ROOT, serve=serve, port=port))


def main() -> None:
    """Run the command; what a user can mend is one sentence, not a traceback."""
    # nbgrader and JupyterLab call programs of the environment by name, activated or not.
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    try:
        llmr(standalone_mode=True)
    except (OSError, RuntimeError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":  # torchrun starts modules, not commands
    main()
