"""Ax or Syne Tune as a process that proposes points, in an environment that has the package and nothing of ours: JSON lines in and out.

    python search_peer_process.py NAME

The first line describes the space; each one after it tells what is under way and what has ended, [relative time, accuracy], and is answered
with a proposal. Runs on one thread where OMP_NUM_THREADS says so.
"""

import json
import logging
import sys
import warnings


class Ax:
    """Ax's own choice of method for two objectives: a Sobol sequence first, then Gaussian processes and qLogNEHVI."""

    def __init__(self, space, seed, reference):
        from ax.api.client import Client
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

        logging.getLogger("ax").setLevel(logging.ERROR)
        self.client = Client(random_seed=seed)
        parameters = []
        for field in space:
            if "members" in field:
                kind = {str: "str", int: "int", float: "float"}[type(field["members"][0])]
                choice = ChoiceParameterConfig(field["name"], field["members"], kind, is_ordered=field["ordered"])
                parameters.append(choice)
            else:
                kind, scaling = ("int" if field["integer"] else "float"), ("log" if field["log"] else "linear")
                bounds = (field["low"], field["high"])
                parameters.append(RangeParameterConfig(field["name"], bounds, kind, scaling=scaling))
        self.client.configure_experiment(parameters=parameters)
        # A constraint on an objective is how Ax is told the reference point.
        constraints = [f"time <= {reference[0]}", f"accuracy >= {1 - reference[1]}"]
        self.client.configure_optimization(objective="-time, accuracy", outcome_constraints=constraints)
        self.client.configure_generation_strategy(
            method="fast", initialization_random_seed=seed, allow_exceeding_initialization_budget=True
        )
        self.indices = {}

    def propose(self, running, told):
        for number, params, *_ in [*running, *told]:
            if number not in self.indices:
                self.indices[number] = self.client.attach_trial(parameters=params)
        for number, _, (time, accuracy) in told:
            self.client.complete_trial(self.indices[number], raw_data={"time": time, "accuracy": accuracy})
        [(index, proposed)] = self.client.get_next_trials(max_trials=1).items()
        # What is trained may be another, canonical point, which is attached when it is under way.
        self.client.mark_trial_failed(index)
        return proposed


class Morea:
    """Syne Tune's multi-objective regularized evolution. mended: with priorities that are ranks."""

    def __init__(self, space, seed, mended):
        import random

        import numpy as np
        from syne_tune import config_space
        from syne_tune.optimizer.schedulers.multiobjective import MultiObjectiveRegularizedEvolution
        from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import MOPriority
        from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import compute_epsilon_net, pareto_efficient

        class Ranks(MOPriority):
            def priority_unsafe(self, objectives):
                ranks = np.empty(len(objectives))
                remaining, ranked = np.arange(len(objectives)), 0
                while len(remaining):
                    best = pareto_efficient(objectives[remaining])
                    front = remaining[best]
                    # The one part that does give ranks.
                    ranks[front] = ranked + compute_epsilon_net(objectives[front], dim=0)
                    remaining, ranked = remaining[~best], ranked + len(front)
                return ranks

        # Its first points come from NumPy's global generator.
        np.random.seed(seed)
        random.seed(seed)
        domains = {field["name"]: self._domain(config_space, field) for field in space}
        # Its own population of 100 would take most of the budget before anything evolves.
        options = {"multiobjective_priority": Ranks(), "population_size": 25} if mended else {}
        self.searcher = MultiObjectiveRegularizedEvolution(domains, random_seed=seed, **options)

    def _domain(self, config_space, field):
        if "members" in field:
            return config_space.choice(field["members"])
        if field["integer"]:
            return (config_space.lograndint if field["log"] else config_space.randint)(field["low"], field["high"])
        return (config_space.loguniform if field["log"] else config_space.uniform)(field["low"], field["high"])

    def propose(self, running, told):
        for number, params, (time, accuracy) in told:
            self.searcher.on_trial_complete(number, params, [time, 1 - accuracy])
        return self.searcher.suggest()


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    # What a package prints is no answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    begin = json.loads(sys.stdin.readline())
    if sys.argv[1] == "ax":
        peer = Ax(begin["space"], begin["seed"], begin["reference"])
    else:
        peer = Morea(begin["space"], begin["seed"], mended=sys.argv[1].endswith("mended"))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        news = json.loads(line)
        proposed = peer.propose(news["running"], news["told"])
        plain = {name: value.item() if hasattr(value, "item") else value for name, value in proposed.items()}
        print(json.dumps(plain), file=answers, flush=True)


if __name__ == "__main__":
    main()
