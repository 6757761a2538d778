// Uses the Responses API as a Node program does. Prints one JSON object, which the test checks.
import OpenAI, { NotFoundError } from 'openai';

const client = new OpenAI({ baseURL: process.argv[2], apiKey: 'none', maxRetries: 0 });
const ask = { model: 'any', input: 'What is the capital of France?', max_output_tokens: 16, temperature: 0 };
const weather = {
    type: 'function',
    name: 'weather',
    strict: true,
    parameters: {
        type: 'object',
        properties: { city: { type: 'string', maxLength: 12 } },
        required: ['city'],
        additionalProperties: false,
    },
};
const result = {};

const whole = await client.responses.create(ask);
result.text = whole.output_text;

result.types = [];
result.streamed = '';
for await (const event of await client.responses.create({ ...ask, stream: true })) {
    result.types.push(event.type);
    if (event.type === 'response.output_text.delta') result.streamed += event.delta;
}

const stream = client.responses.stream(ask);
let deltas = '';
stream.on('response.output_text.delta', (event) => (deltas += event.delta));
result.final = (await stream.finalResponse()).output[0].content[0].text;
result.deltas = deltas;

const called = await client.responses.create({ ...ask, tools: [weather], tool_choice: 'required', max_output_tokens: 64 });
const calls = called.output.filter((item) => item.type === 'function_call');
result.arguments = calls.map((call) => JSON.parse(call.arguments));
const outputs = calls.map((call) => ({ type: 'function_call_output', call_id: call.call_id, output: 'rain' }));
const next = await client.responses.create({ ...ask, previous_response_id: called.id, input: outputs, tools: [weather] });
result.next = next.status;

result.items = [];
for await (const item of client.responses.inputItems.list(next.id, { order: 'asc', limit: 1 })) result.items.push(item.type);
result.counted = (await client.responses.inputTokens.count({ model: 'any', input: ask.input })).input_tokens;
result.used = whole.usage.input_tokens;

const running = await client.responses.create({ ...ask, background: true, ignore_eos: true, max_output_tokens: 100000 });
result.cancelled = (await client.responses.cancel(running.id)).status;
result.retrieved = (await client.responses.retrieve(running.id)).status;
await client.responses.delete(running.id);
result.deleted = await client.responses.retrieve(running.id).catch((error) => error instanceof NotFoundError);

console.log(JSON.stringify(result));
