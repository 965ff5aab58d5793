#!/usr/bin/env python3
"""Firebrick against PyTorch + transformers + PEFT + TRL on the CPU, side by side.

    python benches/compare.py --cache DIR [--write] [--jobs train dpo generate score] [--sizes 5m 60m 300m]
        [--lengths 256 1024 2048] [--models llama llava] [--modes full lora] [--all] [--quick]

Makes random checkpoints in DIR, starts one process per contender (Firebrick; PyTorch with eager attention, with sdpa, and
compiled), and lets them take turns of a few steps each, so that a change of the machine's speed meets all of them alike;
nobody computes while another one does. See README.md beside this file for the method.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

from compare import cases, contender, measure, roofline, table

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["torch", "transformers", "peft", "trl"]


def build(profile: str, features: str = "cpu") -> str:
    # Without the feature `recipes` cargo does not build every program of recipes/ before it.
    command = ["cargo", "bench", "--no-run", "--bench", "contender", "--profile", profile, "--message-format", "json",
               "--no-default-features", "--features", features]
    output = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "contender" and message.get("executable"):
            return message["executable"]
    raise SystemExit("cargo named no executable for the bench contender")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for what is made; kept for the next time")
    several = dict(nargs="+", metavar="NAME")
    parser.add_argument("--jobs", choices=cases.JOBS, default=cases.JOBS, **several)
    parser.add_argument("--models", choices=cases.FAMILIES, default=cases.FAMILIES, **several)
    parser.add_argument("--sizes", choices=list(cases.SIZES), default=list(cases.SIZES), **several)
    parser.add_argument("--lengths", choices=cases.LENGTHS, type=int, default=cases.LENGTHS, nargs="+")
    parser.add_argument("--modes", choices=cases.MODES, default=cases.MODES, **several)
    parser.add_argument("--supervision", choices=cases.SUPERVISIONS, default=cases.SUPERVISIONS, **several)
    parser.add_argument("--references", choices=list(cases.REFERENCES), default=list(cases.REFERENCES), **several)
    parser.add_argument("--cases", nargs="+", metavar="WORDS", help="of these, cases whose name has all the words of one WORDS")
    parser.add_argument("--all", action="store_true", help="every combination, not the usual table alone")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--quick", action="store_true", help="two rounds of two turns, one cold start")
    parser.add_argument("--against", choices=["eager", "sdpa", "compile"], default=["eager", "sdpa", "compile"], **several)
    parser.add_argument("--turns", type=int, default=20, help="optimizer steps, generations or passes")
    parser.add_argument("--round", type=int, default=4, help="turns of one round; the first round is warm-up")
    parser.add_argument("--cold", type=int, default=3, help="new processes per contender for the start to the first step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours", nargs="+", default=[], metavar="KEY=VALUE", help="settings of ours besides, as after --set")
    parser.add_argument("--theirs", nargs="+", default=[], metavar="KEY=VALUE", help="and of theirs: checkpointing=true")
    parser.add_argument("--variant", default="", help="what these settings are called in the table")
    parser.add_argument("--minutes", type=float, help="leave a case out that would take longer")
    parser.add_argument("--binary", help="the built bench contender; built with cargo where it is left out")
    parser.add_argument("--profile", default="bench", help="cargo profile to build with")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    parser.add_argument("--require", type=float, metavar="RATIO", help="fail where a ratio to eager attention is below this")
    options = parser.parse_args()
    if options.quick:
        options.turns, options.round, options.cold = 4, 2, 1
    if options.turns <= options.round:
        parser.error("--turns must exceed --round, whose first round is warm-up")
    if (options.ours or options.theirs) and not options.variant:
        parser.error("--ours and --theirs need --variant NAME, by which the table tells them from the plain cases")
    return options


def chosen(options: argparse.Namespace) -> list[cases.Case]:
    found = cases.select(options.jobs, options.models, options.sizes, options.lengths, options.modes, options.supervision,
                         options.references, options.all)
    theirs = tuple(pair(text) for text in options.theirs)
    found = [cases.dataclasses.replace(c, ours=tuple(options.ours), theirs=theirs, variant=options.variant) for c in found]
    if options.cases:
        found = [c for c in found if any(set(words.split()) <= set(c.name.split()) for words in options.cases)]
    return found


def pair(text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def limits(binary: str, threads: int) -> dict:
    """Of the machine; ours and theirs, each in a process of its own."""
    spec = contender.Spec("limits", lambda _: [binary, "limits"], threads)
    code = f"import json; from compare import roofline; print(json.dumps(roofline.measure_theirs({threads})))"
    theirs = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=HERE,
                            env=spec.environment()).stdout
    return {"ours": roofline.measure_ours(spec), "theirs": json.loads(theirs.splitlines()[-1])}


def run(found: list[cases.Case], how: measure.Options, machine: dict) -> list[dict]:
    """The rows of all cases, told and kept in the cache as they come."""
    rows = []
    for number, case in enumerate(found, 1):
        print(f"[{number}/{len(found)}] {case.name}", file=sys.stderr, flush=True)
        added = measure.run(case, how)
        rows += added
        with open(how.cache / "rows.jsonl", "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in added)
        for row in added:
            print("   ", " | ".join(table.cells(row, machine)), file=sys.stderr, flush=True)
    return rows


def verdict(rows: list[dict], require: float | None) -> list[str]:
    wrong = [f"{r['name']} against {r['against']}: {r['failed']}" for r in rows if r.get("wrong")]
    wrong += [r["name"] + ": " + r["failed"] for r in rows if r.get("failed", "").startswith("firebrick:")]
    for r in rows:
        ratio = r["seconds"][1] / r["seconds"][0] if "seconds" in r else None
        if require and ratio and "eager" in r["against"] and ratio < require:
            wrong.append(f"{r['name']}: ratio {ratio:.2f} is below {require}")
    return wrong


def main() -> None:
    options = parse()
    found = chosen(options)
    if options.list:
        print("\n".join(case.name for case in found))
        return
    if not found:
        raise SystemExit("no case has all of that; --list names them, --all adds the unusual ones")
    before = os.getloadavg()[0]
    cache = options.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    binary = str(pathlib.Path(options.binary or build(options.profile)).resolve())
    how = measure.Options(cache, binary, options.threads, options.turns, options.round, options.cold, options.against,
                          minutes=options.minutes)
    machine = limits(binary, options.threads)
    rows = run(found, how, machine)
    loaded = table.is_loaded(before, options.threads)
    heading = f"{table.processor()}, {options.threads} threads of {os.cpu_count()}" + (", a loaded machine" if loaded else "")
    notes = [f"{table.versions(PACKAGES)}; profile `{options.profile}`. Medians of {options.turns - options.round} turns in "
             f"rounds of {options.round}, {options.round} of warm-up; medians of {options.cold} cold starts; load average "
             f"before {before:.1f}, at the end {os.getloadavg()[0]:.1f} (the bench's own work included). Pairs of numbers are "
             "ours / theirs, in brackets ours as a part of theirs.",
             table.roofline(machine)]
    text = table.text(rows, machine)
    print("\n\n".join([f"## {heading}", *notes, text]))
    if options.write:
        table.append(heading, notes, text)
    wrong = verdict(rows, options.require)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
