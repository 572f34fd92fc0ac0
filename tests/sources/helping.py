"""What the tests of sources share: pictures, and a web server that does as it is told."""

from __future__ import annotations

import io
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

from joycap_vllm.sources import SourceImage, WebRules, open_source
from joycap_vllm.sources.guard import close_pools

Answer = Callable[[BaseHTTPRequestHandler], None]


def picture(colour: str = "red", kind: str = "PNG") -> bytes:
    """A small picture, encoded."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, kind)
    return buffer.getvalue()


def images(*inputs: str | Path, web: WebRules | None = None) -> list[SourceImage]:
    """All images of these inputs."""
    return list(open_source([str(i) for i in inputs], web).images())


def keys(*inputs: str | Path) -> list[str]:
    """Their keys."""
    return [image.key for image in images(*inputs)]


class Web:
    """A web server of this machine.

    Args:
        url: Its base, without a last slash.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.heads: list[dict[str, str]] = []

    def bytes_at(self, path: str, data: bytes, status: int = 200, **heads: str) -> str:
        """Answers a path with bytes, and gives its URL."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            given = {name.replace("_", "-"): value for name, value in heads.items()}
            for name, value in {"Content-Length": str(len(data)), **given}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(data)

        return self.at(path, answer)

    def redirect(self, path: str, goal: str) -> str:
        """Answers a path with another place, and gives its URL."""
        return self.bytes_at(path, b"", 302, Location=goal)

    def at(self, path: str, answer: Answer) -> str:
        """Answers a path in any way, and gives its URL."""
        self.answers[path] = answer
        return self.url + path


@contextmanager
def web_server(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A running `Web`, by https where it has a context for that."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.asked.append(self.path)
            web.heads.append(dict(self.headers))
            answer = web.answers.get(self.path)
            if answer is None:
                self.send_error(404)
                return
            try:
                answer(self)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        web = Web(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()
            close_pools()
