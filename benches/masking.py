#!/usr/bin/env python3
"""Records rendered, tokenized and masked per second: Firebrick against TRL's own preparation of a data set.

    python benches/masking.py --cache DIR [--tokenizer DIR] [--write]

Makes conversations and preference pairs in DIR (the same ones every time) and a tokenizer that is trained on them, unless
one is given, has both programs prepare them in turns, one at a time, checks that every token id and every label is the
same, and prints a table. See README.md beside this file.
"""
import argparse
import datetime
import hashlib
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time
import warnings

HERE = pathlib.Path(__file__).resolve().parent
SEED = 4
VOCABULARY = 32000
# Of a hundred words so many are names, numbers and the like, which occur once.
RARE = 3

# What is in `generation` is all that follows the header, so that TRL's pairs, of which it learns all that follows the
# prompt, and its conversations, of which it learns the blocks, ask for the same.
CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>\\n' }}{% endgeneration %}\
{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
VICUNA = """{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}\
{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT:' }}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}\
{% else %}{{ message['content'] + ' ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""


class Writer:
    """English in the statistics of Python's own manual: stretches of its text, with words that occur once strewn in."""

    def __init__(self, seed: int):
        from pydoc_data.topics import topics

        self.words = " ".join(topics[name] for name in sorted(topics)).split()
        self.random = random.Random(seed)

    def rare(self) -> str:
        r = self.random
        if r.random() < 0.4:
            return str(r.randrange(10 ** r.randint(1, 8)))
        return "".join(r.choice("bcdfghjklmnprstvw") + r.choice("aeiou") for _ in range(r.randint(2, 5))).capitalize()

    def text(self, mean: float) -> str:
        r = self.random
        left = max(3, int(r.lognormvariate(0, 0.7) * mean))
        sentences = []
        while left > 0:
            length = min(left, r.randint(5, 25))
            start = r.randrange(len(self.words) - length)
            words = [self.rare() if r.randrange(100) < RARE else w for w in self.words[start:start + length]]
            sentences.append(" ".join(words).capitalize() + r.choice(". . . ? ! : .\n .\n\n".split(" ")))
            left -= length
        return " ".join(sentences).replace("\n ", "\n").strip()

    def turns(self, exchanges: int) -> list[dict]:
        system = [{"role": "system", "content": self.text(20)}] if self.random.random() < 0.3 else []
        turns = [({"role": "user", "content": self.text(25)}, {"role": "assistant", "content": self.text(70)})
                 for _ in range(exchanges)]
        return system + [message for turn in turns for message in turn]

    def conversation(self) -> dict:
        return {"messages": self.turns(self.random.randint(1, 4))}

    def pair(self) -> dict:
        *prompt, chosen = self.turns(self.random.choice([1, 1, 1, 2, 3]))
        return {"prompt": prompt, "chosen": [chosen], "rejected": [{"role": "assistant", "content": self.text(70)}]}


def make_records(cache: pathlib.Path, conversations: int, pairs: int) -> dict[str, pathlib.Path]:
    paths = {}
    for kind, count, seed in [("messages", conversations, SEED), ("preference", pairs, SEED + 1)]:
        paths[kind] = cache / f"{kind}_{count}.jsonl"
        writer = Writer(seed)
        with open(paths[kind], "w") as file:
            for _ in range(count):
                record = writer.conversation() if kind == "messages" else writer.pair()
                file.write(json.dumps(record) + "\n")
    return paths


def make_tokenizer(folder: pathlib.Path, records: pathlib.Path) -> None:
    """Byte-level pairs, as in GPT-2's and Qwen's tokenizers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    with open(records) as file:
        texts = (message["content"] for line in file for message in json.loads(line)["messages"])
        tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                   additional_special_tokens=["<|im_start|>"])
    made.chat_template = CHATML
    made.save_pretrained(folder)


def prepare_tokenizer(cache: pathlib.Path, given: pathlib.Path | None, records: pathlib.Path) -> pathlib.Path:
    folder = cache / "tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    if given is None:
        make_tokenizer(folder, records)
        return folder
    folder.mkdir()
    for path in given.glob("*token*.json"):
        shutil.copy(path, folder)
    template = VICUNA if "<|im_start|>" not in (given / "tokenizer.json").read_text() else CHATML
    (folder / "chat_template.jinja").write_text(template)
    return folder


class Ours:
    def __init__(self, binary: str, kind: str, records: pathlib.Path, tokenizer: pathlib.Path, threads: int):
        command = [binary, "--serve", "--kind", kind, "--records", records, "--tokenizer", tokenizer]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "RAYON_NUM_THREADS": str(threads)})
        if self.read()["ready"]["threads"] != threads:
            raise SystemExit("firebrick took another number of threads")

    def read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"firebrick ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, command: str) -> dict:
        print(command, file=self.process.stdin, flush=True)
        return self.read()

    def time(self) -> tuple[dict, float, float]:
        """What a pass says, its seconds, and the processor's."""
        before = self.processor_seconds()
        counts = self.ask("pass")
        return counts, counts["seconds"], self.processor_seconds() - before

    def processor_seconds(self) -> float:
        # Behind the name, which may hold anything: user and system time are the 12th and 13th.
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def quit(self) -> None:
        print("quit", file=self.process.stdin, flush=True)
        self.process.wait()


class Theirs:
    """A trainer of TRL, whose preparation of its data set is called as its constructor calls it."""

    def __init__(self, kind: str, records: pathlib.Path, tokenizer: pathlib.Path, cache: pathlib.Path):
        import datasets
        import transformers
        import trl

        datasets.disable_caching()
        datasets.disable_progress_bars()
        datasets.utils.logging.set_verbosity_error()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.kind = kind
        self.dataset = datasets.load_dataset("json", data_files=str(records), split="train", cache_dir=str(cache / "arrow"))
        tokens = transformers.AutoTokenizer.from_pretrained(tokenizer)
        if tokens.pad_token is None:
            tokens.pad_token = tokens.eos_token
        folder = cache / "model"
        transformers.LlamaForCausalLM(transformers.LlamaConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=len(tokens))
        ).save_pretrained(folder)
        # Without a limit TRL has no truncation and no filter to apply: it is spared two passes over the records.
        common = dict(output_dir=str(cache / "out"), max_length=None, use_cpu=True, bf16=False, report_to=[])
        few = self.dataset.select(range(8))
        if kind == "messages":
            self.args = trl.SFTConfig(assistant_only_loss=True, **common)
            self.trainer = trl.SFTTrainer(str(folder), args=self.args, train_dataset=few, processing_class=tokens)
        else:
            self.args = trl.DPOConfig(**common)
            self.trainer = trl.DPOTrainer(str(folder), args=self.args, train_dataset=few, processing_class=tokens)

    def prepare(self, dataset, processes: int):
        self.args.dataset_num_proc = processes
        common = (dataset, self.trainer.processing_class, self.args)
        if self.kind == "messages":
            return self.trainer._prepare_dataset(*common, False, None, "train")
        return self.trainer._prepare_dataset(*common, "train")

    def time(self, processes: int) -> tuple[float, float]:
        """Seconds, and the processor's, those of its processes included."""
        before, started = sum(os.times()[:4]), time.perf_counter()
        self.prepare(self.dataset, processes)
        return time.perf_counter() - started, sum(os.times()[:4]) - before

    def warm_up(self) -> None:
        for processes in [1, 2]:
            self.prepare(self.dataset.select(range(min(200, len(self.dataset)))), processes)

    def rows(self, prepared):
        """Per record its rows, as ids and labels."""
        if self.kind == "messages":
            for row in prepared:
                yield [{"input_ids": row["input_ids"], "labels": row["labels"]}]
            return
        for row in prepared:
            prompt = row["prompt_ids"]
            yield [{"input_ids": prompt + row[key], "labels": [-100] * len(prompt) + row[key]}
                   for key in ("chosen_ids", "rejected_ids")]


def check(ours: Ours, theirs: Theirs, path: pathlib.Path) -> None:
    """Every id and every label of every record is the same."""
    ours.ask(f"write {path}")
    prepared = theirs.prepare(theirs.dataset, 2)
    with open(path) as file:
        for number, (line, expected) in enumerate(zip(file, theirs.rows(prepared), strict=True), 1):
            rows = json.loads(line)
            if rows != expected:
                tell = theirs.trainer.processing_class.convert_ids_to_tokens
                for one, other in zip(rows, expected):
                    places = [i for i, (a, b) in enumerate(zip(one["labels"], other["labels"])) if a != b]
                    print(len(one["input_ids"]), len(other["input_ids"]), one["input_ids"] == other["input_ids"],
                          [(i, tell(one["input_ids"][i])) for i in places[:10]], file=sys.stderr)
                raise SystemExit(f"{theirs.kind}: record {number} is not the same in both programs")
    path.unlink()


def measure(kind: str, records: pathlib.Path, tokenizer: pathlib.Path, options, binary: str) -> dict:
    ours = Ours(binary, kind, records, tokenizer, options.threads)
    theirs = Theirs(kind, records, tokenizer, options.cache)
    check(ours, theirs, options.cache / "rows.jsonl")
    theirs.warm_up()
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "one": [], "two": []}
    for turn in range(options.turns):
        # Ours before and after, so that it neither always follows the same one nor has the quieter half of a turn.
        counts, *ours_before = ours.time()
        seconds["one"].append(theirs.time(1))
        seconds["two"].append(theirs.time(2))
        _, *ours_after = ours.time()
        seconds["ours"] += [tuple(ours_before), tuple(ours_after)]
        shown = {name: [[round(x, 2) for x in pair] for pair in pairs] for name, pairs in seconds.items()}
        print(f"{kind}, turn {turn + 1}: seconds and processor seconds {shown}, load {os.getloadavg()[0]:.1f}",
              file=sys.stderr, flush=True)
    ours.quit()
    medians = {name: [statistics.median(column) for column in zip(*pairs)] for name, pairs in seconds.items()}
    return {"kind": kind, "records": counts["records"], "tokens": counts["tokens"], "supervised": counts["supervised"],
            **{name: median for name, (median, _) in medians.items()},
            **{f"{name}_cpu": median for name, (_, median) in medians.items()}}


def build(profile: str) -> str:
    command = ["cargo", "bench", "--no-run", "--bench", "masking", "--profile", profile, "--message-format", "json"]
    output = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "masking" and message.get("executable"):
            return message["executable"]
    raise SystemExit("cargo named no executable for the bench masking")


def table(rows: list[dict], tokenizer: str, threads: int) -> str:
    lines = [f"| records | tokenizer | tokens | learned | firebrick, {threads} threads | TRL, 1 process | TRL, 2 processes "
             "| ratio to 1 | ratio to 2 | processor time, theirs (1) : ours |", "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    names = {"messages": "conversations", "preference": "pairs"}
    for r in rows:
        rate = {key: r["records"] / r[key] for key in ("ours", "one", "two")}
        lines.append(f"| {r['records']} {names[r['kind']]} | {tokenizer} | {r['tokens']} | {r['supervised']} | {rate['ours']:.0f}/s "
                     f"| {rate['one']:.0f}/s | {rate['two']:.0f}/s | {rate['ours'] / rate['one']:.1f} "
                     f"| **{rate['ours'] / rate['two']:.1f}** | {r['one_cpu'] / r['ours_cpu']:.1f} |")
    return "\n".join(lines)


def versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ["trl", "transformers", "datasets", "tokenizers"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for what is made")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="folder with tokenizer.json; made where it is left out")
    parser.add_argument("--conversations", type=int, default=20000)
    parser.add_argument("--pairs", type=int, default=10000)
    parser.add_argument("--turns", type=int, default=3, help="per turn two passes of ours and two of theirs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=["messages", "preference"], default=["messages", "preference"])
    parser.add_argument("--binary", help="the built bench masking; built with cargo where it is left out")
    parser.add_argument("--profile", default="bench", help="cargo profile to build with")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    parser.add_argument("--require", type=float, metavar="RATIO", help="fail where a ratio to 2 processes is below this")
    options = parser.parse_args()
    # Nothing is fetched; the tokenizers' own threads are for lists of texts, which TRL does not hand them.
    warnings.simplefilter("ignore", FutureWarning)
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false",
                      TRL_EXPERIMENTAL_SILENCE="1", CUDA_VISIBLE_DEVICES="")
    options.cache.mkdir(parents=True, exist_ok=True)
    binary = options.binary or build(options.profile)
    records = make_records(options.cache, options.conversations, options.pairs)
    for path in records.values():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}…", file=sys.stderr)
    tokenizer = prepare_tokenizer(options.cache, options.tokenizer, records["messages"])
    rows = [measure(kind, records[kind], tokenizer, options, binary) for kind in options.kinds]
    text = table(rows, options.tokenizer.name if options.tokenizer else "made, byte-level", options.threads)
    print(text)
    if options.write:
        note = (f"{versions()}; medians of {options.turns} turns; load average at the end: {os.getloadavg()[0]:.1f} on "
                f"{os.cpu_count()} cores.")
        with open(HERE / "RESULTS.md", "a") as file:
            file.write(f"\n## Masking, {datetime.date.today()}\n\n{note}\n\n{text}\n")
    slow = [r for r in rows if options.require and r["two"] / r["ours"] < options.require]
    if slow:
        raise SystemExit(f"below {options.require} times: {', '.join(r['kind'] for r in slow)}")


if __name__ == "__main__":
    main()
