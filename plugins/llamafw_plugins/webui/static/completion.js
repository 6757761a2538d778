// A client for the /completion endpoint of a llama server, for web pages and Node.
// The API document describes its parameters and data: see `POST /completion`.

const defaults = { stream: true, n_predict: 500, temperature: 0.2, stop: ["</s>"] };
let generationSettings = null;

// Generates a completion and yields its chunks. Returns the whole text.
//
//   for await (const chunk of llama("Once upon a time", { n_predict: 100 })) console.log(chunk.data.content);
//
// params: fields of the request, and api_key.
// config.api_url: the URL of the server; by default the site of the page.
// config.controller: an AbortController that cancels the request.
export async function* llama(prompt, params = {}, config = {}) {
  const { api_key: key, ...fields } = params;
  const controller = config.controller ?? new AbortController();
  const url = (config.api_url ?? "").replace(/\/+$/, "");
  const response = await fetch(`${url}/completion`, {
    method: "POST",
    body: JSON.stringify({ ...defaults, ...fields, prompt }),
    headers: {
      "Content-Type": "application/json",
      Accept: "text/event-stream",
      ...(key ? { Authorization: `Bearer ${key}` } : {}),
    },
    signal: controller.signal,
  });
  if (!response.ok) throw toError(await response.json().catch(() => null), response.status);

  let content = "";
  if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    const data = await response.json();
    yield { data };
    return data.content;
  }

  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let ended = false;
  try {
    while (!ended) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        const data = JSON.parse(event.slice(6));
        if (data.error) throw toError(data, response.status);
        content += data.content;
        yield { data };
        if (data.generation_settings) generationSettings = data.generation_settings;
        if (data.stop) {
          ended = true;
          break;
        }
      }
    }
  } finally {
    if (!ended) controller.abort(); // the caller left the loop early, or it failed: stop the generation
  }
  return content;
}

// Returns an EventTarget that dispatches "message" (its detail is the data of a chunk), "generation_settings",
// "timings", "done" and "error".
export const llamaEventTarget = (prompt, params = {}, config = {}) => {
  const target = new EventTarget();
  const dispatch = (type, detail) => target.dispatchEvent(new CustomEvent(type, { detail }));
  (async () => {
    let content = "";
    for await (const { data } of llama(prompt, params, config)) {
      content += data.content;
      dispatch("message", data);
      if (data.generation_settings) dispatch("generation_settings", data.generation_settings);
      if (data.timings) dispatch("timings", data.timings);
    }
    dispatch("done", { content });
  })().catch((error) => dispatch("error", error));
  return target;
};

// Returns a promise of the whole text.
export const llamaPromise = async (prompt, params = {}, config = {}) => {
  let content = "";
  for await (const { data } of llama(prompt, params, config)) content += data.content;
  return content;
};

// An older interface: params contains the prompt, and callback is called with each chunk.
export const llamaComplete = async (params, controller, callback) => {
  for await (const chunk of llama(params.prompt, params, { controller })) callback(chunk);
};

// Returns the settings of the last completion, or the server's default settings.
export const llamaModelInfo = async (config = {}) => {
  if (!generationSettings) {
    const url = (config.api_url ?? "").replace(/\/+$/, "");
    const headers = config.api_key ? { Authorization: `Bearer ${config.api_key}` } : {};
    const response = await fetch(`${url}/props`, { headers });
    const props = await response.json().catch(() => null);
    if (!response.ok) throw toError(props, response.status);
    generationSettings = props.default_generation_settings;
  }
  return generationSettings;
};

// Returns an Error with the members of an error response.
function toError(body, status) {
  const { message, ...members } = body?.error ?? { message: `the server responded with status ${status}`, code: status };
  return Object.assign(new Error(message), members);
}
