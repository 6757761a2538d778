// The system prompt, and presets of it and of all options.

import { useState } from "preact/hooks";
import { changeSettings } from "../state/actions";
import { opened, prefer, preferences } from "../state/app";
import { useSelected, useStore } from "../state/store";
import { t } from "../strings";
import { IconButton } from "./controls";

export function PromptPanel() {
  const { system, options, tools } = useSelected(opened, ({ conversation }) => conversation);
  const { presets } = useStore(preferences);
  const [name, setName] = useState("");
  const add = (event: Event) => {
    event.preventDefault();
    if (!name.trim()) return;
    prefer({ presets: [...presets.filter((preset) => preset.name !== name.trim()), { name: name.trim(), system, options, tools }] });
    setName("");
  };
  return (
    <>
      <label for="system-prompt">{t("systemPrompt")}</label>
      <textarea
        id="system-prompt"
        rows={8}
        aria-describedby="system-prompt-help"
        value={system}
        onInput={(event) => void changeSettings({ system: event.currentTarget.value })}
      />
      <p id="system-prompt-help" class="muted">{t("systemPromptHint")}</p>

      <h2>{t("presets")}</h2>
      <p class="muted">{t("presetsHint")}</p>
      <ul class="presets">
        {presets.map((preset) => (
          <li key={preset.name}>
            <span class="spacer">{preset.name}</span>
            <button
              type="button"
              class="small"
              aria-label={`${t("usePreset")} ${preset.name}`}
              onClick={() => void changeSettings({ system: preset.system, options: preset.options, tools: preset.tools })}
            >
              {t("usePreset")}
            </button>
            <IconButton
              icon="close"
              label={t("removePreset", { name: preset.name })}
              onClick={() => prefer({ presets: presets.filter((other) => other !== preset) })}
            />
          </li>
        ))}
      </ul>
      <form class="row" onSubmit={add}>
        <input
          class="spacer"
          placeholder={t("presetName")}
          aria-label={t("presetName")}
          value={name}
          onInput={(event) => setName(event.currentTarget.value)}
        />
        <button disabled={!name.trim()}>{t("savePreset")}</button>
      </form>
    </>
  );
}
