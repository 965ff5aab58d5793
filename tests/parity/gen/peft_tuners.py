"""Every tuner but plain LoRA as PEFT saves and computes it, over `llama_text` and `qwen2_text`. See README.md.

    python peft_tuners.py FIXTURES OUT [CASE…]     (FIXTURES: where `llama_text/model` lies)

Versions: transformers 5.23.0, peft 0.21.2, torch 2.15.0, safetensors 0.8.0.
"""

import argparse
import json
import pathlib

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

import peft_common as common

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def plain_numbers(root, name, samples):
    right, _ = common.collate(samples, "right")
    with torch.no_grad():
        return common.logprobs(common.base(root, name), right)[0]


def reload(root, folder, name, samples, reference, load=None):
    """The saved folder loaded by PEFT, frozen and trainable: how far its numbers lie from the saved model's."""
    right, _ = common.collate(samples, "right")
    result = {}
    for label, trainable in (("frozen", False), ("trainable", True)):
        try:
            torch.manual_seed(99)
            base_model = load() if load else common.base(root, name)
            model = PeftModel.from_pretrained(base_model, str(folder), is_trainable=trainable).eval()
            with torch.no_grad():
                values = common.logprobs(model, right)[0]
            result[label] = {"largest_difference": common.spread(values, reference),
                             "trained": [n for n, p in model.named_parameters() if p.requires_grad][:4]}
        except Exception as error:  # what PEFT itself refuses is part of the record
            result[label] = {"error": type(error).__name__, "message": str(error)[:400]}
    return result


def run(root, out, case_name, config, description, *, name="llama_text", seed=1, scales=None, tensors=None,
        mergeable=True, save=None, extra=None, prepare=None):
    samples = common.rows(root)
    torch.manual_seed(1000 + seed)
    model = get_peft_model(common.base(root, name), config).eval()
    common.fill(model, seed, scales or {})
    if prepare:
        prepare(model)
    folder = out / case_name / "adapter"
    files = common.save_adapter(model, folder, name, **(save or {}))
    numbers = {"base": f"../../{name}/model", "files": files, "saved_keys": common.saved_keys(folder),
               "parameters": common.parameters(model), **common.measure(model, samples)}
    plain = plain_numbers(root, name, samples)
    numbers["moved_from_base"] = common.spread(numbers["token_logprobs"], plain)
    assert numbers["moved_from_base"] > 0.05, (case_name, numbers["moved_from_base"])
    numbers["disable_adapter"] = common.disabled(model, samples, plain)
    numbers["reloaded"] = reload(root, folder, name, samples, numbers["token_logprobs"])
    if not mergeable:
        numbers["generation"] = common.generation(model, samples)
    if extra:
        numbers.update(extra(model, samples))
    if mergeable:
        numbers["merge_and_unload"] = common.merged(model, samples)
    else:
        try:
            model.merge_and_unload()
            raise SystemExit(f"{case_name}: PEFT merged it")
        except AttributeError as error:
            numbers["merge_and_unload"] = {"error": type(error).__name__, "message": str(error)}
    common.write(out / case_name, description, numbers, tensors(model) if tensors else None)
    return model


def encoder_tensors(model):
    """The trained encoder, which PEFT does not save: by its names inside `prompt_encoder.default`."""
    return {n: p for n, p in model.prompt_encoder["default"].named_parameters()}


@case
def prefix(root, out):
    """Prefix tuning without projection: 3 virtual tokens, keys and values of 2 layers, 2 heads of 8."""
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    run(root, out, "prefix", config, prefix.__doc__, seed=11, scales={"embedding": 0.7}, mergeable=False)


@case
def prefix_projection(root, out):
    """Prefix tuning with projection through Linear, tanh, Linear; encoder_hidden_size 12."""
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True,
                                encoder_hidden_size=12)
    run(root, out, "prefix_projection", config, prefix_projection.__doc__, seed=12,
        scales={"embedding": 0.7, "bias": 0.2, "transform": 0.5}, mergeable=False, tensors=encoder_tensors)


@case
def prompt_random(root, out):
    """Prompt tuning, init RANDOM, 4 virtual tokens, the given weights."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, prompt_tuning_init="RANDOM")
    run(root, out, "prompt_random", config, prompt_random.__doc__, seed=13, scales={"embedding": 0.5}, mergeable=False)


def text_case(root, out, name, count, description, kwargs=None):
    folder = str(common.model_folder(root, "llama_text"))
    text = "Answer in one word."
    config = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=count, prompt_tuning_init="TEXT", prompt_tuning_init_text=text,
        tokenizer_name_or_path=folder, tokenizer_kwargs=kwargs,
    )

    def ids(model, samples):
        """Which rows of the embedding table the prompt was copied from."""
        table = model.word_embeddings.weight
        prompt = model.prompt_encoder["default"].embedding.weight
        found = [int((table == row).all(-1).nonzero()[0]) for row in prompt]
        return {"init_text": text, "init_token_ids": found}

    run(root, out, name, config, description, seed=14, scales={"embedding": None}, mergeable=False, extra=ids)


@case
def prompt_text_long(root, out):
    """Prompt tuning, init TEXT, more virtual tokens than the text has: its ids (BOS included) are repeated."""
    text_case(root, out, "prompt_text_long", 21, prompt_text_long.__doc__)


@case
def prompt_text_short(root, out):
    """Prompt tuning, init TEXT, fewer virtual tokens than the text has: cut at the end; no special tokens."""
    text_case(root, out, "prompt_text_short", 3, prompt_text_short.__doc__, {"add_bos_token": False})


@case
def p_tuning_mlp(root, out):
    """P-tuning with the MLP (Linear, ReLU, Linear, ReLU, Linear), encoder_hidden_size 10."""
    config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=10)
    run(root, out, "p_tuning_mlp", config, p_tuning_mlp.__doc__, seed=15,
        scales={"embedding": 1.0, "bias": 0.2, "mlp_head": 0.4}, mergeable=False, tensors=encoder_tensors)


@case
def p_tuning_lstm(root, out):
    """P-tuning with the LSTM: two layers, both directions, hidden 6, then Linear, ReLU, Linear."""
    config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=6,
                                 encoder_reparameterization_type="LSTM", encoder_num_layers=2)
    run(root, out, "p_tuning_lstm", config, p_tuning_lstm.__doc__, seed=16,
        scales={"embedding": 1.0, "lstm_head": 0.5, "bias": 0.2, "mlp_head": 0.7}, mergeable=False,
        tensors=encoder_tensors)


LORA = {"lora_A": 0.2, "lora_B": 0.15, "lora_embedding_A": 0.3, "lora_embedding_B": 0.3,
        "+lora_magnitude_vector": 0.2, "+trainable_tokens_delta": 0.3, "+modules_to_save": 0.1, "+bias": 0.1}


@case
def dora(root, out):
    """DoRA on q_proj, v_proj and down_proj of Qwen2 (biases on q and v), r 3, alpha 6."""
    config = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, use_dora=True,
                        target_modules=["q_proj", "v_proj", "down_proj"])
    run(root, out, "dora", config, dora.__doc__, name="qwen2_text", seed=21, scales=LORA)


@case
def rslora(root, out):
    """Rank-stabilised LoRA with rank_pattern and alpha_pattern: alpha over the square root of each module's r."""
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "v_proj"],
                        rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"layers.0.self_attn.v_proj": 9})
    run(root, out, "rslora", config, rslora.__doc__, seed=22, scales=LORA)


@case
def lora_bias(root, out):
    """LoRA with bias "lora_only" on Qwen2: the targeted layers' own biases are trained and saved."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, bias="lora_only", target_modules=["q_proj", "v_proj"])
    run(root, out, "lora_bias", config, lora_bias.__doc__, name="qwen2_text", seed=23, scales=LORA)


@case
def lora_embedding(root, out):
    """LoRA on embed_tokens and q_proj; save_embedding_layers="auto": PEFT saves the base table as well."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["embed_tokens", "q_proj"])
    run(root, out, "lora_embedding", config, lora_embedding.__doc__, seed=24, scales=LORA)


@case
def lora_embedding_lean(root, out):
    """LoRA on embed_tokens, lm_head and q_proj; saved with save_embedding_layers=False: adapter tensors alone."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["embed_tokens", "lm_head", "q_proj"])
    run(root, out, "lora_embedding_lean", config, lora_embedding_lean.__doc__, seed=25, scales=LORA,
        save={"save_embedding_layers": False})


@case
def dora_embedding(root, out):
    """DoRA on embed_tokens and o_proj; saved with save_embedding_layers=False."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, use_dora=True,
                        target_modules=["embed_tokens", "o_proj"])
    run(root, out, "dora_embedding", config, dora_embedding.__doc__, seed=26, scales=LORA,
        save={"save_embedding_layers": False})


TOKENS = [2, 35, 301]


@case
def tokens_untied(root, out):
    """LoRA with trainable_token_indices [2, 35, 301] (a list), untied head: only the input rows are trained."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"],
                        trainable_token_indices=TOKENS)
    run(root, out, "tokens_untied", config, tokens_untied.__doc__, seed=27, scales=LORA)


@case
def tokens_untied_both(root, out):
    """trainable_token_indices for embed_tokens and lm_head apart, untied."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"],
                        trainable_token_indices={"embed_tokens": TOKENS, "lm_head": [2, 60]})
    run(root, out, "tokens_untied_both", config, tokens_untied_both.__doc__, seed=28, scales=LORA)


@case
def tokens_tied(root, out):
    """trainable_token_indices [2, 35, 301] on Qwen2 with its tied head: one delta serves input and output."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"],
                        trainable_token_indices=TOKENS)
    run(root, out, "tokens_tied", config, tokens_tied.__doc__, name="qwen2_text", seed=29, scales=LORA)


@case
def ia3_attention(root, out):
    """IA3 on k_proj and v_proj of Qwen2 (with biases), no feedforward modules."""
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj"], feedforward_modules=[])
    run(root, out, "ia3_attention", config, ia3_attention.__doc__, name="qwen2_text", seed=31, scales={"+ia3_l": 0.4})


@case
def ia3_default(root, out):
    """IA3 with PEFT's own targets for Qwen2: q_proj, v_proj, down_proj, of which down_proj feedforward."""
    config = IA3Config(task_type="CAUSAL_LM")
    run(root, out, "ia3_default", config, ia3_default.__doc__, name="qwen2_text", seed=32, scales={"+ia3_l": 0.4})


@case
def ia3_llama(root, out):
    """IA3 with PEFT's own targets for Llama: k_proj, v_proj, down_proj, of which down_proj feedforward."""
    config = IA3Config(task_type="CAUSAL_LM")
    run(root, out, "ia3_llama", config, ia3_llama.__doc__, seed=33, scales={"+ia3_l": 0.4})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    root = args.fixtures.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    samples = common.rows(root)
    (args.out / "batch.json").write_text(
        '{\n "pad_id": 0,\n "texts": ' + json.dumps(common.ROWS) + ',\n "rows": [\n  '
        + ",\n  ".join(json.dumps(s) for s in samples) + "\n ]\n}\n", encoding="utf-8")
    for name in args.cases or CASES:
        print(name, flush=True)
        CASES[name](root, args.out)


if __name__ == "__main__":
    main()
