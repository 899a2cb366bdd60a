"""Attacks through what lies beside the notebook and what things are called."""

import os

from llmr_ref.grading.attack import MARK, attack


@attack("leak", "The notebook is a link to the course's source notebook.")
def notebook_is_a_link(hand):
    hand.nothing_deserved()
    hand.path.symlink_to("../../../source/attention/attention.ipynb")


@attack(
    "leak",
    "Files beside the notebook are links to the secret, the source, and files above the course.",
)
def files_are_links(hand):
    root = hand.folder.parents[2]
    for number, target in enumerate((
        root / ".course_secret", root / "marking.md", root.parent / "notes.txt",
        root / "source/attention/attention.ipynb", root / "gradebook.db", "/etc/passwd",
    )):  # fmt: skip
        (hand.folder / f"data{number}.txt").symlink_to(target)
        (hand.folder / f"relative{number}.txt").symlink_to(os.path.relpath(target, hand.folder))
    (hand.folder / "all").symlink_to(root)
    (hand.folder / "loop").symlink_to(".")


@attack("stop", "A link to a device that never ends is copied for ever.")
def link_to_a_device(hand):
    (hand.folder / "data.csv").symlink_to("/dev/zero")
    (hand.folder / "random.csv").symlink_to("/dev/urandom")


@attack(
    "stop", "Pipes without a writer stand where files are read: the notebook, the date, the data."
)
def pipes_as_files(hand):
    hand.nothing_deserved()
    for name in (f"{hand.folder.name}.ipynb", "timestamp.txt", "data.csv"):
        os.mkfifo(hand.folder / name)


@attack("stop", "A file of a terabyte that takes no room, until it is copied.")
def sparse_terabyte(hand):
    for name in ("data.bin", "other.ipynb"):
        with open(hand.folder / name, "wb") as file:
            file.truncate(1 << 40)


@attack("stop", "Four thousand small files beside the notebook.")
def thousands_of_files(hand):
    for number in range(4000):
        (hand.folder / f"f{number}").touch()


@attack("stop", "Names that are patterns, options, paths, or hold line ends and quotes.")
def odd_file_names(hand):
    for name in ("*", "[a-z]*", "--force", "..\\..\\x", "%2e%2e%2fx", "a\nb", "'; drop table grade;--",
                 f"<script>{MARK}</script>", "x" * 250, "\u202egnp.exe", "=1+1.csv"):  # fmt: skip
        (hand.folder / name.replace("/", "")).write_text("x")
    (hand.folder / "attention.ipynb.bak").mkdir()
    (hand.folder / "[x]" / "*").mkdir(parents=True)
    (hand.folder / "[x]" / "*" / "file").write_text("x")


@attack(
    "raise",
    "Configuration, start-up code and modules lie beside the notebook, to be loaded from there.",
)
def configuration_beside(hand):
    hand.answer("softmax", "def NAME(*args, **kwargs):\n    return None")
    evil = "import os\nos.system('touch started')\n"
    for name in ("nbgrader_config.py", "jupyter_config.py", "sitecustomize.py", "torch.py",
                 "llmr_ref.py", "conftest.py"):  # fmt: skip
        (hand.folder / name).write_text(evil)
    (hand.folder / "llmr_ref").mkdir()
    (hand.folder / "llmr_ref" / "grading.py").write_text(
        "def check(name, answer=None):\n    return 3.0\n"
    )
    (hand.folder / ".llmr").mkdir()
    (hand.folder / ".llmr" / "cache").write_text("{}")


@attack("lose", "The date of handing in is none, of another century, or ten megabytes long.")
def odd_date(hand):
    (hand.folder / "timestamp.txt").write_text("9" * 10_000_000)


@attack("stop", "A student whose name is SQL.", student="bobby'); drop table grade;--")
def name_is_sql(hand):
    pass


@attack(
    "raise",
    "A student whose name is a formula, for the spreadsheet that the marks go to.",
    student=f'=HYPERLINK("{MARK}")',
)
def name_is_a_formula(hand):
    pass


@attack("raise", "A student whose name is HTML.", student=f'<img src=x onerror="{MARK}">')
def name_is_html(hand):
    pass


@attack(
    "lose",
    "A student whose name is a pattern, and turns the direction of writing.",
    student="[a-z]* \u202estudent\u200b",
)
def name_is_a_pattern(hand):
    pass
