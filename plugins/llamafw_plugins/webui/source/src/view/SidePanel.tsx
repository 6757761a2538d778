// The panel at the right: options, the prompt, the server, and the panels of plugins.

import { useEffect, useRef } from "preact/hooks";
import { extensions, renderPanel, type Panel } from "../extensions";
import { panel, showPanel, togglePanel } from "../state/layout";
import { useStore } from "../state/store";
import { t } from "../strings";
import { IconButton } from "./controls";
import { OptionsPanel } from "./OptionsPanel";
import { PromptPanel } from "./PromptPanel";
import { ServerPanel } from "./ServerPanel";
import { ToolsPanel } from "./ToolsPanel";

const BUILT_IN = { options: OptionsPanel, prompt: PromptPanel, tools: ToolsPanel, server: ServerPanel };

export function SidePanel() {
  const open = useStore(panel);
  const { panels } = useStore(extensions);
  const tabs: [string, string][] = [
    ["options", t("tabOptions")],
    ["prompt", t("tabPrompt")],
    ["tools", t("tabTools")],
    ["server", t("tabServer")],
    ...panels.map(({ id, title }): [string, string] => [id, title]),
  ];
  const BuiltIn = BUILT_IN[open as keyof typeof BUILT_IN];
  const plugin = panels.find(({ id }) => id === open);
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const i = (tabs.findIndex(([id]) => id === open) + step + tabs.length) % tabs.length;
    showPanel(tabs[i]![0]);
    (event.currentTarget as HTMLElement).querySelectorAll("button")[i]?.focus();
  };
  return (
    <aside class="panel" aria-label={t("panel")}>
      <header>
        <div role="tablist" class="tabs" aria-label={t("panel")} onKeyDown={move}>
          {tabs.map(([id, title]) => (
            <button
              key={id}
              type="button"
              role="tab"
              id={`tab-${id}`}
              aria-selected={id === open}
              aria-controls="panel-content"
              tabIndex={id === open ? 0 : -1}
              onClick={() => showPanel(id)}
            >
              {title}
            </button>
          ))}
        </div>
        <IconButton icon="close" label={t("closePanel")} onClick={togglePanel} />
      </header>
      <div id="panel-content" class="panel-content" role="tabpanel" aria-labelledby={`tab-${open}`} tabIndex={0}>
        {BuiltIn ? <BuiltIn /> : plugin && <PluginPanel key={plugin.id} panel={plugin} />}
      </div>
    </aside>
  );
}

function PluginPanel({ panel }: { panel: Panel }) {
  const element = useRef<HTMLDivElement>(null);
  useEffect(() => renderPanel(panel, element.current!), []);
  return <div ref={element} />;
}
