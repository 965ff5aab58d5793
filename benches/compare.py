#!/usr/bin/env python3
"""Firebrick against PyTorch + transformers + PEFT + TRL on the CPU, side by side.

    python benches/compare.py --cache DIR [--write] [--jobs train dpo generate score] [--sizes 5m 60m 300m]
        [--lengths 256 1024 2048] [--models llama llava] [--modes full lora] [--all] [--quick]

Makes random checkpoints in DIR, starts one process per contender (Firebrick; PyTorch with eager attention, with sdpa, and
compiled), and lets them take turns of a few steps each, so that a change of the machine's speed meets all of them alike;
nobody computes while another one does. See README.md beside this file for the method.
"""
import argparse
import os

from compare import cases, cli, measure, table


def parse() -> argparse.Namespace:
    parser = cli.parser(__doc__, turns=20, cold=3)
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
    parser.add_argument("--quick", action="store_true", help="two rounds of two turns, one cold start")
    parser.add_argument("--against", choices=["eager", "sdpa", "compile"], default=["eager", "sdpa", "compile"], **several)
    options = parser.parse_args()
    if options.quick:
        options.turns, options.round, options.cold = 4, 2, 1
    cli.check(parser, options)
    return options


def chosen(options: argparse.Namespace) -> list[cases.Case]:
    found = cases.select(options.jobs, options.models, options.sizes, options.lengths, options.modes, options.supervision,
                         options.references, options.all)
    found = [cli.varied(case, options) for case in found]
    if options.cases:
        found = [c for c in found if any(set(words.split()) <= set(c.name.split()) for words in options.cases)]
    return found


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
    program = cli.binary(options, "cpu")
    how = measure.Options(cache, program, options.threads, options.turns, options.round, options.cold, options.against,
                          minutes=options.minutes)
    machine = cli.limits(program, options.threads)
    rows = cli.run(found, how, machine)
    loaded = ", loaded with other work" if table.is_loaded(before) else ""
    heading = f"{table.processor()}, {options.threads} threads of {os.cpu_count()}{loaded}"
    cli.report(rows, machine, options, heading, before, [])
    wrong = cli.wrong(rows, options.require, "eager")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
