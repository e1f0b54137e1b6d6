"""The short version of benchmarks/faults.py: a real driver, a real worker and a real PostgreSQL are killed, and a checkpoint is damaged."""

from __future__ import annotations

import os

import pytest
from postgres import missing_binaries

from benchmarks.fault_network import FIRST_SEED
from benchmarks.fault_plan import configurations
from benchmarks.fault_site import fault_site
from benchmarks.faults import Suite


def test_what_finished_is_neither_lost_nor_doubled_nor_different_whatever_is_killed():
    if reason := missing_binaries():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with fault_site(cpus=2) as site:
        suite = Suite(site, seed=3, trials=8)
        suite.play(["truncated", "nan", "driver", "postmaster"])
    assert [fault["kind"] for fault in suite.struck] == ["truncated", "nan", "driver", "postmaster"]
    totals = suite.totals
    assert (totals.trials, totals.lost, totals.doubled, totals.zombies) == (8, 0, 0, 0)
    assert (totals.differences, totals.problems) == ([], [])
    # Two failed of themselves or with their worker, and one or two with their driver.
    assert totals.attempts > 8


def test_the_list_of_configurations_is_always_the_same():
    assert configurations(30)[:10] == configurations(10)
    assert [proposal.seed for proposal in configurations(3)] == [FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2]
    assert len({str(proposal) for proposal in configurations(120)}) == 120
