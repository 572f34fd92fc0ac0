"""Keys: their file, their names, and what happens when it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from joycap_vllm import Captioner
from joycap_vllm.errors import UsageError
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Key, Keyring, KeysFile, read_keys

from .locking import asking

LONG = b"0123456789abcdef"


def test_a_keys_file_holds_a_key_a_line_with_or_without_a_name(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"# the team\nalpha\r\n\n  beta \nkohya\tgamma\n#delta\n")

    assert read_keys(file) == (
        Key("key-2", b"alpha"),
        Key("key-4", b"beta"),
        Key("kohya", b"gamma"),
    )


@pytest.mark.parametrize("content", [b"a b c\n", b"ok one\nok two\n", b"key-2 x\ny\n"])
def test_a_line_that_is_no_key_is_named_and_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)

    with pytest.raises(UsageError, match=r"line [12]: ") as caught:
        read_keys(file)
    assert "two" not in str(caught.value)


def test_a_key_is_not_shown_by_its_repr() -> None:
    assert "alpha" not in repr(Key("kohya", b"alpha"))


def test_every_key_opens_and_nothing_else_does() -> None:
    ring = Keyring.of(b"alpha", "schlüssel".encode())

    assert [ring.find(secret) for secret in (b"alpha", "schlüssel".encode())] == list(ring)
    assert [ring.find(secret) for secret in (b"", b"alph", b"alphaa", b"\xff")] == [None] * 4


def test_a_file_that_others_can_read_and_keys_that_can_be_guessed_are_told(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"kohya short\nother " + LONG)
    file.chmod(0o644)
    loose, short = KeysFile(file).warnings()
    file.chmod(0o600)
    file.write_bytes(LONG)

    assert "chmod 600" in loose
    assert short.startswith("kohya in ")
    assert "short" not in short.partition(":")[0]
    assert KeysFile(file).warnings() == []


def test_a_change_of_the_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"alpha\n")
    file = KeysFile(path)
    assert file.refresh() == ""

    path.write_bytes(b"beta\ngamma\n")

    assert "2 keys" in file.refresh()
    assert file.refresh() == ""
    assert file.ring.find(b"alpha") is None
    assert file.ring.find(b"beta") is not None


@pytest.mark.parametrize("content", [None, b"", b"a b c"])
def test_a_file_that_is_broken_by_a_change_leaves_the_keys_and_no_door_open(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"alpha\n")
    file = KeysFile(path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))

    assert "stay good" in file.refresh()
    assert file.refresh() == ""
    assert [key.secret for key in file.ring] == [b"alpha"]


async def test_a_key_that_is_taken_away_opens_nothing_any_more(captioner: Captioner) -> None:
    ring = Keyring.of(b"alpha")
    headers = {"Authorization": "bearer  alpha "}
    async with asking(Context(captioner, keys=ring)) as client:
        before = await client.get("/v1/models", headers=headers)
        ring.replace(Key("new", b"beta"))
        after = await client.get("/v1/models", headers=headers)

    assert (before.status_code, after.status_code) == (200, 401)


def test_what_a_change_brought_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"alpha\n")
    file = KeysFile(path)
    told = []
    for content in (b"alpha\nbeta\n", b"a-longer-one\n"):
        path.write_bytes(content)
        told.append(file.refresh().removeprefix(f"{path} has changed: "))

    assert told == ["2 keys are good now", "1 key is good now"]


def test_keys_cannot_be_replaced_by_none() -> None:
    with pytest.raises(ValueError, match="keys"):
        Keyring.of(b"alpha").replace()
