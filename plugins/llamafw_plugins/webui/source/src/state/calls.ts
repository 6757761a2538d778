// The calls of the last answer: asks the user, runs tools of the page, and sends all results.

import type { Message, ToolCall } from "../data/types";
import { runTool, toolFor, type Tool } from "../tools/index";
import { t } from "../strings";
import { sendToolResults, shownPath } from "./actions";
import { onAnswerEnd } from "./answering";
import { opened, save } from "./app";
import { Store } from "./store";

const MAX_ROUNDS = 10; // of calls without a question, since the user's last message

export interface CallResult {
  text: string;
  isRunning: boolean;
}

// What is known of results that have not been sent yet, by the id of the message and the number of the call.
export const results = new Store<ReadonlyMap<string, CallResult>>(new Map());

export const resultKey = (message: Message, i: number): string => `${message.id}/${i}`;

// Returns the tool of the page that a call runs; undefined if the user has to enter the result.
export function pageTool(call: ToolCall): Tool | undefined {
  const { options, tools } = opened.value.conversation;
  return toolFor(call, options, tools);
}

// Runs a call; with `always`, also later ones of the same tool.
export async function run(message: Message, i: number, always: boolean): Promise<void> {
  const call = message.toolCalls![i]!;
  if (always) {
    const { id, allowed = [] } = opened.value.conversation;
    await save(id, [], { allowed: [...new Set([...allowed, call.name])] });
    await runAllowed(message);
  } else await runAll(message, [i]);
}

// Tells the model that the user does not want a call.
export async function refuse(message: Message, i: number): Promise<void> {
  enter(message, i, t("toolRefused"));
  await sendIfComplete(message);
}

// Keeps the result that the user has entered.
export function enter(message: Message, i: number, text: string): void {
  keep(message, i, { text, isRunning: false });
}

// Sends the results that are known. Calls of the page that were not allowed are refused; other missing results are empty.
export async function sendEntered(message: Message): Promise<void> {
  const known = results.value;
  const texts = (message.toolCalls ?? []).map(
    (call, i) => known.get(resultKey(message, i))?.text ?? (pageTool(call) ? t("toolRefused") : ""),
  );
  const others = [...known].filter(([key]) => !key.startsWith(`${message.id}/`));
  results.set(new Map(others));
  await sendToolResults(message, texts);
}

onAnswerEnd((message) => {
  if (message.toolCalls?.length && message.status === "done" && rounds() <= MAX_ROUNDS) void runAllowed(message);
});

// Runs the calls of an answer that need no question.
async function runAllowed(message: Message): Promise<void> {
  const { allowed = [] } = opened.value.conversation;
  const calls = message.toolCalls ?? [];
  await runAll(message, calls.flatMap((call, i) => (allowed.includes(call.name) && pageTool(call) ? [i] : [])));
}

async function runAll(message: Message, indices: number[]): Promise<void> {
  if (opened.value.conversation.id !== message.conversation) return; // the buttons are there when it is opened again
  const waiting = indices.filter((i) => !results.value.has(resultKey(message, i)));
  await Promise.all(
    waiting.map(async (i) => {
      const call = message.toolCalls![i]!;
      const tool = pageTool(call);
      if (!tool) return;
      keep(message, i, { text: "", isRunning: true });
      enter(message, i, await runTool(tool, call, shownPath()));
    }),
  );
  if (waiting.length) await sendIfComplete(message);
}

async function sendIfComplete(message: Message): Promise<void> {
  const calls = message.toolCalls ?? [];
  const known = calls.map((call, i) => pageTool(call) && results.value.get(resultKey(message, i)));
  const isShown = shownPath().at(-1)?.id === message.id;
  if (isShown && known.every((result) => result && !result.isRunning)) await sendEntered(message);
}

function keep(message: Message, i: number, result: CallResult): void {
  results.set(new Map(results.value).set(resultKey(message, i), result));
}

// Returns how many answers with calls there are since the user's last message.
function rounds(): number {
  const path = shownPath();
  const last = path.findLastIndex(({ role }) => role === "user");
  return path.slice(last + 1).filter(({ toolCalls }) => toolCalls?.length).length;
}
