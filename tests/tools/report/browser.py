"""Headless Chromium over a pair of pipes: the DevTools protocol without any library."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_S = 90


def program():
    """The path of a browser, or nothing."""
    return os.environ.get("C10_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class BrowserError(Exception):
    """The browser refused, or a script in the page failed."""


class Pipe:
    """Messages to and from the browser, each ended by a zero byte."""

    def __init__(self, to_browser, from_browser):
        self.to_browser, self.from_browser = to_browser, from_browser
        self.numbers, self.buffer, self.events = itertools.count(1), b"", []

    def call(self, method, session=None, **params):
        """Send a command and return its result; events that come meanwhile are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params} | (
            {"sessionId": session} if session else {}
        )
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to_browser, data) :]
        until = time.monotonic() + TIMEOUT_S
        while True:
            found = self.receive(until, method)
            if found.get("id") == number:
                if "error" in found:
                    raise BrowserError(f"{method}: {found['error']}")
                return found["result"]
            self.events.append(found)

    def receive(self, until, what):
        while b"\0" not in self.buffer:
            if not select.select([self.from_browser], [], [], max(0, until - time.monotonic()))[0]:
                raise BrowserError(f"no answer to {what} within {TIMEOUT_S} s")
            data = os.read(self.from_browser, 1 << 20)
            if not data:
                raise BrowserError("the browser ended")
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)


class Page:
    """One tab."""

    def __init__(self, pipe):
        self.pipe = pipe
        target = pipe.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        return self.pipe.call(method, self.session, **params)

    def size(self, width, height, *, mobile=False, scale=1):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )

    def media(self, **features):
        values = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=values)

    def open(self, path):
        """Open a file and wait until its script is done, well or not."""
        self.pipe.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        until = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until:
            if self.js(
                f"location.href === {json.dumps(path.as_uri())} && document.documentElement?.dataset.ready || ''"
            ):
                return self
            time.sleep(0.02)
        raise BrowserError(f"the page did not become ready; {self.complaints()}")

    def js(self, expression):
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def key(self, key, code=None, text=None):
        """Press and release one key."""
        known = {
            "Space": (" ", 32, " "),
            "Enter": ("Enter", 13, "\r"),
            "Tab": ("Tab", 9, None),
            "Home": ("Home", 36, None),
            "End": ("End", 35, None),
        }
        arrows = {
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
            "PageUp": 33,
            "PageDown": 34,
            "Escape": 27,
        }
        name, number, typed = known.get(
            key, (key, arrows.get(key, ord(key[0])), key if len(key) == 1 else text)
        )
        event = {"key": name, "code": code or key, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": typed} if typed else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def hover(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, x, y, to_x, to_y):
        """Press at one place, move, release at another."""
        for kind, at in (
            ("mousePressed", (x, y)),
            ("mouseMoved", (to_x, to_y)),
            ("mouseReleased", (to_x, to_y)),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def screenshot(self, path, *, whole=False):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path):
        data = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self):
        """What the page's console and the browser's log have said, and which addresses were asked for."""
        self.js("0")
        found = []
        for event in self.pipe.events:
            params = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(
                        params["exceptionDetails"].get("exception", {}).get("description", "exception")
                    )
                case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning"}:
                    found.append(str(params["args"]))
                case "Log.entryAdded":
                    found.append(params["entry"]["text"])
                case _:
                    continue
        return found

    def requests(self):
        """Addresses that were asked for."""
        self.js("0")
        return [
            event["params"]["request"]["url"]
            for event in self.pipe.events
            if event.get("method") == "Network.requestWillBeSent"
        ]


@contextmanager
def chromium(folder):
    """A browser of its own, with a profile in `folder`."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    options = [
        *(
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ),
        *(
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
        ),
        *("--hide-scrollbars", "--force-color-profile=srgb", f"--user-data-dir={folder}", "about:blank"),
    ]
    # The protocol is spoken on descriptors 3 and 4.
    command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["/bin/bash", "-c", command, "bash", program(), *options],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        pipe = Pipe(ours_out, ours_in)
        yield pipe
        pipe.call("Browser.close")
        process.wait(30)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        process.kill()
        process.wait()
