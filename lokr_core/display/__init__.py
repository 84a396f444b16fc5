"""What a person looks at: progress, and pictures of grids and losses."""

from ._bytes import human_bytes
from ._grid import Grid
from ._lines import columns, shortened, wrapped
from ._numbers import human_count, percent, rounded
from ._plot import curve_points, draw_losses, plot_losses
from ._progress import Progress, progress_bar
from ._text import draw_text, text_width

__all__ = [
    "Grid",
    "Progress",
    "columns",
    "curve_points",
    "draw_losses",
    "draw_text",
    "human_bytes",
    "human_count",
    "percent",
    "plot_losses",
    "progress_bar",
    "rounded",
    "shortened",
    "text_width",
    "wrapped",
]
