// What the page stores: conversations, and their messages as trees.

export type Options = Record<string, unknown>; // request fields by name

export interface Settings {
  system: string;
  options: Options;
  tools?: string[]; // the names of the page's tools that the model is offered
}

export interface Conversation extends Settings {
  id: string;
  title: string;
  created: number; // milliseconds since 1970
  updated: number;
  pinned: boolean;
  leaf: string | null; // the last message of the branch that is shown
  allowed?: string[]; // the names of the tools that run without asking
}

export interface Attachment {
  name: string;
  text: string; // "" of an image
  pages?: number; // of a PDF
  image?: string; // its data: URL
}

export interface ToolCall {
  id: string;
  name: string;
  arguments: string; // JSON, incomplete while it is written
}

export interface TokenProbability {
  token: string;
  bytes: number[];
  logprob: number;
  top: { token: string; logprob: number }[];
}

export interface Timings {
  cache_n: number;
  prompt_n: number;
  prompt_per_second: number;
  predicted_n: number;
  predicted_per_second: number;
}

export interface Failure {
  kind: "network" | "key" | "busy" | "loading" | "context" | "invalid" | "server" | "lost";
  message: string; // the server's, for the kinds whose text the page does not know
  param?: string; // the field that is wrong
  retryAfter?: number; // seconds
}

export interface Message {
  id: string;
  conversation: string;
  parent: string | null;
  role: "user" | "assistant" | "tool";
  content: string;
  created: number;
  // "writing": a tab reads the answer. "stopped": the user stopped it. "failed": see failure.
  status: "done" | "writing" | "stopped" | "failed";
  reasoning?: string;
  attachments?: Attachment[];
  toolCalls?: ToolCall[];
  toolCallId?: string; // of a message with the role "tool"
  failure?: Failure;
  finish?: string; // the API's finish_reason
  truncated?: boolean; // the context became full
  isJson?: boolean; // the request had a schema
  model?: string;
  timings?: Timings;
  tokens?: TokenProbability[];
  stream?: string; // the id with which the server's stream can be read again
  before?: { content: string; reasoning: string }; // what the message had before it was continued
}

export type Messages = ReadonlyMap<string, Message>;

export interface Preset extends Settings {
  name: string;
}

// Returns 128 random bits. `crypto.randomUUID` exists only on pages with HTTPS.
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
