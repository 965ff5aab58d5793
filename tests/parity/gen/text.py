"""Fixtures of `src/text`: two tiny tokenizers, and what transformers makes of conversations with them.

Made with transformers 5.23.0, tokenizers 0.23.3 (see requirements.txt). Run from the repository root:

    python tests/parity/gen/text.py

Writes tests/fixtures/text/{bytelevel,metaspace}/ and tests/fixtures/text/golden.json.
"""

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "text"
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: What colour is the circle? ASSISTANT: It is red.",
    "USER: How many squares are there? ASSISTANT: There are two squares. The circle is left of the square.",
    "user system assistant You are a helpful assistant. Describe the picture in one sentence. It shows a cat.",
    "Is it red? Yes, it is. No, it is blue. Which shape is green? The triangle is green and large.",
] * 4

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n\\n' }}\n"
    "    {%- if message.role == 'assistant' %}\n"
    "        {%- generation -%}\n"
    "            {{- message['content'] | trim + eos_token }}\n"
    "        {%- endgeneration -%}\n"
    "    {%- else %}\n"
    "        {{- message['content'] | trim + '<|im_end|>' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n\\n' }}\n"
    "{%- endif %}\n"
)
ZEPHYR = (
    "{% for message in messages %}\n"
    "{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}\n\n"
    "{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n"
    "{{ '<|assistant|>' }}\n"
    "{% endif %}\n"
    "{% endfor %}"
)
LLAVA_HF = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + eos_token }}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "zephyr": ZEPHYR, "llava_hf": LLAVA_HF}

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

# Roles and words; a leading number of images in the user's turns.
CONVERSATIONS = [
    [("user", 0, "What colour is it?"), ("assistant", 0, "It is red.")],
    [("system", 0, "Be brief."), ("user", 0, "Is it red?"), ("assistant", 0, "No: blue."),
     ("user", 0, "Which shape?"), ("assistant", 0, "A square, 2 x 2.")],
    [("user", 1, "How many circles?"), ("assistant", 0, "Two.")],
    [("user", 2, "Which is larger?"), ("assistant", 0, "The first."), ("user", 0, "Sure?"), ("assistant", 0, "Yes")],
    [("user", 0, "Größe? 你好 🦙🦙"), ("assistant", 0, "Ünïcode: 猫が好き 🐈\u200d⬛ é\r\nnext line\ttab")],
]


def train(tokenizer, pre_tokenizer, byte_fallback):
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if not byte_fallback else []
    trainer = trainers.BpeTrainer(
        vocab_size=400 if not byte_fallback else 200, special_tokens=SPECIALS, initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)


def write(tokenizer, folder, config, special_tokens_map=None):
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    if special_tokens_map:
        (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens_map, indent=2) + "\n")


def bos_in_front(tokenizer):
    return processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


def bytelevel():
    tokenizer = Tokenizer(models.BPE())
    train(tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False), byte_fallback=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), bos_in_front(tokenizer)]
    )
    content = lambda token: {"content": token, "lstrip": False, "normalized": False, "rstrip": False,
                             "single_word": False, "__type": "AddedToken"}
    write(tokenizer, OUT / "bytelevel", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": content("<s>"), "eos_token": "</s>",
        "pad_token": None, "model_max_length": 1000000000000000019884624838656,
        "clean_up_tokenization_spaces": False, "a_setting_of_somebody": [1, {"kept": True}],
        "chat_template": [{"name": "tool_use", "template": "{{ 0 }}"}, {"name": "default", "template": CHATML}],
    }, {"pad_token": "<pad>", "unk_token": "<unk>"})


def metaspace():
    """As Llama's: the space before the first word in the normalizer, a token for each byte, no pre-tokenizer."""
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    train(learned, pre_tokenizers.Metaspace(), byte_fallback=True)
    model = json.loads(learned.to_str())["model"]
    vocab = list(sorted(model["vocab"], key=model["vocab"].get))
    vocab = SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)] + vocab[len(SPECIALS):]
    tokenizer = Tokenizer(models.BPE(
        vocab={token: i for i, token in enumerate(vocab)}, merges=[tuple(merge) for merge in model["merges"]],
        unk_token="<unk>", fuse_unk=True, byte_fallback=True,
    ))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = bos_in_front(tokenizer)
    write(tokenizer, OUT / "metaspace", {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<pad>", "legacy": False, "model_max_length": 2048, "padding_side": "right",
        "add_bos_token": True, "clean_up_tokenization_spaces": False,
    })


def encode_once(tokenizer, text):
    """Ids with BOS exactly once, and character offsets in the text (None for the BOS that was added)."""
    add = not text.startswith(tokenizer.bos_token)
    encoding = tokenizer(text, add_special_tokens=add, return_offsets_mapping=True)
    return encoding["input_ids"], encoding["offset_mapping"]


def jinja_messages(conversation, typed):
    messages = []
    for role, images, words in conversation:
        content = [{"type": "image"}] * images + [{"type": "text", "text": words}] if typed else words
        messages.append({"role": role, "content": content})
    return messages


def jinja_cases(name, tokenizer):
    for key, template in TEMPLATES.items():
        for index, conversation in enumerate(CONVERSATIONS):
            typed = key == "llava_hf"
            if any(images for _, images, _ in conversation) and not typed:
                continue
            messages = jinja_messages(conversation, typed)
            kwargs = dict(chat_template=template, tokenize=False)
            text = tokenizer.apply_chat_template(messages, **kwargs)
            encoded = tokenizer.apply_chat_template(
                messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True)
            ids, _ = encode_once(tokenizer, text)
            mask = list(encoded["assistant_masks"])
            # apply_chat_template adds no BOS; a processor does where the text does not begin with it.
            if len(ids) == len(mask) + 1:
                mask = [0] + mask
            assert ids[len(ids) - len(encoded["input_ids"]):] == encoded["input_ids"]
            prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, **kwargs)
            yield {"tokenizer": name, "template": key, "conversation": index, "text": text, "ids": ids, "mask": mask,
                   "prompt": prompt}


def v1_text(conversation):
    """LLaVA's `v1`, worked out here on its own, with the character spans of the answers."""
    system = SYSTEM
    if conversation[0][0] == "system":
        system, conversation = conversation[0][2], conversation[1:]
    text, spans = system + " ", []
    for role, images, words in conversation:
        if images:
            words = ("<image>\n" * images + words.strip()).strip()
        if role == "user":
            text += "USER: " + words + " "
        else:
            text += "ASSISTANT:"
            start = len(text)
            text += " " + words + "</s>"
            spans.append((start, len(text)))
    return text, spans


def raw_offsets(tokenizer, text):
    """Character offsets without the post-processor's trimming."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    encoding = backend.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


def v1_cases(name, tokenizer, tokens_per_image=3):
    image = tokenizer.convert_tokens_to_ids("<image>")
    for index, conversation in enumerate(CONVERSATIONS):
        text, spans = v1_text(conversation)
        # The markers are expanded in the text here, so that expanding ids after encoding is checked against it.
        expanded, moved, at = "", [], 0
        position = lambda offset: offset + text[:offset].count("<image>") * (tokens_per_image - 1) * len("<image>")
        expanded = text.replace("<image>", "<image>" * tokens_per_image)
        moved = [(position(start), position(end)) for start, end in spans]
        ids, offsets = raw_offsets(tokenizer, expanded)
        mask = [int(a < b and i != image and any(s <= a and b <= e for s, e in moved))
                for i, (a, b) in zip(ids, offsets)]
        full, _ = encode_once(tokenizer, expanded)
        assert full == [tokenizer.bos_token_id] + ids
        yield {"tokenizer": name, "conversation": index, "text": text, "tokens_per_image": tokens_per_image,
               "ids": full, "mask": [0] + mask}


def main():
    for name in ("bytelevel", "metaspace"):
        shutil.rmtree(OUT / name, ignore_errors=True)
    bytelevel()
    metaspace()
    golden = {
        "templates": TEMPLATES,
        "conversations": [
            [{"role": role, "images": images, "text": words} for role, images, words in conversation]
            for conversation in CONVERSATIONS
        ],
        "jinja": [], "v1": [], "encode": [],
    }
    for name in ["bytelevel", "metaspace"]:
        tokenizer = AutoTokenizer.from_pretrained(OUT / name)
        golden["jinja"] += jinja_cases(name, tokenizer)
        golden["v1"] += v1_cases(name, tokenizer)
        for text in ["a", " a", "a</s>b", "</s> b", "<s>a", "", "\n", "x  y", "🦙é\r\n x", "<image>\nWhat?", "▁"]:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            golden["encode"].append({
                "tokenizer": name, "text": text, "ids": ids,
                "decoded": tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            })
    lines = json.dumps(golden, ensure_ascii=False)
    (OUT / "golden.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
