// Turns a branch into the body of a chat request, and the events of its stream into a message.

import type { Attachment, Message, Options, Timings, TokenProbability, ToolCall } from "../data/types";
import { FILE_READER } from "../tools/files";
import { failureOf, RequestError } from "./request";

export interface Progress {
  processed: number;
  total: number;
}

interface ChatSettings {
  probabilities: boolean; // ask for log-probabilities
  namesFiles: boolean; // the model reads long files with a tool
}

// Returns the request's body. The messages end with a user's, or with an answer that is continued.
export function chatBody(system: string, path: Message[], options: Options, settings: ChatSettings): object {
  return {
    ...options,
    messages: [
      ...(system.trim() ? [{ role: "system", content: system }] : []),
      ...path.map((message) => apiMessage(message, settings.namesFiles)),
    ],
    stream: true,
    stream_options: { include_usage: true },
    timings_per_token: true,
    return_progress: true,
    ...(settings.probabilities ? { logprobs: true, top_logprobs: 5 } : {}),
    ...continuation(path.at(-1)),
  };
}

// Returns whether a request asks for JSON.
export function asksForJson(options: Options): boolean {
  const format = options.response_format as { type?: string } | undefined;
  return options.json_schema !== undefined || (format !== undefined && format.type !== "text");
}

// Returns a message as the API has it.
function apiMessage(message: Message, namesFiles: boolean): object {
  if (message.role === "user") return { role: "user", content: contentOf(message, namesFiles) };
  if (message.role === "tool") return { role: "tool", content: message.content, tool_call_id: message.toolCallId };
  const calls = message.toolCalls?.map((call) => ({
    id: call.id,
    type: "function",
    function: { name: call.name, arguments: call.arguments || "{}" },
  }));
  return {
    role: "assistant",
    content: message.content,
    ...(message.reasoning ? { reasoning_content: message.reasoning } : {}),
    ...(calls?.length ? { tool_calls: calls } : {}),
  };
}

const MAX_INLINE = 2000; // characters of files that are part of the message although the model can read them with a tool

// Returns a user's text with the texts of attached files; with images, as parts.
function contentOf(message: Message, namesFiles: boolean): string | object[] {
  const attachments = message.attachments ?? [];
  const files = attachments.filter(({ image }) => !image);
  const images = attachments.filter(({ image }) => image);
  const parts = files.map((file) => (namesFiles && file.text.length > MAX_INLINE ? nameOf(file) : textOf(file)));
  const text = [...parts, message.content].filter(Boolean).join("\n\n");
  if (!images.length) return text;
  const urls = images.map(({ image }) => ({ type: "image_url", image_url: { url: image } }));
  return [...urls, ...(text ? [{ type: "text", text }] : [])];
}

function textOf({ name, text }: Attachment): string {
  const fence = "`".repeat(Math.max(3, ...(text.match(/`+/g) ?? []).map((run) => run.length + 1)));
  return `File ${name}:\n${fence}\n${text}\n${fence}`;
}

function nameOf({ name, text }: Attachment): string {
  return `File ${name}: ${text.split("\n").length} lines. Read it with ${FILE_READER}.`;
}

function continuation(last: Message | undefined): object {
  if (last?.role !== "assistant") return {};
  return { continue_final_message: last.reasoning && !last.content ? "reasoning_content" : "content" };
}

interface Chunk {
  error?: unknown;
  model?: string;
  truncated?: boolean;
  timings?: Timings;
  prompt_progress?: Progress;
  choices?: {
    delta?: { content?: string | null; reasoning_content?: string; tool_calls?: CallPiece[] };
    finish_reason?: string | null;
    logprobs?: { content?: ApiToken[] | null } | null;
  }[];
}

interface CallPiece {
  index: number;
  id?: string;
  function?: { name?: string; arguments?: string };
}

interface ApiToken {
  token: string;
  bytes: number[];
  logprob: number;
  top_logprobs?: { token: string; logprob: number }[];
}

// Returns the message after one event of its stream, and how much of the prompt has been read. Raises RequestError if
// the event is an error.
export function withEvent(message: Message, event: unknown): [Message, Progress | undefined] {
  const chunk = event as Chunk;
  if (chunk.error) throw new RequestError(failureOf(chunk, 500));
  const next = { ...message };
  const choice = chunk.choices?.[0];
  if (choice?.delta?.content) next.content += choice.delta.content;
  if (choice?.delta?.reasoning_content) next.reasoning = (next.reasoning ?? "") + choice.delta.reasoning_content;
  if (choice?.delta?.tool_calls) next.toolCalls = withPieces(next.toolCalls ?? [], choice.delta.tool_calls);
  if (choice?.logprobs?.content) next.tokens = [...(next.tokens ?? []), ...choice.logprobs.content.map(probability)];
  if (choice?.finish_reason) next.finish = choice.finish_reason;
  if (chunk.truncated !== undefined) next.truncated = chunk.truncated;
  if (chunk.timings) next.timings = timingsOf(chunk.timings);
  if (chunk.model) next.model = chunk.model;
  return [next, chunk.prompt_progress];
}

function withPieces(calls: ToolCall[], pieces: CallPiece[]): ToolCall[] {
  const next = [...calls];
  for (const piece of pieces) {
    const call = next[piece.index] ?? { id: piece.id ?? "", name: "", arguments: "" };
    next[piece.index] = {
      ...call,
      name: call.name + (piece.function?.name ?? ""),
      arguments: call.arguments + (piece.function?.arguments ?? ""),
    };
  }
  return next;
}

function timingsOf({ cache_n, prompt_n, prompt_per_second, predicted_n, predicted_per_second }: Timings): Timings {
  return { cache_n, prompt_n, prompt_per_second, predicted_n, predicted_per_second };
}

function probability({ token, bytes, logprob, top_logprobs }: ApiToken): TokenProbability {
  return { token, bytes, logprob, top: (top_logprobs ?? []).map(({ token, logprob }) => ({ token, logprob })) };
}
