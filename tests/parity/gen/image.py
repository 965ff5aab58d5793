"""Pictures and what Pillow and transformers make of them, for the tests of src/image.

Pinned: Python 3.11, numpy 2, pillow 13.0.0 (libjpeg-turbo), transformers 5.23.0 (its Pillow processors).
Pillow 12 and older differ: they resize horizontally first whatever the shape, version 13 some pictures vertically first.
Run from the repository's root: python tests/parity/gen/image.py
Writes tests/fixtures/image/*.{png,jpg} and expected.json; results are kept as SHA-256 of their bytes (u8 or little-endian
f32), because they are compared bit for bit.
"""

import hashlib
import json
import pathlib
import struct
import zlib

import numpy as np
import PIL
import transformers
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

OUT = pathlib.Path("tests/fixtures/image")
BICUBIC, BILINEAR = 3, 2


def photograph(width, height, seed):
    """Gradients, waves, hard edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    a = np.stack([127 + 100 * np.sin(x / 9 + y / 17), 127 + 100 * np.cos(x / 23 - y / 5), 127 * (x / width + y / height)], -1)
    a[height // 4 : height // 2, width // 3 : width // 2] = [255, 0, 0]
    a[height // 2 :, : width // 5] = [0, 0, 255]
    a += rng.normal(0, 25, a.shape)
    return Image.fromarray(np.clip(a, 0, 255).astype(np.uint8))


def png(path, width, height, depth, colour, rows, extra=b""):
    """A PNG that Pillow does not write: 16-bit colours."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def write_pictures():
    for width, height in [(97, 61), (61, 97), (64, 64), (240, 9), (7, 120), (3, 2), (1, 1)]:
        photograph(width, height, width).save(OUT / f"rgb_{width}x{height}.png", optimize=True)
    base = photograph(45, 31, 5)
    base.convert("L").save(OUT / "grey.png")
    base.convert("1").save(OUT / "bits.png")
    base.quantize(16).save(OUT / "palette.png", transparency=3)
    alpha = Image.fromarray(np.linspace(0, 255, 45 * 31).reshape(31, 45).astype(np.uint8))
    rgba = base.copy()
    rgba.putalpha(alpha)
    rgba.save(OUT / "rgba.png")
    rgba.convert("LA").save(OUT / "grey_alpha.png")
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 600, (9, 11)).astype(np.uint16)).save(OUT / "grey16.png")
    for name, colour, samples in [("rgb16", 2, 3), ("rgba16", 6, 4), ("grey_alpha16", 4, 2)]:
        values = rng.integers(0, 65536, (9, 11 * samples)).astype(">u2")
        png(OUT / f"{name}.png", 11, 9, 16, colour, [row.tobytes() for row in values])
    photo = photograph(83, 53, 8)
    for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
        photo.save(OUT / f"{name}.jpg", quality=80, subsampling=subsampling)
    photo.save(OUT / "progressive.jpg", quality=60, progressive=True, subsampling=2)
    photo.save(OUT / "restart.jpg", quality=70, restart_marker_blocks=3)
    photo.convert("L").save(OUT / "grey.jpg", quality=70)
    photo.convert("CMYK").save(OUT / "cmyk.jpg", quality=70)
    # Samplings that Pillow does not write: the same blocks under other luma factors (what they show does not matter).
    for name, factors, subsampling, (width, height) in [("440", 0x12, 1, (48, 48)), ("411", 0x41, 2, (64, 32))]:
        path = OUT / f"{name}.jpg"
        photograph(width, height, 4).save(path, quality=80, subsampling=subsampling)
        data = bytearray(path.read_bytes())
        data[data.index(b"\xff\xc0") + 11] = factors
        path.write_bytes(data)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(OUT / "rotated.jpg", quality=70, exif=exif)


def processors():
    pads = dict(do_pad=True)
    for size in (14, 56, 70):
        square = dict(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        yield f"clip_{size}", CLIPImageProcessorPil(**square)
        yield f"llava_pad_{size}", LlavaImageProcessorPil(**square, **pads)
    yield "small_resize", CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 31, "width": 28})
    yield "crop_only", CLIPImageProcessorPil(do_resize=False, crop_size={"height": 33, "width": 40})
    yield "squash", CLIPImageProcessorPil(size={"height": 42, "width": 28}, do_center_crop=False, resample=BILINEAR)
    yield "bytes", CLIPImageProcessorPil(crop_size=32, do_rescale=False, do_normalize=False, size={"shortest_edge": 40})


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    write_pictures()
    decoded, resized, processed, configs = [], [], [], {}
    files = sorted(p for p in OUT.iterdir() if p.suffix in (".png", ".jpg"))
    for path in files:
        rgb = Image.open(path).convert("RGB")
        decoded.append(dict(file=path.name, width=rgb.width, height=rgb.height, sha256=sha(np.array(rgb))))
    pictures = [p for p in files if p.name.startswith("rgb_")]
    for path in pictures:
        rgb = Image.open(path).convert("RGB")
        for height, width in [(336, 20), (20, 336), (61, 97), (64, 64), (5, 3), (1, 1), (61, 40), (120, 97)]:
            for filter in (BICUBIC, BILINEAR):
                result = np.array(rgb.resize((width, height), resample=filter))
                resized.append(dict(file=path.name, height=height, width=width, resample=filter, sha256=sha(result)))
    for name, processor in processors():
        configs[name] = {k: v for k, v in json.loads(processor.to_json_string()).items()}
        for path in pictures:
            values = processor(Image.open(path).convert("RGB"), return_tensors="np")["pixel_values"][0]
            values = values.astype("<f4")
            processed.append(dict(config=name, file=path.name, shape=values.shape, sha256=sha(values)))
    versions = dict(pillow=PIL.__version__, transformers=transformers.__version__)
    expected = dict(versions=versions, decoded=decoded, resized=resized, configs=configs, processed=processed)
    lines = json.dumps(expected, indent=None).replace('{"file"', '\n{"file"').replace('{"config"', '\n{"config"')
    (OUT / "expected.json").write_text(lines + "\n")


main()
