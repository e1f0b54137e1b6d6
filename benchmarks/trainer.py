"""What our `train` costs beside the arithmetic: its step rate over that of a plain hand-written PyTorch loop, at full resolution.

    python -m benchmarks.trainer                  # CPU, or CUDA where there is one
    python -m benchmarks.trainer --quick          # under 50 s on 2 cores
    python -m benchmarks.trainer --rivals         # also Composer's and Lightning's trainers, each in an environment of its own

Both sides train the same network on the same images with the same augmentation, precision, optimizer and learning rates in one process,
epoch by epoch in turn. A rival runs beside the same hand-written loop in its own environment, whose torch may be older than ours.
results/trainer-<device>.json holds every epoch's seconds; the last line is the median of the pairs.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.environment import ensure_environment
from trainers.environment import training_environment


def main() -> None:
    """Measures in a process that has a training's environment."""
    arguments = _arguments()
    ensure_environment("benchmarks.trainer", training_environment(arguments.threads))

    # Not at the top: torch takes seconds to load, and would be loaded before the environment is right.
    from benchmarks.evidence import provenance, write_result
    from benchmarks.pairs import measure, noise_config
    from benchmarks.rivals import RIVALS, measure_in_own_environment
    from trainers.device import resolve_device

    with noise_config(arguments) as config:
        found = measure(config, _say, arguments.limit_s)
    rivals = {name: measure_in_own_environment(name, arguments, _say) for name in RIVALS} if arguments.rivals else {}
    device = resolve_device(arguments.device)
    name = f"trainer-{device.type}{'-quick' if arguments.quick else ''}"
    write_result(name, {**provenance(device), "arguments": vars(arguments), **found, "rivals": rivals})
    low, high = found["quartiles"]
    _say(f"{found['pairs']} pairs of {found['steps_an_epoch']} steps, {found['plain_ms_a_step']:.1f} ms a step by hand")
    _say(f"quartiles {low:.3f} and {high:.3f}, fastest quarters {found['fastest_quarters_ratio']:.3f}")
    for rival, result in rivals.items():
        _say(f"{rival}: {result.get('step_rate_ratio', result.get('not_measured'))}")
    print(f"step_rate_ratio={found['step_rate_ratio']:.4f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="cifar_resnet20")
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="an epoch")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--limit-s", type=float, default=1200.0, help="begins no pair after so many seconds")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a small network, and 20 s of pairs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.model, arguments.batch, arguments.limit_s = "cifar_resnet8", 64, 20.0
    return arguments


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
