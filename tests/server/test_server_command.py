"""Finding vLLM: the ladder, the help, and what is remembered."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import platformdirs
import pytest

from joycap_vllm.errors import EngineError, UsageError
from joycap_vllm.server import command
from joycap_vllm.server.command import find, mend_env, parse_flags

HELP = """\
usage: entry.py [-h] [--headless] [--api-server-count N]

options:
  --api-server-count API_SERVER_COUNT, -asc API_SERVER_COUNT
                        How many API server processes to run.
  -h, --help            show this help message and exit
  --quantization QUANTIZATION, -q QUANTIZATION
  --enforce-eager, --no-enforce-eager
                        When `--generation-config vllm` is given, only the override
"""
SCRIPT = f"""\
#!{sys.executable}
import sys
print(*sys.argv[1:], file=open(__file__ + ".calls", "a"))
if sys.argv[1:] == ["--version"]:
    print("VERSION")
elif sys.argv[1:] == ["serve", "--help=all"]:
    print('''{HELP}''')
else:
    sys.exit(2)
"""


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No vLLM of this machine, and a cache of the test's own."""
    monkeypatch.setattr(command, "_scripts", list)
    monkeypatch.setattr(command, "_package", lambda: None)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda _: str(tmp_path / "cache"))


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str) -> Path:
    script = folder / "vllm"
    script.write_text(SCRIPT.replace("VERSION", version), encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(command, "_scripts", lambda: [script])
    return script


def calls(script: Path) -> list[str]:
    return Path(f"{script}.calls").read_text(encoding="utf-8").splitlines()


def test_flags_are_those_that_the_help_defines() -> None:
    assert parse_flags(HELP) == {
        "--api-server-count",
        "--help",
        "--quantization",
        "--enforce-eager",
        "--no-enforce-eager",
    }


def test_a_vllm_that_works_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = install(monkeypatch, tmp_path, "0.31.1")
    found = find(has_gpu=True)

    assert found.argv == (str(script), "serve")
    assert (found.version, found.is_cpu, found.names_model) == ("0.31.1", False, False)
    assert found.knows("--quantization")
    assert not found.knows("--generation-config")


def test_what_was_found_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = install(monkeypatch, tmp_path, "0.31.1")

    assert find(has_gpu=True) == find(has_gpu=True)
    assert calls(script) == ["--version", "serve --help=all"]


def test_another_vllm_is_looked_at_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "0.31.1")
    find(has_gpu=True)
    install(monkeypatch, tmp_path, "0.33.0+cpu")
    found = find(has_gpu=True)

    assert (found.version, found.is_cpu) == ("0.33.0+cpu", True)


@pytest.mark.parametrize(("has_gpu", "extra"), [(True, "vllm"), (False, "cpu")])
def test_a_missing_vllm_names_the_extra(has_gpu: bool, extra: str) -> None:
    with pytest.raises(UsageError, match=rf"pip install 'joycap-vllm\[{extra}\]'"):
        find(has_gpu=has_gpu)


def test_the_wrong_build_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "0.31.1")

    with pytest.raises(UsageError, match="is no build for CPUs"):
        find("cpu", has_gpu=True)


def test_a_script_that_crashes_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "broken, with no number")

    with pytest.raises(UsageError, match="not installed"):
        find(has_gpu=True)


def test_a_package_that_cannot_be_imported_is_an_engine_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "_package", lambda: tmp_path / "vllm" / "__init__.py")
    monkeypatch.setattr(command, "PROBE", "raise ImportError('libcuda is missing')")

    with pytest.raises(EngineError, match="does not start: ImportError: libcuda is missing"):
        find(has_gpu=True)


def test_the_mend_goes_before_the_users_own_path() -> None:
    mended = mend_env(True, {"PYTHONPATH": "/mine"})["PYTHONPATH"]

    assert mended.endswith("cpu_mend:/mine")
    assert mend_env(False, {"PYTHONPATH": "/mine"}) == {}


def test_docker_needs_no_vllm_here() -> None:
    assert find("docker", has_gpu=True).argv[:2] == ("docker", "run")
