// Reports to Tollgate how each request ended and what it used, for limits on tokens and on requests in flight. Used by
// njs-metered.conf.
//
//   check     asks Tollgate, and writes the bound of the answer and the wish for usage into the request
//   read      reads the usage while the response passes: nothing is held back
//   report    runs with the access log, whatever happened to the request: keeps a report in a shared dictionary
//   settle    sends the reports, and removes them when Tollgate has them: an outage of Tollgate loses none
//   renew     renews what running requests hold
//
// The same members are read as by the filters of deploy/envoy/envoy-metered.yaml, and the same is charged (docs/metering.md).

import tollgate from 'tollgate.js';

// The members that count tokens or seconds, and the objects of a document whose members count. What a server repeats of its request is
// elsewhere.
const COUNTS = ['prompt_tokens', 'completion_tokens', 'total_tokens', 'input_tokens', 'output_tokens', 'cache_creation_input_tokens',
    'cache_read_input_tokens', 'prompt_n', 'predicted_n', 'cache_n', 'prompt_eval_count', 'eval_count', 'tokens_evaluated',
    'tokens_predicted', 'cached_tokens', 'reasoning_tokens', 'seconds'];
const DETAILS = ['prompt_tokens_details', 'completion_tokens_details', 'input_tokens_details', 'output_tokens_details'];
const PARENTS = ['usage', 'meta_info', 'timings', 'meta', 'tokens', 'billed_units'].concat(DETAILS);

// The members of DETAILS that count a part of the input, or of the output.
const PARTS = ['cached_tokens', 'reasoning_tokens'];

// The most bytes of a document that are kept for its end. Of a longer one the last TAIL bytes are read.
const DOCUMENT = 262144;
const TAIL = 65536;

// The most bytes of an event, or of a line.
const EVENT = 10485760;

// The most reports of a call, and the most bytes: Tollgate reads 256 and 1 MiB.
const ENTRIES = 128;
const BYTES = 1000000;

// What becomes of the reports of a call.
const TAKEN = 'taken';
const REFUSED = 'refused';
const LATER = 'later';

// The time after which a running request shows its usage so far, in milliseconds.
const SHOWN = 5000;

// A status that no server sends: it leads to the location in which the changed body is forwarded.
const CHANGED = 418;

// What is known of the response of this request. Each request has variables of its own.
let form = null;        // 'events', 'lines', 'document', or 'unread'
let bytes = 0;          // of the body
let isWhole = false;    // whether the last piece has arrived
let kept = [];          // text that is not read yet
let size = 0;           // its bytes
let isSkipped = false;  // whether the event, the line or the document is too long
let data = [];          // the data of the event that has not ended
let hasCounted = false; // whether an event had a usage
let eachEvent = false;  // whether the last event has one, too, and is not the first
let usage = null;       // the counts of a document
let events = {};        // the last objects of a stream
let shownAt = 0;

async function check(r) {
    const allowed = await tollgate.decide(r);
    if (!allowed) {
        return;
    }
    const reservation = allowed.reply.headersOut['X-Tollgate-Reservation'];
    if (!reservation) {
        return;
    }
    r.variables.tollgate_reservation = reservation;
    open(reservation, '');
    const text = allowed.reply.headersOut['X-Tollgate-Body-Changes'];
    if (!text) {
        return;
    }
    try {
        const changes = JSON.parse(text);
        const body = Object.assign(JSON.parse(new TextDecoder().decode(allowed.body)), changes);
        r.variables.tollgate_changed_body = JSON.stringify(body);
        const options = changes.stream_options;
        r.variables.tollgate_asked = options && options.continuous_usage_stats === true ? '1' : '';
    } catch (error) {
        // Without the bound the request could use more than it holds.
        r.error(`the body of a request could not be changed: ${error}`);
        r.headersOut['Content-Type'] = 'application/json';
        r.return(400, '{"error":{"message":"the request\'s body cannot be read","type":"invalid_request_error","param":null,"code":"malformed_request"}}');
        return;
    }
    r.return(CHANGED);
}

// INVARIANT: each piece is passed on first, and as it came.
function read(r, piece, flags) {
    r.sendBuffer(piece, flags);
    if (!r.variables.tollgate_reservation) {
        return;
    }
    bytes += piece.length;
    isWhole = isWhole || flags.last;
    try {
        form = form || formOf(r);
        if (form === 'events') {
            readEvents(piece, flags.last);
        } else if (form === 'lines') {
            readLines(piece, flags.last);
        } else if (form === 'document') {
            readDocument(piece, flags.last);
        }
    } catch (error) {
        // What was read may be a part. Without a count the request is charged what it holds.
        r.warn(`the usage of a response could not be read: ${error}`);
        form = 'unread';
        usage = null;
        events = {};
        eachEvent = false;
    }
    const now = Date.now();
    shownAt = shownAt || now;
    if (now - shownAt > SHOWN) {
        shownAt = now;
        open(r.variables.tollgate_reservation, JSON.stringify(counts()));
    }
}

function formOf(r) {
    const kind = (r.headersOut['Content-Type'] || '').split(';')[0].trim().toLowerCase();
    if (r.headersOut['Content-Encoding']) {
        return 'unread';
    }
    if (kind === 'text/event-stream') {
        return 'events';
    }
    if (kind === 'application/x-ndjson' || kind === 'application/jsonl') {
        return 'lines';
    }
    return kind === 'application/json' ? 'document' : 'unread';
}

// Keeps a piece, and returns the whole lines that have arrived.
function lines(piece, isLast) {
    const text = piece.toString();
    size += piece.length;
    if (size > EVENT) {
        isSkipped = true;
        kept = [];
        data = [];
        size = 0;
    }
    kept.push(text);
    if (!isLast && text.indexOf('\n') < 0 && text.indexOf('\r') < 0) {
        return [];
    }
    const all = kept.join('');
    // A carriage return at the end may have its line feed in the next piece.
    const isCut = !isLast && all.charAt(all.length - 1) === '\r';
    const found = split(isCut ? all.slice(0, -1) : all);
    const rest = found.pop() + (isCut ? '\r' : '');
    kept = rest ? [rest] : [];
    size = rest.length;
    return found;
}

// Splits at every end of a line. A regular expression would be tried at each character, which is seconds for a long event.
function split(text) {
    const fed = text.indexOf('\r') < 0 ? text : text.split('\r\n').join('\n').split('\r').join('\n');
    return fed.split('\n');
}

function readEvents(piece, isLast) {
    lines(piece, isLast).forEach((line) => {
        if (line !== '') {
            if (!isSkipped && line.startsWith('data:')) {
                data.push(line.charAt(5) === ' ' ? line.slice(6) : line.slice(5));
            }
            return;
        }
        if (!isSkipped && data.length > 0) {
            readEvent(data.join('\n'));
        }
        isSkipped = false;
        data = [];
    });
}

function readEvent(text) {
    if (!text.startsWith('{')) {
        return;
    }
    if (!/"(usage|meta_info|timings)"/.test(text)) {
        eachEvent = false;
        return;
    }
    const event = parsed(text);
    if (!isObject(event)) {
        return;
    }
    const counted = isObject(event.usage);
    eachEvent = counted && hasCounted;
    hasCounted = hasCounted || counted;
    keep('usage', event.usage);
    keep('message_usage', event.message && event.message.usage);
    keep('response_usage', event.response && event.response.usage);
    keep('meta_info', event.meta_info);
    keep('timings', event.timings);
    if (event.index !== undefined && event.index !== null) {
        events.index = reported(event.index);
    }
}

// Keeps the counts of an object of a stream, and of its details, in the place of those of an earlier one.
function keep(key, object) {
    if (!isObject(object)) {
        return;
    }
    events[key] = picked(object, COUNTS);
    DETAILS.forEach((name) => {
        if (isObject(object[name])) {
            events[key][name] = picked(object[name], PARTS);
        }
    });
}

// Returns the members of an object with these names, for a report.
function picked(object, names) {
    const members = {};
    names.forEach((name) => {
        if (object[name] !== undefined && object[name] !== null) {
            members[name] = reported(object[name]);
        }
    });
    return members;
}

// A number as it is, and something short that is none in place of everything else: Tollgate ignores the count then, and charges
// what the request holds. Infinity, which 1e999 is, would be written as null, and a long value would be too large for a report.
function reported(value) {
    return typeof value === 'number' && isFinite(value) ? value : String(value).slice(0, 32);
}

function readLines(piece, isLast) {
    lines(piece, isLast).concat(isLast ? kept : []).forEach((line) => {
        if (!isSkipped && line.trim() !== '') {
            raise(parsed(line));
        }
        isSkipped = false;
    });
}

function readDocument(piece, isLast) {
    kept.push(piece.toString());
    size += piece.length;
    if (size > DOCUMENT + TAIL) {
        isSkipped = true;
        kept = [kept.join('').slice(-TAIL)];
        size = TAIL;
    }
    if (!isLast) {
        return;
    }
    const text = kept.join('');
    kept = [];
    const document = isSkipped ? endOf(text) : parsed(text);
    if (document === null) {
        text.split('\n').forEach((line) => raise(parsed(line)));
    }
    raise(document);
}

function parsed(text) {
    try {
        return JSON.parse(text);
    } catch (error) {
        return null;
    }
}

// Returns the last members of a long document. A quoted name before a colon is a key, and what follows it closes exactly one
// object if that is the document: an object inside of it, which may repeat the request, does not match.
function endOf(text) {
    const names = COUNTS.concat(PARENTS).join('|');
    const key = new RegExp('[,{]\\s*"(' + names + ')"\\s*:', 'g');
    const places = [];
    let found;
    while ((found = key.exec(text)) !== null) {
        places.push(found.index + 1);
    }
    const last = places.slice(-16);
    for (let i = 0; i < last.length; i++) {
        const members = parsed('{' + text.slice(last[i]));
        if (members !== null) {
            return members;
        }
    }
    return {};
}

// Adds the counts of a document. Of a count that occurs more often the largest one is kept, and one that is no number.
function raise(object) {
    if (!isObject(object)) {
        return;
    }
    const found = picked(object, COUNTS);
    Object.keys(found).forEach((name) => {
        usage = usage || {};
        const known = usage[name];
        const isLarger = typeof found[name] !== 'number' || known === undefined || found[name] > known;
        if (typeof known !== 'string' && isLarger) {
            usage[name] = found[name];
        }
    });
    PARENTS.forEach((name) => raise(object[name]));
}

function isObject(value) {
    return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function counts() {
    return { usage: usage, events: events };
}

// Notes a running request. The dictionary forgets it when nginx would have ended it.
function open(reservation, state) {
    try {
        ngx.shared.tollgate_open.set(reservation, state);
    } catch (error) {
        ngx.log(ngx.ERR, `a running request is not renewed: ${error}`);
    }
}

// The variable of the access log whose value is always empty: evaluated at the end of each request.
function report(r) {
    const reservation = r.variables.tollgate_reservation;
    if (!reservation) {
        return '';
    }
    const entry = { reservation: reservation, ending: endingOf(r), response_bytes: bytes };
    if (entry.ending === 'complete') {
        entry.status = Number(lastOf(r.variables.upstream_status)) || 200;
    }
    if (entry.ending !== 'not_sent') {
        entry.usage = usage;
        entry.events = events;
        entry.usage_is_current = r.variables.tollgate_asked === '1' && eachEvent;
    }
    try {
        ngx.shared.tollgate_open.delete(reservation);
        ngx.shared.tollgate_reports.set(reservation, JSON.stringify(entry));
    } catch (error) {
        r.error(`a report is lost, and its request is charged when it expires: ${error}`);
    }
    return '';
}

// How the request ended. The status does not tell: a response that was cut has that of its head.
function endingOf(r) {
    const sent = (r.variables.upstream_bytes_sent || '').split(/[\s,:]+/);
    if (!sent.some((count) => Number(count) > 0)) {
        return 'not_sent';
    }
    const time = lastOf(r.variables.upstream_header_time);
    if (time === '' || time === '-') {
        return 'cut';
    }
    const status = lastOf(r.variables.upstream_status);
    const isBodyless = r.method === 'HEAD' || status === '204' || status === '304';
    return isWhole || (isBodyless && r.variables.request_completion === 'OK') ? 'complete' : 'cut';
}

// nginx lists one value for each server that it tried.
function lastOf(list) {
    return (list || '').split(/[\s,:]+/).pop();
}

async function settle(s) {
    const reports = ngx.shared.tollgate_reports;
    let most = ENTRIES;
    for (;;) {
        const items = within(reports.items(most));
        const answer = items.length === 0 ? LATER : await send(s, items.map((item) => item[1]));
        if (answer === LATER) {
            return;
        }
        // One that Tollgate never takes must not hold up the others: they are sent alone until it is found.
        const isDone = answer === TAKEN || items.length === 1;
        most = isDone ? ENTRIES : 1;
        if (isDone) {
            items.forEach((item) => reports.delete(item[0]));
        }
    }
}

// The first items that a call has room for. A character has four bytes at most.
function within(items) {
    let total = 0;
    return items.filter((item, index) => {
        total += 4 * item[1].length;
        return index === 0 || total < BYTES;
    });
}

async function renew(s) {
    const running = ngx.shared.tollgate_open.items(1048576);
    while (running.length > 0) {
        const entries = running.splice(0, ENTRIES).map((item) => {
            const entry = item[1] ? JSON.parse(item[1]) : {};
            entry.reservation = item[0];
            entry.ending = 'running';
            return JSON.stringify(entry);
        });
        if (await send(s, entries) === LATER) {
            return;
        }
    }
}

// Sends entries. Returns what becomes of them: Tollgate has read them all (what it refused once it would refuse again), it refuses
// the call for good, or they are sent later.
async function send(s, entries) {
    const headers = { 'Content-Type': 'application/json' };
    if (s.variables.tollgate_settle_token) {
        headers.Authorization = `Bearer ${s.variables.tollgate_settle_token}`;
    }
    try {
        const answer = await ngx.fetch(s.variables.tollgate_settle_url, {
            method: 'POST', headers: headers, body: `{"entries":[${entries.join(',')}]}`,
        });
        const text = await answer.text();
        if (answer.status === 400 || answer.status === 413) {
            ngx.log(ngx.ERR, `Tollgate refused a call with ${entries.length} reports: ${answer.status} ${text}`);
            return REFUSED;
        }
        if (answer.status !== 200) {
            ngx.log(ngx.ERR, `Tollgate refused reports, they are sent again: ${answer.status} ${text}`);
            return LATER;
        }
        const refused = JSON.parse(text).results.filter((one) => ['unknown', 'foreign', 'invalid'].indexOf(one.result) >= 0);
        if (refused.length > 0) {
            ngx.log(ngx.ERR, `Tollgate refused ${refused.length} reports for good: ${JSON.stringify(refused[0])}`);
        }
        return TAKEN;
    } catch (error) {
        ngx.log(ngx.ERR, `Tollgate could not be reached, reports are sent again: ${error}`);
        return LATER;
    }
}

export default { check, read, report, settle, renew };
