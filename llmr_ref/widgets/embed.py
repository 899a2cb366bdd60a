"""A widget that also knows how to stand in a page without a kernel.

JupyterLab takes the widget view. The built book takes `text/html`: a still picture, the state as JSON,
the widget's one ES module, and a small host that brings the three to life. Nothing is fetched, so the
page works from http:// and from file:// alike.
"""

import contextlib
import inspect
import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anywidget
import traitlets

_FOLDER = Path(__file__).parent


def module_source(name: str) -> str:
    """The widget's whole ES module: the shared kit (kit.mjs), then the widget's own file.

    Neither file imports anything, so putting one after the other gives one self-contained module.
    Comments on lines of their own and indentation stay behind: a third of what a reader would load.
    """
    files = (_FOLDER / "kit.mjs", _FOLDER / f"{name}.mjs")
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    source = re.sub(r"^\s*/\*\*.*?\*/$", "", source, flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


class StateError(traitlets.TraitError, ValueError):
    """A bad value for a widget's state. As a TraitError it makes traitlets restore the old value."""


def within(name: str, value: float, low: float, high: float) -> Any:
    """The value. Raises: StateError naming it unless low <= value <= high."""
    if not (low <= value <= high and math.isfinite(value)):
        raise StateError(f"{name} must lie in {low}..{high}, got {value}")
    return value


def ask(function: Callable[..., Any], *arguments: Any, **settings: Any) -> tuple[Any, str]:
    """(what a student's function returned, "") or (None, its error); what it prints goes nowhere."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return function(*arguments, **settings), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def code_lines(
    *functions: Callable[..., Any], begin: str = "", **quantities: str
) -> list[list[str]]:
    """The reference's own lines for a widget's code view: [text, quantities or ""], docstrings left out.

    begin: a piece of the first line to show of each function. quantities: name=piece of the line to
    link with what carries data-q="name" in the widget.
    Raises: ValueError for a piece that is not in the code, so that a link is never stale.
    """
    lines: list[list[str]] = []
    for function in functions:
        source = textwrap.dedent(inspect.getsource(function))
        if function.__doc__:
            start = source.index('"""')
            source = source[:start].rstrip() + source[source.index('"""', start + 3) + 3 :]
        shown = [line for line in source.splitlines() if line.strip()]
        if begin:
            starts = [i for i, line in enumerate(shown) if begin in line]
            if not starts:
                raise ValueError(f"{begin!r} is not in {function.__name__}")
            shown = [f"def {function.__name__}(…):", *shown[starts[0] :]]
        lines += [[line, ""] for line in shown]
    for name, piece in quantities.items():
        found = [line for line in lines if piece in line[0]]
        if not found:
            raise ValueError(f"{piece!r}, the code of {name}, is not in the functions shown")
        for line in found:
            line[1] = f"{line[1]} {name}".strip()
    return lines


class Golden(NamedTuple):
    """One call of an exported function of the module and what the reference gives for it.

    `expected` may nest tensors, arrays, lists, dicts and named tuples; a dict need not name all keys.
    """

    function: str
    arguments: list[Any]
    expected: Any


class EmbeddableWidget(anywidget.AnyWidget):
    """Base of the book's widgets. A subclass sets `_esm`, draws `picture()`, and gives `golden()`."""

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        """Calls of the module's exported numerics with the reference's results, to 1e-5."""
        raise NotImplementedError

    @classmethod
    def module_name(cls) -> str:
        """The name of the widget's two files."""
        return cls.__module__.rpartition(".")[2]

    def picture(self) -> str:
        """The current state as a still SVG figure, for print and for pages without scripts."""
        raise NotImplementedError

    def description(self) -> str:
        """The current state in words: the caption of the picture."""
        raise NotImplementedError

    def embedded_state(self) -> dict[str, Any]:
        """The synchronised traits of the subclass, without those of the Jupyter machinery."""
        machinery = set(anywidget.AnyWidget.class_trait_names())
        names = sorted(set(self.traits(sync=True)) - machinery)
        return {name: getattr(self, name) for name in names if not name.startswith("_")}

    def html(self) -> str:
        """The widget as a piece of a web page; equal states give equal text."""
        return embed_html(
            name=type(self).__name__,
            source=str(self._esm),
            state=self.embedded_state(),
            picture=self.picture(),
            caption=self.description(),
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, "text/html": self.html()}, metadata


class StudentsWidget(EmbeddableWidget):
    """A widget that may ask a student's function about the state on the screen."""

    # {"state": what it was asked about, "error": "" or what went wrong, and the answer's own keys}
    student = traitlets.Dict().tag(sync=True)

    def _ask_about(self, names: Sequence[str], question: Callable[[], dict[str, Any]]) -> None:
        """Send the answer for the present state of the named traits, or the error."""
        state = {name: getattr(self, name) for name in names}
        if self.student.get("state") == state:  # several traits changed at once: one question
            return
        answer, error = ask(question)
        self.student = {"state": state, "error": error, **(answer or {})}


def embed_html(*, name: str, source: str, state: dict[str, Any], picture: str, caption: str) -> str:
    """Picture, state, module and host in one element. Raises ValueError for a module that ends itself."""
    if "</script" in source.lower() or "<!--" in source:
        raise ValueError(f"the module of {name} must not contain '</script' or '<!--'")
    # A JSON string may hold anything a reader typed; \u003c keeps it from closing the script element.
    state_json = json.dumps(state, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<div class="llmr-widget" data-llmr-widget="{name}">\n'
        f"<style>{_EMBED_CSS}</style>\n"
        f'<figure class="llmr-still">{picture}<figcaption>{_escape(caption)}</figcaption></figure>\n'
        '<noscript><p class="llmr-note">This is a picture of an interactive figure. '
        "With JavaScript switched on it can be changed.</p></noscript>\n"
        '<div class="llmr-mount"></div>\n'
        f'<script type="application/json">{state_json}</script>\n'
        f'<script type="text/plain">{source}</script>\n'
        f"<script>{_host_source()}</script>\n"
        "</div>"
    )


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _host_source() -> str:
    return (_FOLDER / "host.mjs").read_text(encoding="utf-8")


_EMBED_CSS = (
    ".llmr-still{margin:1rem 0}"
    ".llmr-still svg{max-width:100%;height:auto}"
    ".llmr-still figcaption,.llmr-note{font-size:.9em}"
    ".llmr-widget[data-live] .llmr-still{display:none}"
    "@media print{"
    ".llmr-widget[data-live] .llmr-still{display:block}"
    ".llmr-widget .llmr-mount{display:none}"
    "}"
)
