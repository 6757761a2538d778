// Small settings of the page in localStorage, and drafts of messages. Nothing here is sent anywhere.

import { scope } from "./database";
import type { Preset, Settings } from "./types";

export interface Preferences {
  theme: "system" | "light" | "dark";
  language: string; // "": the browser's
  sendWithEnter: boolean;
  probabilities: boolean; // ask for log-probabilities
  last: Settings; // of the conversation that was used last, for new ones
  presets: Preset[];
}

const DEFAULTS: Preferences = {
  theme: "system",
  language: "",
  sendWithEnter: true,
  probabilities: false,
  last: { system: "", options: {} },
  presets: [],
};

// Returns the stored preferences.
export function readPreferences(): Preferences {
  return { ...DEFAULTS, ...read("preferences", {}) };
}

// Stores all preferences.
export function writePreferences(preferences: Preferences): void {
  write("preferences", preferences);
}

// Returns the API key: that of this tab, or the one that the user asked to keep.
export function readKey(): string {
  return quietly(() => sessionStorage.getItem(`${scope}:key`) ?? localStorage.getItem(`${scope}:key`)) ?? "";
}

// Returns whether the API key is kept when the tab is closed.
export function isKeyKept(): boolean {
  return quietly(() => localStorage.getItem(`${scope}:key`) !== null) ?? false;
}

// Keeps the API key until the tab is closed; with `remember`, until it is replaced.
export function writeKey(key: string, remember: boolean): void {
  quietly(() => {
    sessionStorage.setItem(`${scope}:key`, key);
    if (remember && key) localStorage.setItem(`${scope}:key`, key);
    else localStorage.removeItem(`${scope}:key`);
  });
}

// Returns the text that was typed but not sent in a conversation.
export function readDraft(conversation: string | null): string {
  return read(`draft:${conversation ?? ""}`, "");
}

// Stores the text that is typed in a conversation.
export function writeDraft(conversation: string | null, text: string): void {
  if (text) write(`draft:${conversation ?? ""}`, text);
  else quietly(() => localStorage.removeItem(`${scope}:draft:${conversation ?? ""}`));
}

function read<T>(name: string, otherwise: T): T {
  return quietly(() => JSON.parse(localStorage.getItem(`${scope}:${name}`) ?? "null") as T | null) ?? otherwise;
}

function write(name: string, value: unknown): void {
  quietly(() => localStorage.setItem(`${scope}:${name}`, JSON.stringify(value)));
}

// Runs an action on localStorage, which some browsers forbid.
function quietly<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
