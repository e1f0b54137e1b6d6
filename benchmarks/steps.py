"""What a reduced step takes, and what its arithmetic takes.

    python -m benchmarks.steps                   # ResNet-20 at 32 px on the CPU; docs/steps.md says how to read it
    python -m benchmarks.steps --device cuda     # ResNet-50 at 224 px and ResNet-18 at 32 px, bf16, channels-last
    python -m benchmarks.steps --profile         # and where the time of each kind of step goes
    python -m benchmarks.steps --quick           # under a minute, writes no file
    python -m benchmarks.steps --table           # markdown of the committed runs

Full, half-side and pooled half-side steps, interleaved in one fresh process; the peak memory of each on a CPU in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.environment import ensure_environment
from benchmarks.step_table import class_table, heading, step_table, summary_line, tables
from trainers.environment import training_environment
from trainers.errors import InputError

if TYPE_CHECKING:
    from trainers import TrainConfig

RESULTS: Final = Path(__file__).parent / "results"
# The profiler's own messages, which are many, would bury the progress.
QUIET_PROFILER: Final = {"KINETO_LOG_LEVEL": "99"}
# A quick run stops timing then, whatever the imports took; profiles and the floor take the rest of its minute.
QUICK_TIMING_ENDS_S: Final = 28.0
STARTED: Final = time.monotonic()


class Network(NamedTuple):
    """One network on the images that it is timed with."""

    model: str
    side_px: int
    batch: int


NETWORKS: Final = {
    "cpu": (Network("cifar_resnet20", 32, 128),),
    "cuda": (Network("resnet50", 224, 256), Network("cifar_resnet18", 32, 1024)),
}


def main() -> None:
    """Measures every network that the command names, and writes one result file for each."""
    parser, arguments = _parsed()
    if arguments.table:
        print(tables(sorted(RESULTS.glob("steps-*.json"))))
        return
    ensure_environment("benchmarks.steps", training_environment(arguments.threads) | QUIET_PROFILER)
    try:
        for network in _networks(arguments):
            _measure(network, arguments)
    except InputError as error:
        parser.error(str(error))


def _parsed() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a network of trainers.models; default: those of the device")
    parser.add_argument("--side", type=int, help="full side of the images in pixels")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--device", choices=sorted(NETWORKS), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a training")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no peak memory on a CPU, no file")
    parser.add_argument("--profile", action="store_true", help="print milliseconds by class of operation, measured and floor")
    parser.add_argument("--table", action="store_true", help="print the committed runs as markdown, measure nothing")
    parser.add_argument("--memory", metavar="KIND", choices=("full", "half", "pooled"), help="only the peak memory of this kind, as JSON")
    return parser, parser.parse_args()


def _networks(arguments: argparse.Namespace) -> Sequence[Network]:
    named = {"model": arguments.model, "side_px": arguments.side, "batch": arguments.batch}
    given = {name: value for name, value in named.items() if value is not None}
    defaults = NETWORKS[arguments.device]
    return (defaults[0]._replace(**given),) if given else defaults


def _measure(network: Network, arguments: argparse.Namespace) -> None:
    # Not at the top: torch must not be loaded before the environment is right, and --table needs none.
    from benchmarks.evidence import provenance, write_result
    from benchmarks.step_times import Effort, StepRunner, config_of, kinds_of, measure, peak_memory
    from trainers.device import resolve_device

    config = config_of(*network, arguments.device, arguments.threads)
    if arguments.memory is not None:
        print(json.dumps(peak_memory(StepRunner(config), kinds_of(network.side_px)[arguments.memory])))
        return
    effort = Effort(2, 30, 3, STARTED + QUICK_TIMING_ENDS_S) if arguments.quick else Effort(5, 40, 7)
    _say(f"{network.model} at {network.side_px} px, batch {network.batch}: timing")
    found = measure(config, effort)
    if arguments.device == "cpu" and not arguments.quick:
        for kind, step in found["steps"].items():
            _say(f"peak memory of steps of kind {kind}")
            step["memory_mib"] = _memory_in_fresh_process(kind, network, arguments.threads)
    result = {**provenance(resolve_device(arguments.device)), "quick": arguments.quick, **_conditions(config), **found}
    _show(result, with_classes=arguments.profile)
    if arguments.quick:
        print(json.dumps(result))
    else:
        threads = f"-{arguments.threads}-threads" if arguments.device == "cpu" else ""
        write_result(f"steps-{network.model}-{network.side_px}px-{arguments.device}{threads}", result)
    print(summary_line(result), flush=True)


def _show(result: dict[str, Any], *, with_classes: bool) -> None:
    print("\n\n".join([heading(result), step_table(result), *([class_table(result)] if with_classes else [])]))


def _say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def _conditions(config: TrainConfig) -> dict[str, Any]:
    return {
        "model": config.model,
        "full_px": config.data.full_px,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "threads": config.threads if config.device == "cpu" else None,
    }


def _memory_in_fresh_process(kind: str, network: Network, threads: int) -> dict[str, float]:
    """A process keeps what it once had, so each kind needs one of its own."""
    options = {"--memory": kind, "--model": network.model, "--side": network.side_px, "--batch": network.batch, "--threads": threads}
    words = (str(word) for option in options.items() for word in option)
    found = subprocess.run([sys.executable, "-m", "benchmarks.steps", *words], stdout=subprocess.PIPE, text=True, check=True)
    memory: dict[str, float] = json.loads(found.stdout)
    return memory


if __name__ == "__main__":
    main()
