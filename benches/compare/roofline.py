"""What a case costs at least, and what this machine can do at most.

Operations: two per multiplication of a matrix product. Forward: every linear layer at every position, causal attention
over half of the square, the head at the learned positions alone. Backward: twice that for what is trained, once (the
gradient of the input) for what is frozen with something trained below it; attention twice. Nothing is recomputed.

Bytes: four for each number, in bf16 two but for what is trained and its moments. Every weight is read in the forward pass
and, where its layer has a backward pass, in that; a trained one also has a gradient written and read, and weight and both
moments read and written by AdamW. What a linear layer takes and yields is read or written once forward and, in the
backward pass, the input once more and both gradients once. Logits, scores and everything between are free: a fused operation
need not store them.
"""
import dataclasses
import json
import subprocess

from .cases import Case
from .contender import HERE, Spec


@dataclasses.dataclass(frozen=True)
class Cost:
    flops: float
    bytes: float


def layer_sizes(shape: dict) -> list[tuple[int, int]]:
    """Inputs and outputs of a block's linear layers."""
    d, f = shape["width"], shape["mlp"]
    keys = d // shape["heads"] * shape["kv_heads"]
    return [(d, d), (d, keys), (d, keys), (d, d), (d, f), (d, f), (f, d)]


def linear_weights(shape: dict) -> int:
    return shape["layers"] * sum(i * o for i, o in layer_sizes(shape))


def parameters(shape: dict) -> int:
    return linear_weights(shape) + 2 * shape["vocabulary"] * shape["width"]


def trainable(case: Case) -> int:
    if case.mode == "full":
        return parameters(case.shape)
    return case.shape["layers"] * sum(case.rank * (i + o) for i, o in layer_sizes(case.shape))


def tokens(case: Case) -> int:
    return sum(end - start for start, end in case.bounds())


def learned(case: Case) -> int:
    if case.job == "generate":
        return case.rows
    starts = [case.length // 4 if case.job == "dpo" else case.answer_start] * case.rows
    return sum(max(0, end - max(start, 1)) for start, (_, end) in zip(starts, case.bounds()))


def tower(case: Case) -> float:
    """Operations of the frozen vision tower, attention aside."""
    shape = case.shape["tower"]
    weights = shape["layers"] * (4 * shape["width"] ** 2 + 2 * shape["width"] * shape["mlp"])
    return 2 * case.images * (case.image_tokens + 1) * weights


def forward(case: Case, each: int = 4) -> Cost:
    """One pass without gradients; numbers of `each` bytes."""
    shape, n = case.shape, tokens(case)
    d, v = shape["width"], shape["vocabulary"]
    squares = sum((end - start) ** 2 for start, end in case.bounds())
    # Scores and mixture, two operations each, over half of the square.
    attention = shape["layers"] * squares * 2 * d
    flops = 2 * n * linear_weights(shape) + attention + 2 * learned(case) * d * v
    through = shape["layers"] * sum(i + o for i, o in layer_sizes(shape))
    return Cost(flops + tower(case), each * (linear_weights(shape) + d * v + n * through))


def of(case: Case, each: int = 4) -> Cost:
    """A turn: an optimizer step, or a pass; numbers of `each` bytes where they are not trained."""
    plain, shape, n = forward(case, each), case.shape, tokens(case)
    if case.job in ("generate", "score"):
        return plain
    through = shape["layers"] * sum(i + o for i, o in layer_sizes(shape))
    squares = sum((end - start) ** 2 for start, end in case.bounds())
    attention = shape["layers"] * squares * 2 * shape["width"]
    linear = plain.flops - attention - tower(case)
    trained = trainable(case)
    if case.mode == "full":
        flops = plain.flops + 2 * linear + 2 * attention
    else:
        flops = plain.flops + linear + 2 * attention + 3 * 2 * n * trained
        if not case.images:
            # Below the first block nothing is trained: the gradient of its input is not needed.
            flops -= 2 * n * sum(i * o + case.rank * i for i, o in layer_sizes(shape)[:3])
    weights = linear_weights(shape) + shape["vocabulary"] * shape["width"]
    moved = plain.bytes + each * (weights + 2 * n * through) + 4 * trained * (2 + 6)
    if case.job == "dpo" and case.reference in ("adapter_off", "frozen_copy"):
        flops, moved = flops + plain.flops, moved + plain.bytes
    return Cost(flops, moved)


def decode(case: Case) -> Cost:
    """All new tokens but the first, which the first pass yields: weights and keys are read for each."""
    shape, steps = case.shape, case.new_tokens - 1
    weights = linear_weights(shape) + shape["width"] * shape["vocabulary"]
    keys = shape["layers"] * 2 * (shape["width"] // shape["heads"] * shape["kv_heads"])
    held = sum(end - start for start, end in case.bounds()) + case.rows * steps / 2
    attention = shape["layers"] * 4 * shape["width"] * held
    return Cost(steps * (2 * case.rows * weights + attention), 4 * steps * (weights + keys * held))


def memory(case: Case, ours: bool) -> tuple[int, int]:
    """Bytes that a contender holds between its turns, and that it needs besides within one: rough, for the choice of how
    many are alive at once."""
    shape, n = case.shape, case.rows * case.length
    copies = 2 if case.reference == "frozen_copy" and not ours else 1
    held = 4 * parameters(shape) * copies + (10_000_000 if ours else 700_000_000)
    trains = case.job in ("train", "dpo")
    layers = shape["layers"] if trains else 1
    within = 4 * n * layers * (10 * shape["width"] + 3 * shape["mlp"])
    held += 12 * trainable(case) if trains else 0
    if not ours:
        # Eager attention keeps the weights of every layer, and has three more squares at work; of the logits there are a
        # copy in f32, their softmax and the gradients.
        within += 4 * case.rows * shape["heads"] * case.length ** 2 * (layers + 3) + 6 * 4 * n * shape["vocabulary"]
    return int(held), int(within)


def measure_ours(spec: Spec) -> dict:
    output = subprocess.run(
        list(map(str, spec.command(None))), stdout=subprocess.PIPE, text=True, check=True, env=spec.environment(), cwd=HERE)
    return {**json.loads(output.stdout.splitlines()[-1])["limits"], "dtype": "f32"}


def measure_theirs(threads: int, device: str = "cpu") -> dict:
    """The same matrices and the same buffer with `torch.mm`, `copy_` and `sum`, on a GPU larger ones in bf16; run in a process of
    its own."""
    import time

    import torch

    torch.set_num_threads(threads)
    gpu = device != "cpu"
    wait = torch.cuda.synchronize if gpu else lambda: None

    def best(act) -> float:
        act()
        times = []
        for _ in range(5):
            wait()
            started = time.perf_counter()
            act()
            wait()
            times.append(time.perf_counter() - started)
        return min(times)

    size, copied = (8192, 256 << 20) if gpu else (2048, 64 << 20)
    dtype = torch.bfloat16 if gpu else torch.float32
    a, b, c = (torch.full((size, size), 1e-3, dtype=dtype, device=device) for _ in range(3))
    from_, to = torch.ones(copied, device=device), torch.zeros(copied, device=device)
    return {"threads": torch.get_num_threads(), "dtype": "bf16" if gpu else "f32",
            "flops": 2 * size ** 3 / best(lambda: torch.mm(a, b, out=c)),
            "copied": 2 * 4 * copied / best(lambda: to.copy_(from_)), "read": 4 * copied / best(lambda: from_.sum())}
