"""`objectives_unpaired.json`: TRL's KTO trainer, with its KL from mismatched pairs..

    python trl_unpaired.py MODEL FIXTURES       (trl 1.16.0; `trl_bco_prm.py` adds BCO afterwards)
"""

import argparse
import pathlib

from trl import KTOConfig, KTOTrainer

from trl_common import PERTURBATION, VERSIONS, models, number, rows_of, run, tokenizer, write
from trl_records import UNPAIRED

ONE_STEP = [
    {"loss_type": "kto"}, {"loss_type": "kto", "beta": 0.5},
    {"loss_type": "kto", "desirable_weight": 1.33}, {"loss_type": "kto", "undesirable_weight": 2.0, "beta": 0.5},
    {"loss_type": "kto", "desirable_weight": 0.0},
    {"loss_type": "apo_zero_unpaired"}, {"loss_type": "apo_zero_unpaired", "beta": 0.5},
    {"loss_type": "apo_zero_unpaired", "desirable_weight": 1.33, "undesirable_weight": 0.5},
]
# The learning rate is 0, so every batch sees the same weights.
BATCHES = [{"per_device_train_batch_size": n, "max_steps": -(-8 // n), "learning_rate": 0.0} for n in (4, 3, 2)]
REFUSED = [{"per_device_train_batch_size": 1}, {"train_sampling_strategy": "random"}, {"loss_type": "no_such_loss"}]


def kto_once(folder, settings, swapped, **more):
    policy, reference = models(folder, swapped)

    def before(seen):
        seen.keep_log_probs(policy=seen.trainer.model, reference=seen.trainer.ref_model)

    return run(KTOTrainer, KTOConfig, UNPAIRED, settings, model=policy, ref_model=reference,
               processing_class=tokenizer(folder), before=before, **more)


def token_means(folder, swapped):
    """Of the policy's pass over the rows themselves: what TRL averages besides log-probabilities, `[rows, tokens]` each."""
    policy, reference = models(folder, swapped)
    kept = []

    def before(seen):
        seen.trainer.model.register_forward_hook(
            lambda m, args, out: kept.append({k: getattr(out, k).detach() for k in ("mean_logits", "entropy")}))

    run(KTOTrainer, KTOConfig, UNPAIRED, {}, model=policy, ref_model=reference, processing_class=tokenizer(folder),
        before=before)
    return kept[1]


def sequences(folder, swapped):
    """Ids and sums of one batch of eight: the mismatched rows are scored first, then the rows themselves."""
    seen = kto_once(folder, {}, swapped)
    batch = seen.inputs[0]
    means = token_means(folder, swapped)
    answer = batch["completion_mask"][:, 1:].bool()
    own = rows_of(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    other = rows_of(batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"])
    out = []
    for i, record in enumerate(UNPAIRED):
        for name, sums in seen.kept.items():
            other[i][name], own[i][name] = number(sums[0][i]), number(sums[1][i])
        for name, values in means.items():
            own[i][name] = number(values[i, -answer.shape[1]:][answer[i]].double().mean())
        assert bool(batch["label"][i]) == record["label"]
        out.append({"id": record["id"], "label": record["label"], "own": own[i], "mismatched": other[i]})
    return out


def cases(folder, swapped):
    out = []
    for case in ONE_STEP:
        out.append({"settings": case, **kto_once(folder, case, swapped).steps()[0]})
        print(swapped, case, out[-1]["loss"], out[-1]["metrics"]["kl"], flush=True)
    return out


def batches(folder, swapped):
    """Several batches at fixed weights: completions are rotated within each batch."""
    out = []
    for case in BATCHES:
        seen = kto_once(folder, case, swapped)
        steps = seen.steps()
        for i, step in enumerate(steps):
            step["mismatched"] = {name: number(sums[2 * i]) for name, sums in seen.kept.items()}
        out.append({"batch_size": case["per_device_train_batch_size"], "steps": steps})
    return out


def refused(folder):
    out = []
    for case in REFUSED:
        try:
            kto_once(folder, case, False)
            out.append({"settings": case, "error": None})
        except Exception as error:
            out.append({"settings": case, "error": type(error).__name__})
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("fixtures", type=pathlib.Path)
    args = parser.parse_args()
    content = {"versions": VERSIONS, "perturbation": PERTURBATION, "kto_refused": refused(args.model)}
    for name, swapped in (("policy_plain", False), ("policy_perturbed", True)):
        content[name] = {"sequences": sequences(args.model, swapped), "kto": cases(args.model, swapped),
                         "kto_batches": batches(args.model, swapped)}
    write(args.fixtures / "objectives_unpaired.json", content)


if __name__ == "__main__":
    main()
