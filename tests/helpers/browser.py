"""Headless Chromium for tests, driven through its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --remote-debugging-pipe "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars"
).split()


class Browser:
    """A browser with one page, to be used as a context manager.

    Args:
        profile: folder for Chromium's profile.
        width: width of the page in CSS pixels.
        height: height of the page in CSS pixels.
        touch: whether to emulate a mobile device with a touch screen.

    Attributes:
        errors: uncaught exceptions and error messages of the page, so far.
        requests: URLs that the page requested, so far.
    """

    def __init__(self, profile: Path, width: int = 1400, height: int = 1000, touch: bool = False):
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._profile, self._size, self._touch = profile, (width, height), touch
        self._numbers = itertools.count(1)
        self._pending = b""

    def __enter__(self) -> Self:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        command = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        assert PROGRAM is not None, "Chromium is not installed"
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", str(to_read), str(to_write), PROGRAM, *_FLAGS,
             f"--user-data-dir={self._profile}"],
            pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        width, height = self._size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=self._touch)  # fmt: skip
        if self._touch:
            self.call("Emulation.setTouchEmulationEnabled", enabled=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a DevTools command and returns its result, a dict.

        Args:
            method: name of the command, such as "Page.navigate".
            **params: parameters of the command.

        Raises:
            RuntimeError: if the command fails, or the browser has ended.
            TimeoutError: if the browser sends nothing for two minutes.
        """
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            if not select.select([self._from], [], [], 120)[0]:
                raise TimeoutError("the browser is silent")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self._pending += part
        message, _, self._pending = self._pending.partition(b"\0")
        event = json.loads(message)
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:2000])
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return event

    def open(self, address: str) -> None:
        """Navigates to a URL."""
        self.call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """Evaluates JavaScript in the page, awaits promises, and returns the value.

        Raises:
            RuntimeError: if the JavaScript throws an exception.
        """
        result = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:2000])
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """Waits until a JavaScript expression is true in the page, and returns its value.

        Raises:
            TimeoutError: if the expression is not true after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not (value := self.value(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true in {seconds} s: {expression}; errors: {self.errors}")
            time.sleep(0.1)
        return value

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Chooses files in the input element that a CSS selector finds."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, key: str, code: int, text: str = "") -> None:
        """Presses and releases a key.

        Args:
            key: name of the key, such as "ArrowDown".
            code: Windows' virtual key code.
            text: text that the key types.
        """
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      text=text if kind == "keyDown" else "")  # fmt: skip

    def touch(self, *points: tuple[float, float]) -> None:
        """Puts a finger on the first point, moves it over the others and lifts it.

        Points are pairs (x, y) in CSS pixels from the upper left corner of the visible part of the
        page.
        """
        for i, (x, y) in enumerate(points):
            kind = "touchMove" if i else "touchStart"
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self, path: Path) -> None:
        """Saves a PNG screenshot of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
