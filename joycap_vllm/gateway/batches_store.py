"""What the gateway keeps of batches on disk: files, and one folder for each batch.

`files/<id>.json` describes a file, `files/<id>.data` is what it holds; `batches/<id>/batch.json` is
the batch as callers see it, and beside it lies the journal of its results. A batch that is to be
cancelled has a file `cancel` there, which whichever gateway runs it will see. Both descriptions
name the owner of the key that made them, where there was one.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from joycap_vllm.errors import OutputError
from joycap_vllm.outputs import replacing, write_atomically

_ID = re.compile(r"(file-|batch_)[0-9a-f]{24}")
_OWNER = "owner"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(slots=True)
class Batch:
    """A batch.

    Args:
        shown: What callers see.
        output: The id that the file of its answers has once it is there.
        errors: The same for the file of its errors.
        owner: Of the key that made it; None where there were no keys, or of an earlier version.
    """

    shown: dict[str, Any]
    output: str
    errors: str
    owner: str | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.shown["id"])

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.shown["status"] in ENDED

    def turn(self, status: str) -> None:
        """A new status, with its time."""
        self.shown["status"] = status
        if f"{status}_at" in self.shown:
            self.shown[f"{status}_at"] = int(time.time())


def new_id(kind: str) -> str:
    """An id that is nobody else's; `kind` is `file-` or `batch_`."""
    return kind + secrets.token_hex(12)


class Store:
    """The gateway's folder.

    Args:
        folder: Made if it is not there, for this user alone.

    Raises:
        OutputError: It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._batches = folder / "batches"
        for each in (folder, self._files, self._batches):
            try:
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{each} cannot be made: {error.strerror}; --state names another folder",
                    error.errno,
                ) from error

    def add_file(
        self, source: BinaryIO, name: str, purpose: str, owner: str | None = None
    ) -> dict[str, Any]:
        """A new file with what `source` holds, as callers see it."""

        def copied(file: BinaryIO) -> None:
            shutil.copyfileobj(source, file, 1 << 20)

        return self.write_file(new_id("file-"), name, purpose, copied, owner)

    def write_file(
        self,
        file_id: str,
        name: str,
        purpose: str,
        write: Callable[[BinaryIO], None],
        owner: str | None = None,
    ) -> dict[str, Any]:
        """A file that `write` fills; one of the same id is replaced.

        Raises:
            OutputError: It cannot be written; nothing is left of it.
        """
        path = self.content(file_id)
        with replacing(path) as file:
            write(file)
        shown = {
            "id": file_id,
            "object": "file",
            "bytes": path.stat().st_size,
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "expires_at": None,
        }
        kept = shown if owner is None else {**shown, _OWNER: owner}
        try:
            write_atomically(self._files / f"{file_id}.json", orjson.dumps(kept))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return shown

    def content(self, file_id: str) -> Path:
        """Where the content of a file is."""
        return self._files / f"{file_id}.data"

    def file(self, file_id: str, viewer: str | None = None) -> dict[str, Any] | None:
        """A file as callers see it; None where there is none of that id for them.

        Args:
            file_id: Its id.
            viewer: The owner that looks; None sees all.
        """
        if not _ID.fullmatch(file_id):
            return None
        return _seen(_read(self._files / f"{file_id}.json"), viewer)

    def files(self, viewer: str | None = None) -> list[dict[str, Any]]:
        """All files that a viewer sees, the oldest first."""
        found = (_seen(_read(path), viewer) for path in self._files.glob("file-*.json"))
        return sorted(filter(None, found), key=_age)

    def remove_file(self, file_id: str) -> None:
        """Removes a file."""
        (self._files / f"{file_id}.json").unlink(missing_ok=True)
        self.content(file_id).unlink(missing_ok=True)

    def folder(self, batch_id: str) -> Path:
        """The folder of a batch."""
        return self._batches / batch_id

    def save(self, batch: Batch) -> None:
        """Keeps a batch as it is now.

        Raises:
            OutputError: It cannot be written.
        """
        path = self.folder(batch.id) / "batch.json"
        write_atomically(path, orjson.dumps(asdict(batch)), make_folders=True)

    def batch(self, batch_id: str) -> Batch | None:
        """A batch; None where there is none of that id."""
        if not _ID.fullmatch(batch_id):
            return None
        data = _read(self.folder(batch_id) / "batch.json")
        try:
            if data is None:
                return None
            return Batch(data["shown"], data["output"], data["errors"], data.get(_OWNER))
        except KeyError:
            return None

    def batches(self) -> list[Batch]:
        """All batches, the oldest first."""
        found = (self.batch(path.name) for path in self._batches.glob("batch_*"))
        return sorted(filter(None, found), key=lambda batch: _age(batch.shown))

    def ask_to_cancel(self, batch_id: str) -> None:
        """Lets whoever runs the batch end it."""
        (self.folder(batch_id) / "cancel").touch()

    def to_be_cancelled(self, batch_id: str) -> bool:
        """Whether it was asked to end."""
        return (self.folder(batch_id) / "cancel").exists()

    def forget_results(self, batch_id: str) -> None:
        """Removes the journal of a batch, whose files hold all that it held."""
        for path in self.folder(batch_id).glob("journal-*.jsonl"):
            path.unlink(missing_ok=True)


def is_seen(owner: str | None, viewer: str | None) -> bool:
    """Whether a viewer sees what belongs to an owner; what belongs to nobody is everybody's."""
    return viewer is None or owner is None or owner == viewer


def _seen(kept: dict[str, Any] | None, viewer: str | None) -> dict[str, Any] | None:
    """A file without what is not shown."""
    if kept is None or not is_seen(kept.pop(_OWNER, None), viewer):
        return None
    return kept


def _age(shown: dict[str, Any]) -> tuple[int, str]:
    return shown["created_at"], shown["id"]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):  # it was removed, or is none of ours
        return None
    return data if isinstance(data, dict) else None
