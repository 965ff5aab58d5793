"""Fixtures of LLaVA's conversations, made with LLaVA's own `get_prompt` and `preprocess`.

Made with LLaVA 1.2.2.post1, taken from its wheel on PyPI (`pip download --no-deps llava-torch==1.2.2.post1`, then unzip;
sha256 of its llava/conversation.py 5afd26fa…, of llava/train/train.py f87eca26…), transformers 5.23.0, tokenizers 0.23.3,
torch 2.15. A checkout of the same release serves as well. Run from the repository root, after text.py:

    python tests/parity/gen/llava_conversations.py --llava DIR

DIR holds the folder `llava`. Writes tests/fixtures/text/llava.json. Heavy modules that `train.py` imports and that
`preprocess` does not use (the model, the trainer) are replaced by empty ones.

For every key of `conv_templates`: the text of `get_prompt` for a question, the text that `preprocess` tokenizes, and for
two tokenizers what `preprocess` learns, as ids and as ranges `[start, end)` of tokens; one conversation without and one
with an image have all their ids, the image's as LLaVA has it, -200.
`warned` says that LLaVA printed its "tokenization mismatch", after which it learns nothing of the record.
"""

import argparse
import contextlib
import copy
import io
import json
import sys
import types
from pathlib import Path

import transformers

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "text"

# Roles, images, words.
CONVERSATIONS = [
    [("human", 0, "What colour is it?"), ("gpt", 0, "It is red.")],
    [("human", 0, " Is it red? "), ("gpt", 0, "No: blue. "), ("human", 0, "Which shape?"), ("gpt", 0, "A square,\n2 x 2.")],
    [("human", 1, "How many circles?"), ("gpt", 0, "Two.")],
    [("human", 1, " Which is larger?\n"), ("gpt", 0, "The first."), ("human", 0, "Sure?"), ("gpt", 0, "Yes")],
]


def load(folder):
    sys.path.insert(0, str(folder))
    for name, attribute in [("llava.train.llava_trainer", "LLaVATrainer"), ("llava.model", None)]:
        module = types.ModuleType(name)
        module.__all__ = []
        if attribute:
            setattr(module, attribute, object)
        sys.modules[name] = module
    package = types.ModuleType("llava")
    package.__path__ = [str(folder / "llava")]
    sys.modules["llava"] = package
    import llava.conversation
    import llava.train.train

    return llava.conversation, llava.train.train


def sources(conversation):
    return [{"from": role, "value": "<image>\n" * images + words} for role, images, words in conversation]


def prompts(library, train, key, conversation, start_end):
    """Up to the last answer, as LLaVA's command line asks."""
    conv = library.conv_templates[key].copy()
    turns = train.preprocess_multimodal([sources(conversation)], arguments(start_end))[0]
    for i, turn in enumerate(turns[:-1]):
        conv.append_message(conv.roles[i % 2], turn["value"])
    conv.append_message(conv.roles[1], None)
    return conv.get_prompt()


def arguments(start_end):
    return types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=start_end)


def learned_ranges(labels):
    ranges = []
    for i, label in enumerate(labels):
        if label == -100:
            continue
        if ranges and ranges[-1][1] == i:
            ranges[-1][1] = i + 1
        else:
            ranges.append([i, i + 1])
    return ranges


def train_text(train, turns, tokenizer):
    """The text of a record with images, which `tokenizer_image_token` gets whole."""
    seen, original = [], train.tokenizer_image_token

    def watch(prompt, *args, **kwargs):
        seen.append(prompt)
        return original(prompt, *args, **kwargs)

    train.tokenizer_image_token = watch
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train.preprocess(copy.deepcopy([turns]), tokenizer, has_image=True)
    finally:
        train.tokenizer_image_token = original
    return max(seen, key=len)


def case(library, train, key, number, conversation, tokenizers, start_end):
    has_image = any(images for _, images, _ in conversation)
    turns = train.preprocess_multimodal([sources(conversation)], arguments(start_end))[0]
    result = {"key": key, "conversation": number, "im_start_end": start_end,
              "prompt": prompts(library, train, key, conversation, start_end),
              "text": train_text(train, turns, next(iter(tokenizers.values())))}
    if start_end:
        return result
    result["preprocess"] = {}
    for name, tokenizer in tokenizers.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            data = train.preprocess(copy.deepcopy([turns]), tokenizer, has_image=has_image)
        ids = [int(i) for i in data["input_ids"][0]]
        learned = learned_ranges([int(i) for i in data["labels"][0]])
        result["preprocess"][name] = {
            "learned": learned, "learned_ids": [ids[i] for start, end in learned for i in range(start, end)],
            "warned": "mismatch" in printed.getvalue(),
        }
        if number in (1, 2):
            result["preprocess"][name]["ids"] = ids
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llava", type=Path, required=True)
    library, train = load(parser.parse_args().llava)
    tokenizers = {}
    for name in ["bytelevel", "metaspace"]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(OUT / name, model_max_length=2048)
        # As train.py sets it for every version but v0; `legacy` is what it reads of LlamaTokenizer. With False it assumes
        # that a text after `</s>` has one token less than alone, which a byte-level vocabulary never has.
        tokenizer.pad_token = tokenizer.unk_token
        tokenizer.legacy = name == "bytelevel"
        tokenizers[name] = tokenizer
    cases, aliases, seen = [], {}, {}
    for key, template in library.conv_templates.items():
        if id(template) in seen:
            aliases[key] = seen[id(template)]
            continue
        seen[id(template)] = key
        library.default_conversation = template
        train.conversation_lib.default_conversation = template
        plain = template.sep_style == library.SeparatorStyle.PLAIN
        for number, conversation in enumerate(CONVERSATIONS):
            if plain and number != 2:
                continue
            cases.append(case(library, train, key, number, conversation, tokenizers, False))
        cases.append(case(library, train, key, 2, CONVERSATIONS[2], tokenizers, True))
    golden = {
        "conversations": [[{"role": role, "images": images, "text": words} for role, images, words in conversation]
                          for conversation in CONVERSATIONS],
        "aliases": aliases, "cases": cases,
    }
    (OUT / "llava.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(len(cases), "cases;", sum(one["warned"] for c in cases for one in c.get("preprocess", {}).values()), "warned")


if __name__ == "__main__":
    main()
