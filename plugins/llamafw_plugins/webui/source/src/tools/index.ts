// The functions that run in the page when the model calls them and the user allows it. Plugins add more.

import type { Message, Options, ToolCall } from "../data/types";
import { Store } from "../state/store";
import { t } from "../strings";
import { calculator } from "./calculate";
import { fileReader } from "./files";
import { clock } from "./time";

export interface Tool {
  name: string;
  title?: string; // what users read; by default the description
  description: string; // what the model reads
  parameters: object; // a JSON Schema
  // Returns the result, also as a promise: a text, or what becomes JSON. What it throws is sent as an error.
  run(args: Record<string, unknown>, messages: readonly Message[]): unknown;
}

export const tools = new Store<readonly Tool[]>([clock, calculator, fileReader]);

// Adds a tool, in place of one with the same name.
export function addTool(tool: Tool): void {
  tools.set([...tools.value.filter(({ name }) => name !== tool.name), tool]);
}

// Returns the options of a request that also offers the named tools. Tools that the user has defined come first.
export function withTools(options: Options, names: readonly string[]): Options {
  const own = Array.isArray(options.tools) ? (options.tools as unknown[]) : [];
  const offered = tools.value.filter(({ name }) => names.includes(name) && !own.some((each) => nameOf(each) === name));
  if (!offered.length) return options;
  const definitions = offered.map(({ name, description, parameters }) => ({
    type: "function",
    function: { name, description, parameters },
  }));
  return { ...options, tools: [...own, ...definitions] };
}

// Returns the tool that answers a call; undefined if the user has to.
export function toolFor(call: ToolCall, options: Options, names: readonly string[] = []): Tool | undefined {
  const isOwn = Array.isArray(options.tools) && options.tools.some((each) => nameOf(each) === call.name);
  return isOwn || !names.includes(call.name) ? undefined : tools.value.find(({ name }) => name === call.name);
}

// Returns the result of a call as the model gets it. `messages`: the conversation before the call.
export async function runTool(tool: Tool, call: ToolCall, messages: readonly Message[]): Promise<string> {
  try {
    const result = await tool.run(argumentsOf(call), messages);
    return typeof result === "string" ? result : (JSON.stringify(result) ?? "");
  } catch (error) {
    return t("toolFailed", { message: error instanceof Error ? error.message : String(error) });
  }
}

function argumentsOf(call: ToolCall): Record<string, unknown> {
  let args: unknown = null;
  try {
    args = JSON.parse(call.arguments || "{}");
  } catch {
    // the answer was cut, or the model has made a mistake
  }
  if (typeof args !== "object" || args === null || Array.isArray(args)) throw new Error(t("toolArguments"));
  return args as Record<string, unknown>;
}

const nameOf = (definition: unknown) => (definition as { function?: { name?: unknown } } | null)?.function?.name;
