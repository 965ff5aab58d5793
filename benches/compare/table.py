"""The Markdown table, and what stands above it."""
import datetime
import os
import platform
import subprocess

from .contender import HERE

HEAD = ["case", "parameters", "against", "ours, tokens/s", "theirs, tokens/s", "ratio", "processor, ms a turn",
        "peak memory, MB", "start to first step, s", "processor until then, s", "last loss", "largest difference", "of the arithmetic limit",
        "of the memory limit", "note"]
LEFT = [0, 2]


def versus(ours, theirs, form, share: bool = False) -> str:
    """`a / b`, and the one as a part of the other."""
    if ours is None or theirs is None:
        return "–"
    part = f" ({ours / theirs:.2f})" if share and theirs else ""
    return f"{form(ours)} / {form(theirs)}{part}"


def cells(row: dict, limits: dict) -> list[str]:
    if "failed" in row:
        note = ("**no speed counts:** " if row.get("wrong") else "") + row["failed"].replace("|", "/")
        return [row["name"], "", row["against"], *["–"] * (len(HEAD) - 4), note]
    ours, theirs = row["seconds"]
    n = row["tokens"]
    parts = []
    for key, measured in [("flops", ["flops"]), ("bytes", ["copied", "read"])]:
        # The machine's limit is the highest of those measured.
        limit = max((one[name] for one in limits.values() for name in measured), default=None)
        shares = [limit and row[key] / seconds / limit for seconds in (ours, theirs)]
        parts.append(versus(*shares, lambda x: f"{100 * x:.0f}%"))
    # Seconds, and the processor's.
    first, work = zip(*row["first"])
    difference = "same tokens" if row["losses"][0] is None and row["difference"] == 0.0 else f"{row['difference']:.1e}"
    return [
        row["name"], f"{row['parameters'] / 1e6:.1f} M", row["against"], f"{n / ours:.0f}", f"{n / theirs:.0f}",
        f"**{theirs / ours:.2f}**", versus(*[p and 1e3 * p for p in row["processor"]], lambda x: f"{x:.0f}", True),
        versus(*row["peak"], lambda x: f"{x / 1e6:.0f}", True), versus(*first, lambda x: f"{x:.2f}", True),
        versus(*work, lambda x: f"{x:.2f}", True),
        versus(*row["losses"], lambda x: f"{x:.5f}"), difference, *parts, row.get("note", "")]


def text(rows: list[dict], limits: dict) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "|".join("---" if i in LEFT else "--:" for i in range(len(HEAD))) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(cells(row, limits)) + " |")
    return "\n".join(lines)


def roofline(limits: dict) -> str:
    if not limits:
        return "The machine's limits were not measured."
    how = {"ours": "`gemm`", "theirs": "`torch.mm`"}
    one = [f"{who} {limit['flops'] / 1e9:.0f} GFLOP/s ({how[who]}, {limit['dtype']}), {limit['copied'] / 1e9:.1f} GB/s copied (read and "
           f"write counted), {limit['read'] / 1e9:.1f} GB/s read" for who, limit in limits.items()]
    return (f"Limits measured in the same run: {'; '.join(one)}. The machine's limit is the "
            "highest. A percentage is the least work of a case (counted in `compare/roofline.py`) over its time and that "
            "limit; where the higher of a case's two percentages is 100%, nothing is left to gain.")


def processor() -> str:
    output = subprocess.run(["lscpu"], stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    fields = dict(line.split(":", 1) for line in output.splitlines() if ":" in line)
    return fields.get("Model name", platform.processor()).strip()


def versions(packages: list[str]) -> str:
    from importlib.metadata import PackageNotFoundError, version

    def of(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    rustc = subprocess.run(["rustc", "--version"], cwd=HERE.parent, stdout=subprocess.PIPE, text=True).stdout.split()[1]
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE.parent, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True).stdout.strip()
    ours = f"firebrick {revision or 'uncommitted'}, rustc {rustc}"
    return ", ".join([ours, *map(of, packages)])


def is_loaded(before: float) -> bool:
    """Whether other work ran, by the load average of the minute before anything of ours did."""
    return before > 0.25


def append(heading: str, notes: list[str], table: str) -> None:
    results = HERE / "RESULTS.md"
    start = "" if results.exists() else "# Results\n"
    with open(results, "a") as file:
        file.write(f"{start}\n## {datetime.date.today()}, {heading}\n\n" + "\n\n".join(notes) + f"\n\n{table}\n")
