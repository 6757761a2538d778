// The buttons below a message.

import type { Message } from "../data/types";
import { extensions, runMessageAction } from "../extensions";
import { regenerate, showBranch } from "../state/actions";
import { continueAnswer } from "../state/answering";
import { useStore } from "../state/store";
import { t } from "../strings";
import { CopyButton, IconButton } from "./controls";
import type { Form } from "./MessageView";

interface Props {
  message: Message;
  siblings: Message[];
  isLast: boolean;
  form: Form;
  setForm: (form: Form) => void;
  onEdit: () => void;
}

export function MessageActions({ message, siblings, isLast, form, setForm, onEdit }: Props) {
  const { messageActions } = useStore(extensions);
  const isAnswer = message.role === "assistant";
  return (
    <div class="actions" role="group" aria-label={t("message")}>
      {siblings.length > 1 && <Versions message={message} siblings={siblings} />}
      {message.content && <CopyButton text={message.content} label={t("copy")} />}
      {message.role !== "tool" && <IconButton icon="edit" label={t("edit")} action="edit" onClick={onEdit} />}
      {isAnswer && <IconButton icon="again" label={t("regenerate")} onClick={() => void regenerate(message)} />}
      {isAnswer && isLast && !message.toolCalls && (
        <IconButton icon="play" label={t("continueAnswer")} onClick={() => void continueAnswer(message)} />
      )}
      {message.tokens && (
        <IconButton
          icon="tokens"
          label={form === "tokens" ? t("showText") : t("showTokens")}
          pressed={form === "tokens"}
          onClick={() => setForm(form === "tokens" ? "text" : "tokens")}
        />
      )}
      {isAnswer && message.content && (
        <IconButton
          icon="file"
          label={t("showRaw")}
          pressed={form === "raw"}
          onClick={() => setForm(form === "raw" ? "text" : "raw")}
        />
      )}
      {messageActions
        .filter((action) => !action.roles || action.roles.includes(message.role))
        .map((action) => (
          <button key={action.id} type="button" class="small" onClick={() => runMessageAction(action, message)}>
            {action.title}
          </button>
        ))}
    </div>
  );
}

// Switches between the versions of a message.
function Versions({ message, siblings }: { message: Message; siblings: Message[] }) {
  const i = siblings.findIndex(({ id }) => id === message.id);
  const previous = siblings[i - 1];
  const next = siblings[i + 1];
  const label = t("branchOf", { n: i + 1, total: siblings.length });
  return (
    <span class="versions" role="group" aria-label={label}>
      <IconButton
        icon="left"
        label={t("previousBranch")}
        disabled={!previous}
        onClick={() => previous && void showBranch(previous)}
      />
      <span title={label}>{i + 1}/{siblings.length}</span>
      <IconButton icon="right" label={t("nextBranch")} disabled={!next} onClick={() => next && void showBranch(next)} />
    </span>
  );
}
