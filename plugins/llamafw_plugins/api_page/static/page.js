// The page at /docs: shows samples, sends requests, filters the operations. Nothing is sent to other hosts.

const main = document.querySelector("main");
const base = new URL("..", location.href); // the server, below its prefix
const scope = `llamafw:${base.pathname}`; // the chat page keeps its key and colours under the same names
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// --- what is stored --------------------------------------------------------------------------------

// Runs an action on the storage, which some browsers forbid.
function quietly(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

const key = document.querySelector("#key");
key.value = quietly(() => sessionStorage.getItem(`${scope}:key`) ?? localStorage.getItem(`${scope}:key`)) ?? "";
key.addEventListener("input", () => quietly(() => sessionStorage.setItem(`${scope}:key`, key.value.trim())));
document.querySelector("#key-form").addEventListener("submit", (event) => event.preventDefault());

const { theme } = quietly(() => JSON.parse(localStorage.getItem(`${scope}:preferences`))) ?? {};
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;

// --- samples ---------------------------------------------------------------------------------------

const WORDS =
  /("(?:[^"\\]|\\.)*"|'[^']*')|\b(import|with|as|for|await|const|of|in|if|print|method|true|false|null|True|False|None)\b/g;

// Shows code in colours.
function paint(code) {
  const text = code.textContent;
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(WORDS)) {
    const span = document.createElement("span");
    span.className = match[1] ? "string" : "word";
    span.textContent = match[0];
    parts.push(text.slice(end, match.index), span);
    end = match.index + match[0].length;
  }
  code.replaceChildren(...parts, text.slice(end));
}

let language = quietly(() => sessionStorage.getItem(`${scope}:language`)) ?? "curl";

// Shows the sample of an operation in the chosen language.
function showSample(operation) {
  const chosen = operation.querySelector("select[data-example]")?.value ?? "0";
  for (const sample of all(".sample", operation)) {
    sample.hidden = sample.dataset.language !== language || sample.dataset.example !== chosen;
    if (!sample.hidden && !sample.querySelector("span")) paint(sample.querySelector("code"));
  }
  for (const button of all("[data-language]:not(.sample)", operation)) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
}

function chooseLanguage(name) {
  language = name;
  quietly(() => sessionStorage.setItem(`${scope}:language`, name));
  for (const operation of all(".operation[open]")) showSample(operation);
}

async function copySample(operation, button) {
  const text = operation.querySelector(".sample:not([hidden])").textContent;
  button.textContent = await navigator.clipboard.writeText(text).then(() => "Copied", () => "Not allowed");
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// --- requests --------------------------------------------------------------------------------------

const MAX_RESULT = 1_000_000; // characters that are shown

// Returns the URL that a form describes.
function urlOf(form) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  for (const field of all("[data-place]", form)) {
    if (field.dataset.place === "path") path = path.replace(`{${field.name}}`, encodeURIComponent(field.value));
    else if (field.value) query.append(field.name, field.value);
  }
  return new URL(path.slice(1) + (query.size ? `?${query}` : ""), base);
}

// Sends a form's request, and shows the response while it arrives.
async function send(form, controller) {
  const [outcome, result] = [form.querySelector(".outcome"), form.querySelector(".result")];
  const body = form.querySelector("[name=body]")?.value;
  const headers = { ...(key.value.trim() && { Authorization: `Bearer ${key.value.trim()}` }) };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const start = performance.now();
  outcome.textContent = "Waiting …";
  result.hidden = true;

  const response = await fetch(urlOf(form), {
    method: form.dataset.method,
    headers,
    body,
    signal: controller.signal,
  });
  const seconds = () => `${((performance.now() - start) / 1000).toFixed(2)} s`;
  const status = `${response.status} ${response.statusText}`.trim();
  outcome.textContent = status;
  result.textContent = "";
  result.hidden = false;

  let text = "";
  const decoder = new TextDecoder();
  for (const reader = response.body?.getReader(); reader; ) {
    const { done, value } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
    result.textContent = text.slice(0, MAX_RESULT);
  }
  if (response.headers.get("content-type")?.startsWith("application/json")) {
    result.textContent = (quietly(() => JSON.stringify(JSON.parse(text), null, 2)) ?? text).slice(0, MAX_RESULT);
  }
  result.hidden = !text;
  outcome.textContent = `${status}, ${seconds()}`;
  if (response.status === 401) outcome.append(" ", askForKey());
}

// Returns a button that leads to the field for the key.
function askForKey() {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = key.value ? "Change the API key" : "Enter an API key";
  button.addEventListener("click", () => { key.focus(); key.select(); });
  return button;
}

function prepareForm(form) {
  const [sendButton, stop] = [form.querySelector(".send"), form.querySelector(".stop")];
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const controller = new AbortController();
    stop.onclick = () => controller.abort();
    [sendButton.disabled, stop.hidden] = [true, false];
    try {
      await send(form, controller);
    } catch (error) {
      const words = error.name === "AbortError" ? "Stopped." : `The request failed: ${error.message}`;
      form.querySelector(".outcome").textContent = words;
    } finally {
      [sendButton.disabled, stop.hidden] = [false, true];
    }
  });
}

// --- operations ------------------------------------------------------------------------------------

// Prepares an operation when it is opened for the first time.
function prepare(operation) {
  if (operation.dataset.ready) return;
  operation.dataset.ready = "yes";
  for (const element of all(".languages button, .example, .copy, .try", operation)) element.hidden = false;
  for (const code of all(".sample code", operation)) {
    code.textContent = code.textContent.replaceAll(main.dataset.address, base.href.replace(/\/$/, ""));
  }
  operation.querySelector(".languages").addEventListener("click", ({ target }) => {
    if (target.dataset.language) chooseLanguage(target.dataset.language);
  });
  operation.querySelector("select[data-example]")?.addEventListener("change", ({ target }) => {
    operation.querySelector("[name=body]").value =
      operation.querySelector(`[data-body="${target.value}"]`).content.textContent;
    showSample(operation);
  });
  const copy = operation.querySelector(".copy");
  copy.addEventListener("click", () => copySample(operation, copy));
  prepareForm(operation.querySelector(".try"));
}

for (const operation of all(".operation")) {
  operation.addEventListener("toggle", () => {
    if (!operation.open) return;
    prepare(operation);
    showSample(operation);
    history.replaceState(null, "", `#${operation.id}`);
  });
}

// Opens what the address names.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target?.classList.contains("operation")) return;
  target.open = true;
  target.scrollIntoView();
}

addEventListener("hashchange", openTarget);
openTarget();

// --- the menu --------------------------------------------------------------------------------------

const narrow = matchMedia("(max-width: 60rem)");
const menu = document.querySelector("#menu");
menu.open = !narrow.matches;
narrow.addEventListener("change", () => { menu.open = !narrow.matches; });
menu.addEventListener("click", ({ target }) => {
  if (narrow.matches && target.closest("a")) menu.open = false;
  const id = target.closest("a")?.hash.slice(1);
  if (id && `#${id}` === location.hash) openTarget(); // the address does not change, so there is no event
});

const filter = document.querySelector("#filter");
let searched = null; // the texts of all operations, in lower case

function textsOfOperations() {
  return all(".operation").map((operation) => {
    const [summary, text] = [operation.querySelector("summary"), operation.querySelector(".text")];
    return [operation, `${operation.id} ${summary.textContent} ${text.textContent}`.toLowerCase()];
  });
}

// Shows only the operations whose descriptions have all words of the filter.
function applyFilter() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  searched ??= textsOfOperations();
  let shown = 0;
  for (const [operation, text] of searched) {
    operation.hidden = !words.every((word) => text.includes(word));
    document.querySelector(`[data-of="${operation.id}"]`).hidden = operation.hidden;
    shown += operation.hidden ? 0 : 1;
  }
  for (const section of all("main section")) {
    const operations = all(".operation", section);
    section.hidden = operations.length > 0 && operations.every((operation) => operation.hidden);
  }
  for (const list of all("nav ul")) {
    list.hidden = list.previousElementSibling.hidden = all("li", list).every((item) => item.hidden);
  }
  document.querySelector("#filter-result").textContent = words.length ? `${shown} ${shown === 1 ? "operation" : "operations"}` : "";
}

filter.addEventListener("input", applyFilter);
for (const id of ["#key-form", "#filter-form"]) document.querySelector(id).hidden = false;
