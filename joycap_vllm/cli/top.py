"""`joycap top`: what engines do, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from joycap_vllm.cli.launched import BaseUrls, urls_of

if TYPE_CHECKING:
    from rich.table import Table

    from joycap_vllm.fleet.vitals import Rates, Vitals

_TIMEOUT = 5.0  # seconds for a page of metrics
_COLUMNS = (
    "engine", "running", "waiting", "KV", "cached", "pictures", "answers/s", "read/s", "written/s",
    "put back", "finished",
)  # fmt: skip


def top(
    base_urls: BaseUrls = None,
    interval: Annotated[
        float, typer.Option(envvar="JOYCAP_INTERVAL", min=0.2, help="Seconds between two looks.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", envvar="JOYCAP_ONCE", help="Look twice, print, and end.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="JOYCAP_JSON", help="A JSON line for each look.")
    ] = False,
) -> None:
    """Show what vLLM's engines do: requests, KV cache, what comes from the caches, tokens a second,
    how answers ended.

    `cached` is the share of prompt tokens that came from the prefix cache, `pictures` that of
    pictures that were prepared already, both since the last look. `joycap status` shows jobs.

    Examples:

      joycap top

      joycap top --base-url http://gpu1:8000/v1 --base-url http://gpu2:8000/v1

    Exit codes: 0 shown, 2 wrong usage, 3 no engine answers.
    """
    from joycap_vllm.fleet import normal_url

    urls = [normal_url(url) for url in urls_of(base_urls)]
    looks = _looks(urls, interval)
    if once or as_json or not sys.stdout.isatty():
        _print(looks, once=once, as_json=as_json)
    else:
        _show(looks)


def _looks(
    urls: list[str], interval: float
) -> Iterator[dict[str, tuple[Vitals | None, Rates | None]]]:
    """What each engine does, by two looks, again and again.

    Raises:
        NoEndpointError: None of them answered the first time.
    """
    from concurrent.futures import ThreadPoolExecutor

    from joycap_vllm.errors import NoEndpointError
    from joycap_vllm.fleet.vitals import rates

    before: Mapping[str, Vitals | None] = {}
    with ThreadPoolExecutor(min(32, len(urls))) as threads:
        while True:
            began = time.monotonic()
            found = dict(zip(urls, threads.map(_vitals, urls), strict=True))
            if not before and not any(found.values()):
                raise NoEndpointError(
                    f"no vLLM answers with its metrics at {', '.join(urls)}; --base-url names one"
                )
            both = {url: (before.get(url), now) for url, now in found.items()}
            if before:
                yield {
                    url: (now, None if old is None or now is None else rates(old, now))
                    for url, (old, now) in both.items()
                }
            before = found
            time.sleep(max(0.0, began + interval - time.monotonic()))


def _vitals(url: str) -> Vitals | None:
    import httpx2

    from joycap_vllm.fleet.vitals import read_vitals

    try:
        page = httpx2.get(f"{url.removesuffix('/v1')}/metrics", timeout=_TIMEOUT)
    except (httpx2.HTTPError, OSError):
        return None
    return read_vitals(page.text, time.monotonic()) if page.status_code == 200 else None


def _print(
    looks: Iterator[dict[str, tuple[Vitals | None, Rates | None]]], *, once: bool, as_json: bool
) -> None:
    import json

    for look in looks:
        if as_json:
            told = {
                url: None
                if now is None
                else asdict(now) | {"rates": None if rate is None else asdict(rate)}
                for url, (now, rate) in look.items()
            }
            typer.echo(json.dumps({"at": time.time(), "engines": told}))
        else:
            for row in _rows(look):
                cells = zip(_COLUMNS[1:], row[1:], strict=False)
                words = row[1:] if row[2:] == [] else [f"{name} {cell}" for name, cell in cells]
                typer.echo(f"{row[0]}: {', '.join(words)}")
        if once:
            return


def _show(looks: Iterator[dict[str, tuple[Vitals | None, Rates | None]]]) -> None:
    from rich.live import Live

    with Live(refresh_per_second=4, screen=True) as live:
        for look in looks:
            live.update(_table(look))


def _table(look: dict[str, tuple[Vitals | None, Rates | None]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=time.strftime("%H:%M:%S"), caption="Ctrl-C ends")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("engine", "finished") else "right")
    for row in _rows(look):
        table.add_row(*row)
    return table


def _rows(look: dict[str, tuple[Vitals | None, Rates | None]]) -> Iterator[list[str]]:
    for url, (now, rate) in look.items():
        name = url.removesuffix("/v1").removeprefix("http://")
        if now is None:
            yield [name, "does not answer"]
            continue
        yield [
            name,
            f"{now.running:.0f}",
            f"{now.waiting:.0f}",
            f"{now.kv:.0%}",
            *_speeds(rate),
            f"{now.preemptions:.0f}",
            ", ".join(f"{n:.0f} {reason}" for reason, n in sorted(now.finished.items()) if n),
        ]


def _speeds(rate: Rates | None) -> list[str]:
    if rate is None:
        return ["–"] * 5
    shares = ["–" if share is None else f"{share:.0%}" for share in (rate.prefix, rate.pictures)]
    speeds = (rate.requests, rate.prompt_tokens, rate.generation_tokens)
    return [*shares, *(f"{speed:,.1f}" if speed < 100 else f"{speed:,.0f}" for speed in speeds)]
