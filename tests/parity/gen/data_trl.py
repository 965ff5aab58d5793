"""How TRL reads, tokenizes and cuts records: what `src/data/tests/trl.rs` compares with, out of the objectives' fixtures.

    python data_trl.py FIXTURES OUT.json        (FIXTURES has records.json, objectives_pairs.json, objectives_scores.json)
"""

import json
import pathlib
import sys


def main():
    folder, out = map(pathlib.Path, sys.argv[1:])
    records, pairs, scores = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
                              for name in ("records", "objectives_pairs", "objectives_scores"))
    assert len(records["pairs"]) == len(pairs["pairs"])
    sides = ("chosen", "rejected")
    content = {
        "forms": {name: {"record": form["record"], **{side: form["cpo"][side] for side in sides}}
                  for name, form in pairs["forms"].items()},
        "pairs": [{"record": {key: record[key] for key in ("prompt", *sides)},
                   **{side: {key: made[side][key] for key in ("ids", "start")} for side in sides}}
                  for record, made in zip(records["pairs"], pairs["pairs"])],
        "truncated": pairs["truncated"],
        "scored": records["scored"],
        "steps": [{"separator": case["settings"].get("step_separator", "\n"),
                   "rows": [{"ids": row["ids"], "at": row["at"]} for row in case["rows"]]}
                  for case in scores["prm"] if case["settings"] in ({}, {"step_separator": "\n\n"})],
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"
             for key, value in content.items())
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
