"""What is released: whole, free of what does not belong, and running where it is installed."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image

import joycap_vllm
from joycap_vllm import __version__

from .conftest import HOME, Installed, Release, build
from fault_server import FaultServer, name_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.release]
PACKAGE = Path(joycap_vllm.__file__).parent
UNWANTED = re.compile(
    r"(^|/)(__pycache__|\.venv|\.mypy_cache|\.pytest_cache|\.ruff_cache|\.joycap|demo-pictures|dist)"
    r"(/|$)|\.py[cod]$|\.egg-info"
)


def metadata_of(release: Release) -> dict[str, list[str]]:
    with zipfile.ZipFile(release.wheel) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(wheel.read(name).decode())
    return {key: [str(value) for value in told.get_all(key, [])] for key in set(told)}


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(release: Release) -> None:
    with zipfile.ZipFile(release.wheel) as wheel:
        names = set(wheel.namelist())
    package = {
        path.relative_to(HOME).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {n for n in names if ".dist-info/" not in n} == package
    assert not [name for name in names if UNWANTED.search(name) or "test" in name.split("/")[0]]


@pytest.mark.parametrize("needed", [
    r"nano/checkpoint/model\.safetensors", r"nano/checkpoint/config\.json",
    r"nano/checkpoint/tokenizer\.json", r"prompts/joycaption\.json", r"py\.typed",
    r"server/chat_template\.jinja", r"server/cpu_mend/sitecustomize\.py",
    r"server/guard/joycap_guard\.py", r"gateway/pages/\w+\.html", r"gateway/static/.+\.css",
    r"gateway/static/.+\.js", r"licenses/LICENSE", r"entry_points\.txt",
])  # fmt: skip
def test_the_wheel_has_what_is_no_code(release: Release, needed: str) -> None:
    with zipfile.ZipFile(release.wheel) as wheel:
        assert [name for name in wheel.namelist() if re.search(needed + "$", name)]


def test_the_sdist_has_all_that_it_takes_to_build_and_test_again(
    release: Release, tmp_path: Path
) -> None:
    with tarfile.open(release.sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = build(unpacked, tmp_path / "again")
    for needed in ("scripts/test", "tests/conftest.py", "CHANGELOG.md", "README.md", "LICENSE"):
        assert needed in names
    with zipfile.ZipFile(again.wheel) as second, zipfile.ZipFile(release.wheel) as first:
        assert {i.filename: i.CRC for i in second.infolist()} == {
            i.filename: i.CRC for i in first.infolist()
        }

    assert not [name for name in names if UNWANTED.search(name)]
    assert release.sdist.stat().st_size < 8_000_000


def test_the_version_stands_in_one_place_and_all_tell_the_same(
    release: Release, over_ours: Installed
) -> None:
    heading = re.search(
        r"^## \[?(\d+\.\d+\.\d+)", (HOME / "CHANGELOG.md").read_text(), re.MULTILINE
    )

    assert metadata_of(release)["Version"] == [__version__]
    assert over_ours.run("--version").stdout == f"joycap {__version__}\n"
    assert f"-{__version__}-" in release.wheel.name
    assert heading is not None
    assert heading[1] == __version__
    assert f'"{__version__}"' not in (HOME / "pyproject.toml").read_text()


def test_the_metadata_names_python_the_licence_and_the_extras(release: Release) -> None:
    told = metadata_of(release)

    assert told["Requires-Python"] == [">=3.11"]
    assert told["License-Expression"] == ["Apache-2.0"]
    assert {"vllm", "cpu", "parquet", "web", "ray", "metrics"} <= set(told["Provides-Extra"])


def test_the_installed_wheel_is_used_and_not_the_checkout(over_ours: Installed) -> None:
    where = over_ours.run("-c", "import joycap_vllm; print(joycap_vllm.__file__)", program="python")

    assert where.stdout.startswith(str(over_ours.folder)), where.stderr


def draw_dozen(folder: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, HOME / "scripts/draw_pictures.py", folder, "--count", "12",
            "--seed", "2026",
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.engine
def test_the_installed_wheel_runs_the_demo_on_a_real_engine(
    over_ours: Installed, tmp_path: Path
) -> None:
    pytest.importorskip("vllm")
    draw_dozen(tmp_path / "pictures")
    done = over_ours.run("caption", tmp_path / "pictures", "--serve", "nano", "--json", timeout=280)
    shown = over_ours.run(
        HOME / "scripts/show_captions.py", tmp_path / "pictures", "12", "2026", program="python"
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] == 12
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert len([*(tmp_path / "pictures").glob("*.txt")]) == 12


def test_the_installed_gateway_has_its_pages(over_ours: Installed, server: FaultServer) -> None:
    pytest.importorskip("starlette")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with subprocess.Popen(
        [
            over_ours.folder / "bin/joycap", "gateway", "--base-url", server.url, "--port", port,
            "--no-check",
        ],
        stderr=subprocess.PIPE, text=True, cwd=over_ours.folder,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            said = ""
            while f"http://127.0.0.1:{port}" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read().decode()
            links = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page))
            sizes = [
                len(urllib.request.urlopen(f"http://127.0.0.1:{port}{link}", timeout=20).read())
                for link in links
            ]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)

    assert sizes
    assert min(sizes) > 100


def test_the_core_alone_helps_prompts_and_captions(
    core_only: Installed, server: FaultServer, tmp_path: Path
) -> None:
    for number in range(3):
        Image.new("RGB", (40, 30), (10 + number, 20, 30)).save(tmp_path / f"{number}.png")
    listed = core_only.run("-c", "import vllm", program="python")
    helped = core_only.run("--help")
    prompts = core_only.run("prompts", "straightforward", "--words", "50")
    done = core_only.run("caption", tmp_path, "--base-url", server.url, "--json")

    assert listed.returncode != 0
    assert "caption" in helped.stdout
    assert prompts.stdout.startswith("Write a straightforward caption")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.txt").read_text() == name_of((11, 20, 30))


def test_the_core_alone_names_the_extra_that_is_missing(
    core_only: Installed, server: FaultServer, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 30), (10, 20, 30)).save(tmp_path / "a.png")
    gateway = core_only.run("gateway", "--base-url", server.url)
    parquet = core_only.run("caption", tmp_path, "--base-url", server.url, "--format", "parquet")

    assert gateway.returncode == parquet.returncode == 2
    assert "joycap-vllm[web]" in gateway.stderr
    assert "joycap-vllm[parquet]" in parquet.stderr
