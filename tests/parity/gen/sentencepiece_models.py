"""Fixtures of `src/text/sentencepiece`: small SentencePiece models, and what transformers makes of folders with them.

Made with transformers 5.23.0, tokenizers 0.23.3, sentencepiece 0.2.3, protobuf 7.36.2. Run from the repository root:

    python tests/parity/gen/sentencepiece_models.py [FOLDER]

Writes FOLDER/*.model and FOLDER/golden.json (default: tests/fixtures/text/sentencepiece). One model serves several
folders, which differ in their JSON files; golden.json holds those files, the texts, and for each folder the ids with and
without special tokens and the decoded texts, and what SentencePiece itself makes of some. In the BPE models the runs of
spaces get the score -1e9, as in Llama's and Mistral's files: transformers 5 merges by id all the same. The normalizer tables are small ones made here: SentencePiece's own
(`nmt_nfkc`) take 250 KB each. `--own-tables` uses those instead, for a check by hand in another FOLDER.
"""

import argparse
import io
import json
import tempfile
from pathlib import Path

import sentencepiece
import transformers

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "text" / "sentencepiece"
CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: What colour is the circle? ASSISTANT: It is red.",
    "USER: How many squares are there? ASSISTANT: There are 2 squares. The circle is left of the square, 30 by 417.",
    "You are a helpful assistant. Describe the picture in one sentence. It shows a cat, Mr. Black, on a mat in 1984.",
    "Is it red? Yes, it is. No, it is blue. Which shape is green? The triangle is green and large.",
    "def area(width, height):\n    if width < 0:\n        return None\n    return width * height\n",
    "Größe und Übermut: die Straße führt über den Fluß. L'été, où êtes-vous allés ? El niño comió piñas.",
    "Кошка сидит на столе и смотрит в окно. 猫が机の上に座っている。你好,世界。고양이가 창밖을 본다.",
    "  two spaces,   three spaces,    four spaces; and\ta tab. The the the cat's cats' catalogue concatenates.",
] * 6
# What NFKC and `nmt_nfkc` do to these, one line per rule: source and target in hexadecimal.
RULES = {
    "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ", "\r": " ", "\u200b": " ", "\ufb01": "fi", "\uff21": "A",
    "\uff22": "B", "\uff11": "1", "e\u0301": "é", "E\u0301": "É", "n\u0303": "ñ", "\u2122": "TM", "\u00bd": "1\u20442",
    "\u0001": "", "\u001f": "", "\u007f": "", "\u2460": "1", "\u337f": "株式会社", "\uff76\uff9e": "ガ",
    "\ufdfa": "صلى الله عليه وسلم",
}
FOLD = {chr(c): chr(c + 32) for c in range(65, 91)} | {"É": "é", "Ü": "ü", "\u1e9e": "ss", "ß": "ss"}

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "a", " a", "  a", "a ", "a  ", " a b  c   d    e ",
    "▁", "▁a", " ▁a", "a▁b", "▁▁", "The cat is red.", "the assistant gives helpful answers", "THE CAT", "cat cats cat's",
    "What is this?\nA cat.\n\n  It is red.", "1984", "30,417.25", "x=1;y=22;z=333", "    return width * height",
    "Größe", "Gro\u0308ße", "\u00e9", "e\u0301", "E\u0301te\u0301", "n\u0303in\u0303o", "ﬁne", "\uff21\uff22\uff11",
    "\u3000a\u3000b", "a\u00a0b", "™ ½ ① ㍿ ｶﾞ", "\ufdfa", "猫が好き", "你好,世界", "고양이", "кошка", "Кошка сидит", "مرحبا بالعالم",
    "שלום", "नमस्ते", "ไทย", "🦙", "🦙🦙 a 🦙", "👩\u200d👩\u200d👧\u200d👦", "🇩🇪🇯🇵", "👍🏽", "🐈\u200d⬛",
    "\u0001", "\u0001a", "a\u0001b\u0002\u001f\u007f", "\u0000", "a\u0000b", "\u200b", "a\u200bb", "\u200f\u202e", "\ufeffa",
    "\ufffd", "\U0010ffff", "\ue000", "\u0378", "\u0301", " \u0301", "a\u0301\u0302\u0303\u0304\u0305\u0306",
    "<s>", "</s>", "<s>a</s>", "a</s>b", "a </s> b", "a  </s>  b", "</s>\nUSER", "</s></s>", "<unk>", "a<unk>b", "<pad>",
    "a<pad>b", "<mask>", "a <mask> b", "a<mask>.", "[CLS]a[SEP]", "[MASK]", "<image>", "<image>\nWhat?", "a<image>b",
    " <image> ", "<extra>", "a<extra>b", "<extra> a", "<sym>", "a<sym>b", "a <sym> b", "<SYM>", "<extra_id_0> a <extra_id_1>",
    "<start_of_turn>user\nHi<end_of_turn>\n", "<bos>a<eos>", "<0x0A>", "a<0x41>b", "<0x", "<s", "< s >", "<s>>",
    "``quoted''", "''", "ÀÉÎÕÜ", "İstanbul ıI", "ẞ ß Straße", "Cat,Dog,9,", "don't", "a.b.c", "http://example.org/?q=1&r=2",
    "USER: What colour is the circle? ASSISTANT: It is red.</s>USER: Why?",
    "It is red.  It is blue.   The cat is    large.", "def area(width):\n    if width:\n        return width\n",
    "the  the   the    the     the", "a\n  the\n   cat\n    is", "Yes,  it  is. ", "cats:\n\n  is  a  cat",
    "USER:  What colour is the circle?\n  ASSISTANT:  It is red.", "3  squares   and    4     circles",
    "assistant" * 12, "x" * 70, "🦙" * 20, " " * 33, "a " * 30, "\n" * 9, "é" * 25, "e\u0301" * 15, "猫" * 18, "▁" * 10,
]


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, **flags}


def typed(content, **flags):
    return {"__type": "AddedToken", **added(content, **flags)}


def config(tokenizer_class="LlamaTokenizer", **settings):
    return {"tokenizer_config.json": {"tokenizer_class": tokenizer_class, **settings}}


# name: (model, transformers' class, files)
FOLDERS = {
    # Vicuna 1.5 and the original LLaVA 1.5.
    "vicuna": ("llama", "LlamaTokenizerFast", {
        **config(add_bos_token=True, add_eos_token=False, bos_token=typed("<s>"), eos_token=typed("</s>"),
                 unk_token=typed("<unk>"), legacy=False, pad_token=None, sp_model_kwargs={}, model_max_length=4096,
                 padding_side="right", clean_up_tokenization_spaces=False),
        "special_tokens_map.json": {"bos_token": added("<s>"), "eos_token": added("</s>"), "pad_token": "<unk>",
                                    "unk_token": added("<unk>")},
    }),
    # Llama 1 as first converted: tokens normalized, an added token in a file of its own.
    "llama_legacy": ("llama", "LlamaTokenizerFast", {
        **config(legacy=True, bos_token=typed("<s>", normalized=True), eos_token=typed("</s>", normalized=True),
                 unk_token=typed("<unk>", normalized=True), add_bos_token=True),
        "special_tokens_map.json": {"bos_token": added("<s>", normalized=True), "pad_token": "<pad>"},
        "added_tokens.json": {"<pad>": 500, "<extra>": 501},
    }),
    "llama_bare": ("llama", "LlamaTokenizerFast", config()),
    "llama_no_prefix": ("llama", "LlamaTokenizerFast", config(add_prefix_space=False, add_eos_token=True)),
    "llama_legacy_no_prefix": ("llama", "LlamaTokenizerFast", config(add_prefix_space=False, legacy=True)),
    # Mistral, with a list of tokens by id, one that strips the space to its left, and a model's own.
    "llama_decoder": ("llama", "LlamaTokenizerFast", config(
        "LlamaTokenizerFast", legacy=None, add_bos_token=True, add_eos_token=True, image_token="<image>",
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", additional_special_tokens=["<sym>"],
        added_tokens_decoder={
            "500": added("<pad>", special=True), "0": added("<unk>", special=True), "1": added("<s>", special=True),
            "2": added("</s>", special=True), "501": added("<extra>", special=False, lstrip=True, rstrip=True),
        })),
    # Control and user-defined pieces; with and without a list of the folder's own.
    "symbols": ("symbols", "LlamaTokenizerFast", config(legacy=False, add_bos_token=True)),
    "symbols_listed": ("symbols", "LlamaTokenizerFast", config(additional_special_tokens=["<image>", "<mask>"])),
    "gemma": ("gemma", "GemmaTokenizerFast", config(
        "GemmaTokenizer", add_bos_token=True, add_eos_token=False, bos_token=typed("<bos>"), eos_token=typed("<eos>"),
        pad_token=typed("<pad>"), unk_token=typed("<unk>"))),
    "gemma_bare": ("gemma", "GemmaTokenizerFast", config("GemmaTokenizerFast")),
    "t5": ("t5", "T5TokenizerFast", config("T5Tokenizer", extra_ids=4)),
    "t5_listed": ("t5", "T5TokenizerFast", config(
        "T5Tokenizer", extra_ids=2, additional_special_tokens=["<extra_id_0>", "<extra_id_1>"], eos_token="</s>")),
    "xlm_roberta": ("xlm_roberta", "XLMRobertaTokenizerFast", config(
        "XLMRobertaTokenizer", mask_token=typed("<mask>", lstrip=True, normalized=True))),
    "albert": ("albert", "AlbertTokenizerFast", config("AlbertTokenizer", mask_token=typed("[MASK]", lstrip=True))),
    "albert_cased": ("albert", "AlbertTokenizerFast", config(
        "AlbertTokenizer", do_lower_case=False, keep_accents=True, add_prefix_space=False)),
}


def train(path, rules=None, own_tables=None, **settings):
    settings = {"normalization_rule_name": "identity"} | settings
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as table:
        if rules and own_tables:
            settings["normalization_rule_name"] = own_tables
        elif rules:
            code = lambda text: " ".join(f"{ord(c):X}" for c in text)
            table.write("".join(f"{code(source)}\t{code(target)}\n" for source, target in sorted(rules.items())))
            table.flush()
            del settings["normalization_rule_name"]
            settings["normalization_rule_tsv"] = table.name
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=model, num_threads=1, minloglevel=2, vocab_size=500,
            hard_vocab_limit=False, self_test_sample_size=0, **settings)
        path.write_bytes(finished(model.getvalue()))


def finished(data):
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(data)
    # The trainer writes down the temporary file's name; the same inputs must give the same bytes.
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    for piece in proto.pieces:
        if proto.trainer_spec.model_type == 2 and set(piece.piece) == {"▁"}:
            piece.score = -1e9
    return proto.SerializeToString()


def models(out, own):
    llama = dict(
        model_type="bpe", byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False, character_coverage=0.99)
    unigram = dict(model_type="unigram", character_coverage=0.99)
    table = lambda name: name if own else None
    train(out / "llama.model", **llama)
    train(out / "symbols.model", user_defined_symbols=["<sym>", "\n\n", "▁cat"], control_symbols=["<image>"], **llama)
    train(out / "gemma.model", add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>",
          eos_piece="<eos>", user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n"], **llama)
    train(out / "t5.model", RULES, table("nmt_nfkc"), pad_id=0, eos_id=1, unk_id=2, bos_id=-1, **unigram)
    train(out / "xlm_roberta.model", RULES, table("nmt_nfkc"), **unigram)
    train(out / "albert.model", RULES | FOLD, table("nmt_nfkc_cf"), pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
          control_symbols=["[CLS]", "[SEP]"], user_defined_symbols=["[MASK]"], **unigram)


def load(out, name, folder):
    """The tokenizer of `FOLDERS[name]`, its files written into `folder`."""
    model, family, files = FOLDERS[name]
    (folder / "tokenizer.model").write_bytes((out / f"{model}.model").read_bytes())
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return getattr(transformers, family).from_pretrained(str(folder))


def golden(out):
    for name, (model, _, files) in FOLDERS.items():
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = load(out, name, Path(folder))
        plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        yield {
            "name": name, "model": model, "files": files, "vocab_size": len(tokenizer),
            "named": {role: str(token) for role, token in tokenizer.special_tokens_map.items()},
            "around": tokenizer("a")["input_ids"], "around_pair": tokenizer("a", "b")["input_ids"], "ids": plain,
            "decoded": [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in plain],
            "skipped": tokenizer.decode(tokenizer("a</s>b <mask>")["input_ids"], skip_special_tokens=True),
        }


def by_sentencepiece(out):
    """Texts without tokens that only transformers finds in a text; before `▁` and a space it puts no second `▁`."""
    for name, skip in [("vicuna", " ▁"), ("gemma", "")]:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(out / f"{FOLDERS[name][0]}.model"))
        texts = {i: t for i, t in enumerate(TEXTS) if t[:1] not in list(skip) and not set("<[\0") & set(t)}
        yield name, {str(i): processor.encode(text) for i, text in texts.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=OUT)
    parser.add_argument("--own-tables", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    models(args.folder, args.own_tables)
    cases = list(golden(args.folder))
    # A decoded text that is the text itself is not written out.
    for case in cases:
        case["decoded"] = {str(i): d for i, (d, text) in enumerate(zip(case["decoded"], TEXTS)) if d != text}
    lines = [json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases]
    texts = json.dumps(TEXTS, ensure_ascii=False, separators=(",", ":"))
    sentences = json.dumps(dict(by_sentencepiece(args.folder)), separators=(",", ":"))
    (args.folder / "golden.json").write_text(
        '{"texts":' + texts + ',\n"sentencepiece":' + sentences + ',\n"cases":[\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
