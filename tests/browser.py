"""Drive a headless Chromium over its debugging pipe: open a file, press keys, run scripts, take pictures."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    "--hide-scrollbars", "--mute-audio",
)  # fmt: skip
# The browser reads from file descriptor 3 and writes to 4.
WIRED = """
import fcntl, os, sys
given = [fcntl.fcntl(int(text), fcntl.F_DUPFD, 10) for text in sys.argv[1:3]]
for place, descriptor in zip((3, 4), given):
    os.dup2(descriptor, place)
os.execvp(sys.argv[3], sys.argv[3:])
"""
KEY_CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Tab": 9, " ": 32}


def find_browser() -> str | None:
    """Return the path of a Chromium, None when there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a headless browser; a context manager.

    Attributes:
        requests: addresses that the page asked for, the file itself among them.
        messages: text of console errors and warnings, of uncaught exceptions, and of the browser's own log.
    """

    def __init__(self, profile: Path, width: int = 1280, height: int = 900, *, touch: bool = False):
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()
        self._in, self._out = read_here, write_here
        command = [str(find_browser()), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        command = [sys.executable, "-c", WIRED, str(read_there), str(write_there), *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(read_there, write_there),
        )  # fmt: skip
        os.close(read_there)
        os.close(write_there)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self._buffer = b""
        self._count = 0
        self._events: list[dict[str, Any]] = []
        targets = self.send("Target.getTargets", session=False)["targetInfos"]
        target = next(info["targetId"] for info in targets if info["type"] == "page")
        attached = self.send("Target.attachToTarget", {"targetId": target, "flatten": True}, session=False)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height, touch=touch)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.send("Browser.close", session=False)
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired, TimeoutError):
            self._process.kill()
            self._process.wait(10)
        os.close(self._in)
        os.close(self._out)

    def send(self, method: str, params: dict[str, Any] | None = None, *, session: bool = True) -> dict[str, Any]:
        """Call a method of the debugging protocol and return its result."""
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise OSError("the browser ended")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.messages.append(str([arg.get("value", arg.get("description")) for arg in params["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(params["exceptionDetails"].get("exception", params).get("description")))
        elif method == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        if method:
            self._events.append({"method": method, "params": params})

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file anew and wait until it is loaded."""
        for url in ("about:blank", path.resolve().as_uri() + fragment):
            self._events.clear()
            self.send("Page.navigate", {"url": url})
            self.wait("Page.loadEventFired")

    def wait(self, method: str, seconds: float = 60) -> None:
        """Wait for an event of the protocol."""
        end = time.monotonic() + seconds
        while not any(event["method"] == method for event in self._events):
            self._next(end - time.monotonic())

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.send(
            "Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def becomes(self, script: str, value: Any, seconds: float = 10) -> bool:
        """Return whether an expression has this value, now or before long: events of a page come in their own time."""
        end = time.monotonic() + seconds
        while self.run(script) != value:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = KEY_CODES.get(key, ord(key.upper()[0]))
        event = {"key": key, "windowsVirtualKeyCode": code}
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", {"type": "keyDown" if text else "rawKeyDown", **event, **text})
        self.send("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        """Set the size of the window in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.send("Emulation.setDeviceMetricsOverride", metrics)

    def media(self, scheme: str = "light", kind: str = "screen") -> None:
        """Choose light or dark, and screen or print."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", {"media": kind, "features": features})

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", options)["data"]))

    def pdf(self, path: Path) -> None:
        """Print to a file."""
        path.write_bytes(base64.b64decode(self.send("Page.printToPDF", {"printBackground": False})["data"]))
