"""Hugging Face checkpoints: folders with ``config.json`` and safetensors files.

A conversion says what the checkpoints of one class of transformers are as GGUF files: the architecture, the metadata,
and rules for tensors, each of which works in both directions. Plugins register conversions; docs/plugins/conversion.md
shows how to write one.
"""

from llamafw.checkpoints.changes import (
    Add,
    Array,
    Change,
    Deinterleave,
    DropRows,
    Each,
    EachAlone,
    FirstRows,
    Inverse,
    NegativeExp,
    Permute,
    Regroup,
    Reshape,
    Split,
    Squeeze,
    Stack,
    Transpose,
)
from llamafw.checkpoints.config import Config, read_config, read_json
from llamafw.checkpoints.conversion import Conversion, Convert, convert_checkpoint, to_checkpoint, to_gguf
from llamafw.checkpoints.decoder import (
    ATTENTION,
    EXPERTS,
    FEED_FORWARD,
    HEAD_NORMS,
    LAYER,
    NORMS,
    NOT_TEXT,
    TEXT_MODEL,
    decoder_metadata,
    ends,
    experts,
    fused_experts,
    head_size,
    layer_types,
    layers,
    permuted,
    rms_eps,
)
from llamafw.checkpoints.files import ReadTokenizer, folder_name
from llamafw.checkpoints.lora import is_adapter, open_adapter
from llamafw.checkpoints.open import find_conversion, is_checkpoint, open_checkpoint
from llamafw.checkpoints.prediction import prediction_layers, prediction_module
from llamafw.checkpoints.recurrent import mamba2_rules, mamba_rules
from llamafw.checkpoints.rope import RopeDescription, rope, rope_section
from llamafw.checkpoints.rules import Rule, expert_rules, renames, rule
from llamafw.checkpoints.sentence_transformers import POOLING_TYPES
from llamafw.checkpoints.tensors import CheckpointTensor, ConvertedTensor, Packed

__all__ = [
    "ATTENTION",
    "Add",
    "Array",
    "Change",
    "CheckpointTensor",
    "Config",
    "Conversion",
    "Convert",
    "ConvertedTensor",
    "Deinterleave",
    "DropRows",
    "FirstRows",
    "EXPERTS",
    "Each",
    "EachAlone",
    "FEED_FORWARD",
    "HEAD_NORMS",
    "Inverse",
    "LAYER",
    "NORMS",
    "NOT_TEXT",
    "NegativeExp",
    "POOLING_TYPES",
    "Packed",
    "Permute",
    "Regroup",
    "Reshape",
    "ReadTokenizer",
    "RopeDescription",
    "Rule",
    "Split",
    "Squeeze",
    "Stack",
    "TEXT_MODEL",
    "Transpose",
    "convert_checkpoint",
    "decoder_metadata",
    "ends",
    "expert_rules",
    "experts",
    "find_conversion",
    "folder_name",
    "fused_experts",
    "head_size",
    "is_adapter",
    "is_checkpoint",
    "layer_types",
    "layers",
    "mamba2_rules",
    "open_adapter",
    "mamba_rules",
    "open_checkpoint",
    "permuted",
    "prediction_layers",
    "prediction_module",
    "read_config",
    "read_json",
    "renames",
    "rms_eps",
    "rope",
    "rope_section",
    "rule",
    "to_checkpoint",
    "to_gguf",
]
