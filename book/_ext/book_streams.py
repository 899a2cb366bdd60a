"""Join what a cell prints, byte for byte.

A kernel sends a cell's output in pieces, cut wherever its timer strikes. MyST-NB 1.4 trims every piece
before it joins them, so that a cut in front of a line break adds an empty line to the page, in some
builds and not in others. This replaces its function by one that does not trim.
"""

from myst_nb.core import render
from nbformat import NotebookNode
from sphinx.application import Sphinx


def coalesce_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """All pieces of stdout in the place of its first piece; likewise stderr."""
    joined: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        if output["output_type"] != "stream":
            joined.append(output)
        elif output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
        else:
            streams[output["name"]] = output
            joined.append(output)
    return joined


def setup(app: Sphinx) -> dict:
    render.coalesce_streams = coalesce_streams
    return {"parallel_read_safe": True, "parallel_write_safe": True}
