// The branches of a conversation. A message's parent is the message that it answers.

import type { Message, Messages } from "./types";

// Returns the messages from the first one to `leaf`.
export function pathTo(messages: Messages, leaf: string | null): Message[] {
  const path: Message[] = [];
  for (let message = find(messages, leaf); message; message = find(messages, message.parent)) path.push(message);
  return path.reverse();
}

// Returns the messages with the same parent, by the parent's id, the oldest first.
export function childrenByParent(messages: Messages): Map<string | null, Message[]> {
  const children = new Map<string | null, Message[]>();
  for (const message of messages.values()) {
    const known = children.get(message.parent);
    if (known) known.push(message);
    else children.set(message.parent, [message]);
  }
  for (const known of children.values()) known.sort(byAge);
  return children;
}

// Returns the id of the newest message below `id`, following the newest branch.
export function newestLeaf(messages: Messages, id: string): string {
  const newest = new Map<string | null, Message>();
  for (const message of [...messages.values()].sort(byAge)) newest.set(message.parent, message);
  let leaf = id;
  for (let next = newest.get(leaf); next; next = newest.get(leaf)) leaf = next.id;
  return leaf;
}

function find(messages: Messages, id: string | null): Message | undefined {
  return id === null ? undefined : messages.get(id);
}

function byAge(a: Message, b: Message): number {
  return a.created - b.created || (a.id < b.id ? -1 : 1);
}
