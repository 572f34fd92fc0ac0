"""Who may ask: named keys from a file, read again whenever the file changes."""

from __future__ import annotations

import hmac
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from joycap_vllm.errors import UsageError

_SHORT = 16  # characters below which a key can be guessed


@dataclass(frozen=True, slots=True)
class Key:
    """A key that callers may send.

    Args:
        name: What it is called in figures; never secret.
        secret: What callers send.
        named: Whether the name is its owner's choice, and not only the number of its line.
    """

    name: str
    secret: bytes = field(repr=False)
    named: bool = field(default=True, compare=False)

    @property
    def owner(self) -> str:
        """Whose files and batches are those made with it: its name, or where it has none a digest,
        since lines move when a key is put before them."""
        if self.named:
            return self.name
        return "key " + sha256(b"joycap owner\0" + self.secret).hexdigest()[:24]


class Keyring:
    """The keys that are good by now; without any, everybody may ask.

    Args:
        keys: The first ones.
    """

    def __init__(self, *keys: Key) -> None:
        self._keys = keys

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    @classmethod
    def of(cls, *secrets: bytes) -> Keyring:
        """Keys named by their place: key-1, key-2."""
        return cls(*(Key(f"key-{at}", secret, named=False) for at, secret in enumerate(secrets, 1)))

    def find(self, secret: bytes) -> Key | None:
        """The key with this secret; None for any other."""
        found = None
        # Every key is compared, so that the time taken does not tell which one came close.
        for key in self._keys:
            if hmac.compare_digest(secret, key.secret):
                found = key
        return found

    def replace(self, *keys: Key) -> None:
        """Takes other keys; there must be some, since none would let everybody in."""
        if not keys:
            raise ValueError("keys are replaced by keys")
        self._keys = keys


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file: `KEY` or `NAME KEY` on each line.

    Blank lines and lines that begin with `#` are left out. A key without a name gets the number of
    its line, as `key-3`.

    Raises:
        UsageError: The file cannot be read, holds no key, or a line that is none.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"the keys file {path} cannot be read: {error.strerror}") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        where = f"the keys file {path}, line {number}"
        if len(words) > 2:
            raise UsageError(f"{where}: write KEY or NAME KEY, with no further blanks")
        name = words[0].decode("utf-8", "replace") if len(words) == 2 else f"key-{number}"
        if name in keys:
            raise UsageError(f"{where}: a second key is called {name}; choose another name")
        keys[name] = Key(name, words[-1], named=len(words) == 2)
    if not keys:
        raise UsageError(f"the keys file {path} holds no key; write one a line")
    return tuple(keys.values())


class KeysFile:
    """A keys file that is looked at from time to time.

    Args:
        path: The file.

    Attributes:
        ring: The keys of the latest version that could be read.

    Raises:
        UsageError: As `read_keys`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self.ring = Keyring(*read_keys(path))

    def warnings(self) -> list[str]:
        """What a user should mend: who else may read the file, and keys that can be guessed."""
        told = []
        others = self._path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
        if others:
            told.append(f"{self._path} can be read by other users: chmod 600 {self._path}")
        short = [key.name for key in self.ring if len(key.secret) < _SHORT]
        if short:
            told.append(
                f"{', '.join(short)} in {self._path}: keys of fewer than {_SHORT} characters can "
                "be guessed; `openssl rand -hex 24` makes a good one"
            )
        return told

    def refresh(self) -> str:
        """Takes the file's keys if it has changed; what a user should know of it, else empty.

        A file that cannot be read by now leaves the keys as they are.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return ""
        self._stamp = stamp
        try:
            self.ring.replace(*read_keys(self._path))
        except UsageError as error:
            return f"{error}; the keys read before stay good"
        number = len(list(self.ring))
        good = "1 key is" if number == 1 else f"{number} keys are"
        return f"{self._path} has changed: {good} good now"

    def _look(self) -> tuple[int, ...]:
        try:
            about = self._path.stat()
        except OSError:
            return ()
        return about.st_mtime_ns, about.st_size, about.st_ino
