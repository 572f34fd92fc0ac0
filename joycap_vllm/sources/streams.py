"""Files of any origin as streams of bytes, unpacked, and streams as lines."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from joycap_vllm.errors import MissingExtraError
from joycap_vllm.sources.store import in_words, open_store
from joycap_vllm.sources.web import WebRules
from joycap_vllm.sources.webfiles import WebStream

_BLOCK = 1 << 18
_AHEAD = 8 << 20  # bytes that are fetched at once from a store
LONGEST = 1 << 30  # bytes of a line


def is_remote(name: str) -> bool:
    """Whether this is a URL, and no path of this machine."""
    return "://" in name


def is_web(name: str) -> bool:
    """Whether this is an http(s) URL."""
    return name[:8].lower().startswith(("http://", "https://"))


def open_raw(name: str, rules: WebRules) -> BinaryIO:
    """A path or URL as a stream of its bytes as they are.

    Raises:
        OSError: It cannot be opened.
        UsageError: Nothing installed reads such URLs.
    """
    if is_web(name):
        return cast("BinaryIO", io.BufferedReader(WebStream(name, rules), _BLOCK))
    if is_remote(name):
        files, path = open_store(name)
        try:
            return cast("BinaryIO", files.open(path, "rb", block_size=_AHEAD))
        except OSError:
            raise
        except Exception as error:  # a store's library may raise anything at all
            raise OSError(in_words(error)) from error
    return Path(name).open("rb")


def open_unpacked(name: str, rules: WebRules) -> BinaryIO:
    """As `open_raw`, and what is gzip is unpacked on the way."""
    raw = open_raw(name, rules)
    if not is_packed(raw, name):
        return raw
    return cast("BinaryIO", _Owning(raw))


def is_packed(raw: BinaryIO, name: str) -> bool:
    """Whether a stream at its start is gzip; by its first bytes, where they can be looked at."""
    if isinstance(raw, io.BufferedReader):
        return raw.peek(2)[:2] == b"\x1f\x8b"
    return name.partition("?")[0].lower().endswith((".gz", ".tgz"))


class _Owning(gzip.GzipFile):
    """Unpacks a stream, and closes it with itself."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._raw = raw

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._raw.close()


def lines_of(stream: BinaryIO, longest: int = LONGEST) -> Iterator[bytes | None]:
    """The lines of a stream without their ends; None for one over `longest` bytes, unread."""
    held: list[bytes] = []
    size, dropped, first = 0, False, True
    while block := stream.read(_BLOCK):
        if first:
            block, first = block.removeprefix(b"\xef\xbb\xbf"), False
        head, *others = block.split(b"\n")
        held.append(head)
        size += len(head)
        if size > longest:
            held, dropped = [], True
        if not others:
            continue
        yield None if dropped else b"".join(held)
        last = others.pop()
        yield from others
        held, size, dropped = [last], len(last), False
    if dropped:
        yield None
    elif size:
        yield b"".join(held)


def count_lines(name: str, rules: WebRules) -> int | None:
    """Lines of a file of this machine; None of what is elsewhere or cannot be read."""
    if is_remote(name):
        return None
    try:
        with open_unpacked(name, rules) as stream:
            lines, last = 0, b"\n"
            while block := stream.read(1 << 20):
                lines, last = lines + block.count(b"\n"), block
    except (OSError, EOFError):
        return None
    return lines + (not last.endswith(b"\n"))


@contextmanager
def noting(unreadable: dict[Path | str, str], name: str) -> Iterator[None]:
    """Notes why a file could not be read to its end, and lets the walk go on behind it."""
    try:
        yield
    except MissingExtraError:
        raise
    except Exception as error:  # packed, remote and damaged files fail in many ways
        unreadable[name if is_remote(name) else Path(name)] = in_words(error)
