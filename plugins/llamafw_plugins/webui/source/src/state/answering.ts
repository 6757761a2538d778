// Asks the server for answers and writes them into messages, also after the page was reloaded.

import { storeAtOnce } from "../data/database";
import { newId, type Conversation, type Message, type Options } from "../data/types";
import { pathTo } from "../data/tree";
import { asksForJson, chatBody, withEvent, type Progress } from "../server/chat";
import { readEvents } from "../server/events";
import { isAbort, request, RequestError } from "../server/request";
import { opened, preferences, save, setWriter, show } from "./app";
import { withTools } from "../tools/index";
import { FILE_READER } from "../tools/files";
import { Store } from "./store";
import { answerFor, isWrittenElsewhere } from "./tabs";

const SAVE_INTERVAL = 1000; // milliseconds
const SHOW_INTERVAL = 50; // milliseconds between two steps in which an answer grows; the rest is for the user's input

const controllers = new Map<string, AbortController>(); // of the messages that this tab writes
export const progress = new Store<ReadonlyMap<string, Progress>>(new Map()); // of the prompts that are read

addEventListener("pagehide", () => {
  storeAtOnce([...opened.value.messages.values()].filter(({ id }) => controllers.has(id)));
});

let ended: (message: Message) => void = () => {};

// Sets the function that is called with each answer that this tab has written, when it is stored.
export function onAnswerEnd(listener: (message: Message) => void): void {
  ended = listener;
}

setWriter((id) => controllers.has(id));
answerFor((id) => controllers.has(id));

// Answers the message `parent` of the open conversation. `extra` are request fields for this answer only.
export async function answer(parent: string, extra: Options = {}): Promise<void> {
  const { conversation } = opened.value;
  const message: Message = {
    ...{ id: newId(), conversation: conversation.id, parent, role: "assistant", content: "", status: "writing" },
    ...{ created: Date.now(), stream: newId(), isJson: asksForJson(conversation.options) },
  };
  await save(conversation.id, [message], { leaf: message.id, updated: message.created });
  await ask(conversation, message, extra);
}

// Asks again for an answer that has failed before its first word.
export async function retry(message: Message, extra: Options = {}): Promise<void> {
  const next: Message = { ...message, status: "writing", failure: undefined, finish: undefined, stream: newId() };
  await save(message.conversation, [next]);
  await ask(opened.value.conversation, next, extra);
}

// Lets the model go on with an answer.
export async function continueAnswer(message: Message, extra: Options = {}): Promise<void> {
  const before = { content: message.content, reasoning: message.reasoning ?? "" };
  await retry({ ...message, before }, extra);
}

// Stops an answer; what has been written stays.
export function stop(message: Message): void {
  controllers.get(message.id)?.abort();
  void request(streamPath(message), { method: "DELETE" }).catch(() => {}); // else it would go on without this page
}

// Goes on with an answer that was written when the page was closed or reloaded.
export async function resume(message: Message): Promise<void> {
  if (controllers.has(message.id) || (await isWrittenElsewhere(message.id)) || controllers.has(message.id)) return;
  await readAgain(message);
}

// Reads the stream of a message from its start. If the server does not keep it, the message stays as it is.
async function readAgain(message: Message): Promise<void> {
  const { content, reasoning } = message.before ?? { content: "", reasoning: "" };
  const empty: Message = { ...message, content, reasoning, toolCalls: undefined, tokens: undefined };
  await write(empty, (signal) => request(`${streamPath(message)}&from=0`, { signal }), message);
}

async function ask(conversation: Conversation, message: Message, extra: Options): Promise<void> {
  const path = pathTo(opened.value.messages, message.before ? message.id : message.parent);
  const tools = conversation.tools ?? [];
  const options = { ...withTools(conversation.options, tools), ...extra };
  const settings = { probabilities: preferences.value.probabilities, namesFiles: tools.includes(FILE_READER) };
  const body = JSON.stringify(chatBody(conversation.system, path, options, settings));
  const headers = { "X-Conversation-Id": message.stream! };
  await write(message, (signal) => request("v1/chat/completions", { method: "POST", body, headers, signal }));
}

// Writes a stream into a message. `known` is what is known of a stream that is read again.
async function write(start: Message, send: (signal: AbortSignal) => Promise<Response>, known?: Message): Promise<void> {
  const controller = new AbortController();
  let message = start;
  let hasBegun = false;
  setRunning(message.id, controller);
  try {
    for await (const [next, read] of readInto(message, await send(controller.signal))) {
      message = next;
      hasBegun = true;
      if (read) progress.set(new Map(progress.value).set(message.id, read));
    }
    message = { ...message, ...(message.finish ? { status: "done" } : LOST) };
  } catch (error) {
    message = { ...((!hasBegun && known) || message), ...endOf(error, known !== undefined) };
  }
  setRunning(message.id, null);
  if (hasBegun && !known && message.failure?.kind === "lost") return readAgain(message); // the connection has failed
  message = { ...message, stream: undefined, before: undefined };
  await save(message.conversation, [message]);
  ended(message);
}

// Yields the message after each event, shows it twenty times and stores it once per second.
async function* readInto(start: Message, response: Response): AsyncGenerator<[Message, Progress | undefined]> {
  let message = start;
  let frame = 0;
  let showing: number | undefined;
  let timer: number | undefined;
  const showLatest = () => {
    showing = undefined;
    show(message);
  };
  const store = () => {
    timer = undefined;
    void save(message.conversation, [message]);
  };
  try {
    for await (const event of readEvents(response)) {
      const [latest, read] = withEvent(message, event);
      message = latest;
      showing ??= setTimeout(() => (frame = requestAnimationFrame(showLatest)), SHOW_INTERVAL);
      timer ??= setTimeout(store, SAVE_INTERVAL);
      yield [message, read];
    }
  } finally {
    cancelAnimationFrame(frame);
    clearTimeout(showing);
    clearTimeout(timer);
  }
}

const LOST: Partial<Message> = { status: "failed", failure: { kind: "lost", message: "" } };

function endOf(error: unknown, isReadAgain: boolean): Partial<Message> {
  if (isAbort(error)) return { status: "stopped" };
  if (!(error instanceof RequestError)) return LOST;
  const isGone = isReadAgain && ["invalid", "network"].includes(error.failure.kind); // 404: it is not kept
  return isGone ? LOST : { status: "failed", failure: error.failure };
}

function setRunning(id: string, controller: AbortController | null): void {
  if (controller) controllers.set(id, controller);
  else controllers.delete(id);
  const known = new Map(progress.value);
  known.delete(id);
  progress.set(known);
}

const streamPath = (message: Message): string => `v1/stream?conv_id=${encodeURIComponent(message.stream ?? "")}`;
