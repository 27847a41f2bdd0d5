// One of the published TypeScript clients of MCP, told step by step what to do.
//
//   node mcp_client.mjs <directory of node_modules> <JSON: {library, mode, server, redirect, clientId, document, dpop}>
//
// library: "client" (@modelcontextprotocol/client) or "sdk" (@modelcontextprotocol/sdk, its predecessor). mode: which
// era the newer one speaks. dpop: whether it binds its tokens to a key. It reads one command a line ("connect",
// "list", "call NAME", "tokens", "forget") and answers each with one line of JSON. Where a person is needed it says
// {"step": "authorize", "url"} first, reads the address that the browser came back to, and goes on with the command.

import { randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [modules, text] = process.argv.slice(2);
const given = JSON.parse(text);
const load = async (name) => import(pathToFileURL(createRequire(`${modules}/`).resolve(name)).href);
const newer = given.library === "client";
const { Client, StreamableHTTPClientTransport, UnauthorizedError, DpopSession } = newer
  ? await import(pathToFileURL(`${modules}/node_modules/@modelcontextprotocol/client/dist/index.mjs`).href)
  : {
      ...(await load("@modelcontextprotocol/sdk/client/index.js")),
      ...(await load("@modelcontextprotocol/sdk/client/streamableHttp.js")),
      ...(await load("@modelcontextprotocol/sdk/client/auth.js")),
    };

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (step, value) => console.log(JSON.stringify({ step, ...value }));

const kept = {};
let asked = false; // whether a person was asked already for the command under way
const program = {
  redirectUrl: given.redirect,
  clientMetadataUrl: given.document,
  clientMetadata: {
    client_name: "Desktop",
    redirect_uris: [given.redirect],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    token_endpoint_auth_method: "none",
  },
  state: () => randomBytes(16).toString("base64url"),
  clientInformation: () => kept.client ?? (given.clientId ? { client_id: given.clientId } : undefined),
  saveClientInformation: (client) => void (kept.client = client),
  tokens: () => kept.tokens,
  saveTokens: (tokens) => void (kept.tokens = tokens),
  saveCodeVerifier: (verifier) => void (kept.verifier = verifier),
  codeVerifier: () => kept.verifier,
  saveDiscoveryState: (found) => void (kept.discovery = found),
  discoveryState: () => kept.discovery,
  dpop: () => (given.dpop ? (kept.dpop ??= DpopSession.create()) : undefined),
  redirectToAuthorization(url) {
    // A stream that ended and a call may both want a login at once: a person gets one page to look at. Whoever comes
    // while that login is being redeemed, or has found out late, takes what came of it.
    if (kept.login || asked) return;
    asked = true;
    kept.login = { state: url.searchParams.get("state"), verifier: kept.verifier };
    say("authorize", { url: url.href });
  },
  invalidateCredentials(what) {
    if (what === "all" || what === "tokens") delete kept.tokens;
    if (what === "all" || what === "client") delete kept.client;
    if (what === "all" || what === "discovery") delete kept.discovery;
  },
};

let client, transport;
async function connect() {
  client = new Client(
    { name: "desktop", version: "1" },
    newer ? { versionNegotiation: { mode: given.mode } } : undefined,
  );
  transport = new StreamableHTTPClientTransport(new URL(given.server), { authProvider: program });
  await client.connect(transport);
}

async function finish() {
  const back = new URL((await lines.next()).value).searchParams;
  const { state, verifier } = kept.login;
  if (back.get("state") !== state) throw new Error("not the state that was sent");
  kept.verifier = verifier;
  try {
    await transport.finishAuth(newer ? back : back.get("code"));
  } finally {
    delete kept.login;
  }
}

async function once([command, name]) {
  if (command === "connect") await connect();
  if (command === "list") return { names: (await client.listTools()).tools.map((tool) => tool.name) };
  if (command === "call") return { error: (await client.callTool({ name, arguments: { text: "x" } })).isError === true };
  if (command === "forget") delete kept.tokens.refresh_token;
  const tokens = kept.tokens ?? {};
  const id = program.clientInformation()?.client_id ?? "";
  const type = (tokens.token_type ?? "").toLowerCase();
  return { client: id, type, scope: tokens.scope ?? "", access: tokens.access_token ?? "", refresh: tokens.refresh_token ?? "" };
}

for await (const line of lines) {
  const command = line.split(" ");
  asked = Boolean(kept.login);
  try {
    let told;
    try {
      told = await once(command);
    } catch (error) {
      if (!(error instanceof UnauthorizedError)) throw error;
      await finish();
      told = await once(command);
    }
    say(command[0], told);
  } catch (error) {
    say("failed", { what: `${error.name}: ${error.message}`, status: error.code ?? error.status ?? 0 });
  }
}
process.exit(0);
