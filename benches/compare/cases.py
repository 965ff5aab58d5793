"""What is compared: sizes, batches, and the cases that are made of them."""
import dataclasses
import itertools

# Positions before this one are the question and are not learned.
ANSWER_START = 40
# Of a sparse batch the last tenth of the positions is learned.
SPARSE = 10
RANK = 8
# Of `train`; and of `dpo`, by mode: pairs of random words are told apart soon, and a loss near 0 would show nothing.
LEARNING_RATE = 1e-4
PAIR_LEARNING_RATES = {"full": 1e-6, "lora": 1e-5}
MAX_GRAD_NORM = 1.0
BETA = 0.1
NEW_TOKENS = 64

# A tower that costs little beside the language model.
SMALL_TOWER = dict(width=128, mlp=512, layers=2, heads=4, image=32, patch=8)
SIZES = {
    "5m": dict(width=256, layers=4, heads=8, kv_heads=8, mlp=688, vocabulary=4096, tower=SMALL_TOWER),
    "60m": dict(width=512, layers=8, heads=8, kv_heads=8, mlp=1376, vocabulary=32000, tower=SMALL_TOWER),
    "300m": dict(width=1024, layers=21, heads=16, kv_heads=4, mlp=2816, vocabulary=32000, tower=SMALL_TOWER),
}
# Shapes for a GPU; see cuda.py. Tower of LLaVA-1.5: CLIP ViT-L/14 at 336 pixels.
LARGE_TOWER = dict(width=1024, mlp=4096, layers=24, heads=16, image=336, patch=14)
LARGE = {
    "8b": dict(width=4096, layers=32, heads=32, kv_heads=8, mlp=14336, vocabulary=128256, tower=LARGE_TOWER),
    "1.5b": dict(width=2048, layers=22, heads=16, kv_heads=8, mlp=8192, vocabulary=32000, tower=LARGE_TOWER),
    "7b": dict(width=4096, layers=32, heads=32, kv_heads=32, mlp=11008, vocabulary=32064, tower=LARGE_TOWER),
    "tiny": dict(width=64, layers=2, heads=4, kv_heads=2, mlp=128, vocabulary=256, tower=SMALL_TOWER),
}
LENGTHS = [256, 1024, 2048]
FAMILIES = ["llama", "llava"]
MODES = ["full", "lora"]
SUPERVISIONS = ["dense", "sparse"]
JOBS = ["train", "dpo", "generate", "score"]
# Rows of a batch. Eager attention keeps the scores of every layer: 300m at 2048 takes PyTorch some 12 GB.
ROWS = {("5m", 256): 4, ("5m", 1024): 2, ("5m", 2048): 1, ("60m", 256): 4, ("60m", 1024): 1, ("60m", 2048): 1,
        ("300m", 256): 1, ("300m", 1024): 1, ("300m", 2048): 1}
# Answers that are written at once.
GENERATE_ROWS = [1, 8, 32]
# Which way of training a reference of DPO goes with.
REFERENCES = {"adapter_off": ["lora"], "frozen_copy": ["full"], "stored": ["full", "lora"]}


@dataclasses.dataclass(frozen=True)
class Case:
    """One row group of the table."""

    job: str
    family: str
    size: str
    mode: str
    length: int
    rows: int
    supervision: str = "dense"
    reference: str = "none"
    new_tokens: int = 0
    rank: int = RANK
    # Settings of ours (`key=value`, as after a recipe's `--set`) and of theirs, beyond those that all cases have.
    ours: tuple[str, ...] = ()
    theirs: tuple[tuple[str, object], ...] = ()
    # What these settings are called in the table.
    variant: str = ""

    @property
    def shape(self) -> dict:
        return (SIZES | LARGE)[self.size]

    @property
    def model(self) -> str:
        return f"{self.family}-{self.size}"

    @property
    def name(self) -> str:
        words = [self.job, self.family, self.size]
        if self.job in ("train", "dpo"):
            words.append("full" if self.mode == "full" else f"LoRA r {self.rank}")
        if self.job == "dpo":
            words.append(self.reference)
        if self.job == "train":
            words.append(self.supervision)
        words.append(f"{self.rows} × {self.length}")
        if self.variant:
            words.append(self.variant)
        return " ".join(words)

    @property
    def learning_rate(self) -> float:
        return PAIR_LEARNING_RATES[self.mode] if self.job == "dpo" else LEARNING_RATE

    @property
    def images(self) -> int:
        return self.rows if self.family == "llava" else 0

    @property
    def image_tokens(self) -> int:
        tower = self.shape["tower"]
        return (tower["image"] // tower["patch"]) ** 2 if self.images else 0

    @property
    def answer_start(self) -> int:
        """The first learned position of a row of `train` and `score`."""
        if self.supervision == "sparse":
            return self.length - self.length // SPARSE
        return max(ANSWER_START, self.image_tokens + 1)

    def bounds(self) -> list[tuple[int, int]]:
        """Of each row, its first position and the one behind its last: what lies outside is padding."""
        if self.job == "generate":
            return [(row % 8 * self.length // 16, self.length) for row in range(self.rows)]
        if self.job == "score":
            return [(0, self.length - row * self.length // 8) for row in range(self.rows)]
        if self.job == "dpo":
            return [(0, self.length - row % 2 * (self.length // 8)) for row in range(self.rows)]
        return [(0, self.length)] * self.rows

    @property
    def batch_name(self) -> str:
        kind = f"{self.job}-{self.supervision}" if self.job == "train" else self.job
        return f"{kind}-{self.rows}x{self.length}.safetensors"


def every(size: str, length: int) -> list[Case]:
    """All cases of one size and length."""
    rows = ROWS[size, length]
    found = [Case("train", family, size, mode, length, rows, supervision)
             for family, supervision, mode in itertools.product(FAMILIES, SUPERVISIONS, MODES)]
    for reference, modes in REFERENCES.items():
        # A row of a pair is a row of the batch.
        found += [Case("dpo", "llama", size, mode, length, max(2, rows), reference=reference) for mode in modes]
    found += [Case("generate", family, size, "full", length, rows, new_tokens=NEW_TOKENS)
              for family in FAMILIES for rows in GENERATE_ROWS]
    found += [Case("score", family, size, "full", length, max(2, rows)) for family in FAMILIES]
    return found


def is_usual(case: Case) -> bool:
    """Whether a case stands in the usual table, which varies one thing at a time: 54 of all 180."""
    if case.job == "train":
        # Supervision matters where the vocabulary does; images beside text at the shortest length.
        plain = case.family == "llama" and (case.supervision == "dense" or case.length == 1024)
        return plain or (case.supervision == "dense" and case.length == 256)
    shortest = case.length == 256
    if case.job == "dpo":
        return shortest and (case.reference, case.mode) != ("stored", "full")
    if case.job == "generate":
        return shortest and case.size != "300m" and (case.family, case.rows) != ("llava", 32)
    return case.family == "llama" and case.length in (256, 1024) and (shortest or case.size != "300m")


def select(jobs, families, sizes, lengths, modes, supervisions, references, everything: bool) -> list[Case]:
    found = [case for size in sizes for length in lengths for case in every(size, length)]
    return [case for case in found
            if case.job in jobs and case.family in families and case.mode in modes
            and (case.job != "train" or case.supervision in supervisions)
            and (case.job != "dpo" or case.reference in references) and (everything or is_usual(case))]
