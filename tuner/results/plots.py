"""What the pictures of a study show, as plain values that the drawing for the browser and the drawing for image files share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tuner.results.describe import describe_schedule, describe_training, describe_value, printable, quantity, schedule_of
from tuner.results.front import Direction, StudyFront, non_dominated
from tuner.storage.trials import CompletedTrial, Rival

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
BLUE: Final = "#0072B2"
SKY: Final = "#56B4E9"
VERMILLION: Final = "#D55E00"
BLACK: Final = "#000000"
# ColorBrewer's sequential scale, known by this name to both drawings: pale for full resolution, dark for a small side.
SIDE_COLOURS: Final = "YlGnBu_r"

# Steps of the pictured training: fine enough to see a window's edge, few enough that alternating steps stay visible.
PICTURED_STEPS: Final = 200

Marker = Literal["circle", "diamond", "star"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points or a line in the units of the axes. marker None: a line, dashed or not; else points. hover: plain text a point."""

    label: str
    x: list[float]
    y: list[float]
    colour: str
    marker: Marker | None = None
    size: float = 8.0
    filled: bool = True
    dashed: bool = False
    hover: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPicture:
    """Every trial, the front, and the front of the full-resolution trials over two objectives (or the trial number and one)."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulesPicture:
    """One strip a front point: sides [points, steps] as shares of the full side, and at which steps kernels are pooled."""

    title: str
    labels: list[str]
    words: list[str]
    sides: NDArray[np.float64]
    pooled: NDArray[np.bool_]


def front_picture(results: StudyFront) -> FrontPicture:
    """The first two objectives against each other; a single objective over the trial number.

    The lines are drawn for two objectives only: fewer or more leave no staircase in the plane.
    """
    names = _axes(results)
    reduced, reduced_on_front = (_marked(trials, None) for trials in (results.completed, results.front))
    full, full_on_front = (_marked(trials, "shorter", "full") for trials in (results.completed, results.front))
    baselines = _marked(results.completed, "baseline")
    series = [
        *_staircases(results, names),
        _points("reduced steps", reduced, results, SKY, "circle", 7),
        _points("full resolution", full, results, VERMILLION, "diamond", 9, filled=False),
        _points("reduced steps, on the front", reduced_on_front, results, BLUE, "circle", 9),
        _points("full resolution, on the front", full_on_front, results, VERMILLION, "diamond", 10),
        _points("baseline", baselines, results, BLACK, "star", 14),
    ]
    x_label, y_label = (_axis_label(name) for name in names)
    return FrontPicture(
        title=f"{printable(results.study)}: {len(results.front)} of {len(results.completed)} trials on the front, {_confirmed(results)}",
        x_label=x_label,
        y_label=y_label,
        series=[part for part in series if part.x],
    )


def schedules_picture(results: StudyFront, most: int | None = None) -> SchedulesPicture:
    """The front's schedules, each over PICTURED_STEPS steps of its training. most: where there are more, so many from end to end of it."""
    trials = results.front if most is None else _spread(results.front, most)
    # Batch by batch: the axis is the progress of the training.
    plans = [schedule_of(trial).batch_by_batch(PICTURED_STEPS, results.full_px) for trial in trials]
    shape = (len(plans), PICTURED_STEPS)
    return SchedulesPicture(
        title="Schedules on the front" + (f", {len(trials)} of {len(results.front)}" if len(trials) < len(results.front) else ""),
        labels=[_strip_label(trial) for trial in trials],
        words=[_strip_words(trial, results.full_px) for trial in trials],
        sides=np.array([[step.side_px / results.full_px for step in plan] for plan in plans], dtype=np.float64).reshape(shape),
        pooled=np.array([[step.kernel != "full" for step in plan] for plan in plans], dtype=bool).reshape(shape),
    )


def staircase(
    points: Sequence[tuple[float, float]], directions: tuple[Direction, Direction], worst: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """Corners of the border of what the points dominate, from the worst y of the drawing to its worst x.

    Between two neighbours the border turns at the worse of both in each objective, so no corner claims a result nobody reached.
    """
    if not points:
        return [], []
    mask = non_dominated(points, directions)
    best_x_first = sorted({point for point, kept in zip(points, mask, strict=True) if kept}, reverse=directions[0] == "maximize")
    corners = [(best_x_first[0][0], worst[1])]
    for (x, y), (next_x, _) in itertools.pairwise(best_x_first):
        corners += [(x, y), (next_x, y)]
    corners += [best_x_first[-1], (worst[0], best_x_first[-1][1])]
    return [x for x, _ in corners], [y for _, y in corners]


def hover_text(trial: CompletedTrial, full_px: int) -> str:
    """A trial in a few plain lines: number and mark, values, schedule, training. full_px: full side of the study's images in pixels."""
    mark = "" if trial.rival is None else f" ({'baseline' if trial.rival == 'baseline' else 'full resolution'})"
    values = [f"{quantity(name).label}: {describe_value(name, value)}" for name, value in trial.values.items()]
    words = [describe_schedule(trial.params, full_px), describe_training(trial.params)]
    return "\n".join([f"trial {trial.number}{mark}", *values, *words]).rstrip()


def _spread(trials: Sequence[CompletedTrial], most: int) -> list[CompletedTrial]:
    """At most so many of them at even distances, the first and the last included."""
    places = np.linspace(0, len(trials) - 1, min(most, len(trials))).round().astype(int)
    return [trials[place] for place in places]


def _marked(trials: Sequence[CompletedTrial], *marks: Rival | None) -> list[CompletedTrial]:
    return [trial for trial in trials if trial.rival in marks]


def _axes(results: StudyFront) -> tuple[str, str]:
    names = list(results.objectives)
    return ("number", names[0]) if len(names) == 1 else (names[0], names[1])


def _confirmed(results: StudyFront) -> str:
    found = results.confirmation
    if found is None:
        return "not confirmed"
    lucky = f": {len(found.lucky)} there by luck" if found.lucky else ""
    return "confirmed in part" if found.missing else f"confirmed on {found.seeds} seeds{lucky}"


def _axis_label(name: str) -> str:
    label, unit, _ = quantity(name)
    return f"{'trial' if name == 'number' else label}{', ' if unit else ''}{unit}"


def _position(trial: CompletedTrial, name: str) -> float:
    return float(trial.number) if name == "number" else trial.values[name] * quantity(name).factor


def _points(
    label: str, trials: Sequence[CompletedTrial], results: StudyFront, colour: str, marker: Marker, size: float, filled: bool = True
) -> Series:
    names = _axes(results)
    return Series(
        label=label,
        x=[_position(trial, names[0]) for trial in trials],
        y=[_position(trial, names[1]) for trial in trials],
        colour=colour,
        marker=marker,
        size=size,
        filled=filled,
        hover=tuple(hover_text(trial, results.full_px) for trial in trials),
    )


def _staircases(results: StudyFront, names: tuple[str, str]) -> list[Series]:
    if len(results.objectives) != 2 or not results.completed:
        return []
    first, second = results.objectives.values()
    worst = (_worst(results.completed, names[0], first), _worst(results.completed, names[1], second))
    lines = []
    for label, trials, colour, dashed in (
        ("front", results.front, BLUE, False),
        ("front of full resolution", results.rival_front, VERMILLION, True),
    ):
        x, y = staircase([(_position(trial, names[0]), _position(trial, names[1])) for trial in trials], (first, second), worst)
        lines.append(Series(label=label, x=x, y=y, colour=colour, dashed=dashed))
    return lines


def _worst(trials: Sequence[CompletedTrial], name: str, direction: Direction) -> float:
    positions = [_position(trial, name) for trial in trials]
    return max(positions) if direction == "minimize" else min(positions)


def _strip_label(trial: CompletedTrial) -> str:
    return f"trial {trial.number}: " + ", ".join(describe_value(name, value) for name, value in trial.values.items())


def _strip_words(trial: CompletedTrial, full_px: int) -> str:
    training = describe_training({"epochs": trial.params["epochs"]}) if "epochs" in trial.params else ""
    return ", ".join(words for words in (describe_schedule(trial.params, full_px), training) if words)
