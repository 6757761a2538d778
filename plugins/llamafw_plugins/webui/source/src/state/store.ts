// A value that components can watch.

import { useEffect, useRef, useState } from "preact/hooks";

export class Store<T> {
  private listeners = new Set<() => void>();

  constructor(private current: T) {}

  get value(): T {
    return this.current;
  }

  // Replaces the value and tells everybody that watches it.
  set(value: T): void {
    if (Object.is(value, this.current)) return;
    this.current = value;
    for (const listener of [...this.listeners]) listener();
  }

  // Calls `listener` after each change; returns a function that ends this.
  watch(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

// Returns the value of a store, and renders the component again when it changes.
export function useStore<T>(store: Store<T>): T {
  return useSelected(store, (value) => value);
}

// Returns a part of the value of a store, and renders the component again only when the part changes.
export function useSelected<T, P>(store: Store<T>, select: (value: T) => P): P {
  const [, render] = useState<object>();
  const seen = select(store.value);
  const latest = useRef({ seen, select });
  latest.current = { seen, select };
  useEffect(() => {
    const check = () => {
      const { seen, select } = latest.current;
      if (!Object.is(select(store.value), seen)) render({});
    };
    check(); // it may have changed between rendering and now
    return store.watch(check);
  }, [store]);
  return seen;
}
