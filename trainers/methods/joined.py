"""The methods that have joined one training, in the order in which they act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from trainers.methods.method import Method, TrainingParts
from trainers.methods.settings import SETTINGS


def _weight_sampling(parts: TrainingParts) -> Method:
    from trainers.methods.weight_sampling import WeightSampler

    return WeightSampler(parts)


def _grouping(parts: TrainingParts) -> Method:
    from trainers.methods.grouping import ChannelGrouper

    return ChannelGrouper(parts)


def _filter_sparsity(parts: TrainingParts) -> Method:
    from trainers.methods.filter_sparsity import SparseFilters

    return SparseFilters(parts)


# By the key in SETTINGS, whose order is the one in which they act. Each imports its own file, so that a training without it does not.
METHODS: Final[dict[str, Callable[[TrainingParts], Method]]] = {
    "weight_sampling": _weight_sampling,
    "grouping": _grouping,
    "filter_sparsity": _filter_sparsity,
}


def join_methods(parts: TrainingParts) -> JoinedMethods:
    """Those whose name in the configuration is not `none`."""
    names = {key: getattr(parts.config, key).name for key in SETTINGS}
    return JoinedMethods({key: METHODS[key](parts) for key, name in names.items() if name != "none"})


class JoinedMethods:
    """Any number of methods as if they were one. methods: by their key in a study file."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.methods = dict(methods)
        self._finished = False

    def before_update(self) -> None:
        for method in self.methods.values():
            method.before_update()

    def after_step(self, steps_done: int) -> None:
        for method in self.methods.values():
            method.after_step(steps_done)

    def after_epoch(self, epochs_done: int) -> bool:
        changed = [method.after_epoch(epochs_done) for method in self.methods.values()]
        return any(changed)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        with ExitStack() as stack:
            for method in self.methods.values():
                stack.enter_context(method.evaluated())
            yield

    def after_training(self) -> None:
        """Once, however often the result is asked for."""
        if not self._finished:
            self._finished = True
            for method in self.methods.values():
                method.after_training()

    def figures(self) -> dict[str, float]:
        """By `<method>.<figure>`."""
        return {f"{key}.{name}": value for key, method in self.methods.items() for name, value in method.figures().items()}

    def state_dict(self) -> dict[str, Any]:
        return {key: method.state_dict() for key, method in self.methods.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        changed = [method.load_state_dict(state[key]) for key, method in self.methods.items()]
        return any(changed)
