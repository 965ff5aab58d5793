"""Fixture of src/pipelines/sampling: statistical rejection sampling, as Liu et al. 2023 (arXiv 2309.06657) describe it.

    python rejection.py ../../fixtures/sampling

Python 3.11, nothing else. `runs`: the algorithm, written down here anew, with the uniform numbers that it drew. `chances`: the
exact chance of every ordered outcome, by going through all that can happen, which draws nothing.
"""

import argparse
import json
import math
import random
from pathlib import Path


def accept(rewards, count, beta, uniform):
    waiting, accepted = dict(enumerate(rewards)), []
    while len(accepted) < count:
        top = max(waiting.values())
        gone = []
        for name, reward in waiting.items():
            if uniform() >= math.exp((reward - top) / beta):
                continue
            accepted.append(name)
            gone.append(name)
            if len(accepted) == count:
                break
        for name in gone:
            del waiting[name]
    return accepted


def chances(rewards, count, beta):
    outcomes = {}

    def go(turn, waiting, top, accepted, chance):
        if len(accepted) == count:
            outcomes[accepted] = outcomes.get(accepted, 0.0) + chance
            return
        if not turn:
            go(waiting, (), max(rewards[i] for i in waiting), accepted, chance)
            return
        first, rest = turn[0], turn[1:]
        p = math.exp((rewards[first] - top) / beta)
        go(rest, waiting, top, accepted + (first,), chance * p)
        if p < 1:
            go(rest, waiting + (first,), top, accepted, chance * (1 - p))

    everyone = tuple(range(len(rewards)))
    go(everyone, (), max(rewards), (), 1.0)
    assert abs(sum(outcomes.values()) - 1) < 1e-12
    return [{"accepted": list(who), "chance": chance} for who, chance in sorted(outcomes.items())]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    out = arguments.parse_args().out
    rng = random.Random(7)
    runs = []
    for _ in range(40):
        answers = rng.randint(1, 9)
        rewards = [round(rng.gauss(0, 1.5), 3) for _ in range(answers)]
        if rng.random() < 0.3:
            rewards[rng.randrange(answers)] = max(rewards)
        count, beta = rng.randint(1, answers), rng.choice([0.05, 0.5, 1.0, 4.0])
        drawn = []

        def uniform():
            drawn.append(rng.random())
            return drawn[-1]

        accepted = accept(rewards, count, beta, uniform)
        runs.append({"rewards": rewards, "count": count, "beta": beta, "uniforms": drawn, "accepted": accepted})
    exact = [{"rewards": rewards, "count": count, "beta": beta, "outcomes": chances(rewards, count, beta)}
             for rewards, count, beta in [([0.0, 1.0, 0.5], 1, 0.5), ([0.3, -0.4, 1.2, 1.0], 2, 0.8), ([2.0, 2.0, 1.0], 2, 1.0)]]
    out.mkdir(parents=True, exist_ok=True)
    (out / "rejection.json").write_text(json.dumps({"runs": runs, "chances": exact}, indent=0) + "\n")


if __name__ == "__main__":
    main()
