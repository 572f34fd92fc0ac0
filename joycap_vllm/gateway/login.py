"""Keys for people: a form that takes a key, and a cookie that stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.gate import FAILURES, Buckets, OverError
from joycap_vllm.gateway.keys import Key
from joycap_vllm.gateway.pages import page
from joycap_vllm.gateway.reply import Refusal, RefusedError
from joycap_vllm.gateway.sessions import LASTS

_MOST_FORM = 16 << 10  # bytes


def cookie_key(scope: Scope, headers: Mapping[bytes, bytes], context: Context) -> Key | None:
    """The key of a request's session; None where it has none."""
    token = _token(scope, headers)
    secret = context.sessions.secret(token) if token else None
    return None if secret is None else context.keys.find(secret)


def login_routes(context: Context) -> list[BaseRoute]:
    """`/login` and `/logout`."""
    door = _Login(context)
    return [
        Route("/login", door.form, methods=["GET"]),
        Route("/login", door.login, methods=["POST"]),
        Route("/logout", door.logout, methods=["POST"]),
    ]


class _Login:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._failures = Buckets(*FAILURES)

    async def form(self, request: Request) -> Response:
        """The form; whoever is logged in may log out there."""
        wanted = local_path(request.query_params.get("next", "/"))
        if not self._context.keys:
            return RedirectResponse(wanted, 303)
        return self._page(request, wanted)

    async def login(self, request: Request) -> Response:
        """Takes the key and leads to the page that was wanted."""
        fields = await _form(request)
        wanted = local_path(fields.get("next", "/"))
        who = request.client.host if request.client else "?"
        if wait := self._failures.wait(who):
            left = f"Too many tries. Wait {wait:.0f} seconds."
            return self._page(request, wanted, left, 429, {"Retry-After": f"{wait + 1:.0f}"})
        key = self._context.keys.find(fields.get("key", "").strip().encode())
        if key is None:
            self._failures.take(who)
            return self._page(request, wanted, "That is none of the gateway's keys.", 401)
        answer = RedirectResponse(wanted, 303)
        answer.set_cookie(
            _name(request.scope),
            self._context.sessions.begin(key),
            max_age=LASTS,
            httponly=True,
            samesite="strict",
            # What ends TLS before the gateway is not seen from here; the browser names the page.
            secure=request.headers.get("origin", "").startswith("https://"),
        )
        return answer

    async def logout(self, request: Request) -> Response:
        """Ends the session."""
        token = _token(request.scope, dict(request.scope["headers"]))
        if token:
            self._context.sessions.end(token)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(_name(request.scope), httponly=True, samesite="strict")
        return answer

    def _page(
        self,
        request: Request,
        wanted: str,
        problem: str = "",
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Response:
        answer = page(request, "login.html", next=wanted, problem=problem)
        answer.status_code = status
        answer.headers.update(headers or {})
        return answer


def local_path(wanted: str) -> str:
    """A path of this gateway; `/` in place of anything that leads elsewhere."""
    plain = wanted.isprintable() and "\\" not in wanted
    return wanted if plain and wanted.startswith("/") and not wanted.startswith("//") else "/"


async def _form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise RefusedError(415, "the form is sent as application/x-www-form-urlencoded")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_FORM:
            raise OverError(Refusal(413, "that is longer than any key"))
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        raise RefusedError(400, "that is no form") from None
    return {name: values[0] for name, values in fields.items()}


def _name(scope: Scope) -> str:
    """Of its own for each port, since browsers keep no cookies apart by port."""
    return f"joycap_session_{(scope.get('server') or ('', 0))[1]}"


def _token(scope: Scope, headers: Mapping[bytes, bytes]) -> str:
    return cookie_parser(headers.get(b"cookie", b"").decode("latin-1")).get(_name(scope), "")
