//! The safe side of the host's functions.
//!
//! What Envoy lends is borrowed from the [`Stream`] that lends it, and what changes a stream needs
//! it exclusively. So no header and no piece of a body is used after the call that frees it:
//!
//! ```compile_fail,E0502
//! use tollgate_envoy::host::{HeaderMap, Stream};
//!
//! fn wrong(stream: &mut Stream) -> usize {
//!     let headers = stream.headers(HeaderMap::Request);
//!     stream.set_header(HeaderMap::Request, b"x-tenant", b"acme");
//!     headers.len() // Envoy may have freed them.
//! }
//! ```
#![expect(unsafe_code, reason = "calls the functions of the host")]

use std::{
    borrow::Cow,
    ffi::{c_int, c_void},
    marker::PhantomData,
    ptr::NonNull,
    sync::OnceLock,
};

use crate::abi::{self, Buffer, Callbacks, MissingCallback, Pair};

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

/// Finds the functions of the host, once.
///
/// # Errors
/// Returns the first function that the host does not have.
pub fn connect() -> Result<(), MissingCallback> {
    if CALLBACKS.get().is_none() {
        install(Callbacks::find()?);
    }
    Ok(())
}

/// Uses these functions as those of the host. The first ones are kept.
pub fn install(callbacks: Callbacks) {
    CALLBACKS.get_or_init(|| callbacks);
}

/// A header map of a request and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderMap {
    /// The headers of the request.
    Request,
    /// The headers of the response.
    Response,
}

impl HeaderMap {
    const fn number(self) -> c_int {
        match self {
            Self::Request => abi::REQUEST_HEADERS,
            Self::Response => abi::RESPONSE_HEADERS,
        }
    }
}

/// A part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPart {
    /// The piece of the request's body that has just arrived.
    ReceivedRequest,
    /// The request's body as far as it is buffered.
    BufferedRequest,
    /// The piece of the response's body that has just arrived.
    ReceivedResponse,
}

impl BodyPart {
    const fn number(self) -> c_int {
        match self {
            Self::ReceivedRequest => abi::RECEIVED_REQUEST_BODY,
            Self::BufferedRequest => abi::BUFFERED_REQUEST_BODY,
            Self::ReceivedResponse => abi::RECEIVED_RESPONSE_BODY,
        }
    }
}

/// A text that Envoy knows about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// The protocol of the request: `HTTP/1.1`, `HTTP/2` or `HTTP/3`.
    Protocol,
    /// The client's address and port.
    SourceAddress,
    /// The details of the response.
    ResponseDetails,
}

impl Text {
    const fn number(self) -> c_int {
        match self {
            Self::Protocol => abi::REQUEST_PROTOCOL,
            Self::SourceAddress => abi::SOURCE_ADDRESS,
            Self::ResponseDetails => abi::RESPONSE_DETAILS,
        }
    }
}

/// A number that Envoy knows about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// The status of the response.
    ResponseStatus,
    /// The flags of the response, as bits.
    ResponseFlags,
    /// The number of upstreams that were tried.
    UpstreamAttempts,
}

impl Number {
    const fn number(self) -> c_int {
        match self {
            Self::ResponseStatus => abi::RESPONSE_CODE,
            Self::ResponseFlags => abi::RESPONSE_FLAGS,
            Self::UpstreamAttempts => abi::UPSTREAM_ATTEMPTS,
        }
    }
}

/// One request and its response, during one hook.
#[derive(Debug)]
pub struct Stream {
    filter: NonNull<c_void>,
    calls: &'static Callbacks,
}

impl Stream {
    /// Returns the stream of a filter; `None` where the host is not connected.
    ///
    /// # Safety
    /// `filter` is the pointer that the host passes to the hook which is running, and the stream is
    /// used in that hook only.
    pub unsafe fn of(filter: abi::FilterPtr) -> Option<Self> {
        Some(Self { filter: NonNull::new(filter)?, calls: CALLBACKS.get()? })
    }

    fn filter(&self) -> abi::FilterPtr {
        self.filter.as_ptr()
    }

    /// Returns the headers of a map, in their order; repeated ones occur repeatedly.
    pub fn headers(&self, map: HeaderMap) -> HeaderList<'_> {
        // SAFETY: the filter is that of the running hook.
        let size = unsafe { (self.calls.headers_size)(self.filter(), map.number()) };
        let mut entries = vec![Pair::NONE; size];
        // SAFETY: the array has room for all headers of the map.
        let known =
            unsafe { (self.calls.headers)(self.filter(), map.number(), entries.as_mut_ptr()) };
        if !known {
            entries.clear();
        }
        HeaderList { entries, stream: PhantomData }
    }

    /// Replaces a header, or adds it.
    pub fn set_header(&mut self, map: HeaderMap, name: &[u8], value: &[u8]) {
        let (name, value) = (Buffer::of(name), Buffer::of(value));
        // SAFETY: the host copies both during the call.
        let _set = unsafe { (self.calls.set_header)(self.filter(), map.number(), name, value) };
    }

    /// Adds a header beside others of its name.
    pub fn add_header(&mut self, map: HeaderMap, name: &[u8], value: &[u8]) {
        let (name, value) = (Buffer::of(name), Buffer::of(value));
        // SAFETY: the host copies both during the call.
        let _added = unsafe { (self.calls.add_header)(self.filter(), map.number(), name, value) };
    }

    /// Removes every header of a name.
    pub fn remove_header(&mut self, map: HeaderMap, name: &[u8]) {
        let name = Buffer::of(name);
        // SAFETY: the host copies the name during the call, and reads the null value as a removal.
        let _removed =
            unsafe { (self.calls.set_header)(self.filter(), map.number(), name, Buffer::NONE) };
    }

    /// The size of a part of a body, in bytes.
    pub fn body_size(&self, part: BodyPart) -> usize {
        // SAFETY: the filter is that of the running hook.
        unsafe { (self.calls.body_size)(self.filter(), part.number()) }
    }

    /// Returns the pieces of a part of a body.
    pub fn body_pieces(&self, part: BodyPart) -> BodyPieces<'_> {
        // SAFETY: the filter is that of the running hook.
        let size = unsafe { (self.calls.body_chunks_size)(self.filter(), part.number()) };
        let mut pieces = vec![Buffer::NONE; size];
        // SAFETY: the array has room for all pieces of the body.
        let known =
            unsafe { (self.calls.body_chunks)(self.filter(), part.number(), pieces.as_mut_ptr()) };
        if !known {
            pieces.clear();
        }
        BodyPieces { pieces, stream: PhantomData }
    }

    /// Replaces a part of a body.
    pub fn replace_body(&mut self, part: BodyPart, bytes: &[u8]) -> bool {
        let size = self.body_size(part);
        // SAFETY: the filter is that of the running hook.
        let drained = unsafe { (self.calls.drain_body)(self.filter(), part.number(), size) };
        // SAFETY: the host copies the bytes during the call.
        drained
            && unsafe { (self.calls.append_body)(self.filter(), part.number(), Buffer::of(bytes)) }
    }

    /// Raises the number of bytes that may be buffered to `least`; 0 is no limit.
    pub fn raise_buffer_limit(&mut self, least: u64) {
        // SAFETY: the filter is that of the running hook.
        let limit = unsafe { (self.calls.buffer_limit)(self.filter()) };
        if limit != 0 && limit < least {
            // SAFETY: the filter is that of the running hook.
            unsafe { (self.calls.set_buffer_limit)(self.filter(), least) }
        }
    }

    /// Returns a number, where Envoy knows it.
    pub fn number(&self, number: Number) -> Option<u64> {
        let mut value = 0;
        // SAFETY: the result is written to a number of this function.
        let known = unsafe {
            (self.calls.attribute_number)(self.filter(), number.number(), &raw mut value)
        };
        known.then_some(value)
    }

    /// Returns a text, where Envoy knows it.
    pub fn text(&self, attribute: Text) -> Option<&[u8]> {
        let mut text = Buffer::NONE;
        // SAFETY: the result is written to a buffer of this function.
        let known = unsafe {
            (self.calls.attribute_text)(self.filter(), attribute.number(), &raw mut text)
        };
        // SAFETY: Envoy lends the text for the hook, as long as nothing is set.
        known.then(|| unsafe { bytes(text) })
    }

    /// Sets texts of the dynamic metadata in a namespace.
    pub fn set_metadata(&mut self, namespace: &str, facts: &[(&str, &str)]) {
        let pair = |(key, value): &(&str, &str)| Pair {
            key: Buffer::of(key.as_bytes()),
            value: Buffer::of(value.as_bytes()),
        };
        let facts: Vec<Pair> = facts.iter().map(pair).collect();
        let namespace = Buffer::of(namespace.as_bytes());
        // SAFETY: the host copies the texts during the call, and `facts` has the given length.
        unsafe { (self.calls.set_metadata)(self.filter(), namespace, facts.as_ptr(), facts.len()) }
    }

    /// Answers the request. `details` is for the access log.
    pub fn respond<'h>(
        &mut self,
        status: u16,
        headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
        body: &[u8],
        details: &str,
    ) {
        let pair = |(name, value)| Pair { key: Buffer::of(name), value: Buffer::of(value) };
        let mut headers: Vec<Pair> = headers.map(pair).collect();
        // SAFETY: the host copies headers, body and details during the call.
        unsafe {
            (self.calls.send_response)(
                self.filter(),
                u32::from(status),
                headers.as_mut_ptr(),
                headers.len(),
                Buffer::of(body),
                Buffer::of(details.as_bytes()),
            );
        }
    }

    /// Continues a request that was stopped. The stream may end during the call.
    pub fn continue_request(&mut self) {
        // SAFETY: the filter is that of the running hook, which keeps it alive.
        unsafe { (self.calls.continue_request)(self.filter()) }
    }

    /// Creates a scheduler, by which another thread calls the filter.
    pub fn scheduler(&self) -> Option<Scheduler> {
        // SAFETY: the filter is that of the running hook.
        let scheduler = unsafe { (self.calls.scheduler_new)(self.filter()) };
        Some(Scheduler { raw: NonNull::new(scheduler)?, calls: self.calls })
    }
}

/// The headers of a map, lent by Envoy until the stream is changed.
#[derive(Debug)]
pub struct HeaderList<'s> {
    entries: Vec<Pair>,
    stream: PhantomData<&'s Stream>,
}

impl<'s> HeaderList<'s> {
    /// The number of headers.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no header.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'s [u8], &'s [u8])> + Clone {
        // SAFETY: Envoy lends them until the stream is changed, which `'s` excludes.
        self.entries.iter().map(|pair| (unsafe { bytes(pair.key) }, unsafe { bytes(pair.value) }))
    }
}

/// The pieces of a body, lent by Envoy until the stream is changed.
#[derive(Debug)]
pub struct BodyPieces<'s> {
    pieces: Vec<Buffer>,
    stream: PhantomData<&'s Stream>,
}

impl<'s> BodyPieces<'s> {
    /// Returns each piece in its order.
    pub fn iter(&self) -> impl Iterator<Item = &'s [u8]> {
        // SAFETY: Envoy lends them until the stream is changed, which `'s` excludes.
        self.pieces.iter().map(|piece| unsafe { bytes(*piece) })
    }

    /// Returns the body in one piece.
    pub fn whole(&self) -> Cow<'s, [u8]> {
        let mut pieces = self.iter().filter(|piece| !piece.is_empty());
        match (pieces.next(), pieces.next()) {
            (None, _) => Cow::Borrowed(&[]),
            (Some(one), None) => Cow::Borrowed(one),
            _ => Cow::Owned(self.iter().flatten().copied().collect()),
        }
    }
}

/// The bytes of a buffer.
///
/// # Safety
/// The buffer is null or points to memory that is valid for `'s`.
unsafe fn bytes<'s>(buffer: Buffer) -> &'s [u8] {
    if buffer.ptr.is_null() || buffer.length == 0 {
        return &[];
    }
    // SAFETY: the caller has checked the lifetime, and the host the length.
    unsafe { std::slice::from_raw_parts(buffer.ptr, buffer.length) }
}

/// Calls a filter from another thread.
#[derive(Debug)]
pub struct Scheduler {
    raw: NonNull<c_void>,
    calls: &'static Callbacks,
}

// SAFETY: the host's functions for schedulers may be called on any thread.
unsafe impl Send for Scheduler {}

impl Scheduler {
    /// Has the host call the filter's hook for scheduled events, on the filter's thread.
    pub fn commit(&self, event: u64) {
        // SAFETY: the scheduler is deleted only when it is dropped.
        unsafe { (self.calls.scheduler_commit)(self.raw.as_ptr(), event) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: it was created by the host, and is not used any more.
        unsafe { (self.calls.scheduler_delete)(self.raw.as_ptr()) }
    }
}

/// Whether the host only validates its configuration. Only its main thread may call this.
pub fn is_validation_mode() -> bool {
    // SAFETY: the function has no arguments.
    CALLBACKS.get().is_some_and(|calls| unsafe { (calls.is_validation_mode)() })
}

/// Writes an error to the host's log; to standard error where there is no host.
pub fn log_error(line: &str) {
    log(abi::LOG_ERROR, line);
}

/// Writes a line to the host's log.
pub fn log_info(line: &str) {
    log(abi::LOG_INFO, line);
}

fn log(level: c_int, line: &str) {
    match CALLBACKS.get() {
        // SAFETY: the host copies the line during the call.
        Some(calls) => unsafe { (calls.log)(level, Buffer::of(line.as_bytes())) },
        None => eprintln!("{line}"),
    }
}
