"""Debian's Chromium without a window, asked over its own debugging protocol."""

import asyncio
import base64
import contextlib
import itertools
import subprocess
from pathlib import Path

import aiohttp

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--window-size=1400,900",
)  # fmt: skip
_SECONDS = 90


class Page:
    """One open page."""

    def __init__(self, socket):
        self._socket = socket
        self._numbers = itertools.count(1)

    async def _ask(self, method, **given):
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": given})
        while True:
            answer = await self._socket.receive_json(timeout=_SECONDS)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def value(self, expression):
        """What an expression in the page's language gives."""
        told = await self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return told["result"].get("value")

    async def until(self, expression):
        """Wait for an expression to give something, and return it."""
        async with asyncio.timeout(_SECONDS):
            while not (found := await self.value(expression)):
                await asyncio.sleep(0.1)
        return found

    async def go(self, address):
        """Open another address."""
        await self._ask("Page.navigate", url=address)

    async def resize(self, width, height):
        """Make the window another size."""
        await self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    async def picture(self, file):
        """Write what the window shows as PNG."""
        told = await self._ask("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(told["data"]))

    async def point_at(self, x, y):
        """Move the mouse."""
        for nudge in (3, 0):
            await self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x - nudge, y=y)

    async def click_at(self, x, y):
        """Press and release the left button."""
        for kind in ("mousePressed", "mouseReleased"):
            await self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
                            clickCount=1)  # fmt: skip


@contextlib.asynccontextmanager
async def opened(place, profile):
    """Open a local file or an address in a browser of its own; yields the :class:`Page`."""
    address = place.absolute().as_uri() if isinstance(place, Path) else place
    command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            async with asyncio.timeout(_SECONDS):
                while not (told := profile / "DevToolsActivePort").exists():
                    await asyncio.sleep(0.1)
            port = told.read_text().splitlines()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [one for one in await answer.json() if one["type"] == "page"]
                door = pages[0]["webSocketDebuggerUrl"]
                async with session.ws_connect(door, max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
