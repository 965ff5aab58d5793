"""`trajectories.json`: five AdamW steps of TRL's DPO and KTO trainers..

    python trl_trajectories.py MODEL FIXTURES   (trl 1.16.0)
"""

import argparse
import pathlib

from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from trl_common import PERTURBATION, VERSIONS, check_values, models, run, tokenizer, write
from trl_records import PAIRS, UNPAIRED

OPTIMIZER = {"max_steps": 5, "learning_rate": 1e-3, "weight_decay": 0.01, "max_grad_norm": 1.0}
RUNS = {
    "dpo": (DPOTrainer, DPOConfig, PAIRS, {"loss_type": "sigmoid"}),
    "dpo_batches_of_four": (DPOTrainer, DPOConfig, PAIRS, {"loss_type": "sigmoid", "per_device_train_batch_size": 4}),
    "dpo_accumulated": (DPOTrainer, DPOConfig, PAIRS, {"loss_type": "sigmoid", "per_device_train_batch_size": 2,
                                                       "gradient_accumulation_steps": 4}),
    "dpo_synced": (DPOTrainer, DPOConfig, PAIRS, {"loss_type": "sigmoid", "sync_ref_model": True,
                                                  "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 2}),
    "kto": (KTOTrainer, KTOConfig, UNPAIRED, {"loss_type": "kto"}),
    "kto_batches_of_four": (KTOTrainer, KTOConfig, UNPAIRED, {"loss_type": "kto", "per_device_train_batch_size": 4}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("fixtures", type=pathlib.Path)
    args = parser.parse_args()
    content = {"versions": VERSIONS, "reference": PERTURBATION, "optimizer": {
        "name": "torch.optim.AdamW", "betas": [0.9, 0.999], "eps": 1e-8, "schedule": "constant",
        "no_weight_decay": "norms (no parameter of this model is a bias); embeddings and head decay", **OPTIMIZER}}
    for name, (trainer_class, config_class, rows, settings) in RUNS.items():
        policy, reference = models(args.model)
        seen = run(trainer_class, config_class, rows, {**OPTIMIZER, **settings}, evaluate=True, model=policy,
                   ref_model=reference, processing_class=tokenizer(args.model))
        content[name] = {"settings": settings, "steps": seen.steps(), "evaluation_after": seen.evaluation(),
                         "weights_after": check_values(seen.trainer.model)}
        if settings.get("sync_ref_model"):
            content[name]["reference_after"] = check_values(seen.trainer.ref_model)
        print(name, [(s["loss"], s["grad_norm"]) for s in content[name]["steps"]], flush=True)
    write(args.fixtures / "trajectories.json", content)


if __name__ == "__main__":
    main()
