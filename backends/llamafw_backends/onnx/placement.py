"""Applies the settings that say where a model runs, and tells which of them have no effect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil

from llamafw import BackendContext, BackendOptions, GpuOptions, SettingsError, ThreadOptions
from llamafw import graph as g
from llamafw_backends.onnx import VARIABLE, provider_name
from llamafw_backends.onnx.device_tensors import Device
from llamafw_backends.onnx.providers import F16, F32, choose
from llamafw_backends.onnx.support import CPU, Support

CACHE_TYPES: Mapping[str, np.dtype[Any]] = {"f16": F16, "f32": F32}
"""The types of keys and values in the cache."""

_SUPPORT: dict[tuple[str, int, np.dtype[Any]], Support] = {}


def choose_device(context: BackendContext) -> Device:
    """Return the device that the settings name, or the best one.

    Raises
    ------
    SettingsError
        The device cannot be used, or a setting asks for what the backend cannot do.
    """
    gpu, name = context.options.gpu, provider_name(context.options.extra)
    if gpu.n_layers == 0:
        if name not in ("auto", "cpu"):
            flag = "--onnx-provider" if context.options.extra.get("onnx_provider") else VARIABLE
            raise SettingsError(f"-ngl 0 keeps the model on the CPU, but {flag} is {name}; drop one of them")
        name = "cpu"

    device = choose(name, _device_number(gpu))
    if device.kind == "cpu":
        if flags := _gpu_flags(gpu):
            context.log(f"onnx backend: it computes on the CPU; {' '.join(flags)} has no effect")
    else:
        if context.options.extra.get("onnx_activations") == "int8":
            raise SettingsError(
                f"--onnx-activations int8: this is for CPUs, but the model runs on {device}; add --onnx-provider cpu"
            )
        _check_gpu_flags(gpu, context.graph)
    return device


def support_of(device: Device) -> Support:
    """Return what finds out which nodes a device can run; it is one object per device, so each node is tried once."""
    key = (device.name, device.number, device.float_type)
    if key not in _SUPPORT:
        _SUPPORT[key] = Support(device.providers, device.float_type, device.kind, device.number)
    return _SUPPORT[key]


def _device_number(gpu: GpuOptions) -> int:
    """Return the GPU that ``-mg`` names, or the only one that has a share in ``-ts``."""
    used = [i for i, share in enumerate(gpu.tensor_split) if share]
    return used[0] if len(used) == 1 else gpu.main_gpu


def _check_gpu_flags(gpu: GpuOptions, graph: g.Graph) -> None:
    """Raise SettingsError if the flags ask for a model that is not on one GPU as a whole."""
    n_layers = sum(isinstance(value, g.LayerOutput) for value in graph)
    if gpu.n_layers is not None and 0 < gpu.n_layers < n_layers:
        raise SettingsError(
            f"-ngl {gpu.n_layers}: the onnx backend does not divide a model between GPU and CPU; use -ngl all for all "
            f"{n_layers} layers, or -ngl 0 for none"
        )
    if sum(share > 0 for share in gpu.tensor_split) > 1:
        shares = ",".join(f"{share:g}" for share in gpu.tensor_split)
        raise SettingsError(f"-ts {shares}: the onnx backend does not divide a model among GPUs; -mg N chooses one")
    if gpu.split_mode == "row":
        raise SettingsError("-sm row: the onnx backend does not divide matrices among GPUs; -mg N chooses one")
    if not gpu.kv_offload:
        raise SettingsError("-nkvo: the onnx backend keeps the KV cache on the device that computes; use -ngl 0")


def _gpu_flags(gpu: GpuOptions) -> list[str]:
    """Return the flags for GPUs that were given, except those that are true of a CPU."""
    default = GpuOptions()
    flags = {
        f"-ngl {gpu.n_layers if gpu.n_layers != -1 else 'all'}": gpu.n_layers not in (None, 0),
        f"-sm {gpu.split_mode}": gpu.split_mode != default.split_mode,
        f"-ts {','.join(f'{share:g}' for share in gpu.tensor_split)}": gpu.tensor_split != default.tensor_split,
        f"-mg {gpu.main_gpu}": gpu.main_gpu != default.main_gpu,
    }
    return [flag for flag, is_given in flags.items() if is_given]


def cache_types(context: BackendContext, support: Support) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the types of keys and values; SettingsError if the backend does not have one."""
    options, types = context.options, []
    for flag, kind in (("-ctk", options.cache_type_k), ("-ctv", options.cache_type_v)):
        if kind not in CACHE_TYPES:
            known = " or ".join(CACHE_TYPES)
            raise SettingsError(f"{flag} {kind}: the onnx backend stores keys and values as {known}")
        types.append(CACHE_TYPES[kind])
    if F16 in types and support.float_type == F32 and support.providers[0][0] != CPU:
        context.log("onnx backend: the GPU has no float16; keys and values are stored as f32")
        return F32, F32
    return types[0], types[1]


def count_threads(options: BackendOptions) -> int:
    """Return the threads that compute on the CPU: those of ``-t``, or one per physical core."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return options.n_threads or min(psutil.cpu_count(logical=False) or usable, usable)


def log_ignored_flags(context: BackendContext) -> None:
    """Log the flags whose settings ONNX Runtime decides itself."""
    options, threads = context.options, context.options.threads
    n_threads = count_threads(options)
    flags = {
        f"-tb {options.n_threads_batch}": options.n_threads_batch not in (0, n_threads),
        "-C/-Cr": bool(threads.cpus or options.threads_batch.cpus),
        "--cpu-strict": threads.strict or options.threads_batch.strict,
        "--prio": bool(threads.priority or options.threads_batch.priority),
        "--poll": threads.poll not in (0, ThreadOptions().poll),
        f"--numa {options.numa}": options.numa is not None,
        "--mlock": options.lock_memory,
        f"-fa {'on' if options.flash_attention else 'off'}": options.flash_attention is not None,
    }
    if ignored := [flag for flag, is_given in flags.items() if is_given]:
        context.log(f"onnx backend: ONNX Runtime decides this itself; {' '.join(ignored)} has no effect")
