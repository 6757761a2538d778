// Settings of the page itself, and all conversations as a file.

import { chooseFiles, saveFile } from "../browser/files";
import { readAllMessages } from "../data/database";
import type { Preferences } from "../data/preferences";
import { read, toJson } from "../data/transfer";
import { add, conversations, prefer, preferences, remove } from "../state/app";
import { askForKey, closeDialog, openDialog } from "../state/dialogs";
import { notify } from "../state/layout";
import { useStore } from "../state/store";
import { LANGUAGES, t } from "../strings";
import { Dialog } from "./controls";

export function SettingsDialog() {
  const { theme, language, sendWithEnter, probabilities } = useStore(preferences);
  const all = useStore(conversations);
  const languages = Object.entries(LANGUAGES).map(([code, { name }]): [string, string] => [code, name]);
  return (
    <Dialog title={t("settings")} onClose={closeDialog} class="settings">
      <Select
        id="theme"
        label={t("theme")}
        value={theme}
        choices={[["system", t("themeSystem")], ["light", t("themeLight")], ["dark", t("themeDark")]]}
        onChange={(value) => prefer({ theme: value as Preferences["theme"] })}
      />
      {languages.length > 1 && (
        <Select
          id="language"
          label={t("language")}
          value={language}
          choices={[["", t("languageSystem")], ...languages]}
          onChange={(value) => (prefer({ language: value }), location.reload())}
        />
      )}
      <Select
        id="send-key"
        label={t("sendKey")}
        value={String(sendWithEnter)}
        choices={[["true", t("sendKeyEnter")], ["false", t("sendKeyCtrlEnter")]]}
        onChange={(value) => prefer({ sendWithEnter: value === "true" })}
      />
      <label class="check">
        <input
          type="checkbox"
          checked={probabilities}
          onChange={(event) => prefer({ probabilities: event.currentTarget.checked })}
        />
        {t("probabilities")}
      </label>
      <p class="muted">{t("probabilitiesHint")}</p>

      <h3>{t("data")}</h3>
      <div class="row">
        <button type="button" disabled={!all.length} onClick={() => void exportAll()}>{t("exportAll")}</button>
        <button type="button" onClick={() => void importFiles()}>{t("importFile")}</button>
        <button type="button" class="danger" disabled={!all.length} onClick={askToRemoveAll}>{t("removeAll")}</button>
      </div>
      <h3>{t("more")}</h3>
      <div class="row">
        <button type="button" onClick={() => askForKey()}>{t("keyTitle")}</button>
        <button type="button" onClick={() => openDialog({ kind: "shortcuts" })}>{t("shortcuts")}</button>
      </div>
    </Dialog>
  );
}

interface SelectProps {
  id: string;
  label: string;
  value: string;
  choices: [string, string][];
  onChange: (value: string) => void;
}

function Select({ id, label, value, choices, onChange }: SelectProps) {
  return (
    <div class="setting">
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {choices.map(([choice, text]) => <option key={choice} value={choice}>{text}</option>)}
      </select>
    </div>
  );
}

async function exportAll(): Promise<void> {
  const transfer = { conversations: [...conversations.value], messages: await readAllMessages() };
  saveFile("conversations.json", toJson(transfer), "application/json");
}

async function importFiles(): Promise<void> {
  for (const file of await chooseFiles(true, ".json,.md")) {
    const transfer = read(await file.text());
    if (!transfer) {
      notify(t("importFailed", { name: file.name }));
      continue;
    }
    await add(transfer.conversations, transfer.messages);
    notify(t("imported", { n: transfer.conversations.length }));
  }
}

function askToRemoveAll(): void {
  const ids = conversations.value.map(({ id }) => id);
  openDialog({
    ...{ kind: "confirm", question: t("removeAllQuestion"), action: t("removeAll") },
    onConfirm: () => void remove(ids),
  });
}
