"""pyproject.toml, requirements.lock and environment.yml describe one environment."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
GROUPS = tomllib.loads(PYPROJECT)["dependency-groups"]  # installed without their dependencies
DECLARED = [Requirement(text) for text in tomllib.loads(PYPROJECT)["project"]["dependencies"]]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;#]+)")


def locked() -> dict[str, Version]:
    pins = [PIN.match(line) for line in LOCK if line and not line.startswith("#")]
    assert all(pins)
    return {canonicalize_name(pin["name"]): Version(pin["version"]) for pin in pins if pin}


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: requirement.name)
def test_the_lock_satisfies(requirement):
    pinned = locked().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"{requirement.name} is not in requirements.lock: run `make lock`"
    assert requirement.specifier.contains(pinned), f"run `make lock`: it pins {pinned}"


def test_every_line_of_the_lock_is_one_pin_from_the_registry():
    for line in LOCK:
        requirement, _, comment = line.partition("#")
        assert not requirement.strip() or PIN.fullmatch(requirement.strip()), line
        assert not re.search(r"https?:|/|\\", comment), f"an address or a path: {line}"


def test_the_lock_names_no_build_of_its_own_machine():
    for name, pinned in locked().items():
        assert pinned.local is None, f"{name}=={pinned} exists on one machine only"
        assert not name.startswith(("nvidia-", "cuda-")) and name != "triton", name


def test_torch_is_pinned_everywhere():
    torch = next(requirement for requirement in DECLARED if requirement.name == "torch")
    assert str(torch.specifier) == "==2.13.0"
    assert locked()["torch"] == Version("2.13.0")


def test_the_lock_says_how_it_is_remade():
    head = "\n".join(LOCK[:6])
    assert "make lock" in head
    assert re.search(r"^lock:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_dependency_says_what_it_is_for():
    block = PYPROJECT.split("\ndependencies = [")[1].split("\n]")[0]
    lines = [line.strip() for line in block.splitlines() if line.strip().startswith('"')]
    assert len(lines) == len(DECLARED)
    for line in lines:
        assert re.search(r'",\s+# \S.{7,}', line), f"without a reason: {line}"


def test_no_dependency_is_declared_twice():
    names = [canonicalize_name(requirement.name) for requirement in DECLARED]
    assert sorted(set(names)) == sorted(names)


def test_conda_gets_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, through_pip = environment["dependencies"]
    assert pip == "pip"
    assert through_pip == {"pip": ["-r requirements.lock", "-e ."]}
    made_for = re.search(r"with Python (\d+\.\d+)", "\n".join(LOCK[:6]))
    assert made_for and python == f"python={made_for[1]}"
    oldest = tomllib.loads(PYPROJECT)["project"]["requires-python"]
    assert oldest == f">={made_for[1]}"


def test_what_is_installed_is_what_the_lock_says():
    differing = {
        requirement.name: (version(requirement.name), str(pinned))
        for requirement in DECLARED
        if (pinned := locked()[canonicalize_name(requirement.name)])
        != Version(Version(version(requirement.name)).public)
    }
    assert differing == {}


# --- imports --------------------------------------------------------------------------------


@functools.cache
def installed_modules() -> Mapping[str, list[str]]:
    """Importable name -> the distributions that provide it."""
    return packages_distributions()


def python_sources() -> list[Path]:
    folders = ("llmr_ref", "tests", "book", "assignments")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [path for path in found if "stand_in" not in path.parts]


def notebooks() -> list[Path]:
    found = [*(ROOT / "book").rglob("*.ipynb"), *(ROOT / "assignments/source").rglob("*.ipynb")]
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]


def imported_modules(code: str) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module.split(".")[0])
    return modules


def code_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text()
    to_python = TransformerManager().transform_cell
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(to_python(cell.source) for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize(
    "path", [*python_sources(), *notebooks()], ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_only_what_is_declared(path):
    distributions = installed_modules()
    groups = [Requirement(text) for group in GROUPS.values() for text in group]
    declared = {canonicalize_name(requirement.name) for requirement in [*DECLARED, *groups]} | {
        "llmr"
    }
    ours = {file.stem for file in path.parent.glob("*.py")} | {
        file.stem for folder in ("book/_ext", "tests") for file in (ROOT / folder).rglob("*.py")
    }
    undeclared = {
        module
        for module in imported_modules(code_of(path)) - sys.stdlib_module_names - ours
        if not declared & {canonicalize_name(name) for name in distributions.get(module, [module])}
    }
    assert not undeclared, f"declare in pyproject.toml what provides {sorted(undeclared)}"


def test_what_is_read_but_not_imported_is_installed_as_pinned():
    for text in GROUPS["data"]:
        pinned = Requirement(text)
        assert pinned.specifier.contains(version(pinned.name)), text
    block = PYPROJECT.split("\n[dependency-groups]")[1].split("\n[")[0]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert len(lines) == sum(map(len, GROUPS.values()))
    assert all(re.search(r'",\s+# \S.{7,}', line) for line in lines)
