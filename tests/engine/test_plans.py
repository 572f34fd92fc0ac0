"""The agreed plans, read by vLLM's own parser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from joycap_vllm.server.command import mend_env

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

PLANS = Path(__file__).parents[1] / "server" / "plans"
PARSE = """
import json, shlex, sys
from pathlib import Path
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
read = {}
for file in sorted(Path(sys.argv[1]).iterdir()):
    for line in file.read_text().splitlines():
        if line.startswith("$ vllm serve "):
            found = vars(parser.parse_args(shlex.split(line)[3:]))
            names = "model_tag port quantization kv_cache_dtype max_num_seqs dtype enforce_eager"
            read.setdefault(file.stem, []).append({n: found[n] for n in names.split()})
print(json.dumps(read))
"""


def test_every_flag_of_every_plan_is_one_that_vllm_reads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(PLANS)],
        capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, **mend_env(True, os.environ)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads(done.stdout.splitlines()[-1])

    assert set(read) == {file.stem for file in PLANS.iterdir()} - {"rtx-4060-8"}
    assert [server["port"] for server in read["h100-80-by-8"]] == list(range(8000, 8008))
    assert [server["quantization"] for server in read["mixed-8-24-24"]] == ["fp8_per_channel", None]
    (small,) = read["rtx-3060-12"]
    assert (small["quantization"], small["enforce_eager"]) == ("fp8_per_block", True)
