"""From what a worker measured to what the study keeps: objective values, priced by the calibrated cost table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainers.config import TrainConfig
from trainers.cost import CostTable, parse_step
from tuner.describe import describe_schedule, describe_value

# A trial that ran alone and took longer or shorter than its calibrated price by more than this share is flagged.
MAX_OBSERVED_DEVIATION: Final = 0.10


@dataclass(frozen=True, slots=True)
class Pricing:
    """How a study's trials are valued.

    reference: the cost table that relative_time is priced with, the same for all trials of the study. tables: by device, to compare with
    what a trial really took. baseline_steps: optimizer steps of the study's full training.
    """

    objectives: tuple[str, ...]
    reference: CostTable
    tables: Mapping[str, CostTable]
    baseline_steps: int
    commit: str

    def values(self, record: dict[str, Any], *, alone: bool) -> tuple[dict[str, float], dict[str, Any]]:
        """Objective values of a worker's record, and the record as it is stored."""
        counts = {parse_step(name): count for name, count in record["counts"].items()}
        measured = {
            "relative_time": self.reference.relative_time(counts, self.baseline_steps),
            "train_seconds": record["seconds"]["train"],
            **{name: record[name] for name in ("val_accuracy", "val_loss", "peak_memory")},
        }
        table = self.tables.get(record["device"])
        observed = record["seconds"]["train"] / table.seconds(counts) if table is not None else None
        stored = {
            **{name: record[name] for name in ("curve", "counts", "seconds", "seed", "device", "versions", "test_accuracy")},
            "commit": self.commit,
            "metrics": measured,
            "observed_over_calibrated": observed,
            "alone": alone,
        }
        values = {name: measured[name] for name in self.objectives}
        return values, stored | {"note": self._note(stored)}

    def line(self, number: int, config: TrainConfig, values: Mapping[str, float]) -> str:
        """A finished trial in one line."""
        shown = ", ".join(f"{name} {describe_value(name, value)}" for name, value in values.items())
        return f"trial {number} finished: {shown}; {config.epochs} epochs, {describe_schedule(config.schedule.to_dict())}"

    def _note(self, stored: Mapping[str, Any]) -> str:
        lines = [f"- {name}: {describe_value(name, value)}" for name, value in stored["metrics"].items()]
        lines += [f"- {part} seconds: {seconds:.2f}" for part, seconds in stored["seconds"].items()]
        lines.append("- steps: " + ", ".join(f"{count} x {name}" for name, count in stored["counts"].items()))
        if (warning := timing_warning(stored["observed_over_calibrated"], alone=stored["alone"])) is not None:
            lines.append(f"- {warning}")
        return "\n".join(lines)


def timing_warning(observed_over_calibrated: float | None, *, alone: bool) -> str | None:
    """What to say of a trial whose real training seconds contradict its price; None where they don't, or where neighbours explain it."""
    if not alone or observed_over_calibrated is None or abs(observed_over_calibrated - 1) <= MAX_OBSERVED_DEVIATION:
        return None
    return f"trained alone it took {observed_over_calibrated:.2f} times its calibrated seconds: look into the timing of this machine"
