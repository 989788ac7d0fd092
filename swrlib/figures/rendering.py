"""From a drawn figure to SVG: panel by panel, so that a phone stacks them, light and dark in one.

An image follows the colour scheme of the page that shows it, so one file has both looks.
"""

from __future__ import annotations

import colorsys
import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.transforms import Bbox

#: The ground of the website's dark theme.
DARK_GROUND = "#121212"
#: The title of a legend.
LEGEND = "legend"
#: The id of what has one look.
KEPT = "kept"
#: The least contrast of a line or a word with the dark ground.
CONTRAST = 4.5
#: Greys from this lightness on are grounds and grids: they may vanish into a dark ground.
_PALE = 0.7
_PAD = 0.06  # inches around a panel
_PAINT = re.compile(r"(?:fill|stroke): (#[0-9a-f]{6})")
_PATH = re.compile(r' d="[^"]+"')
_LONG_NUMBER = re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Piece:
    """A panel or a legend of a picture; the heading is empty unless a group of panels begins."""

    svg: bytes
    title: str
    heading: str = ""


def rendered(figure: plt.Figure, *, cloud: bool = False) -> list[Piece]:
    """Render each panel and legend of a figure separately, and close the figure.

    Panels have one size and show all labels, those that they share too. The label of an axes
    (`Axes.set_label`) is the heading of the group of panels that begins with it. Lines and points
    of a ``cloud`` become pixels.

    Returns
    -------
    list of Piece
        The legends come first. A figure of a single panel without a legend of its own is one.
    """
    panels = [ax for ax in figure.axes if ax.axison]
    for artist in (a for ax in panels for a in (*ax.lines, *ax.collections) if cloud):
        artist.set_rasterized(True)
    _keep_heat_maps(panels)
    if len(panels) + len(figure.legends) < 2:
        pieces = [Piece(_svg(figure, "tight"), _title(panels[0]) if panels else "")]
    else:
        boxes = _boxes(figure, panels)
        named: list[tuple[Any, str, str]] = [(legend, LEGEND, "") for legend in figure.legends]
        named += [(ax, _title(ax), str(ax.get_label())) for ax in panels]
        for artist in (*figure.legends, *figure.axes):
            artist.set_visible(False)
        figure.set_layout_engine(None)  # what is laid out need not be drawn twice for each piece
        pieces = []
        for (artist, title, heading), box in zip(named, boxes, strict=True):
            artist.set_visible(True)
            pieces.append(Piece(_svg(figure, box), title, heading))
            artist.set_visible(False)
    plt.close(figure)
    return pieces


def _keep_heat_maps(panels: list[plt.Axes]) -> None:
    """Mark the cells of heat maps and the words on them, which suit each other in any look."""
    for ax in panels:
        maps = [artist for artist in ax.collections if isinstance(artist, QuadMesh)]
        for artist in (*maps, *(ax.texts if maps else ())):
            artist.set_gid(KEPT)


def _title(ax: plt.Axes) -> str:
    titles = (ax.get_title(loc=loc).replace("$", "") for loc in ("left", "center", "right"))
    return " ".join(filter(None, titles))


def _boxes(figure: plt.Figure, panels: list[plt.Axes]) -> list[Bbox]:
    """Return the part of the figure, in inches, that each legend and each panel takes."""
    for ax in panels:
        ax.tick_params(labelleft=True, labelbottom=True)
        line = [other for other in panels if other.get_position().y0 == ax.get_position().y0]
        ax.set_ylabel(ax.get_ylabel() or line[0].get_ylabel())
        ax.set_xlabel(ax.get_xlabel() or max(other.get_xlabel() for other in panels))
        for axis in (ax.xaxis, ax.yaxis):  # pandas hides the labels of shared axes
            axis.label.set_visible(True)
    figure.draw_without_rendering()
    inner = [ax.get_window_extent() for ax in panels]
    outer = [box for ax in panels if (box := ax.get_tightbbox()) is not None]
    pairs = list(zip(inner, outer, strict=True))
    left, below = (max(getattr(i, k) - getattr(o, k) for i, o in pairs) for k in ("x0", "y0"))
    right, above = (max(getattr(o, k) - getattr(i, k) for i, o in pairs) for k in ("x1", "y1"))
    boxes = [legend.get_window_extent() for legend in figure.legends]
    sides = [(i.x0 - left, i.y0 - below, i.x1 + right, i.y1 + above) for i in inner]
    boxes += [Bbox.from_extents(*ends) for ends in sides]
    return [box.transformed(figure.dpi_scale_trans.inverted()).padded(_PAD) for box in boxes]


def _svg(figure: plt.Figure, box: Bbox | str) -> bytes:
    buffer = io.StringIO()
    # Without a date the same picture is the same file.
    options: dict[str, Any] = {"bbox_inches": box, "metadata": {"Date": None}, "dpi": 200}
    figure.savefig(buffer, format="svg", **options)
    text = _PATH.sub(lambda path: _LONG_NUMBER.sub(r"\1", path[0]), buffer.getvalue())
    rules = "".join(
        f'[style*="{paint}: {color}"]:not([id={KEPT}] *){{{paint}:{darkened(color)}!important}}'
        for color in sorted(set(_PAINT.findall(text)))
        for paint in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>\n </defs>"
    return text.replace("</defs>", style, 1).encode()


def darkened(color: str) -> str:
    """Return the colour that replaces another on a dark ground.

    Greys change places, white being the ground; other colours become lighter where they have to.
    """
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    visible = saturation > 0.1 or lightness < _PALE
    if saturation <= 0.1:
        if lightness == 1.0:
            return DARK_GROUND
        lightness = 0.96 - 0.865 * lightness
    dark = to_hex(colorsys.hls_to_rgb(hue, lightness, saturation))
    while visible and contrast(dark) < CONTRAST:
        lightness += 0.01
        dark = to_hex(colorsys.hls_to_rgb(hue, lightness, saturation))
    return dark


def contrast(color: str | tuple[float, float, float], ground: str = DARK_GROUND) -> float:
    """Return the contrast of two colours as the Web Content Accessibility Guidelines define it."""
    bright, dark = sorted(map(_luminance, (color, ground)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(color: str | tuple[float, float, float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
