"""Every flag and variable that vLLM is given, each with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from joycap_vllm.errors import TooLargeError, UsageError
from joycap_vllm.server.command import EngineCommand
from joycap_vllm.server.hardware import GIB, Gpu, Hardware
from joycap_vllm.server.memory import BF16_CAPABILITY, Fit
from joycap_vllm.server.raw import value_of
from joycap_vllm.server.shape import ModelShape
from joycap_vllm.server.values import Flag, ServeOptions

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
GUARD = Path(__file__).with_name("guard") / "joycap_guard.py"
TEMPLATE_TOKENS = 50
LEAST_TOKENS = 64  # of a prompt and an answer
PROMPT_TOKENS = 512
TINY = 64 << 20  # bytes of weights
ANSWER_TOKENS = 512
CPU_SEQUENCES = 16
CPU_BATCHED_TOKENS = 8192
KEEP_ALIVE_SECONDS = 120
DRAIN_SECONDS = 60
IGNORED_BY_FP8 = '{"ignore":["vision_tower.*","multi_modal_projector.*"]}'
UNKNOWN_RANK = 64
LORA_RANKS = (16, 32, 64, 128, 256, 320, 512)


def context_for(shape: ModelShape) -> tuple[str, str]:
    """The context that the work needs, and the arithmetic behind it."""
    need = shape.image_tokens + TEMPLATE_TOKENS + PROMPT_TOKENS + ANSWER_TOKENS
    length = min(-(-need // 2048) * 2048, shape.context)
    why = (
        f"{shape.image_tokens} of the picture + {TEMPLATE_TOKENS} of the template + "
        f"{PROMPT_TOKENS} for the prompt + {ANSWER_TOKENS} for the answer = {need} tokens, "
        f"rounded up"
    )
    return str(length), why


def longest(options: ServeOptions, shape: ModelShape) -> int:
    """Tokens of the longest prompt and answer that a server will take.

    Raises:
        UsageError: `--max-model-len` is no number of tokens, too few for a picture, or more than
            the model was made for.
    """
    asked = value_of("--max-model-len", options.raw) or options.max_model_len
    if asked == "auto":
        return int(context_for(shape)[0])
    match = re.fullmatch(r"(\d+)([kK]?)", asked)
    if match is None:
        raise UsageError(
            f"--max-model-len takes a number of tokens as in 4096 or 4k, not {asked!r}"
        )
    tokens = int(match[1]) * {"": 1, "k": 1000, "K": 1024}[match[2]]
    least = shape.image_tokens + TEMPLATE_TOKENS + LEAST_TOKENS
    if not least <= tokens <= shape.context:
        raise UsageError(
            f"--max-model-len {asked}: a picture, its prompt and an answer take {least} tokens at "
            f"least, and {shape.model} was made for {shape.context} at most"
        )
    return tokens


def shared_flags(
    hardware: Hardware, command: EngineCommand, shape: ModelShape, options: ServeOptions
) -> Iterator[Flag]:
    """The flags that every replica gets."""
    yield Flag("--served-model-name", shape.served, "a short name that stays the same")
    length, why = context_for(shape)
    asked = options.max_model_len != "auto"
    yield Flag(
        "--max-model-len", options.max_model_len if asked else length, "as asked" if asked else why
    )
    yield Flag(
        "--chat-template",
        str(TEMPLATE),
        "renders JoyCaption's prompt exactly, with no <image> left",
    )
    yield Flag("--chat-template-content-format", "openai", "what our template is written for")
    yield Flag("--limit-mm-per-prompt", '{"image":1}', "a second picture is a mistake: refused")
    yield Flag(
        "--allowed-media-domains",
        "none.invalid",
        "pictures come in the request; vLLM would fetch any address, of your own network too",
    )
    yield Flag(
        "--enable-prefix-caching", None, "more prompts on a picture, and retries, cost little"
    )
    yield Flag("--generation-config", "vllm", "no sampling defaults hidden in the checkpoint")
    if command.is_cpu:
        yield from _cpu_flags(shape, hardware, options)
    else:
        yield from _gpu_build_flags()
    yield Flag("--max-num-queued-reqs", "1024", "a full server says 503 instead of growing")
    yield Flag("--enable-prompt-tokens-details", None, "answers say how much came from the cache")
    yield Flag("--enable-per-request-metrics", None, "answers say how long they queued")
    yield Flag("--enable-request-id-headers", None, "a request can be found again in the log")
    yield Flag("--disable-uvicorn-access-log", None, "no log line for each of a million requests")
    yield Flag("--shutdown-timeout", str(DRAIN_SECONDS), "seconds to finish what is in flight")
    yield from _lora_flags(options)


def guard_flag() -> Flag:
    """The flag for a server with a key."""
    why = "vLLM asks for the key below /v1 only; this asks for it everywhere else"
    return Flag("--middleware", "joycap_guard.Guard", why)


def gpu_flags(
    command: EngineCommand,
    shape: ModelShape,
    options: ServeOptions,
    gpu: Gpu | None,
    fit: Fit | None,
) -> Iterator[Flag]:
    """The flags of the replica on one GPU; few where no GPU is known."""
    if options.max_num_seqs is not None:
        yield Flag("--max-num-seqs", str(options.max_num_seqs), "as asked")
    if gpu is None or fit is None:
        if options.quantization == "fp8":
            yield from _fp8_flags(command, "fp8_per_channel", "as asked")
        return
    choice = fit.choice
    if gpu.maker == "nvidia":
        half = gpu.capability < BF16_CAPABILITY
        why = "this GPU has no bfloat16" if half else "as the weights are stored"
        yield Flag("--dtype", "float16" if half else "bfloat16", why)
    if choice.quantization is not None:
        yield from _fp8_flags(command, choice.quantization, fit.why)
    if choice.kv_dtype is not None:
        yield Flag("--kv-cache-dtype", choice.kv_dtype, "in 16 bits it would hold half as many")
    yield Flag("--gpu-memory-utilization", f"{fit.share:g}", fit.share_why)
    if options.max_num_seqs is None:
        yield Flag("--max-num-seqs", str(fit.sequences), fit.arithmetic)
    images = choice.batched_tokens // shape.image_tokens
    yield Flag(
        "--max-num-batched-tokens",
        str(choice.batched_tokens),
        f"it is the vision tower's budget too: {images} pictures in a step",
    )
    if not choice.graphs:
        yield Flag("--enforce-eager", None, "the memory of CUDA graphs holds captions instead")


def _gpu_build_flags() -> Iterator[Flag]:
    yield Flag(
        "--mm-processor-cache-gb",
        "1",
        "holds 1,200 prepared pictures, more than are in flight; vLLM's 4 count for each server",
    )
    yield Flag(
        "--api-server-count",
        "1",
        "reads hundreds of pictures of 384x384 a second; give more behind -- for clients that "
        "send originals",
    )


def _fp8_flags(command: EngineCommand, kind: str, why: str) -> Iterator[Flag]:
    if not command.knows("--quantization-config"):
        raise UsageError(
            f"vLLM {command.version} cannot leave the vision tower unquantised: "
            "use a newer vLLM, or --quantization none"
        )
    yield Flag("--quantization", kind, why)
    yield Flag("--quantization-config", IGNORED_BY_FP8, "quantising these breaks the model")


def _cpu_flags(shape: ModelShape, hardware: Hardware, options: ServeOptions) -> Iterator[Flag]:
    if options.quantization == "fp8":
        raise UsageError("fp8 needs a GPU")
    servers = options.replicas or 1
    need = servers * (shape.weights + kv_space(shape) * GIB + 4 * GIB)
    if hardware.ram and need > hardware.ram:
        each = "" if servers == 1 else f"{servers} times "
        raise TooLargeError(
            f"{each}{shape.served} needs {need / GIB:.1f} GiB of memory on a CPU, and this machine "
            f"has {hardware.ram / GIB:.1f} GiB; `joycap serve nano` runs anywhere"
        )
    sequences = options.max_num_seqs or CPU_SEQUENCES
    why = "as asked" if options.max_num_seqs else "more at once only wait for the same few cores"
    yield Flag("--max-num-seqs", str(sequences), why)
    yield Flag("--max-num-batched-tokens", str(CPU_BATCHED_TOKENS), "ten pictures in a step")
    yield Flag(
        "--no-enable-chunked-prefill",
        None,
        "vLLM's CPU build dies of a seeded request whose prompt is read in parts",
    )
    yield Flag("--dtype", "bfloat16", "as the weights are stored")
    yield Flag("--enforce-eager", None, "compiling takes longer than a CPU ever gains by it")


def kv_space(shape: ModelShape) -> int:
    """GiB of KV cache that a CPU server needs for its sequences, whole numbers as vLLM wants."""
    return max(1, -(-CPU_SEQUENCES * 2048 * shape.kv_per_token // GIB))


def _lora_flags(options: ServeOptions) -> Iterator[Flag]:
    if not options.loras:
        return
    yield Flag("--enable-lora", None, "adapters were given")
    modules = tuple(f"{name}={path}" for name, path in options.loras)
    yield Flag("--lora-modules", modules, "each is served as a model of its own name")
    ranks = [lora_rank(path) for _, path in options.loras]
    known = [rank for rank in ranks if rank is not None]
    rank = max([*known, *([UNKNOWN_RANK] if None in ranks else [])])
    fitting = next((allowed for allowed in LORA_RANKS if allowed >= rank), rank)
    why = f"the largest rank of the adapters is {rank}"
    if None in ranks:
        why = f"the adapters' ranks are not known here; {rank} holds most"
    yield Flag("--max-lora-rank", str(fitting), why)


def variables(
    hardware: Hardware, command: EngineCommand, shape: ModelShape, options: ServeOptions
) -> Iterator[Flag]:
    yield Flag(
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE",
        str(KEEP_ALIVE_SECONDS),
        "vLLM's 5 s cut connections that clients are about to use again",
    )
    yield Flag("VLLM_NO_USAGE_STATS", "1", "nothing is sent anywhere")
    yield Flag("DO_NOT_TRACK", "1", "nothing is sent anywhere")
    if command.is_cpu:
        yield Flag(
            "VLLM_CPU_KVCACHE_SPACE",
            str(kv_space(shape)),
            f"GiB; holds {CPU_SEQUENCES} captions, where vLLM would take a share of all memory",
        )
        yield from _thread_variables(hardware, shape, options.replicas or 1)


def _thread_variables(hardware: Hardware, shape: ModelShape, servers: int) -> Iterator[Flag]:
    """Threads of the model and the API server on one core take turns at waiting for each other.

    The nano model on two cores, 16 requests in flight: 24 to 34 captions a second with vLLM's own
    binding, which leaves a core to the API server; 2 to 3 with `nobind` and two threads.

    vLLM's worker process and its engine wait for each other by spinning, and so do the threads of
    one matrix product. Where the client's picture work wants the same two cores, the nano model
    writes 17 captions a second of 12-megapixel pictures with one thread in the engine's process,
    and 7 without; of 1024x1024 ones 28 and 24.
    """
    if shape.weights < TINY:
        why = (
            "a model this small computes faster than processes and threads hand over to each other"
        )
        yield Flag("VLLM_ENABLE_V1_MULTIPROCESSING", "0", why)
        yield Flag("OMP_NUM_THREADS", "1", why)
    if servers > 1:
        yield Flag("VLLM_CPU_OMP_THREADS_BIND", "nobind", "several servers share the cores")
        return
    if hardware.cores > 1:
        yield Flag("VLLM_CPU_OMP_THREADS_BIND", "auto", "leaves one core to the API server")
        return
    yield Flag("VLLM_CPU_OMP_THREADS_BIND", "nobind", "a single core cannot be shared out")
    if shape.weights >= TINY:
        yield Flag("OMP_NUM_THREADS", "1", "there is a single core")


def lora_rank(folder: str) -> int | None:
    """The rank of an adapter; None where its folder is not at hand."""
    try:
        config = json.loads((Path(folder).expanduser() / "adapter_config.json").read_bytes())
        return int(config["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
