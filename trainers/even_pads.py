"""Symmetric paddings, which the convolution applies itself, where a pooled layer's sizes call for an odd number of padded pixels.

A one-sided padding is a copy of the layer's input, which costs much of what pooling saves. Two ways around it, our own choice:

- alone: with a stride, a symmetric padding may give the same output size.
- in pairs: of two layers in a row the first gives an output that is one pixel smaller (narrow) or larger (wide), and the second one
  makes up for it, where nothing else uses the output in between. Each moves the window's centre by half a pixel and the two moves
  cancel, so the pair is centred exactly.

Narrow first where the sizes allow, because that computes fewer pixels and not more. Whether a network allows its pairs is seen by running
it: every other convolution and the network's outputs must keep their sizes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from trainers.pads import EvenKind, PooledShape, Size
from trainers.tracing import Call, Form, ShapeNetwork, Trace

_ORDERS: Final[tuple[tuple[EvenKind, EvenKind], ...]] = (("narrow", "wide"), ("wide", "narrow"))


class EvenPads(NamedTuple):
    """Symmetric padding (height, width) of a layer, for inputs of the sizes `at` only: at others the pair would not come out even."""

    kind: EvenKind
    padding: Size
    at: frozenset[Size]


class Pair(NamedTuple):
    """Two layers in a row, by name, and what each does."""

    names: tuple[str, str]
    pads: tuple[EvenPads, EvenPads]


class EvenChoice(NamedTuple):
    """Layers that need no padded copy, by name; the pairs among them; and the trace of a step that runs so."""

    pads: Mapping[str, EvenPads]
    pairs: tuple[tuple[str, str], ...]
    trace: Trace


def choose_even_pads(network: ShapeNetwork, plain: Trace, shapes: Mapping[str, PooledShape], side_px: int) -> EvenChoice:
    """What to pad symmetrically of the layers `shapes`; plain: the trace of the unpooled network on images of that side."""
    odd = {name: shape for name, shape in shapes.items() if any(shape.odd)}
    alone = _alone(plain, odd)

    def accepted(pairs: list[Pair]) -> Trace | None:
        trace = network.run(side_px, {name: Form(shapes[name].size, even.padding) for name, even in _members(pairs)})
        return trace if trace is not None and _fits(plain, trace, {pair.names[0] for pair in pairs}) else None

    # Nearly always all of them fit, so one run tells. Else each is tried by itself.
    pairs = _pairs(plain, odd, alone, lambda _: True)
    trace = accepted(pairs) if pairs else plain
    if trace is None:
        pairs = _pairs(plain, odd, alone, lambda pair: accepted([pair]) is not None)
        trace = accepted(pairs)
    if trace is None:
        pairs, trace = [], plain
    return EvenChoice({**alone, **dict(_members(pairs))}, tuple(pair.names for pair in pairs), trace)


def _alone(plain: Trace, odd: Mapping[str, PooledShape]) -> dict[str, EvenPads]:
    """The layers whose output size stays as it is under a symmetric padding, at every call."""
    found: dict[str, EvenPads] = {}
    for name, shape in odd.items():
        calls = [call for call in plain.calls if call.name == name]
        for kind in ("narrow", "wide"):
            padding = shape.even_padding(kind)
            if calls and padding is not None and all(shape.output_px(call.input_px, padding) == call.output_px for call in calls):
                found[name] = EvenPads(kind, padding, frozenset(call.input_px for call in calls))
                break
    return found


def _pairs(plain: Trace, odd: Mapping[str, PooledShape], alone: Mapping[str, EvenPads], allowed: Callable[[Pair], bool]) -> list[Pair]:
    """Greedily in order of execution. Layers that run more than once stay out: each of their calls would need a partner."""
    uses = Counter(call.name for call in plain.calls)
    taken: set[str] = set()
    pairs = []
    for first, second in ((plain.calls[first], plain.calls[second]) for first, second in plain.chained):
        names = {first.name, second.name}
        if names & taken or not names <= odd.keys() or names <= alone.keys() or any(uses[name] > 1 for name in names):
            continue
        pair = next((pair for pair in _candidates(first, second, odd) if allowed(pair)), None)
        if pair is not None:
            pairs.append(pair)
            taken |= names
    return pairs


def _candidates(first: Call, second: Call, odd: Mapping[str, PooledShape]) -> Iterable[Pair]:
    """The orders in which the first layer's output changes along the odd axes and the second one's comes out as it was."""
    ours, theirs = odd[first.name], odd[second.name]
    if first.output_px != second.input_px:
        return
    for kinds in _ORDERS:
        padding, next_padding = ours.even_padding(kinds[0]), theirs.even_padding(kinds[1])
        if padding is None or next_padding is None:
            continue
        between = ours.output_px(first.input_px, padding)
        if min(between) > 0 and between != first.output_px and theirs.output_px(between, next_padding) == second.output_px:
            evens = EvenPads(kinds[0], padding, frozenset({first.input_px})), EvenPads(kinds[1], next_padding, frozenset({between}))
            yield Pair((first.name, second.name), evens)


def _fits(plain: Trace, trace: Trace, changed: set[str]) -> bool:
    """Whether the same calls give the same sizes, the outputs of the layers `changed` aside."""
    same_calls = [call.name for call in trace.calls] == [call.name for call in plain.calls]
    return (
        same_calls
        and trace.outputs == plain.outputs
        and all(call.output_px == was.output_px for call, was in zip(trace.calls, plain.calls, strict=True) if call.name not in changed)
    )


def _members(pairs: Iterable[Pair]) -> Iterable[tuple[str, EvenPads]]:
    return itertools.chain.from_iterable(zip(pair.names, pair.pads, strict=True) for pair in pairs)
