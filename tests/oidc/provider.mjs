// An OpenID Connect server on loopback for tests: people log in with any name, access tokens are JWTs for one
// resource and opaque otherwise. It prints its port. Arguments: the redirect URI of the web client, or `-`.
//
// `POST /test/rotate` replaces its keys. Nothing else is beyond the standards.
import http from 'node:http';
import Provider from 'oidc-provider';
import { exportJWK, generateKeyPair } from 'jose';

const [redirect] = process.argv.slice(2);
const RESOURCES = {
  'https://api.example.com/rs256': 'RS256',
  'https://api.example.com/es256': 'ES256',
  'https://api.example.com/eddsa': 'EdDSA',
};

let generation = 0;
async function keys() {
  generation += 1;
  const make = async (alg) => {
    const options = alg === 'RS256' ? { modulusLength: 2048, extractable: true } : { extractable: true };
    const { privateKey } = await generateKeyPair(alg, options);
    return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: `${alg}-${generation}` };
  };
  return Promise.all(Object.values(RESOURCES).map(make));
}

const resource = async (_context, name) => {
  const alg = RESOURCES[name];
  const info = { scope: 'infer:text models:read', audience: name, accessTokenTTL: 300 };
  return alg ? { ...info, accessTokenFormat: 'jwt', jwt: { sign: { alg } } } : { ...info, accessTokenFormat: 'opaque' };
};

const client = { client_secret: 'a-secret-of-the-tests', token_endpoint_auth_method: 'client_secret_basic' };
const machine = { ...client, grant_types: ['client_credentials'], response_types: [], redirect_uris: [] };

const configuration = (jwks) => ({
  jwks: { keys: jwks },
  clients: [
    { ...machine, client_id: 'machine' },
    { ...machine, client_id: 'gate' },
    ...(redirect === '-' || !redirect ? [] : [{
      ...client, client_id: 'web', grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'],
      redirect_uris: [redirect], post_logout_redirect_uris: [new URL('/', redirect).href],
    }]),
  ],
  cookies: { keys: ['a-key-of-the-tests'] },
  pkce: { required: () => true },
  scopes: ['openid', 'offline_access', 'infer:text', 'models:read'],
  findAccount: async (_context, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  ttl: { AccessToken: 300, ClientCredentials: 300 },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: async () => true },
    revocation: { enabled: true },
    dPoP: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'https://api.example.com/rs256',
      useGrantedResource: () => true,
      getResourceServerInfo: resource,
    },
  },
});

const server = http.createServer();
server.listen(0, '127.0.0.1', async () => {
  const { port } = server.address();
  const issuer = `http://localhost:${port}`;
  let provider = new Provider(issuer, configuration(await keys()));
  server.on('request', async (request, response) => {
    if (request.method === 'POST' && request.url === '/test/rotate') {
      provider = new Provider(issuer, configuration(await keys()));
      response.end(String(generation));
      return;
    }
    provider.callback()(request, response);
  });
  console.log(port);
});
