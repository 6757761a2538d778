// Reads from the API document which fields a chat request may have, and which modules plugins add to the page.

import { getJson } from "./request";

export interface Schema {
  type?: string;
  description?: string;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  enum?: unknown[];
  items?: Schema;
  anyOf?: Schema[];
  example?: unknown;
  [extension: `x-${string}`]: unknown;
}

export interface Field {
  name: string;
  schema: Schema;
  plugin: string; // "": built in
}

export interface FieldGroup {
  name: string; // of the sampler, or a key of the page's texts
  kind: "named" | "sampler" | "plugin";
  fields: Field[];
}

interface ApiDocument {
  paths: Record<string, { get?: { operationId?: string; [MODULE]?: boolean } }>;
  components: { schemas: Record<string, { properties?: Record<string, Schema> }> };
}

const MODULE = "x-llamafw-webui-module";
const SAMPLER = "x-llamafw-sampler";
const PLUGIN = "x-llamafw-plugin";

// Fields in the order of the panel. Options of samplers and fields of plugins need not be named here, and the page sets
// the other fields itself.
const FREQUENT = ["temperature", "n_predict", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop"];
const TOKENS = ["samplers", "min_keep", "ignore_eos", "logit_bias"];
const STRUCTURE = ["json_schema", "response_format", "whitespace", "grammar", "tools", "tool_choice", "parallel_tool_calls"];
const REASONING = ["enable_thinking", "reasoning_effort", "reasoning_budget_tokens", "chat_template_kwargs"];
const LIMITS = ["truncate_prompt", "n_keep", "n_discard", "t_max_predict_ms", "deadline_ms", "cache_prompt", "id_slot"];

let reading: Promise<ApiDocument> | null = null;

function readDocument(): Promise<ApiDocument> {
  reading ??= getJson<ApiDocument>("openapi.json");
  reading.catch(() => (reading = null)); // try again next time
  return reading;
}

// Returns the fields of chat requests in groups.
export async function readFields(): Promise<FieldGroup[]> {
  const properties = (await readDocument()).components.schemas.ChatCompletionRequest?.properties ?? {};
  const fields = Object.entries(properties).map(([name, schema]) => ({
    name,
    schema,
    plugin: String(schema[PLUGIN] ?? ""),
  }));
  const named = (names: string[]) => names.flatMap((name) => fields.filter((field) => field.name === name));
  const groups: FieldGroup[] = [{ name: "frequent", kind: "named", fields: named(FREQUENT) }];
  for (const field of fields) {
    const sampler = field.schema[SAMPLER];
    if ((sampler === undefined && !field.plugin) || FREQUENT.includes(field.name)) continue;
    const name = String(sampler ?? field.plugin);
    let group = groups.find((group) => group.name === name);
    if (!group) groups.push((group = { name, kind: sampler === undefined ? "plugin" : "sampler", fields: [] }));
    group.fields.push(field);
  }
  groups.push({ name: "tokens", kind: "named", fields: named(TOKENS) });
  groups.push({ name: "structure", kind: "named", fields: named(STRUCTURE) });
  groups.push({ name: "reasoning", kind: "named", fields: named(REASONING) });
  groups.push({ name: "limits", kind: "named", fields: named(LIMITS) });
  return groups.filter((group) => group.fields.length);
}

// Returns the paths of the modules that plugins add to the page, relative to the page.
export async function readModulePaths(): Promise<string[]> {
  const paths = Object.entries((await readDocument()).paths);
  return paths.filter(([, item]) => item.get?.[MODULE]).map(([path]) => path.replace(/^\//, ""));
}
