"""Folders as LLaVA's original code leaves them, with the numbers of the same weights in transformers. See README.md.

    python original.py FIXTURES          (transformers 5, after `models.py FIXTURES records`)

Keys and files are those of haotian-liu/LLaVA 1.2: shards as pickles, `mm_projector.bin`, LoRA with
`non_lora_trainables.bin`. The image and padding tokens, which the original has none of, are added at the end with the mean
of the other rows.
"""

import argparse
import json
import pathlib
import shutil

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import common
import models

VOCABULARY = common.BASE_VOCABULARY
TOWER = CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
                         patch_size=14, projection_dim=24, hidden_act="quick_gelu")
TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=VOCABULARY, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
BACKGROUND = tuple(int(x * 255) for x in (0.48145466, 0.4578275, 0.40821073))


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def halves(tensors):
    """What the file holds and every reader computes with."""
    return {key: value.detach().half() for key, value in tensors.items()}


def llava_config(depth, **fields):
    kind = {1: "linear", 2: "mlp2x_gelu"}[depth]
    text = LlamaConfig(**TEXT).to_dict()
    text = {k: v for k, v in text.items() if k not in ("dtype", "rope_parameters", "transformers_version")}
    return {
        **text, "rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float16", "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"], "transformers_version": "4.31.0",
        "mm_vision_tower": "../tower", "mm_projector_type": kind, "mm_hidden_size": TOWER.hidden_size,
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "square", "freeze_mm_mlp_adapter": False,
        "tune_mm_mlp_adapter": False, "use_mm_proj": True, "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 2048, **fields,
    }


def write(folder, name, value):
    (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def save_shards(folder, tensors):
    """Two pickles and their index, as transformers 4 saved them."""
    names = list(tensors)
    parts = [names[: len(names) // 2], names[len(names) // 2:]]
    files = [f"pytorch_model-{i + 1:05d}-of-00002.bin" for i in range(2)]
    for part, file in zip(parts, files):
        torch.save({name: tensors[name] for name in part}, folder / file)
    index = {name: file for part, file in zip(parts, files) for name in part}
    write(folder, "pytorch_model.bin.index.json", {"metadata": {"total_size": 0}, "weight_map": index})


def tower_keys(tower, prefix):
    return {prefix + key: value for key, value in tower.items() if not key.endswith("position_ids")}


def composed(language, tower, projector, depth, select="patch", layer=-2):
    """The same weights in transformers, rows for the image and the padding token added."""
    config = LlavaConfig(
        vision_config=TOWER, text_config=LlamaConfig(**{**TEXT, "vocab_size": VOCABULARY + 2}),
        image_token_index=VOCABULARY, pad_token_id=VOCABULARY + 1, vision_feature_layer=layer,
        vision_feature_select_strategy="default" if select == "patch" else "full",
    )
    model = LlavaForConditionalGeneration(config).float().eval()
    state = {}
    for key, value in language.items():
        value = value.float()
        if key in ("model.embed_tokens.weight", "lm_head.weight"):
            value = torch.cat([value, value.mean(0, keepdim=True).expand(2, -1)])
        state[key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else key] = value
    for key, value in tower.items():
        state["model.vision_tower." + key.removeprefix("vision_model.")] = value.float()
    if depth == 2:
        for place, name in (("0", "linear_1"), ("2", "linear_2")):
            for part in ("weight", "bias"):
                state[f"model.multi_modal_projector.{name}.{part}"] = projector[f"model.mm_projector.{place}.{part}"].float()
    else:
        # transformers' class has no projector of one layer: an identity behind it, without GELU between them.
        model.model.multi_modal_projector.act = torch.nn.Identity()
        width = TEXT["hidden_size"]
        state["model.multi_modal_projector.linear_1.weight"] = projector["model.mm_projector.weight"].float()
        state["model.multi_modal_projector.linear_1.bias"] = projector["model.mm_projector.bias"].float()
        state["model.multi_modal_projector.linear_2.weight"] = torch.eye(width)
        state["model.multi_modal_projector.linear_2.bias"] = torch.zeros(width)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not [m for m in missing if "position_ids" not in m], (missing, unexpected)
    return model


def square(picture):
    """Centred on a square of the mean colour."""
    picture = picture.convert("RGB")
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), BACKGROUND)
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def scores(root, model, tokens, pad):
    tokenizer = common.make_tokenizer(root, multimodal=True)
    rows = []
    for record in json.loads((root / "records" / "data.json").read_text(encoding="utf-8")):
        ids, labels = common.encode(tokenizer, record, tokens)
        pictures = [square(p) if pad else p for p in common.load_pictures(root, record)]
        pixels = models.pixel_values(root / "original" / "tower", pictures) if pictures else None
        rows.append({"id": record["id"], "input_ids": ids, "labels": labels, "pixel_values": pixels, "prompt_ids": ids})
    return common.score(model, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    root = parser.parse_args().fixtures
    home = root / "original"
    fresh(home)
    tokenizer = common.make_tokenizer(root, multimodal=False)

    vision = common.fill(CLIPVisionModel(TOWER), 7)
    folder = fresh(home / "tower")
    vision.half().save_pretrained(str(folder))
    models.image_processor(28).save_pretrained(str(folder))
    tower = halves(vision.state_dict())
    tower = {key if key.startswith("vision_model.") else f"vision_model.{key}": value for key, value in tower.items()}

    language = halves(common.fill(LlamaForCausalLM(LlamaConfig(**TEXT)), 8).state_dict())
    folder = fresh(home / "base")
    torch.save(language, folder / "pytorch_model.bin")
    write(folder, "config.json", {**{k: v for k, v in llava_config(2).items() if not k.startswith("mm_") and k not in (
        "use_mm_proj", "image_aspect_ratio", "freeze_mm_mlp_adapter", "tune_mm_mlp_adapter")},
        "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    tokenizer.save_pretrained(str(folder))

    generator = torch.Generator().manual_seed(9)
    draw = lambda *shape: torch.randn(*shape, generator=generator) * 0.3  # noqa: E731
    width, d = TOWER.hidden_size, TEXT["hidden_size"]
    mlp = halves({"model.mm_projector.0.weight": draw(d, width), "model.mm_projector.0.bias": draw(d),
                  "model.mm_projector.2.weight": draw(d, d), "model.mm_projector.2.bias": draw(d)})
    line = halves({"model.mm_projector.weight": draw(d, width), "model.mm_projector.bias": draw(d)})
    reference = {}

    # LLaVA-1.5: shards without the tower, images padded.
    folder = fresh(home / "full")
    save_shards(folder, {**language, **mlp})
    write(folder, "config.json", llava_config(2, image_aspect_ratio="pad"))
    tokenizer.save_pretrained(str(folder))
    reference["full"] = scores(root, composed(language, tower, mlp, 2), 4, pad=True)

    # The tower was trained and lies inside; a linear projector, the class token kept, the last layer.
    folder = fresh(home / "inside")
    moved = {key: value + 0.01 for key, value in tower.items()}
    save_file({**language, **line, **tower_keys(moved, "model.vision_tower.vision_tower.")},
              str(folder / "model.safetensors"), metadata={"format": "pt"})
    write(folder, "config.json", llava_config(1, model_type="llava_llama", mm_vision_select_feature="cls_patch",
                                              mm_vision_select_layer=-1, unfreeze_mm_vision_tower=True))
    tokenizer.save_pretrained(str(folder))
    reference["inside"] = scores(root, composed(language, moved, line, 1, "cls_patch", -1), 5, pad=False)

    # The first stage: a projector alone, over the base.
    folder = fresh(home / "pretrained")
    torch.save(mlp, folder / "mm_projector.bin")
    write(folder, "config.json", llava_config(2, tune_mm_mlp_adapter=True))
    reference["pretrained"] = scores(root, composed(language, tower, mlp, 2), 4, pad=False)

    # The second stage with LoRA, over the base.
    folder = fresh(home / "lora")
    base = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    base.load_state_dict({key: value.float() for key, value in language.items()})
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=linear, task_type="CAUSAL_LM"))
    adapter = {}
    for name, value in sorted(model.named_parameters()):
        if "lora_" in name:
            value.data = (draw(*value.shape) * (1.0 if "lora_A" in name else 0.5)).half().float()
            adapter[name.replace(".default", "")] = value.detach().half()
    torch.save(adapter, folder / "adapter_model.bin")
    trained = {f"base_model.model.{key}": value * 1.5 for key, value in mlp.items()}
    torch.save(trained, folder / "non_lora_trainables.bin")
    write(folder, "config.json", llava_config(2))
    write(folder, "adapter_config.json", {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "bias": "none",
        "target_modules": linear, "base_model_name_or_path": "lmsys/vicuna-7b-v1.5", "fan_in_fan_out": False,
        "inference_mode": True, "modules_to_save": None, "init_lora_weights": True, "layers_pattern": None,
        "layers_to_transform": None,
    })
    merged = {key: value.half() if "lora" in key else value for key, value in model.merge_and_unload().state_dict().items()}
    projector = {key.removeprefix("base_model.model."): value for key, value in trained.items()}
    reference["lora"] = scores(root, composed(merged, tower, projector, 2), 4, pad=False)

    common.write_json(home / "reference.json", reference)
    common.readable(home)


if __name__ == "__main__":
    main()
