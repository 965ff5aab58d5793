"""Random checkpoints in transformers' layout, PEFT adapters for them, and batches; made once and kept."""
import json
import pathlib
import shutil

from .cases import Case

END_TOKEN, IMAGE_TOKEN, PAD_TOKEN, FIRST_WORD = 2, 3, 4, 5
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def ready(cache: pathlib.Path, case: Case, dtype: str = "float32", device: str = "cpu") -> pathlib.Path:
    """The folder of a case's model, with everything in it that the case reads."""
    quiet()
    folder = cache / case.model
    said = json.dumps({"shape": case.shape, "dtype": dtype})
    done = folder / "complete"
    if not done.is_file() or done.read_text() != said:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make_model(folder, case, dtype, device)
        done.write_text(said)
    if case.mode == "lora" and not (folder / adapter_name(case) / "adapter_model.safetensors").is_file():
        make_adapter(folder, case)
    batch = folder / case.batch_name
    if not batch.is_file():
        make_batch(batch, case)
    return folder


def quiet() -> None:
    """Progress bars of a second each, and what the libraries warn each other of."""
    import warnings

    import transformers

    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def adapter_name(case: Case) -> str:
    return f"adapter-r{case.rank}"


def configs(case: Case):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    shape, tower = case.shape, case.shape["tower"]
    text = LlamaConfig(
        hidden_size=shape["width"], num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"], intermediate_size=shape["mlp"], vocab_size=shape["vocabulary"],
        max_position_embeddings=8192, tie_word_embeddings=False, bos_token_id=1, eos_token_id=END_TOKEN, pad_token_id=PAD_TOKEN)
    if case.family == "llama":
        return text
    vision = CLIPVisionConfig(
        hidden_size=tower["width"], intermediate_size=tower["mlp"], num_hidden_layers=tower["layers"],
        num_attention_heads=tower["heads"], image_size=tower["image"], patch_size=tower["patch"],
        projection_dim=tower["width"])
    return LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN,
                       image_seq_length=(tower["image"] // tower["patch"]) ** 2, pad_token_id=PAD_TOKEN,
                       tie_word_embeddings=False)


def fresh(case: Case, dtype: str, device: str):
    """A model with random weights, the same ones every time on one device."""
    import torch
    from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

    torch.manual_seed(0)
    kind = LlamaForCausalLM if case.family == "llama" else LlavaForConditionalGeneration
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return kind(configs(case))
    finally:
        torch.set_default_dtype(before)


def make_model(folder: pathlib.Path, case: Case, dtype: str, device: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fresh(case, dtype, device).save_pretrained(folder / "model")
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": IMAGE_TOKEN, "<pad>": PAD_TOKEN}
    words.update({f"w{i}": i for i in range(FIRST_WORD, case.shape["vocabulary"])})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"]).save_pretrained(folder / "model")


def lora_config(family: str, rank: int):
    from peft import LoraConfig

    if family == "llama":
        return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=LAYERS, task_type="CAUSAL_LM")
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, modules_to_save=["multi_modal_projector"],
                      target_modules=rf".*language_model.*\.({'|'.join(LAYERS)})")


def make_adapter(folder: pathlib.Path, case: Case) -> None:
    """An adapter as PEFT starts it: A random, B zero. The weights around it do not matter, so that none are made."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

    torch.manual_seed(1)
    if case.family == "llava":
        # The projector is saved beside it, and must be the checkpoint's.
        model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype="auto")
    else:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(configs(case))
    model = get_peft_model(model, lora_config(case.family, case.rank), low_cpu_mem_usage=False)
    for name, parameter in list(model.named_parameters()):
        if "lora_" in name:
            start = torch.empty(parameter.shape, device="cpu", dtype=torch.float32)
            start.zero_() if "lora_B" in name else torch.nn.init.kaiming_uniform_(start, a=5 ** 0.5)
            owner, _, field = name.rpartition(".")
            setattr(model.get_submodule(owner), field, torch.nn.Parameter(start))
    model.save_pretrained(folder / adapter_name(case))


def make_batch(path: pathlib.Path, case: Case) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(2)
    b, t, shape = case.rows, case.length, case.shape
    ids = torch.randint(FIRST_WORD, shape["vocabulary"], (b, t), generator=generator)
    labels = torch.full((b, t), -100)
    for row, (start, end) in enumerate(case.bounds()):
        if case.job == "dpo":
            # Both answers of a pair follow the same question.
            answer = t // 4
            ids[row, :answer] = ids[row - row % 2, :answer]
            # TRL ends answers with it where they do not.
            ids[row, end - 1] = END_TOKEN
        else:
            answer = t if case.job == "generate" else min(case.answer_start, end - 1)
        ids[row, start] = 1
        ids[row, start + 1:start + 1 + case.image_tokens] = IMAGE_TOKEN
        labels[row, answer:end] = ids[row, answer:end]
        ids[row, :start] = PAD_TOKEN
        ids[row, end:] = PAD_TOKEN
    bounds = torch.tensor(case.bounds())
    tensors = {"input_ids": ids, "labels": labels, "starts": bounds[:, 0].contiguous(), "ends": bounds[:, 1].contiguous()}
    if case.images:
        side = shape["tower"]["image"]
        tensors["pixel_values"] = torch.randn(b, 3, side, side, generator=generator)
    save_file(tensors, str(path))
