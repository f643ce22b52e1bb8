// The AI SDK with its provider @ai-sdk/alibaba: the same flows as the Python drivers, in the same form (see driver.py).
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createAlibaba } from "@ai-sdk/alibaba";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";

console.log = console.info = console.error; // standard output is for answers

const TOOL_PROMPT = "What was the revenue in 2024? Use the tool.";
const TOOL_RESULT = "12.5 billion";
const JSON_PROMPT = "Answer as JSON with the keys value and unit.";
const WRONG_KEY = "sk-00000000000000000000000000000000";
const YEAR = jsonSchema({ type: "object", properties: { year: { type: "integer" } }, required: ["year"] });
const SCHEMA = jsonSchema({
  type: "object",
  properties: { value: { type: "number" }, unit: { type: "string" } },
  required: ["value", "unit"],
  additionalProperties: false,
});

const model = (ask, key) => createAlibaba({ apiKey: key ?? ask.key, baseURL: ask.compatible })(ask.model);
const turn = (ask, image, prompt) => ({
  role: "user",
  content: [...(image ? [{ type: "image", image }] : []), { type: "text", text: prompt ?? ask.prompt }],
});
const tokensOf = (usage) => [usage.inputTokens, usage.outputTokens];
const called = (call) => ({ id: call.toolCallId, name: call.toolName, arguments: call.input });
const whole = (answer) => ({
  text: answer.text,
  finish: answer.finishReason,
  tokens: tokensOf(answer.usage),
  reasoning: answer.reasoningText,
  request_id: answer.response.id.replace("chatcmpl-", ""),
});

async function streamed(options) {
  const result = { text: "", pieces: [], reasoning: "", calls: [] };
  for await (const part of streamText({ maxRetries: 0, onError: () => {}, ...options }).fullStream) {
    if (part.type === "text-delta") result.pieces.push(part.text);
    if (part.type === "reasoning-delta") result.reasoning += part.text;
    if (part.type === "tool-call") result.calls.push(called(part));
    if (part.type === "error") throw part.error;
    if (part.type === "finish") Object.assign(result, { finish: part.finishReason, tokens: tokensOf(part.totalUsage) });
  }
  return { ...result, text: result.pieces.join("") };
}

const failed = (error) => ({ status: error.statusCode ?? null, code: error.data?.error?.code ?? null, message: error.message });
const refused = async (work) => {
  try {
    await work();
  } catch (error) {
    return failed(error);
  }
  throw new Error("it was accepted");
};
const ask1 = (ask, image) => generateText({ model: model(ask), maxRetries: 0, messages: [turn(ask, image)] });

const flows = {
  chat: async (ask) => whole(await ask1(ask, ask.image)),
  stream: (ask) => streamed({ model: model(ask), messages: [turn(ask, ask.image)] }),
  "image URL": async (ask) => whole(await ask1(ask, new URL(ask.image_url))),
  "local file": async (ask) => whole(await ask1(ask, readFileSync(ask.image_path))),
  tools: async (ask) => {
    const tools = { get_revenue: tool({ inputSchema: YEAR, execute: async () => TOOL_RESULT }) };
    const messages = [turn(ask, null, TOOL_PROMPT)];
    const answer = await generateText({ model: model(ask), messages, tools, stopWhen: stepCountIs(2), maxRetries: 0 });
    const [first] = answer.steps;
    return { ...whole(answer), calls: first.toolCalls.map(called), called: first.finishReason };
  },
  "tools stream": async (ask) => {
    const tools = { get_revenue: tool({ inputSchema: YEAR }) };
    const result = await streamed({ model: model(ask), messages: [turn(ask, null, TOOL_PROMPT)], tools });
    return { ...result, called: result.finish };
  },
  thinking: (ask) =>
    streamed({
      model: model(ask),
      messages: [turn(ask, ask.image)],
      providerOptions: { alibaba: { enableThinking: true } },
    }),
  JSON: async (ask) => {
    const messages = [turn(ask, ask.image, JSON_PROMPT)];
    return whole(await generateText({ model: model(ask), messages, output: Output.object({ schema: SCHEMA }), maxRetries: 0 }));
  },
  "wrong key": (ask) => refused(() => generateText({ model: model(ask, WRONG_KEY), maxRetries: 0, messages: [turn(ask)] })),
  "wrong parameter": (ask) =>
    refused(() => streamed({ model: model(ask), messages: [turn(ask, ask.image)], temperature: 2.5 })),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { flow, ask } = JSON.parse(line);
  const answer = await flows[flow](ask).then(
    (seen) => ({ seen }),
    (error) => ({ crashed: String(error.stack ?? error) }),
  );
  process.stdout.write(JSON.stringify(answer) + "\n");
}
