"""Every setting of ``llamafw serve``, once: its flags, environment variable, default, range and help.

The command line, the environment, the configuration file and docs/cli.md are all made from this table. Names and
meanings are llama-server's. This module knows nothing of argparse, and reads no environment by itself.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from llamafw.errors import SettingsError
from llamafw.options import Option, convert, mask, option, shares, span, switch

SAMPLER_LETTERS = {
    "k": "top_k", "f": "tfs_z", "y": "typ_p", "p": "top_p", "m": "min_p", "t": "temperature", "e": "penalties",
}  # fmt: skip
SAMPLER_ALIASES = {
    "top-k": "top_k", "top-p": "top_p", "nucleus": "top_p", "min-p": "min_p", "tfs-z": "tfs_z", "tfs": "tfs_z", "temp": "temperature",
    "typical-p": "typ_p", "typical": "typ_p", "typ-p": "typ_p", "typ": "typ_p",
}  # fmt: skip
"""What llama-server calls samplers besides their names, on the command line."""

SERVER, MODEL, COMPUTE, SAMPLING = "server", "model", "compute", "sampling"
CONFIG, PLUGINS, LOG = "configuration", "plugins", "logging"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one server. Frozen: what was asked for at start holds to the end."""

    # fmt: off
    # --- model
    model: str | None = option(None, "-m", "--model", group=MODEL, type=str, env="LLAMA_ARG_MODEL", metavar="FILE",
        help="GGUF file, or a name that `llamafw pull` knows (default: smollm2-135m, fetched once)")
    hf_repo: str | None = option(None, "-hf", "-hfr", "--hf-repo", group=MODEL, type=str, env="LLAMA_ARG_HF_REPO", metavar="USER/REPO[:QUANT]",
        help="fetch the model from this repository on Hugging Face; without --hf-file, -m names the file in it (default: QUANT, else Q4_K_M or what is near)")
    hf_file: str | None = option(None, "-hff", "--hf-file", group=MODEL, type=str, env="LLAMA_ARG_HF_FILE", metavar="FILE",
        help="the model's file in the repository; then -m says where to keep it (default: the hub's cache)")
    hf_token: str | None = option(None, "-hft", "--hf-token", group=MODEL, type=str, env="HF_TOKEN", metavar="TOKEN",
        help="token for private and gated repositories (default: the one that `hf auth login` stored)")
    model_url: str | None = option(None, "-mu", "--model-url", group=MODEL, type=str, env="LLAMA_ARG_MODEL_URL", metavar="URL",
        help="fetch the model from this address; -m says where to keep it (default: the cache); #sha256=... at its end is verified")
    offline: bool = option(False, "--offline", group=MODEL, type=bool, env="LLAMA_ARG_OFFLINE",
        help="take models from the cache, without asking the network")
    alias: str | None = option(None, "-a", "--alias", group=MODEL, type=str, env="LLAMA_ARG_ALIAS", metavar="NAME",
        help="the model's name for clients (default: that of its file)")
    override_kv: tuple[str, ...] = option((), "--override-kv", group=MODEL, type=str, metavar="KEY=TYPE:VALUE", repeat=True,
        help="override a metadata key; TYPE is int, float, bool or str")
    check_tensors: bool = option(False, "--check-tensors", group=MODEL, type=bool,
        help="look at every weight before the start: NaN and infinity end it")
    rope_scaling: str | None = option(None, "--rope-scaling", group=MODEL, type=str, env="LLAMA_ARG_ROPE_SCALING_TYPE", metavar="TYPE", choices=("none", "linear", "yarn"),
        help="how RoPE is stretched to longer contexts (default: as the model says)")
    rope_scale: float | None = option(None, "--rope-scale", group=MODEL, type=float, env="LLAMA_ARG_ROPE_SCALE", metavar="N", low=0, high=2**20,
        help="by how much; 0: as the model says (default: 0)")
    rope_freq_scale: float | None = option(None, "--rope-freq-scale", group=MODEL, type=float, env="LLAMA_ARG_ROPE_FREQ_SCALE", metavar="X", low=0, high=2**20,
        help="the same as 1/N; 0: as the model says (default: 0)")
    rope_freq_base: float | None = option(None, "--rope-freq-base", group=MODEL, type=float, env="LLAMA_ARG_ROPE_FREQ_BASE", metavar="X", low=0, high=2**60,
        help="RoPE's base; 0: as the model says (default: 0)")
    yarn_orig_ctx: int | None = option(None, "--yarn-orig-ctx", group=MODEL, type=int, env="LLAMA_ARG_YARN_ORIG_CTX", metavar="N", low=0, high=2**31 - 1,
        help="YaRN: the context that the model was trained on first; 0: as the model says (default: 0)")
    yarn_ext_factor: float | None = option(None, "--yarn-ext-factor", group=MODEL, type=float, env="LLAMA_ARG_YARN_EXT_FACTOR", metavar="X", low=-1, high=1,
        help="YaRN: how much of fast frequencies stays as trained; 0: nothing, all is interpolated, -1: as the model says (default: -1)")
    yarn_attn_factor: float | None = option(None, "--yarn-attn-factor", group=MODEL, type=float, env="LLAMA_ARG_YARN_ATTN_FACTOR", metavar="X", low=1e-6, high=1e6,
        help="YaRN: factor on its own temperature (default: as the model says, else 1)")
    yarn_beta_slow: float | None = option(None, "--yarn-beta-slow", group=MODEL, type=float, env="LLAMA_ARG_YARN_BETA_SLOW", metavar="X", low=1e-6, high=1e6,
        help="YaRN: what turns less often in the original context is interpolated (default: as the model says, else 1)")
    yarn_beta_fast: float | None = option(None, "--yarn-beta-fast", group=MODEL, type=float, env="LLAMA_ARG_YARN_BETA_FAST", metavar="X", low=1e-6, high=1e6,
        help="YaRN: what turns more often stays as trained (default: as the model says, else 32)")
    chat_template: str | None = option(None, "--chat-template", "--chat-template-file", group=MODEL, type=str, env="LLAMA_ARG_CHAT_TEMPLATE", metavar="NAME|TEXT|FILE",
        help="chat format: a registered name, a Jinja template, or a file with one (default: the model's own)")
    jinja: bool = option(True, "--jinja", group=MODEL, type=bool, env="LLAMA_ARG_JINJA", off=("--no-jinja",),
        help="render chat templates as Jinja, which they are; --no-jinja is refused")
    tool_parser: str | None = option(None, "--tool-parser", group=MODEL, type=str, env="LLAMAFW_TOOL_PARSER", metavar="NAME",
        help="how the model writes calls of tools (default: as its chat template does)")

    # --- compute
    backend: str | None = option(None, "--backend", group=COMPUTE, type=str, env="LLAMAFW_BACKEND", metavar="NAME",
        help="what runs the model (default: numba)")
    threads: int = option(-1, "-t", "--threads", group=COMPUTE, type=int, env="LLAMA_ARG_THREADS", metavar="N", low=-1, high=1024,
        help="CPU threads for decoding (default: one per physical core)")
    threads_batch: int = option(-1, "-tb", "--threads-batch", group=COMPUTE, type=int, metavar="N", low=-1, high=1024,
        help="CPU threads for prompts (default: as --threads)")
    cpu_mask: frozenset[int] | None = option(None, "-C", "--cpu-mask", group=COMPUTE, type=str, metavar="HEX", parse=mask,
        help="processors for the threads, as a hexadecimal mask (default: any)")
    cpu_range: frozenset[int] | None = option(None, "-Cr", "--cpu-range", group=COMPUTE, type=str, metavar="LO-HI", parse=span,
        help="the same as a range; with --cpu-mask, what either names")
    cpu_strict: int = option(0, "--cpu-strict", group=COMPUTE, type=int, metavar="0|1", low=0, high=1,
        help="1: give each thread one of the processors for itself")
    prio: int = option(0, "--prio", group=COMPUTE, type=int, metavar="N", low=-1, high=3,
        help="priority of the threads; -1: low, 0: normal, 1: medium, 2: high, 3: realtime")
    poll: int = option(50, "--poll", group=COMPUTE, type=int, metavar="N", low=0, high=100,
        help="how long threads look out for work before they sleep; 0: not at all")
    cpu_mask_batch: frozenset[int] | None = option(None, "-Cb", "--cpu-mask-batch", group=COMPUTE, type=str, metavar="HEX", parse=mask,
        help="--cpu-mask for prompts (default: the same)")
    cpu_range_batch: frozenset[int] | None = option(None, "-Crb", "--cpu-range-batch", group=COMPUTE, type=str, metavar="LO-HI", parse=span,
        help="--cpu-range for prompts (default: the same)")
    cpu_strict_batch: int | None = option(None, "--cpu-strict-batch", group=COMPUTE, type=int, metavar="0|1", low=0, high=1,
        help="--cpu-strict for prompts (default: the same)")
    prio_batch: int | None = option(None, "--prio-batch", group=COMPUTE, type=int, metavar="N", low=-1, high=3,
        help="--prio for prompts (default: the same)")
    poll_batch: int | None = option(None, "--poll-batch", group=COMPUTE, type=int, metavar="N", low=0, high=100,
        help="--poll for prompts (default: the same)")
    numa: str | None = option(None, "--numa", group=COMPUTE, type=str, env="LLAMA_ARG_NUMA", metavar="TYPE", choices=("distribute", "isolate", "numactl"),
        help="spread threads over NUMA nodes, keep them on the one we start on, or where numactl allows (default: as the system does)")
    mlock: bool = option(False, "--mlock", group=COMPUTE, type=bool, env="LLAMA_ARG_MLOCK",
        help="lock the weights in memory, that they are never swapped out")
    warmup: bool = option(True, "--warmup", group=MODEL, type=bool, env="LLAMA_ARG_WARMUP", off=("--no-warmup",), off_env="LLAMA_ARG_NO_WARMUP",
        help="run a token through the model at the start, that the first request finds it awake")
    mmap: bool = option(True, "--mmap", group=MODEL, type=bool, env="LLAMA_ARG_MMAP", off=("--no-mmap",), off_env="LLAMA_ARG_NO_MMAP",
        help="map the model's file into memory; with --no-mmap it is read, which takes longer, and may be overwritten after")
    flash_attn: bool | None = option(None, "-fa", "--flash-attn", group=COMPUTE, type=str, env="LLAMA_ARG_FLASH_ATTN", metavar="on|off|auto", parse=switch, bare="on",
        help="attention that never holds all scores at once (default: auto, as the backend finds best)")
    gpu_layers: int | None = option(None, "-ngl", "--gpu-layers", "--n-gpu-layers", group=COMPUTE, type=int, env="LLAMA_ARG_N_GPU_LAYERS", metavar="N", low=-1, high=2**31 - 1,
        help="layers on GPUs, for backends that use any; -1: all (default: as the backend finds best)")
    split_mode: str = option("layer", "-sm", "--split-mode", group=COMPUTE, type=str, env="LLAMA_ARG_SPLIT_MODE", metavar="MODE", choices=("layer", "none", "row"),
        help="how several GPUs share the model")
    tensor_split: tuple[float, ...] = option((), "-ts", "--tensor-split", group=COMPUTE, type=str, env="LLAMA_ARG_TENSOR_SPLIT", metavar="N0,N1,…", parse=shares,
        help="the share of each GPU (default: as the backend finds best)")
    main_gpu: int = option(0, "-mg", "--main-gpu", group=COMPUTE, type=int, env="LLAMA_ARG_MAIN_GPU", metavar="N", low=0, high=255,
        help="the GPU that has all with -sm none, and intermediate results with -sm row")
    kv_offload: bool = option(True, "-kvo", "--kv-offload", group=COMPUTE, type=bool, env="LLAMA_ARG_KV_OFFLOAD", off=("-nkvo", "--no-kv-offload"), off_env="LLAMA_ARG_NO_KV_OFFLOAD",
        help="keep the KV cache on the GPU, for backends that use one")
    ctx_size: int = option(0, "-c", "--ctx-size", group=COMPUTE, type=int, env="LLAMA_ARG_CTX_SIZE", metavar="N", low=0, high=2**31 - 1,
        help="positions in the KV cache, shared out evenly among the slots (default: 0, as the model was trained)")
    parallel: int | None = option(None, "-np", "--parallel", group=COMPUTE, type=int, env="LLAMA_ARG_N_PARALLEL", metavar="N", low=1, high=1024,
        help="slots: how many requests are answered at a time (default: 4, each with the whole context unless -c says less)")
    batch_size: int = option(2048, "-b", "--batch-size", group=COMPUTE, type=int, env="LLAMA_ARG_BATCH", metavar="N", low=1, high=2**20,
        help="most tokens in one step of the engine")
    ubatch_size: int = option(512, "-ub", "--ubatch-size", group=COMPUTE, type=int, env="LLAMA_ARG_UBATCH", metavar="N", low=1, high=2**20,
        help="most tokens the backend computes at once")
    slot_prompt_similarity: float = option(0.1, "-sps", "--slot-prompt-similarity", group=COMPUTE, type=float, metavar="X", low=0, high=1,
        help="how much of what a slot's cache holds a prompt must share to get that slot; 0: nothing counts but the last use")
    cont_batching: bool = option(True, "-cb", "--cont-batching", group=COMPUTE, type=bool, env="LLAMA_ARG_CONT_BATCHING",
        off=("-nocb", "--no-cont-batching"), off_env="LLAMA_ARG_NO_CONT_BATCHING",
        help="let new prompts join those that generate; with -nocb they wait until nobody does")
    context_shift: bool = option(True, "--context-shift", group=COMPUTE, type=bool, env="LLAMA_ARG_CONTEXT_SHIFT",
        off=("--no-context-shift",), off_env="LLAMA_ARG_NO_CONTEXT_SHIFT",
        help="when a slot's context is full, drop tokens after the first n_keep and go on; prompts that are too long lose their middle")
    cache_ram: int = option(8192, "-cram", "--cache-ram", group=COMPUTE, type=int, env="LLAMA_ARG_CACHE_RAM", metavar="MIB", low=-1, high=2**30,
        help="MiB of evaluated prompts kept in memory for when their slot has served others, a quarter of the memory at most; 0: none, -1: any number")
    prompt: str | None = option(None, "-p", "--prompt", group=COMPUTE, type=str, metavar="TEXT",
        help="evaluate this text into the cache at the start, for prompts that will begin with it")
    file: str | None = option(None, "-f", "--file", group=COMPUTE, type=str, metavar="FILE",
        help="the same from a file, without the line end at its end")
    binary_file: str | None = option(None, "-bf", "--binary-file", group=COMPUTE, type=str, metavar="FILE",
        help="the same from a file, to the last byte")
    escape: bool = option(True, "-e", "--escape", group=COMPUTE, type=bool, off=("--no-escape",),
        help=r"read \n, \r, \t, \', \", \\ and \xHH in --prompt as what they stand for")
    cache_type_k: str = option("f16", "-ctk", "--cache-type-k", group=COMPUTE, type=str, env="LLAMA_ARG_CACHE_TYPE_K", metavar="TYPE", choices=("f16", "f32"),
        help="type of the K cache")
    cache_type_v: str = option("f16", "-ctv", "--cache-type-v", group=COMPUTE, type=str, env="LLAMA_ARG_CACHE_TYPE_V", metavar="TYPE", choices=("f16", "f32"),
        help="type of the V cache")

    # --- sampling: the defaults of request fields
    predict: int | None = option(None, "-n", "--predict", "--n-predict", group=SAMPLING, type=int, env="LLAMA_ARG_N_PREDICT", metavar="N", low=-2, high=2**31 - 1,
        help="most tokens to generate, also for requests that ask for more; -1: no limit, -2: until the context is full (default: -1)")
    keep: int | None = option(None, "--keep", group=SAMPLING, type=int, metavar="N", low=-1, high=2**31 - 1, request_field="n_keep",
        help="tokens of the prompt that stay when the context shifts; -1: all (default: 0)")
    samplers: str | None = option(None, "--samplers", group=SAMPLING, type=str, metavar="NAMES",
        help="samplers in order, separated by ';' (default: penalties;top_k;tfs_z;typ_p;top_p;min_p;temperature)")
    sampling_seq: str | None = option(None, "--sampling-seq", "--sampler-seq", group=SAMPLING, type=str, metavar="LETTERS",
        help="the same in letters: k top_k, f tfs_z, y typ_p, p top_p, m min_p, t temperature, e penalties; the penalties are first unless they are named")
    logit_bias: tuple[str, ...] = option((), "-l", "--logit-bias", group=SAMPLING, type=str, metavar="TOKEN(+/-)BIAS", repeat=True,
        help="add BIAS to the score of a token in every request: 15043+1, 29905-1; may be repeated")
    seed: int | None = option(None, "-s", "--seed", group=SAMPLING, type=int, metavar="N", low=-1, high=2**32 - 1, request_field="seed",
        help="seed of the random draw; -1: a new one for each request (default: -1)")
    ignore_eos: bool = option(False, "--ignore-eos", group=SAMPLING, type=bool, request_field="ignore_eos",
        help="go on after end-of-generation tokens")
    temp: float | None = option(None, "--temp", group=SAMPLING, type=float, metavar="T", low=-1000, high=1000,
        request_field="temperature", help="temperature; 0 or less: always the likeliest token (default: 0.8)")
    top_k: int | None = option(None, "--top-k", group=SAMPLING, type=int, metavar="K", request_field="top_k",
        help="keep the K likeliest tokens; 0: all (default: 40)")
    top_p: float | None = option(None, "--top-p", group=SAMPLING, type=float, metavar="P", low=0, high=1, request_field="top_p",
        help="keep the likeliest tokens that together have probability P; 1: all (default: 0.95)")
    min_p: float | None = option(None, "--min-p", group=SAMPLING, type=float, metavar="P", low=0, high=1, request_field="min_p",
        help="drop tokens less likely than P times the likeliest; 0: none (default: 0.05)")
    tfs: float | None = option(None, "--tfs", group=SAMPLING, type=float, metavar="Z", low=0, high=1, request_field="tfs_z",
        help="tail-free sampling; 1: off (default: 1)")
    mirostat: int | None = option(None, "--mirostat", group=SAMPLING, type=int, metavar="N", low=0, high=2, request_field="mirostat",
        help="Mirostat 1 or 2 instead of the samplers that cut; 0: off (default: 0)")
    mirostat_lr: float | None = option(None, "--mirostat-lr", group=SAMPLING, type=float, metavar="X", low=0, request_field="mirostat_eta",
        help="Mirostat's learning rate, eta (default: 0.1)")
    mirostat_ent: float | None = option(None, "--mirostat-ent", group=SAMPLING, type=float, metavar="X", low=0, request_field="mirostat_tau",
        help="Mirostat's target entropy, tau, in bits (default: 5)")
    typical: float | None = option(None, "--typical", group=SAMPLING, type=float, metavar="P", low=0, high=1, request_field="typical_p",
        help="locally typical sampling; 1: off (default: 1)")
    repeat_last_n: int | None = option(None, "--repeat-last-n", group=SAMPLING, type=int, metavar="N", low=-1, high=2**31 - 1, request_field="repeat_last_n",
        help="tokens looked back on for penalties; 0: none, -1: the whole context (default: 64)")
    repeat_penalty: float | None = option(None, "--repeat-penalty", group=SAMPLING, type=float, metavar="X", request_field="repeat_penalty",
        help="penalty on tokens that occurred; 1: off (default: 1)")
    presence_penalty: float | None = option(None, "--presence-penalty", group=SAMPLING, type=float, metavar="X", request_field="presence_penalty",
        help="penalty once per token that occurred; 0: off (default: 0)")
    frequency_penalty: float | None = option(None, "--frequency-penalty", group=SAMPLING, type=float, metavar="X", request_field="frequency_penalty",
        help="penalty per occurrence of a token; 0: off (default: 0)")
    penalize_nl: bool = option(False, "--penalize-nl", group=SAMPLING, type=bool, request_field="penalize_nl",
        help="penalise the newline token too")
    dynatemp_range: float | None = option(None, "--dynatemp-range", group=SAMPLING, type=float, metavar="X", low=0, request_field="dynatemp_range",
        help="dynamic temperature: from T-X to T+X by entropy; 0: off (default: 0)")
    dynatemp_exp: float | None = option(None, "--dynatemp-exp", group=SAMPLING, type=float, metavar="X", request_field="dynatemp_exponent",
        help="dynamic temperature: exponent of the normalised entropy (default: 1)")
    grammar: str | None = option(None, "--grammar", group=SAMPLING, type=str, metavar="GBNF",
        help="hold answers to this grammar, unless a request has its own (docs/grammars.md)")
    grammar_file: str | None = option(None, "--grammar-file", group=SAMPLING, type=str, metavar="FILE",
        help="the same from a file, appended to --grammar")
    json_schema: str | None = option(None, "-j", "--json-schema", group=SAMPLING, type=str, metavar="SCHEMA",
        help="hold answers to JSON of this schema, unless a request has its own")
    special: bool = option(False, "-sp", "--special", group=SAMPLING, type=bool,
        help="write special tokens as text into answers, the one that ends them too")

    # --- server
    host: str = option("127.0.0.1", "--host", group=SERVER, type=str, env="LLAMA_ARG_HOST", metavar="HOST",
        help="address to listen on")
    port: int = option(8080, "--port", group=SERVER, type=int, env="LLAMA_ARG_PORT", metavar="PORT", low=0, high=65535,
        help="port to listen on; 0: any free one")
    api_key: tuple[str, ...] = option((), "--api-key", group=SERVER, type=str, env="LLAMA_API_KEY", metavar="KEY", repeat=True, split=False,
        help="key that requests must carry; may be repeated, but in the environment")
    api_key_file: str | None = option(None, "--api-key-file", group=SERVER, type=str, metavar="FILE",
        help="more keys, one a line")
    ssl_key_file: str | None = option(None, "--ssl-key-file", group=SERVER, type=str, env="LLAMA_ARG_SSL_KEY_FILE", metavar="FILE",
        help="serve HTTPS with this private key (PEM), and --ssl-cert-file")
    ssl_cert_file: str | None = option(None, "--ssl-cert-file", group=SERVER, type=str, env="LLAMA_ARG_SSL_CERT_FILE", metavar="FILE",
        help="serve HTTPS with this certificate (PEM, with those it is signed by), and --ssl-key-file")
    path: str | None = option(None, "--path", group=SERVER, type=str, env="LLAMA_ARG_STATIC_PATH", metavar="FOLDER",
        help="serve the files in this folder, before the API and the built-in pages; they need no key")
    webui: bool = option(True, "--ui", "--webui", group=SERVER, type=bool, env="LLAMA_ARG_WEBUI",
        off=("--no-ui", "--no-webui"), off_env="LLAMA_ARG_NO_WEBUI",
        help="serve the chat page at / and /completion.js")
    cors_origins: tuple[str, ...] = option((), "--cors-origins", group=SERVER, type=str, env="LLAMA_ARG_CORS_ORIGINS", metavar="ORIGINS", repeat=True,
        help="origins that browsers may call from, or * (default: loopback, any port)")
    max_queue: int = option(1024, "--max-queue", group=SERVER, type=int, env="LLAMAFW_MAX_QUEUE", metavar="N", low=0, high=2**20,
        help="requests that may wait for a slot; further ones are refused with 429")
    timeout: float = option(600.0, "-to", "--timeout", group=SERVER, type=float, env="LLAMA_ARG_TIMEOUT", metavar="S", low=0.001, high=2**31,
        help="seconds that a request may wait for a slot, and the server for a client to send more of a body or to take more of its answer")
    threads_http: int = option(-1, "--threads-http", group=SERVER, type=int, env="LLAMA_ARG_THREADS_HTTP", metavar="N", low=-1, high=1024,
        help="threads for what would hold up other requests, such as long prompts to tokenise (default: the number of cores and 4, 32 at most)")
    max_body_mb: int = option(64, "--max-body-mb", group=SERVER, type=int, env="LLAMAFW_MAX_BODY_MB", metavar="N", low=1, high=4096,
        help="largest request body in MiB")
    timeout_graceful_shutdown: float = option(10.0, "--timeout-graceful-shutdown", group=SERVER, type=float, metavar="S", low=0, high=3600,
        help="seconds that running requests get to finish on SIGTERM")
    strict_fields: bool = option(False, "--strict-fields", group=SERVER, type=bool, env="LLAMAFW_STRICT_FIELDS",
        help="refuse request fields the API document does not know, instead of naming them in X-Llamafw-Ignored-Fields")
    validate_responses: bool = option(False, "--validate-responses", group=SERVER, type=bool, env="LLAMAFW_VALIDATE_RESPONSES",
        help="hold every response and stream event against the API document (for tests)")
    pooling: str | None = option(None, "--pooling", group=SERVER, type=str, env="LLAMA_ARG_POOLING", metavar="TYPE", choices=("none", "mean", "cls", "last", "rank"),
        help="how the tokens of a text become its embedding (default: as the model says, else last)")
    slots: bool = option(False, "--slots", group=SERVER, type=bool, env="LLAMA_ARG_ENDPOINT_SLOTS", off=("--no-slots",), off_env="LLAMA_ARG_NO_ENDPOINT_SLOTS",
        help="serve GET /slots, which shows what others ask")
    slot_save_path: str | None = option(None, "--slot-save-path", group=SERVER, type=str, env="LLAMA_ARG_SLOT_SAVE_PATH", metavar="FOLDER",
        help="serve POST /slots/{id_slot}, which saves caches into this folder and restores them")
    props: bool = option(False, "--props", group=SERVER, type=bool, env="LLAMA_ARG_ENDPOINT_PROPS",
        help="serve POST /props, which changes the system prompt")
    metrics: bool = option(False, "--metrics", group=SERVER, type=bool, env="LLAMA_ARG_ENDPOINT_METRICS",
        help="serve GET /metrics, for Prometheus")
    system_prompt_file: str | None = option(None, "-spf", "--system-prompt-file", group=MODEL, type=str, metavar="FILE",
        help="put the text of this file before every prompt")
    spm_infill: bool = option(False, "--spm-infill", group=SERVER, type=bool,
        help="infill in the order suffix, prefix, middle, as some models want it")
    reranking: bool = option(False, "--reranking", "--rerank", group=SERVER, type=bool, env="LLAMA_ARG_RERANKING",
        help="serve POST /rerank, for models with a rank head (also: --embedding --pooling rank)")
    embedding: bool = option(False, "--embedding", "--embeddings", group=SERVER, type=bool, env="LLAMA_ARG_EMBEDDINGS",
        help="serve embeddings only; without it, embeddings and completions")

    # --- configuration
    config: str | None = option(None, "--config", group=CONFIG, type=str, env="LLAMAFW_CONFIG", metavar="FILE",
        help="TOML file with settings by the long names of their flags; environment and flags win over it")

    # --- plugins
    plugin: tuple[str, ...] = option((), "--plugin", group=PLUGINS, type=str, env="LLAMAFW_PLUGINS", metavar="NAME|MODULE|FILE.py", repeat=True,
        help="load one more plugin; may be repeated")
    no_plugin: tuple[str, ...] = option((), "--no-plugin", group=PLUGINS, type=str, env="LLAMAFW_NO_PLUGINS", metavar="NAME", repeat=True,
        help="leave a plugin out; may be repeated")
    plugin_option: tuple[str, ...] = option((), "--plugin-option", group=PLUGINS, type=str, env="LLAMAFW_PLUGIN_OPTIONS", metavar="NAME.KEY=VALUE", repeat=True,
        help="set an option of a plugin; may be repeated")
    plugin_strict: bool = option(False, "--plugin-strict", group=PLUGINS, type=bool, env="LLAMAFW_PLUGIN_STRICT",
        help="end the start if any plugin fails, not only one that --plugin names or that guards requests")

    # --- logging
    verbose: bool = option(False, "-v", "--verbose", "--log-verbose", group=LOG, type=bool,
        help="log debugging messages, and show in answers to chats what was run, as `__verbose`")
    verbosity: int = option(0, "-lv", "--verbosity", "--log-verbosity", group=LOG, type=int, env="LLAMA_LOG_VERBOSITY", metavar="N", low=-(2**31), high=2**31 - 1,
        help="10 and more: as -v; 1 and more: log debugging messages; 0: what happens; -1 and less: warnings and errors alone")
    log_disable: bool = option(False, "--log-disable", group=LOG, type=bool,
        help="log nothing, but for why the server cannot start")
    log_file: str | None = option(None, "--log-file", group=LOG, type=str, metavar="FILE",
        help="log to the end of this file, too")
    log_json: bool = option(False, "--log-json", group=LOG, type=bool, env="LLAMAFW_LOG_JSON",
        help="log one JSON object a line, instead of text")
    log_colors: bool = option(False, "--log-colors", group=LOG, type=bool, env="LLAMA_LOG_COLORS",
        help="colour the log by severity, on stderr")
    log_prefix: bool = option(True, "--log-prefix", group=LOG, type=bool, env="LLAMA_LOG_PREFIX", off=("--no-log-prefix",),
        help="put severity and origin before messages")
    log_timestamps: bool = option(True, "--log-timestamps", group=LOG, type=bool, env="LLAMA_LOG_TIMESTAMPS", off=("--no-log-timestamps",),
        help="put the time before messages")
    perf: bool = option(True, "--perf", group=LOG, type=bool, off=("--no-perf",), off_env="LLAMA_ARG_NO_PERF",
        help="log how fast every answer was made")
    logdir: str | None = option(None, "-ld", "--logdir", group=LOG, type=str, metavar="FOLDER",
        help="write a YAML file into this folder for every answer: its prompt, settings, tokens and timings")
    verbose_prompt: bool = option(False, "--verbose-prompt", group=LOG, type=bool,
        help="log the tokens of every prompt")
    dump_kv_cache: bool = option(False, "-dkvc", "--dump-kv-cache", group=LOG, type=bool,
        help="log what the slots' caches hold after every step")

    plugin_tables: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))  # options of plugins in --config, by plugin
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # flags of plugins, by dest
    # fmt: on

    def sampler_names(self) -> tuple[str, ...] | None:
        """Return the samplers that ``--samplers`` or ``--sampling-seq`` names; None if neither is given."""
        if self.sampling_seq is not None:
            unknown = next((letter for letter in self.sampling_seq if letter not in SAMPLER_LETTERS), None)
            if unknown is not None:
                raise SettingsError(f"--sampling-seq: {unknown!r} is none of {', '.join(SAMPLER_LETTERS)}")
            names = tuple(SAMPLER_LETTERS[letter] for letter in self.sampling_seq)
            return names if "penalties" in names else ("penalties", *names)
        if self.samplers is None:
            return None
        return tuple(
            SAMPLER_ALIASES.get(name.strip(), name.strip()) for name in self.samplers.split(";") if name.strip()
        )

    def biases(self) -> dict[int, float]:
        """Return what ``--logit-bias`` adds to the score of which token."""
        found: dict[int, float] = {}
        for text in self.logit_bias:
            matched = re.fullmatch(r"(\d{1,9})([+-]\d+(?:\.\d*)?|[+-]inf)", text)
            if matched is None:
                raise SettingsError(f"--logit-bias: {text!r} is no TOKEN+BIAS or TOKEN-BIAS")
            found[int(matched[1])] = found.get(int(matched[1]), 0.0) + float(matched[2])
        return found

    @property
    def log_level(self) -> int:
        """The least severity that is logged, as `logging` has it."""
        if self.verbose or self.verbosity > 0:
            return logging.DEBUG
        return logging.INFO if self.verbosity == 0 else logging.WARNING

    @property
    def tells_more(self) -> bool:
        """Whether answers to chats have `__verbose`."""
        return self.verbose or self.verbosity > 9

    def request_defaults(self) -> dict[str, Any]:
        """Return the request fields whose default a flag has set."""
        fields = {name: opt.request_field for name, opt in options().items() if opt.request_field}
        values = {field: getattr(self, name) for name, field in fields.items()}
        return {field: value for field, value in values.items() if value is not None and value is not False}


@cache  # every request asks which of its defaults flags have set
def options() -> Mapping[str, Option]:
    """Return the options by the name of their field in `Settings`."""
    return {f.name: f.metadata["option"] for f in dataclasses.fields(Settings) if "option" in f.metadata}


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings given by environment variables."""
    found: dict[str, Any] = {}
    for name, opt in options().items():
        text = environ.get(opt.env) if opt.env else None
        if opt.off_env and (off := environ.get(opt.off_env)):
            found[name] = not convert(opt, off, opt.off_env)
        if text is None or text == "" or opt.env is None:
            continue
        if opt.repeat:
            parts = text.split(",") if opt.split else [text]
            found[name] = tuple(convert(opt, part.strip(), opt.env) for part in parts if part.strip())
        else:
            found[name] = convert(opt, text, opt.env)
    return found
