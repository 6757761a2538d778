// Finds conversations by the words in their titles and messages.

import { readAllMessages } from "../data/database";
import type { Conversation } from "../data/types";

// Returns the conversations that contain all words of the query.
export async function search(all: readonly Conversation[], query: string): Promise<readonly Conversation[]> {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return all;
  const texts = new Map(all.map(({ id, title }) => [id, [title]]));
  for (const message of await readAllMessages()) texts.get(message.conversation)?.push(message.content);
  return all.filter(({ id }) => {
    const text = texts.get(id)!.join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  });
}
