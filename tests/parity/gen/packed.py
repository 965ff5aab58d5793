"""Several records in one row: log-probabilities, loss and gradients under a block-diagonal mask. See README.md.

    python packed.py FIXTURES            (transformers 5, after models.py)

The mask is written out and given to the model as four dimensions, with positions that restart at each record; that
transformers makes the same mask of the positions alone is checked here.
"""

import argparse
import math
import pathlib
import tempfile

import torch
from transformers import AutoModelForCausalLM

import common
import models
import variants

CASES = [
    ("llama_text", "grouped queries", {}),
    ("llama_text", "dynamic: the longest record counts", variants.rope("dynamic", factor=2.0)),
    ("mistral_text", "window", {"sliding_window": 6}),
]


def packed(samples):
    ids = [i for sample in samples for i in sample["input_ids"]]
    # Nothing predicts a record's first token.
    labels = [label for sample in samples for label in [common.IGNORE] + sample["labels"][1:]]
    positions = [p for sample in samples for p in range(len(sample["input_ids"]))]
    record = [n for n, sample in enumerate(samples) for _ in sample["input_ids"]]
    return tuple(torch.tensor([row]) for row in (ids, labels, positions, record))


def additive_mask(record, window):
    n = record.shape[1]
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    visible = (record[0][:, None] == record[0][None, :]) & (j <= i)
    if window:
        visible &= i - j < window
    return torch.where(visible, 0.0, torch.finfo(torch.float32).min)[None, None]


def case(root, base, name, overrides):
    with tempfile.TemporaryDirectory() as scratch:
        folder = variants.configured(root / base / "model", overrides, pathlib.Path(scratch) / "model")
        samples = models.text_samples(root, common.make_tokenizer(root, multimodal=False))

        def load():
            return AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=torch.float32, attn_implementation="eager").eval()

        ids, labels, positions, record = packed(samples)
        model = load()
        mask = additive_mask(record, overrides.get("sliding_window"))
        logits = model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits
        with torch.no_grad():
            own = load()(input_ids=ids, position_ids=positions, use_cache=False).logits
        torch.testing.assert_close(logits.detach(), own, rtol=0, atol=1e-6)
        targets = labels[0, 1:]
        learn = targets != common.IGNORE
        chosen = torch.log_softmax(logits[0, :-1][learn], dim=-1).gather(1, targets[learn][:, None])[:, 0]
        loss = -chosen.mean()
        loss.backward()
        norms = {n: p.grad.norm().item() for n, p in model.named_parameters()}
    rows, at = [], 0
    for sample in samples:
        count = sum(label != common.IGNORE for label in sample["labels"][1:])
        rows.append(chosen[at:at + count].tolist())
        at += count
    return {
        "model": base, "name": name, "overrides": overrides, "token_logprobs": rows, "loss": loss.item(),
        "grad_norm": math.sqrt(math.fsum(v * v for v in norms.values())), "grad_norms": norms,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    root = parser.parse_args().fixtures
    common.write_json(root / "packed.json", {"cases": [case(root, *one) for one in CASES]})


if __name__ == "__main__":
    main()
