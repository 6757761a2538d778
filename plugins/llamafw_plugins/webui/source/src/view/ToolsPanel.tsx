// The functions of the page that the model may call in this conversation.

import { changeSettings } from "../state/actions";
import { opened, save } from "../state/app";
import { props } from "../state/server";
import { useSelected, useStore } from "../state/store";
import { t } from "../strings";
import { tools, type Tool } from "../tools/index";
import { Notice } from "./Notices";

export function ToolsPanel() {
  const all = useStore(tools);
  const caps = useStore(props)?.chat_template_caps;
  return (
    <>
      <p class="muted">{t("toolsHint")}</p>
      {caps?.supports_tools === false && <Notice text={t("toolsUnsupported")} />}
      <ul class="tools">{all.map((tool) => <ToolSwitch key={tool.name} tool={tool} />)}</ul>
    </>
  );
}

function ToolSwitch({ tool }: { tool: Tool }) {
  const { id, tools: offered = [], allowed = [] } = useSelected(opened, ({ conversation }) => conversation);
  const { name } = tool;
  const others = offered.filter((other) => other !== name);
  const isOffered = offered.includes(name);
  return (
    <li>
      <label class="check">
        <input
          type="checkbox"
          checked={isOffered}
          aria-describedby={`tool-${name}`}
          onChange={(event) => void changeSettings({ tools: event.currentTarget.checked ? [...others, name] : others })}
        />
        <code>{name}</code>
      </label>
      <p id={`tool-${name}`} class="muted">{tool.title ?? tool.description}</p>
      {isOffered && allowed.includes(name) && (
        <p class="row">
          <small class="spacer">{t("toolAllowed")}</small>
          <button
            type="button"
            class="small"
            onClick={() => void save(id, [], { allowed: allowed.filter((other) => other !== name) })}
          >
            {t("toolAskAgain")}
          </button>
        </p>
      )}
    </li>
  );
}
