"""Embeddings of a decoder: its last hidden state, pooled and scaled to the length 1. See README.md.

    venv5/bin/python embeddings.py FIXTURES          (writes embeddings.json)

The last token's state is what vLLM takes of a decoder, the mean what sentence-transformers' pooling of mean tokens takes; both
are normalised by torch. Texts are encoded as a tokenizer does it by itself, with its BOS.

Versions: transformers 5.23.0, torch 2.15.0. One thread, float32, attention "eager".
"""

import argparse
import json
import pathlib
import re

import torch
import transformers
from transformers import AutoModel, PreTrainedTokenizerFast

torch.set_num_threads(1)
TEXTS = ["Is the sky blue?", "The picture is cut into patches, and each of them becomes a token.", "x", "Größe: 10 µm"]
CASES = ["llama_text", "qwen2_text"]


def embed(model, ids):
    """Alone, so that no padding takes part."""
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0].float()
    pooled = {"last": hidden[-1], "mean": hidden.mean(0), "last_of_8": hidden[-1][:8]}
    return {name: torch.nn.functional.normalize(values, dim=0).tolist() for name, values in pooled.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fixtures", type=pathlib.Path)
    root = parser.parse_args().fixtures
    result = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "texts": TEXTS, "cases": {}}
    for name in CASES:
        folder = str(root / name / "model")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        rows = [tokenizer(text)["input_ids"] for text in TEXTS]
        result["cases"][name] = [{"input_ids": ids, **embed(model, ids)} for ids in rows]
    text = json.dumps(result, indent=1, ensure_ascii=False)
    # One list of numbers, one line.
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]", text)
    (root / "embeddings.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
