"""Edges: dropout by a fixed rule, a grown vocabulary, gradient checkpointing, several active adapters, full heads in
modules_to_save. See README.md.

    python peft_edges.py FIXTURES OUT [CASE…]     (FIXTURES: where `llama_text/model` lies)

Versions: transformers 5.23.0, peft 0.21.2, torch 2.15.0, safetensors 0.8.0.
"""

import argparse
import contextlib
import pathlib
import shutil
import tempfile

import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

import peft_common as common
from peft_more import three_adapters
from peft_tuners import LORA, plain_numbers

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


@contextlib.contextmanager
def fixed_dropout():
    """Dropout without chance: element i of the flattened input is dropped when i % 4 == 3, the rest / (1 − p)."""
    original = torch.nn.functional.dropout

    def rule(x, p=0.5, training=True, inplace=False):
        if not training or p == 0.0:
            return x
        keep = (torch.arange(x.numel()) % 4 != 3).reshape(x.shape).to(x.dtype)
        return x * keep / (1 - p)

    torch.nn.functional.dropout = rule
    try:
        yield
    finally:
        torch.nn.functional.dropout = original


@case
def dropout(root, out):
    """Training mode with lora_dropout 0.25 on the right-padded batch [3, 35, width]; element i of a layer's flattened
    input is dropped when i % 4 == 3, the others divided by 0.75. LoRA and DoRA on Qwen2's q_proj (bias), down_proj
    and, for LoRA, embed_tokens (which ignores dropout)."""
    samples = common.rows(root)
    right, _ = common.collate(samples, "right")
    numbers = {}
    for name, more in (("lora", {"target_modules": ["q_proj", "down_proj"]}),
                       ("dora", {"target_modules": ["q_proj", "down_proj"], "use_dora": True})):
        config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, lora_dropout=0.25, **more)
        torch.manual_seed(110)
        model = common.fill(get_peft_model(common.base(root, "qwen2_text"), config), 111, LORA)
        common.save_adapter(model, out / "dropout" / name, "qwen2_text")
        model.train()
        with fixed_dropout():
            values, loss = common.logprobs(model, right)
            numbers[name] = {"loss": loss.item(), "token_logprobs": values,
                             "gradients": common.gradients(model, right)}
        with torch.no_grad():
            quiet = common.logprobs(model.eval(), right)[1].item()
        numbers[name]["loss_in_eval"] = quiet
        assert abs(quiet - numbers[name]["loss"]) > 1e-3
    common.write(out / "dropout", dropout.__doc__, {"base": "../../qwen2_text/model", "tuners": numbers})


def grown_base(root):
    """398 -> 400 rows, the two new ones the mean of the old, in both tables."""
    model = common.base(root, "llama_text")
    model.resize_token_embeddings(400, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            table[398:] = table[:398].mean(0)
    return model.eval()


@case
def tokens_grown(root, out):
    """The vocabulary grown from 398 to 400 (new rows the mean of the old, input and output alike), both new rows
    trained in embed_tokens and lm_head; ids 398 and 399 replace the ids 28 and 16 of the batch."""
    samples = []
    for s in common.rows(root):
        swap = lambda row: [{28: 398, 16: 399}.get(i, i) for i in row]
        samples.append({"input_ids": swap(s["input_ids"]), "labels": swap(s["labels"])})
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"],
                        trainable_token_indices={"embed_tokens": [398, 399], "lm_head": [398, 399]})
    torch.manual_seed(120)
    model = common.fill(get_peft_model(grown_base(root), config).eval(), 121, LORA)
    folder = out / "tokens_grown" / "adapter"
    common.save_adapter(model, folder, "llama_text", save_embedding_layers=False)
    numbers = {"base": "../../llama_text/model", "rows": samples, "saved_keys": common.saved_keys(folder),
               "parameters": common.parameters(model), **common.measure(model, samples)}
    right, _ = common.collate(samples, "right")
    with tempfile.TemporaryDirectory() as temporary:
        whole = pathlib.Path(temporary) / "auto"
        model.save_pretrained(str(whole))
        numbers["saved_keys_with_auto"] = common.saved_keys(whole)
        loads = {}
        for label, path, make in (("lean_on_grown", folder, lambda: grown_base(root)),
                                  ("lean_on_original", folder, lambda: common.base(root, "llama_text")),
                                  ("auto_on_grown", whole, lambda: grown_base(root)),
                                  ("auto_on_original", whole, lambda: common.base(root, "llama_text"))):
            try:
                loaded = PeftModel.from_pretrained(make(), str(path)).eval()
                with torch.no_grad():
                    loads[label] = {"largest_difference": common.spread(
                        common.logprobs(loaded, right)[0], numbers["token_logprobs"])}
            except Exception as error:
                loads[label] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    numbers["loaded"] = loads
    numbers["merge_and_unload"] = common.merged(model, samples)
    common.write(out / "tokens_grown", tokens_grown.__doc__, numbers)


@case
def active_together(root, out):
    """Two LoRA adapters active at once (set_adapter of a list): their deltas add up; both merged into the base."""
    model = three_adapters(root, out, "active_together", {"a": {"r": 4, "lora_alpha": 8},
                                                          "b": {"r": 2, "lora_alpha": 4, "use_rslora": True}})
    samples = common.rows(root)
    right, _ = common.collate(samples, "right")
    numbers = {"base": "../../llama_text/model"}
    model.base_model.set_adapter(["a", "b"])
    with torch.no_grad():
        values, loss = common.logprobs(model, right)
        numbers |= {"loss": loss.item(), "token_logprobs": values}
        for name in ("a", "b"):
            model.base_model.set_adapter(name)
            numbers[f"loss_{name}_alone"] = common.logprobs(model, right)[1].item()
        model.base_model.set_adapter(["a", "b"])
        merged = model.merge_and_unload(adapter_names=["a", "b"])
        numbers["merged_difference"] = common.spread(common.logprobs(merged, right)[0], values)
    common.write(out / "active_together", active_together.__doc__, numbers)


@case
def unmerge(root, out):
    """merge_adapter then unmerge_adapter: how far weights come back, per tuner."""
    samples = common.rows(root)
    right, _ = common.collate(samples, "right")
    numbers = {}
    for name, config in (
        ("lora", LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"])),
        ("dora", LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"], use_dora=True)),
        ("ia3", IA3Config(task_type="CAUSAL_LM")),
    ):
        torch.manual_seed(130)
        model = common.fill(get_peft_model(common.base(root, "qwen2_text"), config).eval(), 131,
                            LORA | {"+ia3_l": 0.4})
        old = {n: p.detach().clone() for n, p in model.named_parameters()}
        with torch.no_grad():
            before = common.logprobs(model, right)[0]
            model.merge_adapter()
            inside = common.logprobs(model, right)[0]
            model.unmerge_adapter()
            after = common.logprobs(model, right)[0]
        numbers[name] = {"merged_difference": common.spread(inside, before),
                         "unmerged_difference": common.spread(after, before),
                         "weights_moved_by": max((p - old[n]).abs().max().item() for n, p in model.named_parameters())}
    common.write(out / "unmerge", unmerge.__doc__, numbers)


@case
def checkpointing(root, out):
    """Gradient checkpointing in training mode: which tuners keep loss and gradient, which refuse or go wrong."""
    samples = common.rows(root)
    right, _ = common.collate(samples, "right")
    configs = {
        "lora": LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"]),
        "ia3": IA3Config(task_type="CAUSAL_LM"),
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }
    numbers = {}
    for name, config in configs.items():
        for reentrant in (False, True):
            for when in ("before", "after"):
                result, plain = {}, None
                try:
                    for checkpointed in (False, True):
                        base = common.base(root, "llama_text")
                        on = lambda m: m.gradient_checkpointing_enable(
                            gradient_checkpointing_kwargs={"use_reentrant": reentrant})
                        if checkpointed and when == "before":
                            on(base)
                        torch.manual_seed(140)
                        model = common.fill(get_peft_model(base, config), 141,
                                            LORA | {"+ia3_l": 0.4, "embedding": 0.5}).train()
                        if checkpointed and when == "after":
                            on(model.get_base_model())
                        got = common.gradients(model, right)
                        if plain is None:
                            plain = got
                    result = {"loss_difference": abs(got["loss"] - plain["loss"]),
                              "grad_norm_plain": plain["grad_norm"], "grad_norm": got["grad_norm"]}
                except Exception as error:
                    result = {"error": f"{type(error).__name__}: {str(error)[:160]}"}
                numbers[f"{name}.{'reentrant' if reentrant else 'not_reentrant'}.{when}_wrapping"] = result
    common.write(out / "checkpointing", checkpointing.__doc__, numbers)


@case
def config_two_labels(root, out):
    """What save_pretrained writes for 2 labels, the default: whether id2label stands in config.json."""
    import json

    from transformers import AutoModelForSequenceClassification

    numbers = {}
    for labels in (1, 2, 3):
        model = AutoModelForSequenceClassification.from_pretrained(
            str(common.model_folder(root, "llama_text")), num_labels=labels, dtype=torch.float32)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        numbers[str(labels)] = {k: config.get(k, "absent") for k in ("num_labels", "id2label", "label2id", "problem_type")}
    common.write(out / "heads", config_two_labels.__doc__, numbers, name="config_two_labels")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    for name in args.cases or CASES:
        print(name, flush=True)
        CASES[name](args.fixtures.resolve(), args.out)


if __name__ == "__main__":
    main()
