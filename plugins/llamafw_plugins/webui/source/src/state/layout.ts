// Which parts of the page are visible, and the short texts that appear for a moment.

import { Store } from "./store";

const wide = matchMedia("(min-width: 60rem)"); // as in layout.css

export const isWide = new Store(wide.matches); // else the conversations and the panel cover the page
export const sidebar = new Store(wide.matches);
export const panel = new Store<string | null>(null); // the id of the open tab of the panel
export const notification = new Store("");

wide.addEventListener("change", () => {
  isWide.set(wide.matches);
  sidebar.set(wide.matches);
});

export function toggleSidebar(): void {
  if (sidebar.value) sidebar.set(false);
  else showSidebar();
}

// Shows the conversations, on narrow screens instead of the panel.
export function showSidebar(): void {
  if (!isWide.value) panel.set(null);
  sidebar.set(true);
}

// Hides the conversations after a choice, where they cover the page.
export function leaveSidebar(): void {
  if (!isWide.value) sidebar.set(false);
}

let lastPanel = "options";

export function showPanel(id: string): void {
  lastPanel = id;
  leaveSidebar();
  panel.set(id);
}

export function togglePanel(): void {
  if (panel.value === null) showPanel(lastPanel);
  else panel.set(null);
}

// Hides what covers the page on narrow screens; returns whether there was something.
export function uncover(): boolean {
  if (isWide.value || (!sidebar.value && panel.value === null)) return false;
  sidebar.set(false);
  panel.set(null);
  return true;
}

let timer = 0;

// Shows a text for some seconds: as long as reading it takes.
export function notify(text: string): void {
  clearTimeout(timer);
  notification.set(text);
  timer = setTimeout(() => notification.set(""), Math.max(6000, text.length * 100));
}
