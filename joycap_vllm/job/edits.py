"""What people made of captions: records that can be taken back, also after a restart.

A record of an edit is one of the task's records, and as such the latest of them says what stands.
Under `review` it also tells what stood before, in the journal and in the sidecar.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from joycap_vllm.job.scan import VERSION, lines_of, record_of

What = Literal["edit", "accept", "again", "undo"]
_WHATS = get_args(What)
_NO_TOKENS = {"prompt": 0, "cached": 0, "completion": 0}


@dataclass(frozen=True, slots=True)
class State:
    """What a journal says of a task.

    Args:
        outcome: ok, glitched or failed.
        caption: The text; empty where there is none.
        glitch: Kind of glitch of the text.
        why: The evidence, or why it failed.
        by_hand: Whether a person put it so.
    """

    outcome: str
    caption: str
    glitch: str | None = None
    why: str = ""
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """One step that can be taken back.

    Args:
        id: Its name.
        what: An edit by hand, a caption accepted as it was, or another answer of the model.
        undoes: The edit that it takes back; empty where it takes back none.
        was: What stood before.
        before: What the whole sidecar said; None where there was none.
        after: What it says since; None where there is none.
    """

    id: str
    what: What
    undoes: str
    was: State
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Done:
    """An edit as a journal has it.

    Args:
        key, prompt: The task.
        at: Seconds since 1970.
        edit: The edit.
        state: What stood after it.
    """

    key: str
    prompt: str
    at: float
    edit: Edit
    state: State


def new_id() -> str:
    """A name that no other edit has."""
    return secrets.token_hex(8)


def edit_line(
    key: str,
    prompt: str,
    fingerprint: str,
    state: State,
    edit: Edit,
    *,
    now: float,
    facts: Mapping[str, Any],
) -> bytes:
    """The record of an edit.

    Args:
        key: The image's key.
        prompt: The prompt's name.
        fingerprint: What the job asks now, so that it takes the task for done.
        state: What stands from now on.
        edit: What was done.
        now: Seconds since 1970; later than the task's record before.
        facts: `image` and `stem` of that record, and `attempts`, `usage` and the like where the
            model was asked.
    """
    record: dict[str, Any] = {
        "v": VERSION,
        "key": key,
        "prompt": prompt,
        "fp": fingerprint,
        "outcome": state.outcome,
        "caption": state.caption,
        "glitch": state.glitch,
        "why": state.why,
        "attempts": [],
        "finish": None,
        "model": None,
        "usage": _NO_TOKENS,
        "image": None,
        "t": now,
    }
    record |= {name: value for name, value in facts.items() if value is not None}
    was = edit.was
    record["review"] = {
        "id": edit.id,
        "what": edit.what,
        "undoes": edit.undoes,
        "by_hand": state.by_hand,
        "was": [was.outcome, was.caption, was.glitch, was.why, was.by_hand],
        "before": edit.before,
        "after": edit.after,
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def state_of(data: Mapping[str, Any]) -> State:
    """What a record says of its task."""
    review = data.get("review")
    by_hand = isinstance(review, dict) and review.get("by_hand") is True
    return State(
        data["outcome"], data.get("caption") or "", data.get("glitch"), data.get("why") or "",
        by_hand,
    )  # fmt: skip


def edit_of(data: Mapping[str, Any]) -> Edit | None:
    """The edit that a record is; None where it is none, or a damaged one."""
    review = data.get("review")
    if not isinstance(review, dict):
        return None
    get = review.get
    name, what, undoes, was = get("id"), get("what"), get("undoes"), get("was")
    before, after = get("before"), get("after")
    if not (
        isinstance(name, str)
        and (what == "edit" or what == "accept" or what == "again" or what == "undo")
        and isinstance(undoes, str)
        and isinstance(before, str | None)
        and isinstance(after, str | None)
        and isinstance(was, list)
        and len(was) == 5
    ):
        return None
    outcome, caption, glitch, why, by_hand = was
    texts = (outcome, caption, glitch or "", why)
    if not all(isinstance(each, str) for each in texts) or not isinstance(by_hand, bool):
        return None
    state = State(outcome, caption, glitch, why, by_hand)
    return Edit(name, what, undoes, state, before, after)


@dataclass(slots=True)
class History:
    """The edits that stand, in the order in which they were made."""

    _standing: dict[str, Done] = field(default_factory=dict)

    def add(self, done: Done) -> None:
        """Notes an edit, which comes after all that were noted before."""
        if done.edit.what == "undo":
            self._standing.pop(done.edit.undoes, None)
        else:
            self._standing[done.edit.id] = done

    def latest(self) -> Iterator[Done]:
        """The edits, that which is taken back next first."""
        return reversed(self._standing.values())

    def last(self) -> Done | None:
        """The edit that is taken back next."""
        return next(self.latest(), None)

    def drop(self, edit: str) -> None:
        """Leaves an edit as it is for good."""
        self._standing.pop(edit, None)

    def __len__(self) -> int:
        return len(self._standing)


def read_on(journal: Path, start: int) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Every whole record of a journal from an offset on, with its own offset and the next line's.

    Raises:
        OutputError: The file cannot be read.
        UsageError: A newer version wrote it.
    """
    for line, offset in lines_of(journal, start):
        data = record_of(line, journal)
        if data is not None:
            yield data, offset, offset + len(line)
