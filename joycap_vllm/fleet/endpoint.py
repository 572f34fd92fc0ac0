"""One endpoint: its address, what it is able to do, and a single request to it."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx2
from aiohttp.abc import AbstractStreamWriter
from openai import DefaultAioHttpClient

from joycap_vllm.errors import NoEndpointError, TransportError, UsageError
from joycap_vllm.fleet.answer import Answer, read_answer
from joycap_vllm.fleet.body import Body
from joycap_vllm.fleet.faults import message_of, sorted_connection, sorted_status
from joycap_vllm.fleet.hiding import quoted
from joycap_vllm.fleet.live import OnText, read_live
from joycap_vllm.fleet.seats import first_seats

CONNECTIONS = 1024  # to one endpoint at once, where nothing else is wanted
CONTROL_TIMEOUT = 10.0  # seconds for health, models and metrics
# Idle connections are closed before the server closes them: uvicorn does so after 5 s by default,
# and a request sent into a closing connection is lost.
KEEP_ALIVE = 3.0
_NAMELESS = "joycaption"  # asked for where a server lists no models and none is named
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_HOST = re.compile(r"[\w.:%-]+")
_NO_AUTH = httpx2.Auth()  # the key is in the headers; saves a look into the URL
_MOST_REQUESTS = 1e9  # that a server may say it has
_VLLM_GAUGE = re.compile(r"^vllm:num_requests_(running|waiting)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an endpoint says of itself.

    Args:
        model: The name to ask for.
        vllm: Version of vLLM, such as (0, 32, 0); None for any other server.
        context: Longest context in tokens, where the server says.
        metrics: Whether `/metrics` shows vLLM's gauges.
        seats: Requests that it works on at once, where it says so.
    """

    model: str
    vllm: tuple[int, ...] | None = None
    context: int | None = None
    metrics: bool = False
    seats: int | None = None


def normal_url(url: str) -> str:
    """`host:8000` and `http://host:8000/` both become `http://host:8000/v1`.

    Raises:
        UsageError: It is no http(s) address, or holds more than one: a password, a query.
    """
    url = url.strip().rstrip("/")
    if "://" not in url:
        url = f"http://{url}"
    if "@" in url:
        raise UsageError("a base URL holds no password; the API key goes into OPENAI_API_KEY")
    if "?" in url or "#" in url:
        raise UsageError(
            "a base URL ends with its path: leave out what follows ? or #; the API key goes into "
            "OPENAI_API_KEY"
        )
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and _HOST.fullmatch(parts.hostname or "")
        _ = parts.port, httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL):
        known = None
    if not known or url.count("://") > 1 or " " in url or not url.isprintable():
        raise UsageError(f"{url!r} is no base URL; one looks like http://127.0.0.1:8000/v1")
    return url if parts.path else f"{url}/v1"


class _Sent(aiohttp.Payload, httpx2.AsyncByteStream):
    """A body on its way, for once; as a payload of aiohttp's it is written as it is made, and its
    length is known."""

    _autoclose = True  # there is nothing to close

    def __init__(self, body: Body, picture: bytes) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)
        self._picture = picture

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value.pieces(self._picture)).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in self._value.pieces(self._picture):
            await writer.write(piece)
        self._picture = b""  # the answer may take minutes
        self._value.sent()


class Endpoint:
    """One OpenAI-compatible server.

    Args:
        url: Its base URL.
        api_key: Its key; None sends a placeholder, as servers without keys expect.
        connections: Most connections at once.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, connections: int = CONNECTIONS
    ) -> None:
        self.url = normal_url(url)
        self.root = self.url.removesuffix("/v1")
        self.abilities = Abilities(model="")
        self._key = api_key
        limits = httpx2.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEP_ALIVE,
        )
        # The openai client's own transport and its limits, without what the client does around each
        # request: that costs more than all else, and nothing of it is wanted here.
        self._client = DefaultAioHttpClient(
            limits=limits,
            timeout=httpx2.Timeout(None, connect=CONTROL_TIMEOUT),
            verify=_certificates(),
            trust_env=not self.loopback,
            headers={"Authorization": f"Bearer {api_key or 'none'}"},
        )
        self._address = httpx2.URL(f"{self.url}/chat/completions")
        self._control = httpx2.AsyncClient(
            timeout=CONTROL_TIMEOUT,
            follow_redirects=True,
            verify=_certificates(),
            trust_env=not self.loopback,  # a proxy cannot reach this machine's own servers
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        )

    @property
    def loopback(self) -> bool:
        """Whether it runs on this machine."""
        host = urlsplit(self.url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    async def close(self) -> None:
        """Closes every connection."""
        await self._client.aclose()
        await self._control.aclose()

    async def send(self, body: Body, deadline: float) -> Answer:
        """One request, one answer.

        Args:
            body: The whole request.
            deadline: Seconds until the connection is closed, which frees the server.

        Raises:
            RejectedError: The server says the request is wrong.
            FullError: The server cannot take it now.
            TransportError: No whole answer came.
            NoEndpointError: The server refuses the API key.
            ImageError: The picture was let go, and cannot be had again.
        """
        stream = _Sent(body, await body.data())
        request = httpx2.Request("POST", self._address, headers=self._client.headers, stream=stream)
        try:
            async with asyncio.timeout(deadline):
                if body.on_text is not None:
                    return await self._read_live(request, body.on_text)
                response = await self._client.send(request, auth=_NO_AUTH)
        except TimeoutError as error:
            raise TransportError(f"no answer within {deadline:.0f} s") from error
        except (httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            raise sorted_connection(error, self._key) from error
        return self._read(response)

    @asynccontextmanager
    async def relay(self, body: bytes, silence: float) -> AsyncIterator[httpx2.Response]:
        """A chat completion as somebody else worded it: the response as it comes, its body unread;
        at the end of the block the connection is closed, unless it was read to its end.

        Args:
            body: The whole request.
            silence: Seconds without a byte after which it is given up.

        Raises:
            TransportError: No response began, or it breaks off while it is read.
            NoEndpointError: The server refuses the API key.
        """
        timeout = httpx2.Timeout(silence, connect=CONTROL_TIMEOUT)
        headers = {"Content-Type": "application/json"}
        request = self._client.build_request(
            "POST", self._address, content=body, headers=headers, timeout=timeout
        )
        try:
            response = await self._client.send(request, auth=_NO_AUTH, stream=True)
        except (httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            # The transport also calls a closed connection a time-out.
            if isinstance(error.__cause__, TimeoutError):
                raise TransportError(f"no answer within {silence:.0f} s") from error
            raise sorted_connection(error, self._key) from error
        try:
            if response.status_code == 401:
                raise NoEndpointError(self._key_refused())
            yield response
        except (httpx2.HTTPError, aiohttp.ClientError) as error:
            raise sorted_connection(error, self._key) from error
        finally:
            await response.aclose()

    def hidden(self, data: bytes) -> bytes:
        """What the server sent, with `***` for each place that repeats its API key."""
        return data.replace(self._key.encode(), b"***") if self._key else data

    async def probe(self, model: str | None) -> Abilities:
        """Asks what the server is, and keeps the answer.

        Args:
            model: The name to ask for; None takes the first that the server lists, and
                `joycaption` where it lists none.

        Raises:
            NoEndpointError: It cannot be reached, refuses the key, or serves no such model.
        """
        listed = await self._models()
        names = [str(row.get("id") or "") for row in listed]
        if model is not None and names and model not in names:
            raise NoEndpointError(f"{self.url} serves {', '.join(names)}, but not {model}")
        row = listed[names.index(model) if model in names else 0] if listed else {}
        told = await self._text("/metrics")
        metrics = bool(_VLLM_GAUGE.search(told))
        is_vllm = row.get("owned_by") == "vllm" or metrics
        self.abilities = Abilities(
            model=model or (names[0] if names else _NAMELESS),
            vllm=await self._version() if is_vllm else None,
            context=row.get("max_model_len"),
            metrics=metrics,
            seats=first_seats(told, listed),
        )
        return self.abilities

    async def healthy(self) -> bool:
        """Whether the server answers that it is well; servers without `/health` list models."""
        try:
            response = await self._control.get(f"{self.root}/health")
            if response.status_code in (404, 405):
                response = await self._control.get(f"{self.url}/models")
        except (httpx2.HTTPError, OSError):
            return False
        return response.status_code < 500

    async def load(self) -> tuple[float, float] | None:
        """Requests running and waiting by vLLM's own count; None where it does not say."""
        found = _VLLM_GAUGE.findall(await self._text("/metrics"))
        if not found:
            return None
        sums = {"running": 0.0, "waiting": 0.0}
        try:
            for name, value in found:
                sums[name] += float(value)
        except ValueError:
            return None
        whole = all(0 <= value < _MOST_REQUESTS for value in sums.values())  # also not NaN
        return (sums["running"], sums["waiting"]) if whole else None

    async def post_control(self, path: str, data: dict[str, Any]) -> dict[str, Any] | None:
        """A control call such as `/detokenize`; None where the server does not know it."""
        try:
            response = await self._control.post(f"{self.root}{path}", json=data)
            answer = response.json() if response.status_code == 200 else None
        except (httpx2.HTTPError, OSError, ValueError):
            return None
        return answer if isinstance(answer, dict) else None

    async def refuses(self, data: bytes) -> bool:
        """Whether it reads `data`, which is no request, and says so."""
        url, kind = f"{self.url}/chat/completions", {"Content-Type": "application/json"}
        try:
            response = await self._control.post(url, content=data, headers=kind)
        except (httpx2.HTTPError, OSError):
            return False
        return response.status_code in (400, 422)

    def _read(self, response: httpx2.Response) -> Answer:
        if response.status_code == 401:
            raise NoEndpointError(self._key_refused())
        if not response.is_success:
            raise sorted_status(response, key=self._key)
        return read_answer(response.content, key=self._key)

    async def _read_live(self, request: httpx2.Request, on_text: OnText) -> Answer:
        response = await self._client.send(request, auth=_NO_AUTH, stream=True)
        try:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                return await read_live(response.aiter_bytes(), on_text, key=self._key)
            await response.aread()
            return self._read(response)  # a refusal, or a server that does not stream
        finally:
            await response.aclose()

    async def _models(self) -> list[dict[str, Any]]:
        try:
            response = await self._control.get(f"{self.url}/models")
        except (httpx2.HTTPError, OSError) as error:
            words = quoted(str(error), self._key) or type(error).__name__
            proxies = [n for n in _PROXIES if os.environ.get(n)]
            way = f" (through {', '.join(proxies)})" if proxies and not self.loopback else ""
            raise NoEndpointError(f"{self.url} cannot be reached{way}: {words}") from error
        if response.status_code in (401, 403):
            raise NoEndpointError(self._key_refused())
        if response.status_code in (404, 405, 501):
            return []
        if response.status_code != 200:
            raise NoEndpointError(f"{self.url} answers {message_of(response, self._key)}")
        try:
            return [row for row in response.json()["data"] or [] if isinstance(row, dict)]
        except (ValueError, KeyError, TypeError) as error:
            raise NoEndpointError(f"{self.url} does not speak the OpenAI API") from error

    def _key_refused(self) -> str:
        return f"{self.url} refuses the API key; give it in OPENAI_API_KEY or --api-key-file"

    async def _version(self) -> tuple[int, ...]:
        text = await self._text("/version")
        return tuple(int(n) for n in re.findall(r"\d+", text)[:3]) or (0,)

    async def _text(self, path: str) -> str:
        try:
            response = await self._control.get(f"{self.root}{path}")
        except (httpx2.HTTPError, OSError):
            return ""
        return response.text if response.status_code == 200 else ""


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Whom https trusts; to read that takes 20 ms of CPU, too long for each of many endpoints."""
    return httpx2.create_ssl_context()
