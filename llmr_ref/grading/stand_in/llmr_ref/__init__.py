"""What student code finds under the name llmr_ref while it is graded: no reference, no bank."""

import sys

_HERE = ("llmr_ref.grading", "llmr_ref.widgets")


class _NothingElse:
    """Ends the search for other parts: an editable installation would find the real ones."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.startswith("llmr_ref.") and name not in _HERE:
            raise ModuleNotFoundError(f"{name} is not available while a submission is graded")


sys.meta_path.insert(0, _NothingElse())


def __getattr__(name: str) -> object:
    raise ImportError(f"llmr_ref.{name} is not available while a submission is graded")
