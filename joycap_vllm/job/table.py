"""Hash tables of texts for millions of keys: digests in flat arrays, no object for each key.

A text counts as known where 96 bits of its digest are. Among a hundred million texts, the chance
that any two share them is below 1e-12.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from struct import Struct

DIGEST_BYTES = 12
_PARTS = Struct("<QI")
_FULL = 0.75  # part of the slots that may be taken
_FIRST_SLOTS = 1 << 10


def digest_of(text: str, group: str = "") -> bytes:
    """12 bytes that stand for a text within a group; no two pairs spell the same input."""
    spelled = f"{len(group)} {group}{text}".encode("utf-8", "surrogatepass")
    return blake2b(spelled, digest_size=DIGEST_BYTES).digest()


class Table:
    """Rows by digest, numbered from 1 in the order in which they were added.

    Open addressing over one array of row numbers, where 0 is an empty slot. It takes 12 bytes a
    row and 5 to 11 for its slots.
    """

    def __init__(self) -> None:
        self._heads = array("Q", [0])  # there is no row 0
        self._tails = array("I", [0])
        self._slots = array("I", [0]) * _FIRST_SLOTS
        self._known = 0

    def __len__(self) -> int:
        """How many different digests there are."""
        return self._known

    def find(self, digest: bytes) -> int:
        """The newest row of a digest, or 0."""
        head: int
        tail: int
        head, tail = _PARTS.unpack(digest)
        heads, slots = self._heads, self._slots
        mask = len(slots) - 1
        slot = head & mask
        while row := slots[slot]:
            if heads[row] == head and self._tails[row] == tail:
                return row
            slot = (slot + 1) & mask
        return 0

    def add(self, digest: bytes) -> int:
        """The newest row of a digest, or 0 where there was none and one was added."""
        row = self.find(digest)
        if not row:
            self.extend(digest)
        return row

    def extend(self, digests: bytes) -> list[tuple[int, int]]:
        """Adds a row for each of many digests, also for those that are there already.

        Args:
            digests: 12 bytes for each row.

        Returns:
            The row before and the new row of each digest that was there.
        """
        self.reserve(self._known + len(digests) // DIGEST_BYTES)
        heads, tails, slots = self._heads, self._tails, self._slots
        mask = len(slots) - 1
        again: list[tuple[int, int]] = []
        new = len(heads)
        for head, tail in _PARTS.iter_unpack(digests):
            slot = head & mask
            while row := slots[slot]:
                if heads[row] == head and tails[row] == tail:
                    again.append((row, new))
                    break
                slot = (slot + 1) & mask
            slots[slot] = new
            heads.append(head)
            tails.append(tail)
            new += 1
        self._known += len(digests) // DIGEST_BYTES - len(again)
        return again

    def reserve(self, count: int) -> None:
        """Makes room for so many different digests, at least doubling where it is short."""
        if count <= _FULL * len(self._slots):
            return
        length = len(self._slots)
        while count > _FULL * length:
            length *= 2
        heads, old = self._heads, self._slots
        slots = array("I", [0]) * length
        mask = length - 1
        for row in old:
            if row:
                slot = heads[row] & mask
                while slots[slot]:
                    slot = (slot + 1) & mask
                slots[slot] = row
        self._slots = slots


class Seen:
    """A set of texts that only grows; a text takes 17 to 23 bytes, however long it is."""

    def __init__(self) -> None:
        self._table = Table()

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, text: str) -> bool:
        return self._table.find(digest_of(text)) > 0

    def add(self, text: str) -> bool:
        """Adds a text; whether it is new."""
        return not self._table.add(digest_of(text))
