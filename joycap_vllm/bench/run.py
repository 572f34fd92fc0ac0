"""Finds the knee of a fleet with the real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from joycap_vllm.bench.compare import Comparison, compare
from joycap_vllm.bench.levels import is_rising, knee_of, next_level
from joycap_vllm.bench.measured import Measured
from joycap_vllm.bench.pictures import Pictures
from joycap_vllm.bench.round import Round
from joycap_vllm.bench.verdict import Finding, find_limit
from joycap_vllm.captioner import Captioner, CaptionerOptions
from joycap_vllm.errors import JoycapError, NoEndpointError, UsageError
from joycap_vllm.prompts import Prompt
from joycap_vllm.server import BenchCommand, bench_command

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How a bench is done.

    Args:
        urls: The fleet.
        captioner: The client; its concurrency and retries are set here.
        prompt: What is asked.
        levels: Levels to measure, in this order; empty finds the knee.
        seconds: Measured time of each level.
        auto: Whether a last round shows what `--concurrency auto` gets to.
        compare: Whether `vllm bench serve` is run beside it.
    """

    urls: tuple[str, ...]
    captioner: CaptionerOptions
    prompt: Prompt
    levels: tuple[int, ...] = ()
    seconds: float = 15.0
    auto: bool = True
    compare: bool = False


@dataclass(slots=True)
class Bench:
    """A bench and what it has found so far.

    Args:
        options: How it is done.
        pictures: What is sent.
        say: Takes lines for people.
    """

    options: BenchOptions
    pictures: Pictures
    say: Callable[[str], None]
    levels: list[Measured] = field(default_factory=list)
    auto: Measured | None = None
    comparison: Comparison | None = None
    model: str = ""
    wire: str = ""
    _checked: bool = False

    async def run(self) -> None:
        """All of it.

        Raises:
            NoEndpointError: No endpoint could be reached, none passed its check, or none answered.
            UsageError: The pictures cannot be used, or there is no vLLM to compare with.
        """
        command = await self._vllm_bench() if self.options.compare else None
        for level in self._levels():
            found = await self._measure(level)
            self.levels.append(found)
            if not found.answers:
                raise NoEndpointError(f"no request was answered: {found.why or 'no time was left'}")
            self.say(
                f"{level} in flight: {found.answers_per_second:.1f} answers/s, half of them within "
                f"{found.latency:.2f} s"
            )
        knee = self.knee
        if knee is None or knee.level is None:
            return
        if self.options.auto:
            self.say("and now with --concurrency auto")
            self.auto = await self._measure(None)
        if command is not None:
            await self._compare(command, knee.level, knee.answers_per_second)

    @property
    def rates(self) -> dict[int, float]:
        """Answers a second by level."""
        return {m.level: m.answers_per_second for m in self.levels if m.level is not None}

    @property
    def knee(self) -> Measured | None:
        """The smallest level with at least 95 % of the best rate."""
        knee = knee_of(self.rates)
        return next((m for m in self.levels if m.level == knee), None)

    @property
    def finding(self) -> Finding | None:
        """What limits the knee."""
        knee, rates = self.knee, self.rates
        flat = bool(rates) and max(rates) != min(rates) and not is_rising(rates)
        return None if knee is None else find_limit(knee, flat=flat)

    def as_json(self) -> dict[str, Any]:
        """All that was found, as plain data."""
        knee, finding = self.knee, self.finding
        return {
            "urls": list(self.options.urls),
            "model": self.model,
            "wire": self.wire,
            "prompt": self.options.prompt.name,
            "max_tokens": self.options.prompt.sampling.max_tokens,
            "pictures": self.pictures.words,
            "repeated": self.pictures.repeated,
            "levels": [m.as_json() for m in sorted(self.levels, key=lambda m: m.level or 0)],
            "knee": None if knee is None else knee.as_json(),
            "auto": None if self.auto is None else self.auto.as_json(),
            "limit": None if finding is None else finding.limit,
            "why": None if finding is None else finding.why,
            "advice": None if finding is None else finding.advice,
            "compare": None if self.comparison is None else self.comparison.as_json(),
        }

    def _levels(self) -> Iterator[int]:
        if self.options.levels:
            yield from self.options.levels
            return
        while (level := next_level(self.rates)) is not None:
            yield level

    async def _measure(self, level: int | None) -> Measured:
        async with self._client(level) as round_:
            return await _plainly(round_.measure(self.options.seconds))

    async def _vllm_bench(self) -> BenchCommand:
        if len(self.options.urls) > 1:
            raise UsageError("--compare-vllm-bench takes one --base-url: vllm bench serve asks one")
        return await asyncio.to_thread(bench_command, self.say)

    async def _compare(self, command: BenchCommand, knee: int, rate: float) -> None:
        count = max(2 * knee, round(rate * self.options.seconds))

        async def ours() -> float:
            async with self._client(knee) as round_:
                return await _plainly(round_.batch(count))

        self.comparison = await compare(
            command,
            ours,
            self.pictures,
            url=self.options.urls[0],
            model=self.model,
            prompt=self.options.prompt,
            api_key=self.options.captioner.api_key,
            knee=knee,
            count=count,
            say=self.say,
        )

    @asynccontextmanager
    async def _client(self, level: int | None) -> AsyncIterator[Round]:
        """The client that a job has whose --concurrency is this level; proved once."""
        options = self.options.captioner
        options = replace(
            options,
            check=options.check and not self._checked,
            retries=0,
            fleet=replace(options.fleet, concurrency=level),
        )
        async with Captioner(*self.options.urls, options=options) as joy:
            if not self._checked:
                for notice in joy.notices:
                    self.say(notice)
            for line in joy.fleet.news:
                self.say(line)
            self._checked = True
            self.model = joy.fleet.members[0].endpoint.abilities.model
            self.wire = joy.pool.wire
            yield Round(joy, self.pictures, self.options.prompt, level)


async def _plainly(work: Awaitable[T]) -> T:
    """What it gives; of a group of errors the first that is ours."""
    try:
        return await work
    except BaseExceptionGroup as group:
        ours = group.subgroup(JoycapError)
        if ours is None:
            raise
        error: BaseException = ours
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
