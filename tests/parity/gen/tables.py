"""Parquet tables of tests/fixtures/data/parquet, and beside each the rows as the library that wrote it reads them.

`python tables.py ../../fixtures/data/parquet` (pyarrow 26.0.1, datasets 5.2.0, pillow 13.0.0).
"""

import datetime
import decimal
import hashlib
import io
import json
import math
import sys
import uuid
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

OUT = Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
# Without what a reader of rows has no use for, the files stay small.
SMALL = {"write_statistics": False, "store_schema": False}


def picture(colour, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), colour).save(buffer, kind)
    return buffer.getvalue()


def plain(value):
    """A Python value as the JSON that a row should become."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        for magic, extension in ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpg")):
            if value.startswith(magic):
                return hashlib.sha256(value).hexdigest() + "." + extension
        try:
            return value.decode()
        except UnicodeDecodeError:
            return hashlib.sha256(value).hexdigest() + ".bin"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, decimal.Decimal):
        return int(value) if value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        precision = "seconds" if not value.microsecond else "microseconds" if value.microsecond % 1000 else "milliseconds"
        return value.isoformat(timespec=precision).replace("+00:00", "Z")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return value


def expect(name, rows):
    (OUT / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False) + "\n")


def conversations(count):
    """Rows of a chat, the fields nested as published sets nest them."""
    rows = []
    for i in range(count):
        turns = [
            {"role": "user", "content": f"How much is {i} and {i}? é 漢"},
            {"role": "assistant", "content": str(2 * i)},
        ]
        rows.append(
            {
                "id": i,
                "messages": turns * (i % 3 + 1),
                "tags": None if i % 4 == 0 else [None if (i + j) % 5 == 0 else f"t{j}" for j in range(i % 4 - 1)],
                "scores": [[float(j)] * j for j in range(i % 3)],
                "meta": None if i % 5 == 0 else {"source": "made", "length": None if i % 2 else i},
            }
        )
    return rows


def codecs():
    """The same rows under every codec, in several row groups and pages, with and without dictionaries."""
    rows = conversations(15)
    table = pa.Table.from_pylist(rows)
    expect("codecs", rows)
    for codec in ("none", "snappy", "gzip", "zstd", "lz4", "brotli"):
        pq.write_table(table, OUT / f"{codec}.parquet", compression=codec, row_group_size=8, data_page_size=64, **SMALL)
    pq.write_table(
        table,
        OUT / "v2.parquet",
        compression="snappy",
        data_page_version="2.0",
        row_group_size=8,
        version="2.6",
        use_dictionary=False,
        column_encoding={"id": "DELTA_BINARY_PACKED", "messages.list.element.content": "DELTA_BYTE_ARRAY"},
    )


def types():
    """A column of every type that a data set may have; the second row is null throughout, the third extreme."""
    utc = datetime.timezone.utc
    when = datetime.datetime(2024, 2, 29, 12, 30, 15, 250000)
    early = datetime.datetime(1969, 12, 31, 23, 59, 59, 999000)
    number = uuid.UUID("12345678-1234-5678-1234-567812345678")
    columns = {
        "bool": (pa.bool_(), [True, None, False]),
        "i8": (pa.int8(), [-3, None, -128]),
        "u8": (pa.uint8(), [200, None, 255]),
        "u32": (pa.uint32(), [7, None, 2**32 - 1]),
        "i64": (pa.int64(), [7, None, -(2**63)]),
        "u64": (pa.uint64(), [7, None, 2**64 - 1]),
        "f16": (pa.float16(), [np.float16(0.5), None, np.float16(-2)]),
        "f32": (pa.float32(), [0.5, None, math.inf]),
        "f64": (pa.float64(), [0.1, None, math.nan]),
        "text": (pa.string(), ["", None, "漢字 \"quoted\"\n\t"]),
        "large_text": (pa.large_string(), ["a", None, "b" * 300]),
        "word": (pa.dictionary(pa.int32(), pa.string()), ["x", None, "x"]),
        "binary": (pa.binary(), [b"plain text", None, b"\xff\x00\xfe"]),
        "fixed": (pa.binary(4), [b"abcd", None, b"\xff\xff\xff\xff"]),
        "date": (pa.date32(), [datetime.date(2024, 2, 29), None, datetime.date(1969, 12, 31)]),
        "time": (pa.time64("us"), [datetime.time(1, 2, 3), None, datetime.time(23, 59, 59, 999999)]),
        "ms": (pa.timestamp("ms"), [when, None, early]),
        "us": (pa.timestamp("us", tz="UTC"), [when.replace(tzinfo=utc), None, early.replace(tzinfo=utc)]),
        "ns": (pa.timestamp("ns"), [when, None, early]),
        "decimal": (pa.decimal128(20, 3), [decimal.Decimal("0.125"), None, decimal.Decimal("-99999999999999.999")]),
        "small_decimal": (pa.decimal128(5, 2), [decimal.Decimal("1.25"), None, decimal.Decimal("-999.99")]),
        "whole": (pa.decimal128(30, 0), [decimal.Decimal(12), None, decimal.Decimal(-(10**15))]),
        "uuid": (pa.uuid(), [number.bytes, None, number.bytes]),
        "map": (pa.map_(pa.string(), pa.int32()), [[("a", 1), ("b", None)], None, []]),
        "counts": (pa.map_(pa.int32(), pa.list_(pa.string())), [[(1, ["x"]), (2, [])], None, []]),
        "empty": (pa.null(), [None, None, None]),
        "strings": (pa.list_(pa.string()), [["a", None, ""], None, []]),
        "large": (pa.large_list(pa.int32()), [[1], None, [2, 3]]),
        "deep": (pa.list_(pa.list_(pa.struct({"a": pa.list_(pa.int32())}))), [[[{"a": [1, 2]}, None], []], None, [None]]),
        "struct": (
            pa.struct({"x": pa.int32(), "inner": pa.struct({"y": pa.string()})}),
            [{"x": 1, "inner": {"y": "z"}}, None, {"x": None, "inner": None}],
        ),
    }
    arrays = {name: pa.array(values, kind) for name, (kind, values) in columns.items()}
    table = pa.table(arrays)
    pq.write_table(table, OUT / "types.parquet", write_statistics=False)
    rows = [{name: plain(values[i]) for name, (_, values) in columns.items()} for i in range(3)]
    for row in rows:
        for name in ("map", "counts"):
            row[name] = None if row[name] is None else {str(key): value for key, value in row[name]}
        row["uuid"] = row["uuid"] and str(number)
        row["f16"] = row["f16"] and float(row["f16"])
    expect("types", rows)
    # Times as Spark and old pandas wrote them.
    pq.write_table(pa.table({"t": pa.array([when, None], pa.timestamp("ns"))}), OUT / "int96.parquet",
                   use_deprecated_int96_timestamps=True)


def pictures():
    """Hugging Face's image columns: one picture, several, none; and a table with bytes alone and with a path alone."""
    red, green = picture((250, 20, 30)), picture((10, 200, 40), "JPEG")
    rows = {
        "id": ["one", "two", "none"],
        "image": [{"bytes": red, "path": None}, {"bytes": green, "path": "green.jpg"}, None],
        "images": [[{"bytes": red, "path": "red.png"}, {"bytes": green, "path": None}], [], None],
        "conversations": [[{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]] * 2
        + [[{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Nothing."}]],
    }
    features = datasets.Features({
        "id": datasets.Value("string"),
        "image": datasets.Image(decode=False),
        "images": datasets.List(datasets.Image(decode=False)),
        "conversations": datasets.List({"from": datasets.Value("string"), "value": datasets.Value("string")}),
    })
    data = datasets.Dataset.from_dict(rows, features=features)
    data.to_parquet(OUT / "images.parquet")
    file = lambda value: value and (plain(value["bytes"]) if value["bytes"] else value["path"])
    written = [dict(row, image=file(row["image"]), images=row["images"] and [file(one) for one in row["images"]])
               for row in data]
    expect("images", written)
    structure = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({
        "image": pa.array([red, None], pa.binary()),
        "named": pa.array([{"bytes": None, "path": "beside.png"}, {"bytes": None, "path": None}], structure),
        "text": pa.array([{"bytes": b"no picture", "path": "a.png"}, {"bytes": b"", "path": "no/extension"}], structure),
    })
    pq.write_table(table, OUT / "bytes.parquet")
    digest = lambda value: hashlib.sha256(value).hexdigest()
    expect("bytes", [
        {"image": plain(red), "named": "beside.png", "text": digest(b"no picture") + ".png"},
        {"image": None, "named": None, "text": digest(b"") + ".bin"},
    ])


def pairs():
    """Preferences as Hugging Face `datasets` writes them, with a margin that is no number."""
    rows = [
        {"prompt": "How much?", "chosen": [{"role": "assistant", "content": "Four."}],
         "rejected": [{"role": "assistant", "content": "Five."}], "margin": 0.5},
        {"prompt": "How far?", "chosen": [{"role": "assistant", "content": "Near."}],
         "rejected": [{"role": "assistant", "content": "Far."}], "margin": math.nan},
    ]
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(OUT / "pairs.parquet")
    expect("pairs", plain(data.to_list()))


def odd():
    """Tables that hold nothing."""
    pq.write_table(pa.table({"id": pa.array([], pa.int32())}), OUT / "no_rows.parquet")
    pq.write_table(pa.table({"a": pa.array([None] * 3, pa.struct({"x": pa.int32()}))}), OUT / "nulls.parquet")


codecs()
types()
pictures()
pairs()
odd()
