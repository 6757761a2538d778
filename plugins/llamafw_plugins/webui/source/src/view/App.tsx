// The whole page: conversations at the left, the open one, and the panel at the right.

import { useEffect, useLayoutEffect, useState } from "preact/hooks";
import { changeSettings, stopAnswer } from "../state/actions";
import { opened, openNew, preferences, storageFailed } from "../state/app";
import { dialog, openDialog } from "../state/dialogs";
import { attach } from "../state/draft";
import { closeLast } from "../state/escape";
import { isWide, panel, showSidebar, sidebar, togglePanel, toggleSidebar, uncover } from "../state/layout";
import { models } from "../state/server";
import { useSelected, useStore } from "../state/store";
import { t } from "../strings";
import { Chat } from "./Chat";
import { Composer } from "./Composer";
import { IconButton, Notification } from "./controls";
import { Dialogs } from "./Dialogs";
import { Notice } from "./Notices";
import { Sidebar } from "./Sidebar";
import { SidePanel } from "./SidePanel";

export function App() {
  const hasSidebar = useStore(sidebar);
  const hasPanel = useStore(panel) !== null;
  const isCovered = !useStore(isWide) && (hasSidebar || hasPanel);
  const title = useSelected(opened, ({ conversation }) => conversation.title);
  useTheme();
  useShortcuts();
  const isDropping = useDroppedFiles();
  useEffect(() => {
    document.title = [title, t("appName")].filter(Boolean).join(" · ");
  }, [title]);
  return (
    <>
      <a class="skip" href="#message" onClick={(event) => (event.preventDefault(), focusMessage())}>{t("skipToMessage")}</a>
      <div class="page">
        {hasSidebar && <Sidebar />}
        {isCovered && <div class="shade" onClick={uncover} />}
        <main inert={isCovered}>
          <Header />
          {useStore(storageFailed) && <Notice isError text={t("storageFailed")} />}
          <Chat />
          <Composer />
        </main>
        {hasPanel && <SidePanel />}
      </div>
      <Dialogs />
      {!useStore(dialog) && <Notification />}
      {isDropping && <div class="drop">{t("dropFiles")}</div>}
    </>
  );
}

function Header() {
  const title = useSelected(opened, ({ conversation }) => conversation.title);
  const hasSidebar = useStore(sidebar);
  const hasPanel = useStore(panel) !== null;
  return (
    <header class="top">
      {!hasSidebar && <IconButton icon="menu" label={t("openMenu")} expanded={false} onClick={toggleSidebar} />}
      <h1 class="spacer">{title || t("newConversation")}</h1>
      <ModelChoice />
      <IconButton icon="plus" class="only-narrow" label={t("newConversation")} onClick={openNew} />
      <IconButton
        icon="sliders"
        label={hasPanel ? t("closePanel") : t("openPanel")}
        expanded={hasPanel}
        onClick={togglePanel}
      />
    </header>
  );
}

// The name of the model; a choice if the server has several.
function ModelChoice() {
  const all = useStore(models);
  const options = useSelected(opened, ({ conversation }) => conversation.options);
  if (all.length <= 1) return <span class="model" title={t("model")}>{all[0]?.id}</span>;
  return (
    <select
      class="model"
      aria-label={t("model")}
      value={String(options.model ?? all[0]!.id)}
      onChange={(event) => void changeSettings({ options: { ...options, model: event.currentTarget.value } })}
    >
      {all.map(({ id }) => <option key={id} value={id}>{id}</option>)}
    </select>
  );
}

function focusMessage(): void {
  document.getElementById("message")?.focus();
}

function useTheme(): void {
  const { theme } = useStore(preferences);
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }, [theme]);
}

function useShortcuts(): void {
  useLayoutEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing || dialog.value) return;
      const isTyping = event.target instanceof Element && event.target.matches("input, textarea, select");
      const command = event.ctrlKey || event.metaKey;
      if (event.key === "Escape") {
        if (!closeLast() && !uncover() && !stopAnswer()) return;
      } else if (command && event.altKey && event.code === "KeyN") openNew();
      else if (command && event.altKey && event.code === "KeyO") togglePanel();
      else if (command && event.key.toLowerCase() === "k") focusSearch();
      else if (!isTyping && event.key === "/") focusMessage();
      else if (!isTyping && event.key === "?") openDialog({ kind: "shortcuts" });
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, []);
}

function focusSearch(): void {
  showSidebar();
  queueMicrotask(() => document.getElementById("search")?.focus()); // when the list has been rendered
}

// Attaches files that are dropped anywhere; returns whether files are above the page.
function useDroppedFiles(): boolean {
  const [isDropping, setDropping] = useState(false);
  useEffect(() => {
    const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const onOver = (event: DragEvent) => hasFiles(event) && (event.preventDefault(), setDropping(true));
    const onLeave = (event: DragEvent) => event.relatedTarget === null && setDropping(false);
    const onDrop = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setDropping(false);
      void attach([...event.dataTransfer!.files]);
    };
    addEventListener("dragover", onOver);
    addEventListener("dragleave", onLeave);
    addEventListener("drop", onDrop);
    return () => {
      removeEventListener("dragover", onOver);
      removeEventListener("dragleave", onLeave);
      removeEventListener("drop", onDrop);
    };
  }, []);
  return isDropping;
}
