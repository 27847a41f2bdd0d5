// A client of panva's oauth4webapi that proves the possession of a key wherever it can (RFC 9449).
//
//   node dpop_client.mjs <directory of node_modules> <JSON: {issuer, resource, key, redirect}>
//
// It signs in as the service `svc`, then as a person through the browser of whoever started it: it prints
// the authorization URL, reads the callback's URL from its standard input, redeems, refreshes, and calls a
// tool with each token. It prints one line of JSON for each step.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, text] = process.argv.slice(2);
const given = JSON.parse(text);
const require = createRequire(`${modules}/`);
const oauth = await import(pathToFileURL(require.resolve("oauth4webapi")).href);

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (step, value) => console.log(JSON.stringify({ step, ...value }));
const plain = { [oauth.allowInsecureRequests]: true };
const issuer = new URL(given.issuer);
const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: "oauth2", ...plain }));
say("metadata", { algorithms: as.dpop_signing_alg_values_supported });

let retries = 0;
async function twice(ask) {
  try {
    return await ask();
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error;
    retries += 1;
    return await ask();
  }
}

const held = async (client) => oauth.DPoP(client, await oauth.generateKeyPair("ES256"));

async function call(token, DPoP) {
  const body = {
    jsonrpc: "2.0",
    id: 1,
    method: "tools/call",
    params: { name: "note", arguments: { mark: "x" }, _meta: given.meta },
  };
  const headers = new Headers({
    "content-type": "application/json",
    accept: "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "note",
  });
  const reply = await twice(() =>
    oauth.protectedResourceRequest(token, "POST", new URL(given.resource), headers, JSON.stringify(body), { DPoP, ...plain }),
  );
  return reply.status;
}

{
  const client = { client_id: "svc" };
  const key = await crypto.subtle.importKey("jwk", given.key, { name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
  const auth = oauth.PrivateKeyJwt({ key, kid: "svc" });
  const DPoP = await held(client);
  const form = new URLSearchParams({ resource: given.resource, scope: "demo:read demo:write" });
  const token = await twice(async () =>
    oauth.processClientCredentialsResponse(
      as,
      client,
      await oauth.clientCredentialsGrantRequest(as, client, auth, form, { DPoP, ...plain }),
    ),
  );
  say("service", { type: token.token_type, status: await call(token.access_token, DPoP), retries });
}

{
  const client = { client_id: "tool" };
  const DPoP = await held(client);
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const at = new URL(as.authorization_endpoint);
  const asked = {
    response_type: "code",
    client_id: "tool",
    redirect_uri: given.redirect,
    scope: "demo:read demo:write",
    resource: given.resource,
    state,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    dpop_jkt: await DPoP.calculateThumbprint(),
  };
  for (const [name, value] of Object.entries(asked)) at.searchParams.set(name, value);
  say("authorize", { url: at.href });
  const callback = new URL((await lines.next()).value);
  const parameters = oauth.validateAuthResponse(as, client, callback, state);
  const additionalParameters = { resource: given.resource };
  const redeem = (proof) =>
    oauth.authorizationCodeGrantRequest(as, client, oauth.None(), parameters, given.redirect, verifier, {
      DPoP: proof,
      additionalParameters,
      ...plain,
    });
  const first = await twice(async () => oauth.processAuthorizationCodeResponse(as, client, await redeem(DPoP)));
  say("code", { type: first.token_type, status: await call(first.access_token, DPoP) });
  const renew = (proof) => oauth.refreshTokenGrantRequest(as, client, oauth.None(), first.refresh_token, { DPoP: proof, ...plain });
  const thief = await held(client);
  try {
    await twice(async () => oauth.processRefreshTokenResponse(as, client, await renew(thief)));
    say("stolen", { error: "" });
  } catch (error) {
    say("stolen", { error: error.error });
  }
  const next = await twice(async () => oauth.processRefreshTokenResponse(as, client, await renew(DPoP)));
  say("refresh", { type: next.token_type, status: await call(next.access_token, DPoP), retries });
  try {
    say("thief", { status: await call(next.access_token, thief) });
  } catch (error) {
    say("thief", { status: error.status ?? 0 });
  }
}
process.exit(0);
