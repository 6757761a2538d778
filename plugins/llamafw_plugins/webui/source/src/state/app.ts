// The state that the whole page shares: all conversations, the one that is open, and preferences.

import * as database from "../data/database";
import { readPreferences, writePreferences, type Preferences } from "../data/preferences";
import { newId, type Conversation, type Message, type Messages } from "../data/types";
import { listen, tell } from "./tabs";
import { Store } from "./store";

export interface Opened {
  conversation: Conversation;
  messages: Messages;
}

export const preferences = new Store<Preferences>(readPreferences());
export const conversations = new Store<readonly Conversation[]>([]); // all that are stored
export const opened = new Store<Opened>(blank());
export const storageFailed = new Store(false);

// Changes preferences and stores them.
export function prefer(change: Partial<Preferences>): void {
  preferences.set({ ...preferences.value, ...change });
  writePreferences(preferences.value);
}

// Reads what is stored, opens the conversation of the address, and follows changes of the address and of other tabs.
export async function start(): Promise<void> {
  database.onStorageFailure(() => storageFailed.set(true));
  conversations.set(await database.readConversations());
  addEventListener("hashchange", () => void openFromAddress());
  listen((id) => void refresh(id));
  await openFromAddress();
}

// Shows an empty conversation, which is stored when the first message is sent.
export function openNew(): void {
  location.hash = "#/";
  if (isStored(opened.value.conversation.id)) opened.set(blank());
}

// Shows a conversation.
export function open(id: string): void {
  location.hash = `#/${id}`;
}

export function isStored(id: string): boolean {
  return conversations.value.some((conversation) => conversation.id === id);
}

async function openFromAddress(): Promise<void> {
  const id = location.hash.replace(/^#\/?/, "");
  if (id === opened.value.conversation.id) return;
  const conversation = conversations.value.find((conversation) => conversation.id === id);
  if (!conversation) {
    if (id) history.replaceState(null, "", "#/");
    opened.set(blank());
    return;
  }
  const messages = toMap(await database.readMessages(id));
  if (location.hash === `#/${id}`) opened.set({ conversation: newest(conversation), messages });
}

// Stores a new conversation with its first message, and opens it.
export async function create(first: Message): Promise<void> {
  const conversation = { ...opened.value.conversation, leaf: first.id, created: first.created, updated: first.created };
  conversation.title = titleOf(first);
  conversations.set([...conversations.value, conversation]);
  opened.set({ conversation, messages: toMap([first]) });
  history.replaceState(null, "", `#/${conversation.id}`);
  await database.store([conversation], [first]);
  tell(conversation.id);
}

// Shows a message as it is now; a message that is written changes often, and is stored less often.
export function show(message: Message): void {
  const { conversation, messages } = opened.value;
  if (conversation.id !== message.conversation) return;
  opened.set({ conversation, messages: new Map(messages).set(message.id, message) });
}

// Shows and stores messages of one conversation, and changes fields of the conversation.
export async function save(id: string, messages: Message[], fields: Partial<Conversation> = {}): Promise<void> {
  messages.forEach(show);
  if (Object.keys(fields).length) {
    conversations.set(conversations.value.map((each) => (each.id === id ? { ...each, ...fields } : each)));
    if (opened.value.conversation.id === id) {
      opened.set({ ...opened.value, conversation: { ...opened.value.conversation, ...fields } });
    }
  }
  if (!isStored(id)) return;
  await database.change(id, fields, messages);
  tell(id);
}

// Removes conversations for good.
export async function remove(ids: string[]): Promise<void> {
  conversations.set(conversations.value.filter((conversation) => !ids.includes(conversation.id)));
  if (ids.includes(opened.value.conversation.id)) {
    history.replaceState(null, "", "#/");
    opened.set(blank());
  }
  for (const id of ids) {
    await database.remove(id);
    tell(id);
  }
}

// Adds conversations from a file.
export async function add(added: Conversation[], messages: Message[]): Promise<void> {
  await database.store(added, messages);
  conversations.set([...conversations.value, ...added]);
  added.forEach(({ id }) => tell(id));
}

// Reads a conversation again that another tab has changed. Messages that this tab writes stay as they are.
async function refresh(id: string): Promise<void> {
  const conversation = await database.readConversation(id);
  const others = conversations.value.filter((other) => other.id !== id);
  conversations.set(conversation ? [...others, conversation] : others);
  if (opened.value.conversation.id !== id) return;
  if (!conversation) {
    history.replaceState(null, "", "#/");
    opened.set(blank());
    return;
  }
  const messages = toMap(await database.readMessages(id));
  for (const message of opened.value.messages.values()) if (isWrittenHere(message.id)) messages.set(message.id, message);
  if (opened.value.conversation.id === id) opened.set({ conversation: newest(conversation), messages });
}

let isWrittenHere: (id: string) => boolean = () => false;

// Sets the function that tells whether this tab writes a message.
export function setWriter(isWritten: (id: string) => boolean): void {
  isWrittenHere = isWritten;
}

function newest(conversation: Conversation): Conversation {
  return conversations.value.find((other) => other.id === conversation.id) ?? conversation;
}

function blank(): Opened {
  const { system, options, tools } = preferences.value.last;
  const conversation: Conversation = {
    ...{ id: newId(), title: "", created: 0, updated: 0, pinned: false, leaf: null },
    ...{ system, options, tools },
  };
  return { conversation, messages: new Map() };
}

function titleOf(message: Message): string {
  const line = message.content.trim().split("\n")[0] || message.attachments?.[0]?.name || "";
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

function toMap(messages: Message[]): Map<string, Message> {
  return new Map(messages.map((message) => [message.id, message]));
}
