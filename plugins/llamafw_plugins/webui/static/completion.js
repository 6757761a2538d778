// Text from a llama server, as it comes: for web pages and Node. See `POST /completion` for parameters and data.

const defaults = { stream: true, n_predict: 500, temperature: 0.2, stop: ["</s>"] };
let settings = null;

// for await (const chunk of llama("Once upon a time", { n_predict: 100 })) console.log(chunk.data.content);
//
// config.api_url: where the server is, by default where the page comes from; config.controller: an AbortController.
// Returns all of the text.
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
  if (!response.ok) throw failure(await response.json().catch(() => null), response.status);
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
        if (data.error) throw failure(data, response.status);
        content += data.content;
        yield { data };
        if (data.generation_settings) settings = data.generation_settings;
        if (data.stop) {
          ended = true;
          break;
        }
      }
    }
  } finally {
    if (!ended) controller.abort(); // whoever stops to listen does not want the rest
  }
  return content;
}

// An EventTarget with the events "message" (detail: the data), "generation_settings", "timings" and "done".
export const llamaEventTarget = (prompt, params = {}, config = {}) => {
  const target = new EventTarget();
  const tell = (type, detail) => target.dispatchEvent(new CustomEvent(type, { detail }));
  (async () => {
    let content = "";
    for await (const { data } of llama(prompt, params, config)) {
      content += data.content;
      tell("message", data);
      if (data.generation_settings) tell("generation_settings", data.generation_settings);
      if (data.timings) tell("timings", data.timings);
    }
    tell("done", { content });
  })().catch((error) => tell("error", error));
  return target;
};

// A promise of the whole text.
export const llamaPromise = async (prompt, params = {}, config = {}) => {
  let content = "";
  for await (const { data } of llama(prompt, params, config)) content += data.content;
  return content;
};

// Older: params holds the prompt, callback gets each chunk.
export const llamaComplete = async (params, controller, callback) => {
  for await (const chunk of llama(params.prompt, params, { controller })) callback(chunk);
};

// The settings of the last answer, or the server's own.
export const llamaModelInfo = async (config = {}) => {
  if (!settings) {
    const url = (config.api_url ?? "").replace(/\/+$/, "");
    const headers = config.api_key ? { Authorization: `Bearer ${config.api_key}` } : {};
    const response = await fetch(`${url}/props`, { headers });
    const props = await response.json().catch(() => null);
    if (!response.ok) throw failure(props, response.status);
    settings = props.default_generation_settings;
  }
  return settings;
};

function failure(body, status) {
  const { message, ...facts } = body?.error ?? { message: `the server answered ${status}`, code: status };
  return Object.assign(new Error(message), facts);
}
