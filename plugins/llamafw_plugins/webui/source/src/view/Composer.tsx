// The field for the next message, with its buttons and attached files.

import { useLayoutEffect, useRef } from "preact/hooks";
import { chooseFiles } from "../browser/files";
import { isAnswering, send, shownPath, stopAnswer } from "../state/actions";
import { opened, preferences } from "../state/app";
import { attach, changeDraft, draft, reading } from "../state/draft";
import { props } from "../state/server";
import { useSelected, useStore } from "../state/store";
import { number, t } from "../strings";
import { contextUse } from "./AnswerParts";
import { IconButton } from "./controls";
import { Icon } from "./icons";

const MAX_HEIGHT = 320; // pixels

export function Composer() {
  const { text, attachments } = useStore(draft);
  const isReading = useStore(reading);
  const id = useSelected(opened, ({ conversation }) => conversation.id);
  const isWriting = useSelected(opened, isAnswering);
  const { sendWithEnter } = useStore(preferences);
  const field = useRef<HTMLTextAreaElement>(null);

  useLayoutEffect(() => fit(field.current!), [text]);
  useLayoutEffect(() => {
    if (matchMedia("(hover: hover)").matches) field.current?.focus(); // no keyboard that covers a phone's screen
  }, [id]);

  const canSend = !isWriting && !isReading.length && (text.trim() !== "" || attachments.length > 0);
  const submit = () => {
    if (!canSend) return;
    changeDraft({ text: "", attachments: [] });
    void send(text.trim(), attachments);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "ArrowUp" && !text) return editLast(event);
    if (event.key !== "Enter" || event.isComposing) return;
    const isModified = event.ctrlKey || event.metaKey;
    if (sendWithEnter ? event.shiftKey : !isModified) return;
    event.preventDefault();
    submit();
  };
  const onPaste = (event: ClipboardEvent) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || event.clipboardData?.types.includes("text/plain")) return; // a text with its picture
    event.preventDefault();
    void attach(files);
  };
  return (
    <form class="composer" onSubmit={(event) => (event.preventDefault(), submit())}>
      {attachments.length + isReading.length > 0 && (
        <ul class="attachments">
          {attachments.map((file, i) => (
            <li key={i}>
              {file.image ? <img src={file.image} alt="" /> : <Icon name="file" />}
              <span>{file.name}</span>
              <IconButton
                icon="close"
                label={t("removeFile", { name: file.name })}
                onClick={() => changeDraft({ attachments: attachments.filter((other) => other !== file) })}
              />
            </li>
          ))}
          {isReading.map((file, i) => <li key={i} role="status">{t("readingFile", { name: file.name })}</li>)}
        </ul>
      )}
      <textarea
        ref={field}
        id="message"
        rows={1}
        value={text}
        placeholder={t("writeMessage")}
        aria-label={t("message")}
        enterkeyhint={sendWithEnter ? "send" : "enter"}
        onInput={(event) => changeDraft({ text: event.currentTarget.value })}
        onKeyDown={onKeyDown}
        onPaste={onPaste}
      />
      <div class="row">
        <IconButton icon="attach" label={t("attach")} onClick={() => void chooseFiles(true).then(attach)} />
        <ContextMeter />
        <small class="hint spacer">{t(sendWithEnter ? "hintEnter" : "hintCtrlEnter")}</small>
        {isWriting ? (
          <IconButton icon="stop" class="main" label={t("stop")} onClick={() => void stopAnswer()} />
        ) : (
          <button class="icon-button main" aria-label={t("send")} title={t("send")} disabled={!canSend}>
            <Icon name="send" />
          </button>
        )}
      </div>
    </form>
  );
}

// Shows how much of the context the conversation needs.
function ContextMeter() {
  const total = useStore(props)?.default_generation_settings.n_ctx;
  const used = useSelected(opened, () => contextUse(shownPath()));
  if (!total || !used) return null;
  const label = t("contextUse", { used: number(used), total: number(total) });
  return (
    <span class="context-use" title={label}>
      <meter min={0} max={total} high={total * 0.9} value={Math.min(used, total)} aria-label={label} />
      <small class={used > total * 0.9 ? "" : "visually-hidden"}>
        {used > total * 0.9 ? t("contextNearlyFull") : label}
      </small>
    </span>
  );
}

function editLast(event: KeyboardEvent): void {
  const last = shownPath().findLast(({ role }) => role === "user");
  const button = last && document.querySelector<HTMLElement>(`#m-${last.id} [data-action="edit"]`);
  if (!button) return;
  event.preventDefault();
  button.click();
}

function fit(field: HTMLTextAreaElement): void {
  field.style.height = "auto";
  field.style.height = `${Math.min(MAX_HEIGHT, field.scrollHeight + 2)}px`;
}
