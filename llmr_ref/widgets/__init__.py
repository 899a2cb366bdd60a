"""Figures that can be touched: live in JupyterLab, and in the built book without a kernel."""

from llmr_ref.widgets.mask_editor import MaskEditor
from llmr_ref.widgets.rope_angles import RopeAngles

__all__ = ["MaskEditor", "RopeAngles"]
