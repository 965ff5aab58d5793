#!/usr/bin/env python3
"""Firebrick against PyTorch + PEFT with sdpa on one NVIDIA GPU, in bf16.

    python benches/cuda.py --cache DIR [--cases lora-8b full-1.5b llava-7b] [--rows N] [--length N] [--write]

Random weights in the shapes of an 8B Llama (LoRA, sequence 4096), a 1.5B one (full training) and LLaVA-1.5-7B (stage two
with LoRA; `llava-7b-full` trains the language model itself and needs a GPU of 140 GB or recompute). DIR takes up to
50 GB. One process at a time, because no two fit; what compare.py checks is checked. `--tiny` runs the same cases in tiny
shapes on the CPU in f32, which shows that this program works where no GPU is. See README.md beside this file.
"""
import argparse
import os
import shlex
import subprocess

from compare import cases, cli, measure, table
from compare.cases import Case

# bf16 has 8 bits of mantissa: sums in another order differ in the third digit, and 20 steps carry it on.
LOSS_TOLERANCE = 2e-2
CASES = {
    "lora-8b": Case("train", "llama", "8b", "lora", 4096, 1),
    "full-1.5b": Case("train", "llama", "1.5b", "full", 4096, 1),
    "llava-7b": Case("train", "llava", "7b", "lora", 1024, 4, rank=128),
    "llava-7b-full": Case("train", "llava", "7b", "full", 1024, 1),
}
USUAL = ["lora-8b", "full-1.5b", "llava-7b"]


def parse() -> argparse.Namespace:
    parser = cli.parser(__doc__, turns=20, cold=1)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=USUAL, metavar="NAME")
    parser.add_argument("--device", default="cuda:0", help="cuda:0; the first GPU's memory is what is reported")
    parser.add_argument("--rows", type=int, help="rows of a batch, in place of each case's own")
    parser.add_argument("--length", type=int, help="tokens of a row, in place of each case's own")
    parser.add_argument("--rank", type=int, help="of the adapters, in place of each case's own")
    parser.add_argument("--against", nargs="+", choices=["eager", "sdpa", "compile"], default=["sdpa"], metavar="NAME")
    parser.add_argument("--prefix", default="", help="put before both programs, for example a profiler: 'nsys profile -t cuda'")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU in f32")
    options = parser.parse_args()
    cli.check(parser, options)
    if options.tiny:
        options.device = "cpu"
    return options


def chosen(options: argparse.Namespace) -> list[Case]:
    found = []
    for name in options.cases:
        case = CASES[name]
        if options.tiny:
            case = cases.dataclasses.replace(case, size="tiny", length=64, rows=2, rank=min(case.rank, 8))
        given = {key: getattr(options, key) for key in ("rows", "length", "rank") if getattr(options, key)}
        found.append(cli.varied(cases.dataclasses.replace(case, **given), options))
    return found


def gpu(device: str) -> str:
    if device == "cpu":
        return table.processor() + ", tiny shapes in f32"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=" + device.partition(":")[2]]
    return subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def main() -> None:
    options = parse()
    found = chosen(options)
    if options.list:
        print("\n".join(case.name for case in found))
        return
    before = os.getloadavg()[0]
    cache = options.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    narrow = options.device != "cpu"
    program = cli.binary(options, "cpu cuda" if narrow else "cpu")
    heading = gpu(options.device)
    how = measure.Options(
        cache, program, options.threads, options.turns, options.round, options.cold, options.against,
        device=options.device, bf16=narrow, apart=True, tolerance=LOSS_TOLERANCE, minutes=options.minutes,
        prefix=tuple(shlex.split(options.prefix)))
    machine = cli.limits(program, options.threads, options.device)
    rows = cli.run(found, how, machine)
    for row in rows:
        if "seconds" in row:
            samples = [row["case"]["rows"] / seconds for seconds in row["seconds"]]
            row["note"] = f"{samples[0]:.2f} / {samples[1]:.2f} samples/s"
    memory = ("Peak memory is the GPU's in use, sampled from the driver five times a second, above what it was before; for "
              "PyTorch what its allocator held at most where that is more." if narrow else "Peak memory is the process's.")
    cli.report(rows, machine, options, heading, before, [memory])
    wrong = cli.wrong(rows, options.require, "sdpa")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
