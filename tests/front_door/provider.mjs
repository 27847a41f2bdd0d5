// A real OpenID provider (panva's oidc-provider) for tests: people sign in by name, any password will do.
//
//   node provider.mjs <directory of node_modules> <JSON: {port, name, clients, people}>
//
// It speaks plain HTTP on loopback, prints one line when it listens, and ends with its standard input.
// POST /-/rotate gives it a new signing key beside the old one, POST /-/forget takes the old one away.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { pathToFileURL } from "node:url";

const [modules, text] = process.argv.slice(2);
const given = JSON.parse(text);
const require = createRequire(`${modules}/`);
const { Provider, errors } = await import(pathToFileURL(require.resolve("oidc-provider")).href);

const issuer = `http://127.0.0.1:${given.port}`;
const key = (alg) => {
  const pair = alg === "ES256" ? generateKeyPairSync("ec", { namedCurve: "P-256" }) : generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...pair.privateKey.export({ format: "jwk" }), alg, use: "sig", kid: randomUUID() };
};

let keys = [key("RS256"), key("ES256")];
let answer;

function begin() {
  const provider = new Provider(issuer, {
    clients: given.clients,
    jwks: { keys },
    cookies: { keys: [randomUUID()] },
    claims: { openid: ["sub"], profile: ["name", "preferred_username"], groups: ["groups"] },
    scopes: ["openid", "profile", "groups"],
    conformIdTokenClaims: given.sparse === true,
    // Its own guard against private addresses would keep it from the key set of a client on loopback.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    pkce: { required: () => true },
    features: {
      devInteractions: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: (given.resources ?? []).length > 0,
        async getResourceServerInfo(_context, resource) {
          if (!given.resources.includes(resource)) throw new errors.InvalidTarget();
          return { scope: "files:read", audience: resource, accessTokenTTL: 300, accessTokenFormat: given.format ?? "jwt" };
        },
      },
    },
    ttl: { Interaction: 600, Session: 3600, Grant: 3600, AccessToken: 300, IdToken: 300, AuthorizationCode: 60 },
    async findAccount(_context, sub) {
      const person = given.people[sub] ?? {};
      return { accountId: sub, claims: async () => ({ sub, ...person }) };
    },
  });
  for (const event of ["server_error", "grant.error"]) {
    provider.on(event, (_context, error) => process.stderr.write(`${error.error_description ?? ""} ${error.error_detail ?? error.stack}\n`));
  }
  answer = provider.callback();
}

begin();
createServer((request, response) => {
  if (request.method === "POST" && request.url.startsWith("/-/")) {
    if (request.url === "/-/rotate") keys = [key("RS256"), key("ES256"), ...keys];
    if (request.url === "/-/forget") keys = keys.slice(0, 2);
    begin();
    response.writeHead(204).end();
    return;
  }
  answer(request, response);
}).listen(given.port, "127.0.0.1", () => process.stdout.write(`listening ${issuer}\n`));

process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
