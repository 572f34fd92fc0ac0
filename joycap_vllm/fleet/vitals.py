"""What vLLM's metrics tell of an engine: what it does now, and by two looks how fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from joycap_vllm.errors import UsageError

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at an engine; all counts since it was started.

    Args:
        at: When, in seconds by any steady clock.
        running: Requests that it works on.
        waiting: Requests that wait.
        kv: Share of the KV cache in use, 0 to 1.
        prompt_tokens: Tokens read, those from the cache included.
        generation_tokens: Tokens written.
        prefix_queries: Tokens that were looked up in the prefix cache.
        prefix_hits: Of those, found.
        picture_queries: Pictures that were looked up in the cache of prepared ones.
        picture_hits: Of those, found.
        preemptions: Requests that were put back for want of KV cache.
        finished: Requests that ended, by reason.
    """

    at: float
    running: float = 0.0
    waiting: float = 0.0
    kv: float = 0.0
    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0
    picture_queries: float = 0.0
    picture_hits: float = 0.0
    preemptions: float = 0.0
    finished: Mapping[str, float] = field(default_factory=lambda: _NOTHING)

    @property
    def ended(self) -> float:
        """Requests that ended in any way."""
        return sum(self.finished.values())


@dataclass(frozen=True, slots=True)
class Rates:
    """What an engine did between two looks.

    Args:
        requests: Requests that ended, a second.
        prompt_tokens: Tokens read, a second.
        generation_tokens: Tokens written, a second.
        prefix: Share of the looked-up tokens that came from the cache; None where none were.
        pictures: Share of the looked-up pictures that were prepared already, likewise.
    """

    requests: float
    prompt_tokens: float
    generation_tokens: float
    prefix: float | None
    pictures: float | None


_GAUGES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv",
}
_COUNTERS = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prefix_cache_queries_total": "prefix_queries",
    "vllm:prefix_cache_hits_total": "prefix_hits",
    "vllm:mm_cache_queries_total": "picture_queries",
    "vllm:mm_cache_hits_total": "picture_hits",
    "vllm:num_preemptions_total": "preemptions",
}


def read_vitals(text: str, at: float) -> Vitals | None:
    """What a page of metrics says; None where it is no vLLM's.

    Args:
        text: The page, in Prometheus's text format.
        at: When it was asked for.

    Raises:
        UsageError: The extra `metrics` is not installed.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise UsageError(
            "reading a server's metrics needs an extra: pip install 'joycap-vllm[metrics]'"
        ) from error
    sums: dict[str, float] = {}
    finished: dict[str, float] = {}
    engines = 0
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "vllm:request_success_total":
                    reason = sample.labels.get("finished_reason", "")
                    finished[reason] = finished.get(reason, 0.0) + sample.value
                elif name := _GAUGES.get(sample.name) or _COUNTERS.get(sample.name):
                    sums[name] = sums.get(name, 0.0) + sample.value
                    engines += name == "kv"
    except ValueError:
        return None
    if "running" not in sums:
        return None
    sums["kv"] = sums.get("kv", 0.0) / max(1, engines)
    return Vitals(at=at, finished=finished, **sums)


def rates(before: Vitals, now: Vitals) -> Rates | None:
    """What was done between two looks; None where no time is between them, or the engine was
    started anew."""
    seconds = now.at - before.at
    if seconds <= 0 or now.prompt_tokens < before.prompt_tokens or now.ended < before.ended:
        return None
    return Rates(
        requests=(now.ended - before.ended) / seconds,
        prompt_tokens=(now.prompt_tokens - before.prompt_tokens) / seconds,
        generation_tokens=(now.generation_tokens - before.generation_tokens) / seconds,
        prefix=_share(
            now.prefix_hits - before.prefix_hits, now.prefix_queries - before.prefix_queries
        ),
        pictures=_share(
            now.picture_hits - before.picture_hits, now.picture_queries - before.picture_queries
        ),
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
