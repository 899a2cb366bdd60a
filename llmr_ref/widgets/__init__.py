"""Figures that can be touched: live in JupyterLab, and in the built book without a kernel."""

# One line per widget: the tests of the kit (tests/browser/test_widget_checklist.py) find it by this.
from llmr_ref.widgets.attention_plane import AttentionPlane as AttentionPlane
from llmr_ref.widgets.backprop_stepper import BackpropStepper as BackpropStepper
from llmr_ref.widgets.batch_loss import BatchLoss as BatchLoss
from llmr_ref.widgets.block_flow import BlockFlow as BlockFlow
from llmr_ref.widgets.bpe_stepper import BPEStepper as BPEStepper
from llmr_ref.widgets.cache_growth import CacheGrowth as CacheGrowth
from llmr_ref.widgets.isoflop_explorer import IsoflopExplorer as IsoflopExplorer
from llmr_ref.widgets.mask_editor import MaskEditor as MaskEditor
from llmr_ref.widgets.model_calculator import ModelCalculator as ModelCalculator
from llmr_ref.widgets.ngram_context import NgramContext as NgramContext
from llmr_ref.widgets.policy_gradient import PolicyGradient as PolicyGradient
from llmr_ref.widgets.positions_distance import PositionsDistance as PositionsDistance
from llmr_ref.widgets.rope_angles import RopeAngles as RopeAngles
from llmr_ref.widgets.sampling_knobs import SamplingKnobs as SamplingKnobs
from llmr_ref.widgets.softmax_temperature import SoftmaxTemperature as SoftmaxTemperature
from llmr_ref.widgets.trained_heads import TrainedHeads as TrainedHeads
from llmr_ref.widgets.yarn_explorer import YarnExplorer as YarnExplorer
