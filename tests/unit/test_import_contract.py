"""Who may import whom: the contracts of pyproject.toml hold, and each of them can fail."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
ROOMS = LAYERS[0]["layers"]
REFERENCE = " : ".join(ROOMS[ROOMS.index("bench | widgets | grading") + 1 :]).split(" : ")
MAY_BE_IMPORTED_BY_THE_REFERENCE = {"torch", "numpy", "regex", "jaxtyping"}


def lint_imports(folder):
    """Run the checker in `folder`, on the package that lies there."""
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    return subprocess.run(
        [command, "--no-cache", "--no-logo", "--config", ROOT / "pyproject.toml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def copy_with(folder, module, line, name="llmr_ref"):
    """A copy of the package's Python files with one more line at the end of one of them."""
    only_python = shutil.ignore_patterns("__pycache__", "*.mjs", "templates")
    shutil.copytree(ROOT / "llmr_ref", folder / name, ignore=only_python)
    with (folder / name / module).open("a") as file:
        file.write(f"\n\n{line}\n")


def third_party_imports(package):
    """What the reference modules of `package` import from outside it and outside Python."""
    graph = grimp.build_graph(package, include_external_packages=True, cache_dir=None)
    imported = {
        found.split(".")[0]
        for module in REFERENCE
        for found in graph.find_modules_directly_imported_by(f"{package}.{module}")
    }
    return imported - {package} - sys.stdlib_module_names


def test_the_contracts_hold():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout
    assert f"Contracts: {len(LAYERS)} kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "importer", "imported"),
    [
        ("attention.py", "import llmr_ref.widgets", "attention", "widgets"),
        ("rope.py", "def f():\n    from llmr_ref.grading import check", "rope", "grading"),
        ("masks.py", "from llmr_ref import cli", "masks", "cli"),
        ("widgets/__init__.py", "import llmr_ref.grading.practice", "widgets", "grading.practice"),
        ("grading/practice.py", "from llmr_ref import widgets", "grading.practice", "widgets"),
        ("grading/practice.py", "from llmr_ref import cli", "grading.practice", "cli"),
        ("__init__.py", "from llmr_ref import attention", "", "attention"),
    ],
)
def test_a_forbidden_import_breaks_a_contract(tmp_path, module, line, importer, imported):
    copy_with(tmp_path, module, line)
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    importer = f"llmr_ref.{importer}".removesuffix(".")
    assert f"{importer} -> llmr_ref.{imported}" in result.stdout


def test_a_module_without_a_place_breaks_the_contract(tmp_path):
    copy_with(tmp_path, "unplaced.py", "import math")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert "not listed as layers:\n\n- llmr_ref.unplaced" in result.stdout


def test_an_allowed_import_breaks_no_contract(tmp_path):
    copy_with(tmp_path, "widgets/__init__.py", "import llmr_ref.rope")
    result = lint_imports(tmp_path)
    assert result.returncode == 0, result.stdout


def test_the_reference_is_what_a_reader_expects_it_to_be():
    assert {"attention", "masks", "rope"} <= set(REFERENCE)
    assert all((ROOT / "llmr_ref" / f"{module}.py").is_file() for module in REFERENCE)


def test_the_reference_imports_torch_and_little_else():
    imported = third_party_imports("llmr_ref")
    assert "torch" in imported
    assert imported <= MAY_BE_IMPORTED_BY_THE_REFERENCE


def test_a_foreign_import_in_the_reference_is_found(tmp_path, monkeypatch):
    copy_with(tmp_path, "masks.py", "import click", name="llmr_ref_with_click")
    monkeypatch.syspath_prepend(tmp_path)
    found = third_party_imports("llmr_ref_with_click") - MAY_BE_IMPORTED_BY_THE_REFERENCE
    assert "click" in found
