"""A worker by itself, without Ray: what it reports, and what it cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from joycap_vllm import CaptionerOptions, Prompt
from joycap_vllm.job.crew import Asked, Order
from joycap_vllm.scale.gate import Gate
from joycap_vllm.scale.worker import Briefing, Report, Worker
from joycap_vllm.sources import FilePlace, SourceImage
from scale.jobs import pictures

PROMPTS = tuple(Prompt(name, f"{name}?", "", "mixed") for name in ("one", "two"))
OPTIONS = CaptionerOptions(check=False, workers=1)


def order(path: Path, *prompts: Prompt, unless: str | None = None) -> Order:
    asked = tuple(Asked(prompt, prompt.text, 0, unless) for prompt in prompts or PROMPTS)
    return Order(SourceImage(path.name, FilePlace(str(path))), asked)


@asynccontextmanager
async def opened(url: str, root: Path) -> AsyncIterator[Worker]:
    worker = Worker()
    report = await worker.open(Briefing((url,), OPTIONS, 2, str(root)))
    assert report.failure is None
    try:
        yield worker
    finally:
        await worker._captioner.__aexit__()


async def all_of(worker: Worker, count: int) -> list[Report]:
    reports: list[Report] = []
    while sum(len(report.ended) for report in reports) < count:
        reports.append(await worker.take())
        assert reports[-1].failure is None
    return reports


async def test_it_reports_each_order_once_with_all_outcomes_and_answers(
    server: Any, tmp_path: Path
) -> None:
    paths = pictures(tmp_path, 20)

    async with opened(server.url, tmp_path) as worker:
        await worker.give(list(enumerate(order(path) for path in paths)))
        reports = await all_of(worker, 20)
        idle = await worker.take()

    ended = [one for report in reports for one in report.ended]
    answers = [answer for report in reports for answer in report.answers]
    assert sorted(one.number for one in ended) == list(range(20))
    assert all(sorted(at for at, _ in one.outcomes) == [0, 1] for one in ended)
    assert all(one.facts is not None and one.facts.data == b"" for one in ended)
    assert len(answers) == 40
    assert (idle.ended, idle.answers) == ((), ())


async def test_a_picture_whose_answer_is_known_is_read_and_not_asked(
    server: Any, tmp_path: Path
) -> None:
    [path] = pictures(tmp_path, 1)

    async with opened(server.url, tmp_path) as worker:
        await worker.give([(0, order(path))])
        [first] = [one for report in await all_of(worker, 1) for one in report.ended]
        assert first.facts is not None
        await worker.give([(1, order(path, unless=first.facts.sha256))])
        [again] = [one for report in await all_of(worker, 1) for one in report.ended]

    assert (again.outcomes, again.why) == ((), "")
    assert len(server.bodies) == 2


async def test_a_machine_that_does_not_see_the_jobs_files_says_so_and_fails_none(
    server: Any, tmp_path: Path
) -> None:
    async with opened(server.url, tmp_path / "elsewhere") as worker:
        await worker.give([(0, order(tmp_path / "elsewhere" / "a.png"))])
        report = await worker.take()

    assert report.ended == ()
    assert report.failure is not None
    assert report.failure.kind == "usage"
    assert f"does not see {tmp_path / 'elsewhere'}" in report.failure.text


async def test_a_file_that_is_missing_where_others_are_fails_alone(
    server: Any, tmp_path: Path
) -> None:
    async with opened(server.url, tmp_path) as worker:
        await worker.give([(0, order(tmp_path / "gone.png"))])
        [ended] = [one for report in await all_of(worker, 1) for one in report.ended]

    assert "cannot be read" in ended.why


async def test_another_version_is_refused(tmp_path: Path) -> None:
    briefing = replace(Briefing(("http://127.0.0.1:1",), OPTIONS, 1, "/"), version="0.0.1")
    report = await Worker().open(briefing)

    assert report.failure is not None
    assert "and not 0.0.1" in report.failure.text


async def test_a_gate_lets_no_more_in_than_there_is_room_and_all_in_the_end() -> None:
    room, most, done = [2.0], 0, []
    gate = Gate(lambda: room[0])

    async def visit(number: int) -> None:
        nonlocal most
        async with gate:
            most = max(most, gate.under_way)
            await asyncio.sleep(0)
            done.append(number)

    visits = [asyncio.create_task(visit(number)) for number in range(50)]
    await asyncio.sleep(0)
    visits[30].cancel()
    room[0] = 5.0
    await asyncio.gather(*visits, return_exceptions=True)

    assert done == [*range(30), *range(31, 50)]
    assert most == 5
    assert gate.under_way == 0
