"""Which error is the real one, and which lines are worth a user's eyes.

The logs are shortened from what vLLM 0.32 wrote when it was made to fail.
"""

from __future__ import annotations

import pytest

from joycap_vllm.server.log import last_error, matters

WORKER = "(Worker pid=6330) ERROR 11-21 07:13:58 [multiproc_executor.py:953] "
CORE = "(EngineCore pid=6158) ERROR 11-21 07:14:00 [core.py:1510] "
ECHO = f"""\
{CORE}EngineCore failed to start.
{CORE}Traceback (most recent call last):
{CORE}  File "multiproc_executor.py", line 815, in wait_for_ready
{CORE}    raise e from None
{CORE}Exception: WorkerProc initialization failed due to an exception in a background process.
Process EngineCore:
Traceback (most recent call last):
  File "core.py", line 1514, in run_engine_core
    raise e
Exception: WorkerProc initialization failed due to an exception in a background process.
Traceback (most recent call last):
  File "utils.py", line 1431, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
resource_tracker.py:254: UserWarning: There appear to be 1 leaked shared_memory objects
"""
IN_WORKER = f"""\
{WORKER}WorkerProc failed to start.
{WORKER}Traceback (most recent call last):
{WORKER}  File "weight_utils.py", line 1208, in safetensors_weights_iterator
{WORKER}    with safe_open(st_file, framework="pt") as f:
{WORKER}safetensors.SafetensorError: incomplete metadata, file not fully covered
{ECHO}"""
REPEATED = f"""\
{WORKER}Traceback (most recent call last):
{WORKER}ValueError: Available memory on node 0 is less than requested memory for kv.
{CORE}Traceback (most recent call last):
{CORE}RuntimeError: Worker failed with error 'Available memory', please check the stack trace
{ECHO}"""
PYDANTIC = """\
Traceback (most recent call last):
  File "arg_utils.py", line 1955, in create_model_config
    return ModelConfig(
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (100000) is greater [type=value_error, input_value=A]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
HUB = """\
'[Errno -2] Name or service not known' thrown while requesting HEAD https://huggingface.co/x
Retrying in 1s [Retry 1/5].
Traceback (most recent call last):
  File "default.py", line 101, in handle_request
httpcore2.ConnectError: [Errno -2] Name or service not known

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
OSError: We couldn't connect to 'https://huggingface.co' to load the files.
"""
ARGPARSE = """\
usage: entry.py [-h] [--headless]
entry.py: error: argument --dtype: invalid choice: 'nofloat'
"""
HANDLED_BEFORE = f"""\
Traceback (most recent call last):
ValueError: a request that was refused, long ago
INFO:     Application startup complete.
Traceback (most recent call last):
torch.OutOfMemoryError: CUDA out of memory.
{ECHO}"""


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (IN_WORKER, "safetensors.SafetensorError: incomplete metadata, file not fully covered"),
        (REPEATED, "ValueError: Available memory on node 0 is less than requested memory for kv."),
        (PYDANTIC, "ValueError: User-specified max_model_len (100000) is greater"),
        (
            HUB,
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files. "
            "(from httpcore2.ConnectError: [Errno -2] Name or service not known)",
        ),
        (ARGPARSE, "argument --dtype: invalid choice: 'nofloat'"),
        (HANDLED_BEFORE, "torch.OutOfMemoryError: CUDA out of memory."),
        (f"{WORKER}the driver is too old", "the driver is too old"),
    ],
)
def test_the_real_error_is_found(log: str, error: str) -> None:
    assert last_error(log.split("\n")) == error


def test_an_echo_alone_is_better_than_nothing() -> None:
    found = last_error(ECHO.split("\n"))

    assert found is not None
    assert found.startswith("RuntimeError: Engine core initialization failed.")


def test_a_log_without_errors_has_none() -> None:
    assert last_error(["INFO:     Application startup complete.", ""]) is None


def test_an_endless_error_is_cut() -> None:
    found = last_error(["ValueError: " + "name, " * 1000])

    assert found is not None
    assert len(found) <= 600


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("(Worker pid=1) INFO 11-21 06:51:24 [l.py:5] Loading weights took 0.01 seconds", "Load"),
        ("Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:00<?, ?it/s]", "Load"),
        ("(E pid=1) INFO 11-21 06:51:25 [k.py:2] GPU KV cache size: 94,304 tokens", "GPU KV"),
        ("(A pid=1) INFO 11-21 06:51:26 [l.py:9] Starting vLLM server on http://x", "Starting"),
        ("(E pid=1) WARNING 11-21 06:51:25 [k.py:2] Something is odd", "warning: Something"),
        (f"{CORE}EngineCore failed to start.", "error: EngineCore failed"),
    ],
)
def test_what_matters_is_shown(line: str, shown: str) -> None:
    words = matters(line)

    assert words is not None
    assert words.startswith(shown)


def test_of_a_server_that_was_told_to_end_only_its_progress_is_shown() -> None:
    complaint = f"{CORE}AsyncLLM output_handler failed."

    assert matters(complaint) == "error: AsyncLLM output_handler failed."
    assert matters(complaint, ending=True) is None
    assert matters("INFO:     Shutting down", ending=True) == "Shutting down"


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"{CORE}Traceback (most recent call last):",
        f'{CORE}  File "core.py", line 1482, in run_engine_core',
        f"{WORKER}ValueError: no",
        f"{CORE}Exception: WorkerProc initialization failed due to an exception",
        "(APIServer pid=1) INFO 11-21 06:51:29 [launcher.py:195] Route: /docs, Methods: HEAD",
        "(W pid=1) WARNING 11-21 06:51:23 [cpu_worker.py:114] libiomp is not found in LD_PRELOAD.",
        "(A pid=1) WARNING 11-21 06:51:23 [v.py:2] This model does not support disabling "
        "chunked prefill. This may cause the engine to crash.",
        "INFO:     Application startup complete.",
    ],
)
def test_what_does_not_matter_is_not(line: str) -> None:
    assert matters(line) is None
