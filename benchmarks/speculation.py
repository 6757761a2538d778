"""Measure what drafts save: on text that repeats its prompt, and on text that does not.

The same requests run with and without drafts, in turn, on one engine. Their tokens must be the same.

Run it from the repository's root::

    python benchmarks/speculation.py [-m model.gguf] [-md draft.gguf] [-s ngram-simple] [-t 2] [-n 256] [-r 5]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llamafw import Finish, GenerateRequest, LoadedModel, Settings
from llamafw.engine.load import load_model
from llamafw.models.find import find_model
from llamafw.plugins import Plugins

SOURCE = Path(__file__).parents[1] / "framework/llamafw/errors.py"
N_CODE = 700  # characters of the code that is copied

GREEDY: dict[str, Any] = {"samplers": ("temperature",), "options": {"temperature": 0}}
SAMPLED: dict[str, Any] = {
    "samplers": ("top_k", "temperature"),
    "options": {"top_k": 40, "temperature": 0.8},
    "seed": 1,
}


def prompts() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the prompts and the sampling settings by the name of the test."""
    code = SOURCE.read_text("utf-8")[:N_CODE]
    story = "Once upon a time, in a small village by the sea, there lived an old fisherman who"
    return {
        "copy, greedy": (f"{code}\n\n# the same again\n{code}\n\n# the same again\n", GREEDY),
        "copy, sampled": (f"{code}\n\n# the same again\n{code}\n\n# the same again\n", SAMPLED),
        "story, greedy": (story, GREEDY),  # a small model repeats itself
        "story, sampled": (story, SAMPLED),
    }


async def run(loaded: LoadedModel, request: GenerateRequest) -> Finish:
    """Return the end of a generation."""
    async for delta in loaded.engine.generate(request):
        if delta.finish is not None:
            return delta.finish
    raise RuntimeError("the generation has no end")


async def measure(loaded: LoadedModel, args: argparse.Namespace) -> None:
    """Print the table."""
    print("| test | tokens/s | with drafts | ratio | accepted |\n|---|---|---|---|---|")
    for name, (text, fields) in prompts().items():
        tokens = tuple(loaded.tokenizer.encode(text, add_special=True))
        speeds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(args.rounds):
            finishes = {}
            for drafts in (False, True):
                limit = None if drafts else 0
                request = GenerateRequest(
                    tokens, n_predict=args.n_predict, ignore_eos=True, draft_n_max=limit, **fields
                )
                finishes[drafts] = finish = await run(loaded, request)
                speeds[drafts].append(1e3 * (finish.n_predicted - 1) / finish.timings.predicted_ms)
            if finishes[False].tokens != finishes[True].tokens:
                raise SystemExit(f"{name}: drafts have changed the text")
        plain, drafted = (statistics.median(speeds[drafts]) for drafts in (False, True))
        timings = finishes[True].timings
        accepted = f"{timings.draft_n_accepted} of {timings.draft_n}"
        print(f"| {name} | {plain:.0f} | {drafted:.0f} | {drafted / plain:.2f} | {accepted} |", flush=True)
    await loaded.engine.stop(10)


def main(argv: Iterable[str] | None = None) -> None:
    """Load the model and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", help="GGUF file (default: the default model)")
    parser.add_argument("-md", "--model-draft", help="GGUF file of a draft model")
    parser.add_argument("-s", "--spec-type", default="ngram-simple", help="drafters, separated by commas")
    parser.add_argument("-t", "--threads", type=int, default=-1)
    parser.add_argument("-n", "--n-predict", type=int, default=256, help="tokens of each response")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    args = parser.parse_args(None if argv is None else list(argv))

    settings = Settings(
        model=args.model,
        spec_draft_model=args.model_draft,
        spec_type=tuple(args.spec_type.split(",")),
        threads=args.threads,
        parallel=1,
        ctx_size=4096,
    )
    loaded = load_model(find_model(settings), settings, Plugins(), lambda line: None)
    asyncio.run(measure(loaded, args))


if __name__ == "__main__":
    main()
