"""Figures that can be touched: live in JupyterLab, and in the built book without a kernel."""

# One line per widget: the tests of the kit (tests/browser/test_widget_checklist.py) find it by this.
from llmr_ref.widgets.mask_editor import MaskEditor as MaskEditor
from llmr_ref.widgets.rope_angles import RopeAngles as RopeAngles
from llmr_ref.widgets.sampling_knobs import SamplingKnobs as SamplingKnobs
