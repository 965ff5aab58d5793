"""`objectives_pairs.json`: every loss of TRL's DPO, CPO (with SimPO and AlphaPO) and ORPO trainers. See README.md.

    python trl_pairs.py MODEL FIXTURES          (MODEL: llama_text/model; trl 1.16.0)
"""

import argparse
import pathlib

from transformers import AutoModelForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from trl_common import (
    IGNORE, PERTURBATION, VERSIONS, build, check_values, load, models, number, perturb, rows_of, run, tokenizer, write,
)
from trl_records import FORMS, PAIRS, SCORED, SUPERVISED, UNPAIRED

DPO_CASES = [
    {"loss_type": "sigmoid"}, {"loss_type": "sigmoid", "beta": 0.5}, {"loss_type": "sigmoid", "label_smoothing": 0.2},
    {"loss_type": "hinge"}, {"loss_type": "hinge", "beta": 1.0},
    {"loss_type": "ipo"}, {"loss_type": "ipo", "beta": 0.5},
    {"loss_type": "exo_pair", "label_smoothing": 0.001}, {"loss_type": "exo_pair", "label_smoothing": 0.1, "beta": 0.5},
    {"loss_type": "nca_pair"}, {"loss_type": "nca_pair", "beta": 0.5},
    {"loss_type": "robust"}, {"loss_type": "robust", "label_smoothing": 0.1},
    {"loss_type": "robust", "label_smoothing": 0.3, "beta": 0.5},
    {"loss_type": "bco_pair"}, {"loss_type": "bco_pair", "beta": 0.5},
    {"loss_type": "sppo_hard"}, {"loss_type": "sppo_hard", "beta": 0.5},
    {"loss_type": "aot"}, {"loss_type": "aot", "label_smoothing": 0.1, "beta": 0.5},
    {"loss_type": "aot_unpaired"}, {"loss_type": "aot_unpaired", "label_smoothing": 0.1, "beta": 0.5},
    {"loss_type": "apo_zero"}, {"loss_type": "apo_zero", "beta": 0.5},
    {"loss_type": "apo_down"}, {"loss_type": "apo_down", "beta": 0.5},
    {"loss_type": "discopop"}, {"loss_type": "discopop", "beta": 0.5, "discopop_tau": 0.5},
    {"loss_type": "sft"},
    {"loss_type": "sigmoid_norm"}, {"loss_type": "sigmoid_norm", "beta": 2.0},
    {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    {"loss_type": ["sigmoid", "sft"]},
    {"loss_type": ["apo_zero", "ipo", "hinge"], "loss_weights": [0.5, 0.01, 2.0], "beta": 0.3},
    *({"loss_type": loss, "f_divergence_type": kind} for kind in ("forward_kl", "js_divergence", "alpha_divergence")
      for loss in ("sigmoid", "ipo")),
    {"loss_type": "sigmoid", "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0},
    {"loss_type": "sigmoid", "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0},
    *({"loss_type": loss, "f_divergence_type": "js_divergence", "label_smoothing": 0.1}
      for loss in ("hinge", "exo_pair", "robust", "discopop", "sigmoid_norm")),
    {"loss_type": "sigmoid", "use_weighting": True}, {"loss_type": "apo_zero", "use_weighting": True},
    {"loss_type": ["sigmoid", "ipo"], "loss_weights": [1.0, 0.1], "use_weighting": True},
    *({"loss_type": "sigmoid", "ld_alpha": alpha} for alpha in (0.0, 0.5, 1.0)),
    {"loss_type": "ipo", "ld_alpha": 0.5},
    {"loss_type": "sigmoid", "ld_alpha": 0.5, "f_divergence_type": "forward_kl", "use_weighting": True},
]
REFUSED = [
    {"loss_type": "exo_pair"}, {"loss_type": "aot", "use_weighting": True},
    {"loss_type": "aot_unpaired", "use_weighting": True}, {"loss_type": "bco_pair", "f_divergence_type": "forward_kl"},
    {"loss_type": ["sigmoid", "apo_zero"], "f_divergence_type": "js_divergence"},
    {"loss_type": ["sigmoid", "ipo"], "loss_weights": [1.0]}, {"loss_type": "no_such_loss"},
]
CPO_CASES = [
    {"loss_type": "sigmoid"}, {"loss_type": "sigmoid", "beta": 0.5, "label_smoothing": 0.2, "cpo_alpha": 0.5},
    {"loss_type": "sigmoid", "cpo_alpha": 0.0},
    {"loss_type": "hinge"}, {"loss_type": "hinge", "beta": 0.5, "cpo_alpha": 0.0},
    {"loss_type": "ipo"}, {"loss_type": "ipo", "beta": 0.5, "cpo_alpha": 0.0},
    {"loss_type": "simpo", "cpo_alpha": 0.0}, {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.4, "cpo_alpha": 0.0},
    {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "label_smoothing": 0.1, "cpo_alpha": 0.0},
    {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 1.0},
    {"loss_type": "alphapo", "alpha": 0.25, "beta": 2.5, "simpo_gamma": 0.1},
    {"loss_type": "simpo", "alpha": -0.5, "beta": 2.5, "simpo_gamma": 0.1, "cpo_alpha": 0.5},
]
ORPO_CASES = [{}, {"beta": 0.5}, {"beta": 1.0}]


def dpo_once(folder, settings, **more):
    policy, reference = models(folder)
    return run(DPOTrainer, DPOConfig, PAIRS, settings, model=policy, ref_model=reference,
               processing_class=tokenizer(folder), **more)


def sequences(folder):
    """Ids, where the answer begins, and summed log-probabilities of both sides, as the DPO trainer made them."""
    seen = dpo_once(folder, {"loss_type": "sigmoid"},
                    before=lambda s: s.keep_log_probs(policy=s.trainer.model, reference=s.trainer.ref_model))
    batch = seen.inputs[0]
    rows = rows_of(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    for i, row in enumerate(rows):
        row.update({k: number(v[0][i]) for k, v in seen.kept.items()})
    half = len(rows) // 2
    return [{"id": r["id"], "margin": r["margin"], "chosen": c, "rejected": d}
            for r, c, d in zip(PAIRS, rows[:half], rows[half:])], batch["input_ids"].shape[1]


def dpo(folder):
    cases = []
    for case in DPO_CASES:
        step = dpo_once(folder, case).steps()[0]
        cases.append({"settings": case, **step})
        print("dpo", case, step["loss"], step["grad_norm"], flush=True)
    return cases


def refused(folder):
    out = []
    for case in REFUSED:
        try:
            dpo_once(folder, case)
            out.append({"settings": case, "error": None})
        except Exception as error:
            out.append({"settings": case, "error": type(error).__name__})
    return out


def free_cases(folder, trainer_class, config_class, cases, pad="</s>"):
    """Trainers without a reference over the same pairs; also the ids they made."""
    out, rows = [], None
    for case in cases:
        def before(seen):
            inner = seen.trainer.concatenated_forward

            def forward(model, batch):
                result = inner(model, batch)
                seen.kept["logps"] = {"chosen": number(result[0]), "rejected": number(result[1])}
                return result

            seen.trainer.concatenated_forward = forward

        seen = run(trainer_class, config_class, PAIRS, case, model=load(folder),
                   processing_class=tokenizer(folder, pad), before=before)
        batch = seen.inputs[0]
        rows = [rows_of(batch[f"{s}_input_ids"], batch[f"{s}_attention_mask"], batch[f"{s}_labels"] != IGNORE)
                for s in ("chosen", "rejected")]
        out.append({"settings": case, **seen.steps()[0], "logps": seen.kept["logps"]})
        print(trainer_class.__name__, case, out[-1]["loss"], out[-1]["grad_norm"], flush=True)
    return out, rows


def forms(folder):
    """Ids that each trainer makes of pairs in other forms."""
    out = {}
    for name, row in FORMS.items():
        entry = {"record": row}
        policy, reference = models(folder)
        data = build(DPOTrainer, DPOConfig, [row], model=policy, ref_model=reference,
                     processing_class=tokenizer(folder)).train_dataset[0]
        entry["dpo"] = {k: data[f"{k}_ids"] for k in ("prompt", "chosen", "rejected")}
        trainer = build(CPOTrainer, CPOConfig, [row], model=load(folder), processing_class=tokenizer(folder, "</s>"))
        data = trainer.train_dataset[0]
        entry["cpo"] = {}
        for k in ("chosen", "rejected"):
            ids, start = data[f"{k}_input_ids"], sum(v == IGNORE for v in data[f"{k}_labels"])
            entry["cpo"][k] = {"ids": ids, "start": start}
        policy, reference = models(folder)
        data = build(KTOTrainer, KTOConfig, [row], model=policy, ref_model=reference,
                     processing_class=tokenizer(folder)).train_dataset
        entry["kto"] = [{k: r[k] for k in ("prompt_ids", "completion_ids", "label")} for r in data]
        data = build(RewardTrainer, RewardConfig, [row],
                     model=load(folder, AutoModelForSequenceClassification, num_labels=1),
                     processing_class=tokenizer(folder)).train_dataset[0]
        entry["reward"] = {k: data[f"{k}_ids"] for k in ("chosen", "rejected")}
        out[name] = entry
    return out


def truncated(folder):
    """What `max_length` does: batches of the DPO trainer, and which pairs it drops."""
    out = []
    for length in (60, 64, 70):
        policy, reference = models(folder)
        trainer = build(DPOTrainer, DPOConfig, PAIRS, {"max_length": length}, model=policy, ref_model=reference,
                        processing_class=tokenizer(folder))
        kept = trainer.train_dataset
        batch = trainer.data_collator([kept[i] for i in range(len(kept))])
        whole = [len(r["prompt_ids"]) for r in kept]
        lengths = batch["attention_mask"].sum(1).tolist()
        answers = batch["completion_mask"].sum(1).tolist()
        half = len(kept)
        out.append({"max_length": length, "kept": len(kept), "prompt_lengths": whole,
                    "chosen": {"lengths": lengths[:half], "answer_tokens": answers[:half]},
                    "rejected": {"lengths": lengths[half:], "answer_tokens": answers[half:]}})
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("fixtures", type=pathlib.Path)
    args = parser.parse_args()
    target = args.fixtures / "objectives_pairs.json"
    pairs, width = sequences(args.model)
    content = {
        "versions": VERSIONS, "policy": "llama_text/model", "reference": PERTURBATION,
        "reference_check": check_values(perturb(load(args.model))), "batch_width": width,
        "pairs": pairs,
    }
    content["dpo"] = dpo(args.model)
    content["dpo_refused"] = refused(args.model)
    write(target, content)
    content["cpo"], rows = free_cases(args.model, CPOTrainer, CPOConfig, CPO_CASES)
    same = [[{k: p[s][k] for k in ("ids", "start")} for p in pairs] for s in ("chosen", "rejected")]
    content["cpo_ids_are_dpo_ids"] = rows == same
    write(target, content)
    content["orpo"], rows = free_cases(args.model, ORPOTrainer, ORPOConfig, ORPO_CASES)
    content["orpo_ids_are_dpo_ids"] = rows == same
    content["orpo_padded_with_unk"], _ = free_cases(args.model, ORPOTrainer, ORPOConfig, ORPO_CASES[:1], pad="<unk>")
    write(target, content)
    content["forms"] = forms(args.model)
    content["truncated"] = truncated(args.model)
    write(target, content)
    write(args.fixtures / "records.json",
          {"pairs": PAIRS, "unpaired": UNPAIRED, "scored": SCORED, "supervised": SUPERVISED})


if __name__ == "__main__":
    main()
