"""The chat page in headless Chromium, against the echo server of `tests/serve` (see README.md).

    python page.py [http://127.0.0.1:8399] [--chromium /usr/bin/chromium] [--screenshots DIR]
    python page.py URL --picture FILE --question TEXT --answer TEXT

The second form is for `serve` over a model: the picture is attached, the question asked, and the answer must be that one.

Types, sends, watches the answer grow, stops one in the middle, attaches a picture, and lets the model say HTML.

Versions: websockets 17.4, Chromium 120 or newer, Python 3.11.
"""

import argparse
import asyncio
import base64
import itertools
import json
import re
import struct
import subprocess
import tempfile
import urllib.request
import zlib
from pathlib import Path

import websockets


def png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(
        b"\0" + b"".join(bytes([x * 255 // width, y * 255 // height, 160]) for x in range(width)) for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Page:
    """One tab, over the DevTools protocol."""

    def __init__(self, socket, screenshots):
        self.socket, self.screenshots = socket, screenshots
        self.numbers, self.waiting, self.events = itertools.count(1), {}, []
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        async for message in self.socket:
            message = json.loads(message)
            if "id" in message:
                self.waiting.pop(message["id"]).set_result(message)
            else:
                self.events.append(message)

    async def call(self, method, **parameters):
        number = next(self.numbers)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        answer = await asyncio.wait_for(self.waiting[number], 30)
        assert "error" not in answer, answer
        return answer["result"]

    async def run(self, script):
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script, seconds=20):
        for _ in range(int(seconds * 50)):
            if found := await self.run(script):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"never came: {script}\n" + await self.run("document.body.innerText"))

    async def write(self, words):
        await self.run("document.getElementById('text').focus()")
        await self.call("Input.insertText", text=words)

    async def press_enter(self):
        for kind in ["keyDown", "keyUp"]:
            await self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)

    async def click(self, name):
        place = await self.run(
            f"(() => {{ const b = document.querySelector({name!r}).getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        for kind in ["mousePressed", "mouseReleased"]:
            await self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    async def screenshot(self, name):
        if self.screenshots:
            data = (await self.call("Page.captureScreenshot"))["data"]
            (Path(self.screenshots) / f"{name}.png").write_bytes(base64.b64decode(data))


LAST = "[...document.querySelectorAll('.turn.assistant .bubble')].at(-1)?.textContent"
DONE = "document.getElementById('stop').hidden && !document.querySelector('.writing')"


async def drive(page, url, folder):
    for domain in ["Page", "Runtime", "Log", "Network", "DOM"]:
        await page.call(domain + ".enable")
    await page.call("Emulation.setDeviceMetricsOverride", width=900, height=700, deviceScaleFactor=1, mobile=False)
    await page.call("Page.navigate", url=url)
    await page.until("document.querySelectorAll('#model option').length === 2")
    await page.screenshot("empty")

    await page.write("tell me everything you know about bricks")
    await page.press_enter()
    lengths = set()
    while not await page.run(DONE):
        lengths.add(len(await page.run(LAST) or ""))
    assert await page.run(LAST) == "You said: tell me everything you know about bricks"
    assert len(lengths) >= 3, f"the answer did not grow: {lengths}"
    print("ok streaming", sorted(lengths))

    await page.write("say much")
    await page.press_enter()
    await page.until(f"({LAST} || '').length > 20")
    await page.screenshot("writing")
    await page.click("#stop")
    await page.until(DONE)
    stopped = await page.run(LAST)
    assert 20 < len(stopped) < 5000, len(stopped)
    await asyncio.sleep(0.3)
    assert await page.run(LAST) == stopped
    print("ok stop button, after", len(stopped), "characters")

    picture = folder / "picture.png"
    picture.write_bytes(png(320, 200))
    document = await page.call("DOM.getDocument")
    node = await page.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#files")
    await page.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(picture)])
    await page.until("document.querySelector('#attached img')?.naturalWidth === 320")
    await page.write("what is in this picture?")
    await page.screenshot("attached")
    await page.click("#send")
    await page.until(f"{DONE} && {LAST}.includes('picture?')")
    words = await page.run(LAST)
    assert words == f"You said: what is in this picture? (1 pictures of {picture.stat().st_size} bytes)", words
    assert await page.run("document.querySelector('.turn.user img').naturalWidth") == 320
    print("ok picture")

    evil = "<img src=x onerror=document.title='broken'><script>document.title='broken'</script>"
    await page.write(evil)
    await page.press_enter()
    await page.until(f"{DONE} && {LAST}.includes('onerror')")
    assert await page.run("document.title") == "Firebrick"
    assert await page.run("document.querySelectorAll('.bubble img, .bubble script').length") == 0
    print("ok text stays text")

    await page.write("say oops and more")
    await page.press_enter()
    await page.until("document.querySelector('.turn.failed')?.textContent.includes('oops, says the backend')")
    await page.screenshot("failed")
    print("ok errors are shown")

    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    await page.call("Emulation.setDeviceMetricsOverride", width=390, height=700, deviceScaleFactor=1, mobile=True)
    await page.screenshot("dark_narrow")
    wide = await page.run("document.documentElement.scrollWidth")
    assert wide <= 390, f"the page is {wide} wide on a screen of 390"
    await page.click("#clear")
    await page.until("document.querySelectorAll('.turn').length === 0")

    check_console(page, url)


def check_console(page, url):
    complaints = [event for event in page.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert not complaints, complaints
    sent = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    outside = [address for address in sent if not address.startswith((url, "data:"))]
    assert not outside, outside
    print("ok no complaint in the console,", len(sent), "requests, none to elsewhere")


async def drive_model(page, url, given):
    for domain in ["Page", "Runtime", "Log", "Network", "DOM"]:
        await page.call(domain + ".enable")
    await page.call("Emulation.setDeviceMetricsOverride", width=900, height=700, deviceScaleFactor=1, mobile=False)
    await page.call("Page.navigate", url=url)
    await page.until("document.querySelectorAll('#model option').length >= 1")
    document = await page.call("DOM.getDocument")
    node = await page.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#files")
    await page.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(Path(given.picture).resolve())])
    await page.until("document.querySelector('#attached img')?.naturalWidth > 0")
    await page.write(given.question)
    await page.click("#send")
    await page.until(f"{DONE} && ({LAST} || '').length > 0")
    said = (await page.run(LAST)).strip()
    await page.screenshot("model")
    assert said == given.answer, said
    print("ok the model says", repr(said))
    # The conversation goes on, with the picture in it.
    await page.write("And what colour is it?")
    await page.press_enter()
    await page.until(f"{DONE} && document.querySelectorAll('.turn.assistant').length === 2 && ({LAST} || '').length > 0")
    print("ok and then", repr((await page.run(LAST)).strip()))
    check_console(page, url)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8399")
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--screenshots")
    parser.add_argument("--picture")
    parser.add_argument("--question")
    parser.add_argument("--answer")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [given.chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--remote-debugging-port=0", f"--user-data-dir={folder}/profile", "about:blank"]
        browser = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            for line in browser.stderr:
                if found := re.search(r"DevTools listening on ws://([^/]+)/", line):
                    break
            else:
                raise SystemExit("the browser did not start")
            tabs = json.load(urllib.request.urlopen(f"http://{found[1]}/json"))
            tab = next(tab for tab in tabs if tab["type"] == "page")
            async with websockets.connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
                page = Page(socket, given.screenshots)
                if given.picture:
                    await drive_model(page, given.url, given)
                else:
                    await drive(page, given.url, Path(folder))
        finally:
            browser.terminate()
            browser.wait(10)


asyncio.run(main())
