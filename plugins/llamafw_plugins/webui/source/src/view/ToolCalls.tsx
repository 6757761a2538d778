// Shows the functions that the model wants to call. Those of the page run after a question; the user enters the results
// of others.

import type { Message, ToolCall } from "../data/types";
import { CodeBlock } from "../markdown/CodeBlock";
import { opened } from "../state/app";
import { enter, pageTool, refuse, resultKey, results, run, sendEntered, type CallResult } from "../state/calls";
import { useStore } from "../state/store";
import { tools } from "../tools/index";
import { t } from "../strings";

interface Props {
  message: Message;
  sent: Message[]; // the results that were sent
  isOpen: boolean; // results can be entered
}

export function ToolCalls({ message, sent, isOpen }: Props) {
  const calls = message.toolCalls ?? [];
  const known = useStore(results);
  useStore(tools); // plugins add some after the page has started
  const canEnter = isOpen && sent.length === 0;
  const isEntered = calls.some((call) => !pageTool(call));
  const isComplete = calls.every((_, i) => known.get(resultKey(message, i))?.isRunning === false); // of a tool that was slow
  return (
    <form class="tool-calls" onSubmit={(event) => (event.preventDefault(), void sendEntered(message))}>
      {calls.map((call, i) => (
        <section key={i} class="tool-call" aria-label={t("toolCall", { name: call.name })}>
          <h3>{t("toolCall", { name: call.name })}</h3>
          <CodeBlock code={prettyArguments(call)} language="json" isGrowing={false} />
          {canEnter && <Result message={message} i={i} call={call} result={known.get(resultKey(message, i))} />}
        </section>
      ))}
      {canEnter && (isEntered || isComplete) && (
        <div class="row">
          <small class="spacer">{isEntered && t("toolHint")}</small>
          <button class="main">{t("sendResults")}</button>
        </div>
      )}
    </form>
  );
}

function Result({ message, i, call, result }: { message: Message; i: number; call: ToolCall; result?: CallResult }) {
  const { name } = call;
  if (!pageTool(call)) {
    return (
      <label>
        {t("toolResultFor", { name })}
        <textarea rows={2} value={result?.text ?? ""} onInput={(event) => enter(message, i, event.currentTarget.value)} />
      </label>
    );
  }
  if (result) return <p class="plain" role="status">{result.isRunning ? t("toolRunning", { name }) : result.text}</p>;
  const { allowed = [] } = opened.value.conversation;
  return (
    <div class="row" role="group" aria-label={t("toolQuestion", { name })}>
      <span class="question">{t("toolQuestion", { name })}</span>
      <button type="button" class="main" onClick={() => void run(message, i, false)}>{t("toolRun")}</button>
      {!allowed.includes(name) && (
        <button type="button" onClick={() => void run(message, i, true)}>{t("toolAlways")}</button>
      )}
      <button type="button" onClick={() => void refuse(message, i)}>{t("toolRefuse")}</button>
    </div>
  );
}

function prettyArguments(call: ToolCall): string {
  try {
    return JSON.stringify(JSON.parse(call.arguments), null, 2);
  } catch {
    return call.arguments;
  }
}
