"""How long a model takes to open: the file, its tokenizer. Medians of 5; ``python benchmarks/opening.py [FILE]``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llamafw import Settings
from llamafw.engine.load import make_tokenizer, open_model
from llamafw.models.wheels import pull
from llamafw.plugins import Plugins
from quiet import machine


def median(once: Callable[[], object], rounds: int = 5) -> float:
    """Return the median of milliseconds, after one run that does not count."""
    once()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        once()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else pull("smollm2-135m")
    plugins, settings = Plugins(), Settings()
    model = open_model(path, settings, plugins)
    tokenizer = make_tokenizer(model, plugins)
    text = "Once upon a time, in 1984, there were 3 naïve bears who couldn't count to ten. " * 12_500
    print(f"{machine()}; {path.name}, medians of 5\n")
    print(f"opening the file        {median(lambda: open_model(path, settings, plugins)):8.1f} ms")
    print(f"building the tokenizer  {median(lambda: make_tokenizer(model, plugins)):8.1f} ms")
    print(f"encoding 1 MB of text   {median(lambda: tokenizer.encode(text)):8.1f} ms")


if __name__ == "__main__":
    main()
