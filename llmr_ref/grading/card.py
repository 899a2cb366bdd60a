"""The card that a student sees: what was tested, what went wrong, where to read on."""

import functools
import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from llmr_ref.grading.drawings import figure_html
from llmr_ref.grading.figures import grid_text
from llmr_ref.grading.links import in_the_book, section_title, section_url
from llmr_ref.grading.tiers import tier_in_words
from llmr_ref.grading.verdict import BrokenRule, PropertyResult, Verdict


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
    env.filters["properties_in_words"] = properties_in_words
    env.filters["rule_in_words"] = rule_in_words
    env.filters["figure_html"] = figure_html
    env.filters["ran_where"] = ran_where
    env.filters["inline_code"] = inline_code
    env.tests["in_the_book"] = in_the_book
    env.filters["section_url"] = section_url
    env.filters["section_title"] = section_title
    return env


def points(value: float) -> str:
    """2.0 as "2", 1.25 as "1.25"."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def inline_code(text: str) -> Markup:
    """The text escaped, with `backticks` as code that looks the same on every page."""
    style = "color:inherit;background:rgba(128,128,128,.14);padding:0 .2em;border-radius:3px"
    return Markup(re.sub(r"`([^`]+)`", rf'<code style="{style}">\1</code>', str(escape(text))))


def properties_in_words(verdict: Verdict) -> list[tuple[PropertyResult, str]]:
    """Every property with what went wrong; a reason that was given already is not given again."""
    told: set[str] = set()
    found = []
    for p in verdict.properties:
        reason = re.sub("^with [^:]*: ", "", p.message)
        found.append((p, "" if reason in told else p.message))
        told.add(reason)
    return found


def rule_in_words(broken: BrokenRule) -> str:
    """Which built-ins an answer uses, where, and what it earns all the same."""
    uses = [f"`{u.name}`" + (f" in line {u.line}" if u.line else "") for u in broken.uses]
    listed = ", ".join(uses[:-1]) + " and " + uses[-1] if len(uses) > 1 else uses[0]
    earned = "no points"
    if broken.share:
        earned = f"{broken.share:.0%} of the points that its results deserve"
    return (
        f"{broken.rule} The answer uses {listed}, so it earns {earned}. "
        "To compare your results with torch's, use a cell of your own."
    )


def ran_where(verdict: Verdict) -> str:
    """Where the answer ran and on which inputs."""
    if verdict.tier == 0:
        if verdict.needs_look:  # a fault of ours: where it would have run is not known
            return ""
        return "Checked in this notebook, on practice inputs. Grading uses other inputs."
    return f"Graded at {tier_in_words(verdict.tier)}. Only practice inputs are shown."


def card_html(verdict: Verdict) -> str:
    """The card as one self-contained HTML fragment: inline styles, no script, everything escaped."""
    return _environment().get_template("card.html.jinja").render(v=verdict)


def card_text(verdict: Verdict) -> str:
    """The same card in plain text."""
    lines = [f"{verdict.exercise}: {points(verdict.score)} of {points(verdict.points)} points"]
    if verdict.message:
        lines.append(verdict.message)
    if verdict.broken_rule:
        lines.append(f"Rule of this exercise: {rule_in_words(verdict.broken_rule)}")
    for p, message in properties_in_words(verdict) if verdict.attempted else []:
        lines.append(f"  [{'pass' if p.passed else 'FAIL'}] {p.sentence}")
        if message:
            lines.append(f"         {message}")
    if verdict.misconception:
        m = verdict.misconception
        lines += [f"This answer {m.title}.", f"  {m.hint}"]
        if in_the_book(m.see):
            lines.append(f"  Read: {section_url(m.see)}")
    if verdict.counterexample:
        c = verdict.counterexample
        lines += ["Smallest counterexample:", _indent(c.call)]
        if c.figure and c.figure.kind == "mask":
            lines += ["1 is True, differing places in brackets:", _indent(grid_text(c.figure))]
        lines += ["expected:", _indent(c.expected), "received:", _indent(c.received)]
    if verdict.needs_look:
        lines.append(f"An instructor will look at this: {verdict.needs_look}")
    if where := ran_where(verdict):
        lines.append(where)
    return "\n".join(lines)


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
