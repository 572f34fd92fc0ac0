"""Pictures that a request names: bytes in a `data:` URL, or a public http(s) address."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

from joycap_vllm.errors import ImageError
from joycap_vllm.gateway.reply import RefusedError
from joycap_vllm.gateway.request import decode_image
from joycap_vllm.images import ImagePool, Prepared
from joycap_vllm.sources import WebRules
from joycap_vllm.sources.web import WebPlace

RULES = WebRules(most=32 << 20, seconds=20.0, redirects=3)
_AT_ONCE = 32  # addresses that are fetched at once; others wait, and hold up no decoding
_LONGEST_HEAD = 256  # characters of a data: URL before its comma
_WEB_URL = re.compile(r"https?://", re.IGNORECASE)
# The rules' words name the flags of a command, and what a name's address is inside.
_NOT_FOR_CALLERS = re.compile(r"( \([^()]*\))?; --.*| \(--[^()]*\)")


class Pictures:
    """Has pictures ready to be sent.

    Args:
        pool: Who decodes and prepares them.
        rules: What may be fetched.
    """

    def __init__(self, pool: ImagePool, rules: WebRules = RULES) -> None:
        self._pool = pool
        self._rules = rules
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="joycap-fetch")

    async def prepared(self, url: str) -> Prepared:
        """The picture of a URL.

        Raises:
            RefusedError: The URL is of another kind.
            ImageError: The picture cannot be had or used.
        """
        if _is_data(url):
            return await self._pool.prepare(lambda: decode_image(url))
        if not _WEB_URL.match(url):
            raise RefusedError(
                400,
                "a picture is a data: URL with base64, or an http(s) URL",
                code="invalid_image_url",
            )
        data = await asyncio.get_running_loop().run_in_executor(self._threads, self._fetched, url)
        return await self._pool.prepare(lambda: data)

    def close(self) -> None:
        """Ends the threads, without waiting for servers that are slow."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetched(self, url: str) -> bytes:
        try:
            return WebPlace(url, self._rules).read(self._rules.most)
        except ImageError as error:
            words = _NOT_FOR_CALLERS.sub("", str(error))
            raise ImageError(f"the picture cannot be fetched: {words}") from error


def _is_data(url: str) -> bool:
    head, comma, _ = url[:_LONGEST_HEAD].lower().partition(",")
    return bool(comma) and head.startswith("data:") and head.endswith(";base64")
