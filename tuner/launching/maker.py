"""What a trial in the database is trained as."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from studies.spec import StudySpec
from tuner.launching.jobs import Job, TrialStopped
from tuner.launching.places import root_path
from tuner.launching.proposals import Proposer
from tuner.storage.store import ClaimedTrial


@dataclass(slots=True)
class Running:
    """A trial that a worker has. alone: no other trial of this driver has run beside it so far.

    curve: validation accuracy after each epoch so far. times: relative time after each epoch, empty where no stopper asks. stopped: once
    it is to end early.
    """

    claimed: ClaimedTrial
    job: Job
    started_s: float = field(default_factory=time.monotonic)
    curve: tuple[float, ...] = ()
    alone: bool = True
    times: tuple[float, ...] = ()
    stopped: TrialStopped | None = None

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.curve)

    @property
    def val_accuracy(self) -> float | None:
        """After the last epoch; None before the first."""
        return self.curve[-1] if self.curve else None


@dataclass(frozen=True, slots=True)
class TrialMaker:
    """What every new trial of a study is made from. place: the study's, for checkpoints and results."""

    spec: StudySpec
    proposer: Proposer
    sampler: BaseSampler
    distributions: dict[str, BaseDistribution]
    place: str
    data_root: str
    device: str
    open_test: bool = False

    def running(self, claimed: ClaimedTrial) -> Running:
        """A trial of this driver as a worker is to train it; all attempts at a root trial share one training."""
        seed = claimed.seed if claimed.seed is not None else self.spec.seed + claimed.root
        config = self.spec.train_config(
            claimed.params,
            seed,
            device=self.device,
            threads=self.spec.resources.cpus,
            checkpoint=root_path(self.place, claimed.root),
            root=self.data_root,
        )
        return Running(claimed, Job(claimed.number, replace(config, attempt=claimed.attempt), self.open_test))
