"""Images behind URLs: what is fetched, what is refused, and what it may cost."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from joycap_vllm.errors import ImageError
from joycap_vllm.sources import WebRules
from joycap_vllm.sources.guard import close_pools, is_public
from joycap_vllm.sources.web import WebPlace

from .helping import Web, images, picture, web_server

OPEN = WebRules(private=True, seconds=5)


def test_a_url_is_an_input_and_its_own_key(web: Web) -> None:
    url = web.bytes_at("/a.png?size=large", picture())
    (image,) = images(url, web=OPEN)

    assert (image.key, image.path, image.size()) == (url, None, None)
    assert image.read() == picture()


def test_this_machine_is_refused_unless_allowed(web: Web) -> None:
    url = web.bytes_at("/a.png", picture())

    with pytest.raises(ImageError, match="not a public address"):
        WebPlace(url, WebRules()).read(1000)
    assert web.asked == []


@pytest.mark.parametrize(
    "address",
    ["fec0::1", "3fff::1", "5f00::1",
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.9.9", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "::", "::1",
        "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "2002:7f00:1::", "no address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{port}/a.png", "http://2130706433:{port}/a.png",
        "http://0x7f.1:{port}/a.png", "http://[::ffff:127.0.0.1]:{port}/a.png",
        "http://0:{port}/a.png", "http://user@127.0.0.1:{port}/a.png",
    ],
)  # fmt: skip
def test_other_spellings_of_this_machine_are_refused(web: Web, url: str) -> None:
    web.bytes_at("/a.png", picture())
    port = web.url.rpartition(":")[2]

    with pytest.raises(ImageError, match="not a public address"):
        WebPlace(url.format(port=port), WebRules()).read(1000)
    assert web.asked == []


def resolving(answers: list[str]) -> Any:
    """A name service of which each question for a name gets the next answer."""
    given, really = iter(answers), socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if host[0].isdigit():
            return really(host, port, *rest, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(given), port))]

    return getaddrinfo


def test_a_name_that_changes_its_address_is_connected_to_the_one_that_was_checked(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.bytes_at("/a.png", picture())
    tried: list[Any] = []

    def refusing(address: Any, *rest: Any, **more: Any) -> socket.socket:
        tried.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolving(["8.8.8.8", *["127.0.0.1"] * 9]))
    monkeypatch.setattr(socket, "create_connection", refusing)
    with pytest.raises(ImageError, match="not a public address"):
        WebPlace("http://rebinding.example/a.png", WebRules(seconds=5)).read(1000)

    assert tried == [("8.8.8.8", 80)]
    assert web.asked == []


@pytest.mark.parametrize("goal", ["http://169.254.169.254/latest", "http://127.0.0.1:1/x"])
def test_a_redirect_to_the_inside_is_refused(
    web: Web, monkeypatch: pytest.MonkeyPatch, goal: str
) -> None:
    url = web.redirect("/a.png", goal).replace("127.0.0.1", "public.example")
    really, connect = socket.getaddrinfo, socket.create_connection
    port = int(web.url.rpartition(":")[2])

    def public(host: str, *rest: Any, **more: Any) -> Any:
        return really("8.8.8.8" if host == "public.example" else host, *rest, **more)

    def here(address: Any, *rest: Any, **more: Any) -> socket.socket:
        assert address == ("8.8.8.8", port)
        return connect(("127.0.0.1", port), *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", public)
    monkeypatch.setattr(socket, "create_connection", here)
    with pytest.raises(ImageError, match="not a public address"):
        WebPlace(url, WebRules(seconds=5)).read(1000)

    assert web.asked == ["/a.png"]
    assert web.heads[0]["Host"] == f"public.example:{port}"


@pytest.mark.parametrize("name", ["public.example", "other.example"])
def test_a_certificate_must_be_of_the_name_and_not_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x"
    named = ["-addext", "subjectAltName=DNS:public.example"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", *options.split(), *named, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(socket, "getaddrinfo", resolving(["127.0.0.1"] * 9))
    close_pools()
    with web_server(context) as web:
        web.bytes_at("/a.png", b"here")
        place = WebPlace(web.url.replace("http://127.0.0.1", f"https://{name}") + "/a.png", OPEN)
        if name == "public.example":
            assert place.read(100) == b"here"
        else:
            with pytest.raises(ImageError, match="certificate"):
                place.read(100)


def test_redirects_are_followed_a_few_times(web: Web) -> None:
    web.bytes_at("/end.png", b"here")
    web.redirect("/2", "end.png")
    url = web.redirect("/1", web.url + "/2")

    assert WebPlace(url, OPEN).read(1000) == b"here"
    with pytest.raises(ImageError, match="more than 3 times"):
        WebPlace(web.redirect("/round", "/round"), WebRules(private=True, redirects=3)).read(1000)


@pytest.mark.parametrize("goal", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http:", "gopher://x"])
def test_a_redirect_to_another_kind_of_url_is_refused(web: Web, goal: str) -> None:
    with pytest.raises(ImageError):
        WebPlace(web.redirect("/a", goal), OPEN).read(1000)


def test_what_says_that_it_is_too_long_is_not_fetched(web: Web) -> None:
    url = web.at("/a", lambda request: _head(request, "9999999999"))

    with pytest.raises(ImageError, match="10000 MB, over the limit of 1"):
        WebPlace(url, OPEN).read(1_000_000)


def _head(request: BaseHTTPRequestHandler, length: str | None, status: int = 200) -> None:
    request.send_response(status)
    if length is not None:
        request.send_header("Content-Length", length)
    request.end_headers()


def test_what_is_longer_than_it_says_nothing_of_is_cut(web: Web) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        _head(request, None)
        while True:
            request.wfile.write(bytes(1 << 16))

    with pytest.raises(ImageError, match="over the limit"):
        WebPlace(web.at("/a", endless), OPEN).read(1_000_000)


def test_what_is_shorter_than_it_says_is_no_image(web: Web) -> None:
    def short(request: BaseHTTPRequestHandler) -> None:
        _head(request, "100")
        request.wfile.write(b"only this")
        request.close_connection = True

    with pytest.raises(ImageError, match="connection broke"):
        WebPlace(web.at("/a", short), OPEN).read(1000)
    assert len(web.asked) == 3


def test_bytes_beyond_the_length_are_left_alone(web: Web) -> None:
    def long(request: BaseHTTPRequestHandler) -> None:
        _head(request, "4")
        request.wfile.write(b"four and more")
        request.close_connection = True

    assert WebPlace(web.at("/a", long), OPEN).read(1000) == b"four"


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_drips_is_left_at_the_deadline(web: Web, part: str) -> None:
    left = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        try:
            if part == "body":
                _head(request, "1000")
            else:
                request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while True:
                request.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            left.set()
            raise

    begun = time.monotonic()
    with pytest.raises(ImageError, match="longer than its time"):
        WebPlace(web.at("/a", drip), WebRules(private=True, seconds=0.5)).read(10_000)

    assert time.monotonic() - begun < 2
    assert left.wait(5)
    assert web.asked == ["/a"]


def test_a_silent_server_is_asked_again_within_the_time(web: Web) -> None:
    free = threading.Event()

    def first_silent(request: BaseHTTPRequestHandler) -> None:
        if len(web.asked) == 1:
            free.wait(5)
        else:
            _head(request, "2")
            request.wfile.write(b"ok")

    url = web.at("/a", first_silent)
    try:
        assert WebPlace(url, WebRules(private=True, seconds=1.5)).read(1000) == b"ok"
    finally:
        free.set()


def test_a_fault_that_passes_is_no_fault(web: Web) -> None:
    def twice_busy(request: BaseHTTPRequestHandler) -> None:
        _head(request, "2", 503 if len(web.asked) < 3 else 200)
        request.wfile.write(b"ok")

    assert WebPlace(web.at("/a", twice_busy), OPEN).read(1000) == b"ok"


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (204, 1), (500, 3), (429, 3)])
def test_an_answer_that_is_no_image_tells_its_status(web: Web, status: int, asked: int) -> None:
    url = web.at("/a", lambda request: _head(request, "0", status))

    with pytest.raises(ImageError, match=str(status)):
        WebPlace(url, OPEN).read(1000)
    assert len(web.asked) == asked


def test_packed_bodies_are_refused(web: Web) -> None:
    url = web.bytes_at("/a", b"packed", Content_Encoding="gzip")

    with pytest.raises(ImageError, match="packed as gzip"):
        WebPlace(url, OPEN).read(1000)
    assert web.heads[0]["Accept-Encoding"] == "identity"


def test_a_login_goes_to_its_own_server_and_into_no_key_and_no_message(web: Web) -> None:
    web.redirect("/a.png", web.url.replace("127.0.0.1", "localhost") + "/b.png")
    web.bytes_at("/b.png", b"", 403)
    url = web.url.replace("//", "//me:secret@") + "/a.png"
    (image,) = images(url, web=OPEN)

    with pytest.raises(ImageError) as caught:
        image.read()
    assert web.heads[0]["Authorization"] == "Basic bWU6c2VjcmV0"
    assert "Authorization" not in web.heads[1]
    assert "secret" not in image.key + str(caught.value)


def test_odd_urls_are_escaped_or_refused(web: Web) -> None:
    web.bytes_at("/%C3%BC%20a.png", b"here")

    assert WebPlace(web.url + "/ü a.png", OPEN).read(1000) == b"here"
    for odd in ("http://", "http:///x", "http://[::1", "http://a:99999/", "http://a\n/"):
        with pytest.raises(ImageError):
            WebPlace(odd, OPEN).read(1000)


def test_many_threads_share_the_connections(web: Web) -> None:
    from concurrent.futures import ThreadPoolExecutor

    places = [WebPlace(web.bytes_at(f"/{i}", str(i).encode()), OPEN) for i in range(100)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda place: place.read(100), places))

    assert found == [str(i).encode() for i in range(100)]
