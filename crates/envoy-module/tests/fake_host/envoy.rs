//! The host: streams with their headers and bodies, and the functions that the module calls.
//!
//! Every hook gets a filter that the module has made and that is not destroyed, and the stream that it
//! was made for. Every function of the host gets what the module was lent, for the time of the call.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "calls the hooks of the module, as a host does; the reasons are those above"
)]

use std::{
    collections::VecDeque,
    ffi::{c_int, c_void},
    net::IpAddr,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use tollgate_envoy::{
    abi::{self, Buffer, Callbacks, Pair, hooks},
    host,
    shell::Shell,
};

/// A deadline for events of other threads.
const SOON: Duration = Duration::from_secs(20);

type Line = (Vec<u8>, Vec<u8>);

/// A request as it arrives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) headers: Vec<Line>,
    /// The body in the pieces in which it arrives.
    pub(crate) frames: Vec<Vec<u8>>,
    /// Whether trailers end the body.
    pub(crate) has_trailers: bool,
    pub(crate) address: Option<IpAddr>,
}

/// A change of a header by the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set(Vec<u8>, Vec<u8>),
    Removed(Vec<u8>),
}

/// An answer of the module.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u32,
    pub(crate) headers: Vec<Line>,
    pub(crate) body: Vec<u8>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The answer of the module; `None` for a request that was forwarded.
    pub(crate) reply: Option<Reply>,
    /// The changes of the request's headers.
    pub(crate) request: Vec<Change>,
    /// The changes of the response's headers.
    pub(crate) response: Vec<Change>,
    /// The body that was forwarded.
    pub(crate) body: Vec<u8>,
    /// The frames that had arrived when the module decided.
    pub(crate) frames_needed: usize,
    pub(crate) metadata: Vec<Line>,
}

/// Events that were scheduled, from any thread.
#[derive(Debug, Default)]
struct Events {
    queue: Mutex<(VecDeque<u64>, bool)>,
    arrived: Condvar,
}

/// A stream of the host. The module has a pointer to it.
#[derive(Debug, Default)]
struct Stream {
    request: Vec<Line>,
    response: Vec<Line>,
    received: Vec<Vec<u8>>,
    buffered: Vec<Vec<u8>>,
    received_response: Vec<Vec<u8>>,
    address: Vec<u8>,
    limit: u64,
    request_changes: Vec<Change>,
    response_changes: Vec<Change>,
    metadata: Vec<Line>,
    reply: Option<Reply>,
    is_continued: bool,
    events: Arc<Events>,
}

impl Stream {
    fn map(&mut self, map: c_int) -> (&mut Vec<Line>, &mut Vec<Change>) {
        match map {
            abi::REQUEST_HEADERS => (&mut self.request, &mut self.request_changes),
            abi::RESPONSE_HEADERS => (&mut self.response, &mut self.response_changes),
            other => panic!("the map {other}"),
        }
    }

    fn body(&mut self, part: c_int) -> &mut Vec<Vec<u8>> {
        match part {
            abi::RECEIVED_REQUEST_BODY => &mut self.received,
            abi::BUFFERED_REQUEST_BODY => &mut self.buffered,
            abi::RECEIVED_RESPONSE_BODY => &mut self.received_response,
            other => panic!("the body {other}"),
        }
    }

    /// Frees everything that was lent.
    fn free_lent(&mut self) {
        fn moved<T: Clone>(list: &mut Vec<T>) {
            *list = list.to_vec();
        }
        for list in [&mut self.request, &mut self.response] {
            moved(list);
        }
        for list in [&mut self.received, &mut self.buffered] {
            moved(list);
        }
        self.address = self.address.clone();
    }
}

/// Starts to be the host of the module.
pub(crate) fn install() {
    host::install(Callbacks {
        log,
        is_validation_mode,
        headers_size,
        headers,
        add_header,
        set_header,
        send_response,
        body_size,
        body_chunks_size,
        body_chunks,
        append_body,
        drain_body,
        buffer_limit,
        set_buffer_limit,
        set_metadata,
        attribute_text,
        attribute_number,
        scheduler_new,
        scheduler_commit,
        scheduler_delete,
        continue_request,
    });
}

/// A configuration of the filter.
pub(crate) struct Config(*const c_void);

impl Config {
    pub(crate) fn of(shell: Shell) -> Self {
        install();
        Self(hooks::config_of(Some(Arc::new(shell))))
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        unsafe { hooks::envoy_dynamic_module_on_http_filter_config_destroy(self.0) }
    }
}

/// A request on its way.
pub(crate) struct Running {
    stream: Box<Stream>,
    filter: *const c_void,
    frames_needed: usize,
    forwarded: Vec<u8>,
    is_waiting: bool,
}

impl Running {
    /// Creates the filter of a request.
    pub(crate) fn start(config: &Config, sent: &Sent) -> Self {
        let address = sent.address.map(|address| match address {
            IpAddr::V4(address) => format!("{address}:443").into_bytes(),
            IpAddr::V6(address) => format!("[{address}]:443").into_bytes(),
        });
        let mut stream = Box::new(Stream {
            request: sent.headers.clone(),
            address: address.unwrap_or_default(),
            limit: 64 << 10,
            ..Stream::default()
        });
        let pointer: *mut Stream = &raw mut *stream;
        let filter =
            unsafe { hooks::envoy_dynamic_module_on_http_filter_new(config.0, pointer.cast()) };
        assert!(!filter.is_null());
        Self { stream, filter, frames_needed: 0, forwarded: Vec::new(), is_waiting: false }
    }

    fn pointer(&mut self) -> *mut c_void {
        (&raw mut *self.stream).cast()
    }

    /// Whether the module has decided.
    fn is_decided(&self) -> bool {
        self.stream.reply.is_some() || self.stream.is_continued
    }

    /// Sends the head. Returns whether more of the request is to be sent now.
    pub(crate) fn head(&mut self, is_end: bool) -> bool {
        let (pointer, filter) = (self.pointer(), self.filter);
        let status = unsafe {
            hooks::envoy_dynamic_module_on_http_filter_request_headers(pointer, filter, is_end)
        };
        match status {
            abi::CONTINUE => self.stream.is_continued = true,
            abi::STOP => {}
            abi::STOP_ALL_AND_WATERMARK => self.is_waiting = true,
            other => panic!("the status {other}"),
        }
        !self.is_waiting && self.stream.reply.is_none()
    }

    /// Sends a piece of the body.
    pub(crate) fn frame(&mut self, frame: &[u8], is_end: bool) -> bool {
        let was_continued = self.stream.is_continued;
        self.stream.received = pieces(frame);
        if is_end && !self.stream.buffered.is_empty() && !was_continued {
            let received = std::mem::take(&mut self.stream.received);
            self.stream.buffered.extend(received);
        }
        let (pointer, filter) = (self.pointer(), self.filter);
        let status = unsafe {
            hooks::envoy_dynamic_module_on_http_filter_request_body(pointer, filter, is_end)
        };
        let received = std::mem::take(&mut self.stream.received);
        match status {
            abi::CONTINUE => {
                self.stream.is_continued = true;
                self.forward_buffered();
                self.forwarded.extend(received.into_iter().flatten());
            }
            abi::STOP_AND_BUFFER => {
                self.stream.buffered.extend(received);
                let size: usize = self.stream.buffered.iter().map(Vec::len).sum();
                assert!(size as u64 <= self.stream.limit, "Envoy answers 413 itself");
            }
            abi::STOP_WITHOUT_BUFFER => {}
            other => panic!("the status {other}"),
        }
        self.stream.reply.is_none()
    }

    /// Sends the trailers.
    pub(crate) fn trailers(&mut self) {
        let (pointer, filter) = (self.pointer(), self.filter);
        let status =
            unsafe { hooks::envoy_dynamic_module_on_http_filter_request_trailers(pointer, filter) };
        match status {
            abi::CONTINUE => {
                self.stream.is_continued = true;
                self.forward_buffered();
            }
            abi::STOP => {}
            other => panic!("the status {other}"),
        }
    }

    fn forward_buffered(&mut self) {
        let buffered = std::mem::take(&mut self.stream.buffered);
        self.forwarded.extend(buffered.into_iter().flatten());
    }

    /// Waits for the decision of another thread.
    pub(crate) fn decision(&mut self) {
        let deadline = Instant::now() + SOON;
        while !self.is_decided() {
            let events = Arc::clone(&self.stream.events);
            let mut queue = events.queue.lock().unwrap();
            while queue.0.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "no decision within {SOON:?}");
                queue = events.arrived.wait_timeout(queue, left).unwrap().0;
            }
            let event = queue.0.pop_front().unwrap();
            drop(queue);
            let (pointer, filter) = (self.pointer(), self.filter);
            unsafe {
                hooks::envoy_dynamic_module_on_http_filter_scheduled(pointer, filter, event);
            }
        }
        if self.stream.is_continued {
            self.forward_buffered();
        }
        self.is_waiting = false;
    }

    /// Sends a whole request, and the response of an upstream if it is forwarded.
    pub(crate) fn run(mut self, sent: &Sent) -> Outcome {
        let has_body = !sent.frames.is_empty() || sent.has_trailers;
        let goes_on = self.head(!has_body);
        if self.is_waiting {
            self.decision();
        }
        if has_body && (goes_on || self.stream.is_continued) {
            self.body(sent);
        }
        if !self.is_decided() {
            self.decision();
        }
        if self.stream.is_continued {
            self.response(200, &[], &[]);
        }
        self.end()
    }

    fn body(&mut self, sent: &Sent) {
        let count = sent.frames.len();
        for (index, frame) in sent.frames.iter().enumerate() {
            let is_end = index + 1 == count && !sent.has_trailers;
            if !self.is_decided() {
                self.frames_needed = index + 1;
            }
            if !self.frame(frame, is_end) {
                return;
            }
        }
        if sent.has_trailers {
            self.trailers();
        }
    }

    /// Sends the response of an upstream.
    pub(crate) fn response(&mut self, status: u32, headers: &[Line], pieces: &[&[u8]]) {
        let status = (b":status".to_vec(), status.to_string().into_bytes());
        self.stream.response = [&[status], headers].concat();
        let (pointer, filter) = (self.pointer(), self.filter);
        let continued = unsafe {
            hooks::envoy_dynamic_module_on_http_filter_response_headers(pointer, filter, false)
        };
        assert_eq!(continued, abi::CONTINUE);
        for (index, piece) in pieces.iter().enumerate() {
            self.stream.received_response = vec![piece.to_vec()];
            let (pointer, filter) = (self.pointer(), self.filter);
            let is_end = index + 1 == pieces.len();
            let continued = unsafe {
                hooks::envoy_dynamic_module_on_http_filter_response_body(pointer, filter, is_end)
            };
            assert_eq!(continued, abi::CONTINUE);
        }
    }

    /// Ends the request, whatever became of it.
    pub(crate) fn end(mut self) -> Outcome {
        let (pointer, filter) = (self.pointer(), self.filter);
        unsafe {
            hooks::envoy_dynamic_module_on_http_filter_stream_complete(pointer, filter);
        }
        unsafe { hooks::envoy_dynamic_module_on_http_filter_destroy(self.filter) }
        // A commit after the filter is destroyed could meet a worker that ends.
        self.stream.events.queue.lock().unwrap().1 = true;
        let Stream { reply, request_changes, response_changes, metadata, .. } = *self.stream;
        Outcome {
            reply,
            request: request_changes,
            response: response_changes,
            body: self.forwarded,
            frames_needed: self.frames_needed,
            metadata,
        }
    }
}

/// A piece of a body, in two parts, as Envoy has it in slices.
fn pieces(frame: &[u8]) -> Vec<Vec<u8>> {
    let (first, second) = frame.split_at(frame.len() / 2);
    [first, second].iter().filter(|part| !part.is_empty()).map(|part| part.to_vec()).collect()
}

fn stream<'s>(pointer: *mut c_void) -> &'s mut Stream {
    unsafe { &mut *pointer.cast::<Stream>() }
}

fn bytes(buffer: Buffer) -> Vec<u8> {
    if buffer.ptr.is_null() {
        return Vec::new();
    }
    unsafe { std::slice::from_raw_parts(buffer.ptr, buffer.length) }.to_vec()
}

extern "C" fn log(_level: c_int, line: Buffer) {
    eprintln!("{}", String::from_utf8_lossy(&bytes(line)));
}

extern "C" fn is_validation_mode() -> bool {
    false
}

extern "C" fn headers_size(pointer: *mut c_void, map: c_int) -> usize {
    stream(pointer).map(map).0.len()
}

extern "C" fn headers(pointer: *mut c_void, map: c_int, to: *mut Pair) -> bool {
    for (index, (name, value)) in stream(pointer).map(map).0.iter().enumerate() {
        let pair = Pair { key: Buffer::of(name), value: Buffer::of(value) };
        unsafe { to.add(index).write(pair) }
    }
    true
}

extern "C" fn add_header(pointer: *mut c_void, map: c_int, name: Buffer, value: Buffer) -> bool {
    let (name, value) = (bytes(name), bytes(value));
    let stream = stream(pointer);
    let (lines, changes) = stream.map(map);
    lines.push((name.clone(), value.clone()));
    changes.push(Change::Set(name, value));
    stream.free_lent();
    true
}

extern "C" fn set_header(pointer: *mut c_void, map: c_int, name: Buffer, value: Buffer) -> bool {
    let (name, is_removal, value) = (bytes(name), value.ptr.is_null(), bytes(value));
    let stream = stream(pointer);
    let (lines, changes) = stream.map(map);
    lines.retain(|(known, _)| *known != name);
    if is_removal {
        changes.push(Change::Removed(name));
    } else {
        lines.push((name.clone(), value.clone()));
        changes.push(Change::Set(name, value));
    }
    stream.free_lent();
    true
}

extern "C" fn send_response(
    pointer: *mut c_void,
    status: u32,
    lines: *mut Pair,
    count: usize,
    body: Buffer,
    _details: Buffer,
) {
    let line = |index| {
        let pair = unsafe { *lines.add(index) };
        (bytes(pair.key), bytes(pair.value))
    };
    let headers = (0..count).map(line).collect();
    let stream = stream(pointer);
    assert!(stream.reply.is_none(), "a request is answered once");
    stream.reply = Some(Reply { status, headers, body: bytes(body) });
    stream.free_lent();
}

extern "C" fn body_size(pointer: *mut c_void, part: c_int) -> usize {
    stream(pointer).body(part).iter().map(Vec::len).sum()
}

extern "C" fn body_chunks_size(pointer: *mut c_void, part: c_int) -> usize {
    stream(pointer).body(part).len()
}

extern "C" fn body_chunks(pointer: *mut c_void, part: c_int, to: *mut Buffer) -> bool {
    for (index, piece) in stream(pointer).body(part).iter().enumerate() {
        unsafe { to.add(index).write(Buffer::of(piece)) }
    }
    true
}

extern "C" fn append_body(pointer: *mut c_void, part: c_int, text: Buffer) -> bool {
    let text = bytes(text);
    stream(pointer).body(part).push(text);
    stream(pointer).free_lent();
    true
}

extern "C" fn drain_body(pointer: *mut c_void, part: c_int, count: usize) -> bool {
    let body = stream(pointer).body(part);
    assert_eq!(body.iter().map(Vec::len).sum::<usize>(), count, "the module drains the whole");
    body.clear();
    true
}

extern "C" fn buffer_limit(pointer: *mut c_void) -> u64 {
    stream(pointer).limit
}

extern "C" fn set_buffer_limit(pointer: *mut c_void, limit: u64) {
    stream(pointer).limit = limit;
}

extern "C" fn set_metadata(
    pointer: *mut c_void,
    namespace: Buffer,
    facts: *const Pair,
    count: usize,
) {
    assert_eq!(bytes(namespace), b"tollgate");
    for index in 0..count {
        let pair = unsafe { *facts.add(index) };
        stream(pointer).metadata.push((bytes(pair.key), bytes(pair.value)));
    }
}

extern "C" fn attribute_text(pointer: *mut c_void, attribute: c_int, to: *mut Buffer) -> bool {
    let text: &[u8] = match attribute {
        abi::REQUEST_PROTOCOL => b"HTTP/1.1",
        abi::SOURCE_ADDRESS => &stream(pointer).address,
        abi::RESPONSE_DETAILS => b"via_upstream",
        _ => return false,
    };
    unsafe { to.write(Buffer::of(text)) }
    !text.is_empty()
}

extern "C" fn attribute_number(pointer: *mut c_void, attribute: c_int, to: *mut u64) -> bool {
    let is_forwarded = stream(pointer).is_continued;
    let number = match attribute {
        abi::RESPONSE_CODE => 200,
        abi::RESPONSE_FLAGS => 0,
        abi::UPSTREAM_ATTEMPTS => u64::from(is_forwarded),
        _ => return false,
    };
    unsafe { to.write(number) }
    true
}

extern "C" fn scheduler_new(pointer: *mut c_void) -> *mut c_void {
    Arc::into_raw(Arc::clone(&stream(pointer).events)).cast_mut().cast()
}

extern "C" fn scheduler_commit(scheduler: *mut c_void, event: u64) {
    let events = unsafe { &*scheduler.cast::<Events>() };
    let mut queue = events.queue.lock().unwrap();
    assert!(!queue.1, "a commit for a filter that is destroyed");
    queue.0.push_back(event);
    events.arrived.notify_all();
}

extern "C" fn scheduler_delete(scheduler: *mut c_void) {
    drop(unsafe { Arc::from_raw(scheduler.cast_const().cast::<Events>()) });
}

extern "C" fn continue_request(pointer: *mut c_void) {
    stream(pointer).is_continued = true;
}
