"""Five steps of AdamW with 8-bit moments by bitsandbytes, and its two code maps.

    python adam_8bit.py ../../fixtures/optimizer/adam_8bit.json

torch 2.15.0, bitsandbytes 0.50.2. Weights and gradients follow from a formula that the test repeats; the file holds what
comes out: the maps as bits, and after the last step the codes, the blocks' scales and the first weights.

The steps are bitsandbytes' own. Its quantization on the CPU is replaced by the one it has for every other device, the
nearest value of the map: the CPU's own gives values below about 1e-5 of the largest a code that is not the nearest one.
"""

import json
import sys

import bitsandbytes as bnb
import numpy as np
import torch
from bitsandbytes.backends.cpu import ops
from bitsandbytes.functional import create_dynamic_map

N, STEPS, SHOWN = 4200, 5, 600
LR, BETAS, EPS, DECAY = 0.01, (0.9, 0.999), 1e-8, 0.1


def values(salt):
    """In ±0.5, times a factor that goes down to a thousandth."""
    i = np.arange(N, dtype=np.uint64)
    hashed = (i * np.uint64(2654435761) + np.uint64(salt) * np.uint64(40503)) % np.uint64(1 << 32)
    hashed = (hashed ^ (hashed >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(1 << 32)
    scale = np.array([1.0, 0.5, 0.1, 0.05, 0.01, 0.003, 0.001])[(i % np.uint64(7)).astype(int)]
    return ((hashed.astype(np.float64) / 2.0**32 - 0.5) * scale).astype(np.float32)


def nearest(values, code, absmax, out, blocksize):
    """`bitsandbytes::quantize_blockwise` of bitsandbytes' default backend."""
    padded = torch.nn.functional.pad(values.reshape(-1), (0, -values.numel() % blocksize)).reshape(-1, blocksize)
    largest = padded.abs().amax(1)
    scaled = (padded * (1.0 / largest.clamp(min=1e-38))[:, None]).clamp(-1, 1).reshape(-1)[: values.numel()]
    absmax.copy_(largest)
    out.copy_(torch.bucketize(scaled, (code[:-1] + code[1:]) / 2).to(torch.uint8).reshape(out.shape))


def bits(tensor):
    return tensor.detach().numpy().astype("<f4").tobytes().hex()


def main():
    ops._quant_blockwise_fp32_direct = nearest
    weight = torch.nn.Parameter(torch.from_numpy(values(0)))
    optimizer = bnb.optim.AdamW8bit([weight], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    for step in range(1, STEPS + 1):
        weight.grad = torch.from_numpy(values(step))
        optimizer.step()
    state = optimizer.state[weight]
    out = {
        "elements": N, "steps": STEPS, "lr": LR, "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "weight_decay": DECAY,
        "signed_map": bits(create_dynamic_map(signed=True)),
        "unsigned_map": bits(create_dynamic_map(signed=False)),
        "first_codes": state["state1"].numpy().tobytes().hex(),
        "first_scales": bits(state["absmax1"]),
        "second_codes": state["state2"].numpy().tobytes().hex(),
        "second_scales": bits(state["absmax2"]),
        "first_weights": bits(weight[:SHOWN]),
    }
    with open(sys.argv[1], "w") as file:
        json.dump(out, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
