"""What the generators of tuners and heads share: rows, batches, filling, measuring, saving.

Versions: transformers 5.23.0, peft 0.21.2, torch 2.15.0, safetensors 0.8.0 (heads also 4.57.6). One thread, float32,
attention "eager", evaluation mode: no dropout acts. Nothing is downloaded.
"""

import json
import math
import os
import shutil
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
warnings.filterwarnings("ignore")

IGNORE = -100
PAD = 0
ROWS = [
    ("USER: Is the sky blue? ASSISTANT:", " Yes.</s>"),
    ("USER: How does a picture become tokens? ASSISTANT:", " The picture is cut into patches.</s>"),
    ("USER: Name a prime number greater than ten. ASSISTANT:", " 11</s>"),
]


def model_folder(root, name):
    return root / name / "model"


def base(root, name, dtype=torch.float32):
    folder = model_folder(root, name)
    more = {}
    if transformers.__version__ < "5":  # version 4 reads rope_theta, and ignores rope_parameters without a word
        more = {"rope_theta": json.loads((folder / "config.json").read_text())["rope_parameters"]["rope_theta"]}
    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, attn_implementation="eager", **more).eval()


def rows(root):
    """Ids with BOS and labels (prompt −100) of ROWS, by the tokenizer of `llama_text` (the same in `qwen2_text`)."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(model_folder(root, "llama_text")))
    out = []
    for prompt, answer in ROWS:
        text = prompt + answer
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        labels = [i if a >= len(prompt) and a < b else IGNORE for i, (a, b) in zip(ids, encoded["offset_mapping"])]
        out.append({"input_ids": ids, "labels": labels})
    return out


def collate(samples, side, pad=PAD):
    """No `position_ids`: the second value holds those that count from the first real token."""
    width = max(len(s["input_ids"]) for s in samples)

    def padded(row, value):
        gap = [value] * (width - len(row))
        return row + gap if side == "right" else gap + row

    inputs = {
        "input_ids": torch.tensor([padded(s["input_ids"], pad) for s in samples]),
        "attention_mask": torch.tensor([padded([1] * len(s["input_ids"]), 0) for s in samples]),
        "labels": torch.tensor([padded(s["labels"], IGNORE) for s in samples]),
    }
    return inputs, (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)


def logprobs(model, inputs, **more):
    """Per row the log-probability of every supervised token, and the loss transformers returns."""
    out = model(**inputs, **more)
    labels = inputs["labels"]
    logits = out.logits[:, -labels.shape[1]:]  # prompt tuning puts the virtual tokens' logits in front
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    learn = labels[:, 1:] != IGNORE
    return [c[l].tolist() for c, l in zip(chosen, learn)], out.loss


def flat(lists):
    return [v for row in lists for v in row]


def spread(a, b):
    return max(abs(x - y) for x, y in zip(flat(a), flat(b)))


def summary(tensor):
    """Norm, shape and up to eight values at `values_at`, flat indices evenly spread."""
    flat_ = tensor.detach().reshape(-1).double()
    step = max(1, flat_.numel() // 8)
    at = list(range(0, flat_.numel(), step))[:8]
    return {"shape": list(tensor.shape), "norm": flat_.norm().item(), "values_at": at,
            "values": [flat_[i].item() for i in at]}


def fill(model, seed, scales):
    """Fills every trained parameter, in the order of their names, with scale · N(0, 1); the first scale whose key
    is part of the name counts. A key with "+" adds to what is there; None leaves the parameter alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if not p.requires_grad:
                continue
            noise = torch.randn(p.shape, generator=generator)
            key, scale = next(((k, s) for k, s in scales.items() if k.lstrip("+") in name), ("", 0.3))
            if scale is None:
                continue
            p.copy_(p + scale * noise if key.startswith("+") else scale * noise)
    return model


def parameters(model):
    """Names and shapes of every parameter inside the PEFT model; `trained` those that require a gradient."""
    named = list(model.named_parameters())
    return {"trained": {n: list(p.shape) for n, p in named if p.requires_grad},
            "frozen": {n: list(p.shape) for n, p in named if not p.requires_grad}}


def gradients(model, inputs, **more):
    model.zero_grad(set_to_none=True)
    _, loss = logprobs(model, inputs, **more)
    loss.backward()
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    grads = {n: summary(p.grad) if p.grad is not None else None for n, p in named}
    total = math.sqrt(math.fsum(g["norm"] ** 2 for g in grads.values() if g))
    model.zero_grad(set_to_none=True)
    return {"loss": loss.item(), "grad_norm": total, "parameters": grads}


def measure(model, samples):
    """All numbers of one model: rows alone, both paddings, disabled, gradients of the right-padded batch."""
    right, right_positions = collate(samples, "right")
    left, left_positions = collate(samples, "left")
    with torch.no_grad():
        alone = []
        for sample in samples:
            one = {"input_ids": torch.tensor([sample["input_ids"]]), "labels": torch.tensor([sample["labels"]])}
            alone += logprobs(model, one)[0]
        result = {"token_logprobs": alone}
        for name, inputs, more in (
            ("right_padded", right, {}),
            ("right_padded_with_position_ids", right, {"position_ids": right_positions}),
            ("left_padded", left, {}),
            ("left_padded_with_position_ids", left, {"position_ids": left_positions}),
        ):
            values, loss = logprobs(model, inputs, **more)
            far = spread(values, alone)
            result[name] = {"loss": loss.item(), "largest_difference_from_alone": far}
            if far > 1e-4:
                result[name]["token_logprobs"] = values
    result["gradients"] = gradients(model, right)
    return result


def disabled(model, samples, plain):
    """Inside `disable_adapter` the base's own numbers come back, and after it the adapter's."""
    right, _ = collate(samples, "right")
    with torch.no_grad():
        before = logprobs(model, right)[0]
        with model.disable_adapter():
            inside = logprobs(model, right)[0]
        after = logprobs(model, right)[0]
    assert before == after
    return {"largest_difference_from_base": spread(inside, plain)}


def generation(model, samples, new_tokens=6):
    """Greedy continuations of the prompts by PEFT's `generate` (cache on), of each row alone and of the left-padded
    batch, beside those of plain forward passes without a cache. `min_margin`: smallest lead in logits."""
    prompts = [[i for i, l in zip(s["input_ids"], s["labels"]) if l == IGNORE] for s in samples]
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
    result = []
    with torch.no_grad():
        width = max(len(p) for p in prompts)
        ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        batch = model.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist()
        for prompt, in_batch in zip(prompts, batch):
            one = torch.tensor([prompt])
            cached = model.generate(input_ids=one, attention_mask=torch.ones_like(one), **settings)
            margins = []
            for _ in range(new_tokens):
                top = model(input_ids=one, attention_mask=torch.ones_like(one)).logits[0, -1].topk(2)
                margins.append((top.values[0] - top.values[1]).item())
                one = torch.cat([one, top.indices[:1].view(1, 1)], 1)
            result.append({"prompt": prompt, "output_ids": cached[0, len(prompt):].tolist(),
                           "without_cache": one[0, len(prompt):].tolist(), "in_left_padded_batch": in_batch,
                           "min_margin": min(margins)})
    return result


def merged(model, samples, keep=()):
    """`merge_and_unload`: what becomes of the numbers, and the changed weights."""
    right, _ = collate(samples, "right")
    with torch.no_grad():
        before = logprobs(model, right)[0]
        old = {n.replace(".base_layer", ""): p.detach().clone() for n, p in model.get_base_model().named_parameters()}
        plain = model.merge_and_unload()
        after, loss = logprobs(plain, right)
    changed = {}
    for name, p in plain.named_parameters():
        if name not in old or old[name].shape != p.shape or not torch.equal(old[name], p):
            changed[name] = summary(p)
    return {"loss": loss.item(), "largest_difference_from_adapter": spread(before, after), "changed_weights": changed}


def save_adapter(model, folder, name, **kwargs):
    """As PEFT saves it; only the path of the base is rewritten, and the empty model card removed."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder), **kwargs)
    (folder / "README.md").unlink(missing_ok=True)
    relocate(folder, name)
    return {p.name: p.stat().st_size for p in sorted(folder.iterdir())}


def relocate(folder, name):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for key, value in config.items():  # PEFT writes sets in the order of their hashes, another one in each process
        if key in ("target_modules", "feedforward_modules", "exclude_modules") and isinstance(value, list):
            config[key] = sorted(value)
    config["base_model_name_or_path"] = f"../../../{name}/model"
    if config.get("tokenizer_name_or_path"):
        config["tokenizer_name_or_path"] = f"../../../{name}/model"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def saved_keys(folder):
    from safetensors import safe_open

    with safe_open(str(folder / "adapter_model.safetensors"), "pt") as file:
        return {k: list(file.get_slice(k).get_shape()) for k in file.keys()}


def versions():
    out = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    try:
        import peft

        out["peft"] = peft.__version__
    except ImportError:
        pass
    return out


def write(folder, description, numbers, tensors=None, name="reference"):
    """One line for each small value: the file stays readable and small."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"description": " ".join(description.split()), **versions(), **numbers}

    def text(value, depth):
        pad = " " * depth
        if isinstance(value, dict) and value and len(json.dumps(value)) > 160:
            rows_ = [f"{pad} {json.dumps(k, ensure_ascii=False)}: {text(v, depth + 1)}" for k, v in value.items()]
            return "{\n" + ",\n".join(rows_) + f"\n{pad}}}"
        if isinstance(value, list) and value and isinstance(value[0], (dict, list)) and len(json.dumps(value)) > 160:
            return "[\n" + ",\n".join(f"{pad} {text(v, depth + 1)}" for v in value) + f"\n{pad}]"
        return json.dumps(value, ensure_ascii=False)

    def short(value):
        """Nine significant digits carry a float32 and more."""
        if isinstance(value, float):
            return float(f"{value:.9g}")
        if isinstance(value, dict):
            return {k: short(v) for k, v in value.items()}
        return [short(v) for v in value] if isinstance(value, (list, tuple)) else value

    (folder / f"{name}.json").write_text(text(short(numbers), 0) + "\n", encoding="utf-8")
    if tensors:
        path = folder / f"{name}.safetensors"
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(path))
        path.chmod(0o644)
