"""The pages: templates, static files, and the policy under which a browser runs them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

ACCOUNT = "joycap.account"  # where a request's scope names the key of its session
_HERE = Path(__file__).parent
# Everything comes from the gateway itself; pictures that a user drops are shown as blobs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def static_routes() -> list[BaseRoute]:
    """Scripts and styles, below /static."""
    return [Mount("/static", _Fresh(directory=_HERE / "static"), name="static")]


def page(request: Request, template: str, **values: Any) -> HTMLResponse:
    """A page from a template of `pages/`.

    Args:
        request: What it answers.
        template: As "studio.html".
        **values: What the template is given; all text is escaped.
    """
    account = request.scope.get(ACCOUNT, "")
    text = (
        _templates().get_template(template).render(path=request.url.path, account=account, **values)
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})


class _Fresh(StaticFiles):
    """Files that a browser asks after each time, so that old and new scripts never mix."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, or 304 where the browser has it as it is."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(_HERE / "pages"), autoescape=True)
