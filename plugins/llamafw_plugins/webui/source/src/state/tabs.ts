// Tells other tabs with this page which conversation has changed, and finds out which tab writes an answer.

import { scope } from "../data/database";

type News = { changed: string } | { isWriting: string } | { writes: string };

const channel = new BroadcastChannel(scope);
const ANSWER_TIME = 300; // milliseconds in which another tab answers

// Tells other tabs that a conversation has changed.
export function tell(conversation: string): void {
  channel.postMessage({ changed: conversation } satisfies News);
}

// Calls `changed` when another tab has changed a conversation.
export function listen(changed: (conversation: string) => void): void {
  channel.addEventListener("message", ({ data }: MessageEvent<News>) => {
    if ("changed" in data) changed(data.changed);
  });
}

// Answers the questions of other tabs, whether this tab writes a message.
export function answerFor(isWritten: (message: string) => boolean): void {
  channel.addEventListener("message", ({ data }: MessageEvent<News>) => {
    if ("isWriting" in data && isWritten(data.isWriting)) channel.postMessage({ writes: data.isWriting } satisfies News);
  });
}

// Returns whether another tab writes a message.
export function isWrittenElsewhere(message: string): Promise<boolean> {
  return new Promise((resolve) => {
    const hear = ({ data }: MessageEvent<News>) => "writes" in data && data.writes === message && end(true);
    const timer = setTimeout(() => end(false), ANSWER_TIME);
    const end = (answer: boolean) => {
      clearTimeout(timer);
      channel.removeEventListener("message", hear);
      resolve(answer);
    };
    channel.addEventListener("message", hear);
    channel.postMessage({ isWriting: message } satisfies News);
  });
}
