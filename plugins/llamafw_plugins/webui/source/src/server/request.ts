// Requests to the server, with the API key, and its errors.

import { readKey } from "../data/preferences";
import type { Failure } from "../data/types";

export class RequestError extends Error {
  constructor(readonly failure: Failure) {
    super(failure.message);
  }
}

// Sends a request to a path of the API, relative to the page. Raises RequestError if it fails.
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (init.body) headers.set("Content-Type", "application/json");
  const key = readKey();
  if (key) headers.set("Authorization", `Bearer ${encodeKey(key)}`);
  let response: Response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...init, headers });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new RequestError({ kind: "network", message: String(error) });
  }
  if (response.ok) return response;
  const body: unknown = await response.json().catch(() => null);
  throw new RequestError(failureOf(body, response.status, response.headers.get("Retry-After")));
}

// Returns the JSON of a GET request.
export async function getJson<T>(path: string): Promise<T> {
  return (await (await request(path)).json()) as T;
}

// Returns what a failed response or the last event of a stream says.
export function failureOf(body: unknown, status: number, retryAfter: string | null = null): Failure {
  const error = (body as { error?: Record<string, unknown> } | null)?.error ?? {};
  const code = typeof error.code === "number" ? error.code : status;
  const message = typeof error.message === "string" ? error.message : `HTTP ${status}`;
  const failure: Failure = { kind: kindOf(code, String(error.type)), message };
  if (typeof error.param === "string") failure.param = error.param;
  if (retryAfter && Number(retryAfter) > 0) failure.retryAfter = Number(retryAfter);
  return failure;
}

// Returns whether an exception says that the user stopped the request.
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

function kindOf(status: number, type: string): Failure["kind"] {
  if (type === "exceed_context_size_error") return "context";
  if (status === 401 || status === 403) return "key";
  if (status === 429) return "busy";
  if (status === 502 || status === 503) return "loading";
  if (status >= 400 && status < 500) return "invalid";
  return "server";
}

// Headers have bytes: other characters of a key are sent as UTF-8.
function encodeKey(key: string): string {
  return String.fromCharCode(...new TextEncoder().encode(key));
}
