"""Measure the chat page in Chromium: its first view, and whether it stays smooth while answers are written.

``python benchmarks/webui.py [--pace 300] [--seconds 10]`` prints two Markdown tables. The server of the page has an
engine that writes a text at the given number of tokens per second. Needs Chromium and the package playwright.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from llamafw.testing.tiny import write_tiny_gguf  # noqa: E402  # below the path that it does not need, with the others
from noise import NoiseMeter, machine  # noqa: E402  # needs the path of this folder only
from support.chat_page import DESKTOP, PHONE, ChatPage, running_browser  # noqa: E402  # needs the path
from support.page_server import PageServer, page_server  # noqa: E402  # needs the path

TEMPLATE = ROOT / "tests/support/chat_templates/qwen3.jinja"
FRAME = 1000 / 60  # milliseconds
SLOW_PHONE = {"cpu": 4, "latency": 150, "throughput": 1.6e6 / 8}  # as Lighthouse's "slow 4G"; bytes per second

PARAGRAPH = (
    "A **bold** word, `code` and [a link](https://example.org) in a sentence that goes on for some more words.\n\n"
)
PART = f"""## A heading

{PARAGRAPH * 3}
| Name | Number |
|:--|--:|
| apple | 1 |
| pear | 2 |

1. first
2. second, with $a^2 + b^2 = c^2$

```python
def add(a: int, b: int) -> int:
    return a + b  # the sum of two numbers
```

"""

OBSERVE = """
window.seen = {tasks: [], events: [], frames: [], fcp: 0, lcp: 0, shift: 0};
const observe = (type, add, options = {}) =>
  new PerformanceObserver((list) => list.getEntries().forEach(add)).observe({type, buffered: true, ...options});
observe("longtask", (entry) => seen.tasks.push([entry.startTime, entry.duration]));
observe("event", (entry) => seen.events.push([entry.startTime, entry.duration]), {durationThreshold: 16});
observe("paint", (entry) => { if (entry.name === "first-contentful-paint") seen.fcp = entry.startTime; });
observe("largest-contentful-paint", (entry) => { seen.lcp = entry.startTime; });
observe("layout-shift", (entry) => { seen.shift += entry.hadRecentInput ? 0 : entry.value; });
(function frame(now) { seen.frames.push(now); requestAnimationFrame(frame); })(performance.now());
"""


@contextmanager
def opened(browser: Any, server: PageServer, *, slow: bool = False, **options: Any) -> Iterator[tuple[ChatPage, Any]]:
    """Yield the page in a new profile, and a session of the DevTools protocol; ``slow``: on a slow phone."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.add_init_script(OBSERVE)
    tools = context.new_cdp_session(page)
    tools.send("Network.enable")
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})  # processor time
    if slow:
        speed = SLOW_PHONE["throughput"]
        limits = {"downloadThroughput": speed, "uploadThroughput": speed, "latency": SLOW_PHONE["latency"]}
        tools.send("Network.emulateNetworkConditions", {"offline": False, **limits})
        tools.send("Emulation.setCPUThrottlingRate", {"rate": SLOW_PHONE["cpu"]})
    yield ChatPage(page, server.url), tools
    context.close()


def measure_first_view(browser: Any, server: PageServer, name: str, *, slow: bool, **options: Any) -> str:
    """Return a row: times in milliseconds, bytes over the network, and how far the layout moved."""
    received: list[float] = []
    with opened(browser, server, slow=slow, **options) as (chat, tools):
        tools.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
        with chat.page.expect_event("requestfinished", lambda request: request.url.endswith("/openapi.json")):
            chat.open()
        chat.page.wait_for_load_state("networkidle")
        seen = chat.page.evaluate("seen")
    blocked = sum(max(0, duration - 50) for start, duration in seen["tasks"] if start + duration > seen["fcp"])
    numbers = f"{seen['fcp']:.0f} ms | {seen['lcp']:.0f} ms | {blocked:.0f} ms | {seen['shift']:.3f}"
    return f"| {name} | {numbers} | {sum(received) / 1000:.0f} kB | {len(received)} |"


def measure_streaming(chat: ChatPage, tools: Any, server: PageServer, name: str, answer: str, pace: float) -> str:
    """Return a row of what happens while an answer is written and the user types.

    The work is the processor time of the page's main thread, relative to the time that the engine needs for the text.
    """
    n_words = len(answer.split())
    server.script.answers, server.script.pace = [answer], pace
    busy_before, noise = (
        _busy_seconds(tools),
        NoiseMeter(child.pid for child in psutil.Process().children(recursive=True)),
    )
    chat.send("Write a long text", wait=False)
    chat.answer.locator("h2").first.wait_for()
    started = chat.page.evaluate("performance.now()")
    for _ in range(20):
        chat.message.press("a")
    chat.page.get_by_role("button", name="Send", exact=True).wait_for(timeout=600_000)
    seen, ended = chat.page.evaluate("[seen, performance.now()]")
    busy, others = _busy_seconds(tools) - busy_before, noise.share()
    server.script.pace = None
    chat.message.fill("")
    seconds = (ended - started) / 1000
    frames = [frame for frame in seen["frames"] if started <= frame <= ended]
    gaps = [after - before for before, after in itertools.pairwise(frames)]
    dropped = sum(max(0, round(gap / FRAME) - 1) for gap in gaps)
    tasks = [duration for start, duration in seen["tasks"] if started <= start <= ended]
    delays = [duration for start, duration in seen["events"] if started <= start <= ended] or [0.0]
    return (
        f"| {name} | {len(answer) / 1000:.0f} kB, {seconds:.0f} s | {len(frames) / seconds:.0f} "
        f"| {dropped} ({dropped / (len(gaps) + dropped):.1%}) | {max(gaps):.0f} ms | {len(tasks)} "
        f"| {max(delays):.0f} ms | {busy / (n_words / pace):.0%} | {others:.0%} |"
    )


def _busy_seconds(tools: Any) -> float:
    """Return the processor time that the page's main thread has used so far: scripts, layout and painting."""
    metrics = tools.send("Performance.getMetrics")["metrics"]
    return next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")


def answer_of(n_tokens: float) -> str:
    """Return a text of about this many of the engine's tokens, which are words."""
    return PART * max(1, round(n_tokens / len(PART.split())))


def import_conversations(chat: ChatPage, folder: Path, *, n_conversations: int, n_messages: int) -> None:
    """Fill the page with conversations; the last one is long, and is opened."""
    conversations, messages = [], []
    for c in range(n_conversations):
        n = n_messages if c == n_conversations - 1 else 2
        conversations.append(
            {"id": f"c{c}", "title": f"Talk {c}", "created": c, "updated": c, "pinned": False, "leaf": f"c{c}m{n - 1}"}
        )
        for m in range(n):
            message = {"id": f"c{c}m{m}", "conversation": f"c{c}", "parent": f"c{c}m{m - 1}" if m else None}
            role = "assistant" if m % 2 else "user"
            messages.append({**message, "role": role, "content": PARAGRAPH, "created": m, "status": "done"})
    path = folder / "conversations.json"
    file = {"format": "llamafw-conversations", "version": 1, "conversations": conversations, "messages": messages}
    path.write_text(json.dumps(file), "utf-8")
    chat.button("Settings").click()
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Import JSON or Markdown").click()
    chooser.value.set_files(path)
    chat.page.get_by_text("Imported conversations:").wait_for()
    chat.button("Close").click()
    chat.conversation(f"Talk {n_conversations - 1}").click()
    chat.answer.wait_for()


def measure_all(browser: Any, server: PageServer, folder: Path, pace: float, seconds: float) -> None:
    """Print both tables."""
    columns = (
        "first contentful paint | largest contentful paint | blocking time | layout shift | transferred | requests"
    )
    print(f"| First view | {columns} |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    print(measure_first_view(browser, server, "desktop", slow=False, viewport=DESKTOP))
    phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
    print(measure_first_view(browser, server, "slow phone", slow=True, **phone), flush=True)

    columns = "answer | frames/s | dropped frames | longest frame | long tasks | typing | work | others"
    print(f"\n| At {pace:.0f} tokens/s | {columns} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    server.script.n_ctx = 1 << 30
    with opened(browser, server, viewport=DESKTOP) as (chat, tools):
        chat.open()
        print(measure_streaming(chat, tools, server, "first answer", answer_of(pace * seconds), pace), flush=True)
        chat.button("New conversation").click()
        row = measure_streaming(chat, tools, server, "long answer", answer_of(pace * seconds * 4), pace)
        print(row, flush=True)
        import_conversations(chat, folder, n_conversations=300, n_messages=500)
        name = "500 messages, 300 conversations"
        print(measure_streaming(chat, tools, server, name, answer_of(pace * seconds), pace), flush=True)
    with opened(browser, server, slow=True, **phone) as (chat, tools):
        chat.open()
        print(measure_streaming(chat, tools, server, "slow phone", answer_of(pace * seconds), pace), flush=True)


def main() -> None:
    """Start a server and a browser, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pace", type=float, default=300, help="tokens per second")
    parser.add_argument("--seconds", type=float, default=10, help="length of an answer")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name, running_browser() as browser:
        model = write_tiny_gguf(Path(name) / "tiny.gguf", chat_template=TEMPLATE.read_text("utf-8"))
        with page_server(model) as server:
            measure_all(browser, server, Path(name), args.pace, args.seconds)


if __name__ == "__main__":
    main()
