"""The card that a student sees: what was tested, what went wrong, where to read on."""

import functools
import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from llmr_ref.grading.links import section_title, section_url
from llmr_ref.grading.verdict import Verdict


@functools.cache
def _environment() -> jinja2.Environment:
    folder = Path(__file__).parent / "templates"
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["points"] = points
    env.filters["inline_code"] = inline_code
    env.filters["section_url"] = section_url
    env.filters["section_title"] = section_title
    return env


def points(value: float) -> str:
    """2.0 as "2", 1.25 as "1.25"."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def inline_code(text: str) -> Markup:
    """The text escaped, with `backticks` as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def card_html(verdict: Verdict) -> str:
    """The card as one self-contained HTML fragment: inline styles, no script, everything escaped."""
    return _environment().get_template("card.html.jinja").render(v=verdict)


def card_text(verdict: Verdict) -> str:
    """The same card in plain text."""
    lines = [f"{verdict.exercise}: {points(verdict.score)} of {points(verdict.points)} points"]
    if verdict.message:
        lines.append(verdict.message)
    for p in verdict.properties if verdict.attempted else []:
        lines.append(f"  [{'pass' if p.passed else 'FAIL'}] {p.sentence}")
        if p.message:
            lines.append(f"         {p.message}")
    if verdict.misconception:
        m = verdict.misconception
        lines += [f"This answer {m.title}.", f"  {m.hint}", f"  Read: {section_url(m.see)}"]
    if verdict.counterexample:
        c = verdict.counterexample
        lines += ["Smallest counterexample:", _indent(c.call)]
        lines += ["expected:", _indent(c.expected), "received:", _indent(c.received)]
    if verdict.needs_look:
        lines.append(f"An instructor will look at this: {verdict.needs_look}")
    return "\n".join(lines)


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
