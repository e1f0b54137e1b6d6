"""What a launch would search, what that would cost, and whether it could begin, without starting anything: `tuner launch --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.configs import RIVAL_FRAC
from studies.domains import Domain, Fixed, Range
from studies.space import SearchSpace, canonical_params, possible_steps
from studies.spec import StudySpec
from trainers.cost import CostTable
from trainers.schedule import Step
from tuner.launching.display import waiting, warn
from tuner.launching.doctor import check_here, check_this_node, kept_place, raise_problems, warnings_in
from tuner.launching.node_checks import check_load
from tuner.launching.timing import kept_timing
from tuner.results.describe import describe_duration, describe_share, describe_training, printable
from tuner.samplers.plan_cost import PlanCost
from tuner.storage.opening import holds_studies, open_storage
from tuner.storage.store import StudyStore

# A sample of the space; a power of two, because a Sobol sequence is balanced at those.
_POINTS: Final = 1024
# Of an epoch whose images nobody has counted yet: shares of steps are right to a thousandth.
_ASSUMED_STEPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Costs:
    """What points drawn evenly from the space cost, over the baseline. source: where the prices are from.

    mean: over the launch's trials, a fifth of which are at full resolution. baseline_s: None where nobody has timed it.
    """

    lowest: float
    median: float
    highest: float
    mean: float
    baseline_s: float | None
    source: str


# Of the doctor's findings those that are said where they are right: what only the reader can see to.
_SAID: Final = ("dataset", "image size", "steps", "network")


def show_dry_run(spec: StudySpec, url: str, trials: int, timeout_s: int | None, console: Console) -> None:
    """Prints the space, the cost range, and how many trials the budget is expected to pay for."""
    console.print(Text(printable(f"study '{spec.name}': {spec.model} on {spec.dataset.name}, sampler {spec.sampler}")), soft_wrap=True)
    console.print(Text(f"baseline: full resolution, {describe_training(spec.baseline_params() | dict(spec.training))}"), soft_wrap=True)
    console.print(space_table(spec.search))
    costs = expected_costs(spec, _timing(spec, url))
    for line in [*_space_lines(spec), *_cost_lines(costs), *_budget_lines(spec, costs, trials, timeout_s)]:
        console.print(Text(printable(line)), soft_wrap=True)


def check_before_launch(spec: StudySpec, url: str, address: str | None, checkpoints: str | None, console: Console) -> None:
    """Says whether the images are there and the network takes their sides; RunError with all that a launch would refuse, too.

    Of a cluster only the address: the rest is looked at on its nodes. GPUs are left to the doctor: they may be busy, or elsewhere.
    """
    place = checkpoints or kept_place(spec, url)
    findings = check_here(spec, url, place, address=address)
    if address is not None:
        console.print("images and network are looked at on the nodes: tuner doctor with the same study and --address", soft_wrap=True)
    elif not any(finding.what == "network" and finding.ok is False for finding in findings):
        with waiting(console, "building the network"):
            findings += check_this_node(spec, place, with_gpus=False)
    if address is None and _timing(spec, url) is None:
        findings.append(check_load())
    # Of a network that was built the last one: that its module was found is no news then.
    for what, sentence in {finding.what: finding.sentence for finding in findings if finding.ok is not False}.items():
        if what in _SAID:
            console.print(Text(printable(f"{what}: {sentence}")), soft_wrap=True)
    for sentence in warnings_in(findings):
        warn(console, sentence)
    raise_problems(findings)


def space_table(space: SearchSpace) -> Table:
    """Every field with what it may be."""
    table = Table("field", "values")
    for field, domain in space.items():
        table.add_row(field, _described(domain))
    return table


def expected_costs(spec: StudySpec, timing: tuple[CostTable, int] | None) -> Costs:
    """Costs of the space by the study's own cost table and steps an epoch, or by pixels where it has none."""
    prices, per_epoch, baseline_s, source = _by_pixels(spec), _ASSUMED_STEPS, None, "by pixels, because no step of it was timed yet"
    if timing is not None:
        table, per_epoch = timing
        prices = {step: cost.relative for step, cost in table.costs.items()}
        baseline_s = table.full_ms / 1000 * per_epoch * spec.training.epochs
        source = f"timed on {table.conditions['device']}"
    cost = PlanCost(spec.search, prices, per_epoch, spec.training.epochs * per_epoch)
    times = sorted(cost(point) for point in _points(spec.search))
    full = [cost(canonical_params(spec.search, point | {"frequency": 0.0})) for point in _points(spec.search)]
    mean = (1 - RIVAL_FRAC) * sum(times) / len(times) + RIVAL_FRAC * sum(full) / len(full)
    return Costs(times[0], median(times), times[-1], mean, baseline_s, source)


def _points(space: SearchSpace) -> list[dict[str, Any]]:
    # Sobol sequences come with scipy, which takes a while to load.
    import numpy as np

    from tuner.samplers.candidates import Candidates

    return [canonical_params(space, point) for point in Candidates(space, {}).filling(_POINTS, np.random.default_rng(0))]


def _by_pixels(spec: StudySpec) -> Mapping[Step, float]:
    full_px = spec.dataset.full_px
    return {step: step.batches * (step.side_px / full_px) ** 2 for step in possible_steps(spec.search, full_px)}


def _timing(spec: StudySpec, url: str) -> tuple[CostTable, int] | None:
    """None where no step of the study was timed yet, or nobody has launched it."""
    if not holds_studies(url) or spec.name not in StudyStore.names(storage := open_storage(url)):
        return None
    return kept_timing(StudyStore.load(storage, spec.name))


def _described(domain: Domain) -> str:
    if isinstance(domain, Fixed):
        return f"{domain.value}"
    if isinstance(domain, Range):
        spacing = f" in steps of {domain.step:g}" if domain.step is not None else ", evenly over the logarithm" if domain.log else ""
        return f"{domain.low:g} to {domain.high:g}{spacing}"
    return ", ".join(map(str, domain.values))


def _space_lines(spec: StudySpec) -> Iterator[str]:
    searched = spec.search.searched
    sizes = [None if domain.members is None else len(domain.members) for domain in searched.values()]
    points = 1
    for size in sizes:
        points *= size or 1
    continua = sum(size is None for size in sizes)
    ranges = f", times {continua} continuous range{'s' if continua > 1 else ''}" if continua else ""
    yield f"{len(searched)} fields are searched: {points:,} combinations{ranges}"
    presets = sum(mark == "preset" for _, mark in spec.start_points())
    first = f"first {len(spec.start_points()) - presets} full-resolution trainings"
    named = f" and {presets} preset{'s' if presets > 1 else ''}" if presets else ""
    yield f"{first}{named}, then at least {describe_share(RIVAL_FRAC)} of the others"


def _cost_lines(costs: Costs) -> Iterator[str]:
    yield (
        f"a training drawn from it takes {describe_share(costs.lowest)} to {describe_share(costs.highest)} of the baseline's time, "
        f"half of them under {describe_share(costs.median)} ({costs.source})"
    )
    if costs.baseline_s is not None:
        yield f"the baseline trains for {describe_duration(costs.baseline_s)}"
    else:
        yield (
            "minutes are known once its steps are timed: the same command with --trials 1 in place of --dry-run does so and trains the "
            "baseline, which the search begins with anyway; then --dry-run says them"
        )


def _budget_lines(spec: StudySpec, costs: Costs, trials: int, timeout_s: int | None) -> Iterator[str]:
    total = trials * costs.mean
    took = "" if costs.baseline_s is None else f", {describe_duration(total * costs.baseline_s)} of training"
    yield f"{trials} trials are expected to take {total:.1f} baseline trainings{took}, divided by the trials that run at once"
    limits = {"timeout": timeout_s, "accelerator time": spec.budget.accelerator_time_s}
    for name, limit_s in limits.items():
        if limit_s is not None and costs.baseline_s is None:
            yield f"how many trials the {name} of {describe_duration(limit_s)} pays for is known once the steps are timed"
        elif limit_s is not None and costs.baseline_s is not None:
            each = "" if name == "accelerator time" else " for each that runs at once"
            yield f"the {name} of {describe_duration(limit_s)} pays for about {limit_s / (costs.mean * costs.baseline_s):.0f} trials{each}"
    if spec.budget.patience is not None:
        yield f"it ends earlier once {spec.budget.patience} trials have not raised the hypervolume beyond its noise"
