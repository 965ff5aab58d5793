"""Sequences of evaluations as transformers' EarlyStoppingCallback counts them: tests/fixtures/logs/early_stopping.json.

    pip install transformers==5.23.0 torch==2.15.0
    python tests/parity/gen/early_stopping.py tests/fixtures/logs/early_stopping.json

Each case has values and, after each of them up to where the callback stops training: its counter, the trainer's best value,
the step of that value, and whether training stops.
"""

import json
import random
import sys
from types import SimpleNamespace

from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState


def run(values, patience, threshold, greater):
    callback = EarlyStoppingCallback(patience, threshold)
    args = SimpleNamespace(metric_for_best_model="loss", greater_is_better=greater, save_strategy="steps")
    state, control = TrainerState(), TrainerControl()
    trainer = SimpleNamespace(args=args, state=state)
    after = []
    for i, value in enumerate(values):
        state.global_step = 10 * (i + 1)
        metrics = {"eval_loss": value}
        # The order of Trainer: the callback sees the best value of the evaluations before this one.
        callback.on_evaluate(args, state, control, metrics)
        Trainer._determine_best_metric(trainer, metrics, None)
        stops = control.should_training_stop
        after.append([callback.early_stopping_patience_counter, state.best_metric, state.best_global_step, stops])
        if stops:
            break
    return {
        "values": values,
        "patience": patience,
        "threshold": threshold,
        "greater_is_better": greater,
        "after": after,
    }


def main():
    draw = random.Random(7)
    fixed = [
        [1.0, 0.9, 0.9, 0.9],
        [1.0, 1.0, 0.5, 0.5, 0.5],
        [0.5, 0.6, 0.55, 0.7],
        [1.0, 0.95, 0.9, 0.85, 0.8],
        [1.0, 0.75, 0.5, 0.25],
        [3.0],
    ]
    cases = []
    for values in fixed + [[round(draw.uniform(0, 2), 3) for _ in range(9)] for _ in range(4)]:
        for patience, threshold in [(1, 0.0), (2, 0.0), (2, 0.0625), (3, 0.25)]:
            for greater in [False, True]:
                cases.append(run(values, patience, threshold, greater))
    with open(sys.argv[1], "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
