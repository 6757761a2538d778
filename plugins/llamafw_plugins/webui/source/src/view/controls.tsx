// Small controls that several parts of the page use.

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { copyText } from "../browser/clipboard";
import { notification } from "../state/layout";
import { useStore } from "../state/store";
import { t } from "../strings";
import { Icon, type IconName } from "./icons";

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick: (event: MouseEvent) => void;
  expanded?: boolean;
  pressed?: boolean;
  disabled?: boolean;
  class?: string;
  action?: string; // a name by which the page finds the button
}

// A button with an icon; its label is a tooltip and what screen readers say.
export function IconButton(props: IconButtonProps) {
  const { icon, label, onClick, expanded, pressed, disabled, class: name, action } = props;
  return (
    <button
      type="button"
      class={`icon-button ${name ?? ""}`}
      aria-label={label}
      title={label}
      aria-expanded={expanded}
      aria-pressed={pressed}
      disabled={disabled}
      data-action={action}
      onClick={onClick}
    >
      <Icon name={icon} />
    </button>
  );
}

// A button that copies a text and says for a moment that it has.
export function CopyButton({ text, label }: { text: string; label: string }) {
  const [isCopied, setCopied] = useState(false);
  useEffect(() => {
    if (!isCopied) return;
    const timer = setTimeout(() => setCopied(false), 2000);
    return () => clearTimeout(timer);
  }, [isCopied]);
  const copy = () => void copyText(text).then(setCopied);
  return <IconButton icon={isCopied ? "check" : "copy"} label={isCopied ? t("copied") : label} onClick={copy} />;
}

interface SearchFieldProps {
  label: string;
  value: string;
  onChange: (value: string) => void;
  id?: string;
  class?: string;
}

// A field for a text to look for. Escape empties it.
export function SearchField({ label, value, onChange, id, class: name }: SearchFieldProps) {
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || event.isComposing || !value) return;
    event.preventDefault();
    onChange("");
  };
  return (
    <input
      id={id}
      class={name}
      type="search"
      placeholder={label}
      aria-label={label}
      value={value}
      onInput={(event) => onChange(event.currentTarget.value)}
      onKeyDown={onKeyDown}
    />
  );
}

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  class?: string;
}

// A modal dialog. The browser keeps the focus inside, and closes it with Escape.
export function Dialog({ title, onClose, children, class: name }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => { // before the next key is pressed
    const before = document.activeElement as HTMLElement | null;
    dialog.current?.showModal();
    return () => before?.focus();
  }, []);
  return (
    <dialog
      ref={dialog}
      class={name}
      aria-labelledby="dialog-title"
      onCancel={(event) => (event.preventDefault(), onClose())} // "close" comes later, perhaps after the next key
      onClose={onClose}
      onClick={(event) => event.target === dialog.current && onClose()}
    >
      <div class="dialog-content">
        <header>
          <h2 id="dialog-title">{title}</h2>
          <IconButton icon="close" label={t("close")} onClick={onClose} />
        </header>
        {children}
      </div>
      <Notification />
    </dialog>
  );
}

// A short text above everything else. An open dialog has its own, because what is outside of it is behind it, cannot be
// clicked and is not read aloud.
export function Notification() {
  return <p class="notification" role="status" onClick={() => notification.set("")}>{useStore(notification)}</p>;
}

// Asks whether to do something that cannot be undone.
export function ConfirmDialog(props: { question: string; action: string; onConfirm: () => void; onClose: () => void }) {
  return (
    <Dialog title={props.action} onClose={props.onClose}>
      <p>{props.question}</p>
      <footer>
        <button type="button" onClick={props.onClose}>{t("cancel")}</button>
        <button type="button" class="danger" onClick={() => (props.onConfirm(), props.onClose())}>{props.action}</button>
      </footer>
    </Dialog>
  );
}
