"""PiSSA, LoRA+, weighted sums of adapters, sequence heads under PEFT, and tuners over LLaVA. See README.md.

    python peft_more.py FIXTURES OUT [CASE…]     (FIXTURES: where `llama_text/model` lies; after peft_tuners.py)

Versions: transformers 5.23.0, peft 0.21.2, torch 2.15.0, safetensors 0.8.0.
"""

import argparse
import contextlib
import json
import math
import pathlib
import shutil
import tempfile

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, LlavaForConditionalGeneration

import peft_common as common
from peft_tuners import LORA, plain_numbers

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def adamw_steps(model, inputs, optimizer, steps, forward=None):
    losses = []
    forward = forward or (lambda: common.logprobs(model, inputs)[1])
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(forward().item())
    return losses


@contextlib.contextmanager
def recorded(name):
    """Every result of `torch.<name>` while it lasts."""
    original, results = getattr(torch, name), []

    def wrapper(*args, **kwargs):
        results.append(original(*args, **kwargs))
        return results[-1].clone()

    setattr(torch, name, wrapper)
    try:
        yield results
    finally:
        setattr(torch, name, original)


# --------------------------------------------------------------------------- PiSSA

def pissa_case(root, out, name, init, description, seed):
    samples = common.rows(root)
    right, _ = common.collate(samples, "right")
    plain = plain_numbers(root, "llama_text", samples)
    targets = ["q_proj", "down_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, init_lora_weights=init, target_modules=targets)
    base_model = common.base(root, "llama_text")
    before = {n: p.detach().clone() for n, p in base_model.named_parameters()}
    torch.manual_seed(seed)
    with recorded("randn") as drawn:
        model = get_peft_model(base_model, config).eval()
    wrapped = {n: m for n, m in model.base_model.model.named_modules() if hasattr(m, "lora_A") and hasattr(m, "merge")}
    tensors, modules = {}, {}
    for index, (n, m) in enumerate(wrapped.items()):
        a, b = m.lora_A["default"].weight.detach(), m.lora_B["default"].weight.detach()
        w, residual = before[f"{n}.weight"], m.get_base_layer().weight.detach()
        scaling = m.scaling["default"]
        modules[n] = {
            "scaling": scaling, "singular_values": torch.linalg.svdvals(w)[:6].tolist(),
            "residual": common.summary(residual), "product": common.summary(scaling * b @ a),
            "restores_weight_within": (residual + scaling * b @ a - w).abs().max().item(),
        }
        if drawn:
            tensors[f"R.{n}"] = drawn[index]
    numbers = {"base": "../../llama_text/model", "init_lora_weights": init, "modules": modules}
    with torch.no_grad():
        numbers["after_init_difference_from_base"] = common.spread(common.logprobs(model, right)[0], plain)

    # The start, saved as a plain LoRA so that loading it does not decompose the residual again.
    model.peft_config["default"].init_lora_weights = True
    start = out / name / "start"
    common.save_adapter(model, start, "llama_text")
    model.peft_config["default"].init_lora_weights = init

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0,
                                  foreach=False)
    numbers["gradients_at_start"] = common.gradients(model, right)
    numbers["training"] = {"optimizer": "AdamW lr 1e-2, no decay", "losses": adamw_steps(model, right, optimizer, 3)}
    with torch.no_grad():
        numbers["token_logprobs"] = common.logprobs(model, right)[0]
    numbers["moved_from_base"] = common.spread(numbers["token_logprobs"], plain)
    common.save_adapter(model, out / name / "adapter", "llama_text")
    with tempfile.TemporaryDirectory() as folder:  # PEFT deletes and rewrites the config in the path it is given
        copy = pathlib.Path(folder) / "start"
        shutil.copytree(start, copy)
        common.save_adapter(model, out / name / "converted", "llama_text",
                            path_initial_model_for_weight_conversion=str(copy))
    numbers["reloaded"] = {}
    for label in ("adapter", "converted"):
        torch.manual_seed(12345)
        loaded = PeftModel.from_pretrained(common.base(root, "llama_text"), str(out / name / label)).eval()
        with torch.no_grad():
            values = common.logprobs(loaded, right)[0]
            numbers["reloaded"][label] = {"largest_difference": common.spread(values, numbers["token_logprobs"])}
            merged = loaded.merge_and_unload()
            numbers["reloaded"][label]["merged_difference"] = common.spread(
                common.logprobs(merged, right)[0], numbers["token_logprobs"])
        config = json.loads((out / name / label / "adapter_config.json").read_text())
        numbers["reloaded"][label] |= {k: config[k] for k in ("init_lora_weights", "r", "lora_alpha")}
        numbers["reloaded"][label]["saved_keys"] = common.saved_keys(out / name / label)
    common.write(out / name, description, numbers, tensors)


@case
def pissa(root, out):
    """PiSSA by the full SVD, r 4, alpha 6: start, three steps of training, the adapter, and its plain LoRA."""
    pissa_case(root, out, "pissa", "pissa", pissa.__doc__, 41)


@case
def pissa_niter(root, out):
    """PiSSA by the randomised SVD of 4 iterations; `R.<module>` is what it drew (torch.manual_seed(42))."""
    pissa_case(root, out, "pissa_niter", "pissa_niter_4", pissa_niter.__doc__, 42)


# --------------------------------------------------------------------------- LoRA+

def loraplus_case(root, out, case_name, name, config, description, seed, save):
    samples = common.rows(root)
    right, _ = common.collate(samples, "right")
    torch.manual_seed(seed)
    model = common.fill(get_peft_model(common.base(root, name), config).eval(), seed, LORA)
    folder = out / case_name / "start"
    common.save_adapter(model, folder, name, **save)
    settings = {"lr": 2e-3, "loraplus_lr_ratio": 16.0, "loraplus_weight_decay": 0.1, "loraplus_lr_embedding": 5e-4,
                "betas": (0.9, 0.999), "eps": 1e-8}
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, **settings, foreach=False)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [{"lr": g["lr"], "weight_decay": g["weight_decay"], "parameters": [names[id(p)] for p in g["params"]]}
              for g in optimizer.param_groups]
    losses = adamw_steps(model, right, optimizer, 3)
    after = {n: common.summary(p) for n, p in model.named_parameters() if p.requires_grad}
    defaults = create_loraplus_optimizer(model, torch.optim.AdamW, lr=2e-3, loraplus_lr_ratio=16.0)
    numbers = {"base": f"../../{name}/model", "settings": settings, "steps": 3, "groups": groups,
               "groups_with_defaults": [{"lr": g["lr"], "weight_decay": g["weight_decay"]}
                                        for g in defaults.param_groups],
               "losses": losses, "after": after}
    common.write(out / case_name, description, numbers)


@case
def loraplus(root, out):
    """LoRA+ over LoRA on embed_tokens, q_proj and v_proj: three AdamW steps; losses before each and after the last."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["embed_tokens", "q_proj", "v_proj"])
    loraplus_case(root, out, "loraplus", "llama_text", config, loraplus.__doc__, 51, {"save_embedding_layers": False})


@case
def loraplus_dora(root, out):
    """LoRA+ over DoRA with bias "lora_only" and trainable tokens on Qwen2: which group each kind falls into."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, use_dora=True, bias="lora_only",
                        target_modules=["q_proj", "v_proj"], trainable_token_indices=[2, 35])
    loraplus_case(root, out, "loraplus_dora", "qwen2_text", config, loraplus_dora.__doc__, 52, {})


# --------------------------------------------------------------------------- weighted sums

COMBINATIONS = [
    ("linear", {}), ("cat", {}), ("svd", {}), ("ties", {"density": 0.5}),
    ("ties_frequency", {"density": 0.5, "majority_sign_method": "frequency"}), ("ties_svd", {"density": 0.5}),
    ("dare_linear", {"density": 0.6}), ("dare_ties", {"density": 0.6}), ("dare_linear_svd", {"density": 0.6}),
    ("dare_ties_svd", {"density": 0.6}), ("magnitude_prune", {"density": 0.4}),
    ("magnitude_prune_svd", {"density": 0.4}),
]


def three_adapters(root, out, case_name, specs):
    torch.manual_seed(60)
    model = None
    for index, (name, settings) in enumerate(specs.items()):
        config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], **settings)
        if model is None:
            model = get_peft_model(common.base(root, "llama_text"), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        model.set_adapter(name)
        common.fill(model, 61 + index, LORA)
    model.eval()
    for name in specs:
        folder = out / case_name / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(str(out / case_name), selected_adapters=[name])
        (out / case_name / "README.md").unlink(missing_ok=True)
        common.relocate(folder, "llama_text")
    return model


def combine(model, samples, name, adapters, weights, kind, settings, tensors, seed=70):
    right, _ = common.collate(samples, "right")
    torch.manual_seed(seed)
    with recorded("bernoulli") as masks:
        model.add_weighted_adapter(adapters, weights, name, combination_type=kind, **settings)
    model.set_adapter(name)
    config = model.peft_config[name]
    result = {"adapters": adapters, "weights": weights, "combination_type": kind, **settings,
              "r": config.r, "lora_alpha": config.lora_alpha, "target_modules": sorted(config.target_modules)}
    with torch.no_grad():
        values, loss = common.logprobs(model, right)
    result |= {"loss": loss.item(), "token_logprobs": values, "scaling": {}, "delta": {}}
    for n, m in model.base_model.model.named_modules():
        if hasattr(m, "get_delta_weight") and name in getattr(m, "lora_A", {}):
            result["scaling"][n] = m.scaling[name]
            result["delta"][n] = common.summary(m.get_delta_weight(name))
            if "svd" not in kind and "layers.0" in n:
                tensors[f"{name}.{n}.lora_A"] = m.lora_A[name].weight
                tensors[f"{name}.{n}.lora_B"] = m.lora_B[name].weight
    for index, mask in enumerate(masks):
        tensors[f"{name}.mask.{index}"] = mask.to(torch.uint8)
    return result


@case
def weighted(root, out):
    """add_weighted_adapter over three adapters: a (r 4, alpha 8), b (r 4, alpha 4), c (r 2, alpha 3; cat and svd only).
    `NAME.mask.I` are the Bernoulli draws of dare in their order (torch.manual_seed(70) before each call)."""
    specs = {"a": {"r": 4, "lora_alpha": 8}, "b": {"r": 4, "lora_alpha": 4}, "c": {"r": 2, "lora_alpha": 3}}
    model = three_adapters(root, out, "weighted", specs)
    samples = common.rows(root)
    tensors, numbers = {}, {}
    for name, settings in COMBINATIONS:
        kind = name.replace("_frequency", "")
        numbers[name] = combine(model, samples, name, ["a", "b"], [0.7, 0.4], kind, settings, tensors)
    numbers["linear_negative"] = combine(model, samples, "linear_negative", ["a", "b"], [0.7, -0.4], "linear", {}, tensors)
    numbers["cat_three"] = combine(model, samples, "cat_three", ["a", "b", "c"], [0.7, -0.4, 1.5], "cat", {}, tensors)
    numbers["svd_three"] = combine(model, samples, "svd_three", ["a", "b", "c"], [0.7, -0.4, 1.5], "svd",
                                   {"svd_rank": 6}, tensors)
    numbers["svd_clamp"] = combine(model, samples, "svd_clamp", ["a", "b"], [0.7, 0.4], "svd",
                                   {"svd_clamp": 0.9, "svd_full_matrices": False}, tensors)
    numbers["single"] = combine(model, samples, "single", ["a"], [0.5], "ties", {"density": 0.5}, tensors)
    refusals = {}
    for label, call in {
        "linear_of_unequal_ranks": lambda: model.add_weighted_adapter(["a", "c"], [1.0, 1.0], "x", "linear"),
        "unknown_adapter": lambda: model.add_weighted_adapter(["a", "nobody"], [1.0, 1.0], "x", "cat"),
        "unknown_type": lambda: model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "x", "mean"),
        "ties_without_density": lambda: model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "x", "ties"),
        "fewer_weights_than_adapters": lambda: model.add_weighted_adapter(["a", "b"], [1.0], "y", "cat"),
    }.items():
        try:
            call()
            refusals[label] = "accepted"
        except Exception as error:
            refusals[label] = f"{type(error).__name__}: {error}"
    shutil.rmtree(out / "weighted" / "linear", ignore_errors=True)
    model.save_pretrained(str(out / "weighted"), selected_adapters=["linear"])
    (out / "weighted" / "README.md").unlink(missing_ok=True)
    common.relocate(out / "weighted" / "linear", "llama_text")
    common.write(out / "weighted", weighted.__doc__, {"base": "../../llama_text/model", "combinations": numbers,
                                                      "refusals": refusals}, tensors)


@case
def weighted_oddities(root, out):
    """What PEFT's weighted sums do with rslora and with PiSSA sources: deviations from the plain sum of deltas."""
    samples = common.rows(root)
    numbers = {}
    for label, specs in {
        "rslora": {"a": {"r": 4, "lora_alpha": 8, "use_rslora": True}, "b": {"r": 4, "lora_alpha": 4, "use_rslora": True}},
        "dora": {"a": {"r": 4, "lora_alpha": 8, "use_dora": True}, "b": {"r": 4, "lora_alpha": 4, "use_dora": True}},
        "pissa": {"a": {"r": 4, "lora_alpha": 8}, "b": {"r": 4, "lora_alpha": 4}},
        "rank_pattern": {"a": {"r": 4, "lora_alpha": 8, "rank_pattern": {"v_proj": 2}}, "b": {"r": 4, "lora_alpha": 4}},
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            model = three_adapters(root, pathlib.Path(folder), "x", specs)
        if label == "pissa":  # adapters trained from PiSSA carry this in their config
            model.peft_config["a"].init_lora_weights = "pissa"
        old = {n: m.get_base_layer().weight.detach().clone() for n, m in model.base_model.model.named_modules()
               if hasattr(m, "get_delta_weight")}
        for kind in ("cat", "linear", "svd"):
            try:
                model.add_weighted_adapter(["a", "b"], [0.7, 0.4], kind, combination_type=kind)
            except Exception as error:
                numbers[f"{label}.{kind}"] = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
                continue
            wanted = got = moved = 0.0
            for n, m in model.base_model.model.named_modules():
                if n in old:
                    truth = 0.7 * m.get_delta_weight("a") + 0.4 * m.get_delta_weight("b")
                    wanted += truth.norm().item() ** 2
                    got += (m.get_delta_weight(kind) - truth).norm().item() ** 2
                    moved = max(moved, (m.get_base_layer().weight - old[n]).abs().max().item())
                    scaling = m.scaling[kind]
            numbers[f"{label}.{kind}"] = {"norm_of_sum_of_deltas": math.sqrt(wanted), "norm_of_error": math.sqrt(got),
                                          "base_weights_moved_by": moved, "scaling": scaling}
    common.write(out / "weighted_oddities", weighted_oddities.__doc__, numbers)


@case
def ia3_weighted(root, out):
    """add_weighted_adapter of IA3: the sum of weight times vector, so a weight sum other than 1 rescales."""
    torch.manual_seed(80)
    config = {"task_type": "CAUSAL_LM", "target_modules": ["k_proj", "v_proj", "down_proj"],
              "feedforward_modules": ["down_proj"]}
    model = get_peft_model(common.base(root, "llama_text"), IA3Config(**config), adapter_name="a")
    common.fill(model, 81, {"+ia3_l": 0.4})
    model.add_adapter("b", IA3Config(**config))
    model.set_adapter("b")
    common.fill(model, 82, {"+ia3_l": 0.4})
    model.eval()
    for name in ("a", "b"):
        model.save_pretrained(str(out / "ia3_weighted"), selected_adapters=[name])
        common.relocate(out / "ia3_weighted" / name, "llama_text")
    (out / "ia3_weighted" / "README.md").unlink(missing_ok=True)
    model.base_model.add_weighted_adapter(["a", "b"], [0.7, 0.4], "sum")
    model.set_adapter("sum")
    right, _ = common.collate(common.rows(root), "right")
    with torch.no_grad():
        values, loss = common.logprobs(model, right)
    vectors = {n: common.summary(p) for n, p in model.named_parameters() if n.endswith("ia3_l.sum")}
    common.write(out / "ia3_weighted", ia3_weighted.__doc__,
                 {"base": "../../llama_text/model", "weights": [0.7, 0.4], "loss": loss.item(),
                  "token_logprobs": values, "vectors": vectors})


# --------------------------------------------------------------------------- sequence heads under PEFT

LABELS = [0, 2, 1]


def classifier(root):
    model = AutoModelForSequenceClassification.from_pretrained(
        str(common.model_folder(root, "llama_text")), num_labels=3, pad_token_id=common.PAD, dtype=torch.float32,
        attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(90)
    with torch.no_grad():
        model.score.weight.copy_(0.4 * torch.randn(model.score.weight.shape, generator=generator))
    return model


@case
def classification(root, out):
    """LlamaForSequenceClassification (3 labels, pad 0) under PEFT's SEQ_CLS: the head joins modules_to_save; the base
    head is 0.4 · N(0, 1) of seed 90 (`base.score.weight`)."""
    samples = common.rows(root)
    numbers, tensors = {}, {"base.score.weight": classifier(root).score.weight}
    configs = {
        "lora": (LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]), LORA),
        "ia3": (IA3Config(task_type="SEQ_CLS"), {"+ia3_l": 0.4, "+modules_to_save": 0.1}),
        "prefix": (PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
                   {"embedding": 0.7, "+modules_to_save": 0.1}),
        "prompt": (PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
                   {"embedding": 0.5, "+modules_to_save": 0.1}),
        "p_tuning": (PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=3, encoder_hidden_size=8),
                     {"embedding": 1.0, "mlp_head": 0.4, "+modules_to_save": 0.1}),
    }
    labels = torch.tensor(LABELS)
    for name, (config, scales) in configs.items():
        torch.manual_seed(91)
        model = common.fill(get_peft_model(classifier(root), config).eval(), 92, scales)
        folder = out / "classification" / name
        common.save_adapter(model, folder, "llama_text")
        result = {"saved_keys": common.saved_keys(folder), "modules_to_save": config.modules_to_save,
                  "trained": common.parameters(model)["trained"]}
        with torch.no_grad():
            alone = [model(input_ids=torch.tensor([s["input_ids"]])).logits[0].tolist() for s in samples]
            result["logits"] = alone
            for side in ("right", "left"):
                inputs, _ = common.collate(samples, side)
                inputs["labels"] = labels
                got = model(**inputs)
                result[f"{side}_padded"] = {
                    "loss": got.loss.item(), "logits": got.logits.tolist(),
                    "largest_difference_from_alone": common.spread(got.logits.tolist(), alone)}
            inputs, _ = common.collate(samples, "right")
            inputs["labels"] = labels
            plain = classifier(root)(**inputs).logits.tolist()
            try:
                with model.disable_adapter():
                    result["disabled_difference_from_base"] = common.spread(model(**inputs).logits.tolist(), plain)
            except (AttributeError, UnboundLocalError) as error:  # a defect of PEFT 0.21.2 with prompt learning
                result["disable_adapter_error"] = f"{type(error).__name__}: {error}"
        model.zero_grad(set_to_none=True)
        model(**inputs).loss.backward()
        result["gradients"] = {n: common.summary(p.grad) if p.grad is not None else None
                               for n, p in model.named_parameters() if p.requires_grad}
        loaded = PeftModel.from_pretrained(classifier(root), str(folder)).eval()
        with torch.no_grad():
            result["reloaded_difference"] = common.spread(
                loaded(**inputs).logits.tolist(), result["right_padded"]["logits"])
            if hasattr(model.base_model, "merge_and_unload"):
                merged = model.merge_and_unload()
                result["merged_difference"] = common.spread(
                    merged(**inputs).logits.tolist(), result["right_padded"]["logits"])
        numbers[name] = result
    common.write(out / "classification", classification.__doc__,
                 {"base": "../../llama_text/model", "labels": LABELS, "pad_id": common.PAD, "tuners": numbers}, tensors)


# --------------------------------------------------------------------------- LLaVA

LANGUAGE = r".*language_model\.layers\.\d+\."


def llava_base(root):
    return LlavaForConditionalGeneration.from_pretrained(
        str(root / "llava_gqa" / "model"), dtype=torch.float32, attn_implementation="eager").eval()


@case
def llava(root, out):
    """Tuners over `llava_gqa`, records 0 (one picture) and 2 (text alone) of its reference, each alone."""
    reference = json.loads((root / "llava_gqa" / "reference.json").read_text())
    pixels = load_file(str(root / "llava_gqa" / "reference.safetensors"))
    samples = []
    for index in (0, 2):
        record = reference["records"][index]
        inputs = {k: torch.tensor([record[k]]) for k in ("input_ids", "labels")}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if f"pixel_values.{index}" in pixels:
            inputs["pixel_values"] = pixels[f"pixel_values.{index}"]
        samples.append((index, record["token_logprobs"], inputs))
    configs = {
        "ia3": (IA3Config(task_type="CAUSAL_LM", target_modules=LANGUAGE + r"(self_attn\.[kv]_proj|mlp\.down_proj)",
                          feedforward_modules=LANGUAGE + r"mlp\.down_proj"), {"+ia3_l": 0.4}),
        "dora_tokens": (LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, use_dora=True,
                                   target_modules=LANGUAGE + r"self_attn\.q_proj", trainable_token_indices=[2, 57, 398]),
                        LORA),
        "prefix": (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), {"embedding": 0.7}),
        "prompt": (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), {"embedding": 0.5}),
        "p_tuning": (PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
                     {"embedding": 1.0, "mlp_head": 0.4}),
    }
    numbers, tensors = {}, {}
    for name, (config, scales) in configs.items():
        result = {}
        try:
            torch.manual_seed(95)
            model = common.fill(get_peft_model(llava_base(root), config).eval(), 96, scales)
            folder = out / "llava" / name
            common.save_adapter(model, folder, "llava_gqa")
            result |= {"saved_keys": common.saved_keys(folder), "trained": common.parameters(model)["trained"]}
            if name == "p_tuning":
                tensors |= {f"p_tuning.{n}": p for n, p in model.prompt_encoder["default"].named_parameters()}
            for index, plain, inputs in samples:
                with torch.no_grad():
                    values, loss = common.logprobs(model, inputs)
                    with model.disable_adapter():
                        off = common.logprobs(model, inputs)[0]
                result[f"record_{index}"] = {
                    "loss": loss.item(), "token_logprobs": values[0], "moved_from_base": common.spread(values, [plain]),
                    "disabled_difference_from_base": common.spread(off, [plain]),
                    "gradients": common.gradients(model, inputs)}
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        numbers[name] = result
    common.write(out / "llava", llava.__doc__, {"base": "../../llava_gqa/model", "tuners": numbers}, tensors)


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
