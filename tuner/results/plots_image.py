"""The pictures of a study as PNG and SVG files, drawn with matplotlib's object interface, so without a browser or a display."""

from __future__ import annotations

import io
from typing import Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from tuner.results.front import StudyFront
from tuner.results.plots import (
    BLACK,
    PICTURED_STEPS,
    SIDE_COLOURS,
    FrontPicture,
    SchedulesPicture,
    Series,
    front_picture,
    schedules_picture,
)

_MARKERS: Final = {"circle": "o", "diamond": "D", "star": "*"}
_WIDTH_IN = 10.0
_FRONT_IN = 5.6
_STRIP_IN = 0.6


def front_image(results: StudyFront, image_format: Literal["png", "svg"]) -> bytes:
    """The front above, its schedules below, as the bytes of a PNG or SVG file."""
    buffer = io.BytesIO()
    front_drawing(results).savefig(buffer, format=image_format, dpi=150, metadata={"Date": None} if image_format == "svg" else None)
    return buffer.getvalue()


def front_drawing(results: StudyFront) -> Figure:
    """The same as a matplotlib figure."""
    strips = schedules_picture(results)
    strips_in = 1.3 + _STRIP_IN * max(1, len(strips.labels))
    figure = Figure(figsize=(_WIDTH_IN, _FRONT_IN + strips_in), layout="constrained")
    # Figures of their own, because axes of one figure share a left edge and the strips' labels are long.
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[_FRONT_IN, strips_in], hspace=0.03)
    above, below = parts[:, 0]
    _draw_front(above.subplots(), front_picture(results))
    _draw_strips(below, below.subplots(), strips)
    return figure


def _draw_front(axes: Axes, picture: FrontPicture) -> None:
    for series in picture.series:
        _draw_series(axes, series)
    axes.set_title(picture.title, loc="left", parse_math=False)
    axes.set_xlabel(picture.x_label, parse_math=False)
    axes.set_ylabel(picture.y_label, parse_math=False)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.margins(y=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    if picture.series:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=3, frameon=False, fontsize=9)


def _draw_series(axes: Axes, series: Series) -> None:
    if series.marker is None:
        axes.plot(series.x, series.y, color=series.colour, linewidth=1.8, linestyle="--" if series.dashed else "-", label=series.label)
        return
    axes.plot(
        series.x,
        series.y,
        linestyle="none",
        marker=_MARKERS[series.marker],
        markersize=series.size * 0.8,
        color=series.colour,
        markerfacecolor=series.colour if series.filled else "white",
        label=series.label,
    )
    if series.marker == "star":
        axes.annotate(series.label, (series.x[0], series.y[0]), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9)


def _draw_strips(figure: SubFigure, axes: Axes, picture: SchedulesPicture) -> None:
    rows = range(len(picture.labels))
    pooled = "; ticks below a strip: kernels pooled" if picture.pooled.any() else ""
    axes.set_title(picture.title + pooled, loc="left", parse_math=False)
    axes.set_xlabel("progress of the training, %")
    axes.set_xlim(0, 100)
    axes.set_ylim(max(1, len(rows)) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    edges = np.linspace(0, 100, PICTURED_STEPS + 1)
    for row in rows:
        strip = axes.pcolormesh(edges, [row - 0.12, row + 0.28], picture.sides[row : row + 1], cmap=SIDE_COLOURS, vmin=0, vmax=1)
        strip.set_rasterized(True)
        # Above the strip: beside it the words would leave no room for the steps.
        axes.text(0, row - 0.17, f"{picture.labels[row]}: {picture.words[row]}", fontsize=8, parse_math=False)
    row_of, step_of = np.nonzero(picture.pooled)
    axes.vlines(edges[step_of], row_of + 0.30, row_of + 0.38, color=BLACK, linewidth=0.8)
    if len(rows):
        figure.colorbar(strip, ax=axes, label="side of the input,\nshare of full", pad=0.01, shrink=min(1.0, 3 / len(rows)), anchor=(0, 1))
