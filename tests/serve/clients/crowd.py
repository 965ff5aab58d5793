"""Many clients at once against `serve` over a real model, minute after minute (see README.md).

    python crowd.py URL [--pid SERVER] [--clients 200] [--seconds 60] [--rounds 2] [--picture FILE]

Each client asks, whole and streamed, and some leave in the middle. Anything but an answer and 429 is an error. With `--pid` the
server's memory is read after each round: between the first and the last it may not grow by more than 16 MiB. A shorter round goes before
them, in which allocators and caches get what they keep.

Versions: aiohttp 3.14.5, Python 3.11.
"""

import argparse
import asyncio
import base64
import collections
import json
import random
import time
from pathlib import Path

import aiohttp

# MiB. Rounds of a server of 100 MiB ended between 99 and 118, up and down, as the allocator happened to keep pages. A minute is some
# two thousand answers and ten thousand refusals: what leaks 8 KiB of an answer, or 2 KiB of a request, is above it.
GROWTH = 16


def memory(pid):
    """MiB of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def client(session, number, end, given, counts, times):
    draw = random.Random(number)
    while time.monotonic() < end:
        words = f"client {number} asks " + "again " * draw.randint(0, 40)
        content = [{"type": "text", "text": words}]
        if given.url_of_picture and draw.random() < 0.3:
            content.insert(0, {"type": "image_url", "image_url": {"url": given.url_of_picture}})
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": draw.randint(1, 32), "stream": draw.random() < 0.5}
        begun = time.monotonic()
        try:
            async with session.post(given.url + "/v1/chat/completions", json=body) as answer:
                if answer.status == 429:
                    assert int(answer.headers["retry-after"]) > 0
                    counts["429"] += 1
                    await asyncio.sleep(draw.random())
                    continue
                if answer.status != 200:
                    counts[f"error {answer.status} {(await answer.text())[:200]}"] += 1
                    continue
                leaves, pieces = draw.random() < 0.1, []
                async for line in answer.content:
                    pieces.append(line.decode().rstrip("\n"))
                    if leaves and len(pieces) > 4:
                        break
                else:
                    if body["stream"]:
                        assert pieces[-2] == "data: [DONE]", pieces[-3:]
                    else:
                        assert json.loads("".join(pieces))["choices"][0]["finish_reason"] in ("stop", "length")
                    counts["answered"] += 1
                    times.append(time.monotonic() - begun)
                    continue
                counts["left"] += 1
        except (aiohttp.ClientError, TimeoutError, AssertionError) as error:
            counts[f"error {type(error).__name__} {error}"] += 1


async def idle(session, url):
    for _ in range(600):
        async with session.get(url + "/metrics") as answer:
            lines = (await answer.text()).splitlines()
        values = {line.split()[0]: float(line.split()[1]) for line in lines if line and not line.startswith("#")}
        if values["firebrick_running"] + values["firebrick_queue_length"] == 0:
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the server is still busy a minute after its clients have gone")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    data = given.picture and base64.b64encode(given.picture.read_bytes()).decode()
    given.url_of_picture = data and f"data:image/png;base64,{data}"
    sizes = []
    for turn in range(given.rounds + 1):
        seconds = given.seconds if turn else given.seconds / 2
        counts, times = collections.Counter(), []
        timeout, connector = aiohttp.ClientTimeout(total=120), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, read_bufsize=1 << 20) as session:
            end = time.monotonic() + seconds
            await asyncio.gather(*[client(session, turn * 1000 + i, end, given, counts, times) for i in range(given.clients)])
            await idle(session, given.url)
        times.sort()
        size = memory(given.pid) if given.pid else 0.0
        sizes += [size] if turn else []
        middle, late = (times[int(len(times) * share)] if times else 0.0 for share in (0.5, 0.99))
        print(f"{f'round {turn}' if turn else 'warming up'}: {dict(counts)}; half within {middle:.2f} s, 99 % within {late:.2f} s; {size:.0f} MiB", flush=True)
        errors = [name for name in counts if name.startswith("error")]
        assert not errors, errors
        assert counts["answered"] > 0
    if given.pid and len(sizes) > 1:
        assert sizes[-1] <= sizes[0] + GROWTH, sizes
        print("ok no growth")


asyncio.run(main())
