// Which dialog is open.

import type { Conversation, Message } from "../data/types";
import { Store } from "./store";

export type OpenDialog =
  | { kind: "settings" }
  | { kind: "shortcuts" }
  | { kind: "key"; message?: Message; refused?: string } // the answer to try again, and the key that was refused
  | { kind: "rename"; conversation: Conversation }
  | { kind: "confirm"; question: string; action: string; onConfirm: () => void };

export const dialog = new Store<OpenDialog | null>(null);

export const openDialog = (next: OpenDialog): void => dialog.set(next);
export const closeDialog = (): void => dialog.set(null);

// Asks for the API key, and then answers a message again. The dialog says that the server has refused a key.
export function askForKey(message?: Message, refused?: string): void {
  openDialog({ kind: "key", message, refused });
}
