"""The notebook's own run: its cells in IPython, what they show sent as it is made.

The sandbox sees this file beside worker.py. The shell and matplotlib are made ready in the worker, before
any fork; a forked child runs one notebook. What is sent is untrusted: pictures.py checks it.
"""

import base64
import contextlib
import io
import json
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from matplotlib._pylab_helpers import Gcf
from traitlets import Type
from traitlets.config import Config

KINDS = ("text/plain", "image/png", "image/jpeg")  # the only ones that an instructor is shown
CELL_BYTES = 2 << 20  # what one cell may show
NOTEBOOK_BYTES = 12 << 20
STREAM_BYTES = 1 << 13  # text is sent in pieces of about this size, and at the end of a cell

WARM_UP = """
import io
import matplotlib.pyplot
figure, axes = matplotlib.pyplot.subplots()
axes.plot([0, 1])
axes.imshow([[0.0, 1.0]])
matplotlib.pyplot.show()
1 / 0
"""


class Showing:
    """Where everything that cells show goes: sent at once, until a cell or the notebook shows too much."""

    def __init__(self) -> None:
        self.send: Callable[[dict[str, Any]], None] | None = (
            None  # None before the fork: shows nothing
        )
        self._text: tuple[str, list[str]] = ("", [])
        self._size = 0
        self._cell_left = self._left = 0

    def start(self, send: Callable[[dict[str, Any]], None]) -> None:
        self.send, self._left = send, NOTEBOOK_BYTES

    @contextlib.contextmanager
    def nothing(self) -> Iterator[None]:
        """Between cells: what is shown meanwhile is dropped."""
        send, self.send = self.send, None
        try:
            yield
        finally:
            self.flush()
            Gcf.destroy_all()  # the next cell would show what was drawn
            self.send = send

    def begin_cell(self) -> None:
        self._cell_left = min(CELL_BYTES, self._left)

    def text(self, name: str, text: str) -> None:
        """Text for standard output or error."""
        if self._text[0] != name:
            self.flush()
            self._text = (name, [])
        self._text[1].append(text)
        self._size += len(text)
        if self._size > STREAM_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send the text that waits."""
        (name, parts), self._text, self._size = self._text, ("", []), 0
        text = "".join(parts)
        if text:
            self._pass({"output_type": "stream", "name": name, "text": text[: CELL_BYTES // 4]})

    def output(self, output: dict[str, Any]) -> None:
        """One output that is not text of a stream."""
        self.flush()
        self._pass(output)

    def _pass(self, output: dict[str, Any]) -> None:
        if self.send is None or self._cell_left <= 0:
            return
        size = len(json.dumps(output))
        if size > self._cell_left:
            self._cell_left = 0
            text = "\n... the rest of what this cell shows is left out: it is too much\n"
            output, size = {"output_type": "stream", "name": "stderr", "text": text}, len(text)
        else:
            self._cell_left -= size
        self._left -= size
        self.send(output)


showing = Showing()


class Stream(io.TextIOBase):
    """Standard output or error of the cells."""

    encoding = "utf-8"

    def __init__(self, name: str) -> None:
        self._name = name

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        showing.text(self._name, text)
        return len(text)


class Publisher(DisplayPublisher):
    """`display(...)`: an output of the cell, or a change to one that is there."""

    def publish(
        self, data: Any, metadata: Any = None, source: Any = None, *, transient: Any = None,
        update: bool = False, **_: Any,
    ) -> None:  # fmt: skip
        name = (transient or {}).get("display_id")
        showing.output({
            "output_type": "update" if update else "display_data", "data": bundle(data),
            "display_id": None if name is None else str(name),
        })  # fmt: skip

    def clear_output(self, wait: bool = False) -> None:
        showing.output({"output_type": "clear"})


class Hook(DisplayHook):
    """The value of a cell's last expression."""

    def write_output_prompt(self) -> None:
        """The front end writes it."""

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        showing.output({"output_type": "execute_result", "data": bundle(format_dict)})

    def finish_displayhook(self) -> None:
        self._is_active = False


class Shell(InteractiveShell):
    """IPython without a terminal, a history file or a second process."""

    displayhook_class = Type(Hook)
    display_pub_class = Type(Publisher)

    def init_virtualenv(self) -> None:
        """The sandbox has one environment."""

    def enable_gui(self, gui: Any = None) -> None:
        """There is no screen."""

    def ask_exit(self) -> None:
        """`exit` ends nothing: the other cells still run."""

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        try:
            message = str(evalue)
        except Exception:  # a student's own __str__
            message = ""
        showing.output({
            "output_type": "error", "ename": etype.__name__, "evalue": message, "traceback": stb,
        })  # fmt: skip


def bundle(data: Any) -> dict[str, str]:
    """The kinds of `data` that are shown, as text or base64."""
    found = {}
    for kind in KINDS:
        value = data.get(kind)
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode("ascii")
        if isinstance(value, str):
            found[kind] = value
    return found


def prepare_shell() -> Shell:
    """Make the shell, import and warm up what plots and tracebacks need; nothing of it is shown."""
    config = Config()
    config.HistoryManager.enabled = False  # no file, and no thread that a fork would lose
    config.InteractiveShell.enable_tip = False
    module = types.ModuleType("__main__")
    shell: Shell = Shell.instance(config=config, user_module=module)
    assert shell.display_formatter is not None
    shell.display_formatter.active_types = list(KINDS)
    shell.enable_matplotlib("inline")
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Stream("stdout"), Stream("stderr")
    try:
        shell.run_cell(WARM_UP, store_history=False)
    finally:
        sys.stdout, sys.stderr = streams
    for name in ("io", "matplotlib", "figure", "axes"):
        del shell.user_ns[name]
    return shell


def notebook(shell: Shell, send: Callable[[bytes], None]) -> Callable[[int, str], None]:
    """What runs a cell and sends what it shows; whatever one does, the next one runs."""
    number = -1

    def send_output(output: dict[str, Any]) -> None:
        send(b"O" + json.dumps({"cell": number, **output}).encode("utf-8", "replace"))

    def run_cell(n: int, cell: str) -> None:
        nonlocal number
        number = n
        showing.begin_cell()
        shell.run_cell(cell, store_history=True)
        showing.flush()

    sys.stdout, sys.stderr = Stream("stdout"), Stream("stderr")
    showing.start(send_output)
    return run_cell
