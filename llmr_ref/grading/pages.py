"""From data to HTML: the jinja environment of the reports. Everything is escaped."""

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from llmr_ref.grading.card import inline_code, points
from llmr_ref.grading.class_statistics import signed
from llmr_ref.grading.links import in_the_book, section_title, section_url


def render(template: str, **data: Any) -> str:
    """A page from its template."""
    return _environment().get_template(template).render(**data)


@functools.cache
def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    env.filters.update(
        points=points, percent=percent, counted=_counted, breakable=_breakable, signed=signed,
        section_url=section_url, section_title=section_title, inline_code=inline_code,
    )  # fmt: skip
    env.tests["in_the_book"] = in_the_book
    return env


def percent(share: float) -> str:
    """Whole percent, but neither 0 nor 100 unless it is exactly that."""
    whole = round(100 * share)
    if share not in (0.0, 1.0):
        whole = min(max(whole, 1), 99) if share < 1 else whole
    return f"{whole} %"


def _counted(number: int, one: str, many: str = "") -> str:
    """2, "student" -> "2 students"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _breakable(name: str) -> Markup:
    """A Python name that a narrow column may break after an underscore or before a capital."""
    parts = re.split(r"(?<=_)(?=.)|(?<=[a-z])(?=[A-Z])", name)
    return Markup("<wbr>").join(escape(part) for part in parts)
