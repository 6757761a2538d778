// A tool that reads the files that are attached to a conversation.

import type { Attachment, Message } from "../data/types";
import { t } from "../strings";
import type { Tool } from "./index";

export const FILE_READER = "read_attached_file";

const MAX_LINES = 200; // of one result
const MAX_CHARACTERS = 8000;

export const fileReader: Tool = {
  name: FILE_READER,
  get title() {
    return t("toolReadFile");
  },
  description: "Read lines of a file that the user has attached, or find the lines that contain a text.",
  parameters: {
    type: "object",
    properties: {
      name: { type: "string", description: "The file's name." },
      first_line: { type: "integer", minimum: 1, description: "The line to begin with. Default: 1." },
      find: { type: "string", description: "Return only lines that contain this text, with any case." },
    },
    required: ["name"],
  },
  run: ({ name, first_line, find }, messages) => {
    const lines = fileNamed(String(name), messages).text.split("\n");
    const first = Math.max(1, Math.trunc(Number(first_line ?? 1)) || 1);
    const wanted = String(find ?? "").toLowerCase();
    const numbered = lines.map((line, i) => ({ n: i + 1, line })).slice(first - 1);
    const found = numbered.filter(({ line }) => line.toLowerCase().includes(wanted));
    const shown = fitting(found);
    const more = shown.length < found.length ? ` Continue with first_line ${found[shown.length]!.n}.` : "";
    const summary = `${shown.length} of ${lines.length} lines of ${String(name)}.${more}`;
    return [summary, ...shown.map(({ n, line }) => `${n}: ${line.slice(0, MAX_CHARACTERS)}`)].join("\n");
  },
};

function fileNamed(name: string, messages: readonly Message[]): Attachment {
  const files = messages.flatMap(({ attachments = [] }) => attachments.filter(({ image }) => !image));
  const file = files.findLast((each) => each.name === name);
  if (!file) throw new Error(`no file is named ${name}. Files: ${files.map((each) => each.name).join(", ") || "none"}`);
  return file;
}

// Returns the first lines, as many as one result may have, and at least one.
function fitting<T extends { line: string }>(lines: T[]): T[] {
  let length = 0;
  const end = lines.findIndex(({ line }, i) => (length += line.length) > MAX_CHARACTERS && i > 0);
  return lines.slice(0, Math.min(MAX_LINES, end < 0 ? lines.length : end));
}
