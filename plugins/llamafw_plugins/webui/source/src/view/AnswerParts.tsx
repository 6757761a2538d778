// What belongs to an answer besides its text: reasoning, progress and numbers.

import type { Message, Timings } from "../data/types";
import { Markdown } from "../markdown/Markdown";
import { progress } from "../state/answering";
import { useStore } from "../state/store";
import { number, t } from "../strings";

// The reasoning, folded unless it is being written.
export function Reasoning({ message, isWriting }: { message: Message; isWriting: boolean }) {
  const isThinking = isWriting && !message.content && !message.toolCalls?.length;
  return (
    <details class="reasoning">
      <summary>{isThinking ? t("reasoningNow") : t("reasoning")}</summary>
      <Markdown text={message.reasoning ?? ""} isGrowing={isThinking} />
    </details>
  );
}

// What the server does at the moment.
export function AnswerProgress({ message }: { message: Message }) {
  const read = useStore(progress).get(message.id);
  const hasText = message.content || message.reasoning || message.toolCalls?.length;
  if (hasText) {
    const speed = message.timings?.predicted_per_second;
    return (
      <p class="progress">
        <span class="dots" aria-hidden="true" />
        {speed ? t("tokensPerSecond", { speed: number(speed, 1) }) : t("writing")}
      </p>
    );
  }
  if (!read || read.total === 0) return <p class="progress"><span class="dots" aria-hidden="true" />{t("waiting")}</p>;
  const label = t("readingPrompt", { done: number(read.processed), total: number(read.total) });
  return (
    <p class="progress">
      <progress max={read.total} value={read.processed} aria-label={label} />
      {label}
    </p>
  );
}

// The speed and the number of tokens of an answer.
export function Statistics({ timings, model }: { timings: Timings; model?: string }) {
  const prompt = t("promptSpeed", {
    n: number(timings.prompt_n),
    speed: number(timings.prompt_per_second, 1),
    cached: number(timings.cache_n),
  });
  const parts = [
    t("tokenCount", { n: number(timings.predicted_n) }),
    ...(timings.predicted_per_second ? [t("tokensPerSecond", { speed: number(timings.predicted_per_second, 1) })] : []),
  ];
  return <span class="statistics" title={[model, prompt].filter(Boolean).join(" · ")}>{parts.join(" · ")}</span>;
}

// Returns how many tokens of the context a conversation needs after its last answer.
export function contextUse(path: readonly Message[]): number {
  const last = path.findLast((message) => message.timings)?.timings;
  return last ? last.cache_n + last.prompt_n + last.predicted_n : 0;
}
