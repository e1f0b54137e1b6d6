"""Known resolution schedules by name, each as its authors publish it: which steps they reduce, and how strongly images are augmented.

Pure arithmetic, decided before the training starts. Knows no torch. presets.md has the sources and what is our own choice.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final, Literal

from trainers.plans import Step, constant_work_batches, round_side

PresetName = Literal["none", "interleaved", "progressive", "two_stage", "four_stage", "mixed_sizes", "multigrid"]

# Presets that the other fields of a schedule can write, and how.
WRITTEN_OUT: Final[dict[PresetName, dict[str, Any]]] = {
    "interleaved": {"frequency": 0.5, "scale": 0.5, "kernel": "pooled"},
    "two_stage": {"frequency": 1.0, "scale": 0.8333, "window_length": 0.8},
}
# Presets whose steps take several batches at once: they need the batches of an epoch.
GROWING: Final = frozenset({"mixed_sizes", "multigrid"})
# Presets with reduced steps to the very end, which leave batch norm the statistics of several sides.
TO_THE_END: Final = frozenset({"interleaved", "mixed_sizes", "multigrid"})
DRAWN: Final = frozenset({"mixed_sizes"})

# Composer's defaults: initial_scale, delay_fraction, finetune_fraction.
_INITIAL_SCALE, _DELAY, _FINE_TUNING = Fraction(1, 2), Fraction(1, 2), Fraction(1, 5)
# EfficientNetV2: equal stages, from this share of the last one's side and of its augmentation.
_STAGES, _FIRST_STAGE = 4, Fraction(1, 2)
# Mix & Match, the regime of mean size 144 on 224 px: shares of the steps, in the order of the draw. Its 256 px became full steps.
_SIZES: Final = ((Fraction(1, 5), Fraction(1)), (Fraction(3, 5), Fraction(4, 7)), (Fraction(1, 5), Fraction(3, 7)))
# Multigrid: scales of the short cycle and the batches that each takes at once; the third place is the long cycle's.
_SMALL, _MIDDLE, _FULL = (Fraction(1, 2), 4), (Fraction(math.sqrt(0.5)), 2), (Fraction(1), 1)
_LONG_CYCLE: Final = (_MIDDLE, _FULL)
# Epochs of the learning rate's stages in its Kinetics configuration, each of which is a long cycle, and those of the fine-tuning.
_CYCLE_EPOCHS, _LAST_EPOCHS = (94, 60, 42), 43

_Kind = tuple[Fraction, int]


def preset_epochs(name: PresetName, total_batches: int, full_px: int, batches_per_epoch: int, multiple: int, seed: int) -> list[list[Step]]:
    """The steps of a training, epoch by epoch, under a preset that is not WRITTEN_OUT.

    full_px, multiple: sides are rounded to `multiple` pixels, halves to the even multiple. seed: of the sizes that are drawn.
    """
    kind_at = _kinds(name, total_batches, seed)
    epochs = []
    for done in range(0, total_batches, batches_per_epoch):
        steps = _laid_out(kind_at, done, min(batches_per_epoch, total_batches - done), full_px, multiple)
        epochs.append(list(steps))
    return epochs


def preset_steps(name: PresetName, full_px: int, multiple: int) -> frozenset[Step]:
    """Every kind of step that a training of whatever length can take under a preset, the full step included."""
    full = Step(full_px, "full")
    if name in WRITTEN_OUT:
        side_px = round_side(WRITTEN_OUT[name]["scale"], full_px, multiple)
        return frozenset({full} if side_px == full_px else {full, Step(side_px, WRITTEN_OUT[name].get("kernel", "full"))})
    if name == "progressive":
        lowest_px = _side(_INITIAL_SCALE, full_px, multiple)
        return frozenset({full, *(Step(side_px, "full") for side_px in range(lowest_px, full_px, multiple))})
    kinds: dict[str, tuple[_Kind, ...]] = {
        "four_stage": tuple((_stage_share(stage), 1) for stage in range(_STAGES)),
        "mixed_sizes": tuple((scale, 0) for _, scale in _SIZES),
        "multigrid": (_SMALL, _MIDDLE, _FULL),
    }
    steps = {full} | {_step(kind, full_px, multiple) for kind in kinds[name]}
    # What an epoch has too few batches left for.
    return frozenset(steps | {step._replace(batches=1) for step in steps})


def augment_strength(name: PresetName, progress: Fraction) -> float:
    """How strong the augmentation is at a share of the training, as a share of what the training asks for."""
    return float(_stage_share(math.floor(_STAGES * progress))) if name == "four_stage" else 1.0


def _kinds(name: PresetName, total_batches: int, seed: int) -> Callable[[int, int], _Kind]:
    """Scale, and batches at once (0: as many as have the pixels of a full batch), by the step's place in its epoch and batches done."""
    if name == "progressive":
        return lambda turn, done: (_progressive_scale(Fraction(done, total_batches)), 1)
    if name == "four_stage":
        return lambda turn, done: (_stage_share(_STAGES * done // total_batches), 1)
    if name == "mixed_sizes":
        draw = random.Random(seed).random
        return lambda turn, done: (_drawn_scale(draw()), 0)
    return lambda turn, done: (_SMALL, _MIDDLE, _long_cycle(Fraction(done, total_batches)))[turn % 3]


def _laid_out(kind_at: Callable[[int, int], _Kind], done: int, left: int, full_px: int, multiple: int) -> Iterator[Step]:
    """The steps of an epoch that begins after `done` batches and has `left`; what is too little for a step stays steps of one batch."""
    for turn in itertools.count():
        if not left:
            return
        step = _step(kind_at(turn, done), full_px, multiple)
        if step.batches > left:
            yield from itertools.repeat(step._replace(batches=1), left)
            return
        yield step
        done, left = done + step.batches, left - step.batches


def _step(kind: _Kind, full_px: int, multiple: int) -> Step:
    scale, batches = kind
    side_px = _side(scale, full_px, multiple)
    return Step(side_px, "full", 1 if side_px == full_px else batches or constant_work_batches(side_px, full_px))


def _side(scale: Fraction, full_px: int, multiple: int) -> int:
    """As `round_side`, but halves go to the even multiple, which Python's and NumPy's `round` do in the published code."""
    return full_px if scale == 1 else min(full_px, max(multiple, round(scale * full_px / multiple) * multiple))


def _progressive_scale(progress: Fraction) -> Fraction:
    """Composer, ProgressiveResizing.apply."""
    grown = max(Fraction(0), min(Fraction(1), (progress - _DELAY) / (1 - _FINE_TUNING - _DELAY)))
    return _INITIAL_SCALE + (1 - _INITIAL_SCALE) * grown


def _stage_share(stage: int) -> Fraction:
    """EfficientNetV2 (Tan and Le 2021, arXiv 2104.00298), algorithm 1: S_0 + (S_e - S_0) i / (M - 1), over S_e."""
    return _FIRST_STAGE + (1 - _FIRST_STAGE) * Fraction(stage, _STAGES - 1)


def _drawn_scale(draw: float) -> Fraction:
    """draw: uniform in [0, 1)."""
    ends = itertools.accumulate(share for share, _ in _SIZES)
    return next(scale for end, (_, scale) in zip(ends, _SIZES, strict=True) if draw < end)


def _long_cycle(progress: Fraction) -> _Kind:
    """Multigrid's base shape."""
    return next(base for end, base in _long_cycle_ends() if progress < end)


@functools.cache
def _long_cycle_ends() -> list[tuple[Fraction, _Kind]]:
    """The share of the training at which each base shape ends: one after the other within each cycle, each for as many steps, then full."""
    means = [Fraction(_SMALL[1] + _MIDDLE[1] + base[1], 3) for base in _LONG_CYCLE]
    lengths = [epochs * mean / sum(means) for epochs in _CYCLE_EPOCHS for mean in means]
    # "The same amount of iteration saving as the rest of the training".
    saving = sum(means, Fraction(0)) / len(means)
    lengths.append(_LAST_EPOCHS / saving * means[-1])
    ends = [end / sum(lengths) for end in itertools.accumulate(lengths)]
    return list(zip(ends, [*_LONG_CYCLE * len(_CYCLE_EPOCHS), _FULL], strict=True))
