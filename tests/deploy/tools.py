"""The programs that read what is under deploy/."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

# Where Debian puts what only root runs.
_ALSO = f"/usr/sbin{os.pathsep}/sbin"


def program(name: str) -> str | None:
    """The path of a program: beside this Python, or anywhere that a shell looks."""
    here = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([here, os.environ.get("PATH", ""), _ALSO]))


def needs(*names: str, root: bool = False) -> pytest.MarkDecorator:
    """Skips where a program is missing, and says so; in CI all are there, or the test fails."""
    missing = [name for name in names if program(name) is None]
    if root and os.geteuid() != 0:
        missing.append("root's rights")
    where = bool(missing) and not os.environ.get("CI")
    return pytest.mark.skipif(where, reason=f"no {' and no '.join(missing)} here")


def found(name: str) -> str:
    """The path of a program that `needs` has asked for.

    Raises:
        AssertionError: It is not here, in CI.
    """
    path = program(name)
    assert path is not None, f"{name} is not installed; scripts/test does that in CI"
    return path
