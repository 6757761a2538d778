// Starts the page.

import "./style/base.css";
import "./style/layout.css";
import "./style/messages.css";
import "./style/panel.css";
import { render } from "preact";
import { loadExtensions } from "./extensions";
import { preferences, start } from "./state/app";
import { readServer } from "./state/server";
import { setLanguage } from "./strings";
import { App } from "./view/App";

async function main(): Promise<void> {
  await setLanguage(preferences.value.language);
  await start();
  render(<App />, document.body);
  await readServer();
  await loadExtensions().catch(() => {}); // the server is not there; the page says so when it is needed
}

void main();
