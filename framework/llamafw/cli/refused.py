"""Flags of llama-server that are refused, each with the reason.

Ignoring them would give unexpected results. Values that ask for nothing are accepted.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamafw.errors import SettingsError

_SWITCH = ""  # stands for a flag without a value


@dataclass(frozen=True, slots=True)
class Refusal:
    """Flags and environment variables that are refused for one reason."""

    names: str  # flags and variables, separated by spaces
    reason: str
    harmless: Mapping[str, Sequence[str]] | None = None  # flag or variable → values that ask for nothing


_LATER = "not supported yet"
_OFF = ("0", "false", "off", "no")
_ON = ("1", "true", "on", "yes")

REFUSALS = (
    Refusal(
        "-dt --defrag-thold LLAMA_ARG_DEFRAG_THOLD",
        "not supported: the KV cache consists of pages, and a slot always finds a free one, so nothing has to be moved",
        dict.fromkeys(("-dt", "--defrag-thold", "LLAMA_ARG_DEFRAG_THOLD"), ("-1",)),
    ),
    Refusal(
        "--rpc LLAMA_ARG_RPC",
        "not supported; write a backend plugin that calls the other machine (docs/plugins/backend.md)",
    ),
    Refusal(
        "--spec-draft-cpu-mask -Cd --cpu-mask-draft --spec-draft-cpu-range -Crd --cpu-range-draft"
        " --spec-draft-cpu-strict --cpu-strict-draft --spec-draft-prio --prio-draft --spec-draft-poll --poll-draft"
        " --spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft --spec-draft-cpu-strict-batch"
        " --cpu-strict-batch-draft --spec-draft-prio-batch --prio-batch-draft --spec-draft-poll-batch"
        " --poll-batch-draft",
        "not supported: the threads of the draft model have the processors, the priority and the polling of -C, -Cr,"
        " --prio and --poll; only their number can be set, with -td and -tbd",
    ),
    Refusal(
        "--spec-draft-override-tensor -otd --override-tensor-draft --spec-draft-cpu-moe -cmoed --cpu-moe-draft"
        " LLAMA_ARG_SPEC_DRAFT_CPU_MOE --spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft"
        " LLAMA_ARG_SPEC_DRAFT_N_CPU_MOE",
        f"dividing a draft model between GPU and CPU is {_LATER}",
    ),
    Refusal(
        "--spec-draft-device -devd --device-draft",
        "not supported: the draft model runs where the model runs",
        dict.fromkeys(("--spec-draft-device", "-devd", "--device-draft"), ("none", "cpu", "CPU")),
    ),
    Refusal(
        "--spec-draft-p-split --draft-p-split LLAMA_ARG_SPEC_DRAFT_P_SPLIT",
        "not supported: drafts have no branches",
    ),
    Refusal(
        "--spec-draft-backend-sampling --no-spec-draft-backend-sampling LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING",
        "not supported: tokens are sampled on the CPU",
        {"--no-spec-draft-backend-sampling": (_SWITCH,), "LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING": _OFF},
    ),
    Refusal(
        "--spec-ngram-mod-n-min --spec-ngram-mod-n-max --spec-ngram-mod-n-match --spec-ngram-map-k4v-size-n"
        " --spec-ngram-map-k4v-size-m --spec-ngram-map-k4v-min-hits --spec-default",
        "the drafters ngram-mod and ngram-map-k4v are not supported; use --spec-type ngram-map-k",
    ),
    Refusal(
        "--spec-ngram-size-n --spec-ngram-size-m --spec-ngram-min-hits",
        "not supported any more, as in llama-server; use --spec-ngram-simple-size-n or --spec-ngram-map-k-size-n …",
    ),
    Refusal(
        "-lcs --lookup-cache-static -lcd --lookup-cache-dynamic",
        "files with n-grams are not supported; --spec-type ngram-map-k finds those of earlier responses",
    ),
    Refusal(
        "--spec-synth-len LLAMA_ARG_SPEC_SYNTH_LEN --spec-synth-rates LLAMA_ARG_SPEC_SYNTH_RATES",
        "not supported: drafts are never invented",
    ),
    Refusal(
        "-mm --mmproj LLAMA_ARG_MMPROJ -mmu --mmproj-url LLAMA_ARG_MMPROJ_URL --mmproj-auto --no-mmproj"
        " --no-mmproj-auto LLAMA_ARG_MMPROJ_AUTO --mmproj-offload --no-mmproj-offload LLAMA_ARG_MMPROJ_OFFLOAD -mmdev"
        " --mmproj-device MTMD_BACKEND_DEVICE --image-min-tokens LLAMA_ARG_IMAGE_MIN_TOKENS --image-max-tokens"
        " LLAMA_ARG_IMAGE_MAX_TOKENS --mtmd-batch-max-tokens LLAMA_ARG_MTMD_BATCH_MAX_TOKENS --video-fps"
        " LLAMA_ARG_VIDEO_FPS --video-timestamp-interval LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL --video-ffmpeg-dir"
        " LLAMA_ARG_VIDEO_FFMPEG_DIR --media-path --vision-gemma-4b-default --vision-gemma-12b-default",
        f"images and audio are {_LATER}",
        {"--no-mmproj": (_SWITCH,), "--no-mmproj-auto": (_SWITCH,), "LLAMA_ARG_MMPROJ_AUTO": _OFF},
    ),
    Refusal(
        "-ot --override-tensor LLAMA_ARG_OVERRIDE_TENSOR -cmoe --cpu-moe LLAMA_ARG_CPU_MOE -ncmoe --n-cpu-moe"
        " LLAMA_ARG_N_CPU_MOE -ncffn --n-cpu-ffn LLAMA_ARG_N_CPU_FFN --op-offload --no-op-offload --no-host"
        " LLAMA_ARG_NO_HOST",
        f"dividing a model between GPU and CPU is {_LATER}; the backend for the CPU keeps all weights in its memory",
    ),
    Refusal(
        "-dev --device LLAMA_ARG_DEVICE",
        "not supported: the backend for the CPU has no devices to choose from",
        dict.fromkeys(("-dev", "--device"), ("none", "cpu", "CPU")) | {"LLAMA_ARG_DEVICE": ("none", "cpu")},
    ),
    Refusal(
        "--repack -nr --no-repack LLAMA_ARG_REPACK",
        "not supported: the backend decides how weights are laid out in memory",
        {"--repack": (_SWITCH,), "LLAMA_ARG_REPACK": _ON},
    ),
    Refusal(
        "-lzm --lazy-mode LLAMA_ARG_LAZY_MODE",
        "not supported: with --mmap, all weights are read when they are first needed",
        dict.fromkeys(("-lzm", "--lazy-mode", "LLAMA_ARG_LAZY_MODE"), ("auto",)),
    ),
    Refusal(
        "-bs --backend-sampling LLAMA_ARG_BACKEND_SAMPLING",
        "not supported: tokens are sampled on the CPU",
        {"LLAMA_ARG_BACKEND_SAMPLING": _OFF},
    ),
    Refusal("-dr --docker-repo LLAMA_ARG_DOCKER_REPO", "Docker Hub is not supported; use -hf USER/REPO or --model-url"),
    Refusal(
        "--embd-gemma-default --fim-qwen-1.5b-default --fim-qwen-3b-default --fim-qwen-7b-default --fim-qwen-7b-spec"
        " --fim-qwen-14b-spec --fim-qwen-30b-default --gpt-oss-20b-default --gpt-oss-120b-default",
        "presets are not supported; name the model with -hf USER/REPO",
    ),
    Refusal(
        "--models-dir LLAMA_ARG_MODELS_DIR --models-preset LLAMA_ARG_MODELS_PRESET --models-max LLAMA_ARG_MODELS_MAX"
        " --models-autoload --no-models-autoload LLAMA_ARG_MODELS_AUTOLOAD",
        "several models in one server are not supported; start a server for each",
    ),
    Refusal(
        "-kvu --kv-unified -no-kvu --no-kv-unified LLAMA_ARG_KV_UNIFIED --kv-unified-per-slot"
        " LLAMA_ARG_KV_UNIFIED_PER_SLOT",
        "one context for all slots is not supported; that of -c is divided evenly among the slots of -np",
        {"-no-kvu": (_SWITCH,), "--no-kv-unified": (_SWITCH,), "LLAMA_ARG_KV_UNIFIED": _OFF},
    ),
    Refusal(
        "--cache-idle-slots --no-cache-idle-slots LLAMA_ARG_CACHE_IDLE_SLOTS",
        "not supported: a prompt whose slot is reused is kept in the prompt cache; --cache-ram 0 turns that off",
        {"--cache-idle-slots": (_SWITCH,), "LLAMA_ARG_CACHE_IDLE_SLOTS": _ON},
    ),
    Refusal(
        "-cms --checkpoint-min-step LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT",
        "not supported: the server decides where it takes snapshots; --ctx-checkpoints limits their number",
    ),
    Refusal(
        "--tools LLAMA_ARG_TOOLS --tools-runtime LLAMA_ARG_TOOLS_RUNTIME --mcp-servers-config"
        " LLAMA_ARG_MCP_SERVERS_CONFIG --mcp-servers-json LLAMA_ARG_MCP_SERVERS_JSON -ag --agent -no-ag --no-agent"
        " LLAMA_ARG_AGENT --ui-mcp-proxy --webui-mcp-proxy --no-ui-mcp-proxy --no-webui-mcp-proxy"
        " LLAMA_ARG_UI_MCP_PROXY",
        "not supported: the server runs no tools of its own; clients run the tools that the model calls",
        dict.fromkeys(("-no-ag", "--no-agent", "--no-ui-mcp-proxy", "--no-webui-mcp-proxy"), (_SWITCH,))
        | dict.fromkeys(("LLAMA_ARG_AGENT", "LLAMA_ARG_UI_MCP_PROXY"), _OFF),
    ),
    Refusal(
        "--ui-config --webui-config LLAMA_ARG_UI_CONFIG --ui-config-file --webui-config-file LLAMA_ARG_UI_CONFIG_FILE",
        "not supported: the chat page keeps its settings in the browser",
    ),
    Refusal(
        "--skip-chat-parsing --no-skip-chat-parsing LLAMA_ARG_SKIP_CHAT_PARSING",
        "not supported: POST /completion returns a model's text as it is",
        {"--no-skip-chat-parsing": (_SWITCH,), "LLAMA_ARG_SKIP_CHAT_PARSING": _OFF},
    ),
    Refusal(
        "--reasoning-preserve --no-reasoning-preserve LLAMA_ARG_REASONING_PRESERVE",
        "not supported: the chat template decides which reasoning of earlier turns it shows",
    ),
    Refusal(
        "--cors-methods LLAMA_ARG_CORS_METHODS --cors-headers LLAMA_ARG_CORS_HEADERS --cors-credentials"
        " --no-cors-credentials LLAMA_ARG_CORS_CREDENTIALS",
        "not supported: listed origins may use all methods, headers and credentials; choose them with --cors-origins",
    ),
    Refusal("--completion-bash", "not supported: there is no completion script"),
)


REFUSED_FLAGS = {name: refusal.reason for refusal in REFUSALS for name in refusal.names.split() if name.startswith("-")}
"""Flag → the reason."""

REFUSED_VARIABLES = {
    name: refusal.reason for refusal in REFUSALS for name in refusal.names.split() if not name.startswith("-")
}
"""Environment variable → the reason."""

HARMLESS = {name: values for refusal in REFUSALS for name, values in (refusal.harmless or {}).items()}
"""Flag or variable → the values that are accepted because they ask for nothing."""


def check_environment(environ: Mapping[str, str]) -> None:
    """Raise SettingsError for the first variable that is refused."""
    for name, reason in REFUSED_VARIABLES.items():
        value = environ.get(name)
        if value and value.lower() not in HARMLESS.get(name, ()):
            raise SettingsError(f"{name}: {reason}")


def add_harmless_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that are accepted with some values; they have no effect and are not shown in the help."""
    for flag in HARMLESS.keys() & REFUSED_FLAGS.keys():
        nargs = 0 if HARMLESS[flag] == (_SWITCH,) else None
        parser.add_argument(
            flag, action=_HarmlessAction, nargs=nargs, dest=argparse.SUPPRESS, default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )  # fmt: skip


class _HarmlessAction(argparse.Action):
    """Accepts the values of a flag that ask for nothing, and refuses all others."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Check a value."""
        flag = str(option_string)
        if self.nargs != 0 and values not in HARMLESS[flag]:
            parser.error(f"{flag}: {REFUSED_FLAGS[flag]}")
