"""The sdist and the wheel, built once for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]  # the checkout


@dataclass(frozen=True)
class Release:
    """What `python -m build` made."""

    sdist: Path
    wheel: Path


def build(place: Path, out: Path) -> Release:
    """Builds an sdist, and from that a wheel."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, place],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Release(sdist, wheel)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return build(HOME, tmp_path_factory.mktemp("release"))


@dataclass(frozen=True)
class Installed:
    """A virtual environment into which the wheel was installed."""

    folder: Path

    def run(
        self, *arguments: str | Path, program: str = "joycap", timeout: float = 60, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of it, far from the checkout."""
        kept = ("PATH", "HOME", "XDG_STATE_HOME", "LANG", "TMPDIR")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        bin_ = self.folder / "bin"
        environment["PATH"] = f"{bin_}{os.pathsep}{environment.get('PATH', '')}"
        return subprocess.run(
            [bin_ / program, *arguments],
            capture_output=True, text=True, timeout=timeout, cwd=self.folder,
            env=environment | more,
        )  # fmt: skip


def pip(installed: Installed, arguments: Sequence[str | Path], timeout: float = 60) -> str:
    """Installs something, and returns what went wrong."""
    python = installed.folder / "bin" / "python"
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check",
            "install", "--quiet", *arguments,
        ],
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture(scope="session")
def over_ours(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel alone, over the packages that these tests have."""
    installed = Installed(tmp_path_factory.mktemp("over"))
    venv.create(installed.folder, symlinks=True)
    error = pip(installed, ["--no-deps", release.wheel])
    assert not error, error
    (site,) = installed.folder.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "ours.pth").write_text("\n".join(packages) + "\n")
    return installed


@pytest.fixture(scope="session")
def core_only(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel and what it requires, from the package index, and nothing else."""
    installed = Installed(tmp_path_factory.mktemp("core"))
    venv.create(installed.folder, symlinks=True)
    error = pip(installed, [release.wheel], timeout=240)
    if error and "CI" not in os.environ:
        shutil.rmtree(installed.folder)
        pytest.skip(f"the requirements could not be had from the package index: {error[-300:]}")
    assert not error, error
    return installed
