// What the server says about itself: its models and properties.

import { getJson } from "./request";

export interface Model {
  id: string;
  meta?: { n_ctx?: number; n_ctx_train?: number; n_params?: number; size?: number; ftype?: string };
}

export interface Props {
  default_generation_settings: { n_ctx: number; [field: string]: unknown };
  total_slots: number;
  model_alias: string;
  model_path: string;
  model_ftype: string;
  build_info: string;
  chat_template: string;
  endpoint_slots: boolean;
  endpoint_metrics: boolean;
  modalities?: { vision: boolean };
  chat_template_caps: { supports_tools: boolean; reasoning_tags: unknown; thinking_switch: unknown };
}

// Returns the models that can chat, the first one first.
export async function readModels(): Promise<Model[]> {
  const list = await getJson<{ data: Model[]; models?: { name: string; capabilities?: string[] }[] }>("v1/models");
  const capabilities = new Map(list.models?.map((model) => [model.name, model.capabilities]));
  return list.data.filter((model) => capabilities.get(model.id)?.includes("completion") ?? true);
}

// Returns the properties of the server. Needs the key.
export const readProps = (): Promise<Props> => getJson<Props>("props");

export interface Adapter {
  id: number;
  path: string;
  scale: number;
  task_name?: string;
}

// Returns the LoRA adapters. Needs the key.
export const readAdapters = (): Promise<Adapter[]> => getJson<Adapter[]>("lora-adapters");

export interface Slot {
  id: number;
  state: number; // 0: idle, 1: reads a prompt, 3: writes
  n_ctx: number;
  n_past?: number;
}

// Returns the state of each slot. Needs the key.
export const readSlots = (): Promise<Slot[]> => getJson<Slot[]>("slots");
