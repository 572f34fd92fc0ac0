"""A real browser for the gateway's pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway.conftest import Upstream, serving
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, async_playwright

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DESKTOP = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=390, height=844)

if CHROMIUM is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str:
    """Says so where the tests of pages are left out."""
    there = CHROMIUM is not None
    return f"Chromium: {'here' if there else 'not here, the tests of tests/pages are left out'}"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # A container's root cannot make the namespaces of Chromium's sandbox.
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        await running.close()


@pytest.fixture
async def window(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A window of a desktop's size."""
    context = await browser.new_context(viewport=DESKTOP)
    yield context
    await context.close()


@pytest.fixture
async def tab(window: BrowserContext) -> AsyncIterator[Page]:
    """A tab that must log no error, and ask no other host for anything."""
    page, complaints = await window.new_page(), list[str]()
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: None if _own(sent.url) else complaints.append(sent.url))
    yield page
    assert complaints == []


@pytest.fixture
async def open_tab(browser: Browser) -> AsyncIterator[Page]:
    """A tab whose console may hold refused requests, which Chromium logs as errors."""
    context = await browser.new_context(viewport=DESKTOP)
    page, faults = await context.new_page(), list[str]()
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    await context.close()
    assert faults == []


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "set"
    made.mkdir()
    return made


@pytest.fixture
async def page_at(folder: Path) -> AsyncIterator[str]:
    """The address of Review over the folder, with a server that captions behind it."""
    options = CaptionerOptions(
        retries=2, workers=1, check=False, fleet=FleetOptions(concurrency=4, patience=0.5)
    )
    async with (
        serving(Upstream().app) as url,
        Captioner(f"{url}/v1", options=options) as captioner,
        serving(make_app(Context(captioner, roots=(folder,)))) as gateway,
    ):
        yield f"{gateway}/review"


def _own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "blob:", "data:"))
