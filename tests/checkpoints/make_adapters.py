"""Compute the logits of checkpoints with LoRA adapters, with peft, and store them for the tests.

``cd tests && python -m checkpoints.make_adapters`` needs torch, transformers and peft. The numbers of adapters are not
stored: `adapter_tensor` makes them from the names that peft gives them.
"""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from checkpoints import HERE, Checkpoint, all_checkpoints, tensors, texts

NAMES = ("llama", "qwen3", "phi3", "gemma2", "gptneox")
RANK, ALPHA = 4, 6.0


def adapter_path(name: str) -> Path:
    """Return the path of the file with the logits of a checkpoint with an adapter."""
    return HERE / "adapters" / f"{name}.npz"


def adapter_tensor(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return a tensor of an adapter, as it is in ``adapter_model.safetensors``."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.normal(0, 0.3, shape).astype(np.float32)


def main() -> None:
    """Make the files."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    from checkpoints.make import module_of, use_float64

    use_float64()

    def compute(checkpoint: Checkpoint) -> int:
        """Store the logits of a checkpoint; return the number of tensors of its adapter."""
        arrays = {name: torch.from_numpy(array.astype(np.float64)) for name, array in tensors(checkpoint).items()}
        model = importlib.import_module(module_of(checkpoint)).build(checkpoint, arrays)
        kinds = torch.nn.Linear | torch.nn.Embedding
        targets = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kinds)}
        if "output.weight" not in arrays:  # peft adapts one of two uses of a tied matrix
            targets -= {"lm_head", "embed_out"}
        adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=sorted(targets)))
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
        }
        state = {name: torch.from_numpy(adapter_tensor(name, shape)).double() for name, shape in shapes.items()}
        set_peft_model_state_dict(adapted, state)
        text = texts(checkpoint)[-1]
        with torch.no_grad():
            logits = adapted.eval()(torch.from_numpy(text)[None]).logits[0].numpy()
        names = sorted(shapes)
        sizes = np.array([shapes[name] for name in names])
        path = adapter_path(checkpoint.name)
        np.savez_compressed(path, tokens=text, logits=logits[-2:], names=np.array(names), shapes=sizes)
        return len(names)

    for checkpoint in all_checkpoints():
        if checkpoint.name in NAMES:
            print(f"{checkpoint.name}: an adapter of {compute(checkpoint)} tensors")


if __name__ == "__main__":
    main()
