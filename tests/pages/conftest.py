"""A real browser for the gateway's pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gateway.conftest import Upstream
from gateway.conftest import own_cache as own_cache
from gateway.conftest import pictures as pictures
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, async_playwright

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context, Limits

from prompt_server import serving_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DESKTOP = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=390, height=844)
shared = pytest_asyncio.fixture(loop_scope="session")  # on the loop of the one browser

if CHROMIUM is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str:
    """Says so where the tests of pages are left out."""
    there = CHROMIUM is not None
    return f"Chromium: {'here' if there else 'not here, the tests of tests/pages are left out'}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # A container's root cannot make the namespaces of Chromium's sandbox.
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        await running.close()


@shared
async def window(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A window of a desktop's size."""
    context = await browser.new_context(viewport=DESKTOP)
    yield context
    await context.close()


@shared
async def tab(window: BrowserContext) -> AsyncIterator[Page]:
    """A tab that must log no error, and ask no other host for anything."""
    page, complaints = await window.new_page(), list[str]()
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: None if _own(sent.url) else complaints.append(sent.url))
    yield page
    assert complaints == []


@shared
async def open_tab(browser: Browser) -> AsyncIterator[Page]:
    """A tab whose console may hold refused requests, which Chromium logs as errors."""
    context = await browser.new_context(viewport=DESKTOP)
    page, faults = await context.new_page(), list[str]()
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    await context.close()
    assert faults == []


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@shared
async def studio(upstream: Upstream) -> AsyncIterator[str]:
    """The address of a gateway that takes 200 kB."""
    async with _gateway(upstream, 8, limits=Limits(body=200_000)) as gateway:
        yield gateway


@shared
async def page_at(pictures: Path) -> AsyncIterator[str]:
    """The address of Review over the folder, with a server that captions behind it."""
    async with _gateway(Upstream(), 4, roots=(pictures,)) as gateway:
        yield f"{gateway}/review"


@contextlib.asynccontextmanager
async def _gateway(upstream: Upstream, concurrency: int, **context: Any) -> AsyncIterator[str]:
    fleet = FleetOptions(concurrency=concurrency, patience=0.5)
    options = CaptionerOptions(retries=2, workers=1, check=False, fleet=fleet)
    async with (
        serving_app(upstream.app) as url,
        Captioner(f"{url}/v1", options=options) as captioner,
        serving_app(make_app(Context(captioner, **context))) as gateway,
    ):
        yield gateway


def _own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "blob:", "data:"))
