"""One look for every figure: colours, markers, fonts, and a Plotly that never calls home.

Every series is coded twice, by colour and by marker or dash, so that the figures survive colour
blindness and a black-and-white printer. Each colour has a twin for dark pages.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.colors import sample_colorscale, unlabel_rgb

MAX_TRACES = 50
INK, GRID, PANEL = "#1F2328", "#D5DAE0", "#FFFFFF"
CONFIG: dict[str, Any] = {
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


class Style(NamedTuple):
    """How one policy is drawn: `color` on light pages and `dark` on dark ones, as #RRGGBB."""

    color: str
    dark: str
    dash: str
    symbol: str


BASE = Style("#6E6E6E", "#A8A8A8", "dot", "circle")
GRPO = Style("#D55E00", "#F0843A", "dash", "square")
RS_GRPO = Style("#0072B2", "#56B4E9", "solid", "diamond")
_BETA_SYMBOLS = ("triangle-up", "triangle-down", "cross", "star", "hexagon", "x", "pentagon")
_BETA_DASHES = ("dashdot", "longdash", "longdashdot")


def styles(labels: Sequence[str], headline: str | None) -> dict[str, Style]:
    """Return the style of each label.

    Args:
        labels: "base", "GRPO" and labels of RS-GRPO by ascending beta.
        headline: The RS-GRPO label drawn as *the* RS-GRPO, blue with diamonds; the other betas
            lie on cividis, the larger the stronger, each with its own marker.
    """
    fixed = {"base": BASE, "GRPO": GRPO, headline: RS_GRPO}
    betas = [label for label in labels if label not in fixed]
    scale = {label: _on_cividis(i, len(betas)) for i, label in enumerate(betas)}
    return {label: fixed.get(label) or scale[label] for label in labels}


def dark_colors(used: Mapping[str, Style]) -> dict[str, str]:
    """Return for each light colour (and each `rgba(r,g,b,` prefix) its twin on a dark page."""
    pairs = {INK: "#E6E8EB", GRID: "#3A4048", PANEL: "#1B1F24"}
    pairs |= {style.color: style.dark for style in (BASE, GRPO, RS_GRPO, *used.values())}
    faded = {_rgba_prefix(light): _rgba_prefix(dark) for light, dark in pairs.items()}
    return pairs | faded


def fade(color: str, opacity: float) -> str:
    """Return #RRGGBB as an rgba() of that opacity."""
    return f"{_rgba_prefix(color)}{opacity:g})"


def plain(text: object) -> str:
    """Return text that Plotly shows as it stands: its markup would else eat or link a label."""
    return html.escape(str(text), quote=False)


def template() -> go.layout.Template:
    """Return the template of every figure: clear background, the page's font, quiet grid."""
    axis = {
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "linecolor": INK,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": GRID,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": PANEL, "font": {"color": INK}, "align": "left"},
            "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": INK},
            "dragmode": False,
        }
    )


def _on_cividis(rank: int, count: int) -> Style:
    share = rank / max(count - 1, 1)
    light, dark = 0.7 * (1 - share**0.6), 0.5 + 0.5 * share
    return Style(
        _cividis(light),
        _cividis(dark),
        _BETA_DASHES[rank % len(_BETA_DASHES)],
        _BETA_SYMBOLS[rank % len(_BETA_SYMBOLS)],
    )


def _cividis(position: float) -> str:
    red, green, blue = unlabel_rgb(sample_colorscale("Cividis", [position])[0])
    return f"#{round(red):02X}{round(green):02X}{round(blue):02X}"


def _rgba_prefix(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},"
