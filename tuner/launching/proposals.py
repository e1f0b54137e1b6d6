"""What should be trained next, as far as the study has a say in it; the rest is left to the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from studies.configs import next_is_rival
from studies.space import TRAINING_FIELDS
from studies.spec import StudySpec
from tuner.storage.trials import Rival


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to be made.

    fixed: fields decided here; the sampler chooses the others. seed: None derives it from the trial's number. once: not if it is there.
    """

    fixed: dict[str, Any] = field(default_factory=dict)
    rival: Rival | None = None
    seed: int | None = None
    once: bool = False


@dataclass(slots=True)
class Ledger:
    """The root trials that a study has, failed ones aside: what proposals are decided by."""

    entries: dict[int, Proposal] = field(default_factory=dict)

    def add(self, root: int, proposal: Proposal) -> None:
        self.entries[root] = proposal

    def drop(self, root: int) -> None:
        self.entries.pop(root, None)

    def holds(self, proposal: Proposal) -> bool:
        """Whether a trial with these fields (and this seed, where one is given) is there."""
        return any(proposal.fixed.items() <= entry.fixed.items() and proposal.seed in (None, entry.seed) for entry in self.entries.values())

    @property
    def rivals(self) -> int:
        return sum(entry.rival is not None for entry in self.entries.values())


class Proposer(Protocol):
    """Decides what is trained next."""

    def propose(self, ledger: Ledger) -> Proposal | None:
        """The next trial, given those there are; None when there is nothing more to train."""
        ...


class SearchProposer:
    """The honest rivals first: the baseline and shorter full-resolution runs, and the presets searched. Then the search, a fifth of it at
    full resolution."""

    def __init__(self, spec: StudySpec) -> None:
        # A preset is no rival: it has reduced steps, and is a trial like others once it has been tried.
        self._start_points = [Proposal(params, None if mark == "preset" else mark, once=True) for params, mark in spec.start_points()]
        fixed = {name: value for name, value in spec.baseline_params().items() if name not in TRAINING_FIELDS}
        self._full_resolution = Proposal(fixed, "full")

    def propose(self, ledger: Ledger) -> Proposal:
        for start_point in self._start_points:
            if not ledger.holds(start_point):
                return start_point
        return self._full_resolution if next_is_rival(ledger.rivals, len(ledger.entries) - ledger.rivals) else Proposal()


class ListProposer:
    """A given list of trials and nothing else: what `tuner confirm` trains."""

    def __init__(self, proposals: Sequence[Proposal]) -> None:
        self._proposals = [replace(proposal, once=True) for proposal in proposals]

    def propose(self, ledger: Ledger) -> Proposal | None:
        return next((proposal for proposal in self._proposals if not ledger.holds(proposal)), None)
