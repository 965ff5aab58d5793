"""The model of the case `llama_text`, quantized by bitsandbytes and saved by transformers, with the reference numbers.

    python bitsandbytes_models.py FIXTURES     (after models.py; needs bitsandbytes==0.50.2, whose CPU build quantizes)

Each case `bnb_NAME` holds `model.safetensors` and `config.json` (tokenizer and template are those of `llama_text`), the
log-probabilities of its records, and, for `bnb_nf4_double`, gradients of a LoRA of PEFT over it.

The numbers are those of transformers' model with the dequantized weights, in float32. Weights of 4 bits are dequantized by
bitsandbytes' own plain PyTorch form: the CPU kernel of 0.50.2 takes the scales of other blocks where a row is not a whole
number of blocks, as here, and multiplies in bfloat16 when it evaluates; LLM.int8 rounds activations to 8 bits on a GPU.
"""

import json
import pathlib
import shutil
import sys

import bitsandbytes
import bitsandbytes.functional as bnb
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

torch.set_num_threads(1)

F32 = torch.float32
CASES = {
    "bnb_nf4_double": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                           bnb_4bit_compute_dtype=F32),
    "bnb_fp4": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=F32,
                    llm_int8_skip_modules=["lm_head", "layers.1.mlp.down_proj"]),
    "bnb_int8": dict(load_in_8bit=True),
}


def load(folder, settings):
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**settings), dtype=F32, device_map="cpu", attn_implementation="eager"
    )


def whole(module):
    """The weight of a quantized layer in float32."""
    if isinstance(module, bitsandbytes.nn.Linear8bitLt):
        return bnb.int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
    state = module.weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = bnb.dequantize_blockwise(absmax, state.state2) + state.offset
    packed = module.weight.data.reshape(-1)
    return _dequantize_4bit_compute(packed, absmax, state.code, state.blocksize, state.shape, F32)


def dequantized(quantized, root):
    """The plain model with the weights that the quantized one stands for."""
    plain = AutoModelForCausalLM.from_pretrained(
        str(root / "llama_text" / "model"), dtype=F32, attn_implementation="eager"
    )
    modules = dict(quantized.named_modules())
    with torch.no_grad():
        for name, layer in plain.named_modules():
            if isinstance(modules.get(name), (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)):
                layer.weight.copy_(whole(modules[name]))
    return plain.eval()


def records(root):
    numbers = json.loads((root / "llama_text" / "reference.json").read_text(encoding="utf-8"))
    return [(record["id"], record["input_ids"], record["labels"]) for record in numbers["records"]]


def logprobs(model, ids, labels):
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
    labels = torch.tensor(labels[1:])
    learn = labels != -100
    return logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)[learn]


def lora_gradients(model, rows):
    """Loss and gradients of one batch, row after row, as the mean over all supervised tokens."""
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
                tensors[f"value.{name.replace('.default', '')}"] = p.clone()
    model.train()
    values = torch.cat([logprobs(model, ids, labels) for _, ids, labels in rows])
    loss = -values.mean()
    loss.backward()
    for name, p in model.named_parameters():
        if "lora_" in name:
            tensors[f"grad.{name.replace('.default', '')}"] = p.grad.clone()
    return loss.item(), tensors


def codes(root):
    """What bitsandbytes makes of a weight of an awkward shape, for every format."""
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(37, 53, generator=generator) * 0.05
    tensors = {"weight": weight}
    for kind in ("nf4", "fp4"):
        for block in (64, 128):
            packed, state = bnb.quantize_4bit(weight, blocksize=block, quant_type=kind)
            tensors |= {f"{kind}.{block}.codes": packed.flatten(), f"{kind}.{block}.absmax": state.absmax,
                        f"{kind}.{block}.values": bnb.dequantize_4bit(packed, state)}
    narrow = weight.bfloat16()
    packed, state = bnb.quantize_4bit(narrow, blocksize=64, quant_type="nf4")
    tensors |= {"bf16": narrow, "bf16.codes": packed.flatten(), "bf16.absmax": state.absmax}
    whole, scales, _ = bnb.int8_vectorwise_quant(weight.half())
    tensors |= {"int8.codes": whole, "int8.scales": scales, "int8.values": bnb.int8_vectorwise_dequant(whole, scales)}
    _, state = bnb.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    tensors["dynamic"] = state.state2.code
    (root / "bnb_codes").mkdir(exist_ok=True)
    path = root / "bnb_codes" / "reference.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path))
    path.chmod(0o644)


def main(root):
    rows = records(root)
    for name, settings in CASES.items():
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        quantized = load(str(root / "llama_text" / "model"), settings)
        quantized.save_pretrained(str(folder / "model"))
        (folder / "model" / "model.safetensors").chmod(0o644)
        numbers = {"bitsandbytes": bitsandbytes.__version__}
        if name == "bnb_nf4_double":
            numbers["lora_loss"], tensors = lora_gradients(dequantized(load(str(folder / "model"), settings), root), rows)
            save_file(tensors, str(folder / "reference.safetensors"))
            (folder / "reference.safetensors").chmod(0o644)
        plain = dequantized(load(str(folder / "model"), settings), root)
        with torch.no_grad():
            numbers["records"] = [{"id": key, "token_logprobs": logprobs(plain, ids, labels).tolist()} for key, ids, labels in rows]
        (folder / "reference.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        with safe_open(str(folder / "model" / "model.safetensors"), "pt") as file:
            print(name, len(list(file.keys())), numbers.get("lora_loss"), (folder / "model" / "model.safetensors").stat().st_size)
    codes(root)


main(pathlib.Path(sys.argv[1]))
