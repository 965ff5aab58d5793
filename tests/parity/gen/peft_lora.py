"""Adapters as PEFT saves them, over the model of the case `llava_gqa`, with the reference numbers. See README.md.

    python peft_lora.py FIXTURES     (transformers 5, after models.py)
"""

import argparse
import json
import pathlib
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlavaForConditionalGeneration

import common
from models import PAD_ID, llava_samples, measure

EVERY_LINEAR = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
QUERY_VALUE = r".*language_model\..*\.(q_proj|v_proj)"
BASE = "../../llava_gqa/model"


def base_model(root, dtype=torch.float32):
    folder = str(root / "llava_gqa" / "model")
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def save_adapter(root, folder, config, seed):
    """An adapter that changes the output: B is not zero, and a saved projector differs from the base's."""
    model = get_peft_model(base_model(root), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if "lora_A" in name:
                p.copy_(noise / p.shape[1] ** 0.5)
            elif "lora_B" in name:
                p.copy_(0.15 * noise)
            elif "modules_to_save" in name:
                p.add_(0.05 * noise)
    model.peft_config["default"].base_model_name_or_path = BASE
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def adapter_case(root, case, description, config, seed):
    folder = root / case / "adapter"
    save_adapter(root, folder, config, seed)
    tokenizer = AutoTokenizer.from_pretrained(str(root / "llava_gqa" / "model"))
    samples = llava_samples(root, root / "llava_gqa" / "model", tokenizer, 16)

    def load(dtype):
        model = PeftModel.from_pretrained(base_model(root, dtype), str(folder), is_trainable=True)
        return model.to(dtype).eval()

    plain = json.loads((root / "llava_gqa" / "reference.json").read_text(encoding="utf-8"))
    numbers, tensors = measure(
        load, samples, tokenizer, pad_id=PAD_ID, trained="adapter and modules_to_save", with_pixels=False,
        keep=("layers.0.self_attn.q_proj", "layers.1.self_attn.v_proj", "layers.1.mlp.down_proj", "linear_1"),
    )
    moved = [abs(a["sum_logprob"] - b["sum_logprob"]) for a, b in zip(numbers["records"], plain["records"])]
    assert min(moved) > 0.1, f"{case}: the adapter hardly changes the base: {moved}"
    numbers = {"base": "../llava_gqa/model", **numbers}
    common.write_reference(root / case, description, numbers, tensors)


def peft_lora(root):
    """LoRA on every Linear of the language model but the head (one regex), r 4, alpha 8, with a projector of its
    own in modules_to_save."""
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=EVERY_LINEAR,
        modules_to_save=["multi_modal_projector"], task_type="CAUSAL_LM",
    )
    adapter_case(root, "peft_lora", peft_lora.__doc__, config, 101)


def peft_rslora(root):
    """Rank-stabilised LoRA (alpha over the square root of r) on q_proj and v_proj, r 4, alpha 6; nothing else."""
    config = LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, lora_dropout=0.0, target_modules=QUERY_VALUE, task_type="CAUSAL_LM"
    )
    adapter_case(root, "peft_rslora", peft_rslora.__doc__, config, 202)


def peft_old_prefix(root):
    """The adapter of `peft_lora` under the keys of transformers before 4.52; the numbers are those of
    `peft_lora`."""
    source, folder = root / "peft_lora" / "adapter", root / "peft_old_prefix" / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    moves = (("base_model.model.model.language_model.", "base_model.model.language_model.model."),
             ("base_model.model.model.multi_modal_projector.", "base_model.model.multi_modal_projector."))
    tensors = {}
    with safe_open(str(source / "adapter_model.safetensors"), "pt") as file:
        for key in file.keys():
            new, old = next(m for m in moves if key.startswith(m[0]))
            tensors[old + key[len(new):]] = file.get_tensor(key)
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    description = " ".join(peft_old_prefix.__doc__.split())
    common.write_json(root / "peft_old_prefix" / "reference.json",
                      {"description": description, "base": "../llava_gqa/model", "same_numbers_as": "../peft_lora"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    root = parser.parse_args().fixtures
    for case in (peft_lora, peft_rslora, peft_old_prefix):
        print(case.__name__)
        case(root)
    common.readable(root)


if __name__ == "__main__":
    main()
