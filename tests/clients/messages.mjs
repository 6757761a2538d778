// Uses the Messages API as a Node program does. Prints one JSON object, which the test checks.
import Anthropic, { BadRequestError } from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.argv[2], apiKey: 'none', maxRetries: 0 });
const messages = [{ role: 'user', content: 'What is the capital of France?' }];
const ask = { model: 'any', max_tokens: 16, temperature: 0, messages };
const weather = {
    name: 'weather',
    input_schema: {
        type: 'object',
        properties: { city: { type: 'string', maxLength: 12 } },
        required: ['city'],
        additionalProperties: false,
    },
};
const result = {};

const whole = await client.messages.create(ask);
result.text = whole.content[0].text;

result.types = [];
result.streamed = '';
for await (const event of await client.messages.create({ ...ask, stream: true })) {
    result.types.push(event.type);
    if (event.type === 'content_block_delta') result.streamed += event.delta.text;
}

const stream = client.messages.stream(ask);
result.deltas = '';
stream.on('text', (text) => (result.deltas += text));
result.final = (await stream.finalMessage()).content[0].text;

const choice = { type: 'any', disable_parallel_tool_use: true };
const called = await client.messages.create({ ...ask, max_tokens: 64, tools: [weather], tool_choice: choice });
const call = called.content.find((block) => block.type === 'tool_use');
result.input = call.input;
const answer = [{ type: 'tool_result', tool_use_id: call.id, content: [{ type: 'text', text: 'rain' }] }];
const history = [...messages, { role: 'assistant', content: called.content }, { role: 'user', content: answer }];
result.next = (await client.beta.messages.create({ ...ask, messages: history, tools: [weather], betas: ['x-2026'] })).type;

result.counted = (await client.messages.countTokens({ model: 'any', messages })).input_tokens;
result.used = whole.usage.input_tokens + whole.usage.cache_read_input_tokens;
result.error = await client.messages
    .create({ ...ask, messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'url', url: 'x' } }] }] })
    .catch((error) => error instanceof BadRequestError && error.error.error.type);

console.log(JSON.stringify(result));
