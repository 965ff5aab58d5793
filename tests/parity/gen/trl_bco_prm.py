"""BCO into `objectives_unpaired.json`, process reward model into `objectives_scores.json` with `prm_head.safetensors`:
the trainers that TRL dropped after 1.10. Run after `trl_unpaired.py` and `trl_scores.py`..

    python trl_bco_prm.py MODEL FIXTURES        (trl 1.10.0, everything else as in trl_common.py)
"""

import argparse
import json
import pathlib

from transformers import AutoModelForTokenClassification
from trl.experimental.bco import BCOConfig, BCOTrainer
from trl.experimental.prm import PRMConfig, PRMTrainer

from trl_common import IGNORE, VERSIONS, head, load, models, number, rows_of, run, save_tensors, tokenizer, write
from trl_records import SCORED, UNPAIRED

BCO_CASES = [{}, {"beta": 0.5}, {"per_device_train_batch_size": 4, "max_steps": 2, "learning_rate": 0.0},
             {"per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 0.0, "beta": 0.3},
             {"per_device_train_batch_size": 4, "max_steps": 5, "learning_rate": 1e-3}]
PRM_CASES = [{}, {"train_on_last_step_only": True}, {"step_separator": "\n\n"}, {"max_completion_length": 12},
             {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}]


def bco(folder, swapped, expected):
    out = []
    for case in BCO_CASES:
        policy, reference = models(folder, swapped)
        seen = run(BCOTrainer, BCOConfig, UNPAIRED, case, model=policy, ref_model=reference,
                   processing_class=tokenizer(folder, "</s>"))
        batch, trainer = seen.inputs[0], seen.trainer
        ids = rows_of(batch["completion_input_ids"], batch["completion_attention_mask"],
                      batch["completion_labels"] != IGNORE)
        assert ids == expected[:len(ids)], "BCO's ids are not KTO's"
        running = {k: number(getattr(trainer.running, k)) for k in ("mean", "std", "var", "count")}
        out.append({"settings": case, "steps": seen.steps(), "running_after": running})
        print("bco", swapped, case, [s["loss"] for s in out[-1]["steps"]], flush=True)
    return out


def prm(folder):
    out, tensors = [], None
    for case in PRM_CASES:
        model = load(folder, AutoModelForTokenClassification, num_labels=2)
        tensors = head(model, 0.5, 2001)
        seen = run(PRMTrainer, PRMConfig, SCORED, {"learning_rate": 0.0, **case}, model=model,
                   processing_class=tokenizer(folder, "<unk>"), before=lambda s: s.keep_logits(s.trainer.model),
                   evaluate=True)
        rows = []
        for batch, logits in zip(seen.inputs, seen.kept["logits"]):
            for ids, mask, labels, row in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], logits):
                keep = mask.bool()
                assert (labels[~keep] == IGNORE).all()
                at = [i for i, label in enumerate(labels.tolist()) if label != IGNORE]
                rows.append({"ids": ids[keep].tolist(), "at": at, "labels": labels[at].tolist(),
                             "logits": number(row[at])})
        rows = rows[:len(SCORED)]
        out.append({"settings": case, **seen.steps()[0], "evaluation": seen.evaluation(),
                    "rows": rows if "gradient_accumulation_steps" not in case else len(rows)})
        print("prm", case, out[-1]["loss"], out[-1]["grad_norm"], out[-1]["evaluation"], flush=True)
    return out, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("fixtures", type=pathlib.Path)
    args = parser.parse_args()
    assert VERSIONS["trl"] == "1.10.0", VERSIONS
    path = args.fixtures / "objectives_unpaired.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["bco_versions"] = VERSIONS
    for name, swapped in (("policy_plain", False), ("policy_perturbed", True)):
        expected = [{k: s["own"][k] for k in ("ids", "start")} for s in content[name]["sequences"]]
        content[name]["bco"] = bco(args.model, swapped, expected)
    write(path, content)
    path = args.fixtures / "objectives_scores.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["prm_versions"], content["prm_model"] = VERSIONS, "llama_text/model with prm_head.safetensors"
    content["prm"], tensors = prm(args.model)
    save_tensors(args.fixtures / "prm_head.safetensors", tensors)
    write(path, content)


if __name__ == "__main__":
    main()
