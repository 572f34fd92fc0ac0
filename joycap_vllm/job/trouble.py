"""Tells a broken server from bad luck: too many tasks of late that got no caption.

What is counted are answers as they come, long before attempts are used up. A task counts once
however often it is asked, since a picture that is refused five times says nothing about others.

How sure it is, at the usual 3 % of glitches and the defaults (more than 30 % of the last 200 tasks,
at least 40): 13 bad ones of the first 40 come by luck in one of 1e10 jobs, 61 of 200 with a chance
of 3e-43; over 10,000,000 answers a false alarm stays below 1e-9. A server that answers nothing but
glitches stops the job at its 40th task, one whose every second answer is bad nearly as soon.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

USUAL_MOST = 0.3  # share of tasks; JoyCaption's usual is 0.015 to 0.03
_WINDOW = 200  # tasks
_LEAST = 40  # tasks, before a share means anything
_HEALTHY = 0.5  # an endpoint fares well that has at most this part of the allowed share
_SHOWN = 160  # characters of a reason


@dataclass(frozen=True, slots=True)
class Noted:
    """What is remembered of a task: the endpoint, and what was wrong (`kind` is None: nothing)."""

    endpoint: str
    kind: str | None = None
    why: str = ""


class Window:
    """The last tasks that were answered, and how many of them got an answer that is no caption."""

    def __init__(self, size: int = _WINDOW) -> None:
        self.tasks: OrderedDict[object, Noted] = OrderedDict()
        self.bad = 0
        self._size = size

    def note(self, task: object, noted: Noted) -> None:
        """Adds an answer; of a task that had a bad one before, that stays what counts."""
        old = self.tasks.get(task)
        if old is not None:
            if old.kind is not None or noted.kind is None:
                return
            self.bad += 1
            self.tasks[task] = noted
            return
        self.tasks[task] = noted
        self.bad += noted.kind is not None
        if len(self.tasks) > self._size:
            _, gone = self.tasks.popitem(last=False)
            self.bad -= gone.kind is not None

    @property
    def share(self) -> float:
        """The part of its tasks that got a bad answer, from 0 to 1."""
        return self.bad / len(self.tasks) if self.tasks else 0.0

    def over(self, most: float) -> bool:
        """Whether so many are bad that it is no luck."""
        return len(self.tasks) >= _LEAST and self.share > most


class Trouble:
    """Watches all endpoints together and each by itself.

    Args:
        most: The share of bad tasks that is still taken for luck; 1 never finds trouble.
    """

    def __init__(self, most: float = USUAL_MOST) -> None:
        self._most = most
        self._all = Window()
        self._each: dict[str, Window] = {}

    def note(self, task: object, endpoint: str, kind: str | None, why: str = "") -> str | None:
        """Adds an answer, or the end of a task that the server refused.

        Args:
            task: The same value for all answers about one task.
            endpoint: Who gave the answer.
            kind: Kind of its glitch, `failed`, or None for a caption.
            why: What was wrong with it.

        Returns:
            What the trouble is, in a user's words; None while there is none.
        """
        noted = Noted(endpoint, kind, why)
        self._all.note(task, noted)
        own = self._each.setdefault(endpoint, Window())
        own.note(task, noted)
        if kind is None:
            return None
        if self._all.over(self._most):
            return self._told(self._all, "")
        return self._told(own, f" at {endpoint}") if own.over(self._most) else None

    def _told(self, window: Window, where: str) -> str:
        noted = window.tasks.values()
        kinds = Counter(one.kind for one in noted if one.kind is not None)
        kind, count = kinds.most_common(1)[0]
        why = next(one.why for one in reversed(noted) if one.kind == kind)
        shown = why if len(why) <= _SHOWN else why[:_SHOWN] + " ..."
        of = f"{window.bad} of the last {len(window.tasks)} tasks{where} ({window.share:.0%})"
        return (
            f"{of} got an answer that is no caption, {count} of them {kind} (such as: {shown}); "
            f"usual are 1.5 to 3 %{self._blamed(window)}"
        )

    def _blamed(self, window: Window) -> str:
        """Who is to blame, where it is not all of them."""
        if len(self._each) < 2:
            return ""
        guilty = sorted({one.endpoint for one in window.tasks.values() if one.kind is not None})
        well = sorted(
            url
            for url, own in self._each.items()
            if len(own.tasks) >= _LEAST // 4 and own.share <= self._most * _HEALTHY
        )
        guilty = [url for url in guilty if url not in well]
        if not guilty or not well:
            return ""
        return f". All is well at {', '.join(well)}: leave out {', '.join(guilty)}, or mend it"
