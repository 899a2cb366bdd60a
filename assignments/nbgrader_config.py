"""nbgrader settings of the course. Every nbgrader command works from this folder."""

import warnings
from pathlib import Path

from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearOutput,
    DeduplicateIds,
    IgnorePattern,
    LimitOutput,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)
from sqlalchemy.exc import SAWarning

from llmr_ref.grading.feedback import FeedbackExporter
from llmr_ref.grading.submission import (
    FlagNeedsLook,
    Grade,
    Repair,
    RunForPictures,
    SubmissionExporter,
)

# nbgrader's own queries make SQLAlchemy warn on every submission; nothing of ours depends on it.
warnings.filterwarnings("ignore", category=SAWarning)

c = get_config()  # noqa: F821 - provided by traitlets

c.CourseDirectory.root = str(Path(__file__).parent)
c.CourseDirectory.course_id = "llmr"

# Read whatever was handed in, repair it, then nbgrader's own sanitizing.
c.Autograde.exporter_class = SubmissionExporter
c.Autograde.sanitize_preprocessors = [
    Repair,
    ClearOutput,
    DeduplicateIds,
    OverwriteKernelspec,
    OverwriteCells,
    CheckCellMetadata,
]

# Run the notebook for its pictures, then decide the scores outside of it; the rest is nbgrader's own.
c.Autograde.autograde_preprocessors = [
    RunForPictures,
    IgnorePattern,
    ClearMetadataPreprocessor,
    LimitOutput,
    Grade,
    SaveAutoGrades,
    FlagNeedsLook,
    AssignLatePenalties,
    CheckCellMetadata,
]
c.ClearMetadataPreprocessor.preserve_nb_metadata_mask = {"kernelspec", "language_info", "llmr"}
c.ClearMetadataPreprocessor.preserve_cell_metadata_mask = {"nbgrader", "tags"}
c.RunForPictures.timeout = 20
c.LimitOutput.max_lines = 200
c.LimitOutput.max_traceback = 50

# Feedback without scripts, formulas as MathML: opens anywhere, asks no host for anything.
c.GenerateFeedback.exporter_class = FeedbackExporter
