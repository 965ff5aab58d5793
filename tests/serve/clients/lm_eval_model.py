"""lm-evaluation-harness (local-completions) against `serve` over a text checkpoint (see README.md).

    python lm_eval_model.py URL CHECKPOINT

A multiple-choice task from a local file, with questions that are drawn. What the harness makes of the server's log-probabilities is
computed here as well, from transformers' log-probabilities of the same checkpoint: accuracy, every likelihood, every greedy flag.

Versions: lm_eval 0.4.13, transformers 5.23.0, torch 2.15.0, Python 3.11.
"""

import json
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval
import torch
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

URL, FOLDER = sys.argv[1], sys.argv[2]
WORDS = "the sky is blue and a picture has four red patches where one green cat sits on top of ten small tokens".split()
TASK = """
task: drawn_choice
dataset_path: json
dataset_kwargs: {data_files: {test: "DATA"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""


def questions(count):
    draw = random.Random(7)
    words = lambda least, most: " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))
    return [{"question": words(3, 25), "choices": [words(1, 6) for _ in range(4)], "gold": draw.randrange(4)} for _ in range(count)]


def likelihood(model, tokenizer, context, continuation, bos):
    """Of a continuation behind a context, as the harness parts them into tokens; and whether each token is the likeliest."""
    prefix = [tokenizer.bos_token_id] if bos else []
    start = prefix + tokenizer.encode(context, add_special_tokens=False)
    whole = prefix + tokenizer.encode(context + continuation, add_special_tokens=False)
    with torch.no_grad():
        scores = torch.log_softmax(model(torch.tensor([whole])).logits[0].float(), -1)
    places = range(len(start), len(whole))
    total = sum(float(scores[i - 1, whole[i]]) for i in places)
    return total, all(int(scores[i - 1].argmax()) == whole[i] for i in places)


def main():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    rows = questions(40)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "choice.yaml").write_text(TASK.replace("DATA", str(folder / "data.jsonl")))
        # A text gets its BOS from the server, so that the harness must count one; token ids are taken as they are.
        for batch, tokenized, bos in [(1, True, False), (4, True, False), (4, True, True), (1, False, True)]:
            arguments = {"model": "", "base_url": URL + "/v1/completions", "tokenizer": FOLDER, "tokenized_requests": tokenized,
                         "add_bos_token": bos, "num_concurrent": 4, "max_length": 512}
            results = lm_eval.simple_evaluate(
                model="local-completions", model_args=arguments, tasks=["drawn_choice"], batch_size=batch, log_samples=True,
                task_manager=TaskManager(include_path=str(folder), include_defaults=False), bootstrap_iters=0)
            right = length = worst = 0
            for row, sample in zip(rows, sorted(results["samples"]["drawn_choice"], key=lambda s: s["doc_id"])):
                expected = [likelihood(model, tokenizer, row["question"], " " + choice, bos) for choice in row["choices"]]
                found = [(float(value), flag in (True, "True")) for value, flag in sample["filtered_resps"]]
                for (value, flag), (wanted, greedy) in zip(found, expected):
                    worst = max(worst, abs(value - wanted))
                    assert abs(value - wanted) < 1e-3 and flag == greedy, (row, found, expected)
                best = [value for value, _ in expected]
                right += max(range(4), key=best.__getitem__) == row["gold"]
                normed = [value / len(choice) for value, choice in zip(best, row["choices"])]
                length += max(range(4), key=normed.__getitem__) == row["gold"]
            found = results["results"]["drawn_choice"]
            assert found["acc,none"] == right / len(rows) and found["acc_norm,none"] == length / len(rows), (found, right, length)
            print(f"ok batch {batch}, token ids {tokenized}, BOS {bos}: acc {found['acc,none']}, acc_norm {found['acc_norm,none']}, "
                  f"both as by transformers; largest difference of a likelihood {worst:.1e}")


main()
