// The message that is being typed. Its text survives reloads, and each conversation has its own.

import { readDraft, writeDraft } from "../data/preferences";
import { FileError, readAttachment } from "../browser/files";
import type { Attachment } from "../data/types";
import { t } from "../strings";
import { isStored, opened } from "./app";
import { notify } from "./layout";
import { props, readServer } from "./server";
import { Store } from "./store";

export interface Draft {
  text: string;
  attachments: Attachment[];
}

export const draft = new Store<Draft>({ text: readDraft(null), attachments: [] });

let owner: string | null = null; // the conversation of the draft; null: a new one

opened.watch(() => {
  const { id } = opened.value.conversation;
  const next = isStored(id) ? id : null;
  if (next === owner) return;
  owner = next;
  draft.set({ text: readDraft(owner), attachments: [] });
});

// Changes the draft and stores its text.
export function changeDraft(change: Partial<Draft>): void {
  draft.set({ ...draft.value, ...change });
  writeDraft(owner, draft.value.text);
}

export const reading = new Store<readonly File[]>([]); // the files that are read at the moment

// Reads files and attaches them; says in words why one cannot be attached.
export async function attach(files: File[]): Promise<void> {
  const { id } = opened.value.conversation;
  reading.set([...reading.value, ...files]);
  if (!props.value) await readServer();
  for (const file of files) {
    try {
      const attachment = await readAttachment(file, props.value?.modalities?.vision ?? false);
      if (opened.value.conversation.id === id) changeDraft({ attachments: [...draft.value.attachments, attachment] });
      else notify(t("fileElsewhere", { name: file.name }));
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      notify(t(error.problem, { name: file.name, limit: error.limit }));
    } finally {
      reading.set(reading.value.filter((other) => other !== file));
    }
  }
}

// Adds a text at the end.
export function addToDraft(text: string): void {
  changeDraft({ text: draft.value.text ? `${draft.value.text}\n${text}` : text });
}
