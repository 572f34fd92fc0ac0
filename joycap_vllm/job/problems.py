"""What went wrong in a run, in memory that does not grow with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_KINDS = 200  # reasons that are told apart
_NUMBER = re.compile(r"(?<!\w)\d+(?:[.,]\d+)*(?!\w)")  # and no part of `base64`
_SHOWN = 300  # characters of a reason
_WORST = {"failed": 0, "glitched": 1}  # whatever else went wrong comes last


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that needs a look.

    Args:
        key: The image's key; empty where it is about none.
        outcome: `failed`, `glitched`, or `unwritten`: the caption is there, its file is not.
        why: The reason in a user's words.
        glitch: The glitch's kind.
        prompt: The prompt's name.
    """

    key: str
    outcome: str
    why: str
    glitch: str | None = None
    prompt: str = ""

    def __str__(self) -> str:
        kind = self.glitch or (self.outcome if self.outcome != "unwritten" else "")
        return ": ".join(part for part in (self.key, kind, self.why[:_SHOWN]) if part)


class Problems:
    """Counts problems by reason and keeps one of each as an example."""

    def __init__(self) -> None:
        self.on_problem: Callable[[Problem], None] = lambda _: None
        self._kinds: dict[tuple[str, str], tuple[Problem, int]] = {}
        self._others = 0

    def add(self, problem: Problem) -> None:
        """Notes a problem and tells `on_problem`."""
        self.on_problem(problem)
        # A glitch is known by its kind: why it is one differs from text to text.
        reason = problem.glitch or _NUMBER.sub("#", problem.why)[:_SHOWN]
        kind = (problem.outcome, reason)
        if kind in self._kinds:
            example, count = self._kinds[kind]
            self._kinds[kind] = example, count + 1
        elif len(self._kinds) < _KINDS:
            self._kinds[kind] = problem, 1
        else:
            self._others += 1

    def worst(self, most: int) -> tuple[list[tuple[Problem, int]], int]:
        """Examples with how many are like each, the worst and commonest first; and the number of
        problems that are like none of them."""
        kinds = sorted(
            self._kinds.values(), key=lambda one: (_WORST.get(one[0].outcome, 2), -one[1])
        )
        return kinds[:most], sum(count for _, count in kinds[most:]) + self._others

    def __iter__(self) -> Iterator[Problem]:
        return (example for example, _ in self._kinds.values())
