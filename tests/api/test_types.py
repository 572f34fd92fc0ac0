"""Type checkers know the installed package: right uses pass, wrong ones do not."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER = Path(__file__).parent / "as_a_user.py"
BEGINNING = """\
from pathlib import Path
import joycap_vllm
from joycap_vllm import Captioner, CaptionerOptions, FleetOptions, SyncCaptioner, judge
joy, sync = Captioner(), SyncCaptioner()
"""
WRONG = {
    "a name that is not there": "joycap_vllm.Captionner()",
    "a number for a picture": "sync.caption(7)",
    "a list for a picture": "sync.caption(['a.jpg'])",
    "a number for a prompt": "sync.caption('a.jpg', 50)",
    "numbers for pictures": "sync.caption_many([1, 2])",
    "a folder for many pictures": "sync.caption_many(Path('photos'))",
    "bytes for many pictures": "joy.caption_many(b'...')",
    "a function that gives no picture": "joy.caption_many([1], image=lambda row: row)",
    "a function that another input is for": "joy.caption_many([1], image=lambda row: row.path)",
    "a caption that may be none": "x: list[str] = [d.caption for d in sync.caption_many(['a'])]",
    "with for async with": "with joy: pass",
    "for for async for": "for _ in joy.caption_many(['a.jpg']): pass",
    "a caption that is not awaited": "async def f() -> str: return joy.caption('a.jpg')",
    "options by place": "Captioner('http://a/v1', CaptionerOptions())",
    "an option that is not there": "CaptionerOptions(concurrency=8)",
    "a wire that is not there": "CaptionerOptions(wire='gif')",
    "text for a number": "FleetOptions(concurrency='8')",
    "a style that is not there": "judge('A dog.', style='poem')",
    "a style by place": "judge('A dog.', 'prose')",
    "a glitch that is not there": "judge('A dog.').glitch == 'boring'",
    "an option that is changed": "CaptionerOptions().retries = 3",
}
MYPY = [sys.executable, "-m", "mypy", "--strict", "--no-incremental"]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the package as pip installs it, and what is installed beside it."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    how = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(packages)]
    subprocess.run([*pip, *how, str(ROOT)], check=True, capture_output=True, timeout=120)
    beside = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "beside.pth").write_text("\n".join(beside))
    python = home / "bin" / "python"
    where = "import joycap_vllm; print(joycap_vllm.__file__)"
    done = subprocess.run([python, "-c", where], cwd=home, capture_output=True, text=True)
    assert done.stdout.startswith(str(packages)), done.stderr
    return python


def of_mypy(python: Path, folder: Path) -> list[tuple[str, int]]:
    """The errors that mypy finds in a folder: file and line."""
    done = subprocess.run(
        [*MYPY, "--output", "json", "--python-executable", str(python), "."],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [(e["file"], e["line"]) for e in errors if e["severity"] == "error"]


def of_pyright(python: Path, folder: Path) -> list[tuple[str, int]]:
    """The errors that pyright finds in a folder, as basedpyright packs it for PyPI."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    call = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", str(python), "."]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=170)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [
        (Path(e["file"]).name, e["range"]["start"]["line"] + 1)
        for e in found
        if e["severity"] == "error"
    ]


CHECKERS = {"mypy": of_mypy}
if importlib.util.find_spec("basedpyright") is not None:  # 280 MB, which `dev` does not ask for
    CHECKERS["pyright"] = of_pyright


@pytest.mark.timeout(240)
@pytest.mark.parametrize("checker", CHECKERS)
def test_right_uses_pass_and_wrong_ones_do_not(
    checker: str, installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "right.py").write_text(USER.read_text())
    (tmp_path / "wrong.py").write_text(BEGINNING + "".join(f"{line}\n" for line in WRONG.values()))
    errors = CHECKERS[checker](installed, tmp_path)
    first = BEGINNING.count("\n") + 1
    found = {line for file, line in errors if file == "wrong.py"}
    passed = [what for line, what in enumerate(WRONG, first) if line not in found]

    assert [error for error in errors if error[0] == "right.py"] == []
    assert passed == [], "what is wrong and passes"
    assert min(found) >= first, "what is right and does not pass"
