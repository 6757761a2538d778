"""Define every setting of ``llamafw serve`` once: its flags, environment variable, default, range and help.

The command line, the environment variables, the keys of the configuration file and docs/cli.md all come from this
table. Names and meanings are llama-server's. Independent of argparse and of the process's environment.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, get_args

from llamafw.chat_settings import CHAT, ChatSettings
from llamafw.options import (
    Option,
    convert,
    option,
    parse_cpu_mask,
    parse_cpu_range,
    parse_gpu_layers,
    parse_layers,
    parse_on_off,
    parse_on_off_auto,
    parse_path_prefix,
    parse_proportions,
    parse_queue_limit,
    parse_slots,
    parse_slowdown,
    parse_yarn_factor,
)
from llamafw.sampling_settings import SAMPLING
from llamafw.speculation_settings import SPECULATION
from llamafw.types.backend_options import CacheType

COMMON, MODEL, CPU, GPU, CONTEXT = "common", "model", "CPU", "GPU", "context and batching"
SERVER, PLUGINS, LOG = "server", "plugins", "logging"
GROUPS = (COMMON, MODEL, CPU, GPU, CONTEXT, CHAT, SAMPLING, SPECULATION, SERVER, PLUGINS, LOG)

_LOG_LEVELS = (logging.CRITICAL + 1, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
"""The lowest level that is logged, for each value of ``--verbosity``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ChatSettings):
    """The settings of one server, fixed at start-up."""

    # fmt: off
    # --- common: what most people need, first in --help
    model: str | None = option(None, "-m", "--model", group=COMMON, type=str, env="LLAMA_ARG_MODEL", metavar="FILE",
        help="GGUF file of the model, or a name from the catalogue of `llamafw pull`; with --model-url or --hf-file: the file to store the download in (default: smollm2-135m, downloaded once)")
    hf_repo: str | None = option(None, "-hf", "-hfr", "--hf-repo", group=COMMON, type=str, env="LLAMA_ARG_HF_REPO", metavar="USER/REPO[:QUANT]",
        help="download the model from this Hugging Face repository; QUANT selects a file by its quantization, --hf-file or -m by its name (default: Q4_K_M if there is one)")
    alias: tuple[str, ...] = option((), "-a", "--alias", group=COMMON, type=str, env="LLAMA_ARG_ALIAS", metavar="NAMES", repeat=True, split=True,
        help="names of the model in the API, separated by commas; the first is its id (default: its name in the catalogue, or that of its file)")
    tags: tuple[str, ...] = option((), "--tags", group=SERVER, type=str, env="LLAMA_ARG_TAGS", metavar="TAGS", repeat=True, split=True,
        help="tags of the model in GET /v1/models, separated by commas; for clients only")
    ctx_size: int = option(0, "-c", "--ctx-size", group=COMMON, type=int, env="LLAMA_ARG_CTX_SIZE", metavar="N", low=0, high=2**31 - 1,
        help="size of the context in tokens, divided evenly among the slots (default: 0, the context that the model was trained with)")
    parallel: int | None = option(None, "-np", "--parallel", group=COMMON, type=int, env="LLAMA_ARG_N_PARALLEL", metavar="N", low=-1, high=1024, parse=parse_slots,
        help="number of slots: requests that are processed at the same time; -1: the default (default: 4, each with the whole context unless -c is given)")
    threads: int = option(-1, "-t", "--threads", group=COMMON, type=int, env="LLAMA_ARG_THREADS", metavar="N", low=-1, high=1024,
        help="number of CPU threads for generation (default: one per physical core)")
    host: str = option("127.0.0.1", "--host", group=COMMON, type=str, env="LLAMA_ARG_HOST", metavar="HOST",
        help="addresses to listen on, separated by commas: IP addresses, host names, and paths of unix sockets, which end in .sock; 0.0.0.0 makes the server reachable from other machines, :: over IPv6 too")
    port: int = option(8080, "--port", group=COMMON, type=int, env="LLAMA_ARG_PORT", metavar="PORT", low=0, high=65535,
        help="port to listen on; 0: any free port")
    api_key: tuple[str, ...] = option((), "--api-key", group=COMMON, type=str, env="LLAMA_API_KEY", metavar="KEY", repeat=True, split=True,
        help="API keys that requests must carry, separated by commas; may be repeated")
    config: str | None = option(None, "--config", group=COMMON, type=str, env="LLAMAFW_CONFIG", metavar="FILE",
        help="TOML file with settings, named like the long flags; environment variables and flags take precedence")

    # --- model
    hf_file: str | None = option(None, "-hff", "--hf-file", group=MODEL, type=str, env="LLAMA_ARG_HF_FILE", metavar="FILE",
        help="name of the file in the Hugging Face repository (default: chosen by quantization)")
    hf_token: str | None = option(None, "-hft", "--hf-token", group=MODEL, type=str, env="HF_TOKEN", metavar="TOKEN",
        help="Hugging Face access token, for private and gated repositories (default: the token stored by `hf auth login`)")
    model_url: str | None = option(None, "-mu", "--model-url", group=MODEL, type=str, env="LLAMA_ARG_MODEL_URL", metavar="URL",
        help="download the model from this URL; if the URL ends with a checksum, #sha256=..., the file is verified")
    offline: bool = option(False, "--offline", group=MODEL, type=bool, env="LLAMA_ARG_OFFLINE",
        help="use models from the cache only, without network access")
    backend: str | None = option(None, "--backend", group=MODEL, type=str, env="LLAMAFW_BACKEND", metavar="NAME",
        help="backend that runs the model (default: onnx if a GPU can be used, otherwise numba)")
    override_kv: tuple[str, ...] = option((), "--override-kv", group=MODEL, type=str, metavar="KEY=TYPE:VALUE", repeat=True, split=True, item="[^,=:]+=(?:int|float|bool|str):",
        help="override metadata keys of the model, separated by commas; TYPE is int, float, bool or str; may be repeated")
    requantize: str | None = option(None, "--requantize", group=MODEL, type=str, env="LLAMA_ARG_REQUANTIZE", metavar="TYPE",
        help="round the matrices of the model to this tensor type while loading, such as q4_k or q8_0, for less memory and more speed (docs/models.md); the file stays as it is (default: no type is rounded to another)")
    lora: tuple[str, ...] = option((), "--lora", group=MODEL, type=str, metavar="FILES", repeat=True, split=True,
        help="LoRA adapters, separated by commas: GGUF files or folders of PEFT (docs/adapters.md); may be repeated")
    lora_folder: str | None = option(None, "--lora-folder", group=MODEL, type=str, env="LLAMAFW_LORA_FOLDER", metavar="FOLDER",
        help="folder of the adapters that POST /lora-adapters/load may load, which also needs --props (default: no adapters can be loaded)")
    lora_scaled: tuple[str, ...] = option((), "--lora-scaled", group=MODEL, type=str, metavar="FILE:SCALE", repeat=True, split=True, joint=":",
        help="like --lora, each with the scale that requests get unless they choose one; their ids follow those of --lora")
    lora_init_without_apply: bool = option(False, "--lora-init-without-apply", group=MODEL, type=bool,
        help="load the adapters with scale 0: only requests that choose a scale use them, until POST /lora-adapters sets other scales")
    control_vector: tuple[str, ...] = option((), "--control-vector", group=MODEL, type=str, metavar="FILES", repeat=True, split=True,
        help="control vectors, separated by commas: GGUF files, such as those of `llamafw cvector`; may be repeated")
    control_vector_scaled: tuple[str, ...] = option((), "--control-vector-scaled", group=MODEL, type=str, metavar="FILE:SCALE", repeat=True, split=True, joint=":",
        help="like --control-vector, each multiplied by a scale")
    control_vector_layer_range: tuple[int, int] | None = option(None, "--control-vector-layer-range", group=MODEL, type=str, metavar="FIRST-LAST", joint="-", parse=parse_layers,
        help="layers after which control vectors are added (default: all that they have directions for)")
    check_tensors: bool = option(False, "--check-tensors", group=MODEL, type=bool,
        help="check all weights while loading, and refuse a model with NaN or infinite values")
    warmup: bool = option(True, "--warmup", group=MODEL, type=bool, env="LLAMA_ARG_WARMUP", off_flags=("--no-warmup",), off_env="LLAMA_ARG_NO_WARMUP",
        help="run one token through the model at start-up, so that the first request is not slower")
    mmap: bool = option(True, "--mmap", group=MODEL, type=bool, env="LLAMA_ARG_MMAP", off_flags=("--no-mmap",), off_env="LLAMA_ARG_NO_MMAP",
        help="map the model file into memory; --no-mmap reads it instead, which is slower but allows the file to be overwritten later")
    load_mode: str | None = option(None, "-lm", "--load-mode", group=MODEL, type=str, env="LLAMA_ARG_LOAD_MODE", metavar="MODE", choices=("auto", "none", "mmap", "mlock", "mmap+mlock"),
        help="how the model file is loaded, in place of --mmap and --mlock; auto: with --mmap, none: without")
    mlock: bool = option(False, "--mlock", group=MODEL, type=bool, env="LLAMA_ARG_MLOCK",
        help="lock the weights in memory, so that they are never swapped out")
    rope_scaling: str | None = option(None, "--rope-scaling", group=MODEL, type=str, env="LLAMA_ARG_ROPE_SCALING_TYPE", metavar="TYPE", choices=("none", "linear", "yarn"),
        help="RoPE scaling method for contexts longer than the trained one (default: from the model)")
    rope_scale: float | None = option(None, "--rope-scale", group=MODEL, type=float, env="LLAMA_ARG_ROPE_SCALE", metavar="N", low=0, high=2**20,
        help="RoPE context scaling factor: expands the context by a factor of N; 0: from the model (default: 0)")
    rope_freq_scale: float | None = option(None, "--rope-freq-scale", group=MODEL, type=float, env="LLAMA_ARG_ROPE_FREQ_SCALE", metavar="X", low=0, high=2**20,
        help="RoPE frequency scaling factor: expands the context by a factor of 1/X; 0: from the model (default: 0)")
    rope_freq_base: float | None = option(None, "--rope-freq-base", group=MODEL, type=float, env="LLAMA_ARG_ROPE_FREQ_BASE", metavar="X", low=0, high=2**60,
        help="RoPE base frequency; 0: from the model (default: 0)")
    yarn_orig_ctx: int | None = option(None, "--yarn-orig-ctx", group=MODEL, type=int, env="LLAMA_ARG_YARN_ORIG_CTX", metavar="N", low=0, high=2**31 - 1,
        help="YaRN: original context size of the model; 0: from the model (default: 0)")
    yarn_ext_factor: float | None = option(None, "--yarn-ext-factor", group=MODEL, type=float, env="LLAMA_ARG_YARN_EXT_FACTOR", metavar="X", low=-1, high=1,
        help="YaRN: extrapolation mix factor; 0: full interpolation, -1: from the model (default: -1)")
    yarn_attn_factor: float | None = option(None, "--yarn-attn-factor", group=MODEL, type=float, env="LLAMA_ARG_YARN_ATTN_FACTOR", metavar="X", low=-1, high=1e6, parse=parse_yarn_factor,
        help="YaRN: factor on the attention temperature; -1: from the model (default: from the model, else 1)")
    yarn_beta_slow: float | None = option(None, "--yarn-beta-slow", group=MODEL, type=float, env="LLAMA_ARG_YARN_BETA_SLOW", metavar="X", low=-1, high=1e6, parse=parse_yarn_factor,
        help="YaRN: dimensions with fewer rotations than X in the original context are interpolated; -1: from the model (default: from the model, else 1)")
    yarn_beta_fast: float | None = option(None, "--yarn-beta-fast", group=MODEL, type=float, env="LLAMA_ARG_YARN_BETA_FAST", metavar="X", low=-1, high=1e6, parse=parse_yarn_factor,
        help="YaRN: dimensions with more rotations than X in the original context are left as trained; -1: from the model (default: from the model, else 32)")

    # --- CPU
    threads_batch: int = option(-1, "-tb", "--threads-batch", group=CPU, type=int, metavar="N", low=-1, high=1024,
        help="number of CPU threads for prompt processing (default: same as --threads)")
    cpu_mask: frozenset[int] | None = option(None, "-C", "--cpu-mask", group=CPU, type=str, metavar="HEX", parse=parse_cpu_mask,
        help="CPU affinity of the threads, as a hexadecimal mask (default: all processors)")
    cpu_range: frozenset[int] | None = option(None, "-Cr", "--cpu-range", group=CPU, type=str, metavar="LO-HI", parse=parse_cpu_range,
        help="CPU affinity of the threads, as a range of processors; adds to --cpu-mask")
    cpu_strict: int = option(0, "--cpu-strict", group=CPU, type=int, metavar="0|1", low=0, high=1,
        help="1: pin each thread to one processor")
    prio: int = option(0, "--prio", group=CPU, type=int, metavar="N", low=-1, high=3,
        help="priority of the threads; -1: low, 0: normal, 1: medium, 2: high, 3: realtime")
    poll: int = option(50, "--poll", group=CPU, type=int, metavar="N", low=0, high=100,
        help="how long idle threads poll for work before they sleep, from 0 (no polling) to 100")
    cpu_mask_batch: frozenset[int] | None = option(None, "-Cb", "--cpu-mask-batch", group=CPU, type=str, metavar="HEX", parse=parse_cpu_mask,
        help="like --cpu-mask, for prompt processing (default: same as for generation)")
    cpu_range_batch: frozenset[int] | None = option(None, "-Crb", "--cpu-range-batch", group=CPU, type=str, metavar="LO-HI", parse=parse_cpu_range,
        help="like --cpu-range, for prompt processing (default: same as for generation)")
    cpu_strict_batch: int | None = option(None, "--cpu-strict-batch", group=CPU, type=int, metavar="0|1", low=0, high=1,
        help="like --cpu-strict, for prompt processing (default: same as for generation)")
    prio_batch: int | None = option(None, "--prio-batch", group=CPU, type=int, metavar="N", low=-1, high=3,
        help="like --prio, for prompt processing (default: same as for generation)")
    poll_batch: int | None = option(None, "--poll-batch", group=CPU, type=int, metavar="N", low=0, high=100,
        help="like --poll, for prompt processing (default: same as for generation)")
    numa: str | None = option(None, "--numa", group=CPU, type=str, env="LLAMA_ARG_NUMA", metavar="TYPE", choices=("distribute", "isolate", "numactl"),
        help="distribute: spread the threads over all NUMA nodes; isolate: keep them on the node that the server starts on; numactl: use the processors that numactl allows (default: the operating system decides)")

    # --- GPU
    gpu_layers: int | None = option(None, "-ngl", "--gpu-layers", "--n-gpu-layers", group=GPU, type=str, env="LLAMA_ARG_N_GPU_LAYERS", metavar="N|auto|all", parse=parse_gpu_layers,
        help="number of layers to store on the GPU, for backends that use one; -1 or all: all of them (default: auto, the backend decides)")
    split_mode: str = option("layer", "-sm", "--split-mode", group=GPU, type=str, env="LLAMA_ARG_SPLIT_MODE", metavar="MODE", choices=("layer", "none", "row", "tensor"),
        help="how to split the model across several GPUs")
    tensor_split: tuple[float, ...] = option((), "-ts", "--tensor-split", group=GPU, type=str, env="LLAMA_ARG_TENSOR_SPLIT", metavar="N0,N1,…", parse=parse_proportions,
        help="fraction of the model for each GPU, as a list of proportions such as 3,1 (default: the backend decides)")
    main_gpu: int = option(0, "-mg", "--main-gpu", group=GPU, type=int, env="LLAMA_ARG_MAIN_GPU", metavar="N", low=0, high=255,
        help="GPU to use for the model with -sm none, or for intermediate results with -sm row")
    kv_offload: bool = option(True, "-kvo", "--kv-offload", group=GPU, type=bool, env="LLAMA_ARG_KV_OFFLOAD", off_flags=("-nkvo", "--no-kv-offload"), off_env="LLAMA_ARG_NO_KV_OFFLOAD",
        help="store the KV cache on the GPU, for backends that use one")

    # --- context and batching
    batch_size: int = option(2048, "-b", "--batch-size", group=CONTEXT, type=int, env="LLAMA_ARG_BATCH", metavar="N", low=1, high=2**20,
        help="logical maximum batch size: tokens in one step of the engine")
    ubatch_size: int = option(512, "-ub", "--ubatch-size", group=CONTEXT, type=int, env="LLAMA_ARG_UBATCH", metavar="N", low=1, high=2**20,
        help="physical maximum batch size: tokens that the backend computes at once")
    cont_batching: bool = option(True, "-cb", "--cont-batching", group=CONTEXT, type=bool, env="LLAMA_ARG_CONT_BATCHING",
        off_flags=("-nocb", "--no-cont-batching"), off_env="LLAMA_ARG_NO_CONT_BATCHING",
        help="continuous batching: new prompts join running generations; with -nocb they wait until no slot is generating")
    flash_attn: bool | None = option(None, "-fa", "--flash-attn", group=CONTEXT, type=str, env="LLAMA_ARG_FLASH_ATTN", metavar="on|off|auto", parse=parse_on_off_auto, bare_value="on",
        help="flash attention; without a value: on (default: auto, the backend decides)")
    cache_type_k: str = option("f16", "-ctk", "--cache-type-k", group=CONTEXT, type=str, env="LLAMA_ARG_CACHE_TYPE_K", metavar="TYPE", choices=get_args(CacheType),
        help="data type of the KV cache for K")
    cache_type_v: str = option("f16", "-ctv", "--cache-type-v", group=CONTEXT, type=str, env="LLAMA_ARG_CACHE_TYPE_V", metavar="TYPE", choices=get_args(CacheType),
        help="data type of the KV cache for V")
    swa_full: bool = option(False, "--swa-full", group=CONTEXT, type=bool, env="LLAMA_ARG_SWA_FULL",
        help="keep all positions in layers with a sliding window, too: more memory, but no snapshots are needed to reuse earlier parts of a prompt")
    ctx_checkpoints: int = option(8, "-ctxcp", "--ctx-checkpoints", "--swa-checkpoints", group=CONTEXT, type=int, env="LLAMA_ARG_CTX_CHECKPOINTS", metavar="N", low=1, high=2**16,
        help="maximum number of snapshots of each slot's state, for models with a recurrent state or sliding windows; fewer if all slots together would need more than an eighth of the memory")
    grp_attn_n: int = option(1, "-gan", "--grp-attn-n", group=CONTEXT, type=int, env="LLAMA_ARG_GRP_ATTN_N", metavar="N", low=1, high=2**20,
        help="self-extend: tokens that share a position once their window is full, so that a model reads texts up to N times as long as those of its training; 1: off")
    grp_attn_w: int = option(512, "-gaw", "--grp-attn-w", group=CONTEXT, type=int, env="LLAMA_ARG_GRP_ATTN_W", metavar="N", low=1, high=2**31 - 1,
        help="self-extend: tokens in a window, a multiple of --grp-attn-n")
    context_shift: bool = option(True, "--context-shift", group=CONTEXT, type=bool, env="LLAMA_ARG_CONTEXT_SHIFT",
        off_flags=("--no-context-shift",), off_env="LLAMA_ARG_NO_CONTEXT_SHIFT",
        help="when the context of a slot is full, discard tokens after the first n_keep and continue")
    keep: int | None = option(None, "--keep", group=CONTEXT, type=int, metavar="N", low=-1, high=2**31 - 1, request_field="n_keep",
        help="number of prompt tokens to keep when the context is shifted; -1: all (default: 0)")
    slot_prompt_similarity: float = option(0.1, "-sps", "--slot-prompt-similarity", group=CONTEXT, type=float, metavar="X", low=0, high=1,
        help="fraction of a slot's cached tokens that a prompt must share to be assigned to that slot; 0: assign by last use only")
    fit: bool = option(False, "-fit", "--fit", group=CONTEXT, type=str, env="LLAMA_ARG_FIT", metavar="on|off", parse=parse_on_off, bare_value="on",
        help="on: lower the context of the slots, then their number, until the model fits into the memory that is free, unless -c or -np set them; without a value: on (default: off)")
    fit_target: int = option(1024, "-fitt", "--fit-target", group=CONTEXT, type=int, env="LLAMA_ARG_FIT_TARGET", metavar="MIB", low=0, high=2**30,
        help="memory in MiB that --fit leaves free")
    fit_ctx: int = option(4096, "-fitc", "--fit-ctx", group=CONTEXT, type=int, env="LLAMA_ARG_FIT_CTX", metavar="N", low=1, high=2**31 - 1,
        help="smallest context of a slot that --fit chooses, in tokens")
    cache_reuse: int = option(0, "--cache-reuse", group=CONTEXT, type=int, env="LLAMA_ARG_CACHE_REUSE", metavar="N", low=0, high=2**31 - 1, request_field="n_cache_reuse",
        help="minimum length in tokens of parts of a cached prompt that are moved to other positions and reused, after something before them was removed; the answer may differ from that of a fresh evaluation; 0: none")
    cache_ram: int = option(8192, "-cram", "--cache-ram", group=CONTEXT, type=int, env="LLAMA_ARG_CACHE_RAM", metavar="MIB", low=-1, high=2**30,
        help="maximum size of the prompt cache in MiB, and at most a quarter of the memory; the cache keeps prompts after their slot has been reused; 0: no prompt cache, -1: no limit")
    cache_disk: str | None = option(None, "--cache-disk", group=CONTEXT, type=str, env="LLAMAFW_CACHE_DISK", metavar="FOLDER",
        help="folder for prompts that leave the prompt cache, and for all of them when the server stops; a server with the same model finds them again; several servers can share it (default: none)")
    cache_disk_mib: int = option(8192, "--cache-disk-mib", group=CONTEXT, type=int, env="LLAMAFW_CACHE_DISK_MIB", metavar="MIB", low=1, high=2**40,
        help="maximum size of all files in --cache-disk in MiB; the least recently used are deleted")
    prompt: str | None = option(None, "-p", "--prompt", group=CONTEXT, type=str, metavar="TEXT",
        help="text to evaluate into the cache at start-up, for requests whose prompts begin with it")
    file: str | None = option(None, "-f", "--file", group=CONTEXT, type=str, metavar="FILE",
        help="like --prompt, from a file; a line break at its end is removed")
    binary_file: str | None = option(None, "-bf", "--binary-file", group=CONTEXT, type=str, metavar="FILE",
        help="like --prompt, from a file; a line break at its end is kept")
    escape: bool = option(True, "-e", "--escape", group=CONTEXT, type=bool, off_flags=("--no-escape",),
        help=r"process escape sequences in --prompt: \n, \r, \t, \', \", \\ and \xHH")
    system_prompt_file: str | None = option(None, "-spf", "--system-prompt-file", group=CONTEXT, type=str, metavar="FILE",
        help="file with a text that is put before every prompt")

    # --- server
    api_key_file: str | None = option(None, "--api-key-file", group=SERVER, type=str, env="LLAMA_ARG_API_KEY_FILE", metavar="FILE",
        help="file with API keys, one per line, in addition to --api-key; lines that begin with # are comments, and priority=N after a key is the default and the smallest priority of its requests")
    api_prefix: str = option("", "--api-prefix", group=SERVER, type=str, env="LLAMA_ARG_API_PREFIX", metavar="PATH", parse=parse_path_prefix,
        help="path below which everything is served, such as /llm (default: none)")
    reuse_port: bool = option(False, "--reuse-port", group=SERVER, type=bool, env="LLAMA_ARG_REUSE_PORT",
        help="allow several servers to listen on the same port; the system distributes connections among them")
    ssl_key_file: str | None = option(None, "--ssl-key-file", group=SERVER, type=str, env="LLAMA_ARG_SSL_KEY_FILE", metavar="FILE",
        help="PEM file with the private key for HTTPS; needs --ssl-cert-file")
    ssl_cert_file: str | None = option(None, "--ssl-cert-file", group=SERVER, type=str, env="LLAMA_ARG_SSL_CERT_FILE", metavar="FILE",
        help="PEM file with the certificate chain for HTTPS; needs --ssl-key-file")
    path: str | None = option(None, "--path", group=SERVER, type=str, env="LLAMA_ARG_STATIC_PATH", metavar="FOLDER",
        help="serve static files from this folder, without an API key; they take precedence over the API and the built-in pages")
    webui: bool = option(True, "--ui", "--webui", group=SERVER, type=bool, env="LLAMA_ARG_UI", other_env=("LLAMA_ARG_WEBUI",),
        off_flags=("--no-ui", "--no-webui"), off_env="LLAMA_ARG_NO_WEBUI",
        help="serve the chat page at / and /completion.js")
    cors_origins: tuple[str, ...] = option((), "--cors-origins", group=SERVER, type=str, env="LLAMA_ARG_CORS_ORIGINS", metavar="ORIGINS", repeat=True, split=True,
        help="allowed CORS origins, separated by commas; *: all, localhost: loopback addresses with any port; may be repeated (default: loopback addresses, any port)")
    max_queue: int = option(1024, "--max-queue", group=SERVER, type=int, env="LLAMAFW_MAX_QUEUE", metavar="N", low=0, high=2**20,
        help="maximum number of requests that wait for a slot; more are refused with status 429")
    prompt_slowdown: float | None = option(2.0, "--prompt-slowdown", group=SERVER, type=float, env="LLAMAFW_PROMPT_SLOWDOWN", metavar="X", low=0, high=2**31, parse=parse_slowdown,
        help="while prompts are evaluated, a token of a running response takes at most X times as long; X is more than 1, or 0 for no limit")
    prompt_gap: float = option(20.0, "--prompt-gap", group=SERVER, type=float, env="LLAMAFW_PROMPT_GAP", metavar="MS", low=0, high=2**31,
        help="milliseconds that a token of a running response may always take while prompts are evaluated, also if --prompt-slowdown allows less")
    max_queue_priority: tuple[tuple[int, int], ...] = option((), "--max-queue-priority", group=SERVER, type=str, env="LLAMAFW_MAX_QUEUE_PRIORITY", metavar="P=N", repeat=True, split=True, parse=parse_queue_limit,
        help="maximum number of waiting requests with the priority P or a greater number, such as 1=100; several are separated by commas")
    priority_aging: float = option(10.0, "--priority-aging", group=SERVER, type=float, env="LLAMAFW_PRIORITY_AGING", metavar="S", low=0.001, high=2**31,
        help="seconds after which waiting requests of a priority, if none of them has got a slot, count as if the priority were smaller by 1")
    timeout: float = option(600.0, "-to", "--timeout", group=SERVER, type=float, env="LLAMA_ARG_TIMEOUT", metavar="S", low=0.001, high=2**31,
        help="timeout in seconds for each of these: a request waits for a slot, a client sends a body, a client reads a response")
    sse_ping_interval: int = option(30, "--sse-ping-interval", group=SERVER, type=int, env="LLAMA_ARG_SSE_PING_INTERVAL", metavar="S", low=-1, high=2**31 - 1,
        help="seconds without an event after which a stream gets a comment, so that proxies do not close it; 0 or -1: never")
    threads_http: int = option(-1, "--threads-http", group=SERVER, type=int, env="LLAMA_ARG_THREADS_HTTP", metavar="N", low=-1, high=1024,
        help="number of threads for work that would block other requests, such as tokenising long prompts (default: number of cores plus 4, at most 32)")
    max_body_mb: int = option(64, "--max-body-mb", group=SERVER, type=int, env="LLAMAFW_MAX_BODY_MB", metavar="N", low=1, high=4096,
        help="maximum size of a request body in MiB")
    timeout_graceful_shutdown: float = option(10.0, "--timeout-graceful-shutdown", group=SERVER, type=float, metavar="S", low=0, high=3600,
        help="seconds that running requests have to finish after SIGTERM")
    sleep_idle_seconds: int = option(-1, "--sleep-idle-seconds", group=SERVER, type=int, env="LLAMAFW_SLEEP_IDLE_SECONDS", metavar="S", low=-1, high=2**31 - 1,
        help="seconds without requests after which the model and its draft model leave the memory; the next request loads them again; -1: never")
    strict_fields: bool = option(False, "--strict-fields", group=SERVER, type=bool, env="LLAMAFW_STRICT_FIELDS",
        help="refuse requests with unknown fields, instead of listing these in the header X-Llamafw-Ignored-Fields")
    validate_responses: bool = option(False, "--validate-responses", group=SERVER, type=bool, env="LLAMAFW_VALIDATE_RESPONSES",
        help="validate all responses and stream events against the API document (for tests)")
    slots: bool | None = option(None, "--slots", group=SERVER, type=bool, env="LLAMA_ARG_ENDPOINT_SLOTS", off_flags=("--no-slots",), off_env="LLAMA_ARG_NO_ENDPOINT_SLOTS",
        help="show the prompts of all clients in GET /slots; --no-slots disables it (default: without prompts)")
    slot_save_path: str | None = option(None, "--slot-save-path", group=SERVER, type=str, env="LLAMA_ARG_SLOT_SAVE_PATH", metavar="FOLDER",
        help="enable POST /slots/{id_slot}, which saves and restores slot caches in this folder; it is created if it does not exist")
    props: bool = option(False, "--props", group=SERVER, type=bool, env="LLAMA_ARG_ENDPOINT_PROPS",
        help="enable POST /props, which changes the system prompt")
    metrics: bool = option(False, "--metrics", group=SERVER, type=bool, env="LLAMA_ARG_ENDPOINT_METRICS",
        help="enable GET /metrics, for Prometheus")
    embd_normalize: int | None = option(None, "--embd-normalize", group=SERVER, type=int, metavar="P", low=-1, high=100,
        help="norm of embeddings for requests that do not choose one: -1: none, 0: the largest absolute value becomes 32760, 1: taxicab, 2: Euclidean, more: p-norm (default: 2)")
    embedding: bool = option(False, "--embedding", "--embeddings", group=SERVER, type=bool, env="LLAMA_ARG_EMBEDDINGS",
        help="serve embeddings only; without this flag, embeddings and completions are served")
    reranking: bool = option(False, "--reranking", "--rerank", group=SERVER, type=bool, env="LLAMA_ARG_RERANKING",
        help="enable POST /rerank, for models with a rank head; also enabled by --embedding --pooling rank")
    pooling: str | None = option(None, "--pooling", group=SERVER, type=str, env="LLAMA_ARG_POOLING", metavar="TYPE", choices=("none", "mean", "cls", "last", "rank"),
        help="pooling type of embeddings (default: from the model, else last)")

    embedding_model: str | None = option(None, "--embedding-model", group=SERVER, type=str, env="LLAMAFW_EMBEDDING_MODEL", metavar="FILE",
        help="second model, for embeddings: a file or a name from the catalogue; the other requests go to the first model (default: one model for all)")
    reranking_model: str | None = option(None, "--reranking-model", group=SERVER, type=str, env="LLAMAFW_RERANKING_MODEL", metavar="FILE",
        help="another model, for reranking: a file or a name from the catalogue; implies --reranking (default: the model of --embedding-model if it has a rank head, else the first model)")
    embedding_ctx_size: int = option(0, "--embedding-ctx-size", group=SERVER, type=int, env="LLAMAFW_EMBEDDING_CTX_SIZE", metavar="N", low=0, high=2**31 - 1,
        help="like --ctx-size, for --embedding-model and --reranking-model (default: 0, the context that each was trained with)")
    embd_prefix: str | None = option(None, "--embd-prefix", group=SERVER, type=str, env="LLAMAFW_EMBD_PREFIX", metavar="TEXT",
        help="text to put before each text to embed, unless the request says that it is a query, such as 'passage: ' (default: none; for documents that the request names so, the one in the model)")
    embd_prefix_query: str | None = option(None, "--embd-prefix-query", group=SERVER, type=str, env="LLAMAFW_EMBD_PREFIX_QUERY", metavar="TEXT",
        help="text to put before each text to embed that the request says is a query, such as 'query: ' (default: the one in the model, if it has one)")
    embd_dimensions: tuple[int, ...] = option((), "--embd-dimensions", group=SERVER, type=int, env="LLAMAFW_EMBD_DIMENSIONS", metavar="N,N,…", repeat=True, split=True, low=1, high=2**20,
        help="numbers of dimensions to which requests may shorten embeddings, for models that were trained so (default: those that the model names)")

    # --- plugins
    plugin: tuple[str, ...] = option((), "--plugin", group=PLUGINS, type=str, env="LLAMAFW_PLUGINS", metavar="NAME|MODULE|FILE.py", repeat=True,
        help="load an additional plugin; may be repeated")
    no_plugin: tuple[str, ...] = option((), "--no-plugin", group=PLUGINS, type=str, env="LLAMAFW_NO_PLUGINS", metavar="NAME", repeat=True,
        help="do not load this plugin; may be repeated")
    plugin_option: tuple[str, ...] = option((), "--plugin-option", group=PLUGINS, type=str, env="LLAMAFW_PLUGIN_OPTIONS", metavar="NAME.KEY=VALUE", repeat=True,
        help="set an option of a plugin; may be repeated")
    plugin_strict: bool = option(False, "--plugin-strict", group=PLUGINS, type=bool, env="LLAMAFW_PLUGIN_STRICT",
        help="exit if any plugin fails to load; without this flag, exit only if --plugin names it or if it may control access to the server")

    # --- logging
    verbose: bool = option(False, "-v", "--verbose", "--log-verbose", group=LOG, type=bool,
        help="log debug messages, and add the field `__verbose` to chat responses")
    verbosity: int = option(3, "-lv", "--verbosity", "--log-verbosity", group=LOG, type=int, env="LLAMA_LOG_VERBOSITY", other_env=("LLAMA_ARG_LOG_VERBOSITY",), metavar="N", low=-(2**31), high=2**31 - 1,
        help="what is logged; 0: nothing, 1: errors, 2: warnings too, 3: info, 4 or more: debug, 10 or more: same as -v (default: 3)")
    log_disable: bool = option(False, "--log-disable", group=LOG, type=bool,
        help="disable the log; an error at start-up is still printed")
    log_file: str | None = option(None, "--log-file", group=LOG, type=str, env="LLAMA_ARG_LOG_FILE", metavar="FILE",
        help="append the log to this file, in addition to stderr")
    log_json: bool = option(False, "--log-json", "--log-jsonl", group=LOG, type=bool, env="LLAMAFW_LOG_JSON", other_env=("LLAMA_ARG_LOG_JSONL",), off_flags=("--no-log-jsonl",),
        help="log JSON lines instead of text")
    log_colors: bool | None = option(None, "--log-colors", group=LOG, type=str, env="LLAMA_LOG_COLORS", other_env=("LLAMA_ARG_LOG_COLORS",), metavar="on|off|auto", parse=parse_on_off_auto, bare_value="on",
        help="colour the log on stderr by log level; without a value: on (default: auto, if stderr is a terminal)")
    log_prefix: bool = option(True, "--log-prefix", group=LOG, type=bool, env="LLAMA_LOG_PREFIX", other_env=("LLAMA_ARG_LOG_PREFIX",), off_flags=("--no-log-prefix",),
        help="prefix log messages with their level and logger")
    log_timestamps: bool = option(True, "--log-timestamps", group=LOG, type=bool, env="LLAMA_LOG_TIMESTAMPS", other_env=("LLAMA_ARG_LOG_TIMESTAMPS",), off_flags=("--no-log-timestamps",),
        help="prefix log messages with the time")
    perf: bool = option(True, "--perf", group=LOG, type=bool, env="LLAMA_ARG_PERF", off_flags=("--no-perf",), off_env="LLAMA_ARG_NO_PERF",
        help="log the timings of every request")
    logdir: str | None = option(None, "-ld", "--logdir", "--log-prompts-dir", group=LOG, type=str, metavar="FOLDER",
        help="write a YAML file for every request into this folder, with its prompt, settings, tokens and timings")
    verbose_prompt: bool = option(False, "--verbose-prompt", group=LOG, type=bool,
        help="log the tokens of every prompt")
    dump_kv_cache: bool = option(False, "-dkvc", "--dump-kv-cache", group=LOG, type=bool,
        help="log the contents of all slots' caches after every step")

    plugin_tables: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))  # [plugin.NAME] tables of --config
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # values of the flags that plugins added, by dest
    # fmt: on

    @property
    def log_level(self) -> int:
        """The lowest level that is logged, as a constant of `logging`."""
        if self.verbose:
            return logging.DEBUG
        return _LOG_LEVELS[min(max(self.verbosity, 0), len(_LOG_LEVELS) - 1)]

    @property
    def verbose_responses(self) -> bool:
        """Whether chat responses have a `__verbose` field."""
        return self.verbose or self.verbosity > 9

    def request_defaults(self) -> dict[str, Any]:
        """Return the defaults of request fields that flags have set, by field."""
        fields = {name: opt.request_field for name, opt in options().items() if opt.request_field}
        defaults = {name: Settings.__dataclass_fields__[name].default for name in fields}
        values = {field: getattr(self, name) for name, field in fields.items() if getattr(self, name) != defaults[name]}
        return values | self.request_texts(escape=self.escape)


@cache  # called for every request
def options() -> Mapping[str, Option]:
    """Return all options by the name of their field in `Settings`, in the order of their groups."""
    found = {f.name: f.metadata["option"] for f in dataclasses.fields(Settings) if "option" in f.metadata}
    return dict(sorted(found.items(), key=lambda item: GROUPS.index(item[1].group)))


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that environment variables set, by field name.

    An empty variable counts as unset.
    """
    values: dict[str, Any] = {}
    for name, opt in options().items():
        if opt.off_env and (text := environ.get(opt.off_env)):
            values[name] = not convert(opt, text, opt.off_env)
        variable = next((name for name in (opt.env, *opt.other_env) if name and environ.get(name)), None)
        if variable is None:
            continue
        text = environ[variable]
        if opt.repeat:
            parts = text.split(",")
            values[name] = tuple(convert(opt, part.strip(), variable) for part in parts if part.strip())
        else:
            values[name] = convert(opt, text, variable)
    if environ.get("AIP_MODE") == "PREDICTION":  # Vertex AI says on which port it expects the server
        values["port"] = convert(options()["port"], environ.get("AIP_HTTP_PORT") or "8080", "AIP_HTTP_PORT")
    return values
