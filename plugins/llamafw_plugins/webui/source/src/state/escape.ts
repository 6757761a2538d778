// What Escape closes before it does anything else: menus and tooltips, the one that opened last first.

const open: (() => void)[] = [];

// Makes Escape call a function; returns a function that ends this.
export function onEscape(close: () => void): () => void {
  open.push(close);
  return () => void open.splice(open.lastIndexOf(close), 1);
}

// Closes what opened last; returns whether there was something.
export function closeLast(): boolean {
  open.at(-1)?.();
  return open.length > 0;
}
