"""What journals say: the latest record of every task."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import platformdirs

from joycap_vllm.errors import OutputError
from joycap_vllm.job import pool, scan
from joycap_vllm.job.scan import Scanned, Sort, Stretch, lines_of, record_of
from joycap_vllm.job.table import Table, digest_of

Task = tuple[str, str]  # a key and the name of a prompt

_STRETCH = 1 << 22  # bytes that a process reads at once
_SMALL = 1 << 23  # bytes of journals for which no processes are started
_USUAL_LINE = 1500  # bytes of a record, about
_MOST_WORKERS = 6  # more would wait for the one that puts all together
_KILLED = "a process that read the journals was killed, perhaps since the machine ran out of memory"
_OFFSET = (1 << scan.FILE_SHIFT) - 1
_REPLACED = 0  # the sort of records that a later one of their task replaced
_RARE = 0xFFFF  # the sort of records of which there are too many sorts; the line tells


@dataclass(frozen=True, slots=True)
class Record:
    """The latest line of a task as far as resuming needs it; what else it says, its caption above
    all, is read from the journal when it is wanted.

    Args:
        outcome: ok, glitched or failed.
        fingerprint: Of what was asked.
        size: Bytes of the image's file, where they are recorded.
        at: Seconds since 1970.
        glitch: Kind of glitch of the answer.
        attempts: Requests of all records of the task.
        file: The journal.
        offset: Of the line in it.
        named: Whether the line tells the stem of the task's sidecars.
    """

    outcome: str
    fingerprint: str
    size: int | None
    at: float
    glitch: str | None
    attempts: int
    file: Path
    offset: int
    named: bool

    def whole(self) -> dict[str, Any]:
        """The whole line.

        Raises:
            OutputError: The journal cannot be read, or is another one by now.
        """
        with _Lines() as lines:
            return lines.read(self.file, self.offset)

    def caption(self) -> str:
        """Its caption, perhaps empty."""
        return self.whole().get("caption") or ""

    @property
    def by_hand(self) -> bool:
        """Whether a person put it so, in Review."""
        review = self.whole().get("review")
        return isinstance(review, dict) and review.get("by_hand") is True

    @property
    def stem(self) -> str | None:
        """The stem of the task's sidecars, where it is not the file's own."""
        return self.whole().get("stem") if self.named else None

    @property
    def sha256(self) -> str | None:
        """Digest of the image's file, where it is recorded."""
        return (self.whole().get("image") or {}).get("sha256")


def state_folder(out: Path) -> Path:
    """Where a job's journal lives: `out/.joycap`, or the user's state folder where `out` cannot
    be written or is no folder of the job's own, also later when it can be."""
    name = f"{out.name or 'root'}-{sha256(os.fsencode(out)).hexdigest()[:12]}"
    beside, away = out / ".joycap", platformdirs.user_state_path("joycap-vllm") / "jobs" / name
    if out == Path(out.anchor) or (away.is_dir() and not beside.is_dir()):
        return away
    return beside if is_writable(beside) else away


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself can."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def read_file(
    path: Path, on_damaged: Callable[[], None] | None = None
) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Every whole record of one file with its offset and length; damaged lines, and those whose
    values are of other types than a record's, are passed over.

    A last line without its end is no damage: somebody may be writing it.

    Args:
        path: A journal.
        on_damaged: Called for each line that is passed over.

    Raises:
        OutputError: The file cannot be read.
        UsageError: A newer version wrote it.
    """
    for line, offset in lines_of(path):
        data = record_of(line, path)
        if data is not None:
            yield data, offset, len(line)
        elif on_damaged is not None:
            on_damaged()


class Records(Mapping[Task, Record]):
    """The latest record of each task, by key and prompt, in about 43 bytes for each.

    What it holds are columns of numbers, one row for each line that was read, from row 1. Where
    every image is looked up, `find` gives the row without making anything, and `outcome`,
    `fingerprint`, `glitch`, `size`, `attempts` and `record` tell about the row. Keys are not kept:
    going through them reads them from the journals again; `having` reads only what is asked for.

    Of two journals in different folders, whose writers knew nothing of each other, an ok record
    goes before one that is not; `clashes` counts those that tell of pictures of different sizes.

    Args:
        files: The journals, in their order.
        expected: Tasks that there may be, for which room is made at once.
    """

    def __init__(self, files: Sequence[Path], expected: int) -> None:
        self._table = Table()
        self._table.reserve(expected)
        self.files = files
        self.clashes = 0
        homes: dict[Path, int] = {}
        self._homes = [homes.setdefault(file.parent, len(homes)) for file in files]
        self._several = len(homes) > 1
        self._places = array("Q", [0])
        self._moments = array("d", [0.0])
        self._sizes = array("I", [0])
        self._attempts = array("H", [0])
        self._kinds = array("H", [_REPLACED])
        self._sorts: list[Sort] = [("", "", None, False)]
        self._known: dict[Sort, int] = {}

    def __len__(self) -> int:
        return len(self._table)

    def find(self, key: str, prompt: str) -> int:
        """The row of a task, or 0 where no journal knows it."""
        return self._table.find(digest_of(key, prompt))

    def outcome(self, row: int) -> str:
        """How the task of a row ended."""
        return self._sort(row)[0]

    def fingerprint(self, row: int) -> str:
        """The fingerprint of what was asked."""
        return self._sort(row)[1]

    def glitch(self, row: int) -> str | None:
        """Kind of glitch of the answer."""
        return self._sort(row)[2]

    def size(self, row: int) -> int | None:
        """Bytes of the image's file, where they are recorded."""
        size = self._sizes[row]
        if size < scan.ODD_SIZE:
            return size
        return None if size == scan.NO_SIZE else scan.size_of(self._line(row))

    def attempts(self, row: int) -> int:
        """Requests of all records of the task."""
        return self._attempts[row]

    def record(self, row: int) -> Record:
        """All of a row."""
        outcome, fingerprint, glitch, named = self._sort(row)
        file, offset = self._place(row)
        at, attempts = self._moments[row], self._attempts[row]
        size = self.size(row)
        return Record(outcome, fingerprint, size, at, glitch, attempts, file, offset, named)

    def __getitem__(self, task: Task) -> Record:
        row = self.find(*task)
        if not row:
            raise KeyError(task)
        return self.record(row)

    def __contains__(self, task: object) -> bool:
        return isinstance(task, tuple) and self.find(*task) > 0

    def __iter__(self) -> Iterator[Task]:
        return (task for task, _ in self.entries())

    def items(self) -> ItemsView[Task, Record]:
        """Tasks and records in the order of the journals."""
        return _Items(self)

    def entries(self) -> Iterator[tuple[Task, Record]]:
        """Tasks and records in the order of the journals, which are read from front to back."""
        return self._of(row for row, kind in enumerate(self._kinds) if kind != _REPLACED)

    def having(self, endings: Collection[str]) -> Iterator[tuple[Task, Record]]:
        """Tasks and records that ended in one of some ways, as they stand in the journals.

        Args:
            endings: Outcomes, and kinds of glitches; a kind stands for the tasks with that glitch
                that are not ok.
        """
        wanted = {kind for sort, kind in self._known.items() if _ended(sort, endings)} | {_RARE}
        rows = (row for row, kind in enumerate(self._kinds) if kind in wanted)
        for task, record in self._of(rows):
            sort = (record.outcome, record.fingerprint, record.glitch, record.named)
            if _ended(sort, endings):
                yield task, record

    def _of(self, rows: Iterator[int]) -> Iterator[tuple[Task, Record]]:
        with _Lines() as lines:
            for row in rows:
                data = lines.read(*self._place(row))
                yield (data["key"], data["prompt"]), self.record(row)

    def _place(self, row: int) -> tuple[Path, int]:
        place = self._places[row]
        return self.files[place >> scan.FILE_SHIFT], place & _OFFSET

    def _line(self, row: int) -> dict[str, Any]:
        with _Lines() as lines:
            return lines.read(*self._place(row))

    def _sort(self, row: int) -> Sort:
        kind = self._kinds[row]
        return scan.sort_of(self._line(row)) if kind == _RARE else self._sorts[kind]

    def _kind(self, sort: Sort) -> int:
        kind = self._known.get(sort)
        if kind is None:
            kind = len(self._sorts)
            if kind == _RARE:
                return _RARE
            self._known[sort] = kind
            self._sorts.append(sort)
        return kind

    def take(self, found: Scanned) -> None:
        """Adds the lines of a stretch, which come in the order of the journals."""
        again = self._table.extend(found.digests)
        self._places.extend(found.places)
        self._moments.extend(found.moments)
        self._sizes.extend(found.sizes)
        self._attempts.extend(found.attempts)
        kinds = [self._kind(sort) for sort in found.sorts]
        self._kinds.extend(map(kinds.__getitem__, found.kinds))
        for before, new in again:
            self._replace(before, new)

    def _replace(self, before: int, new: int) -> None:
        """Leaves of two rows of a task the new one, with what counts of both."""
        both = self._attempts[before] + self._attempts[new]
        self._attempts[new] = min(both, scan.MOST_ATTEMPTS)
        if self._stays(before, new):
            self._places[new] = self._places[before]
            self._moments[new] = self._moments[before]
            self._sizes[new] = self._sizes[before]
            self._kinds[new] = self._kinds[before]
        self._kinds[before] = _REPLACED

    def _stays(self, before: int, new: int) -> bool:
        """Whether of two rows of a task the one counts that was read first."""
        if self._several and self._home(before) != self._home(new):
            sizes = self._sizes[before], self._sizes[new]
            self.clashes += sizes[0] != sizes[1] and max(sizes) < scan.ODD_SIZE
            is_ok = self.outcome(before) == "ok"
            if is_ok != (self.outcome(new) == "ok"):
                return is_ok
        return self._moments[new] < self._moments[before]

    def _home(self, row: int) -> int:
        return self._homes[self._places[row] >> scan.FILE_SHIFT]


class _Items(ItemsView[Task, Record]):
    """Tasks and records without looking up each."""

    def __init__(self, records: Records) -> None:
        super().__init__(records)
        self._records = records

    def __iter__(self) -> Iterator[tuple[Task, Record]]:
        return self._records.entries()


class _Lines:
    """Lines of journals, best asked for in their order."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, path: Path, offset: int) -> dict[str, Any]:
        """The record at an offset.

        Raises:
            OutputError: The journal cannot be read, or is another one by now.
        """
        try:
            if self._file is None or path is not self._path:
                self.__exit__()
                self._path, self._file = path, path.open("rb")
            self._file.seek(offset)
            data = record_of(self._file.readline(), path)
        except OSError as error:
            raise OutputError(f"the journal {path} cannot be read: {error.strerror}") from error
        if data is None:
            raise OutputError(f"the journal {path} was changed by something else while it was used")
        return data


def _ended(sort: Sort, endings: Collection[str]) -> bool:
    outcome, _, glitch, _ = sort
    return outcome in endings or (outcome != "ok" and glitch in endings)


def read_records(folder: Path) -> Records:
    """The latest record of each task over all journals of a folder, as `read_journals`."""
    return read_journals(sorted(folder.glob("journal-*.jsonl")))


def read_journals(files: Sequence[Path]) -> Records:
    """The latest record of each task over some journals; of two of the same moment, that which is
    read later.

    Small journals are read here, large ones by several processes, a stretch at a time.

    Raises:
        OutputError: A journal cannot be read.
        UsageError: A newer version wrote one.
        JoycapError: A process that read was killed.
    """
    sizes = [_size(path) for path in files]
    stretches = [
        Stretch(path, number, start, min(start + _STRETCH, size))
        for number, (path, size) in enumerate(zip(files, sizes, strict=True))
        for start in range(0, size, _STRETCH)
    ]
    records = Records(files, sum(sizes) // _USUAL_LINE)
    workers = min(pool.cores(), _MOST_WORKERS) if sum(sizes) > _SMALL else 1
    scanned = pool.in_order(
        stretches, scan.scan, workers=workers, home=scan.__name__, killed=_KILLED
    )
    for found in scanned:
        records.take(found)
    return records


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise OutputError(f"the journal {path} cannot be read: {error.strerror}") from error
