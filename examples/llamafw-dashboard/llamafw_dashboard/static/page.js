// Polls the server once a second for the state of its slots.
const element = (id) => document.getElementById(id);

async function get(path) {
  const key = element("key").value;
  const response = await fetch(path, { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

function row(slot) {
  const state = { 0: "idle", 1: "prompt", 3: "generating" }[slot.state];
  const cells = [slot.id, state, slot.n_prompt_tokens, slot.next_token[0].n_decoded, slot.n_past];
  const line = document.createElement("tr");
  line.className = state;
  line.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return line;
}

async function update() {
  try {
    const models = await get("/v1/models");
    element("model").textContent = models.data[0].id;
    const slots = await get("/slots");
    element("slots").replaceChildren(...slots.map(row));
    element("state").textContent = `${slots.filter((slot) => slot.is_processing).length} of ${slots.length} slots are busy`;
  } catch (error) {
    element("state").textContent = error.message;
  }
  setTimeout(update, 1000);
}

update();
