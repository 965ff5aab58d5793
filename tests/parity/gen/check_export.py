"""Does transformers read what was saved, and does it give the same log-probabilities?

    python check_export.py --model DIR [--adapter DIR] --scores OUT.jsonl --data FILE [--images DIR ...]

`OUT.jsonl` is what the recipe `score --per-token` wrote for `--data`. The model is loaded with `from_pretrained`
(and PEFT's), the pictures go through the processor saved in the folder, and every supervised token's
log-probability is computed again from the file's `input_ids` and `labels`. Exits 1 when one differs by more than
`--tolerance`, 2 when the inputs do not fit together. Runs under transformers 4 and 5.
"""

import argparse
import json
import math
import pathlib
import sys

import torch
import transformers
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

torch.set_num_threads(1)
IGNORE = -100


def fail(message):
    print(f"check_export: {message}", file=sys.stderr)
    raise SystemExit(2)


def read_rows(path):
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def find(name, folders):
    for folder in folders:
        if (folder / name).is_file():
            return Image.open(folder / name)
    fail(f"{name} is in none of {', '.join(map(str, folders))}")


def load(args):
    """The model in float32, and its processor (None where the model reads text only)."""
    settings = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    llava = settings["model_type"] == "llava"
    family = LlavaForConditionalGeneration if llava else AutoModelForCausalLM
    model, report = family.from_pretrained(
        str(args.model), dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(key):
            fail(f"{args.model}: from_pretrained reports {key}: {sorted(map(str, report[key]))[:5]}")
    if args.adapter:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, str(args.adapter))
        except (KeyError, ValueError, RuntimeError) as error:
            fail(f"{args.adapter}: PEFT does not load it: {error!r}")
        check_adapter(model, args.adapter)
    if not llava:
        AutoTokenizer.from_pretrained(str(args.processor or args.model))
        return model.eval(), None
    # use_fast=False: the image processor backed by Pillow, under both versions.
    return model.eval(), AutoProcessor.from_pretrained(str(args.processor or args.model), use_fast=False)


def check_adapter(model, folder):
    """Every tensor of the file must have arrived: PEFT only warns about those that it could not place."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    wanted = load_file(str(folder / "adapter_model.safetensors"))
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    # PEFT names a saved module's tensors with or without the name of its wrapper, depending on its version.
    loaded = {k.replace(".modules_to_save.default", "").replace(".modules_to_save", ""): v for k, v in loaded.items()}
    for key, tensor in wanted.items():
        if key not in loaded or not torch.equal(loaded[key].cpu().float(), tensor.float()):
            fail(f"{folder}: PEFT did not load {key}")
    if set(loaded) - set(wanted):
        fail(f"{folder}: PEFT expects more tensors: {sorted(set(loaded) - set(wanted))[:5]}")


def pixels(processor, pictures, row):
    """The pictures as the saved processor makes them, and its count of image tokens against the row's."""
    if not pictures:
        return {}
    image_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    out = processor(images=pictures, text=processor.image_token * len(pictures), return_tensors="pt")
    expected, reserved = int((out["input_ids"] == image_id).sum()), row["input_ids"].count(image_id)
    if expected != reserved:
        fail(f"record {row['id']}: the processor reserves {expected} image tokens, the scores have {reserved}")
    return {"pixel_values": out["pixel_values"].float()}


def log_probabilities(model, row, images):
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False, **images).logits[0, :-1].float()
    target = labels[1:]
    learn = target != IGNORE
    return logits[learn].log_softmax(-1).gather(-1, target[learn].unsqueeze(-1)).squeeze(-1).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--adapter", type=pathlib.Path)
    parser.add_argument("--processor", type=pathlib.Path, help="where it is not beside the model")
    parser.add_argument("--scores", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    rows, records = read_rows(args.scores), read_rows(args.data)
    if not rows:
        fail(f"{args.scores} has no record")
    model, processor = load(args)
    folders = [*args.images, args.data.parent]
    worst, where, tokens = 0.0, "", 0
    for row in rows:
        if "token_logprobs" not in row:
            fail(f"{args.scores}: record {row.get('index')} has no token_logprobs; score with --per-token")
        record = records[row["index"]]
        names = record.get("image") or []
        names = [names] if isinstance(names, str) else names
        if names and processor is None:
            fail(f"record {row['id']} has images but {args.model} reads text only")
        values = log_probabilities(model, row, pixels(processor, [find(n, folders) for n in names], row))
        if not len(values) == len(row["token_logprobs"]) == row["num_supervised_tokens"]:
            fail(f"record {row['id']}: {len(values)} labels, {len(row['token_logprobs'])} token_logprobs, "
                 f"num_supervised_tokens {row['num_supervised_tokens']}")
        if row["num_tokens"] != len(row["input_ids"]):
            fail(f"record {row['id']}: num_tokens {row['num_tokens']}, input_ids {len(row['input_ids'])}")
        tokens += len(values)
        # A NaN compares false with everything: count it as infinitely far.
        gaps = [abs(a - b) if math.isfinite(a) and math.isfinite(b) else math.inf
                for a, b in zip(values, row["token_logprobs"])]
        total = abs(math.fsum(row["token_logprobs"]) - row["sum_logprob"])
        if not total <= args.tolerance * max(1, len(values)):
            fail(f"record {row['id']}: sum_logprob is not the sum of token_logprobs (off by {total:.2e})")
        for position, gap in enumerate(gaps):
            if gap > worst:
                worst, where = gap, f" (record {row['index']} {row['id']}, supervised token {position})"
    verdict = "ok" if worst <= args.tolerance else "DIFFERENT"
    print(f"{verdict}: {len(rows)} records, {tokens} tokens, largest difference {worst:.2e}{where}, "
          f"tolerance {args.tolerance:.0e}, transformers {transformers.__version__}")
    raise SystemExit(0 if worst <= args.tolerance else 1)


if __name__ == "__main__":
    main()
