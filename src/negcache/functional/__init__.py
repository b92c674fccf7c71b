"""All mathematics of the library as pure functions of tensors."""

from negcache.functional.draws import given, share, use_columns
from negcache.functional.estimators import corrected, pinned, softmax_loss
from negcache.functional.two_stage import CELL, cell_log_masses, draw_from_cells

__all__ = [
    "CELL",
    "cell_log_masses",
    "corrected",
    "draw_from_cells",
    "given",
    "pinned",
    "share",
    "softmax_loss",
    "use_columns",
]
