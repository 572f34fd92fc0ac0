"""Files behind http(s) URLs that are no images: manifests, lists and shards."""

from __future__ import annotations

import io
import time
from contextlib import ExitStack

from joycap_vllm.errors import ImageError
from joycap_vllm.sources.web import WebRules, answered, chunks, header


class WebStream(io.RawIOBase):
    """The body of a URL as a stream, for manifests and shards.

    Its silence is bounded by the rules, its length and whole time are not.

    Raises:
        OSError: It cannot be opened or read on; the text says why.
    """

    def __init__(self, url: str, rules: WebRules) -> None:
        super().__init__()
        self._stack, self._rest = ExitStack(), b""
        try:
            response = self._stack.enter_context(answered(url, rules, None))
        except ImageError as error:
            raise OSError(str(error)) from error
        self._parts = chunks(response)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            while not self._rest:
                self._rest = next(self._parts)
        except StopIteration:
            return 0
        except ImageError as error:
            raise OSError(str(error)) from error
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)

    def close(self) -> None:
        self._stack.close()
        super().close()


class WebFile(io.RawIOBase):
    """A URL as a file that is read here and there, for Parquet.

    Raises:
        OSError: It cannot be read, or its server gives no parts of files.
    """

    def __init__(self, url: str, rules: WebRules) -> None:
        super().__init__()
        self._url, self._rules, self._at = url, rules, 0
        self._length = self._part(0, 0)[1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = 0) -> int:
        self._at = to + (0, self._at, self._length)[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        last = min(self._at + len(buffer), self._length) - 1
        if last < self._at:
            return 0
        data = self._part(self._at, last)[0]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _part(self, first: int, last: int) -> tuple[bytes, int]:
        """Bytes from `first` to `last`, and the length of all."""
        ends = time.monotonic() + self._rules.seconds
        try:
            with answered(self._url, self._rules, ends, (first, last)) as response:
                whole = header(response, b"content-range").rpartition(b"/")[2]
                if response.status != 206 or not whole.isdigit():
                    raise OSError("its server gives no parts of files; download it first")
                data = b"".join(chunks(response))
        except ImageError as error:
            raise OSError(str(error)) from error
        if len(data) != last - first + 1:
            raise OSError("its server gives other parts than were asked for")
        return data, int(whole)
