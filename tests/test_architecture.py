"""The house rules: which room may know which, what the public may use, what `--help` costs."""

from __future__ import annotations

import ast
import graphlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import joycap_vllm

PACKAGE = Path(joycap_vllm.__file__).parent
LEAF = {"errors"}
MAY_IMPORT = {
    "errors": set(),
    "prompts": LEAF,
    "images": LEAF,
    "sources": LEAF,
    "glitch": LEAF | {"prompts"},
    "outputs": LEAF,
    "nano": LEAF,
    "fleet": LEAF | {"prompts"},
    "task": LEAF | {"images", "fleet", "glitch"},
    "given": LEAF | {"images", "sources"},
    "many": LEAF | {"task"},
    "captioner": LEAF | {"prompts", "images", "fleet", "glitch", "task", "given", "many"},
    "sync": LEAF | {"prompts", "captioner", "given", "many"},
    "job": LEAF | {"prompts", "images", "fleet", "glitch", "captioner", "sources", "outputs"},
    "server": LEAF | {"prompts", "fleet", "nano"},
    "gateway": LEAF
    | {"prompts", "images", "fleet", "glitch", "captioner", "sources", "job", "outputs"},
    "scale": LEAF | {"prompts", "images", "fleet", "glitch", "captioner", "sources", "job"},
    "bench": LEAF | {"prompts", "images", "fleet", "captioner", "sources", "server"},
}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name for name in names if name.startswith("joycap_vllm")}


def files() -> list[Path]:
    return [f for f in sorted(PACKAGE.rglob("*.py")) if f.relative_to(PACKAGE).parts[0] != "cli"]


@pytest.mark.parametrize("file", files(), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(file: Path) -> None:
    parts = file.relative_to(PACKAGE).parts
    own = parts[0].removesuffix(".py")
    if own == "__init__":
        return
    known = {room_of(name) for name in imports_of(file)} - {"", own, "__version__"}

    assert known <= MAY_IMPORT[own], f"{own} must not know {known - MAY_IMPORT[own]}"


def test_no_files_import_each_other_in_a_loop() -> None:
    graph = {}
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(("joycap_vllm", *file.relative_to(PACKAGE).with_suffix("").parts))
        graph[name.removesuffix(".__init__")] = imports_of(file)
    for name, imports in graph.items():
        # `from a import b` names the face `a` too, where `b` is a file of its own.
        faces = {other.rpartition(".")[0] for other in imports & graph.keys()}
        graph[name] = (imports & graph.keys()) - faces - {name, "joycap_vllm"}

    graphlib.TopologicalSorter(graph).prepare()


def test_nothing_calls_the_command_line() -> None:
    callers = [f for f in files() if any(n.startswith("joycap_vllm.cli") for n in imports_of(f))]

    assert callers == []


def test_files_stay_small_and_functions_fit_a_screen() -> None:
    long_files, long_functions = [], []
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            long_files.append(file.name)
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            if lines > 60:
                long_functions.append(f"{file.name}:{node.name}")

    assert (long_files, long_functions) == ([], [])


def test_the_public_api_is_frozen() -> None:
    expected = [
        "Captioned",
        "Captioner",
        "CaptionerOptions",
        "FleetOptions",
        "ImageError",
        "ImageLike",
        "JoycapError",
        "Limits",
        "NoCaptionError",
        "NoEndpointError",
        "Outcome",
        "Prompt",
        "Sampling",
        "SyncCaptioner",
        "UsageError",
        "Verdict",
        "build_prompt",
        "custom_prompt",
        "judge",
    ]

    assert sorted(joycap_vllm.__all__) == expected
    assert all(getattr(joycap_vllm, name) is not None for name in expected)


def _cpu_seconds(*command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_costs_at_most_four_tenths_of_a_second_of_cpu() -> None:
    call = "import sys; sys.argv = ['joycap', '--help']; from joycap_vllm.cli import main; main()"
    bare = min(_cpu_seconds("-c", "pass") for _ in range(3))

    assert min(_cpu_seconds("-c", call) for _ in range(3)) - bare < 0.4


def test_help_loads_nothing_heavy() -> None:
    call = (
        "import sys; sys.argv = ['joycap', '--help']\n"
        "from joycap_vllm.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'openai', 'PIL', 'aiohttp', 'torch', 'pydantic', 'starlette', 'ray'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True)

    assert done.stderr.strip() == "[]"
