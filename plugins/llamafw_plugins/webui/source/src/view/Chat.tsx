// The messages of the open conversation. Of long ones, the last messages are shown first.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { readKey } from "../data/preferences";
import { childrenByParent } from "../data/tree";
import type { Message } from "../data/types";
import { answerLast, shownPath } from "../state/actions";
import { resume } from "../state/answering";
import { opened } from "../state/app";
import { askForKey } from "../state/dialogs";
import { useStore } from "../state/store";
import { t } from "../strings";
import { IconButton } from "./controls";
import { MessageView } from "./MessageView";
import { Notice } from "./Notices";

const PORTION = 40; // messages that are shown at first, and added at the top each time

export function Chat() {
  const { conversation, messages } = useStore(opened);
  const path = shownPath();
  const [hidden, setHidden] = useState(Infinity); // messages at the start that are not shown
  const log = useRef<HTMLDivElement>(null);
  const first = Math.max(0, Math.min(hidden, path.length - PORTION));
  const isAtEnd = useScrolling(log, path, first);

  useEffect(() => setHidden(Math.max(0, path.length - PORTION)), [conversation.id]);
  useEffect(() => {
    for (const message of messages.values()) if (message.status === "writing") void resume(message);
  }, [conversation.id]);

  const last = path.at(-1);
  const children = childrenByParent(messages);
  return (
    <div class="log-frame">
      <div ref={log} class="log" role="region" aria-label={t("conversation")} tabIndex={0}>
       <div class="log-content">
        {path.length === 0 && <Welcome />}
        {first > 0 && <Earlier key={first} show={() => setHidden(first - PORTION)} />}
        {path.slice(first).map((message) => (
          <MessageRow
            key={message.id}
            message={message}
            siblings={children.get(message.parent)!}
            isLast={message === last}
            isWriting={message.status === "writing"}
            results={message.toolCalls ? path.filter((other) => isResultOf(other, message)) : NONE}
          />
        ))}
        {last && last.role !== "assistant" && (
          <Notice text={t("unanswered")}>
            <button type="button" onClick={() => void answerLast()}>{t("answerNow")}</button>
          </Notice>
        )}
       </div>
      </div>
      {!isAtEnd && (
        <IconButton
          icon="down"
          class="jump"
          label={t("jumpToEnd")}
          onClick={() => log.current?.scrollTo({ top: log.current.scrollHeight })}
        />
      )}
      <Announcer last={last} />
    </div>
  );
}

const NONE: Message[] = [];

function isResultOf(result: Message, message: Message): boolean {
  return message.toolCalls?.some((call) => call.id === result.toolCallId) ?? false;
}

// Renders a message again only when something of it has changed.
function MessageRow(props: Parameters<typeof MessageView>[0]) {
  const { message, siblings, isLast, isWriting, results } = props;
  const versions = siblings.map(({ id }) => id).join();
  return useMemo(() => <MessageView {...props} />, [message, versions, isLast, isWriting, results.length]);
}

function Welcome() {
  return (
    <div class="welcome">
      <h2>{t("welcome")}</h2>
      <p>{t("welcomeHint")}</p>
    </div>
  );
}

// Shows earlier messages when it becomes visible, or is pressed.
function Earlier({ show }: { show: () => void }) {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => entry?.isIntersecting && show());
    observer.observe(button.current!);
    return () => observer.disconnect();
  }, []);
  return <button ref={button} type="button" class="earlier" onClick={show}>{t("showEarlier")}</button>;
}

// Tells screen readers when an answer has ended.
function Announcer({ last }: { last: Message | undefined }) {
  const [text, setText] = useState("");
  const isWriting = last?.status === "writing";
  const wasWriting = useRef(false);
  useEffect(() => {
    if (isWriting) setText(t("writing"));
    else if (wasWriting.current && last) {
      if (last.failure?.kind === "key") askForKey(last, readKey());
      setText(t(last.failure ? "announceFailed" : last.status === "stopped" ? "announceStopped" : "announceDone"));
    }
    wasWriting.current = isWriting;
  }, [isWriting, last?.status]);
  return <p class="visually-hidden" role="status">{text}</p>;
}

// Keeps the end of the log in view while the user has not scrolled up, and the place when earlier messages appear.
function useScrolling(log: { current: HTMLDivElement | null }, path: Message[], first: number): boolean {
  const [isAtEnd, setAtEnd] = useState(true);
  const follows = useRef(true);
  const fromEnd = useRef(0); // pixels between the top of the view and the end of the log
  const length = useRef(0);

  useEffect(() => {
    const element = log.current!;
    const onScroll = () => {
      fromEnd.current = element.scrollHeight - element.scrollTop;
      follows.current = fromEnd.current - element.clientHeight < 40;
      setAtEnd(follows.current);
    };
    const keepEnd = () => {
      if (follows.current) element.scrollTop = element.scrollHeight;
      else onScroll();
    };
    const observer = new ResizeObserver(keepEnd);
    observer.observe(element);
    observer.observe(element.firstElementChild!); // it also grows when code is coloured or a formula appears
    element.addEventListener("scroll", onScroll, { passive: true });
    return () => (observer.disconnect(), element.removeEventListener("scroll", onScroll));
  }, []);

  const id = path[0]?.conversation;
  useLayoutEffect(() => {
    follows.current = true;
    length.current = 0;
  }, [id]);
  useLayoutEffect(() => {
    const element = log.current!;
    const isNew = path.length > length.current && path.at(-1)?.status === "writing"; // the user has sent a message
    if (path.length === length.current) return; // what grows is seen by the observer, without another layout
    length.current = path.length;
    if (isNew) follows.current = true;
    if (follows.current) element.scrollTop = element.scrollHeight;
  });
  useLayoutEffect(() => {
    const element = log.current!;
    if (!follows.current) element.scrollTop = element.scrollHeight - fromEnd.current;
  }, [first]);
  return isAtEnd;
}
