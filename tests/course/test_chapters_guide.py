"""The page on adding a chapter and a widget: both are added to a copy of the repository, as it says."""

import shutil
from pathlib import Path

import pytest
from course_folder import ROOT
from test_authors_guide import Author
from test_guide import Block, blocks


class ChapterAuthor(Author):
    """Follows the page in a copy of the repository that can be built as a book."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        for name in ("_toc.yml", "_config.yml"):
            shutil.copy(ROOT / name, self.copy / name)

    def run(self, block: Block) -> None:
        if block.language == "javascript":
            (self.copy / block.caption).write_text(block.body)
        elif block.language == "yaml":
            contents, before = self.copy / "_toc.yml", "  - caption: Attention\n"
            head, found, rest = contents.read_text().partition(before)
            assert found and block.caption == "_toc.yml, under Language models"
            contents.write_text(head + block.body + before + rest)
        else:
            super().run(block)


@pytest.mark.course
def test_the_chapter_and_its_widget_pass_all_that_the_page_names(tmp_path: Path) -> None:
    author = ChapterAuthor(tmp_path)
    commands = []
    for block in blocks("chapters"):  # a command that fails fails the test
        author.run(block)
        if block.language == "console":
            commands += block.commands.splitlines()
    for tested in ("test_widget_checklist.py -k CoinEntropy", "--nbval-lax", "test_book.py -k"):
        assert [c for c in commands if tested in c]
    chapter = author.copy / "book" / "language-models" / "uncertainty.ipynb"
    assert "CoinEntropy" in chapter.read_text()
    assert not (ROOT / "book" / "language-models" / "uncertainty.ipynb").exists()
