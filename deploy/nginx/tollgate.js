// Asks Tollgate about a request, body included, before nginx forwards it. Used by njs.conf and njs-metered.conf.

// What the upstream learns: these variables are declared there, and set as headers of the forwarded request.
const IDENTITY = ['subject', 'tenant', 'scopes', 'credential', 'model', 'issuer', 'key_id', 'actor', 'decision_id'];

// What the client gets with a denial. On success it gets the limits and the decision's id.
const DENIAL = ['Content-Type', 'WWW-Authenticate', 'Retry-After', 'Retry-After-Ms', 'X-Should-Retry'];
const LIMITS = [
    'X-Tollgate-Decision-Id', 'X-RateLimit-Limit-Requests', 'X-RateLimit-Remaining-Requests', 'X-RateLimit-Reset-Requests',
    'X-RateLimit-Limit-Tokens', 'X-RateLimit-Remaining-Tokens', 'X-RateLimit-Reset-Tokens', 'RateLimit', 'RateLimit-Policy',
    'DPoP-Nonce',
];

async function check(r) {
    await decide(r);
}

// Returns the answer of Tollgate and the body of the request where the request may pass. Otherwise the client is answered.
async function decide(r) {
    let reply, body;
    try {
        // A subrequest: the client's headers go along as they came, over nginx's own connections to Tollgate. POST is how Tollgate
        // knows that the body is with it. The bytes go as they are: text would lose what is not UTF-8, and Tollgate would judge
        // another body than the one that is forwarded.
        body = await r.readRequestArrayBuffer();
        reply = await r.subrequest('/_tollgate', { method: 'POST', body: body });
    } catch (error) {
        r.error(`Tollgate could not be asked: ${error}`);
    }
    // INVARIANT: 200 from Tollgate is the one thing that lets a request pass.
    if (reply && reply.status === 200) {
        IDENTITY.forEach((name) => {
            r.variables[`tollgate_${name}`] = reply.headersOut[`x-tollgate-${name.replace('_', '-')}`] || '';
        });
        r.variables.tollgate_authorization = reply.headersOut['Authorization'] || '';
        r.variables.tollgate_x_api_key = reply.headersOut['X-Api-Key'] || '';
        r.variables.tollgate_api_key = reply.headersOut['Api-Key'] || '';
        r.variables.tollgate_dpop = reply.headersOut['DPoP'] || '';
        r.variables.tollgate_protocols = reply.headersOut['Sec-WebSocket-Protocol'] || '';
        copy(LIMITS, reply, r);
        return { reply: reply, body: body };
    }
    const status = reply && Number(reply.headersOut['X-Tollgate-Status']);
    if (!status && reply && (reply.status === 400 || reply.status === 431)) {
        // A request that HTTP does not allow, such as one whose header has a control character, or too many headers.
        r.headersOut['Content-Type'] = 'application/json';
        r.return(reply.status, '{"error":{"message":"the headers of the request are malformed","type":"invalid_request_error","param":null,"code":"malformed_request"}}');
        return;
    }
    if (!status) {
        r.headersOut['Content-Type'] = 'application/json';
        r.headersOut['Retry-After'] = '1';
        r.return(503, '{"error":{"message":"the request could not be checked; retry shortly","type":"server_error","param":null,"code":"unavailable"}}');
        return;
    }
    r.headersOut['Cache-Control'] = 'no-store';
    copy(DENIAL, reply, r);
    copy(LIMITS, reply, r);
    r.return(status, reply.headersOut['X-Tollgate-Body'] || '');
}

function copy(names, reply, r) {
    names.forEach((name) => {
        const value = reply.headersOut[name];
        if (value !== undefined) {
            r.headersOut[name] = value;
        }
    });
}

export default { check, decide };
