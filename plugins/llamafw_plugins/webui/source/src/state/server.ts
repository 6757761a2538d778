// What is known of the server, read when the page starts and when the key changes.

import { readModels, readProps, type Model, type Props } from "../server/info";
import { Store } from "./store";

export const models = new Store<readonly Model[]>([]);
export const props = new Store<Props | null>(null);

// Reads the models and, if the key allows it, the properties.
export async function readServer(): Promise<void> {
  await Promise.allSettled([
    readModels().then((list) => models.set(list)),
    readProps().then((all) => props.set(all)),
  ]);
}
