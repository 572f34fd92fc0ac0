"""Runs joycap until a named call, and dies there by SIGKILL, as if the power of its process went.

`crash.dying MOMENT CALL WHAT NUMBER ARGUMENT...`: MOMENT is `before`, `half` (only about half of
the bytes of a write got out, or half of a file that was to be synced) or `after`; CALL a function
of `os`; WHAT the file that it is about: `journal`, `job` (job.json), `page`, `output`
(captions.jsonl) or `sidecar`, which is also what the temporary names of all but job.json look like;
NUMBER counts such calls from 1. Where the call never comes, the command ends as it always does.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

_KINDS = (
    ("journal", re.compile(r"journal-[^/]*\.jsonl$")),
    ("job", re.compile(r"/\.joycap/(job\.json|\.\w+\.joycap-tmp)$")),
    ("output", re.compile(r"captions\.jsonl$")),
    ("page", re.compile(r"page\.html$")),
    ("sidecar", re.compile(r"\.txt$|\.joycap-tmp$")),
)


def kind_of(place: object) -> str | None:
    """What the file of a path, or of a descriptor, is to the job."""
    if isinstance(place, int):
        try:
            place = Path(f"/proc/self/fd/{place}").readlink()
        except OSError:
            return None
    path = os.fsdecode(place) if isinstance(place, str | bytes | os.PathLike) else ""
    return next((kind for kind, form in _KINDS if form.search(path)), None)


def die_at(moment: str, call: str, what: str, number: int) -> None:
    """Arms the call."""
    real, lock, seen = getattr(os, call), threading.Lock(), 0

    def armed(*arguments: Any, **options: Any) -> Any:
        nonlocal seen
        # A rename is about the file that it makes.
        place = arguments[1] if call in ("replace", "rename") else arguments[0]
        if kind_of(place) != what:
            return real(*arguments, **options)
        if moment == "after":  # of a call that succeeds
            result = real(*arguments, **options)
        with lock:
            seen += 1
            now = seen == number
        if now:
            if moment == "half" and call == "fdatasync":
                os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
            elif moment == "half":
                data = memoryview(arguments[1])
                half = data[: len(data) // 2 - 7]  # never the end of a line
                real(arguments[0], half, *arguments[2:])
            _die()
        return result if moment == "after" else real(*arguments, **options)

    setattr(os, call, armed)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def main() -> None:
    """Runs the command until then."""
    moment, call, what, number, *rest = sys.argv[1:]
    die_at(moment, call, what, int(number))
    sys.argv = ["joycap", *rest]
    from joycap_vllm.cli import main as joycap

    joycap()
