#!/usr/bin/env python3
"""Training steps of Firebrick against PyTorch + transformers + PEFT on the CPU.

    python benches/compare.py --cache DIR [--write] [--sizes 6m 64m] [--modes full lora]

Makes random LLaVA checkpoints in DIR, starts one process per contender (Firebrick, PyTorch with eager attention,
PyTorch with sdpa), and lets them take turns of a few steps each, so that a change of the machine's speed meets all of
them alike; nobody computes while another one does. See README.md beside this file for the method.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
LEARNING_RATE = 1e-4
MAX_GRAD_NORM = 1.0
RANK = 8
IMAGE_TOKEN, PAD_TOKEN, FIRST_WORD = 3, 4, 5
# Positions before this one are the question and are not learned.
ANSWER_START = 40
# Float sums in another order: 20 steps of AdamW keep two right implementations far closer than this.
LOSS_TOLERANCE = 1e-3
SIZES = {
    "6m": dict(width=256, layers=4, heads=8, mlp=688, vocabulary=4096, batch=4, length=256),
    "64m": dict(width=512, layers=8, heads=8, mlp=1376, vocabulary=32000, batch=2, length=512),
}
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make(folder: pathlib.Path, size: dict) -> None:
    """A random LLaVA in transformers' layout, PEFT adapters for it, and one batch."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration,
                              PreTrainedTokenizerFast)

    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=size["width"], num_hidden_layers=size["layers"], num_attention_heads=size["heads"],
        num_key_value_heads=size["heads"], intermediate_size=size["mlp"], vocab_size=size["vocabulary"],
        max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=PAD_TOKEN)
    vision = CLIPVisionConfig(hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
                              image_size=32, patch_size=8, projection_dim=128)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN, image_seq_length=16,
                         pad_token_id=PAD_TOKEN, tie_word_embeddings=False)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder / "model")
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": IMAGE_TOKEN, "<pad>": PAD_TOKEN}
    words.update({f"w{i}": i for i in range(FIRST_WORD, size["vocabulary"])})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"]).save_pretrained(folder / "model")
    with_adapters(model).save_pretrained(folder / "adapter")

    b, t = size["batch"], size["length"]
    ids = torch.randint(FIRST_WORD, size["vocabulary"], (b, t))
    ids[:, 0] = 1
    ids[:, 1:17] = IMAGE_TOKEN
    labels = ids.clone()
    labels[:, :ANSWER_START] = -100
    save_file({"input_ids": ids, "labels": labels, "pixel_values": torch.randn(b, 3, 32, 32)},
              str(folder / "batch.safetensors"))
    (folder / "complete").write_text(json.dumps(size))


def with_adapters(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=rf".*language_model.*\.({'|'.join(LAYERS)})",
        modules_to_save=["multi_modal_projector"]))


def resident(field: str) -> int:
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def serve(folder: pathlib.Path, mode: str, attention: str, threads: int) -> None:
    """The other contender: the training step that users of transformers and PEFT write."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import LlavaForConditionalGeneration

    torch.set_num_threads(threads)
    idle = resident("VmRSS:")
    model = LlavaForConditionalGeneration.from_pretrained(
        folder / "model", dtype=torch.float32, attn_implementation=attention)
    if mode == "lora":
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    for name, parameter in model.named_parameters():
        if "vision_tower" in name:
            parameter.requires_grad_(False)
    model.train()
    batch = load_file(folder / "batch.safetensors")
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)

    def say(value: dict) -> None:
        print(json.dumps(value), flush=True)

    say({"ready": {
        "threads": torch.get_num_threads(), "tokens": batch["input_ids"].numel(),
        "supervised_tokens": int((batch["labels"][:, 1:] != -100).sum()),
        "trainable_parameters": sum(p.numel() for p in trained),
        "parameters": sum(p.numel() for p in model.parameters()), "idle_rss": idle}})
    number = 0
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command == "quit":
            break
        for _ in range(int(count)):
            number += 1
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss = model(**batch).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
            optimizer.step()
            value = loss.item()
            seconds = time.perf_counter() - started
            say({"step": number, "seconds": seconds, "loss": value, "grad_norm": norm.item()})
        say({"done": {"peak_rss": resident("VmHWM:")}})


class Contender:
    """A process that takes steps when told to."""

    def __init__(self, name: str, command: list[str], threads: int):
        environment = dict(os.environ)
        for variable in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]:
            environment[variable] = str(threads)
        self.name, self.seconds, self.losses, self.norms, self.peak = name, [], [], [], 0
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.ready = self.read()["ready"]

    def read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def round(self, steps: int) -> None:
        print(f"step {steps}", file=self.process.stdin, flush=True)
        while True:
            answer = self.read()
            if "done" in answer:
                self.peak = answer["done"]["peak_rss"]
                break
            self.seconds.append(answer["seconds"])
            self.losses.append(answer["loss"])
            self.norms.append(answer["grad_norm"])
        # A pool of threads may spin for a while after its last task.
        time.sleep(0.3)

    def quit(self) -> None:
        print("quit", file=self.process.stdin, flush=True)
        self.process.wait()


def measure(folder: pathlib.Path, mode: str, options, binary: str) -> list[Contender]:
    ours = [binary, "--serve", "--model", str(folder / "model"), "--data", str(folder / "batch.safetensors"),
            "--learning-rate", str(LEARNING_RATE), "--max-grad-norm", str(MAX_GRAD_NORM),
            "--adapter", "lora" if mode == "lora" else "none", "--r", str(RANK)]
    if mode == "lora":
        ours += ["--adapter-weights", str(folder / "adapter")]
    theirs = [sys.executable, str(HERE / "compare.py"), "--serve", str(folder), mode]
    contenders = [Contender("firebrick", ours, options.threads)]
    for attention in options.attention:
        contenders.append(Contender(
            f"torch {attention}", [*theirs, attention, "--threads", str(options.threads)], options.threads))
    for key in ["threads", "tokens", "supervised_tokens", "trainable_parameters"]:
        values = {c.name: c.ready[key] for c in contenders}
        if len(set(values.values())) != 1:
            raise SystemExit(f"{mode}: the contenders do not do the same work: {key} is {values}")
    for first in range(0, options.steps, options.round):
        for contender in contenders:
            contender.round(min(options.round, options.steps - first))
    for contender in contenders:
        contender.quit()
    return contenders


def loss_difference(a: Contender, b: Contender) -> float:
    return max(abs(x - y) / abs(y) for x, y in zip(a.losses, b.losses, strict=True))


def build(profile: str) -> str:
    command = ["cargo", "bench", "--no-run", "--bench", "train_step", "--profile", profile, "--message-format", "json"]
    output = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "train_step" and message.get("executable"):
            return message["executable"]
    raise SystemExit("cargo named no executable for the bench train_step")


def processor() -> str:
    output = subprocess.run(["lscpu"], stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    fields = dict(line.split(":", 1) for line in output.splitlines() if ":" in line)
    return fields.get("Model name", platform.processor()).strip()


def versions() -> str:
    from importlib.metadata import version

    rustc = subprocess.run(["rustc", "--version"], cwd=HERE.parent, stdout=subprocess.PIPE, text=True).stdout.split()[1]
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE.parent, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True).stdout.strip()
    ours = f"firebrick {revision or 'uncommitted'}, rustc {rustc}"
    return ", ".join([ours, *(f"{name} {version(name)}" for name in ["torch", "transformers", "peft"])])


def table(rows: list[dict]) -> str:
    lines = ["| model | step | against | firebrick, tokens/s | PyTorch, tokens/s | ratio | firebrick, peak MB | PyTorch, peak MB "
             "| loss difference |", "|---|---|---|--:|--:|--:|--:|--:|--:|"]
    for r in rows:
        lines.append(f"| {r['size']} ({r['parameters'] / 1e6:.1f} M) | {r['mode']} | {r['against']} | {r['ours']:.0f} | "
                     f"{r['theirs']:.0f} | **{r['ratio']:.2f}** | {r['our_peak'] / 1e6:.0f} | {r['their_peak'] / 1e6:.0f} | "
                     f"{r['difference']:.1e} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=pathlib.Path, help="folder for the made checkpoints; kept for the next time")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--modes", nargs="+", choices=["full", "lora"], default=["full", "lora"])
    parser.add_argument("--attention", nargs="+", choices=["eager", "sdpa"], default=["eager", "sdpa"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--round", type=int, default=4, help="steps of one turn; the first turn is warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", help="the built bench train_step; built with cargo where it is left out")
    parser.add_argument("--profile", default="bench", help="cargo profile to build with")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    parser.add_argument("--require", type=float, metavar="RATIO",
                        help="fail where a ratio to eager attention is below this")
    parser.add_argument("--serve", nargs=3, metavar=("FOLDER", "MODE", "ATTENTION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        folder, mode, attention = options.serve
        serve(pathlib.Path(folder), mode, attention, options.threads)
        return
    if options.cache is None:
        parser.error("--cache DIR is needed")
    if options.steps <= options.round:
        parser.error("--steps must exceed --round, whose first turn is warm-up")
    binary = options.binary or build(options.profile)
    rows, wrong = [], []
    for name in options.sizes:
        folder = options.cache / name
        done = folder / "complete"
        if not done.is_file() or json.loads(done.read_text()) != SIZES[name]:
            make(folder, SIZES[name])
        for mode in options.modes:
            ours, *others = measure(folder, mode, options, binary)
            for other in others:
                our, their = (statistics.median(c.seconds[options.round:]) for c in (ours, other))
                tokens = ours.ready["tokens"]
                row = dict(size=name, mode=mode, against=other.name, parameters=other.ready["parameters"],
                           ours=tokens / our, theirs=tokens / their, ratio=their / our,
                           our_peak=ours.peak, their_peak=other.peak, difference=loss_difference(ours, other))
                rows.append(row)
                spread = {c.name: [f"{1e3 * s:.0f}" for s in sorted(c.seconds[options.round:])] for c in (ours, other)}
                print(f"{name} {mode}: {1e3 * our:.1f} ms against {1e3 * their:.1f} ms ({other.name}), ratio "
                      f"{their / our:.2f}; ms sorted: {spread}; last losses {ours.losses[-1]:.6f}, {other.losses[-1]:.6f}; "
                      f"first gradient norms {ours.norms[0]:.6f}, {other.norms[0]:.6f}", file=sys.stderr, flush=True)
                if not row["difference"] <= LOSS_TOLERANCE:
                    wrong.append(f"{name} {mode} against {other.name}: losses differ by {row['difference']:.2e}")
                if options.require and "eager" in other.name and row["ratio"] < options.require:
                    wrong.append(f"{name} {mode}: ratio {row['ratio']:.2f} is below {options.require}")
    text = table(rows)
    print(text)
    if options.write:
        heading = f"## {datetime.date.today()}, {processor()}, {options.threads} threads of {os.cpu_count()}"
        note = (f"{versions()}. Median of {options.steps - options.round} steps in turns of {options.round}, "
                f"{options.round} of warm-up; load average at the end: {os.getloadavg()[0]:.1f}.")
        results = HERE / "RESULTS.md"
        title = "" if results.exists() else "# Results of `compare.py`, newest last\n"
        with open(results, "a") as file:
            file.write(title + f"\n{heading}\n\n{note}\n\n{text}\n")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
