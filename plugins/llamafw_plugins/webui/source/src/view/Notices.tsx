// Says in words what went wrong with an answer, and offers a way out.

import { useEffect, useState } from "preact/hooks";
import type { Failure, Message } from "../data/types";
import { changeSettings, regenerate, tryAgain } from "../state/actions";
import { continueAnswer } from "../state/answering";
import { opened, openNew } from "../state/app";
import { askForKey } from "../state/dialogs";
import { t } from "../strings";

export function AnswerNotices({ message, isLast }: { message: Message; isLast: boolean }) {
  if (message.role !== "assistant") return null;
  return (
    <>
      {message.failure && <FailureNotice message={message} failure={message.failure} />}
      {message.status === "stopped" && <Notice text={t("stoppedNote")} />}
      {message.finish === "length" && !message.truncated && (
        <Notice text={t("cutNote")}>
          {isLast && <button type="button" onClick={() => void continueAnswer(message)}>{t("continueAnswer")}</button>}
        </Notice>
      )}
      {message.truncated && (
        <Notice text={t("truncatedNote")}>
          {isLast && message.finish === "length" && (
            <button type="button" onClick={() => void continueAnswer(message, { truncate_prompt: true })}>
              {t("continueAnswer")}
            </button>
          )}
          {isLast && <button type="button" onClick={openNew}>{t("startNew")}</button>}
        </Notice>
      )}
    </>
  );
}

function FailureNotice({ message, failure }: { message: Message; failure: Failure }) {
  const seconds = useCountdown(failure.kind === "busy" ? (failure.retryAfter ?? 0) : 0);
  const again = <button type="button" onClick={() => void tryAgain(message)}>{t("tryAgain")}</button>;
  const { options } = opened.value.conversation;
  const name = failure.param?.split(".")[0] ?? "";
  switch (failure.kind) {
    case "key":
      return (
        <Notice isError text={t("failureKey")}>
          <button type="button" onClick={() => askForKey(message)}>{t("enterKey")}</button>
        </Notice>
      );
    case "busy":
      return <Notice isError text={seconds ? t("failureBusySeconds", { n: seconds }) : t("failureBusy")}>{again}</Notice>;
    case "context":
      return (
        <Notice isError text={`${t("failureContext")} (${failure.message})`}>
          <button type="button" onClick={() => void regenerate(message, { truncate_prompt: true })}>
            {t("leaveOutOldest")}
          </button>
          <button type="button" onClick={openNew}>{t("startNew")}</button>
        </Notice>
      );
    case "invalid":
      return (
        <Notice isError text={t("failureInvalid", { message: failure.message })}>
          {name in options && (
            <button type="button" onClick={() => void reset(name, message)}>{t("resetOption", { name })}</button>
          )}
          {again}
        </Notice>
      );
    default:
      return <Notice isError text={textOf(failure)}>{again}</Notice>;
  }
}

function textOf(failure: Failure): string {
  if (failure.kind === "network") return t("failureNetwork");
  if (failure.kind === "loading") return t("failureLoading");
  if (failure.kind === "lost") return t("failureLost");
  return t("failureServer", { message: failure.message });
}

async function reset(name: string, message: Message): Promise<void> {
  const { [name]: _, ...options } = opened.value.conversation.options;
  await changeSettings({ options });
  await tryAgain(message);
}

// Returns how many seconds are left.
function useCountdown(seconds: number): number {
  const [left, setLeft] = useState(seconds);
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(() => setLeft(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  return left;
}

interface NoticeProps {
  text: string;
  isError?: boolean;
  children?: preact.ComponentChildren;
}

// A text with buttons, in a frame.
export function Notice({ text, isError, children }: NoticeProps) {
  return (
    <div class={`notice ${isError ? "error" : ""}`} role={isError ? "alert" : undefined}>
      <span>{text}</span>
      {children}
    </div>
  );
}
