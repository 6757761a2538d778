// Lets plugins of the server add panels, actions and tools to the page; docs/plugins/webui.md describes the interface.

import type { Message } from "./data/types";
import { readModulePaths } from "./server/description";
import { request } from "./server/request";
import { shownPath } from "./state/actions";
import { opened } from "./state/app";
import { addToDraft } from "./state/draft";
import { notify, showPanel } from "./state/layout";
import { Store } from "./state/store";
import { addTool, type Tool } from "./tools/index";
import { t } from "./strings";

export interface PluginMessage {
  id: string;
  role: "user" | "assistant" | "tool";
  content: string;
  reasoning: string;
}

export interface Panel {
  id: string;
  title: string;
  // Fills the panel when it is opened. What it returns is called when the panel is closed.
  render(element: HTMLElement): void | (() => void);
}

export interface MessageAction {
  id: string;
  title: string;
  roles?: Message["role"][]; // of the messages that have the action; by default all
  run(message: PluginMessage): unknown;
}

export interface Page {
  version: 1;
  addPanel(panel: Panel): void;
  addMessageAction(action: MessageAction): void;
  addTool(tool: PluginTool): void;
  openPanel(id: string): void;
  request(path: string, init?: RequestInit): Promise<Response>;
  conversation(): { id: string; title: string; messages: PluginMessage[] };
  onChange(listener: () => void): () => void;
  insertText(text: string): void;
  notify(text: string): void;
}

export interface PluginTool extends Omit<Tool, "run"> {
  run(args: Record<string, unknown>, messages: PluginMessage[]): unknown;
}

interface Extensions {
  panels: readonly Panel[];
  messageActions: readonly MessageAction[];
}

export const extensions = new Store<Extensions>({ panels: [], messageActions: [] });

const page: Page = {
  version: 1,
  addPanel: (panel) => extensions.set({ ...extensions.value, panels: [...extensions.value.panels, panel] }),
  addMessageAction: (action) =>
    extensions.set({ ...extensions.value, messageActions: [...extensions.value.messageActions, action] }),
  addTool: (tool) => addTool({ ...tool, run: (args, messages) => tool.run(args, messages.map(toPlugin)) }),
  openPanel: showPanel,
  request,
  conversation: () => {
    const { id, title } = opened.value.conversation;
    return { id, title, messages: shownPath().map(toPlugin) };
  },
  onChange: (listener) => opened.watch(listener),
  insertText: addToDraft,
  notify,
};

// Loads the modules of all plugins. A module that fails does not stop the others.
export async function loadExtensions(): Promise<void> {
  for (const path of await readModulePaths()) {
    await guard(async () => {
      const url = new URL(path, document.baseURI).href;
      const module = (await import(/* @vite-ignore */ url)) as { default: (page: Page) => unknown };
      await module.default(page);
    });
  }
}

export function runMessageAction(action: MessageAction, message: Message): void {
  void guard(async () => action.run(toPlugin(message)));
}

// Fills an element with a panel; returns what to call when the panel is closed.
export function renderPanel(panel: Panel, element: HTMLElement): () => void {
  try {
    return panel.render(element) ?? (() => {});
  } catch (error) {
    notify(t("pluginFailed", { message: String(error) }));
    return () => {};
  }
}

async function guard(action: () => Promise<unknown>): Promise<void> {
  try {
    await action();
  } catch (error) {
    notify(t("pluginFailed", { message: String(error) }));
  }
}

function toPlugin({ id, role, content, reasoning = "" }: Message): PluginMessage {
  return { id, role, content, reasoning };
}
