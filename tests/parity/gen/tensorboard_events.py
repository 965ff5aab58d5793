"""The events that Firebrick writes, written by TensorBoard's own code; and a check of a run's event files.

    python tensorboard_events.py write ../../fixtures/logs      (tensorboard 2.21.0, pillow 13.0.0, numpy 2.4.6)
    python tensorboard_events.py check RUN [RUN …]

`write` makes `events.tfrecord`, which the unit tests of `trainer::track` compare byte for byte, and `picture.png`.
`check` loads `RUN/tensorboard` with TensorBoard's EventAccumulator and compares every curve with `RUN/metrics.jsonl`:
the same steps, each once, and the same values in single precision. It exits 1 where they differ.
"""

import argparse
import io
import json
import math
import pathlib
import struct
import sys

from google.protobuf import struct_pb2
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

WALL_TIME = 1760000000.25


def picture():
    image = Image.new("RGB", (3, 2), (200, 30, 40))
    image.putpixel((1, 1), (10, 220, 60))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def scalar(tag, value):
    return summary_pb2.Summary.Value(tag=tag, simple_value=value)


def text(tag, markdown):
    metadata = text_metadata.create_summary_metadata(display_name=None, description=None)
    metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    return summary_pb2.Summary.Value(tag=tag, tensor=tensor_util.make_tensor_proto(markdown), metadata=metadata)


def image(tag, blobs, caption):
    metadata = image_metadata.create_summary_metadata(display_name=None, description=caption)
    metadata.data_class = summary_pb2.DATA_CLASS_BLOB_SEQUENCE
    return summary_pb2.Summary.Value(tag=tag, tensor=tensor_util.make_tensor_proto(blobs), metadata=metadata)


def hparams(tag, content):
    metadata = hparams_metadata.create_summary_metadata(content)
    metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    # A map has no order of its own; keys in order are what can be compared.
    metadata.plugin_data.content = content.SerializeToString(deterministic=True)
    return summary_pb2.Summary.Value(tag=tag, tensor=hparams_metadata.NULL_TENSOR, metadata=metadata)


def events(png):
    yield event_pb2.Event(
        wall_time=WALL_TIME,
        file_version="brain.Event:2",
        source_metadata=event_pb2.SourceMetadata(writer="firebrick"),
    )
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    yield event_pb2.Event(wall_time=WALL_TIME, step=7, session_log=start)

    def summary(step, *values):
        return event_pb2.Event(wall_time=WALL_TIME, step=step, summary=summary_pb2.Summary(value=values))

    session = plugin_data_pb2.SessionStartInfo(group_name="run-1", start_time_secs=WALL_TIME)
    for key, value in [("train.bf16", False), ("train.learning_rate", 2e-4), ("train.sampler", "shuffled")]:
        kind = {bool: "bool_value", float: "number_value", str: "string_value"}[type(value)]
        session.hparams[key].CopyFrom(struct_pb2.Value(**{kind: value}))
    yield summary(
        0,
        text("settings/text_summary", "| setting |\n|---|\n| größer |\n"),
        hparams(
            hparams_metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=session)
        ),
    )
    yield summary(1000000, scalar("train/loss", 1.5), scalar("train/zero", 0.0), scalar("train/grad_norm", -math.inf))
    yield summary(3, image("samples/01/picture", [b"3", b"2", png], "a *caption*"))
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=WALL_TIME)
    yield summary(
        9, hparams(hparams_metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))
    )


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    png = picture()
    (folder / "picture.png").write_bytes(png)
    with open(folder / "events.tfrecord", "wb") as file:
        writer = RecordWriter(file)
        for event in events(png):
            writer.write(event.SerializeToString(deterministic=True))
        writer.flush()


def single(value):
    return math.nan if value is None else struct.unpack("f", struct.pack("f", value))[0]


def expected(run):
    """Every curve as `metrics.jsonl` has it: name to a list of step and value."""
    curves = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for key, value in row.items():
            if key in ("phase", "step") or isinstance(value, (str, bool, list, dict)):
                continue
            name = f"eval/{key[5:]}" if key.startswith("eval_") else f"{row['phase']}/{key}"
            curves.setdefault(name, []).append((row["step"], single(value)))
    return curves


def check(run):
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    wanted = expected(run)
    tags = set(found.Tags()["scalars"])
    problems = [f"curve {tag} is only in one of the two" for tag in sorted(tags ^ set(wanted))]
    points = 0
    for tag in sorted(tags & set(wanted)):
        has = [(event.step, event.value) for event in found.Scalars(tag)]
        points += len(has)
        same = len(has) == len(wanted[tag]) and all(
            a[0] == b[0] and (a[1] == b[1] or (math.isnan(a[1]) and math.isnan(b[1])))
            for a, b in zip(has, wanted[tag])
        )
        if not same:
            problems.append(f"{tag}: TensorBoard has {has}, metrics.jsonl {wanted[tag]}")
    for tag in found.Tags()["tensors"]:
        steps = [event.step for event in found.Tensors(tag)]
        if steps != sorted(set(steps)):
            problems.append(f"{tag}: steps {steps}")
    for problem in problems:
        print(f"{run}: {problem}", file=sys.stderr)
    print(f"{run}: {points} points of {len(tags)} curves; {len(found.Tags()['tensors'])} texts, pictures and settings")
    return not problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["write", "check"])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    if args.action == "write":
        for folder in args.folders:
            write(folder)
        return
    raise SystemExit(0 if all([check(run) for run in args.folders]) else 1)


if __name__ == "__main__":
    main()
