"""What stands of a job, whoever looks: its writers' status files, locks and journals.

Nothing is written and nobody is kept waiting: it works on folders that only others may write.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from joycap_vllm.errors import UsageError
from joycap_vllm.job.figures import Figures, summed
from joycap_vllm.job.lock import is_locked
from joycap_vllm.job.records import read_records, state_folder

WriterState = Literal["running", "starting", "ended", "killed"]


@dataclass(frozen=True, slots=True)
class Writer:
    """One `joycap caption` of a job.

    Args:
        name: As its journal has it: the host and a number.
        state: `starting` has no figures yet, `killed` did not come to say how it ended.
        ended: How it ended: `done`, `interrupted`, or the error.
        host, pid: Where it runs or ran; pid 0 where that is unknown.
        started, updated: Seconds since 1970; 0 where they are unknown.
        shard: Its part, and how many there are.
        urls: Its endpoints.
        figures: What it has done; without what happens at this moment where it is not at work.
    """

    name: str
    state: WriterState
    ended: str = ""
    host: str = ""
    pid: int = 0
    started: float = 0.0
    updated: float = 0.0
    shard: tuple[int, int] = (1, 1)
    urls: tuple[str, ...] = ()
    figures: Figures = field(default_factory=Figures)

    @property
    def at_work(self) -> bool:
        """Whether its process is there."""
        return self.state in ("running", "starting")

    def as_json(self) -> dict[str, Any]:
        """Plain data; the shard as `I/N`."""
        return {
            "writer": self.name,
            "state": self.state,
            "ended": self.ended,
            "host": self.host,
            "pid": self.pid,
            "started": self.started,
            "updated": self.updated,
            "shard": "/".join(map(str, self.shard)),
            "urls": list(self.urls),
            "figures": self.figures.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """A job as it stands.

    Args:
        state: Its state folder.
        writers: Those at work first, then the others, the latest first.
        recorded: Outcomes of its tasks by its journals; None while writers are at work.
    """

    state: Path
    writers: tuple[Writer, ...]
    recorded: dict[str, int] | None = None

    @property
    def at_work(self) -> tuple[Writer, ...]:
        """Writers whose process is there."""
        return tuple(writer for writer in self.writers if writer.at_work)

    @property
    def total(self) -> Figures:
        """The figures of all who share the work: those at work, and shards of theirs that are
        through."""
        parts = {writer.shard[1] for writer in self.at_work}
        latest: dict[tuple[int, int], Writer] = {}
        for writer in self.writers:
            if writer.at_work or (writer.shard[1] > 1 and writer.shard[1] in parts):
                latest.setdefault(writer.shard if writer.shard[1] > 1 else (id(writer), 1), writer)
        return summed(writer.figures for writer in latest.values())

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "state": str(self.state),
            "running": len(self.at_work),
            "writers": [writer.as_json() for writer in self.writers],
            "total": self.total.as_json() if self.at_work else None,
            "recorded": self.recorded,
        }


def find_state(path: Path) -> Path:
    """The state folder of a job, from its folder, the state folder itself, or a journal.

    Raises:
        UsageError: There is no journal.
    """
    if path.is_file():
        return path.absolute().parent
    for folder in (path / ".joycap", path, state_folder(path.absolute())):
        if next(folder.glob("journal-*.jsonl"), None) is not None:
            return folder.absolute()
    raise UsageError(
        f"no job in {path}: it has no journal; give the folder of its captions (that of --out, "
        "where it had one), or the one that --journal named"
    )


def standing_of(state: Path) -> Standing:
    """Looks at a job; that reads its journals where nobody is at work on it.

    Raises:
        OutputError: A journal cannot be read.
    """
    writers = sorted(
        filter(None, map(_writer, state.glob("journal-*.jsonl"))),
        key=lambda writer: (not writer.at_work, -writer.updated, writer.name),
    )
    if any(writer.at_work for writer in writers):
        return Standing(state, tuple(writers))
    recorded = Counter(record.outcome for record in read_records(state).values())
    return Standing(state, tuple(writers), dict(sorted(recorded.items(), reverse=True)))


def _writer(journal: Path) -> Writer | None:
    """Who writes or wrote a journal; None where nobody does and nothing is known of who did."""
    name = journal.stem.removeprefix("journal-")
    told = _told(journal.with_name(f"status-{name}.json"))
    ended = _text(told.get("ended"))
    if is_locked(journal):
        state: WriterState = "running" if told and not ended else "starting"
    elif not told:
        return None
    else:
        state = "ended" if ended else "killed"
    if state == "starting":  # what is told is about another run
        return Writer(name, state)
    figures = Figures.of_json(told.get("figures"))
    shard, urls, pid = told.get("shard"), told.get("urls"), told.get("pid")
    return Writer(
        name,
        state,
        ended=ended,
        host=_text(told.get("host")),
        pid=pid if isinstance(pid, int) else 0,
        started=_moment(told.get("started")),
        updated=_moment(told.get("t")),
        shard=_shard(shard),
        urls=tuple(_text(url) for url in urls) if isinstance(urls, list) else (),
        figures=figures if state == "running" else figures.at_rest(),
    )


def _shard(value: Any) -> tuple[int, int]:
    sane = isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value)
    return (value[0], value[1]) if sane else (1, 1)


def _told(path: Path) -> dict[str, Any]:
    """What a status file says; nothing where there is none, or something else."""
    try:
        data = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return data if isinstance(data, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _moment(value: Any) -> float:
    sane = isinstance(value, int | float) and math.isfinite(value) and 0 <= value < 1e11
    return float(value) if sane else 0.0
