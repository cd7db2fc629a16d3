"""A headless Chromium driven through its DevTools pipe: the protocol's own JSON, ended by zero bytes; no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--disable-extensions", "--remote-debugging-pipe")  # fmt: skip
PATIENCE = 120


def chromium() -> str:
    """The program, or the test is skipped."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (apt-get install chromium) to open the report in")
    return program


class Browser:
    """One page. `call` sends a command of the protocol; `events` are what the browser told meanwhile."""

    def __init__(self, program: str, folder: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self.last, self.left, self.session = 0, b"", ""
        theirs_in, self.ours_out = (_high(fd) for fd in os.pipe())
        self.ours_in, theirs_out = (_high(fd) for fd in os.pipe())
        quiet = os.open(os.devnull, os.O_RDWR)
        self.process = os.posix_spawn(
            program, [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"], os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_DUP2, quiet, 2),
                          (os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)],
            setpgroup=0,
        )  # fmt: skip
        for fd in (theirs_in, theirs_out, quiet):
            os.close(fd)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Accessibility", "DOM"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.ours_in)
        os.close(self.ours_out)

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        self.last += 1
        message = {"id": self.last, "method": method, "params": given}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.ours_out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self.last:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, event: str) -> None:
        while not any(e["method"] == event for e in self.events):
            self.events.append(self._read())

    def open(self, url: str, width: int, height: int = 900, theme: str = "light") -> None:
        """The page at `url`, in a window of this size; everything told of the page before is forgotten."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def press(self, key: str) -> None:
        """One key, as a person presses it."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def tree(self) -> list[dict[str, Any]]:
        """The accessibility tree: {"role", "name", "level", ...} of every node that a screen reader is told of."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [_plain(node) for node in nodes if not node["ignored"]]

    def picture(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.ours_in], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser said nothing for {PATIENCE} s"
            got = os.read(self.ours_in, 1 << 20)
            assert got, "the browser has ended"
            self.left += got
        message, self.left = self.left.split(b"\0", 1)
        reply: dict[str, Any] = json.loads(message)
        return reply


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    properties = {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
    return {"role": node["role"]["value"], "name": node.get("name", {}).get("value", ""), **properties}


def _high(fd: int) -> int:
    """The same pipe under a number that none of the browser's own can take."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(fd)
    return moved
