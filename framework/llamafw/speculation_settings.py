"""Define the settings of speculative decoding: drafters, the draft model, lengths of drafts.

Part of the table in `settings`. Independent of which drafters are registered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from llamafw.options import option, parse_gpu_layers
from llamafw.sampling_settings import SamplingSettings
from llamafw.types.backend_options import CacheType

SPECULATION = "speculative decoding"
NO_DRAFTER = "none"
DRAFT_MODEL_DRAFTER = "draft-simple"
"""The drafter that is used if a draft model is named, and no drafter."""
PREDICTION_DRAFTER = "draft-mtp"
"""The drafter that guesses with the model's own block for multi-token prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationSettings(SamplingSettings):
    """The settings of speculative decoding of one server, fixed at start-up."""

    # fmt: off
    spec_type: tuple[str, ...] = option((), "--spec-type", group=SPECULATION, type=str, env="LLAMA_ARG_SPEC_TYPE", metavar="NAMES", repeat=True, split=True,
        help="drafters, separated by commas: ngram-simple, ngram-map-k, draft-simple, draft-mtp, those of plugins, or none; each is asked where those before it guess nothing (default: none, or draft-simple with --spec-draft-model)")
    spec_auto: bool = option(True, "--spec-auto", group=SPECULATION, type=bool, env="LLAMAFW_SPEC_AUTO", off_flags=("--no-spec-auto",),
        help="draft as many tokens as save time by measurement, or none; with --no-spec-auto, drafts are always as long as possible")
    spec_draft_model: str | None = option(None, "-md", "--model-draft", "--spec-draft-model", group=SPECULATION, type=str, env="LLAMA_ARG_SPEC_DRAFT_MODEL", other_env=("LLAMA_ARG_MODEL_DRAFT",), metavar="FILE",
        help="small model with the same vocabulary, for draft-simple: a file, or a name from the catalogue")
    spec_draft_hf: str | None = option(None, "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf", group=SPECULATION, type=str, env="LLAMA_ARG_SPEC_DRAFT_HF_REPO", other_env=("LLAMA_ARG_HFD_REPO",), metavar="USER/REPO[:QUANT]",
        help="like --hf-repo, for the draft model")
    spec_draft_n_max: int = option(16, "--spec-draft-n-max", "--draft", "--draft-n", "--draft-max", group=SPECULATION, type=int, env="LLAMA_ARG_SPEC_DRAFT_N_MAX", other_env=("LLAMA_ARG_DRAFT_MAX",), metavar="N", low=1, high=1024,
        help="maximum number of tokens that draft-simple or draft-mtp guesses at once")
    spec_draft_n_min: int = option(0, "--spec-draft-n-min", "--draft-min", "--draft-n-min", group=SPECULATION, type=int, env="LLAMA_ARG_SPEC_DRAFT_N_MIN", other_env=("LLAMA_ARG_DRAFT_MIN",), metavar="N", low=0, high=1024,
        help="drafts of fewer tokens are not used")
    spec_draft_p_min: float = option(0.0, "--spec-draft-p-min", "--draft-p-min", group=SPECULATION, type=float, env="LLAMA_ARG_SPEC_DRAFT_P_MIN", metavar="P", low=0, high=1,
        help="draft-simple and draft-mtp stop before a token to which they give a smaller probability")
    spec_draft_threads: int | None = option(None, "-td", "--threads-draft", "--spec-draft-threads", group=SPECULATION, type=int, metavar="N", low=-1, high=1024,
        help="number of CPU threads of the draft model or MTP block (default: same as --threads)")
    spec_draft_threads_batch: int | None = option(None, "-tbd", "--threads-batch-draft", "--spec-draft-threads-batch", group=SPECULATION, type=int, metavar="N", low=-1, high=1024,
        help="number of CPU threads of the draft model or MTP block for prompts (default: same as --spec-draft-threads, else --threads-batch)")
    spec_draft_type_k: str = option("f16", "-ctkd", "--cache-type-k-draft", "--spec-draft-type-k", group=SPECULATION, type=str, env="LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K", metavar="TYPE", choices=get_args(CacheType),
        help="data type of the K cache of the draft model or MTP block")
    spec_draft_type_v: str = option("f16", "-ctvd", "--cache-type-v-draft", "--spec-draft-type-v", group=SPECULATION, type=str, env="LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V", metavar="TYPE", choices=get_args(CacheType),
        help="data type of the V cache of the draft model or MTP block")
    spec_draft_ngl: int | None = option(None, "-ngld", "--spec-draft-ngl", "--gpu-layers-draft", "--n-gpu-layers-draft", group=SPECULATION, type=str, env="LLAMA_ARG_N_GPU_LAYERS_DRAFT", metavar="N|auto|all", parse=parse_gpu_layers,
        help="like --gpu-layers, for the draft model (default: auto, the backend decides)")
    spec_ngram_simple_size_n: int = option(12, "--spec-ngram-simple-size-n", group=SPECULATION, type=int, metavar="N", low=1, high=1024,
        help="ngram-simple: how many of the last tokens must have occurred before")
    spec_ngram_simple_size_m: int = option(48, "--spec-ngram-simple-size-m", group=SPECULATION, type=int, metavar="N", low=1, high=1024,
        help="ngram-simple: maximum number of tokens to guess at once")
    spec_ngram_simple_min_hits: int = option(1, "--spec-ngram-simple-min-hits", group=SPECULATION, type=int, metavar="N", low=1, high=1024,
        help="ngram-simple: how often they must have occurred")
    spec_ngram_map_k_size_n: int = option(12, "--spec-ngram-map-k-size-n", group=SPECULATION, type=int, metavar="N", low=1, high=1024,
        help="ngram-map-k: how many of the last tokens must have occurred before, in this text or in earlier responses")
    spec_ngram_map_k_size_m: int = option(48, "--spec-ngram-map-k-size-m", group=SPECULATION, type=int, metavar="N", low=1, high=1024,
        help="ngram-map-k: maximum number of tokens to guess at once")
    spec_ngram_map_k_min_hits: int = option(1, "--spec-ngram-map-k-min-hits", group=SPECULATION, type=int, metavar="N", low=1, high=1024,
        help="ngram-map-k: how often they must have been followed by the same tokens")
    # fmt: on

    @property
    def drafters(self) -> tuple[str, ...]:
        """The names of the drafters, in the order in which they are asked.

        Those that need no model come first, as in llama-server.
        """
        names = [name for name in dict.fromkeys(self.spec_type) if name != NO_DRAFTER]
        if not self.spec_type and (self.spec_draft_model or self.spec_draft_hf):
            names = [DRAFT_MODEL_DRAFTER]
        return tuple(sorted(names, key=lambda name: name.startswith("draft-")))
