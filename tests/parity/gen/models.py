"""Tiny random checkpoints with the reference numbers of transformers. See README.md.

    python models.py FIXTURES            (transformers 5: all cases)
    python models.py FIXTURES CASE...    (only these)
    python models.py FIXTURES llava_tied_save    (transformers 4, before the case llava_tied)
"""

import argparse
import json
import pathlib
import shutil

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    Qwen2Config,
)

import common

NEW_TOKENS = 12
IMAGE_ID, PAD_ID = common.BASE_VOCABULARY, common.BASE_VOCABULARY + 1


# --------------------------------------------------------------------------- building

def image_processor(size):
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def pixel_values(folder, pictures):
    """The processor saved in `folder`, backed by Pillow (torchvision's bicubic differs by a level)."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil.from_pretrained(str(folder))(pictures, return_tensors="pt")["pixel_values"]


def llava_samples(root, folder, tokenizer, tokens_per_image):
    samples = []
    for record in json.loads((root / "records" / "data.json").read_text(encoding="utf-8")):
        ids, labels = common.encode(tokenizer, record, tokens_per_image)
        pictures = common.load_pictures(root, record)
        samples.append(
            {
                "id": record["id"],
                "input_ids": ids,
                "labels": labels,
                "pixel_values": pixel_values(folder, pictures) if pictures else None,
                "prompt_ids": common.prompt_ids(tokenizer, record, tokens_per_image),
            }
        )
    return samples


def text_samples(root, tokenizer):
    samples = []
    for record in json.loads((root / "records" / "text.json").read_text(encoding="utf-8")):
        ids, labels = common.encode(tokenizer, record, 1)
        prompt = common.prompt_ids(tokenizer, record, 1)
        samples.append(
            {"id": record["id"], "input_ids": ids, "labels": labels, "pixel_values": None, "prompt_ids": prompt}
        )
    return samples


def save_llava(model, root, folder, *, size, patch, strategy, **how):
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder), **how)
    tokenizer = common.make_tokenizer(root, multimodal=True)
    LlavaProcessor(
        image_processor=image_processor(size),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
    ).save_pretrained(str(folder))


# --------------------------------------------------------------------------- measuring

def selected(grads, patterns):
    return {f"grad.{n}": g for n, g in grads.items() if any(p in n for p in patterns)}


def measure(load, samples, tokenizer, *, pad_id, trained="all", keep=(), with_pixels=True):
    """All reference numbers of one model; `load(dtype)` returns a fresh copy with what it trains set so."""
    model = load(torch.float32)
    records = common.score(model, samples)
    right, right_labels = common.collate(samples, pad_id, "right")
    left, left_labels = common.collate(samples, pad_id, "left")
    with_images = [s for s in samples if s["pixel_values"] is not None]
    numbers = {
        "trained": trained,
        "records": records,
        "generation": common.greedy(model, tokenizer, with_images or samples, NEW_TOKENS),
    }
    with torch.no_grad():
        for side, inputs, labels in (("right", right, right_labels), ("left", left, left_labels)):
            chosen, learn = common.token_logprobs(model, inputs, labels)
            flat = torch.tensor([v for r in records for v in r["token_logprobs"]])
            worst = (chosen[learn] - flat).abs().max().item()
            assert worst < 2e-5, (side, worst)
            numbers[f"{side}_padded"] = {
                "loss": -(chosen[learn].mean().item()), "largest_logprob_difference_to_single_rows": worst
            }
    loss, total, norms, grads = common.gradients(model, right, right_labels)
    numbers["gradients"] = {"loss": loss, "grad_norm": total, "grad_norms": norms}
    numbers["trajectory_settings"] = common.TRAJECTORY
    numbers["trajectory"] = common.trajectory(model, right, right_labels)

    # How far float32 itself is from float64: a bound below which no tolerance can sensibly go.
    exact = load(torch.float64)
    doubled = [common.doubled(s) for s in samples]
    pairs = zip(records, common.score(exact, doubled))
    deviation = {"token_logprobs": max(
        abs(a - b) for r, e in pairs for a, b in zip(r["token_logprobs"], e["token_logprobs"]))}
    walk = common.trajectory(exact, common.doubled(right), right_labels)
    for key in ("losses", "grad_norms"):
        deviation[f"trajectory_{key}"] = max(
            abs(a - b) for a, b in zip(walk[key], numbers["trajectory"][key]))
    numbers["deviation_from_float64"] = deviation
    print("   deviation from float64:", {k: f"{v:.1e}" for k, v in deviation.items()})
    print("   losses:", [f"{v:.4f}" for v in numbers["trajectory"]["losses"]],
          "norms:", [f"{v:.3f}" for v in numbers["trajectory"]["grad_norms"]])
    print("   margins:", [f"{g['min_margin']:.4f}" for g in numbers["generation"]])

    tensors = selected(grads, keep)
    for index, sample in enumerate(samples):
        if with_pixels and sample["pixel_values"] is not None:
            tensors[f"pixel_values.{index}"] = sample["pixel_values"]
    return numbers, tensors


def llava_numbers(root, case, folder, tokenizer, samples, description):
    def load(dtype, freeze=True):
        model = LlavaForConditionalGeneration.from_pretrained(
            str(folder), dtype=dtype, attn_implementation="eager").eval()
        model.model.vision_tower.requires_grad_(not freeze)
        return model

    keep = (
        "multi_modal_projector.", "layers.0.self_attn", "layers.1.self_attn.k_proj", "layers.1.mlp.down_proj",
        "layers.0.input_layernorm", "language_model.norm.", "lm_head.", "embed_tokens.",
    )
    numbers, tensors = measure(load, samples, tokenizer, pad_id=PAD_ID, trained="projector and language model",
                               keep=keep)
    model = load(torch.float32, freeze=False)
    with torch.no_grad():
        for index, sample in enumerate(samples):
            if sample["pixel_values"] is not None:
                features = model.get_image_features(pixel_values=sample["pixel_values"], return_dict=True)
                tensors[f"image_features.{index}"] = torch.stack(list(features.pooler_output))
        out = model(**common.row_inputs(samples[0]), output_hidden_states=True, use_cache=False)
        for depth, hidden in enumerate(out.hidden_states):
            tensors[f"hidden_states.0.{depth}"] = hidden[0]
    # The same batch with nothing frozen, for training the tower too.
    inputs, labels = common.collate(samples, PAD_ID, "right")
    _, total, norms, grads = common.gradients(model, inputs, labels)
    numbers["gradients_with_tower"] = {"grad_norm": total, "grad_norms": norms}
    tensors |= selected(grads, ("class_embedding", "patch_embedding", "pre_layrnorm", "position_embedding",
                                "encoder.layers.0.self_attn.q_proj"))
    common.write_reference(root / case, description, numbers, tensors)


# --------------------------------------------------------------------------- cases

def records(root):
    common.write_records(root)


def llava_gqa(root):
    """LLaVA as transformers 5 saves it: grouped-query attention (4 heads, 2 of keys), untied head, quick_gelu,
    layer -2, patches only."""
    folder = root / "llava_gqa" / "model"
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            image_size=28, patch_size=7, projection_dim=32, hidden_act="quick_gelu",
        ),
        text_config=LlamaConfig(
            hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=PAD_ID + 1, max_position_embeddings=512, rms_norm_eps=1e-5,
            bos_token_id=1, eos_token_id=2,
        ),
        image_token_index=IMAGE_ID, pad_token_id=PAD_ID, image_seq_length=16,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )
    model = common.fill(LlavaForConditionalGeneration(config), 11)
    save_llava(model, root, folder, size=28, patch=7, strategy="default")
    tokenizer = common.make_tokenizer(root, multimodal=True)
    samples = llava_samples(root, folder, tokenizer, 16)
    llava_numbers(root, "llava_gqa", folder, tokenizer, samples, llava_gqa.__doc__)


def llava_tied_save(root):
    """The checkpoint of `llava_tied`, saved by transformers 4."""
    if not transformers.__version__.startswith("4."):
        raise SystemExit(f"llava_tied_save: run it with transformers 4, not {transformers.__version__} (README.md)")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
            image_size=30, patch_size=14, projection_dim=24, hidden_act="gelu",
        ),
        text_config=LlamaConfig(
            hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, head_dim=12, vocab_size=448, max_position_embeddings=512, rms_norm_eps=1e-6,
            attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rope_theta=10000.0,
            # Wavelengths 6, 29, 135 … of a head of 12: one kept, one blended, the others divided by 8.
            rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 64},
        ),
        image_token_index=IMAGE_ID, pad_token_id=PAD_ID, image_seq_length=5, tie_word_embeddings=True,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )
    model = common.fill(LlavaForConditionalGeneration(config), 22)
    model.tie_weights()
    save_llava(model.to(torch.bfloat16), root, root / "llava_tied" / "model", size=30, patch=14, strategy="full",
               max_shard_size="60KB")


def llava_tied(root):
    """LLaVA as transformers 4 saves it (the hub's keys, bfloat16, several shards): tied head, biases everywhere,
    llama3 RoPE, heads of 12 where hidden/heads is 8, 448 embedding rows for 400 tokens, tower with gelu, layer -1,
    class token kept, image size no multiple of the patch. Numbers in float32 after loading."""
    folder = root / "llava_tied" / "model"
    if not (folder / "model.safetensors.index.json").is_file():
        raise SystemExit("llava_tied: first run `models.py FIXTURES llava_tied_save` with transformers 4 (README.md)")
    tokenizer = common.make_tokenizer(root, multimodal=True)
    samples = llava_samples(root, folder, tokenizer, 5)
    llava_numbers(root, "llava_tied", folder, tokenizer, samples, llava_tied.__doc__)


def llava_nested(root):
    """The weights of `llava_gqa` under `model.language_model.*`, `model.vision_tower.vision_model.*`,
    `model.multi_modal_projector.*`, `lm_head.weight`; the numbers are those of `llava_gqa`."""
    source, folder = root / "llava_gqa" / "model", root / "llava_nested" / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    moves = (("language_model.lm_head.", "lm_head."), ("language_model.model.", "model.language_model."),
             ("vision_tower.", "model.vision_tower.vision_model."),
             ("multi_modal_projector.", "model.multi_modal_projector."))
    tensors = {}
    with safe_open(str(source / "model.safetensors"), "pt") as file:
        for key in file.keys():
            old, new = next(m for m in moves if key.startswith(m[0]))
            tensors[new + key[len(old):]] = file.get_tensor(key)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    loaded = LlavaForConditionalGeneration.from_pretrained(str(folder)).state_dict()
    original = LlavaForConditionalGeneration.from_pretrained(str(source)).state_dict()
    assert all(torch.equal(loaded[k], original[k]) for k in original)
    common.write_json(root / "llava_nested" / "reference.json",
                      {"description": " ".join(llava_nested.__doc__.split()), "same_numbers_as": "../llava_gqa"})


def text_case(root, case, description, config, seed, tied=False):
    folder = root / case / "model"
    shutil.rmtree(folder, ignore_errors=True)
    model = common.fill(AutoModelForCausalLM.from_config(config), seed)
    if tied:
        model.tie_weights()
    model.save_pretrained(str(folder))
    tokenizer = common.make_tokenizer(root, multimodal=False)
    tokenizer.save_pretrained(str(folder))
    samples = text_samples(root, tokenizer)
    check_chat_template(root, tokenizer, samples)

    def load(dtype):
        return AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, attn_implementation="eager").eval()

    keep = ("layers.0.self_attn", "layers.1.mlp.down_proj", "layers.0.input_layernorm", "model.norm.", "lm_head.")
    numbers, tensors = measure(load, samples, tokenizer, pad_id=0, keep=keep)
    common.write_reference(root / case, description, numbers, tensors)


def check_chat_template(root, tokenizer, samples):
    """The tokenizer's Jinja template gives the same ids and the same mask as v1."""
    roles = {"human": "user", "gpt": "assistant"}
    rows = json.loads((root / "records" / "text.json").read_text(encoding="utf-8"))
    for row, sample in zip(rows, samples):
        messages = [{"role": roles[t["from"]], "content": t["value"]} for t in row["conversations"]]
        out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        assert out["input_ids"] == sample["input_ids"], sample["id"]
        learn = [label != common.IGNORE for label in sample["labels"]]
        assert [bool(m) for m in out["assistant_masks"]] == learn, sample["id"]


def llama_text(root):
    """Llama alone: heads of 8, two of keys, untied; tokenizer without image and pad tokens."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=common.BASE_VOCABULARY, max_position_embeddings=512, rms_norm_eps=1e-5,
        bos_token_id=1, eos_token_id=2,
    )
    text_case(root, "llama_text", llama_text.__doc__, config, 33)


def mistral_text(root):
    """Mistral: `sliding_window` null, heads of 10 where hidden/heads is 8, rope_theta 1e6."""
    config = MistralConfig(
        hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=10, vocab_size=common.BASE_VOCABULARY, max_position_embeddings=512, sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, rms_norm_eps=1e-5,
        bos_token_id=1, eos_token_id=2,
    )
    text_case(root, "mistral_text", mistral_text.__doc__, config, 44)


def qwen2_text(root):
    """Qwen2: biases on queries, keys and values, one head of keys, tied head, `use_sliding_window` false."""
    config = Qwen2Config(
        hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
        vocab_size=common.BASE_VOCABULARY, max_position_embeddings=512, use_sliding_window=False,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=1, eos_token_id=2,
    )
    text_case(root, "qwen2_text", qwen2_text.__doc__, config, 55, tied=True)


def clip_plain(root):
    """A CLIP with both of its halves (`model/`) and its vision half alone (`model_vision/`), with all hidden
    states of the tower for the picture `ridge.png`: `hidden_states.0` is what enters the first layer."""
    folder, vision_folder = root / "clip_plain" / "model", root / "clip_plain" / "model_vision"
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        ).to_dict(),
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=2, image_size=30,
            patch_size=6, projection_dim=16, hidden_act="quick_gelu", layer_norm_eps=1e-5,
        ).to_dict(),
        projection_dim=16,
    )
    model = common.fill(CLIPModel(config), 66)
    for path in (folder, vision_folder):
        shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(str(folder))
    image_processor(30).save_pretrained(str(folder))
    vision = CLIPVisionModel.from_pretrained(str(folder))
    vision.save_pretrained(str(vision_folder))
    image_processor(30).save_pretrained(str(vision_folder))

    pixels = pixel_values(folder, [common.pictures()["ridge.png"]])
    tensors = {"pixel_values": pixels}
    vision = CLIPVisionModel.from_pretrained(str(vision_folder), attn_implementation="eager").eval()
    with torch.no_grad():
        out = vision(pixels, output_hidden_states=True)
    for depth, hidden in enumerate(out.hidden_states):
        tensors[f"hidden_states.{depth}"] = hidden
    tensors["pooler_output"] = out.pooler_output
    common.write_reference(root / "clip_plain", clip_plain.__doc__,
                           {"image": "ridge.png", "num_hidden_states": len(out.hidden_states)}, tensors)


CASES = [records, llava_gqa, llava_tied, llava_nested, llama_text, mistral_text, qwen2_text, clip_plain]


def main():
    known = {c.__name__: c for c in [*CASES, llava_tied_save]}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    parser.add_argument("cases", nargs="*", choices=[[], *known], metavar="CASE")
    args = parser.parse_args()
    for case in args.cases or [c.__name__ for c in CASES]:
        print(case)
        known[case](args.fixtures)
    common.readable(args.fixtures)


if __name__ == "__main__":
    main()
