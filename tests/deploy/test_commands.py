"""Every joycap command line and variable under deploy/ is one that exists."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joycap_vllm.server.values import Plan

from .conftest import DEPLOY

Check = Callable[[list[str]], None]
_SCRIPTS = (".sbatch", ".sh", ".service")
_CODE = re.compile(r"```\w*\n.*?```|`[^`\n]+`", re.DOTALL)


def texts() -> list[Path]:
    """Every file under deploy/ that is kept."""
    kept = (path for path in sorted(DEPLOY.rglob("*")) if path.is_file())
    return [path for path in kept if not {"secrets", "__pycache__"} & set(path.parts)]


def name(path: Path) -> str:
    return path.relative_to(DEPLOY).as_posix()


def command_lines(path: Path) -> list[list[str]]:
    """What follows `joycap` on each line, also where the word stands as an image's name."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in _SCRIPTS or (path.parent.name, path.suffix) == ("skypilot", ".yaml"):
        text = re.sub(r"^ *#.*", "", text, flags=re.MULTILINE)
    else:
        text = "\n".join(_CODE.findall(text))
    whole = re.sub(r"[\\`]\n", " ", text)  # PowerShell goes on after a backtick
    found = re.findall(
        r"(?:^|[\s`/(])(?<!--namespace )joycap ((?:[a-z]+)\b[^\n`]*)", whole, re.MULTILINE
    )
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("path", texts(), ids=name)
def test_command_lines_use_flags_that_exist(path: Path, check_command: Check) -> None:
    for words in command_lines(path):
        check_command(words)


def test_command_lines_are_found_where_they_are() -> None:
    found = {name(path): {words[0] for words in command_lines(path)} for path in texts()}

    assert found["slurm/caption.sbatch"] == {"caption"}
    assert found["slurm/engines.sbatch"] == {"serve"}
    assert found["skypilot/caption.yaml"] == {"caption"}
    assert found["skypilot/engines.yaml"] >= {"serve"}
    assert found["systemd/joycap-caption@.service"] == {"caption"}
    assert all(found[f"{folder}/README.md"] for folder in ("docker", "slurm", "systemd", "windows"))


def test_every_folder_is_in_the_index_and_says_what_was_tried(deploy: Path) -> None:
    index = (deploy / "README.md").read_text(encoding="utf-8")
    for folder in (path for path in deploy.iterdir() if path.is_dir()):
        assert f"({folder.name}/README.md)" in index
        assert "## What was tried" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [path for path in texts() if path.suffix == ".md"], ids=name)
def test_files_that_a_readme_names_are_there(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", texts(), ids=name)
def test_variables_that_are_named_are_variables_of_the_commands(
    path: Path, commands: dict[str, Any]
) -> None:
    known = {variable for command in commands.values() for variable in _variables(command)}
    named = set(re.findall(r"\bJOYCAP_[A-Z_]+\b", path.read_text(encoding="utf-8")))

    assert named <= known


def _variables(command: Any) -> Iterator[str]:
    for param in command.params:
        names = param.envvar or []
        yield from [names] if isinstance(names, str) else names


@pytest.mark.parametrize(("unit", "wait"), [("serve", Plan.grace), ("gateway", 30.0)])
def test_a_unit_waits_for_its_command_to_drain(
    deploy: Path, check_command: Check, unit: str, wait: float
) -> None:
    service, parser = _service(deploy / "systemd" / f"joycap-{unit}.service")
    program, *words = shlex.split(service["ExecStart"])

    assert Path(program).name == "joycap"
    check_command(words)
    assert float(service["TimeoutStopSec"]) > wait
    assert "Install" in parser


def test_the_unit_of_jobs_waits_longer_than_a_request_takes(
    deploy: Path, commands: dict[str, Any]
) -> None:
    service, _ = _service(deploy / "systemd" / "joycap-caption@.service")
    timeout = next(p.default for p in commands["caption"].params if p.name == "timeout")

    assert float(service["TimeoutStopSec"]) > timeout


def _service(path: Path) -> tuple[Any, Any]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser["Service"], parser
