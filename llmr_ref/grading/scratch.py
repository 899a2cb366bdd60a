"""Folders for temporary files that say whether their process still lives, so that no kill leaves any."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TextIO

PREFIX = "llmr-scratch-"
IN_USE = "in-use"  # locked as long as the process lives, whatever ends it


class ScratchFolder:
    """A new temporary folder, for this process alone; removed at the latest when the process ends."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix=PREFIX)
        # Locked first and named then: nobody ever finds it unlocked while it is in use.
        held = open(Path(self.name, "new"), "w")  # noqa: SIM115 - open as long as the folder is
        fcntl.flock(held, fcntl.LOCK_EX)
        os.rename(Path(self.name, "new"), Path(self.name, IN_USE))
        self.cleanup = weakref.finalize(self, _remove, self.name, held, os.getpid())


def _remove(name: str, held: TextIO, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        shutil.rmtree(name, ignore_errors=True)
    held.close()


def remove_abandoned() -> None:
    """Remove the folders of this user's processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with open(folder / IN_USE) as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its process lives
                shutil.rmtree(folder)
