"""vLLM in its own image: the `docker run` of one replica."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from joycap_vllm.server.command import DOCKER_IMAGE
from joycap_vllm.server.flags import GUARD, TEMPLATE
from joycap_vllm.server.looking import hub_home
from joycap_vllm.server.values import Flag, Plan, Replica

INSIDE_TEMPLATE = "/joycap/chat_template.jinja"
INSIDE_GUARD = "/joycap/guard/joycap_guard.py"
INSIDE_PORT = 8000
# Variables of the user's that mean the same inside, beside all of vLLM's own.
PASSED = frozenset(
    {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTP_PROXY",
     "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)  # fmt: skip


def docker_argv(plan: Plan, replica: Replica, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The whole command; secrets are named in it, and docker reads them from its environment."""
    host, port, gpu = replica.host, replica.port, replica.gpu
    argv = [*plan.command.argv, "--name", container(port), "--init", "--ipc=host"]
    argv += ["--gpus", "all" if gpu is None else f"device={gpu.selector}"]
    published = f"[{host}]" if ":" in host else host
    argv += ["-p", f"{published}:{port}:{INSIDE_PORT}"]
    argv += _mount(hub_home(environ), "/root/.cache/huggingface", "")
    if hub := environ.get("HF_HUB_CACHE"):
        argv += _mount(Path(hub).expanduser(), "/root/.cache/huggingface/hub", "")
    argv += ["-v", f"{TEMPLATE}:{INSIDE_TEMPLATE}:ro"]
    model = plan.shape.model
    if Path(model).is_dir():
        argv += _mount(Path(model), "/joycap/model")
        model = "/joycap/model"
    mounts, words = _flag_words((*plan.flags, *replica.flags))
    argv += mounts
    for variable in plan.env:
        argv += ["-e", f"{variable.name}={variable.value}"]
    passed = {name for name in environ if name in PASSED or name.startswith("VLLM_")}
    argv += [word for name in sorted(passed - {"VLLM_API_KEY"}) for word in ("-e", name)]
    if plan.api_key is not None:
        argv += ["-v", f"{GUARD}:{INSIDE_GUARD}:ro", "-e", "PYTHONPATH=/joycap/guard"]
        argv += ["-e", "VLLM_API_KEY"]
    return (*argv, DOCKER_IMAGE, model, *words, *plan.raw)


def docker_cleanup(port: int) -> tuple[str, ...]:
    """Ends the container should `docker run` itself have been killed."""
    return ("docker", "rm", "--force", container(port))


def container(port: int) -> str:
    return f"joycap-{port}"


def _mount(here: Path, inside: str, mode: str = ":ro") -> list[str]:
    """A folder under its name inside; -v, which makes it should it be missing, knows no colons."""
    if ":" not in str(here):
        return ["-v", f"{here}:{inside}{mode}"]
    only = ",readonly" if mode else ""
    source = str(here).replace('"', '""')  # it is a row of CSV
    return ["--mount", f'type=bind,"source={source}",target={inside}{only}']


def _flag_words(flags: Iterable[Flag]) -> tuple[list[str], list[str]]:
    """The volumes and the flags, with folders of this machine under their names inside."""
    mounts: list[str] = []
    words: list[str] = []
    for flag in flags:
        if flag.name == "--chat-template":
            words += [flag.name, INSIDE_TEMPLATE]
        elif flag.name == "--lora-modules" and isinstance(flag.value, tuple):
            words.append(flag.name)
            for module in flag.value:
                name, folder = module.split("=", 1)
                here = Path(folder).expanduser()
                if here.is_dir():
                    mounts += _mount(here.resolve(), f"/joycap/lora/{name}")
                    folder = f"/joycap/lora/{name}"
                words.append(f"{name}={folder}")
        else:
            words += flag.words
    return mounts, words
