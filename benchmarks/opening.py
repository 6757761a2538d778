"""Measure how long it takes to open a model and to build its tokenizer: ``python benchmarks/opening.py [FILE]``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llamafw import Settings
from llamafw.engine.components import make_tokenizer
from llamafw.engine.load import open_model
from llamafw.models.wheels import pull
from llamafw.plugins import Plugins
from noise import machine


def median_ms(step: Callable[[], object], rounds: int = 5) -> float:
    """Return the median of the milliseconds that a call takes, after a first call that does not count."""
    step()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main() -> None:
    """Measure each operation and print the medians."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else pull("smollm2-135m")
    plugins, settings = Plugins(), Settings()
    model = open_model(path, settings, plugins)
    tokenizer = make_tokenizer(model, plugins)

    text = "Once upon a time, in 1984, there were 3 naïve bears who couldn't count to ten. " * 12_500
    print(f"{machine()}; {path.name}, medians of 5\n")
    print(f"opening the file        {median_ms(lambda: open_model(path, settings, plugins)):8.1f} ms")
    print(f"building the tokenizer  {median_ms(lambda: make_tokenizer(model, plugins)):8.1f} ms")
    print(f"encoding 1 MB of text   {median_ms(lambda: tokenizer.encode(text)):8.1f} ms")


if __name__ == "__main__":
    main()
