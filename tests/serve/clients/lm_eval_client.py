"""lm-evaluation-harness (local-completions) against the echo server of `tests/serve` (see README.md).

    python lm_eval_client.py [http://127.0.0.1:8399]

Two tasks from local files: multiple choice by likelihood (echo, logprobs) and generation until a stop text. The echo server's
log-probabilities are known, so the results are computed here as well and must be the same to the last digit.

Versions: lm_eval 0.4.13, transformers 5.23.0, Python 3.11.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval
from lm_eval.tasks import TaskManager
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8399"

QUESTIONS = [
    {"question": "abab", "choices": ["ab", "xy", "ax"], "gold": 0},
    {"question": "what is said", "choices": ["q", "what", "zzz"], "gold": 1},
    {"question": "mnop", "choices": ["mm", "nq", "rs"], "gold": 2},
    {"question": "ü and ö", "choices": ["kk", "üö", "xx"], "gold": 1},
]

CHOICE_TASK = """
task: echo_choice
dataset_path: json
dataset_kwargs: {data_files: {test: "DATA"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""

GENERATE_TASK = """
task: echo_generate
dataset_path: json
dataset_kwargs: {data_files: {test: "DATA"}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " and"
generation_kwargs: {until: [" so"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""


def tokenizer():
    """A token is a character, its id the character's code point: what the echo server does."""
    vocab = {chr(i): i for i in range(0x250)}
    made = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?", eos_token="\x03")


def likelihood(context, continuation):
    total = 0.0
    for c in continuation:
        total += -0.3 if c in context[-16:] else -2.7
        context += c
    return total


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tokenizer().save_pretrained(folder / "tokenizer")
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
        for name, task in [("choice", CHOICE_TASK), ("generate", GENERATE_TASK)]:
            (folder / f"{name}.yaml").write_text(task.replace("DATA", str(folder / "data.jsonl")))
        for batch, tokenized in [(1, True), (3, True), (1, False), (2, False)]:
            arguments = {
                "model": "echo",
                "base_url": URL + "/v1/completions",
                "tokenizer": str(folder / "tokenizer"),
                "tokenized_requests": tokenized,
                "num_concurrent": 2,
            }
            results = lm_eval.simple_evaluate(
                model="local-completions",
                model_args=arguments,
                tasks=["echo_choice", "echo_generate"],
                task_manager=TaskManager(include_path=str(folder), include_defaults=False),
                batch_size=batch,
                log_samples=True,
                bootstrap_iters=0,
            )
            right = 0
            for row, sample in zip(QUESTIONS, sorted(results["samples"]["echo_choice"], key=lambda s: s["doc_id"])):
                expected = [likelihood(row["question"], choice) for choice in row["choices"]]
                greedy = [abs(value + 0.3 * len(choice)) < 1e-6 for value, choice in zip(expected, row["choices"])]
                found = [(float(value), flag in (True, "True")) for value, flag in sample["filtered_resps"]]
                for (value, flag), wanted, is_greedy in zip(found, expected, greedy):
                    assert abs(value - wanted) < 1e-5 and flag == is_greedy, (row, found, expected, greedy)
                right += max(range(len(expected)), key=expected.__getitem__) == row["gold"]
            accuracy = results["results"]["echo_choice"]["acc,none"]
            assert accuracy == right / len(QUESTIONS), (accuracy, right)
            match = results["results"]["echo_generate"]["exact_match,none"]
            assert match == 1.0, results["samples"]["echo_generate"]
            print(f"ok batch {batch}, token ids {tokenized}: acc {accuracy}, exact_match {match}")


main()
