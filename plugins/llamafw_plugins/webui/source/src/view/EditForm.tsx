// Changes the text of a message. The version before stays as another branch.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { replaceAnswer, sendInstead } from "../state/actions";
import type { Message } from "../data/types";
import { t } from "../strings";

export function EditForm({ message, onClose }: { message: Message; onClose: () => void }) {
  const [text, setText] = useState(message.content);
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => { // before the next key is pressed
    field.current?.focus();
    field.current?.setSelectionRange(text.length, text.length);
    return () => document.getElementById("message")?.focus(); // not to the start of the page
  }, []);
  const submit = () => {
    if (!text.trim() && !message.attachments?.length) return;
    onClose();
    if (text === message.content && message.role === "assistant") return;
    void (message.role === "user" ? sendInstead(message, text) : replaceAnswer(message, text));
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    if (event.key === "Escape") onClose();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <form class="edit-form" onSubmit={(event) => (event.preventDefault(), submit())}>
      <textarea
        ref={field}
        aria-label={t("edit")}
        rows={Math.min(20, text.split("\n").length + 1)}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div class="row">
        <small class="spacer">{t("editHint")}</small>
        <button type="button" onClick={onClose}>{t("cancel")}</button>
        <button class="main">{message.role === "user" ? t("sendEdited") : t("save")}</button>
      </div>
    </form>
  );
}
