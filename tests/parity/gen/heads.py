"""Sequence heads of transformers (`LlamaForSequenceClassification`), under version 5 and version 4. See README.md.

    venv5/bin/python heads.py FIXTURES OUT          (writes heads/reference.v5.json, score.safetensors, model/)
    venv4/bin/python heads.py FIXTURES OUT          (writes heads/reference.v4.json, from the same weights, to compare)

Versions: transformers 5.23.0 and 4.57.6, torch 2.15.0, safetensors 0.8.0.
"""

import argparse
import json
import math
import pathlib
import tempfile

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

import peft_common as common

MAJOR = transformers.__version__.split(".")[0]
EOS = 2

# name: labels, problem_type given, targets
CASES = {
    "one_regression": (1, None, [0.3, -1.2, 0.8]),
    "three_single_label": (3, None, [0, 2, 1]),
    "three_single_label_ignored": (3, "single_label_classification", [0, -100, 1]),
    "three_multi_label": (3, None, [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]),
    "three_regression": (3, "regression", [[0.3, -1.2, 0.8], [0.0, 0.5, 0.1], [1.0, 1.0, -1.0]]),
}


def load(root, labels, pad, problem=None):
    more = {"problem_type": problem} if problem else {}
    model = AutoModelForSequenceClassification.from_pretrained(
        str(common.model_folder(root, "llama_text")), num_labels=labels, pad_token_id=pad, dtype=torch.float32,
        attn_implementation="eager", **more).eval()
    generator = torch.Generator().manual_seed(200 + labels)
    with torch.no_grad():
        model.score.weight.copy_(0.4 * torch.randn(model.score.weight.shape, generator=generator))
    return model


def scored_at(model, inputs, logits):
    """The column whose score each row got, found by comparing with the scores at every position."""
    hidden = model.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                         position_ids=inputs.get("position_ids")).last_hidden_state
    everywhere = model.score(hidden)
    distance = (everywhere - logits[:, None]).abs().amax(-1)
    return distance.argmin(-1).tolist()


def padding(root, samples, labels):
    """Which token is scored: pad 0 (never in a row) and pad 2, the end-of-sequence token that ends every row."""
    result = {}
    for pad in (common.PAD, EOS):
        model = load(root, labels, pad)
        for side in ("right", "left"):
            inputs, positions = common.collate(samples, side, pad)
            inputs.pop("labels")
            for label, more in (("", {}), ("_with_position_ids", {"position_ids": positions})):
                with torch.no_grad():
                    logits = model(**inputs, **more).logits
                    at = scored_at(model, {**inputs, **more}, logits)
                last = [int(m.nonzero()[-1]) for m in inputs["attention_mask"]]
                result[f"pad_{pad}_{side}{label}"] = {
                    "logits": logits.tolist(), "scored_at": at, "last_attended": last,
                    "scored_id": [int(row[i]) for row, i in zip(inputs["input_ids"], at)]}
    model = load(root, labels, None)
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([s["input_ids"]])).logits[0].tolist() for s in samples]
        result["no_pad_alone"] = {"logits": alone}
        inputs, _ = common.collate(samples, "right")
        inputs.pop("labels")
        try:
            model(**inputs)
            result["no_pad_batch"] = "accepted"
        except ValueError as error:
            result["no_pad_batch"] = f"ValueError: {error}"
        model = load(root, labels, common.PAD)
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        logits = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
        result["inputs_embeds_right_padded"] = {
            "logits": logits.tolist(), "scored_at": scored_at(model, inputs, logits)}
        everything_is_pad = {"input_ids": torch.full((2, 4), common.PAD), "attention_mask": torch.ones(2, 4).long()}
        logits = model(**everything_is_pad).logits
        result["rows_of_pad_only"] = {"scored_at": 0, "logits": logits.tolist()}
    return result


def losses(root, samples):
    result = {}
    for name, (labels, problem, targets) in CASES.items():
        model = load(root, labels, common.PAD, problem)
        inputs, _ = common.collate(samples, "right")
        inputs["labels"] = torch.tensor(targets)
        out = model(**inputs)
        out.loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        result[name] = {
            "num_labels": labels, "problem_type_given": problem, "problem_type_after": model.config.problem_type,
            "labels": targets, "loss": out.loss.item(), "logits": out.logits.tolist(),
            "grad_norm": math.sqrt(math.fsum(g.norm().item() ** 2 for g in grads.values())),
            "gradients": {n: common.summary(g) for n, g in grads.items() if n == "score.weight" or "norm" in n},
            "grad_norms": {n: g.norm().item() for n, g in grads.items()}}
    return result


def saved(root, out):
    """The folder `save_pretrained` writes: its keys and its config; the weights but the head are `llama_text`'s. The one of
    three outputs is kept as `model`."""
    result = {}
    for name, labels, problem in (("one", 1, None), ("three", 3, "single_label_classification")):
        model = load(root, labels, common.PAD, problem)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            files = sorted(p.name for p in pathlib.Path(folder).iterdir())
            with safe_open(f"{folder}/model.safetensors", "pt") as file:
                keys = {k: list(file.get_slice(k).get_shape()) for k in file.keys()}
            config = json.loads((pathlib.Path(folder) / "config.json").read_text())
            again, info = AutoModelForSequenceClassification.from_pretrained(
                folder, output_loading_info=True, dtype=torch.float32)
            assert torch.equal(again.score.weight, model.score.weight) and not info["missing_keys"]
        plain = json.loads((common.model_folder(root, "llama_text") / "config.json").read_text())
        result[name] = {"files": files, "keys": keys, "num_labels_read_back": again.num_labels,
                        "differs_from_causal_config": {k: v for k, v in config.items() if plain.get(k, "absent") != v}}
        if name == "three" and MAJOR == "5":
            model.save_pretrained(out / "model")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    root, out = args.fixtures.resolve(), args.out / "heads"
    out.mkdir(parents=True, exist_ok=True)
    samples = common.rows(root)
    numbers = {
        "base": "../llama_text/model", "head": "score.weight = 0.4 N(0, 1): `one` and `three` in score.safetensors",
        "padding": {"one": padding(root, samples, 1), "three": padding(root, samples, 3)},
        "losses": losses(root, samples), "saved": saved(root, out),
    }
    # What an untrained head holds: transformers draws it anew.
    torch.manual_seed(0)
    fresh = AutoModelForSequenceClassification.from_pretrained(
        str(common.model_folder(root, "llama_text")), num_labels=3, dtype=torch.float32)
    numbers["fresh_head_std"] = fresh.score.weight.std().item()
    common.write(out, "Sequence heads over llama_text", numbers, name=f"reference.v{MAJOR}")
    if MAJOR == "5":
        tensors = {"one": load(root, 1, 0).score.weight, "three": load(root, 3, 0).score.weight}
        common.save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(out / "score.safetensors"))
        (out / "score.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
