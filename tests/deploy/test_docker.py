"""The Dockerfile as a linter reads it, and the check that runs in its containers."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from .tools import found, needs

IMAGES = ["docker", "runpod"]


@pytest.fixture(scope="module")
def check(deploy: Path) -> ModuleType:
    path = deploy / "docker" / "healthcheck.py"
    spec = importlib.util.spec_from_file_location("healthcheck", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs("hadolint")
@pytest.mark.parametrize("folder", IMAGES)
def test_hadolint_has_nothing_to_say(deploy: Path, tmp_path: Path, folder: str) -> None:
    file = deploy / folder / "Dockerfile"
    broken = tmp_path / "Dockerfile"
    broken.write_text(re.sub(r"^(FROM [^:]+):\S+", r"\1:latest", file.read_text(), flags=re.M))

    for checked, code in ((file, 0), (broken, 1)):
        done = subprocess.run([found("hadolint"), checked], capture_output=True, check=False)
        assert done.returncode == code, done.stdout.decode()


@pytest.mark.parametrize("folder", IMAGES)
def test_what_an_image_copies_is_let_through_and_little_else(deploy: Path, folder: str) -> None:
    lines = (deploy / folder / "Dockerfile.dockerignore").read_text().split()
    let = [line[1:] for line in lines if line.startswith("!")]
    steps = (deploy / folder / "Dockerfile").read_text().splitlines()
    copied = [
        word
        for step in steps
        if step.startswith("COPY ") and "--from" not in step
        for word in step.split()[1:-1]
    ]

    assert lines[0] == "*"
    assert sorted(let) == sorted(copied)
    assert all((deploy.parent / name).exists() for name in let)
    assert not any(fnmatch.fnmatch("deploy/docker/secrets/gateway-keys.txt", name) for name in let)


def test_only_a_gateway_is_asked_at_the_port_that_it_was_given(check: ModuleType) -> None:
    port = check.gateway_port

    assert port(["/venv/bin/python", "/venv/bin/joycap", "gateway"], {}) == 8080
    assert port(["joycap", "gateway", "--port=9000"], {}) == 9000
    assert port(["joycap", "gateway", "--port", "9001", ""], {}) == 9001
    assert port(["joycap", "gateway", "--ai-toolkit"], {}) == 5000
    assert port(["joycap", "gateway"], {"JOYCAP_GATEWAY_PORT": "81"}) == 81
    assert port(["joycap", "caption", "gateway"], {}) is None
    assert port(["sleep", "9"], {}) is None


def test_a_gateway_that_does_not_answer_is_not_well(deploy: Path, tmp_path: Path) -> None:
    class Alive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/live" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    program = tmp_path / "joycap"
    program.write_text("import sys; sys.stdin.read()")
    with contextlib.ExitStack() as stack:
        server = HTTPServer(("127.0.0.1", 0), Alive)
        port = server.server_port
        stack.callback(server.server_close)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        words = [sys.executable, str(program), "gateway", f"--port={port}"]
        gateway = stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE))
        stack.callback(gateway.kill)

        assert _checked(deploy).returncode == 0
        server.shutdown()
        thread.join()
        server.server_close()
        done = _checked(deploy)
        assert done.returncode == 1
        assert f":{port}/live" in done.stderr


def _checked(deploy: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(deploy / "docker" / "healthcheck.py")]
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)


@needs("git")
def test_a_checkout_on_windows_keeps_the_line_ends_that_containers_read(
    deploy: Path, tmp_path: Path
) -> None:
    """Git for Windows turns them into its own, and bash and prompts take those for text."""
    import joycap_vllm

    template = Path(joycap_vllm.__file__).parent / "server" / "chat_template.jinja"
    files = (deploy.parent / ".gitattributes", deploy / "docker" / "secrets.sh", template)
    for file in files:
        shutil.copy(file, tmp_path)
    names = [file.name for file in files]
    git = [found("git"), "-C", str(tmp_path), "-c", "core.autocrlf=true"]
    for words in (["init"], ["add", *names]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    for name in names[1:]:
        (tmp_path / name).unlink()
    subprocess.run([*git, "checkout", "--", *names[1:]], check=True, capture_output=True)

    for name in names[1:]:
        assert b"\r" not in (tmp_path / name).read_bytes(), name
