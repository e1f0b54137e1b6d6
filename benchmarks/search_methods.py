"""What is compared by benchmarks.search: samplers and stoppers of ours and of others, and ours with one part at a time taken away."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from optuna.samplers import BaseSampler

from benchmarks.search_learned_cost import LearnedCostSampler
from benchmarks.search_peers import PEERS, peer_sampler
from studies.stopper import StopperChoice, StopperName
from tuner.replay.table import Table
from tuner.samplers.build import build_sampler
from tuner.samplers.known_cost import KnownCostSampler
from tuner.stoppers import Stopper
from tuner.stoppers.build import build_stopper
from tuner.storage.records import expected_accuracy

# rival: what ours has to beat. ours: what this project proposes. ablation: ours without one of its parts.
Kind = Literal["rival", "ours", "ablation"]


class Search(NamedTuple):
    """What one run searches with."""

    sampler: BaseSampler
    stopper: Stopper | None


class Task(NamedTuple):
    """What a method is built for. python: of the environment of a peer, None for the others."""

    table: Table
    seed: int
    python: str | None


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to search. sources: folders of `tuner` whose code its results depend on. stopper: by name.

    build: makes the sampler of a run. peer: the package that it runs in an environment of its own. seeds: at most so many, where a run
    takes too long for all of them.
    """

    name: str
    kind: Kind
    says: str
    build: Callable[[Task], AbstractContextManager[BaseSampler]]
    stopper: StopperName = "none"
    settings: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    peer: str | None = None
    seeds: int | None = None

    @contextmanager
    def search(self, task: Task) -> Iterator[Search]:
        """Sampler and stopper of one run."""
        chosen = StopperChoice(name=self.stopper)
        stopper = build_stopper(task.table.spec.model_copy(update={"stopper": chosen, "seed": task.seed}))
        with self.build(task) as sampler:
            yield Search(sampler, stopper)

    def declared(self) -> dict[str, Any]:
        """What of it decides its results, as a line of results says it."""
        return {"stopper": self.stopper, **self.settings}


@contextmanager
def _own(name: str, task: Task) -> Iterator[BaseSampler]:
    yield build_sampler(task.table.spec.model_copy(update={"sampler": name, "seed": task.seed}), task.table.plan_cost, 0)


@contextmanager
def _without_fidelity(task: Task) -> Iterator[BaseSampler]:
    spec = task.table.spec
    yield KnownCostSampler(spec.search, task.table.plan_cost, task.seed, spec.objectives, guess=expected_accuracy, cost_power=0.0)


@contextmanager
def _without_known_cost(task: Task) -> Iterator[BaseSampler]:
    yield LearnedCostSampler(task.table.spec.search, task.seed, task.table.spec.objectives, expected_accuracy)


_VERSION: Final = {"optuna": importlib.metadata.version("optuna")}


def _optuna(name: str, says: str, *, sampler: str | None = None, stopper: StopperName = "none") -> Method:
    sources = () if stopper == "none" else ("stoppers",)
    return Method(
        name=name, kind="rival", says=says, build=partial(_own, sampler or name), stopper=stopper, settings=_VERSION, sources=sources
    )


def _peer(name: str) -> Method:
    peer = PEERS[name]
    build = partial(peer_sampler, name)
    settings = {"package": peer.package}
    return Method(name=name, kind="rival", says=peer.says, build=build, settings=settings, peer=peer.package, seeds=peer.seeds)


def methods() -> dict[str, Method]:
    """All methods by name, the cheap ones first."""
    ours = Method(
        name="ours",
        kind="ours",
        says="known_cost, with its stopper",
        build=partial(_own, "known_cost"),
        stopper="dominance",
        settings=_VERSION,
        sources=("samplers", "stoppers"),
    )
    without = partial(replace, ours, kind="ablation")
    listed = [
        _optuna("random", "points drawn at random"),
        _optuna("qmc", "Optuna's scrambled Sobol sequence"),
        _optuna("tpe", "Optuna's tree-structured Parzen estimator, both objectives"),
        _optuna("nsga2", "Optuna's genetic algorithm NSGA-II"),
        _optuna("gp", "Optuna's Gaussian processes, expected hypervolume improvement"),
        _optuna("pareto_asha", "random points, successive halving by rank and crowding", sampler="random", stopper="pareto_asha"),
        _optuna("pareto_asha_tpe", "the same with Optuna's TPE", sampler="tpe", stopper="pareto_asha"),
        *map(_peer, PEERS),
        ours,
        without(name="ours_unstopped", says="ours without the stopper", stopper="none", sources=("samplers",)),
        without(name="ours_cost_learned", says="ours, whose relative time is learned from finished trials", build=_without_known_cost),
        without(
            name="ours_cost_unweighed",
            says="ours, whose expected gain is not divided by a training's time: no preference for short trainings",
            build=_without_fidelity,
            settings={**_VERSION, "cost_power": 0.0},
        ),
    ]
    return {method.name: method for method in listed}
