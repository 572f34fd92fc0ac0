"""The README's section of recipes, taken apart as it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_README = Path(__file__).parents[2] / "README.md"
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Row:
    """A row of a table: the tool, its code, and how it is checked."""

    tool: str
    code: tuple[str, ...]
    checked: str

    @property
    def commands(self) -> list[str]:
        return [code for code in self.code if code.startswith("joycap ") and "photos" in code]

    @property
    def readers(self) -> list[str]:
        """What is Python; nothing where the tool is not checked by a test."""
        if not self.checked.startswith("test"):
            return []
        return [code for code in self.code if code not in self.commands]


def section() -> str:
    """The section's text."""
    text = _README.read_text(encoding="utf-8")
    return text.partition("\n## Use it with\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[Row]:
    """The rows of the table whose first column has this title."""
    table = section().partition(f"| {title} |")[2].partition("\n\n")[0]
    cells = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    return [
        Row(tool.strip(), tuple(_CODE.findall(lines)), checked.strip())
        for tool, lines, checked in cells
    ]


def block(language: str) -> str:
    """The one block of code in a language."""
    return section().partition(f"```{language}\n")[2].partition("```")[0]
