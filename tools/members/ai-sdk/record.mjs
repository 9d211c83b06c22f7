// What the Vercel AI SDK sends: writes ../ai-sdk.json, the requests that tests pass through the presets.
//
//     cd tools/members/ai-sdk && npm install --no-package-lock && node record.mjs
//
// The real packages call a local server that answers with an error; what they sent is kept. Every option of a
// package's schemas must have a value here, so that a newer package with another one fails.

import { readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  embedMany, experimental_generateSpeech as speak, experimental_transcribe as transcribe, generateImage, generateText,
  jsonSchema, Output, streamText, tool,
} from "ai";

globalThis.AI_SDK_LOG_WARNINGS = false;
const out = new URL("../ai-sdk.json", import.meta.url);
const installed = (name) => JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url)));
const pinned = JSON.parse(readFileSync(new URL("./package.json", import.meta.url))).dependencies;
for (const [name, version] of Object.entries(pinned)) {
  if (installed(name).version !== version) throw new Error(`${name} is not ${version}; run npm install`);
}

const seen = [];
const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    seen.push({ path: request.url, media: request.headers["content-type"] ?? "", body: Buffer.concat(chunks) });
    response.writeHead(400, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { message: "recorded", type: "invalid_request_error" } }));
  });
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const base = `http://127.0.0.1:${server.address().port}`;
const requests = [];

/** Runs a call and keeps the one request that it sends. */
async function record(client, call) {
  seen.length = 0;
  let failure;
  try {
    const result = await call();
    await result?.consumeStream?.({ onError: () => {} });
  } catch (error) {
    failure = error;
  }
  if (seen.length !== 1) throw new Error(`${client} sent ${seen.length} requests: ${failure}`);
  const [{ path, media, body }] = seen;
  const form = !media.startsWith("application/json");
  const content = form ? { form: body.toString("latin1") } : { json: JSON.parse(body) };
  requests.push({ client, path, content_type: media, ...content });
}

/** The keys of the object literal that begins at `at` in the code, not those of objects within it. */
function keys(code, at) {
  const names = [];
  let depth = 0;
  for (; ; at += 1) {
    const rest = code.slice(at, at + 4000);
    const skipped = /^(\/\*[\s\S]*?\*\/|\/\/[^\n]*|"(?:[^"\\]|\\.)*")/.exec(rest);
    const key = /^(\w+):/.exec(rest);
    if (skipped) at += skipped[0].length - 1;
    else if ("({[".includes(code[at])) depth += 1;
    else if (")}]".includes(code[at])) depth -= 1;
    else if (depth === 1 && key && /[\s{,]/.test(code[at - 1])) names.push(key[1]);
    if (depth === 0) return names;
  }
}

/** The names of the options that a package's schema has, read from its published code: the largest object in it. */
function documented(name, schema) {
  const code = readFileSync(new URL(`./node_modules/${name}/dist/index.js`, import.meta.url), "utf8");
  const start = code.indexOf(`var ${schema} = `);
  if (start < 0) throw new Error(`${name} has no ${schema} any more`);
  const end = code.indexOf("\nvar ", start + 1);
  const objects = [...code.slice(start, end).matchAll(/\.(?:object|extend)\((?=\{)/g)];
  const lists = objects.map((found) => keys(code, start + found.index + found[0].length));
  const [names = []] = lists.sort((one, other) => other.length - one.length);
  if (!names.length) throw new Error(`${name}: ${schema} has no options`);
  return names;
}

/** Fails where an option of a schema has no value, and is not among those that are left out. */
function every(name, schema, values, unsent = []) {
  const missing = documented(name, schema).filter((option) => !(option in values) && !unsent.includes(option));
  if (missing.length) throw new Error(`${name} ${schema}: without a value: ${missing}`);
  return values;
}

const label = (name) => `${name} ${pinned[name]}`;
const png = Buffer.from("iVBORw0KGgo=", "base64");
const wav = Buffer.concat([Buffer.from("RIFF"), Buffer.alloc(4), Buffer.from("WAVEfmt "), Buffer.alloc(40)]);
const pdf = Buffer.from("%PDF-1.4\n");
const city = jsonSchema({
  type: "object", properties: { city: { type: "string", description: "A city" } }, required: ["city"], additionalProperties: false,
});
const tools = { weather: tool({ description: "The weather", inputSchema: city, strict: true }) };
const call = { type: "tool-call", toolCallId: "1", toolName: "weather", input: { city: "x" } };
const answer = { type: "tool-result", toolCallId: "1", toolName: "weather" };
/** A conversation with every kind of content that a provider takes. */
const conversation = (user, assistant = []) => [
  { role: "system", content: "Be short." },
  { role: "user", content: [{ type: "text", text: "hi" }, { type: "image", image: png, mediaType: "image/png" }, ...user] },
  { role: "assistant", content: [...assistant, { type: "text", text: "x" }, call] },
  { role: "tool", content: [{ ...answer, output: { type: "json", value: { sky: "blue" } } }] },
  { role: "assistant", content: [{ ...call, toolCallId: "2" }] },
  { role: "tool", content: [{ ...answer, toolCallId: "2", output: { type: "error-text", value: "none" } }] },
  { role: "user", content: "go on" },
];
const settings = {
  maxOutputTokens: 5, temperature: 0.5, topP: 0.9, topK: 40, presencePenalty: 0.1, frequencyPenalty: 0.1, stopSequences: ["a"], seed: 1,
  maxRetries: 0, allowSystemInMessages: true,
};
const structured = Output.object({ schema: city, name: "n", description: "d" });

async function openai() {
  const name = "@ai-sdk/openai";
  const client = createOpenAI({ baseURL: `${base}/v1`, apiKey: "k" });
  const audio = { type: "file", data: wav, mediaType: "audio/wav" };
  const file = { type: "file", data: pdf, mediaType: "application/pdf", filename: "a.pdf" };
  const chat = every(name, "openaiLanguageModelChatOptions", {
    logitBias: { 1: 1 }, logprobs: 5, parallelToolCalls: false, user: "u", reasoningEffort: "low", maxCompletionTokens: 5, store: false,
    metadata: { a: "b" }, prediction: { type: "content", content: "x" }, serviceTier: "auto", strictJsonSchema: true, textVerbosity: "low",
    promptCacheKey: "k", promptCacheOptions: { mode: "implicit", ttl: "30m" }, promptCacheRetention: "24h", safetyIdentifier: "s",
    systemMessageMode: "system", forceReasoning: false,
  });
  const model = client.chat("m");
  const messages = conversation([audio, file]);
  await record(`${label(name)} chat`, () =>
    generateText({ model, messages, tools, toolChoice: { type: "tool", toolName: "weather" }, providerOptions: { openai: chat }, ...settings }));
  await record(`${label(name)} chat, stream`, () => streamText({ model, messages, tools, onError: () => {}, ...settings }));
  await record(`${label(name)} chat, structured output`, () => generateText({ model, prompt: "x", output: structured, ...settings }));
  await record(`${label(name)} chat, JSON`, () => generateText({ model, prompt: "x", output: Output.json(), ...settings }));
  await record(`${label(name)} chat, reasoning`, () =>
    generateText({ model, messages, providerOptions: { openai: { forceReasoning: true, systemMessageMode: "developer", reasoningEffort: "high" } }, maxRetries: 0, allowSystemInMessages: true }));

  const completion = every(name, "openaiLanguageModelCompletionOptions", {
    echo: true, logitBias: { 1: 1 }, suffix: "s", user: "u", logprobs: 3,
  });
  await record(`${label(name)} completions`, () =>
    generateText({ model: client.completion("m"), prompt: "x", providerOptions: { openai: completion }, ...settings }));
  await record(`${label(name)} completions, stream`, () =>
    streamText({ model: client.completion("m"), prompt: "x", onError: () => {}, ...settings }));

  const responses = every(name, "openaiLanguageModelResponsesOptionsSchema", {
    include: ["reasoning.encrypted_content", "message.output_text.logprobs"], instructions: "i", logprobs: 3, maxToolCalls: 3,
    metadata: { a: "b" }, parallelToolCalls: true, promptCacheKey: "k", promptCacheOptions: { mode: "implicit", ttl: "30m" },
    promptCacheRetention: "24h", reasoningEffort: "low", reasoningSummary: "auto", safetyIdentifier: "s", serviceTier: "auto", store: false,
    passThroughUnsupportedFiles: true, strictJsonSchema: true, textVerbosity: "low", truncation: "auto", user: "u",
    systemMessageMode: "developer", forceReasoning: true, conversation: null, previousResponseId: null,
  }, [
    // Those of OpenAI's own models, and those that name what its service stores.
    "reasoningEffortUpdate", "reasoningMode", "reasoningContext", "textFormat", "allowedTools",
  ]);
  const thought = { type: "reasoning", text: "t", providerOptions: { openai: { itemId: "rs_1", reasoningEncryptedContent: "e" } } };
  const answers = client.responses("m");
  await record(`${label(name)} responses`, () =>
    generateText({ model: answers, messages: conversation([file], [thought]), tools, toolChoice: "required", providerOptions: { openai: responses }, ...settings }));
  await record(`${label(name)} responses, stream`, () =>
    streamText({ model: answers, messages: conversation([file]), tools, onError: () => {}, providerOptions: { openai: { store: false } }, ...settings }));
  await record(`${label(name)} responses, structured output`, () => generateText({ model: answers, prompt: "x", output: structured, ...settings }));

  const vectors = every(name, "openaiEmbeddingModelOptions", { dimensions: 5, user: "u" });
  await record(`${label(name)} embeddings`, () =>
    embedMany({ model: client.embedding("m"), values: ["a", "b"], providerOptions: { openai: vectors }, maxRetries: 0 }));
  const image = every(name, "openaiImageModelGenerationOptions", { style: "vivid", outputFormat: "png", moderation: "auto" }, ["frameCount", "frameDurationMs"]);
  await record(`${label(name)} images`, () =>
    generateImage({ model: client.image("m"), prompt: "x", n: 1, size: "1024x1024", providerOptions: { openai: { ...image, quality: "high", background: "auto", outputCompression: 80, user: "u" } }, maxRetries: 0 }));
  const edit = every(name, "openaiImageModelEditOptions", { inputFidelity: "high" }, ["markup"]);
  await record(`${label(name)} image edits`, () =>
    generateImage({ model: client.image("m"), prompt: { text: "x", images: [png] }, n: 1, size: "1024x1024", providerOptions: { openai: edit }, maxRetries: 0 }));
  const voice = every(name, "openaiSpeechModelOptionsSchema", { instructions: "i", speed: 1 });
  await record(`${label(name)} speech`, () =>
    speak({ model: client.speech("m"), text: "x", voice: "alloy", outputFormat: "wav", speed: 1.2, instructions: "i", providerOptions: { openai: voice }, maxRetries: 0 }));
  const written = every(name, "openAITranscriptionModelOptions", {
    include: ["logprobs"], language: "en", prompt: "p", temperature: 0, timestampGranularities: ["word", "segment"],
  }, ["languages", "keywords"]);
  await record(`${label(name)} transcriptions`, () =>
    transcribe({ model: client.transcription("m"), audio: wav, providerOptions: { openai: written }, maxRetries: 0 }));
}

async function compatible() {
  const name = "@ai-sdk/openai-compatible";
  const client = createOpenAICompatible({ name: "self", baseURL: `${base}/v1`, apiKey: "k", includeUsage: true, supportsStructuredOutputs: true });
  const options = { self: { user: "u", reasoningEffort: "low", textVerbosity: "low", strictJsonSchema: true } };
  const audio = { type: "file", data: wav, mediaType: "audio/wav" };
  const file = { type: "file", data: pdf, mediaType: "application/pdf", filename: "a.pdf" };
  const thought = { type: "reasoning", text: "t" };
  const model = client.chatModel("m");
  const messages = conversation([audio, file], [thought]);
  await record(`${label(name)} chat`, () => generateText({ model, messages, tools, toolChoice: "auto", providerOptions: options, ...settings }));
  await record(`${label(name)} chat, stream`, () => streamText({ model, messages, tools, onError: () => {}, ...settings }));
  await record(`${label(name)} chat, structured output`, () => generateText({ model, prompt: "x", output: structured, ...settings }));
  const completion = every(name, "openaiCompatibleLanguageModelCompletionOptions", { echo: true, logitBias: { 1: 1 }, suffix: "s", user: "u" });
  await record(`${label(name)} completions`, () =>
    generateText({ model: client.completionModel("m"), prompt: "x", providerOptions: { self: completion }, ...settings }));
  await record(`${label(name)} completions, stream`, () =>
    streamText({ model: client.completionModel("m"), prompt: "x", onError: () => {}, ...settings }));
  const vectors = every(name, "openaiCompatibleEmbeddingModelOptions", { dimensions: 5, user: "u" });
  await record(`${label(name)} embeddings`, () =>
    embedMany({ model: client.embeddingModel("m"), values: ["a", "b"], providerOptions: { self: vectors }, maxRetries: 0 }));
  await record(`${label(name)} images`, () => generateImage({ model: client.imageModel("m"), prompt: "x", n: 2, size: "512x512", maxRetries: 0 }));
}

async function anthropic() {
  const name = "@ai-sdk/anthropic";
  const client = createAnthropic({ baseURL: `${base}/v1`, apiKey: "k" });
  const cache = { anthropic: { cacheControl: { type: "ephemeral", ttl: "1h" } } };
  const file = {
    type: "file", data: pdf, mediaType: "application/pdf", filename: "a.pdf",
    providerOptions: { anthropic: { citations: { enabled: true }, title: "t", context: "c" } },
  };
  const text = { type: "file", data: Buffer.from("x"), mediaType: "text/plain", filename: "a.txt" };
  const thought = { type: "reasoning", text: "t", providerOptions: { anthropic: { signature: "s" } } };
  const redacted = { type: "reasoning", text: "", providerOptions: { anthropic: { redactedData: "d" } } };
  const options = every(name, "anthropicLanguageModelOptions", {
    sendReasoning: true, structuredOutputMode: "auto", thinking: { type: "enabled", budgetTokens: 1024 }, disableParallelToolUse: true,
    cacheControl: { type: "ephemeral", ttl: "1h" }, metadata: { userId: "u" }, toolStreaming: true, effort: "low",
  }, [
    // What only Anthropic's service has: its servers' tools, files, regions and betas.
    "mcpServers", "container", "taskBudget", "speed", "inferenceGeo", "fallbacks", "anthropicBeta", "safeguards", "contextManagement",
  ]);
  const model = client("m");
  const messages = conversation([file, text], [thought, redacted]);
  messages[0].providerOptions = cache;
  messages[1].content[0].providerOptions = cache;
  const cached = { weather: tool({ description: "d", inputSchema: city, providerOptions: cache }) };
  await record(`${label(name)} messages`, () =>
    generateText({ model, messages, tools: cached, toolChoice: { type: "tool", toolName: "weather" }, providerOptions: { anthropic: options }, ...settings }));
  await record(`${label(name)} messages, stream`, () => streamText({ model, messages, tools, onError: () => {}, ...settings }));
  await record(`${label(name)} messages, structured output`, () => generateText({ model, prompt: "x", output: structured, ...settings }));
  await record(`${label(name)} messages, structured output as a tool`, () =>
    generateText({ model, prompt: "x", output: structured, providerOptions: { anthropic: { structuredOutputMode: "jsonTool" } }, ...settings }));
  await record(`${label(name)} messages, adaptive thinking`, () =>
    generateText({ model, prompt: "x", providerOptions: { anthropic: { thinking: { type: "adaptive", display: "summarized" }, effort: "high" } }, maxRetries: 0 }));
}

for (const calls of [openai, compatible, anthropic]) await calls();
const about = "Generated by tools/members/ai-sdk/record.mjs from the Vercel AI SDK; do not edit.";
writeFileSync(out, `${JSON.stringify({ about, requests }, null, 1)}\n`);
console.log(`${requests.length} requests`);
process.exit(0);
