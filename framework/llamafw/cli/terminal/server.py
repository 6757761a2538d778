"""The server that a chat talks to, as the main thread sees it: at a URL, or in this process."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from llamafw.cli.logs import set_up_logging
from llamafw.cli.terminal.answers import Answer
from llamafw.cli.terminal.client import ApiClient, ApiError
from llamafw.cli.terminal.conversation import Conversation
from llamafw.cli.terminal.fields import Fields
from llamafw.cli.terminal.flags import Invocation
from llamafw.cli.terminal.loop_thread import LoopThread

if TYPE_CHECKING:
    from rich.console import Console

    from llamafw.cli.terminal.view import View

CHAT_PATH = "/v1/chat/completions"
COUNT_PATH = f"{CHAT_PATH}/input_tokens"
_LOCAL_URL = "http://llamafw"  # of requests to the application in this process


class ChatServer:
    """A connected server.

    Parameters
    ----------
    loop : LoopThread
        Where the client runs.
    client : ApiClient
        The client.
    """

    def __init__(self, loop: LoopThread, client: ApiClient) -> None:
        self._loop, self._client = loop, client
        loop.run(client.wait_until_ready())
        self.fields = Fields(self._optional("/openapi.json"))
        props = self._optional("/props")
        props = props if isinstance(props, dict) else {}
        defaults = props.get("default_generation_settings")
        self.n_ctx: int | None = (defaults or {}).get("n_ctx")
        self.model_name = str(props.get("model_alias") or "") or self._first_model()
        self._must_name_model = defaults is None and bool(self.model_name)  # some other servers need it

    def answer(self, conversation: Conversation, view: View, stop: threading.Event) -> Answer:
        """Ask for an answer, and show it while it comes.

        Parameters
        ----------
        conversation : Conversation
            Ends with a user's message, or with an answer that is to be continued. It is not changed.
        view : View
            Shows the answer.
        stop : threading.Event
            When it is set, the answer ends early.

        Raises
        ------
        ApiError
            The request has failed. Its attribute ``answer`` is the part that was received before.
        """
        answer = Answer()
        body = conversation.body(progress=self.fields.has_progress)
        if self._must_name_model:
            body.setdefault("model", self.model_name)
        events = self._loop.iterate(self._client.stream(CHAT_PATH, body))
        try:
            with contextlib.closing(events):
                for event in events:
                    if stop.is_set():
                        break
                    if event is not None:
                        view.add(*answer.add(event))
                    else:
                        view.wait(answer.progress)
        except ApiError as error:
            error.answer = answer
            raise
        finally:
            view.finish()
        return answer

    def count_tokens(self, conversation: Conversation) -> int:
        """Return the number of tokens of a conversation as a prompt; raise ApiError."""
        counted = self._loop.run(self._client.post(COUNT_PATH, {"messages": conversation.api_messages}))
        return int(counted["input_tokens"])

    def _optional(self, path: str) -> Any:
        """Return what the server has at a path; None if it does not have that."""
        try:
            return self._loop.run(self._client.get(path))
        except ApiError as error:
            if error.status in (0, 401, 403):
                raise
            return None

    def _first_model(self) -> str:
        models = (self._optional("/v1/models") or {}).get("data") or [{}]
        return str(models[0].get("id", ""))


@contextlib.contextmanager
def connect(invocation: Invocation, console: Console) -> Iterator[ChatServer]:
    """Connect to the server at ``--url``, or load a model and run the server's application in this process.

    Raises
    ------
    LlamafwError
        The server cannot be reached, or the model cannot be loaded.
    """
    loop = LoopThread()
    try:
        with contextlib.ExitStack() as stack:
            connected = _remote if invocation.args.url is not None else _local
            yield stack.enter_context(connected(invocation, console, loop))
    finally:
        loop.close()


@contextlib.contextmanager
def _remote(invocation: Invocation, console: Console, loop: LoopThread) -> Iterator[ChatServer]:
    client = ApiClient(invocation.args.url, invocation.api_key)
    try:
        with console.status("connecting"):
            server = ChatServer(loop, client)
        yield server
    finally:
        loop.run(client.close())


@contextlib.contextmanager
def _local(invocation: Invocation, console: Console, loop: LoopThread) -> Iterator[ChatServer]:
    from llamafw.cli.serve import prepare_model  # slow imports, which --help and --url do not need
    from llamafw.cli.terminal.app_transport import AppTransport
    from llamafw.server.in_process import run_in_process

    settings, plugins = invocation.settings, invocation.plugins
    set_up_logging(settings)
    plugins.log_disabled()
    load = prepare_model(settings, plugins, logging.getLogger("llamafw").info)
    with console.status("loading the model"):
        model = load()  # on the main thread, so that an error of it is raised here
        application = run_in_process(settings, plugins, lambda: model)
        asgi = loop.run(application.__aenter__())
    try:
        client = ApiClient(_LOCAL_URL, invocation.api_key, AppTransport(asgi))
        yield ChatServer(loop, client)
    finally:
        loop.run(application.__aexit__(None, None, None))


@contextlib.contextmanager
def catch_interrupt() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets, instead of raising KeyboardInterrupt."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
