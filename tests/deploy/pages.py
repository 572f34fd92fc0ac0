"""The /metrics pages that alerts and dashboard are about, from what really serves them."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
from PIL import Image

JOYCAP = "from joycap_vllm.cli import main; main()"


@dataclass(frozen=True)
class Page:
    """A page, and the key that it asks for."""

    port: int
    key: str = ""

    def read(self) -> str:
        """The page; empty while it does not answer."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/metrics", headers=headers).text
        except httpx2.TransportError:
            return ""

    def wait(self, good: Callable[[str], bool]) -> str:
        """The page, once it is good."""
        until = time.monotonic() + 50
        while not good(text := self.read()):
            assert time.monotonic() < until, text
            time.sleep(0.05)
        return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def gateway(url: str, folder: Path, key: str) -> Iterator[Page]:
    """`joycap gateway` before a server, with a key for tools and this one for Prometheus."""
    keys = folder / "gateway-keys.txt"
    keys.write_text(f"tools {'t' * 24}\nprometheus {key}\n")
    keys.chmod(0o600)
    port = free_port()
    words = ["gateway", "--base-url", url, "--port", port, "--keys-file", keys,
             "--state", folder / "state", "--no-check", "--retries", "1"]  # fmt: skip
    with _command(*words):
        page = Page(port, key)
        page.wait(bool)
        yield page


@contextlib.contextmanager
def job(url: str, folder: Path, *flags: str) -> Iterator[Page]:
    """`joycap caption` of a folder, with its figures on a port."""
    port = free_port()
    words = ["caption", folder, "--base-url", url, "--metrics-port", str(port), *flags]
    with _command(*words):
        yield Page(port)


def data_url(color: tuple[int, int, int]) -> str:
    """A picture of one colour."""
    whole = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(whole, "PNG")
    return f"data:image/png;base64,{base64.b64encode(whole.getvalue()).decode()}"


def ask(page: Page, picture: str) -> None:
    """A caption of a picture, as a data URL, from a gateway."""
    image = {"type": "image_url", "image_url": {"url": picture}}
    message = {"role": "user", "content": [image]}
    httpx2.post(
        f"http://127.0.0.1:{page.port}/v1/chat/completions",
        json={"model": "joycaption/straightforward", "messages": [message]},
        headers={"Authorization": f"Bearer {'t' * 24}"},
        timeout=50,
    )


@contextlib.contextmanager
def _command(*words: object) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", JOYCAP, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
