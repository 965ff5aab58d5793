"""What the generators share: tokenizer, records, template, masks, and the reference numbers.

Everything is deterministic, single-threaded and float32. Nothing here downloads anything.
"""

import json
import math
import re

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IGNORE = -100
TRAJECTORY = {
    "optimizer": "torch.optim.AdamW",
    "learning_rate": 1e-3,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "no_weight_decay": "biases and norms (every tensor of rank 1)",
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "constant",
    "steps": 8,
    "batch": "all records, right-padded",
}

# --------------------------------------------------------------------------- records

IMAGE_RECORDS = [
    {
        "id": "one-image",
        "image": "ridge.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is in this picture?"},
            {"from": "gpt", "value": "A dark ridge under a pale sky."},
        ],
    },
    {
        "id": "two-images",
        "image": ["discs.png", "stripes.png"],
        "conversations": [
            {"from": "human", "value": "<image>\n<image>\nWhich of the two has discs?"},
            {"from": "gpt", "value": "The first picture has three discs; the second has stripes."},
        ],
    },
    {
        "id": "text-only",
        "conversations": [
            {"from": "human", "value": "Name a prime number greater than ten."},
            {"from": "gpt", "value": "11"},
        ],
    },
    {
        # The marker stands at the end of the message: the template moves it to the front.
        "id": "many-turns",
        "image": "grey.png",
        "conversations": [
            {"from": "human", "value": "Is this picture grey?\n<image>"},
            {"from": "gpt", "value": "Yes."},
            {"from": "human", "value": "And how bright is it?"},
            {"from": "gpt", "value": "Darker on the left than on the right."},
            {"from": "human", "value": "Thank you."},
            {"from": "gpt", "value": "You are welcome!"},
        ],
    },
    {
        "id": "multi-byte",
        "image": "tiny.png",
        "conversations": [
            {"from": "human", "value": "<image>\nAntworte auf Deutsch: große Übung?"},
            {"from": "gpt", "value": "Schöne Grüße, 你好, Привет 🙂"},
        ],
    },
]

TEXT_RECORDS = [
    {
        "id": "short",
        "conversations": [
            {"from": "human", "value": "Name a prime number greater than ten."},
            {"from": "gpt", "value": "11"},
        ],
    },
    {
        "id": "long",
        "conversations": [
            {"from": "human", "value": "How does a picture become tokens?"},
            {
                "from": "gpt",
                "value": "The picture is cut into patches; each patch becomes one token.\n"
                "Then the tokens are placed where the marker stands in the text.",
            },
        ],
    },
    {
        "id": "many-turns",
        "conversations": [
            {"from": "human", "value": "Is the sky blue?"},
            {"from": "gpt", "value": "Yes."},
            {"from": "human", "value": "And at night?"},
            {"from": "gpt", "value": "Dark, with stars."},
        ],
    },
    {
        "id": "multi-byte",
        "conversations": [
            {"from": "human", "value": "Antworte auf Deutsch: große Übung?"},
            {"from": "gpt", "value": "Schöne Grüße, 你好, Привет 🙂"},
        ],
    },
]


def pictures():
    """Name -> picture: smooth gradients, hard edges and noise, as a photograph has; no two alike in shape."""
    rng = np.random.default_rng(7)

    def grid(height, width):
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        return y / (height - 1), x / (width - 1)

    def finish(channels, noise):
        picture = np.stack(channels, -1) if len(channels) > 1 else channels[0]
        picture = picture + rng.normal(0.0, noise, picture.shape)
        return Image.fromarray(np.clip(picture * 255.0, 0, 255).round().astype(np.uint8))

    y, x = grid(61, 97)
    sky = 0.55 + 0.4 * (1 - y)
    line = 0.5 + 0.2 * np.sin(9 * x) + 0.08 * np.sin(31 * x + 1)
    ground = y > line
    ridge = finish([np.where(ground, 0.2 + 0.2 * x, sky * c) for c in (0.8, 0.9, 1.0)], 0.03)

    y, x = grid(80, 53)
    disc = sum(
        ((y - cy) ** 2 + ((x - cx) * 53 / 80) ** 2 < r * r).astype(float)
        for cy, cx, r in ((0.25, 0.3, 0.13), (0.55, 0.65, 0.17), (0.85, 0.25, 0.1))
    )
    discs = finish([0.9 * disc + 0.1 * x, 0.25 + 0.3 * y * (1 - disc), 0.7 * (1 - disc)], 0.02)

    y, x = grid(64, 64)
    stripes = finish([0.5 + 0.5 * np.sign(np.sin(40 * (x + a * y))) * (1 - 0.5 * y) for a in (0, 0.3, 1)], 0.05)

    y, x = grid(33, 120)
    grey = finish([0.15 + 0.7 * x + 0.1 * np.sin(50 * y)], 0.04)  # one channel, converted on reading

    y, x = grid(20, 24)  # smaller than the crop: it is enlarged
    tiny = finish([x, y, 1 - 0.5 * (x + y)], 0.1)
    return {"ridge.png": ridge, "discs.png": discs, "stripes.png": stripes, "grey.png": grey, "tiny.png": tiny}


def write_records(root):
    """`records/`: data.json with images/, text.json, and the two tokenizers."""
    folder = root / "records"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        picture.save(folder / "images" / name, optimize=True)
    write_json(folder / "data.json", IMAGE_RECORDS)
    write_json(folder / "text.json", TEXT_RECORDS)
    train_tokenizer().save(str(folder / "tokenizer.json"))


def load_pictures(root, record):
    names = record.get("image", [])
    names = [names] if isinstance(names, str) else names
    return [Image.open(root / "records" / "images" / name) for name in names]


# --------------------------------------------------------------------------- tokenizer

BASE_VOCABULARY = 398


def train_tokenizer():
    """Byte-level BPE with `<unk> <s> </s>` in front; BOS added by a template, as Llama's has it."""
    texts = [render(r)[0].replace("<image>", "") for r in IMAGE_RECORDS + TEXT_RECORDS]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=BASE_VOCABULARY,
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '" + SYSTEM.replace("'", "\\'") + "' %}{% endif %}"
    "{{ system + ' ' }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'USER: ' + message['content'] + ' ' }}{% else %}{{ 'ASSISTANT:' }}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def make_tokenizer(root, *, multimodal):
    """The shared tokenizer as transformers wraps it; LLaVA's adds `<image>` and `<pad>` at the end."""
    base = Tokenizer.from_file(str(root / "records" / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if not multimodal:
        return PreTrainedTokenizerFast(tokenizer_object=base, chat_template=CHAT_TEMPLATE, **names)
    base.add_special_tokens(["<image>", "<pad>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=base, pad_token="<pad>", additional_special_tokens=["<image>"], **names
    )


# --------------------------------------------------------------------------- template v1

def render(record):
    """LLaVA's v1 text and the character spans to learn from."""
    text, spans = SYSTEM + " ", []
    for turn in record["conversations"]:
        if turn["from"] == "human":
            images = turn["value"].count("<image>")
            words = turn["value"].replace("<image>", "").strip()
            text += "USER: " + "<image>\n" * images + words + " "
        else:
            text += "ASSISTANT:"
            start = len(text)
            text += " " + turn["value"] + "</s>"
            spans.append((start, len(text)))
    return text, spans


def expand(text, spans, tokens_per_image):
    """Every `<image>` becomes `tokens_per_image` of them; the spans move along."""
    marker = "<image>"
    at = [m.start() for m in re.finditer(marker, text)]
    extra = len(marker) * (tokens_per_image - 1)
    moved = [(s + extra * sum(a < s for a in at), e + extra * sum(a < e for a in at)) for s, e in spans]
    return text.replace(marker, marker * tokens_per_image), moved


def encode(tokenizer, record, tokens_per_image):
    """`input_ids` and unshifted `labels`: BOS once, a token is learned when it lies wholly inside a span."""
    text, spans = expand(*render(record), tokens_per_image)
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids = encoding["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    inside = [s < e and any(a <= s and e <= b for a, b in spans) for s, e in encoding["offset_mapping"]]
    return ids, [i if learn else IGNORE for i, learn in zip(ids, inside)]


def prompt_ids(tokenizer, record, tokens_per_image):
    """The ids in front of the last answer, header included: what generation starts from."""
    text, spans = expand(*render(record), tokens_per_image)
    return tokenizer(text[: spans[-1][0]])["input_ids"]


# --------------------------------------------------------------------------- weights

def fill(model, seed):
    """Random weights far from uniform logits, with every bias and norm weight away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 0:
                continue
            if p.dim() == 1 and "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.dim() == 1 and "class_embedding" not in name:
                p.copy_(0.2 * noise)
            elif "embed" in name and "patch" not in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(1.2 / math.sqrt(p[0].numel()) * noise)
    return model.eval()


# --------------------------------------------------------------------------- reference numbers

def token_logprobs(model, inputs, labels):
    """One log-probability per supervised token, in order, for one row or for a whole batch."""
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    target = labels[:, 1:]
    learn = target != IGNORE
    chosen = logits.log_softmax(-1).gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return chosen, learn


def mean_loss(model, inputs, labels):
    chosen, learn = token_logprobs(model, inputs, labels)
    return -(chosen * learn).sum() / learn.sum()


def collate(samples, pad_id, side):
    """All samples in one batch; positions count from the first real token on either side."""
    width = max(len(s["input_ids"]) for s in samples)

    def pad(row, value):
        gap = [value] * (width - len(row))
        return row + gap if side == "right" else gap + row

    mask = torch.tensor([pad([1] * len(s["input_ids"]), 0) for s in samples])
    inputs = {
        "input_ids": torch.tensor([pad(s["input_ids"], pad_id) for s in samples]),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
    }
    images = [s["pixel_values"] for s in samples if s["pixel_values"] is not None]
    if images:
        inputs["pixel_values"] = torch.cat(images)
    return inputs, torch.tensor([pad(s["labels"], IGNORE) for s in samples])


def row_inputs(sample):
    inputs = {"input_ids": torch.tensor([sample["input_ids"]])}
    if sample["pixel_values"] is not None:
        inputs["pixel_values"] = sample["pixel_values"]
    return inputs


def score(model, samples):
    """What recipe `score --per-token` writes, per record."""
    rows = []
    for index, sample in enumerate(samples):
        with torch.no_grad():
            chosen, learn = token_logprobs(model, row_inputs(sample), torch.tensor([sample["labels"]]))
        values = chosen[learn].tolist()
        rows.append(
            {
                "index": index,
                "id": sample["id"],
                "num_tokens": len(sample["input_ids"]),
                "num_supervised_tokens": len(values),
                "sum_logprob": math.fsum(values),
                "input_ids": sample["input_ids"],
                "labels": sample["labels"],
                "token_logprobs": values,
            }
        )
    return rows


def trainable(model):
    """Trained parameters by module path; an adapter's by the keys of adapter_model.safetensors."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [(n.replace("modules_to_save.default.", "").replace(".default.", "."), p) for n, p in named]


def gradients(model, inputs, labels):
    """Loss, total norm, norm per trainable parameter, and the gradients themselves."""
    model.zero_grad(set_to_none=True)
    loss = mean_loss(model, inputs, labels)
    loss.backward()
    grads = {n: p.grad.detach().clone() for n, p in trainable(model) if p.grad is not None}
    model.zero_grad(set_to_none=True)
    norms = {n: g.norm().item() for n, g in grads.items()}
    total = math.sqrt(math.fsum(v * v for v in norms.values()))
    return loss.item(), total, norms, grads


def trajectory(model, inputs, labels):
    """Losses before each step, gradient norms before clipping, and the loss after the last step.

    Changes the model's weights.
    """
    named = trainable(model)
    t = TRAJECTORY
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for _, p in named if p.dim() > 1], "weight_decay": t["weight_decay"]},
            {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=t["learning_rate"],
        betas=tuple(t["betas"]),
        eps=t["eps"],
        foreach=False,
    )
    losses, norms = [], []
    for _ in range(t["steps"]):
        optimizer.zero_grad(set_to_none=True)
        loss = mean_loss(model, inputs, labels)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in named], t["max_grad_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(mean_loss(model, inputs, labels).item())
    return {"losses": losses[:-1], "grad_norms": norms, "final_loss": losses[-1]}


def doubled(inputs):
    """The same inputs with every floating-point tensor in float64."""
    wide = lambda v: torch.is_tensor(v) and v.is_floating_point()
    return {k: v.double() if wide(v) else v for k, v in inputs.items()}


def greedy(model, tokenizer, samples, new_tokens):
    """Greedy continuations of the prompts; `min_margin` says how far the runner-up stayed behind."""
    rows = []
    for sample in samples:
        inputs = row_inputs({**sample, "input_ids": sample["prompt_ids"]})
        out = model.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            max_new_tokens=new_tokens,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        output = out.sequences[0, len(sample["prompt_ids"]):].tolist()
        margins = [(s[0].topk(2).values[0] - s[0].topk(2).values[1]).item() for s in out.scores]
        rows.append(
            {
                "id": sample["id"],
                "input_ids": sample["prompt_ids"],
                "output_ids": output,
                "text": tokenizer.decode(output, skip_special_tokens=True),
                "min_margin": min(margins),
            }
        )
    return rows


# --------------------------------------------------------------------------- files

def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_reference(folder, description, numbers, tensors):
    import transformers

    numbers = {
        "description": " ".join(description.split()),
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        **numbers,
    }
    # One line per top-level key (one per record in lists) keeps the file small and diffs readable.
    lines = []
    for key, value in numbers.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            body = "[\n  " + ",\n  ".join(json.dumps(v, ensure_ascii=False) for v in value) + "\n ]"
        else:
            body = json.dumps(value, ensure_ascii=False)
        lines.append(f" {json.dumps(key)}: {body}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reference.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    save_file(tensors, str(folder / "reference.safetensors"))


def readable(root):
    """safetensors writes files that only their owner may read; a repository's files are for everybody."""
    for path in root.rglob("*.safetensors"):
        path.chmod(0o644)

