// Writes conversations as JSON or Markdown, and reads such files.

import { newId, type Attachment, type Conversation, type Message } from "./types";
import { pathTo } from "./tree";

const FORMAT = "llamafw-conversations";
const MARK = "<!-- llamafw:"; // starts the line above each part of a Markdown file

export interface Transfer {
  conversations: Conversation[];
  messages: Message[];
}

// Returns conversations with all their branches as JSON.
export function toJson({ conversations, messages }: Transfer): string {
  return JSON.stringify({ format: FORMAT, version: 1, conversations, messages }, null, 2);
}

// Returns the branch of a conversation that is shown as Markdown.
export function toMarkdown(conversation: Conversation, messages: Message[]): string {
  const path = pathTo(new Map(messages.map((message) => [message.id, message])), conversation.leaf);
  const parts = [
    `${MARK}conversation -->\n# ${conversation.title}`,
    ...(conversation.system ? [`${MARK}system -->\n## System prompt\n\n${escape(conversation.system)}`] : []),
    ...path.flatMap(partsOf),
  ];
  return `${parts.join("\n\n")}\n`;
}

const HEADINGS = { user: "You", assistant: "Assistant", tool: "Tool result" };

function partsOf(message: Message): string[] {
  const files = (message.attachments ?? []).map(fileOf);
  const reasoning = message.reasoning ? [`${MARK}reasoning -->\n${escape(message.reasoning)}`] : [];
  const calls = message.toolCalls?.length ? [`${MARK}calls -->\n${escape(JSON.stringify(message.toolCalls))}`] : [];
  const tool = message.toolCallId ? ` ${encodeURIComponent(message.toolCallId)}` : "";
  const text = `${MARK}${message.role}${tool} -->\n## ${HEADINGS[message.role]}\n\n${escape(message.content)}`;
  return [text, ...files, ...reasoning, ...calls];
}

function fileOf({ name, text, image }: Attachment): string {
  const kind = image ? "image" : "file";
  return `${MARK}${kind} ${encodeURIComponent(name)} -->\n${image ? `![](${image})` : escape(text)}`;
}

// A text may itself contain a line that looks like a mark.
const escape = (text: string) => text.replaceAll("<!-- llamafw", "<!-- llamafw\\");
const unescape = (text: string) => text.replaceAll("<!-- llamafw\\", "<!-- llamafw");

// Reads a file that `toJson` or `toMarkdown` has written. Everything gets new ids, so that nothing is replaced.
// Returns null if it is another file.
export function read(text: string): Transfer | null {
  try {
    return text.trimStart().startsWith("{") ? fromJson(JSON.parse(text)) : fromMarkdown(text);
  } catch {
    return null;
  }
}

function fromJson(file: { format?: string } & Partial<Transfer>): Transfer | null {
  if (file.format !== FORMAT || !Array.isArray(file.conversations) || !Array.isArray(file.messages)) return null;
  const ids = new Map([...file.conversations, ...file.messages].map(({ id }) => [id, newId()]));
  const of = (id: string | null) => (id === null ? null : (ids.get(id) ?? null));
  const conversations = file.conversations.map((conversation) => ({
    ...conversation,
    ...{ id: of(conversation.id)!, leaf: of(conversation.leaf), title: String(conversation.title) },
    ...{ system: String(conversation.system ?? ""), options: conversation.options ?? {} },
    allowed: undefined, // whoever has written the file does not decide what runs here
  }));
  const known = file.messages.filter((message) => ids.has(message.conversation));
  const messages = known.map((message) => ({
    ...message,
    ...{ id: of(message.id)!, conversation: of(message.conversation)!, parent: of(message.parent) },
    ...{ content: String(message.content), status: message.status === "writing" ? "stopped" : message.status },
  })) as Message[];
  return { conversations, messages };
}

function fromMarkdown(text: string): Transfer | null {
  const parts = text.split(new RegExp(`^${MARK}(.*) -->\\r?\\n`, "m")).slice(1);
  if (parts[0] !== "conversation") return null;
  const now = Date.now();
  const conversation: Conversation = {
    ...{ id: newId(), title: parts[1]!.replace(/^# /, "").trim(), created: now, updated: now },
    ...{ pinned: false, leaf: null, system: "", options: {} },
  };
  const messages: Message[] = [];
  for (let i = 2; i < parts.length; i += 2) {
    const [kind, argument = ""] = parts[i]!.split(" ");
    const raw = parts[i + 1]!.replace(/\r?\n\r?\n?$/, "");
    const body = unescape(raw);
    const titled = unescape(raw.replace(/^## .*\r?\n\r?\n?/, ""));
    const last = messages.at(-1);
    if (kind === "system") conversation.system = titled;
    else if (kind === "file") attach(last!, { name: decodeURIComponent(argument), text: body });
    else if (kind === "image") attach(last!, { name: decodeURIComponent(argument), text: "", image: body.slice(4, -1) });
    else if (kind === "reasoning") last!.reasoning = body;
    else if (kind === "calls") last!.toolCalls = JSON.parse(body);
    else messages.push(messageFrom(kind as Message["role"], titled, decodeURIComponent(argument), conversation, messages));
  }
  conversation.leaf = messages.at(-1)?.id ?? null;
  return { conversations: [conversation], messages };
}

function attach(message: Message, file: Attachment): void {
  message.attachments = [...(message.attachments ?? []), file];
}

function messageFrom(
  role: Message["role"],
  content: string,
  toolCallId: string,
  conversation: Conversation,
  messages: Message[],
): Message {
  if (!(role in HEADINGS)) throw new Error(`unknown part ${role}`);
  return {
    ...{ id: newId(), conversation: conversation.id, parent: messages.at(-1)?.id ?? null, role, content },
    ...{ created: conversation.created + messages.length, status: "done" },
    ...(toolCallId ? { toolCallId } : {}),
  };
}
