"""A widget that also knows how to stand in a page without a kernel.

JupyterLab takes the widget view. The built book takes `text/html`: a still picture, the state as JSON,
the widget's one ES module, and a small host that brings the three to life. Nothing is fetched, so the
page works from http:// and from file:// alike.
"""

import json
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_FOLDER = Path(__file__).parent


def module_source(name: str) -> str:
    """The widget's whole ES module: the shared kit (kit.mjs), then the widget's own file.

    Neither file imports anything, so putting one after the other gives one self-contained module.
    """
    files = (_FOLDER / "kit.mjs", _FOLDER / f"{name}.mjs")
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


class StateError(traitlets.TraitError, ValueError):
    """A bad value for a widget's state. As a TraitError it makes traitlets restore the old value."""


class EmbeddableWidget(anywidget.AnyWidget):
    """Base of the book's widgets. A subclass sets `_esm` and draws `picture()`."""

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
