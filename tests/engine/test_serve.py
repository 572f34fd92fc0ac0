"""`joycap serve` on real vLLM: what it does when its servers die, and when they cannot start."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from PIL import Image

from joycap_vllm.nano import checkpoint_path

from .conftest import free_port
from .quantised import quantised
from forking import run_joycap

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def command(*words: str | Path) -> list[str]:
    call = "from joycap_vllm.cli import main; main()"
    return [sys.executable, "-c", call, *map(str, words)]


def below(pid: int) -> set[int]:
    """All processes that descend from one."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if facts[0] != "Z":
            parents[int(stat.parent.name)] = int(facts[1])
    found, fresh = set[int](), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def said(pid: int) -> str:
    """A process's command line; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Serving:
    """`joycap serve`, with its events."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.events_file = folder / "events.jsonl"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("JOYCAP_")}
        environ["XDG_STATE_HOME"] = str(folder)
        with self.events_file.open("w") as events:
            self.process = subprocess.Popen(
                command("serve", "--json", *words),
                stdout=subprocess.PIPE, stderr=events, text=True, env=environ,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.events_file.read_text()
        self.urls: list[str] = json.loads(line)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.events_file.read_text().splitlines()]

    def engines(self) -> list[int]:
        """The processes of vLLM itself, not those of the keepers."""
        return [pid for pid in below(self.process.pid) if "keeper.py" not in said(pid)]

    def wait_for(self, event: str, count: int) -> None:
        deadline = time.monotonic() + 120
        while sum(one["event"] == event for one in self.events) < count:
            assert self.process.poll() is None, self.events_file.read_text()
            assert time.monotonic() < deadline, self.events_file.read_text()
            time.sleep(0.1)


def adapter(folder: Path) -> Path:
    """A LoRA adapter of the nano model that changes nothing: its second factors are zero."""
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    (weights,) = checkpoint_path().glob("*.safetensors")
    factors = {}
    with safe_open(weights, "np") as stored:
        for name in stored.keys():  # noqa: SIM118  (it is no mapping)
            if "language_model" in name and name.endswith(("q_proj.weight", "v_proj.weight")):
                out, width = stored.get_slice(name).get_shape()
                key = f"base_model.model.{name.removesuffix('.weight')}"
                factors[f"{key}.lora_A.weight"] = np.ones((4, width), np.float32)
                factors[f"{key}.lora_B.weight"] = np.zeros((out, 4), np.float32)
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 4, "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Two servers, each with an adapter."""
    folder = tmp_path_factory.mktemp("serving")
    lora = f"style={adapter(folder / 'style')}"
    made = Serving(folder, "nano", "--port", str(two_ports()), "--replicas", "2", "--lora", lora)
    yield made
    made.process.kill()
    made.process.communicate()


def two_ports() -> int:
    """A port that is free, and so is the next."""
    while True:
        port = free_port()
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port + 1))
            return port


def test_two_servers_caption_on_two_ports_and_the_second_look_comes_from_the_cache(
    serving: Serving,
) -> None:
    first, second = serving.urls
    done = run_joycap(["doctor", "--base-url", first, "--base-url", second], timeout=100)

    assert urlsplit(second).port == (urlsplit(first).port or 0) + 1
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fit, model joycap-nano") == 2
    assert done.stdout.count(" of its prompt came from the cache") == 2


def test_an_adapter_is_a_model_of_its_own(serving: Serving, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    words = ["caption", str(tmp_path), "--base-url", serving.urls[0], "--model"]
    for model in ("joycap-nano", "style"):
        done = run_joycap([*words, model, "--out", str(tmp_path / model)], timeout=100)
        assert done.returncode == 0, done.stderr

    texts = {(tmp_path / model / "a.txt").read_text() for model in ("joycap-nano", "style")}
    assert len(texts) == 1, "this adapter changes nothing"


def test_engines_are_shown_live(serving: Serving) -> None:
    urls = [word for url in serving.urls for word in ("--base-url", url)]
    done = run_joycap(["top", *urls, "--once", "--json", "--interval", "0.3"], timeout=60)
    told = json.loads(done.stdout)["engines"]

    assert set(told) == set(serving.urls)
    assert all(engine["prompt_tokens"] > 700 for engine in told.values())
    assert all(engine["finished"].get("stop", 0) >= 1 for engine in told.values())


def test_killed_engines_come_back_and_the_job_is_none_the_worse(
    serving: Serving, tmp_path: Path
) -> None:
    for number in range(40):
        Image.new("RGB", (64, 64), (number * 6, 80, 200)).save(tmp_path / f"{number}.png")
    urls = [word for url in serving.urls for word in ("--base-url", url)]
    job = subprocess.Popen(
        command("caption", tmp_path, *urls, "--concurrency", "4", "--json", "--on-glitch", "keep",
                "--max-glitch-rate", "off"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while len(list(tmp_path.glob("*.txt"))) < 5:
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    for pid in serving.engines():
        os.kill(pid, signal.SIGKILL)
    out, err = job.communicate(timeout=200)
    summary = json.loads(out)

    assert job.returncode in (0, 1), err
    assert (summary["failed"], summary["ok"] + summary["glitched"]) == (0, 40), err
    assert len(list(tmp_path.glob("*.txt"))) == 40
    serving.wait_for("ready", 4)
    for url in serving.urls:
        states = [e["event"] for e in serving.events if e.get("url") == url]
        assert states == ["starting", "ready", "died", "starting", "ready"]
    why = {e["why"].splitlines()[0] for e in serving.events if e["event"] == "died"}
    assert all("killed from outside" in line for line in why), why


def test_after_the_end_nothing_of_ours_is_left(serving: Serving) -> None:
    ours = below(serving.process.pid)
    serving.process.send_signal(signal.SIGTERM)

    assert serving.process.wait(90) == 0
    assert ours
    assert [said(pid) for pid in ours if said(pid)] == []


def test_a_quantised_checkpoint_captions_and_all_but_health_wants_the_key(
    tmp_path: Path,
) -> None:
    model = quantised(tmp_path / "a model in 8 bits")
    picture, key = tmp_path / "a.png", tmp_path / "key"
    Image.new("RGB", (64, 64), "teal").save(picture)
    key.write_text("a-key\n")
    words = ["--port", str(free_port()), "--api-key-file", str(key)]
    serving = Serving(tmp_path, str(model), *words)
    words = ["caption", str(picture), "--base-url", serving.urls[0], "--api-key-file", str(key)]
    done = run_joycap(words, timeout=200)
    keyless = statuses(serving.urls[0], "none")
    keyed = statuses(serving.urls[0], "a-key")
    serving.process.terminate()
    serving.process.communicate()

    assert done.returncode == 0, done.stderr
    assert "background" in (tmp_path / "a.txt").read_text()
    assert keyless == {"health": 200, "metrics": 200, "invocations": 401, "openapi.json": 401,
                       "v1/models": 401, "pictures from elsewhere": 401}  # fmt: skip
    assert keyed == {"health": 200, "metrics": 200, "invocations": 200, "openapi.json": 200,
                     "v1/models": 200, "pictures from elsewhere": 400}  # fmt: skip


def statuses(base_url: str, key: str) -> dict[str, int]:
    """What a server answers to whom sends this key, by path."""
    root, headers = base_url.removesuffix("/v1"), {"Authorization": f"Bearer {key}"}
    found = {
        path: httpx2.get(f"{root}/{path}", headers=headers).status_code
        for path in ("health", "metrics", "openapi.json", "v1/models")
    }
    picture = {"type": "image_url", "image_url": {"url": f"{root}/docs"}}
    for name, content in (("invocations", "hello"), ("pictures from elsewhere", [picture])):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 2}
        answer = httpx2.post(f"{root}/invocations", headers=headers, json=body, timeout=30)
        found[name] = answer.status_code
    return found


def test_weights_that_are_damaged_end_in_one_sentence(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint_path(), model)
    (weights,) = model.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-5000])
    words = ["serve", str(model), "--port", str(free_port()), "--log-dir", str(tmp_path / "logs")]
    done = run_joycap(words, timeout=200)

    assert done.returncode == 5, done.stderr
    (last,) = done.stderr.strip().splitlines()
    assert last.endswith("is damaged: 5,000 of its bytes are missing; copy or load it down again")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["/no/such/model"], 2, "no such folder: /no/such/model"),
        (["nano", "--", "--no-such-flag"], 2, "knows --no-such-flag"),
        (["nano", "--", "--dtype", "nonsense"], 5, "nonsense"),
    ],
)
def test_what_cannot_start_ends_in_one_sentence(
    tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    ours = ["--port", str(free_port()), "--log-dir", str(tmp_path)]
    done = run_joycap(["serve", *ours, *words], timeout=200)

    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
