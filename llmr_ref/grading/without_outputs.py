"""Decode a notebook file, and take the outputs out of a large one in a process with limits.

Stands on its own (standard library only): reading.py runs this file as a script.
"""

import json
import resource
import sys
from typing import Any

MEMORY_BYTES = 2 << 30
CPU_SECONDS = 60


def text_of(raw: bytes) -> tuple[str, str]:
    """A file as text and the encoding it seems to have: UTF-8, -16 or -32, else Windows-1252."""
    encoding = json.detect_encoding(raw)  # by the byte order mark, or by where the zeros are
    try:
        return raw.decode(encoding), encoding
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace"), "cp1252"


def without_outputs(notebook: Any) -> Any:
    """The notebook of any version with no outputs and no state of widgets."""
    sheets = notebook.get("worksheets", [])
    for cell in [*notebook.get("cells", []), *(c for s in sheets for c in s["cells"])]:
        if "outputs" in cell:
            cell["outputs"] = []
    notebook.get("metadata", {}).pop("widgets", None)
    return notebook


def main(path: str, largest: int) -> None:
    """Write what is left to standard output; end with exit code 3 when that is over `largest` bytes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    with open(path, "rb") as file:
        text, _ = text_of(file.read())
    left = json.dumps(without_outputs(json.loads(text))).encode()
    if len(left) > largest:
        sys.exit(3)
    sys.stdout.buffer.write(left)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
