"""Pairs of a right and a wrong answer from visual instructions about digits.

    python pairs.py DIGITS OUTPUT

DIGITS holds `train.json` and `eval.json` in LLaVA's form, each record with one image, one question and one answer that names one
digit in words ("This is two."). For each record the right answer is chosen, and rejected is the same sentence with another
digit, drawn with a fixed seed, so that only the picture tells which of the two is right. OUTPUT gets `train.jsonl` and
`eval.jsonl` of `{"id", "image", "prompt", "chosen", "rejected"}`, image paths relative to DIGITS. Standard library only.
"""

import json
import pathlib
import random
import re
import sys

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORD = re.compile(r"\b(" + "|".join(DIGITS) + r")\b", re.IGNORECASE)


def wrong(answer, rng):
    """The answer with another digit, its capital kept."""
    right = WORD.search(answer)
    if right is None:
        raise SystemExit(f"no digit in {answer!r}")
    other = rng.choice([word for word in DIGITS if word != right.group().lower()])
    other = other.capitalize() if right.group()[0].isupper() else other
    return answer[: right.start()] + other + answer[right.end() :]


def main(source, output):
    output.mkdir(parents=True, exist_ok=True)
    for part in ("train", "eval"):
        rng = random.Random(f"digit pairs, {part}")
        with open(output / f"{part}.jsonl", "w", encoding="utf-8") as file:
            for record in json.loads((source / f"{part}.json").read_text(encoding="utf-8")):
                question, answer = (turn["value"] for turn in record["conversations"])
                row = {
                    "id": record["id"],
                    "image": record["image"],
                    "prompt": question,
                    "chosen": answer,
                    "rejected": wrong(answer, rng),
                }
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
