"""Rotary scalings and sliding windows: the weights of the text cases under other configurations. See README.md.

    python variants.py FIXTURES          (transformers 5, after models.py)

Each variant is a few keys of `config.json` over a case's model. Records are scored alone, with a model loaded anew each
time, because transformers' `dynamic` remembers the longest sequence it has met.
"""

import argparse
import json
import pathlib
import shutil
import tempfile

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import common
import models

NEW_TOKENS = 12


def rope(kind, **parameters):
    """As transformers 5 writes it; `max_position_embeddings` below the records' lengths."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}, "max_position_embeddings": 24}


VARIANTS = [
    ("llama_text", "linear", rope("linear", factor=4.0)),
    ("llama_text", "linear, as version 4 writes it",
     {"rope_parameters": None, "rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.5}}),
    ("llama_text", "dynamic", rope("dynamic", factor=2.0)),
    ("llama_text", "dynamic within its context",
     {**rope("dynamic", factor=8.0), "max_position_embeddings": 512}),
    ("llama_text", "yarn", rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    ("llama_text", "yarn without its original context", rope("yarn", factor=8.0)),
    ("llama_text", "yarn, every parameter",
     rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=8.0, beta_slow=2.0, mscale=0.7,
          mscale_all_dim=1.3, truncate=False)),
    ("llama_text", "yarn with its own attention factor",
     rope("yarn", factor=2.0, original_max_position_embeddings=32, attention_factor=0.8)),
    ("llama_text", "a window that Llama does not read", {"sliding_window": 4}),
    ("mistral_text", "window", {"sliding_window": 6}),
    ("mistral_text", "window and yarn",
     {"sliding_window": 9, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0,
                                                "original_max_position_embeddings": 16}}),
    ("qwen2_text", "window from the second layer",
     {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layer_types": None}),
    ("qwen2_text", "window on the first layer",
     {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}),
    ("qwen2_text", "window switched off", {"use_sliding_window": False, "sliding_window": 5, "layer_types": None}),
]

FREQUENCIES = [
    ("linear", rope("linear", factor=4.0)), ("dynamic", rope("dynamic", factor=2.0)),
    ("dynamic", {**rope("dynamic", factor=4.0), "max_position_embeddings": 2048}),
    ("yarn", {**rope("yarn", factor=40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=0.707),
              "max_position_embeddings": 163840}),
    ("yarn", {**rope("yarn", factor=4.0, original_max_position_embeddings=32768), "max_position_embeddings": 131072}),
    ("llama3", {**rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                       original_max_position_embeddings=8192), "max_position_embeddings": 131072}),
]


def configured(source, overrides, folder):
    shutil.copytree(source, folder, dirs_exist_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in overrides.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def variant(root, base, name, overrides):
    with tempfile.TemporaryDirectory() as scratch:
        folder = configured(root / base / "model", overrides, pathlib.Path(scratch) / "model")
        tokenizer = common.make_tokenizer(root, multimodal=False)
        samples = models.text_samples(root, tokenizer)

        def load():
            return AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=torch.float32, attn_implementation="eager").eval()

        records = [common.score(load(), [sample])[0]["token_logprobs"] for sample in samples]
        generation = [common.greedy(load(), tokenizer, [sample], NEW_TOKENS)[0] for sample in samples]
    if "window that Llama" in name:
        # The model reads no window, but generate()'s cache does and cuts the keys: it disagrees with its own scores.
        generation = []
    print(f"{base}, {name}: margins", [f"{g['min_margin']:.4f}" for g in generation])
    return {
        "model": base, "name": name, "overrides": overrides, "token_logprobs": records,
        "output_ids": [g["output_ids"] for g in generation], "min_margins": [g["min_margin"] for g in generation],
    }


def frequencies(kind, overrides):
    rows = []
    settings = {"hidden_size": 512, "num_attention_heads": 4, "num_hidden_layers": 1, **overrides}
    for length in (1, 2048, 2049, 10000):
        config = AutoConfig.for_model("llama", **json.loads(json.dumps(settings)))
        values, scale = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=torch.tensor(length))
        rows.append({"length": length, "inverse_frequencies": values.tolist(), "attention_factor": float(scale)})
    return {"config": {"model_type": "llama", **settings}, "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    root = parser.parse_args().fixtures
    common.write_json(root / "variants.json", {
        "variants": [variant(root, *one) for one in VARIANTS],
        "frequencies": [frequencies(*one) for one in FREQUENCIES],
    })


if __name__ == "__main__":
    main()
