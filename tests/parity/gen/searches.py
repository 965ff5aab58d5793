"""Searches of transformers on the committed tiny checkpoints: beams, penalties, stop strings, samples' distributions.

    python searches.py FIXTURES

FIXTURES is tests/fixtures/parity. Every case's folder gets a `searches.json`: settings under the names of
`GenerationConfig`, and for each prompt of its `reference.json` the sequences with their scores.

Versions: torch 2.15.0, transformers 5.23.0, safetensors 0.8.0, Python 3.11.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlavaForConditionalGeneration

CASES = ["llama_text", "qwen2_text", "llava_gqa", "llava_tied"]
SETTINGS = [
    {},
    {"num_beams": 2, "num_return_sequences": 2},
    {"num_beams": 3, "length_penalty": 0.0},
    {"num_beams": 5, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 3},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": -1.0},
    {"num_beams": 2, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.3, "min_new_tokens": 4},
    {"no_repeat_ngram_size": 1},
]
NEW_TOKENS = 12


def pixels(folder, reference):
    if not (folder / "model" / "preprocessor_config.json").is_file() and not (folder / "model" / "processor_config.json").is_file():
        return {}
    tensors = load_file(str(folder / "reference.safetensors"))
    ids = [record["id"] for record in reference["records"]]
    return {ids[int(name.split(".")[1])]: value for name, value in tensors.items() if name.startswith("pixel_values.")}


def search(model, tokenizer, inputs, settings):
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        found = model.generate(
            **inputs, attention_mask=torch.ones_like(inputs["input_ids"]), max_new_tokens=NEW_TOKENS, do_sample=False,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id, return_dict_in_generate=True,
            output_scores=True, **settings)
    scores = getattr(found, "sequences_scores", None)
    rows = []
    for number, sequence in enumerate(found.sequences):
        ids = sequence[length:].tolist()
        if tokenizer.eos_token_id in ids:
            ids = ids[:ids.index(tokenizer.eos_token_id) + 1]
        rows.append({"ids": ids, "score": None if scores is None else scores[number].item()})
    return rows


def main(root):
    for case in CASES:
        folder = root / case
        reference = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
        tokenizer = AutoTokenizer.from_pretrained(str(folder / "model"))
        pictures = pixels(folder, reference)
        family = LlavaForConditionalGeneration if case.startswith("llava") else AutoModelForCausalLM
        model = family.from_pretrained(str(folder / "model"), dtype=torch.float32, attn_implementation="eager").eval()
        found = []
        for settings in SETTINGS:
            rows = []
            for one in reference["generation"]:
                inputs = {"input_ids": torch.tensor([one["input_ids"]])}
                if one["id"] in pictures:
                    inputs["pixel_values"] = pictures[one["id"]]
                rows.append({"id": one["id"], "sequences": search(model, tokenizer, inputs, settings)})
            found.append({"settings": settings, "rows": rows})
        text = json.dumps({"max_new_tokens": NEW_TOKENS, "searches": found}, indent=1)
        (folder / "searches.json").write_text(text + "\n", encoding="utf-8")
        print(case, len(found), "settings", len(reference["generation"]), "prompts")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
