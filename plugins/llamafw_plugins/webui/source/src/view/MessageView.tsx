// Shows one message of a conversation with everything that belongs to it.

import { useMemo, useState } from "preact/hooks";
import type { Attachment, Message } from "../data/types";
import { Markdown } from "../markdown/Markdown";
import { CodeBlock } from "../markdown/CodeBlock";
import { t } from "../strings";
import { AnswerProgress, Reasoning, Statistics } from "./AnswerParts";
import { EditForm } from "./EditForm";
import { MessageActions } from "./MessageActions";
import { AnswerNotices } from "./Notices";
import { TokenView } from "./TokenView";
import { ToolCalls } from "./ToolCalls";
import { Icon } from "./icons";

export type Form = "text" | "tokens" | "raw";

interface Props {
  message: Message;
  siblings: Message[]; // the versions of the message, itself included
  isLast: boolean;
  isWriting: boolean; // by this tab
  results: Message[]; // of the tool calls
}

export function MessageView({ message, siblings, isLast, isWriting, results }: Props) {
  const [form, setForm] = useState<Form>("text");
  const [isEdited, setEdited] = useState(false);
  const author = message.role === "user" ? t("you") : message.role === "tool" ? t("toolResult") : t("assistant");
  return (
    <article class={`message ${message.role}`} aria-label={author} id={`m-${message.id}`}>
      {message.role === "tool" ? (
        <p class="author">{author}</p>
      ) : (
        <h2 class="visually-hidden">{author}</h2>
      )}
      {message.reasoning && <Reasoning message={message} isWriting={isWriting} />}
      {message.attachments?.map((file, i) => <AttachmentView key={i} file={file} />)}
      {isEdited ? (
        <EditForm message={message} onClose={() => setEdited(false)} />
      ) : (
        <Body message={message} form={form} isWriting={isWriting} />
      )}
      {message.toolCalls && <ToolCalls message={message} sent={results} isOpen={isLast && !isWriting} />}
      {isWriting && <AnswerProgress message={message} />}
      {!isWriting && <AnswerNotices message={message} isLast={isLast} />}
      {!isEdited && !isWriting && (
        <footer>
          <MessageActions
            {...{ message, siblings, isLast, form, setForm }}
            onEdit={() => setEdited(true)}
          />
          {message.timings && <Statistics timings={message.timings} model={message.model} />}
        </footer>
      )}
    </article>
  );
}

function Body({ message, form, isWriting }: { message: Message; form: Form; isWriting: boolean }) {
  if (message.role !== "assistant") return message.content ? <div class="plain">{message.content}</div> : null;
  if (form === "tokens" && message.tokens) return <TokenView tokens={message.tokens} />;
  if (form === "raw") return <div class="plain">{message.content}</div>;
  return <AnswerBody message={message} isWriting={isWriting} />;
}

function AnswerBody({ message, isWriting }: { message: Message; isWriting: boolean }) {
  const json = useMemo(() => (message.isJson ? prettyJson(message.content) : null), [message.content, message.isJson]);
  if (message.isJson && message.content) {
    return <CodeBlock code={json ?? message.content} language="json" isGrowing={isWriting} />;
  }
  return message.content ? <Markdown text={message.content} isGrowing={isWriting} /> : null;
}

// Returns JSON with line breaks, or null if the text is not JSON (yet).
function prettyJson(text: string): string | null {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null;
  }
}

function AttachmentView({ file: { name, text, image, pages } }: { file: Attachment }) {
  if (image?.startsWith("data:image/")) return <img class="attached-image" src={image} alt={name} />;
  return (
    <details class="attachment">
      <summary><Icon name="file" />{name}{pages && pages > 1 && ` (${t("pages", { n: pages })})`}</summary>
      <pre tabIndex={0} role="region" aria-label={name}>{text}</pre>
    </details>
  );
}
