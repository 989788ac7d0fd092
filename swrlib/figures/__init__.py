"""Pictures: one palette for the whole book, one function for each kind of picture.

Lines go out as SVG that does not change from build to build, clouds of points as PNG. The
alternative text travels with the picture as metadata of the output.
"""

from swrlib.figures.accuracy import by_lambda, course, curves, drops
from swrlib.figures.finals import finals, finals_beside_paper, paired_differences
from swrlib.figures.norms import (
    growth_sentence,
    layer_panels,
    legend_below,
    method_courses,
    norm_courses,
)
from swrlib.figures.scaling import scaling
from swrlib.figures.style import MARKED, STYLE, as_html, interval, method_lines, show, use_style

__all__ = [
    "MARKED",
    "STYLE",
    "as_html",
    "by_lambda",
    "course",
    "curves",
    "drops",
    "finals",
    "finals_beside_paper",
    "growth_sentence",
    "interval",
    "layer_panels",
    "legend_below",
    "method_courses",
    "method_lines",
    "norm_courses",
    "paired_differences",
    "scaling",
    "show",
    "use_style",
]
