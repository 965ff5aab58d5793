"""What the programs `compare.py` and `cuda.py` share: options, the build, the run over cases, the report."""
import argparse
import json
import os
import pathlib
import subprocess
import sys

from . import cases, measure, roofline, table
from .contender import HERE, Spec

PACKAGES = ["torch", "transformers", "peft", "trl"]


def parser(description: str, turns: int, cold: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--cache", type=pathlib.Path, required=True, help="folder for what is made; kept for the next time")
    made.add_argument("--list", action="store_true", help="name the cases and end")
    made.add_argument("--turns", type=int, default=turns, help="optimizer steps, generations or passes")
    made.add_argument("--round", type=int, default=4, help="turns of one round; the first round is warm-up")
    made.add_argument("--cold", type=int, default=cold, help="new processes per contender for the start to the first step")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--ours", nargs="+", default=[], metavar="KEY=VALUE", help="settings of ours besides, as after --set")
    made.add_argument("--theirs", nargs="+", default=[], metavar="KEY=VALUE", help="and of theirs: checkpointing=true")
    made.add_argument("--variant", default="", help="what these settings are called in the table")
    made.add_argument("--minutes", type=float, help="leave a case out that would take longer")
    made.add_argument("--binary", help="the built bench contender; built with cargo where it is left out")
    made.add_argument("--profile", default="bench", help="cargo profile to build with, or that --binary was built with")
    made.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    made.add_argument("--require", type=float, metavar="RATIO", help="fail where a ratio is below this (on the CPU: to eager)")
    return made


def check(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.turns <= options.round:
        made.error("--turns must exceed --round, whose first round is warm-up")
    if (options.ours or options.theirs) and not options.variant:
        made.error("--ours and --theirs need --variant NAME, by which the table tells them from the plain cases")


def varied(case: cases.Case, options: argparse.Namespace) -> cases.Case:
    """The case with the settings of the command line."""
    theirs = tuple(pair(text) for text in options.theirs)
    return cases.dataclasses.replace(case, ours=tuple(options.ours), theirs=theirs, variant=options.variant)


def pair(text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def build(profile: str, features: str) -> str:
    # Without the feature `recipes` cargo does not build every program of recipes/ before it.
    command = ["cargo", "bench", "--no-run", "--bench", "contender", "--profile", profile, "--message-format", "json",
               "--no-default-features", "--features", features]
    output = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "contender" and message.get("executable"):
            return message["executable"]
    raise SystemExit("cargo named no executable for the bench contender")


def binary(options: argparse.Namespace, features: str) -> str:
    return str(pathlib.Path(options.binary or build(options.profile, features)).resolve())


def limits(program: str, threads: int, device: str = "cpu") -> dict:
    """Of the machine, each in a process of its own; of a GPU, theirs alone."""
    spec = Spec("limits", lambda _: [program, "limits"], threads, device)
    code = f"import json; from compare import roofline; print(json.dumps(roofline.measure_theirs({threads}, {device!r})))"
    theirs = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=HERE,
                            env=spec.environment()).stdout
    found = {"theirs": json.loads(theirs.splitlines()[-1])}
    return {"ours": roofline.measure_ours(spec), **found} if device == "cpu" else found


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


def wrong(rows: list[dict], require: float | None, against: str) -> list[str]:
    """What the program fails for: other work, other numbers, an error of ours, a ratio that is asked for and not reached."""
    found = [f"{r['name']} against {r['against']}: {r['failed']}" for r in rows if r.get("wrong")]
    found += [f"{r['name']}: {r['failed']}" for r in rows if r.get("failed", "").startswith("firebrick:")]
    for r in rows:
        if require is None or "failed" in r or against not in r["against"]:
            continue
        ratio = r["seconds"][1] / r["seconds"][0]
        if ratio < require:
            found.append(f"{r['name']} against {r['against']}: ratio {ratio:.2f} is below {require}")
    return found


def report(rows: list[dict], machine: dict, options: argparse.Namespace, heading: str, before: float, more: list[str]) -> None:
    after = os.getloadavg()[0]
    notes = [f"{table.versions(PACKAGES)}; profile `{options.profile}`. Medians of {options.turns - options.round} turns in "
             f"rounds of {options.round}, {options.round} of warm-up; medians of {options.cold} cold starts; load average before "
             f"{before:.1f}, at the end {after:.1f} (the bench's own work included). Pairs of numbers are ours / theirs, in "
             "brackets ours as a part of theirs.", table.roofline(machine), *more]
    text = table.text(rows, machine)
    print("\n\n".join([f"## {heading}", *notes, text]))
    if options.write:
        table.append(heading, notes, text)
