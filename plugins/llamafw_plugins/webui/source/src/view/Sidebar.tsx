// The list of conversations, with search and what can be done with each.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { saveFile } from "../browser/files";
import { readMessages } from "../data/database";
import { toJson, toMarkdown } from "../data/transfer";
import type { Conversation } from "../data/types";
import { conversations, open, opened, openNew, remove, save } from "../state/app";
import { openDialog } from "../state/dialogs";
import { onEscape } from "../state/escape";
import { leaveSidebar, toggleSidebar } from "../state/layout";
import { search } from "../state/search";
import { useSelected, useStore } from "../state/store";
import { t } from "../strings";
import { IconButton, SearchField } from "./controls";
import { Icon } from "./icons";

export function Sidebar() {
  const all = useStore(conversations);
  const [query, setQuery] = useState("");
  const found = useFound(all, query);
  return (
    <nav class="sidebar" aria-label={t("conversations")}>
      <header>
        <IconButton icon="menu" label={t("closeMenu")} expanded onClick={toggleSidebar} />
        <strong class="spacer">{t("appName")}</strong>
        <IconButton icon="gear" label={t("settings")} onClick={() => openDialog({ kind: "settings" })} />
      </header>
      <button type="button" class="new" onClick={() => (openNew(), leaveSidebar())}>
        <Icon name="plus" />
        {t("newConversation")}
      </button>
      <SearchField id="search" label={t("searchConversations")} value={query} onChange={setQuery} />
      <div class="conversations">
        {all.length === 0 && <p class="empty">{t("noConversations")}</p>}
        {all.length > 0 && found.length === 0 && <p class="empty">{t("nothingFound")}</p>}
        {groupsOf(found).map(([title, members]) => (
          <section key={title} aria-label={title}>
            <h2>{title}</h2>
            <ul>{members.map((conversation) => <Entry key={conversation.id} conversation={conversation} />)}</ul>
          </section>
        ))}
      </div>
    </nav>
  );
}

function Entry({ conversation }: { conversation: Conversation }) {
  const isCurrent = useSelected(opened, (open) => open.conversation.id === conversation.id);
  const [isOpen, setOpen] = useState(false);
  const element = useRef<HTMLLIElement>(null);
  const title = conversation.title || t("untitled");
  useLayoutEffect(() => { // before the next key is pressed
    if (!isOpen) return;
    const leave = onEscape(() => (setOpen(false), element.current?.querySelector("button")?.focus()));
    const onClick = (event: MouseEvent) => element.current?.contains(event.target as Node) || setOpen(false);
    addEventListener("click", onClick);
    return () => (leave(), removeEventListener("click", onClick));
  }, [isOpen]);
  return (
    <li ref={element} class={isCurrent ? "current" : undefined}>
      <div class="entry">
        <a
          href={`#/${conversation.id}`}
          title={title}
          aria-current={isCurrent ? "page" : undefined}
          onClick={(event) => {
            if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab
            event.preventDefault();
            open(conversation.id);
            leaveSidebar();
          }}
        >
          {conversation.pinned && <Icon name="pin" />}
          {title}
        </a>
        <IconButton icon="more" label={t("actionsFor", { title })} expanded={isOpen} onClick={() => setOpen(!isOpen)} />
      </div>
      {isOpen && <Actions conversation={conversation} title={title} onDone={() => setOpen(false)} />}
    </li>
  );
}

function Actions({ conversation, title, onDone }: { conversation: Conversation; title: string; onDone: () => void }) {
  const { id, pinned } = conversation;
  const fileName = title.replace(/[^\p{L}\p{N} _-]+/gu, "").trim() || "conversation";
  const question = t("removeQuestion", { title });
  const actions: [string, () => void][] = [
    [t("rename"), () => openDialog({ kind: "rename", conversation })],
    [pinned ? t("unpin") : t("pin"), () => void save(id, [], { pinned: !pinned })],
    [t("exportJson"), () => void exportJson(conversation, fileName)],
    [t("exportMarkdown"), () => void exportMarkdown(conversation, fileName)],
    [t("remove"), () => openDialog({ kind: "confirm", question, action: t("remove"), onConfirm: () => void remove([id]) })],
  ];
  return (
    <div class="entry-actions" role="group" aria-label={t("actionsFor", { title })}>
      {actions.map(([label, act]) => (
        <button key={label} type="button" onClick={() => (onDone(), act())}>{label}</button>
      ))}
    </div>
  );
}

async function exportJson(conversation: Conversation, name: string): Promise<void> {
  const messages = await readMessages(conversation.id);
  saveFile(`${name}.json`, toJson({ conversations: [conversation], messages }), "application/json");
}

async function exportMarkdown(conversation: Conversation, name: string): Promise<void> {
  saveFile(`${name}.md`, toMarkdown(conversation, await readMessages(conversation.id)), "text/markdown");
}

// Returns the conversations that contain all words of the query.
function useFound(all: readonly Conversation[], query: string): readonly Conversation[] {
  const [found, setFound] = useState(all);
  useEffect(() => {
    let isCurrent = true;
    void search(all, query).then((result) => isCurrent && setFound(result));
    return () => {
      isCurrent = false;
    };
  }, [all, query]);
  return query.trim() ? found : all;
}

// Returns groups of conversations by their age, each with its title and the newest first.
function groupsOf(found: readonly Conversation[]): [string, Conversation[]][] {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const groups: [string, (conversation: Conversation) => boolean][] = [
    [t("pinned"), ({ pinned }) => pinned],
    [t("today"), ({ updated }) => updated >= midnight],
    [t("lastWeek"), ({ updated }) => updated >= midnight - 6 * 86_400_000],
    [t("earlier"), () => true],
  ];
  const sorted = [...found].sort((a, b) => b.updated - a.updated);
  const groupOf = (conversation: Conversation) => groups.findIndex(([, contains]) => contains(conversation));
  return groups
    .map(([title], i): [string, Conversation[]] => [title, sorted.filter((each) => groupOf(each) === i)])
    .filter(([, members]) => members.length);
}
