"""What a person looks at: progress, and pictures of grids and losses."""

from ._grid import Grid
from ._plot import plot_losses
from ._png import GLYPH_HEIGHT, draw_text, text_width, write_png
from ._progress import Progress, ProgressBar, human_bytes

__all__ = [
    "GLYPH_HEIGHT",
    "Grid",
    "Progress",
    "ProgressBar",
    "draw_text",
    "human_bytes",
    "plot_losses",
    "text_width",
    "write_png",
]
