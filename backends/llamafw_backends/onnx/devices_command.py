"""``llamafw devices``: list the devices that ONNX Runtime can use, and why it cannot use others."""

from __future__ import annotations

from argparse import ArgumentParser

from llamafw import SettingsError

EXAMPLE = "llamafw devices\nllamafw serve --onnx-provider cuda -mg 1"


def run(argv: list[str]) -> int:
    """Print each provider with its devices, or why there are none."""
    parser = ArgumentParser(
        "llamafw devices",
        description="List what --onnx-provider and -mg can name: the providers of ONNX Runtime with their devices, and "
        "why others cannot be used. The numba backend uses the CPU and needs none of them.",
    )
    parser.parse_args(argv)
    for line in describe_devices():
        print(line)
    return 0


def describe_devices() -> list[str]:
    """Return the lines that the command prints."""
    try:
        import onnxruntime as ort

        from llamafw_backends.onnx.providers import PROVIDERS, devices  # here, because the packages are optional
    except ModuleNotFoundError as error:
        return [f"none: the package {error.name} is not installed; install it with: pip install 'llamafw[onnx]'"]

    from llamafw_backends.onnx.gpu_facts import describe_gpu  # here, as above

    lines = [f"onnxruntime {ort.__version__}"]
    for name, provider in PROVIDERS.items():
        try:
            found = devices(provider)
        except SettingsError as error:
            lines.append(f"  {name}: cannot be used: {error}")
            continue
        for device in found:
            facts = ", ".join(fact for fact in (describe_gpu(device), f"computes in {device.float_type}") if fact)
            lines.append(f"  {name}{'' if name == 'cpu' else f' {device.number}'}: {facts}")
    return lines
