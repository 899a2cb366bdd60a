"""nbgrader settings of the course. Every nbgrader command works from this folder."""

import importlib.util
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

# nbgrader's own queries make SQLAlchemy warn on every submission; nothing of ours depends on it.
warnings.filterwarnings("ignore", category=SAWarning)

c = get_config()  # noqa: F821 - provided by traitlets

c.CourseDirectory.root = str(Path(__file__).parent)
c.CourseDirectory.course_id = "llmr"

# Ours are named, not imported: Jupyter servers read this file too and have no use for torch.
# Read whatever was handed in, repair it, then nbgrader's own sanitizing.
c.Autograde.exporter_class = "llmr_ref.grading.intake.SubmissionExporter"
c.SubmissionExporter.optimistic_validation = True  # by nbformat: once, after all steps
c.Autograde.sanitize_preprocessors = [
    "llmr_ref.grading.intake.Repair",
    ClearOutput,
    DeduplicateIds,
    OverwriteKernelspec,
    OverwriteCells,
    CheckCellMetadata,
]

# Run the notebook for its pictures, then decide the scores outside of it; the rest is nbgrader's own.
c.Autograde.autograde_preprocessors = [
    "llmr_ref.grading.autograde.RunForPictures",
    IgnorePattern,
    ClearMetadataPreprocessor,
    LimitOutput,
    "llmr_ref.grading.autograde.Grade",
    SaveAutoGrades,
    "llmr_ref.grading.autograde.FlagNeedsLook",
    AssignLatePenalties,
    CheckCellMetadata,
]
c.ClearMetadataPreprocessor.preserve_nb_metadata_mask = {"kernelspec", "language_info", "llmr"}
c.ClearMetadataPreprocessor.preserve_cell_metadata_mask = {"nbgrader", "tags"}
c.LimitOutput.max_lines = 200
c.LimitOutput.max_traceback = 50

# Feedback without scripts, formulas as MathML: opens anywhere, asks no host for anything.
c.GenerateFeedback.exporter_class = "llmr_ref.grading.feedback.FeedbackExporter"

# A student's words are cleaned wherever they are shown: a script in formgrader could set marks.
c.HTMLExporter.filters = {"markdown2html": "llmr_ref.grading.feedback.clean_markdown"}

# nbgrader's CSV, but quoted, and with nothing in it that a spreadsheet would run.
c.ExportApp.plugin_class = "llmr_ref.grading.exporters.SafeCsvExport"

# Formgrader's pages ask no other host either: our folder comes before nbgrader's own templates.
_folders = {
    name: Path(importlib.util.find_spec(name).origin).parent for name in ("llmr_ref", "nbgrader")
}
c.HTMLExporter.extra_template_basedirs = [
    str(_folders["llmr_ref"] / "grading" / "templates" / "nbconvert"),
    str(_folders["nbgrader"] / "server_extensions" / "formgrader" / "templates"),
]
