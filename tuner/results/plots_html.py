"""The pictures of a study in the browser, drawn with plotly, and one page with all of them that opens without a network."""

from __future__ import annotations

import html
from typing import Any, Final

import plotly.graph_objects as go

from tuner.results.confirmation import CONFIRMED_HEAD, confirmation_words, confirmed_accuracy
from tuner.results.describe import describe_schedule, describe_share, describe_training, describe_value, quantity
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
from tuner.storage.trials import CompletedTrial

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; color: #222; max-width: 1150px; margin: 24px auto; padding: 0 16px; }}
h1 {{ font-size: 22px; margin-bottom: 4px; }}
p {{ color: #555; margin-top: 0; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 5px 10px; border-bottom: 1px solid #ddd; text-align: left; }}
th {{ border-bottom: 2px solid #888; }}
td.number {{ text-align: right; white-space: nowrap; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{front}
{schedules}
<h2>The front</h2>
{table}
<p>Time saved: against the fastest full-resolution trial of the study that is at least as accurate; a dash where none is.</p>
</body>
</html>
"""


_STRIP_PX: Final = 56
_ABOVE_PX: Final = 80
_BELOW_PX: Final = 120
# Below the strips: beside them it and its title would leave no room in a narrow window or card.
_COLOUR_BAR: Final = {
    "orientation": "h",
    "title": {"text": "side of the input, share of full", "side": "bottom", "font": {"size": 12}},
    "len": 210,
    "lenmode": "pixels",
    "thickness": 12,
    "x": 0,
    "xanchor": "left",
    "yref": "container",
    "y": 0,
    "yanchor": "bottom",
}


def front_html(results: StudyFront) -> str:
    """One HTML page that needs no network: the front, its schedules and a table."""
    options = {"full_html": False, "config": {"displaylogo": False, "responsive": True}}
    # The script of plotly itself, 5 MB, goes into the page once.
    figure = front_figure(results).to_html(include_plotlyjs=True, div_id="front", **options)
    strips = schedules_figure(results).to_html(include_plotlyjs=False, div_id="schedules", **options)
    return _PAGE.format(
        title=html.escape(results.study),
        summary=html.escape(summary_line(results)),
        front=figure,
        schedules=strips,
        table=table_html(results),
    )


def summary_line(results: StudyFront) -> str:
    """How many trials there are, and whether their front is confirmed; plain text."""
    counts = f"{len(results.completed)} completed trials of {results.model}, {len(results.front)} on the front"
    interval = f" {CONFIRMED_HEAD.capitalize()}: mean of the fresh seeds, with its 95 % interval." if results.confirmation else ""
    return f"{counts}; {confirmation_words(results)}.{interval}"


def front_figure(results: StudyFront, height_px: int = 560) -> go.Figure:
    """Objectives of every trial with the front and the front of the full-resolution trials, as a plotly figure."""
    picture: FrontPicture = front_picture(results)
    figure = go.Figure([_trace(series) for series in picture.series])
    figure.update_layout(
        template="plotly_white",
        title=_text(picture.title),
        height=height_px,
        hovermode="closest",
        margin={"t": 70, "b": 50},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        xaxis={"title": _text(picture.x_label), "zeroline": False},
        yaxis={"title": _text(picture.y_label), "zeroline": False},
    )
    for series in picture.series:
        if series.marker == "star":
            figure.add_annotation(x=series.x[0], y=series.y[0], text=series.label, showarrow=False, yshift=17)
    return figure


def schedules_figure(results: StudyFront, height_px: int | None = None) -> go.Figure:
    """One strip a front point: the side of each step's input over its training, pooled steps underlined, as a plotly figure.

    height_px: shows no more strips than fit; None: as high as all of them need.
    """
    most = None if height_px is None else max(1, (height_px - _ABOVE_PX - _BELOW_PX) // _STRIP_PX)
    picture: SchedulesPicture = schedules_picture(results, most)
    rows = list(range(len(picture.labels)))
    progress = [100 * (step + 0.5) / PICTURED_STEPS for step in range(PICTURED_STEPS)]
    heatmap = go.Heatmap(
        z=picture.sides.tolist(),
        x=progress,
        y=rows,
        zmin=0,
        zmax=1,
        colorscale=SIDE_COLOURS,
        ygap=24,
        colorbar=_COLOUR_BAR,
        hovertemplate="at %{x:.0f} %: side %{z:.3g}<extra></extra>",
    )
    figure = go.Figure([heatmap, *_pooled_marks(picture, progress)])
    figure.update_layout(
        template="plotly_white",
        title={"text": _text(picture.title), "xref": "paper", "x": 0},
        height=height_px or _ABOVE_PX + _BELOW_PX + _STRIP_PX * (len(rows) + 1),
        margin={"t": _ABOVE_PX, "b": _BELOW_PX, "l": 20, "r": 20},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        xaxis={"title": "progress of the training, %", "range": [0, 100]},
        yaxis={"visible": False, "range": [len(rows) - 0.4, -0.7]},
    )
    for row, (label, words) in enumerate(zip(picture.labels, picture.words, strict=True)):
        # Above the strip: beside it the words would leave no room for the steps.
        at = {"x": 0, "xanchor": "left", "y": row - 0.3, "yanchor": "bottom"}
        figure.add_annotation(text=f"{_text(label)}: {_text(words)}", showarrow=False, font={"size": 11}, **at)
    return figure


def _trace(series: Series) -> go.Scatter:
    style: dict[str, Any] = {"x": series.x, "y": series.y, "name": _text(series.label)}
    if series.marker is None:
        line = {"color": series.colour, "width": 2, "dash": "dash" if series.dashed else "solid"}
        return go.Scatter(mode="lines", line=line, hoverinfo="skip", **style)
    symbol = series.marker if series.filled else f"{series.marker}-open"
    marker = {"color": series.colour, "size": series.size, "symbol": symbol, "line": {"width": 1.5 if not series.filled else 0}}
    return go.Scatter(mode="markers", marker=marker, hoverinfo="text", hovertext=[_text(text) for text in series.hover], **style)


def _pooled_marks(picture: SchedulesPicture, progress: list[float]) -> list[go.Scatter]:
    if not picture.pooled.any():
        return []
    x: list[float] = []
    y: list[float] = []
    for row, pooled in enumerate(picture.pooled):
        x += [progress[step] for step in range(PICTURED_STEPS) if pooled[step]]
        y += [row + 0.36] * int(pooled.sum())
    marker = {"symbol": "line-ns", "size": 5, "line": {"width": 1.5, "color": BLACK}}
    return [go.Scatter(x=x, y=y, mode="markers", marker=marker, name="kernels pooled", hoverinfo="skip", showlegend=True)]


def table_html(results: StudyFront) -> str:
    """The front as an HTML table, every text escaped."""
    names = list(results.objectives)
    test = [CONFIRMED_HEAD] if results.confirmation else []
    heads = ["trial", *(quantity(name).label for name in names), *test, "time saved", "schedule", "training"]
    rows = "\n".join(_row(trial, results) for trial in results.front)
    return f"<table><tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>\n{rows}\n</table>"


def _row(trial: CompletedTrial, results: StudyFront) -> str:
    values = [describe_value(name, trial.values[name]) for name in results.objectives]
    values += [confirmed_accuracy(trial.number, results)] if results.confirmation else []
    numbers = [str(trial.number), *values, describe_share(results.time_saved(trial))]
    words = [describe_schedule(trial.params, results.full_px), describe_training(trial.params)]
    cells = [f'<td class="number">{html.escape(cell)}</td>' for cell in numbers] + [f"<td>{html.escape(cell)}</td>" for cell in words]
    return f"<tr>{''.join(cells)}</tr>"


def _text(text: str) -> str:
    """Plain text for plotly, which reads a few HTML tags in every label."""
    return html.escape(text, quote=False).replace("\n", "<br>")
