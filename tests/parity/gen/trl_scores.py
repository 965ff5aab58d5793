"""`objectives_scores.json` and `reward_head.safetensors`: TRL's reward trainer..

    python trl_scores.py MODEL FIXTURES         (trl 1.16.0; `trl_bco_prm.py` adds the process reward model afterwards)
"""

import argparse
import pathlib

from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from trl_common import VERSIONS, head, load, number, run, save_tensors, tokenizer, write
from trl_records import PAIRS

CASES = [
    ({}, False), ({}, True), ({"center_rewards_coefficient": 0.01}, False), ({"center_rewards_coefficient": 0.5}, True),
]


def reward(folder, pad, settings, margin):
    model = load(folder, AutoModelForSequenceClassification, num_labels=1)
    tensors = head(model, 0.5, 1001)
    rows = [{k: v for k, v in r.items() if margin or k != "margin"} for r in PAIRS]
    seen = run(RewardTrainer, RewardConfig, rows, settings, model=model, processing_class=tokenizer(folder, pad),
               before=lambda s: s.keep_logits(s.trainer.model), evaluate=True)
    return seen, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("fixtures", type=pathlib.Path)
    args = parser.parse_args()
    content = {"versions": VERSIONS, "model": "llama_text/model with reward_head.safetensors"}
    for name, pad in (("pad_is_unk", "<unk>"), ("pad_is_eos", None)):
        content[name] = []
        for settings, margin in CASES:
            seen, tensors = reward(args.model, pad, {**settings, "learning_rate": 0.0}, margin)
            batch, scores = seen.inputs[0], number(seen.kept["logits"][0].squeeze(-1))
            half = len(scores) // 2
            entry = {"settings": settings, "margin": margin, **seen.steps()[0], "evaluation": seen.evaluation()}
            if settings == {} and not margin:
                ids = [r[m.bool()].tolist() for r, m in zip(batch["input_ids"], batch["attention_mask"])]
                content[name + "_scores"] = {"chosen": scores[:half], "rejected": scores[half:]}
                content.setdefault("ids", {"chosen": ids[:half], "rejected": ids[half:]})
            content[name].append(entry)
            print(name, settings, margin, entry["loss"], entry["grad_norm"], flush=True)
    save_tensors(args.fixtures / "reward_head.safetensors", tensors)
    write(args.fixtures / "objectives_scores.json", content)


if __name__ == "__main__":
    main()
