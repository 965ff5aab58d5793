"""What the TRL generators share: models, the perturbed reference, one way to run a trainer, and the JSON writer.

Pinned: trl 1.16.0 (trl 1.10.0 for `trl_bco_prm.py`), transformers 5.23.0, torch 2.15.0, accelerate 1.15.0,
datasets 5.2.0, tokenizers 0.23.3, peft 0.21.2, numpy 2.4.6, Python 3.11.

Every number comes from TRL's own trainers, run on the cpu in float32 with one thread. What is added around them only
listens: it reads the log, and hooks and wrappers copy what a method was given or returned.
"""

import json
import os
import random
import tempfile

# Nothing is fetched or sent, nothing is cached, no accelerator is used.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CI="1", TQDM_DISABLE="1",
                  TRL_EXPERIMENTAL_SILENCE="1", HF_HOME=tempfile.mkdtemp(), CUDA_VISIBLE_DEVICES="")

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
datasets.utils.logging.set_verbosity_error()
datasets.disable_progress_bars()

VERSIONS = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
IGNORE = -100

# --------------------------------------------------------------------------- weights

PERTURBATION = {
    "scale": 0.06,
    "recipe": "w' = f32(f64(w) + scale * (2 * h / 2^32 - 1)); h = murmur3's 32-bit finalizer of (i + 0x9E3779B9 * k "
              "mod 2^32), i the row-major index in the tensor, k the tensor's place among all names in byte order",
}


def noise(count, k):
    """`count` values in [-1, 1), the same in every language: murmur3's finalizer of the index."""
    x = np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B9 * k & 0xFFFFFFFF) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    x = x * np.uint64(0x85EBCA6B) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(13)
    x = x * np.uint64(0xC2B2AE35) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return 2.0 * x.astype(np.float64) / 2.0**32 - 1.0


def perturb(model, scale=PERTURBATION["scale"]):
    with torch.no_grad():
        for k, (_, p) in enumerate(sorted(model.named_parameters())):
            moved = p.double() + scale * torch.from_numpy(noise(p.numel(), k)).view(p.shape)
            p.copy_(moved.float())
    return model


def load(folder, kind=AutoModelForCausalLM, **more):
    return kind.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="eager", **more)


def models(folder, swapped=False):
    """Policy and reference: the checkpoint and its perturbed copy, or the other way round."""
    plain, moved = load(folder), perturb(load(folder))
    return (moved, plain) if swapped else (plain, moved)


def tokenizer(folder, pad=None):
    tok = AutoTokenizer.from_pretrained(str(folder))
    if pad is not None:
        tok.pad_token = pad
    return tok


def head(model, scale, k):
    """The fresh head of a classification model, from the same noise; returned to be saved."""
    tensors = {}
    with torch.no_grad():
        for n, (name, p) in enumerate(model.score.named_parameters()):
            p.copy_((scale * torch.from_numpy(noise(p.numel(), k + n))).float().view(p.shape))
            tensors[f"score.{name}"] = p.detach().clone()
    return tensors


def check_values(model):
    """A few weights, so that a wrong perturbation is seen before anything else."""
    names = ("lm_head.weight", "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight")
    values = dict(model.named_parameters())
    return {n: {"first": number(values[n].flatten()[:3]), "sum": number(values[n].double().sum())} for n in names}


# --------------------------------------------------------------------------- running a trainer

SETTINGS = {
    "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "max_steps": 1, "learning_rate": 1e-3,
    "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch", "seed": 0,
    "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "report_to": [], "logging_steps": 1,
    "save_strategy": "no", "disable_tqdm": True, "train_sampling_strategy": "sequential",
    "dataloader_pin_memory": False,
}
NOT_METRICS = ("epoch", "learning_rate", "step", "loss", "grad_norm")


class Seen:
    """What a run was observed to do."""

    def __init__(self, trainer):
        self.trainer, self.inputs, self.items, self.kept = trainer, [], [], {}

    def steps(self):
        """One entry per optimizer step: loss, gradient norm before clipping, metrics as logged."""
        out = []
        for row in self.trainer.state.log_history:
            if "loss" in row:
                metrics = {k: number(v) for k, v in sorted(row.items()) if k not in NOT_METRICS}
                out.append({"loss": number(row["loss"]), "grad_norm": number(row["grad_norm"]), "metrics": metrics})
        return out

    def evaluation(self):
        """The last evaluation, without its timings."""
        skip = ("epoch", "step", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second",
                "eval_model_preparation_time")
        row = [r for r in self.trainer.state.log_history if "eval_loss" in r][-1]
        return {k: number(v) for k, v in sorted(row.items()) if k not in skip}

    def keep_log_probs(self, **modules):
        """Per-sequence sums of the fused head's log-probabilities, one tensor per forward pass, by module name."""
        for name, module in modules.items():
            kept = self.kept.setdefault(name, [])
            module.register_forward_hook(lambda m, args, out, kept=kept: kept.append(out.log_probs.detach().sum(1)))

    def keep_logits(self, module):
        kept = self.kept.setdefault("logits", [])
        module.register_forward_hook(lambda m, args, out: kept.append(out.logits.detach().clone()))


def build(trainer_class, config_class, rows, settings=None, **trainer_arguments):
    """A trainer over `rows` (the field `id` left out)."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    args = config_class(output_dir=tempfile.mkdtemp(), **{**SETTINGS, **(settings or {})})
    data = datasets.Dataset.from_list([{k: v for k, v in r.items() if k != "id"} for r in rows])
    trainer = trainer_class(args=args, train_dataset=data, **trainer_arguments)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def run(trainer_class, config_class, rows, settings=None, evaluate=False, before=None, **trainer_arguments):
    """Trains; `before(seen)` may add listeners. Inputs of every loss are kept."""
    trainer = build(trainer_class, config_class, rows, settings, **trainer_arguments)
    seen = Seen(trainer)
    inner = trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        seen.items.append(kwargs.get("num_items_in_batch"))
        seen.inputs.append({k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    if before is not None:
        before(seen)
    trainer.train()
    if evaluate:
        trainer.evaluate(trainer.train_dataset)
    return seen


# --------------------------------------------------------------------------- writing

def number(value):
    """Nine significant digits: any float32 comes back whole."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [number(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    value = float(value)
    short = float(f"{value:.9g}")
    return int(short) if short.is_integer() and abs(short) < 1e6 else short


def unpadded(ids, attention_mask, learned):
    """One row without its padding: ids, and where the learned tokens (a suffix) begin."""
    keep = attention_mask.bool()
    ids, learned = ids[keep].tolist(), learned[keep].long().tolist()
    start = learned.index(1)
    assert all(learned[start:]) and not any(learned[:start])
    return {"ids": ids, "start": start}


def rows_of(ids, attention_mask, learned):
    return [unpadded(*row) for row in zip(ids, attention_mask, learned)]


def save_tensors(path, tensors):
    save_file(tensors, str(path), metadata={"format": "pt"})
    path.chmod(0o644)


def write(path, content):
    """Compact, yet one case or sequence a line."""
    def lines(value, depth):
        if depth < 3 and isinstance(value, dict) and any(isinstance(v, (dict, list)) for v in value.values()):
            body = [f"{json.dumps(k)}: {lines(v, depth + 1)}" for k, v in value.items()]
        elif depth < 3 and isinstance(value, list) and any(isinstance(v, dict) for v in value):
            body = [lines(v, depth + 1 if depth < 1 else 9) for v in value]
        else:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        inner = "\n" + " " * (depth + 1)
        return opening + inner + ("," + inner).join(body) + "\n" + " " * depth + closing

    text = lines(content, 0) + "\n"
    json.loads(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    size = path.stat().st_size
    assert size < 150_000, f"{path.name}: {size} bytes"
    print(f"{path.name}: {size} bytes")
