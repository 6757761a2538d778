// The small dialogs: a name, the API key, shortcuts, and questions.

import { useState } from "preact/hooks";
import { isKeyKept, readKey, writeKey } from "../data/preferences";
import type { Conversation, Message } from "../data/types";
import { tryAgain } from "../state/actions";
import { save } from "../state/app";
import { closeDialog, dialog } from "../state/dialogs";
import { readServer } from "../state/server";
import { useStore } from "../state/store";
import { t } from "../strings";
import { ConfirmDialog, Dialog } from "./controls";
import { SettingsDialog } from "./SettingsDialog";

export function Dialogs() {
  const open = useStore(dialog);
  switch (open?.kind) {
    case "settings": return <SettingsDialog />;
    case "shortcuts": return <ShortcutsDialog />;
    case "key": return <KeyDialog message={open.message} refused={open.refused} />;
    case "rename": return <RenameDialog conversation={open.conversation} />;
    case "confirm": return <ConfirmDialog {...open} onClose={closeDialog} />;
    default: return null;
  }
}

function RenameDialog({ conversation }: { conversation: Conversation }) {
  const [title, setTitle] = useState(conversation.title);
  const submit = (event: Event) => {
    event.preventDefault();
    if (title.trim()) void save(conversation.id, [], { title: title.trim() });
    closeDialog();
  };
  return (
    <Dialog title={t("rename")} onClose={closeDialog}>
      <form onSubmit={submit}>
        <label for="title">{t("name")}</label>
        <input id="title" autofocus value={title} onInput={(event) => setTitle(event.currentTarget.value)} />
        <footer>
          <button type="button" onClick={closeDialog}>{t("cancel")}</button>
          <button class="main">{t("save")}</button>
        </footer>
      </form>
    </Dialog>
  );
}

function KeyDialog({ message, refused }: { message?: Message; refused?: string }) {
  const [key, setKey] = useState(readKey());
  const [isKept, setKept] = useState(isKeyKept());
  const submit = (event: Event) => {
    event.preventDefault();
    writeKey(key.trim(), isKept);
    closeDialog();
    void readServer();
    if (message) void tryAgain(message);
  };
  return (
    <Dialog title={t("keyTitle")} onClose={closeDialog}>
      <form onSubmit={submit}>
        <p>{t("keyHint")}</p>
        {refused && key === refused && <p class="error" role="alert">{t("keyRefused")}</p>}
        <label for="key">{t("keyTitle")}</label>
        <input
          id="key"
          type="password"
          autocomplete="off"
          autofocus
          value={key}
          onInput={(event) => setKey(event.currentTarget.value)}
        />
        <label class="check">
          <input type="checkbox" checked={isKept} onChange={(event) => setKept(event.currentTarget.checked)} />
          {t("keyRemember")}
        </label>
        <footer>
          <button type="button" onClick={closeDialog}>{t("cancel")}</button>
          <button class="main">{t("save")}</button>
        </footer>
      </form>
    </Dialog>
  );
}

function ShortcutsDialog() {
  const shortcuts: [string, string][] = [
    ["Ctrl+Alt+N", t("shortcutNew")],
    ["Ctrl+K", t("shortcutSearch")],
    ["Ctrl+Alt+O", t("shortcutOptions")],
    ["/", t("shortcutFocus")],
    ["↑", t("shortcutEditLast")],
    ["Esc", t("shortcutStop")],
    ["?", t("shortcutHelp")],
  ];
  return (
    <Dialog title={t("shortcuts")} onClose={closeDialog}>
      <dl class="shortcuts">
        {shortcuts.map(([keys, text]) => <div key={keys}><dt><kbd>{keys}</kbd></dt><dd>{text}</dd></div>)}
      </dl>
    </Dialog>
  );
}
