"""One case: who takes part, who lives beside whom, what they must agree on, and what is reported."""
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import sys

from . import cases, making, roofline
from .cases import Case
from .contender import Contender, Failed, Spec, first_step

# Float sums in another order: 20 steps of AdamW keep two right implementations far closer than this.
LOSS_TOLERANCE = 1e-3
# A row's log-probability without any step: nothing has had time to part.
SCORE_TOLERANCE = 1e-4
SAME = ["threads", "tokens", "supervised_tokens", "trainable_parameters"]
# Share of the free memory that the processes of a case may be estimated to need.
MEMORY_SHARE = 0.85


@dataclasses.dataclass
class Options:
    """What all cases have in common."""

    cache: pathlib.Path
    binary: str
    threads: int
    turns: int
    round: int
    cold: int
    against: list[str]
    device: str = "cpu"
    bf16: bool = False
    # One process at a time: a GPU's memory holds no two.
    apart: bool = False
    tolerance: float = LOSS_TOLERANCE
    minutes: float | None = None
    prefix: tuple[str, ...] = ()


def our_spec(case: Case, folder: pathlib.Path, options: Options) -> Spec:
    settings = [f"train.learning_rate={case.learning_rate}", f"train.max_grad_norm={cases.MAX_GRAD_NORM}",
                "train.weight_decay=0", f"adapter.r={case.rank}", f"adapter.lora_alpha={2 * case.rank}",
                f"train.bf16={str(options.bf16).lower()}"]
    if case.job == "dpo":
        settings.append(f"objective.beta={cases.BETA}")
    settings += case.ours

    def command(turns: int | None) -> list:
        words = [options.binary, case.job, "--model", folder / "model", "--data", folder / case.batch_name,
                 "--device", options.device]
        if case.mode == "lora":
            words += ["--adapter", "lora", "--adapter-weights", folder / making.adapter_name(case)]
        if case.job == "dpo":
            words += ["--reference", case.reference.replace("_", "-")]
        if case.job == "generate":
            words += ["--max-new-tokens", case.new_tokens]
        words += [word for setting in settings for word in ("--set", setting)]
        return [*words, *(["--serve"] if turns is None else ["--turns", turns])]

    return Spec("firebrick", command, options.threads, options.device, prefix=options.prefix)


def their_spec(case: Case, folder: pathlib.Path, options: Options, against: str) -> Spec:
    compiles = against == "compile"
    module = "compare.serve_trl" if case.job == "dpo" else "compare.serve_torch"
    spec = dict(
        job=case.job, family=case.family, mode=case.mode, rank=case.rank, model=str(folder / "model"),
        adapter=str(folder / making.adapter_name(case)), data=str(folder / case.batch_name),
        attention="eager" if compiles else against, compile=compiles, reference=case.reference,
        new_tokens=case.new_tokens, threads=options.threads, device=options.device, bf16=options.bf16,
        learning_rate=case.learning_rate, max_grad_norm=cases.MAX_GRAD_NORM, beta=cases.BETA, checkpointing=False)
    spec.update(case.theirs)

    def command(turns: int | None) -> list:
        return [sys.executable, "-m", module, json.dumps({**spec, "turns": turns})]

    return Spec(called(case, against), command, options.threads, options.device,
                kernels=options.cache / "inductor", compiles=compiles, prefix=options.prefix)


def called(case: Case, against: str) -> str:
    return f"{'TRL' if case.job == 'dpo' else 'torch'} {against}"


def opponents(case: Case, against: list[str]) -> list[str]:
    # TRL compiles nothing, and neither does `generate` with a cache that grows.
    return [name for name in against if name != "compile" or case.job in ("train", "score")]


def missing(against: str) -> str | None:
    """What an opponent needs and this machine has not."""
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if against == "compile" and not any(map(shutil.which, compilers)):
        return f"torch.compile needs a C++ compiler, and there is no {' or '.join(compilers)} here"
    return None


def free_memory() -> int:
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def groups(case: Case, specs: list[Spec], options: Options) -> list[list[Spec]]:
    """Who is alive at once: all; where memory does not suffice for that, ours with one of theirs at a time; or each alone."""
    alone = [[spec] for spec in specs]
    if options.apart:
        return alone
    needs = [roofline.memory(case, ours=at == 0) for at in range(len(specs))]
    room = free_memory() * MEMORY_SHARE

    def wants(chosen: list[int]) -> int:
        return sum(needs[at][0] for at in chosen) + max(needs[at][1] for at in chosen)

    if wants(list(range(len(specs)))) <= room:
        return [specs]
    if wants([0, 1]) <= room:
        return [[specs[0], other] for other in specs[1:]]
    if max(wants([0]), wants([1])) <= room:
        return alone
    raise Failed(f"too large: needs about {max(wants([0]), wants([1])) / 1e9:.0f} GB, {room / 1e9:.0f} GB are free")


def alternate(contenders: list[Contender], options: Options, turns: int) -> None:
    for first in range(0, turns, options.round):
        for contender in contenders:
            if contender.failed is None:
                contender.round(min(options.round, turns - first))
        alive = [c for c in contenders if c.failed is None]
        if contenders[0].failed or len(alive) < min(2, len(contenders)):
            return
        if first == 0 and options.minutes:
            # Compiling counts as warm-up; the last turn of the round is one like those to come.
            rest = sum(c.turns[-1]["seconds"] for c in alive) * (turns - options.round) / 60
            if rest > options.minutes:
                failed = Failed(f"too long: about {rest:.1f} minutes, --minutes is {options.minutes:g}")
                for contender in alive:
                    contender.fail(failed)
                raise failed


def run(case: Case, options: Options) -> list[dict]:
    """Rows of the table, one for each opponent (two for generation, whose halves have different limits)."""
    dtype = "bfloat16" if options.bf16 else "float32"
    device = options.device.split(":")[0]
    base = {"name": case.name, "case": dataclasses.asdict(case)}
    wanted = opponents(case, options.against)
    left_out = [{**base, "against": called(case, name), "failed": missing(name)} for name in wanted if missing(name)]
    against = [name for name in wanted if not missing(name)]
    try:
        folder = making.ready(options.cache, case, dtype, device)
        specs = [our_spec(case, folder, options), *(their_spec(case, folder, options, name) for name in against)]
        found = []
        together = groups(case, specs, options)
        for group in together:
            contenders = [Contender(spec) for spec in group]
            alternate(contenders, options, options.turns)
            for contender in contenders:
                if contender.failed is None:
                    contender.end()
            found.append(contenders)
        starts = cold(case, specs, options)
    except Failed as failed:
        return [{**base, "against": called(case, name), "failed": str(failed)} for name in wanted]
    rows = []
    alone = len(together[0]) == 1
    if alone and not options.apart:
        base["note"] = "one after the other, for want of memory"
    for group in found:
        ours = found[0][0] if alone else group[0]
        rows += [row for other in group if other is not ours for row in compare(case, options, ours, other, starts, base)]
    return rows + left_out


def cold(case: Case, specs: list[Spec], options: Options) -> dict[str, tuple[float, float]]:
    """Medians of start to first step, new processes in turns."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.cold if case.job in ("train", "dpo") else 0):
        for spec in specs:
            if not spec.compiles:
                try:
                    found.setdefault(spec.name, []).append(first_step(spec))
                except Failed:
                    # The case itself says why; it has no start then.
                    found.setdefault(spec.name, [])
    return {name: tuple(statistics.median(column) for column in zip(*times)) for name, times in found.items() if times}


def disagreement(case: Case, options: Options, ours: Contender, other: Contender) -> tuple[float | None, str | None]:
    """The largest relative difference of what they found, and the reason why a speed would not count."""
    for key in SAME:
        if ours.ready[key] != other.ready[key]:
            return None, f"not the same work: {key} is {ours.ready[key]} and {other.ready[key]}"
    if case.job == "generate":
        same = ours.turns[0]["answers"] == other.turns[0]["answers"]
        if not same:
            pairs = [(a, b) for x, y in zip(ours.turns[0]["answers"], other.turns[0]["answers"]) for a, b in zip(x, y)]
            equal = sum(a == b for a, b in pairs)
            return None, f"not the same tokens: {equal} of {len(pairs)} are"
        return 0.0, None
    key, tolerance = ("log_probs", SCORE_TOLERANCE) if case.job == "score" else ("loss", options.tolerance)
    pairs = [(a, b) for x, y in zip(ours.turns, other.turns) for a, b in zip(flat(x[key]), flat(y[key]), strict=True)]
    worst = max(abs(a - b) / abs(b) for a, b in pairs)
    # A number that is none compares as false.
    return worst, None if worst <= tolerance else f"{key} differs by {worst:.1e}, more than {tolerance:g}"


def flat(value) -> list[float]:
    return value if isinstance(value, list) else [value]


def compare(case: Case, options: Options, ours: Contender, other: Contender, starts, base: dict) -> list[dict]:
    row = {**base, "against": other.name}
    for contender in (ours, other):
        if contender.failed:
            return [{**row, "failed": f"{contender.name}: {contender.failed}"}]
    difference, wrong = disagreement(case, options, ours, other)
    if wrong:
        return [{**row, "failed": wrong, "wrong": True}]
    row.update(
        parameters=other.ready["parameters"], difference=difference,
        processor=[c.processor_per_turn() for c in (ours, other)],
        peak=[c.peak_device or c.peak for c in (ours, other)], idle=[c.ready["idle_rss"] for c in (ours, other)],
        first=[starts.get(c.name, (None, None)) for c in (ours, other)],
        losses=[c.turns[-1].get("loss") for c in (ours, other)],
        seconds_sorted=[sorted(t["seconds"] for t in c.turns[options.round:]) for c in (ours, other)])
    medians = [c.median(options.round) for c in (ours, other)]
    if case.job != "generate":
        cost = roofline.of(case, 2 if options.bf16 else 4)
        return [{**row, "tokens": ours.ready["tokens"], "seconds": medians, "flops": cost.flops, "bytes": cost.bytes}]
    prefill = [c.median(options.round, "prefill_seconds") for c in (ours, other)]
    first, rest = roofline.forward(case), roofline.decode(case)
    new = case.rows * (case.new_tokens - 1)
    return [
        {**row, "name": f"{case.name}, prompt", "tokens": ours.ready["tokens"], "seconds": prefill,
         "flops": first.flops, "bytes": first.bytes, "processor": [None, None]},
        {**row, "name": f"{case.name}, {case.new_tokens} new", "tokens": new,
         "seconds": [whole - part for whole, part in zip(medians, prefill)], "flops": rest.flops, "bytes": rest.bytes}]
