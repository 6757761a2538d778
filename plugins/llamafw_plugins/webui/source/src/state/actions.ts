// What the user can do in the open conversation.

import { newestLeaf, pathTo } from "../data/tree";
import { newId, type Attachment, type Message, type Settings } from "../data/types";
import { answer, continueAnswer, retry, stop } from "./answering";
import { create, isStored, opened, prefer, save } from "./app";

// Returns the messages of the branch that is shown.
export function shownPath(): Message[] {
  return pathTo(opened.value.messages, opened.value.conversation.leaf);
}

// Sends a message and asks for an answer.
export async function send(content: string, attachments: Attachment[]): Promise<void> {
  await sendAfter(opened.value.conversation.leaf, content, attachments);
}

// Sends another message in place of one that was sent before, as a new branch.
export async function sendInstead(message: Message, content: string): Promise<void> {
  await sendAfter(message.parent, content, message.attachments ?? []);
}

async function sendAfter(parent: string | null, content: string, attachments: Attachment[]): Promise<void> {
  const { conversation } = opened.value;
  const message: Message = {
    ...{ id: newId(), conversation: conversation.id, parent, role: "user", content, status: "done" },
    ...{ created: Date.now(), ...(attachments.length ? { attachments } : {}) },
  };
  if (isStored(conversation.id)) await save(conversation.id, [message], { leaf: message.id, updated: message.created });
  else await create(message);
  await answer(message.id);
}

// Replaces the text of an answer, as a new branch.
export async function replaceAnswer(message: Message, content: string): Promise<void> {
  const { conversation, parent, model, reasoning } = message;
  const edited: Message = {
    ...{ id: newId(), conversation, parent, role: "assistant", content, status: "done", created: Date.now() },
    ...{ model, reasoning },
  };
  await save(conversation, [edited], { leaf: edited.id, updated: edited.created });
}

// Answers again: another branch, or in place of an answer that has no text.
export async function regenerate(message: Message, extra = {}): Promise<void> {
  if (isEmpty(message)) await retry(message, extra);
  else if (message.parent !== null) await answer(message.parent, extra);
}

// Tries again after a failure, and keeps the text that an answer has already.
export async function tryAgain(message: Message, extra = {}): Promise<void> {
  await (isEmpty(message) || message.toolCalls ? regenerate(message, extra) : continueAnswer(message, extra));
}

// Answers the user's last message if nothing has answered it yet.
export async function answerLast(): Promise<void> {
  const last = shownPath().at(-1);
  if (last && last.role !== "assistant") await answer(last.id);
}

// Sends the results of the calls of an answer, and lets the model go on.
export async function sendToolResults(message: Message, results: string[]): Promise<void> {
  let parent = message.id;
  const messages = (message.toolCalls ?? []).map((call, i): Message => {
    const content = results[i] ?? "";
    const result: Message = {
      ...{ id: newId(), conversation: message.conversation, parent, role: "tool", content, status: "done" },
      ...{ created: Date.now() + i, toolCallId: call.id },
    };
    parent = result.id;
    return result;
  });
  await save(message.conversation, messages, { leaf: parent });
  await answer(parent);
}

// Shows the branch of a message.
export async function showBranch(message: Message): Promise<void> {
  await save(message.conversation, [], { leaf: newestLeaf(opened.value.messages, message.id) });
}

// Returns whether an answer is written in the open conversation.
export function isAnswering(): boolean {
  return shownPath().some(({ status }) => status === "writing");
}

// Stops the answer that is written in the open conversation; returns whether there was one.
export function stopAnswer(): boolean {
  const message = shownPath().find(({ status }) => status === "writing");
  if (message) stop(message);
  return message !== undefined;
}

// Changes the system prompt or the options of the open conversation, and of new ones.
export async function changeSettings(change: Partial<Settings>): Promise<void> {
  const { id, system, options, tools } = opened.value.conversation;
  prefer({ last: { system, options, tools, ...change } });
  await save(id, [], change);
}

// Returns whether an answer has no text, no reasoning and no calls.
export function isEmpty(message: Message): boolean {
  return !message.content && !message.reasoning && !message.toolCalls?.length;
}
