"""PyTorch files, sound and hostile, for the reader that runs nothing.

    python pickles.py ../../fixtures/pickle     (torch 2.15.0, safetensors 0.8.0, numpy 2.4.6)

`sound/NAME.{pt,bin}` are what `torch.save` writes; `sound/NAME.safetensors` beside them are the same tensors,
contiguous, with the names' order in the metadata. `hostile/` are files that must be refused;
`hostile.json` says with which words. The payloads would create the file `the-pickle-ran`.

A second run writes the same files, but for those of the older layout, whose storages are named by
addresses, and `torchscript.pt`.
"""

import argparse
import builtins
import collections
import io
import json
import os
import pathlib
import pickle
import struct
import zipfile

import torch
from safetensors.torch import save_file

DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.complex64,
]
NEW_DTYPES = [
    torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_dtype(dtype):
    if dtype == torch.bool:
        return values(5) > 0
    if dtype.is_complex:
        return torch.complex(values(3), values(3, seed=1))
    return (values(5).abs() * 20).to(dtype)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def everything(new_dtypes):
    """Every dtype, layout and way of saving that a plain tensor has."""
    torch.manual_seed(0)
    base = values(4, 6)
    tagged = torch.nn.Parameter(values(2))
    tagged.partition_dim = 0
    attributed = values(2, seed=3)
    attributed.note = "attribute"
    state = collections.OrderedDict()
    for dtype in DTYPES + (NEW_DTYPES if new_dtypes else []):
        state[f"dtype.{str(dtype).removeprefix('torch.')}"] = of_dtype(dtype)
    state["whole"] = base
    state["rows"] = base[1:3]
    state["transposed"] = base.t()
    state["columns"] = base[:, 1:5:2]
    state["permuted"] = values(2, 3, 4, seed=2).permute(2, 0, 1)
    state["expanded"] = torch.arange(7).expand((1, -1))
    state["repeated"] = values(3, 1, seed=4).expand(3, 4)
    state["one_row_of_transposed"] = base.t()[2:3]
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0)
    state["empty_with_sides"] = torch.zeros(3, 0, 2)
    state["parameter"] = torch.nn.Parameter(values(2, 2))
    state["frozen"] = torch.nn.Parameter(values(2, 2).bfloat16(), requires_grad=False)
    state["tagged"] = tagged
    state["attributed"] = attributed
    state["größe"] = torch.ones(1)
    state.update({f"tied.{name}": value for name, value in Tied().state_dict().items()})
    state._metadata = collections.OrderedDict({"": {"version": 1}, "norm": {"version": 2}})
    return state


def flat(value, prefix=""):
    if isinstance(value, torch.Tensor):
        return {prefix: value.detach()}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    named = {}
    for key, inner in items:
        if isinstance(inner, (torch.Tensor, dict, list, tuple)):
            named.update(flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return named


def sound(root):
    root.mkdir(parents=True, exist_ok=True)

    def save(name, value, expected=None, **options):
        torch.save(value, root / name, **options)
        named = flat(value if expected is None else expected)
        clones = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in named.items()}
        expectation = root / f"{name}.safetensors"
        save_file(clones, expectation, metadata={"names": json.dumps(list(named))})
        expectation.chmod(0o644)

    save("every.pt", everything(True))
    save("every_protocol4.pt", everything(True), pickle_protocol=4)
    save("every_protocol5.pt", everything(True), pickle_protocol=5)
    save("every_older.pth", everything(False), _use_new_zipfile_serialization=False)
    save("every_older_protocol4.pth", everything(False), _use_new_zipfile_serialization=False, pickle_protocol=4)

    projector = {
        f"model.mm_projector.{layer}.{part}": values(*shape, seed=layer).bfloat16()
        for layer in (0, 2)
        for part, shape in (("weight", (4, 4)), ("bias", (4,)))
    }
    save("mm_projector.bin", projector)
    save(
        "non_lora_trainables.bin",
        {f"base_model.model.{name}": tensor.half() for name, tensor in projector.items()},
    )

    save("zip64.bin", projector)
    (root / "zip64.bin").write_bytes(zip64((root / "zip64.bin").read_bytes()))
    assert torch.load(root / "zip64.bin", weights_only=True).keys() == projector.keys()

    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.norm(model.embed(torch.arange(5))).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    training = {
        "epoch": 3,
        "best": 0.25,
        "state_dict": collections.OrderedDict(("module." + k, v) for k, v in model.state_dict().items()),
        "optimizer": optimizer.state_dict(),
        "rng_state": torch.get_rng_state()[:16].clone(),
        "notes": ["a", {"b": None}, (1, 2), {3, 4}, b"bytes", 2**80, torch.float16, torch.Size([2, 3])],
    }
    save("training.pt", training, training["state_dict"])
    save("optimizer.pt", optimizer.state_dict())
    save("nested.pt", {"encoder": {"w": values(2)}, "layers": [values(2, seed=1), {"b": values(1)}], "step": 7})


def zip64(data):
    """The archive with the directory that one beyond 4 GiB has."""
    count, size, start = struct.unpack("<HII", data[-12:-2])
    directory, at, wide = data[start : start + size], 0, b""
    while at < size:
        name, extra, comment = struct.unpack("<HHH", directory[at + 28 : at + 34])
        packed, unpacked = struct.unpack("<II", directory[at + 20 : at + 28])
        (offset,) = struct.unpack("<I", directory[at + 42 : at + 46])
        field = struct.pack("<HHQQQ", 1, 24, unpacked, packed, offset)
        wide += directory[at : at + 20] + b"\xff" * 8 + struct.pack("<HHH", name, len(field), 0)
        wide += directory[at + 34 : at + 42] + b"\xff" * 4 + directory[at + 46 : at + 46 + name] + field
        at += 46 + name + extra + comment
    end = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(wide), start)
    locator = struct.pack("<IIQI", 0x07064B50, 0, start + len(wide), 1)
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:start] + wide + end + locator + tail


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Custom:
    pass


RUN = "echo > the-pickle-ran"


def archive(entries, compression=zipfile.ZIP_STORED):
    """A zip archive with exactly these entries, in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            out.writestr(info, data)
    return buffer.getvalue()


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def entries_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        return [(info.filename, source.read(info)) for info in source.infolist()]


def calls():
    """Files that would run something, by the words of their refusal."""
    weights = {"w": torch.ones(2)}
    yield "system.pt", saved({**weights, "x": Call(os.system, RUN)}), "`posix.system`"
    yield "system_protocol4.pt", saved({**weights, "x": Call(os.system, RUN)}, pickle_protocol=4), "`posix.system`"
    older = saved({**weights, "x": Call(os.system, RUN)}, _use_new_zipfile_serialization=False)
    yield "system_older.pth", older, "`posix.system`"
    yield "eval.pt", saved(Call(builtins.eval, "1")), "eval`"
    yield "getattr.pt", saved({"x": Call(getattr, torch.ones(1), "shape")}), "getattr`"
    yield "bare.bin", pickle.dumps(Call(os.system, RUN)), "`posix.system`"
    yield "bare_protocol0.bin", pickle.dumps(Call(os.system, RUN), protocol=0), "`posix.system`"
    yield "own_class.pt", saved({"w": torch.ones(2), "args": Custom()}), "`__main__.Custom`"
    yield "whole_module.pt", saved(torch.nn.Linear(2, 2)), "`torch.nn.modules.linear.Linear`"
    yield "second_pickle.pt", saved({"w": Call(torch.storage._load_from_bytes, b"")}), "`torch.storage._load_from_bytes`"
    yield "numpy.pt", saved({"w": values(2).numpy()}), "numpy"
    magic_only = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + pickle.dumps(Call(os.system, RUN), 2)
    yield "system_in_protocol.pth", magic_only, "`posix.system`"


def tensors():
    """Tensors that are no plain arrays, and files that are no state dict."""
    yield "sparse.pt", saved({"w": torch.eye(2).to_sparse()}), "_rebuild_sparse_tensor`, a sparse tensor"
    quantized = torch.quantize_per_tensor(values(4), 0.1, 0, torch.qint8)
    yield "quantized.pt", saved({"w": quantized}), "_rebuild_qtensor`, a quantized tensor"
    yield "conjugate.pt", saved({"w": torch.view_as_complex(values(2, 2)).conj()}), "carries the flag `conj`"
    yield "complex128.pt", saved({"w": values(2).to(torch.complex128)}), "complex128"
    yield "meta.pt", saved({"w": torch.ones(2, device="meta")}), "`meta`, which has no values"
    yield "no_tensor.pt", saved({"epoch": 3}), "there is no tensor"
    yield "one_tensor.pt", saved(torch.ones(2)), "the file holds a tensor"
    yield "list.pt", saved([torch.ones(2)]), "the file holds a list"
    two = {"state_dict": {"w": torch.ones(2)}, "ema": {"w": torch.ones(2)}}
    yield "two_models.pt", saved(two), "under `state_dict` and under `ema`"
    looped = {"w": torch.ones(2)}
    looped["self"] = looped
    yield "holds_itself.pt", saved(looped), "holds itself"
    wide = {"w": torch.ones(1)}
    for _ in range(20):
        wide = {"a": wide, "b": wide}
    yield "million_names.pt", saved(wide), "repeated more often"
    yield "expanded.pt", saved({"w": torch.ones(1).expand(1000, 1000)}), "repeats elements"
    yield "dotted_twice.pt", saved({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}), "`a.b` occurs twice"


def archives():
    """Archives that torch did not write."""
    plain = entries_of(saved({"w": torch.ones(2)}))
    root = plain[0][0].split("/")[0]
    storage = f"{root}/data/0"
    yield "compressed.pt", archive(plain, zipfile.ZIP_DEFLATED), "is compressed"
    yield "big_endian.pt", archive([(n, b"big" if n.endswith("byteorder") else d) for n, d in plain]), "big-endian"
    yield "odd_endian.pt", archive([(n, b"odd" if n.endswith("byteorder") else d) for n, d in plain]), "`odd`"
    yield "parent.pt", archive([*plain, (f"{root}/../x", b"")]), "leaves the archive's folder"
    yield "rooted.pt", archive([*plain, ("/etc/x", b"")]), "leaves the archive's folder"
    yield "two_roots.pt", archive([*plain, ("other/x", b"")]), "lies outside the folder"
    yield "no_storage.pt", archive([e for e in plain if e[0] != storage]), "storage `0`, which is not in the file"
    short = [(n, d[:5] if n == storage else d) for n, d in plain]
    yield "short_storage.pt", archive(short), "for which the file has 5 bytes"
    yield "no_pickle.pt", archive([e for e in plain if not e[0].endswith("data.pkl")]), "without `data.pkl`"
    yield "future.pt", archive([(n, b"11" if n.endswith("version") else d) for n, d in plain]), "version `11`"
    twice = archive([*plain, (f"{root}/data/1", b"12345678")])
    yield "entry_twice.pt", twice.replace(f"{root}/data/1".encode(), storage.encode()), "twice"
    yield "overlapping.pt", overlapping(plain, storage), "overlap"
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    torchscript = [e for e in entries_of(buffer.getvalue()) if "/code/" not in e[0]]
    yield "torchscript.pt", archive(torchscript), "TorchScript"
    yield "lfs.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"
    yield "text.bin", b"<html>not found</html>", "neither with a zip archive"
    yield "empty.bin", b"", "0 bytes"


def overlapping(plain, storage):
    """Two entries of the directory that share one entry's bytes."""
    data = bytearray(archive([*plain, (storage[:-1] + "1", b"12345678")]))
    headers = {}
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        length = struct.unpack("<H", data[at + 28 : at + 30])[0]
        headers[bytes(data[at + 46 : at + 46 + length]).decode()] = at
        at = data.find(b"PK\x01\x02", at + 1)
    one, other = headers[storage], headers[storage[:-1] + "1"]
    data[other + 42 : other + 46] = data[one + 42 : one + 46]
    data[other + 46 : other + 46 + len(storage)] = storage.encode()
    return bytes(data)


def hostile(root):
    root.mkdir(parents=True, exist_ok=True)
    words = {}
    for name, data, needle in (*calls(), *tensors(), *archives()):
        (root / name).write_bytes(data)
        words[name] = needle
    (root.parent / "hostile.json").write_text(json.dumps(words, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    fixtures = parser.parse_args().fixtures
    sound(fixtures / "sound")
    hostile(fixtures / "hostile")
