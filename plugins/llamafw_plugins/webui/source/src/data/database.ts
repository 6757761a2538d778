// Keeps conversations and messages in IndexedDB. If the browser has none, they live as long as the page.

import type { Conversation, Message } from "./types";

// Servers with different models may share a host, each below its own path.
export const scope = `llamafw:${location.pathname.replace(/[^/]*$/, "")}`;

let opening: Promise<IDBDatabase> | null = null;
let current: IDBDatabase | null = null; // once it is open
let failed: (error: unknown) => void = () => {};

// Calls `listener` when something could not be stored.
export function onStorageFailure(listener: (error: unknown) => void): void {
  failed = listener;
}

function open(): Promise<IDBDatabase> {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(scope, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      const messages = request.result.createObjectStore("messages", { keyPath: "id" });
      messages.createIndex("conversation", "conversation");
    };
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close(); // a newer page in another tab
      current = request.result;
      resolve(current);
    };
    request.onerror = () => reject(request.error);
  });
  return opening;
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function orElse<T>(value: T, action: (database: IDBDatabase) => Promise<T>): Promise<T> {
  try {
    return await action(await open());
  } catch (error) {
    failed(error);
    return value;
  }
}

// Returns all conversations, in no order.
export const readConversations = (): Promise<Conversation[]> =>
  orElse([], (database) => result(database.transaction("conversations").objectStore("conversations").getAll()));

// Returns one conversation.
export const readConversation = (id: string): Promise<Conversation | undefined> =>
  orElse(undefined, (database) => result(database.transaction("conversations").objectStore("conversations").get(id)));

// Returns the messages of a conversation, in no order.
export const readMessages = (conversation: string): Promise<Message[]> =>
  orElse([], (database) =>
    result(database.transaction("messages").objectStore("messages").index("conversation").getAll(conversation)),
  );

// Returns the messages of all conversations, in no order.
export const readAllMessages = (): Promise<Message[]> =>
  orElse([], (database) => result(database.transaction("messages").objectStore("messages").getAll()));

// Stores new conversations and their messages, all or none of them.
export const store = (conversations: Conversation[], messages: Message[]): Promise<void> =>
  orElse(undefined, (database) => {
    const transaction = database.transaction(["conversations", "messages"], "readwrite");
    for (const conversation of conversations) transaction.objectStore("conversations").put(conversation);
    for (const message of messages) transaction.objectStore("messages").put(message);
    return finished(transaction);
  });

// Changes fields of a conversation and stores messages of it. Does nothing if another tab has deleted the conversation.
export const change = (id: string, fields: Partial<Conversation>, messages: Message[]): Promise<void> =>
  orElse(undefined, (database) => {
    const transaction = database.transaction(["conversations", "messages"], "readwrite");
    const conversations = transaction.objectStore("conversations");
    const reading = conversations.get(id) as IDBRequest<Conversation | undefined>;
    reading.onsuccess = () => {
      if (!reading.result) return;
      conversations.put({ ...reading.result, ...fields });
      for (const message of messages) transaction.objectStore("messages").put(message);
    };
    return finished(transaction);
  });

// Stores messages while the page is being closed, when nothing can be awaited.
export function storeAtOnce(messages: Message[]): void {
  const transaction = current?.transaction("messages", "readwrite");
  for (const message of messages) transaction?.objectStore("messages").put(message);
  transaction?.commit();
}

// Removes a conversation and its messages.
export const remove = (conversation: string): Promise<void> =>
  orElse(undefined, (database) => {
    const transaction = database.transaction(["conversations", "messages"], "readwrite");
    transaction.objectStore("conversations").delete(conversation);
    const messages = transaction.objectStore("messages");
    const keys = messages.index("conversation").getAllKeys(conversation);
    keys.onsuccess = () => keys.result.forEach((key) => messages.delete(key));
    return finished(transaction);
  });
