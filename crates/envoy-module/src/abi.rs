//! Envoy's interface for dynamic modules, as far as an HTTP filter needs it: types, numbers, and the
//! functions of the host. [`hooks`] has the functions that the host calls.
//!
//! Only functions that Envoy 1.39 and Envoy 1.40 both export are named here. They are found by name
//! when the module is loaded, so that a host without one of them is refused with its name.
#![expect(unsafe_code, reason = "the functions of the host are found by name, as C functions")]

pub mod hooks;

use std::ffi::{CStr, c_char, c_int, c_void};

/// The filter object of Envoy.
pub type FilterPtr = *mut c_void;
/// The configuration object of Envoy.
pub type ConfigPtr = *mut c_void;
/// A scheduler, which is owned by the module.
pub type SchedulerPtr = *mut c_void;

/// Bytes that belong to Envoy, or to the module.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// The first byte; null where there is none.
    pub ptr: *const u8,
    /// The number of bytes.
    pub length: usize,
}

impl Buffer {
    /// A buffer without bytes, which some functions read as "none".
    pub const NONE: Self = Self { ptr: std::ptr::null(), length: 0 };

    /// Returns the buffer of some bytes, which it does not keep alive.
    pub fn of(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), length: bytes.len() }
    }
}

/// A name and its value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The name, or the key.
    pub key: Buffer,
    /// The value of the name.
    pub value: Buffer,
}

impl Pair {
    /// A pair without bytes.
    pub const NONE: Self = Self { key: Buffer::NONE, value: Buffer::NONE };
}

/// The number of the request's headers.
pub const REQUEST_HEADERS: c_int = 0;
/// The number of the response's headers.
pub const RESPONSE_HEADERS: c_int = 2;

/// The number of the piece of the request's body that has just arrived.
pub const RECEIVED_REQUEST_BODY: c_int = 0;
/// The number of the request's body as far as it is buffered.
pub const BUFFERED_REQUEST_BODY: c_int = 1;
/// The number of the piece of the response's body that has just arrived.
pub const RECEIVED_RESPONSE_BODY: c_int = 2;

/// The number of the attribute `request.protocol`.
pub const REQUEST_PROTOCOL: c_int = 10;
/// The number of the attribute `response.code`.
pub const RESPONSE_CODE: c_int = 15;
/// The number of the attribute `response.code_details`.
pub const RESPONSE_DETAILS: c_int = 16;
/// The number of the attribute `response.flags`.
pub const RESPONSE_FLAGS: c_int = 17;
/// The number of the attribute `upstream.request_attempt_count`.
pub const UPSTREAM_ATTEMPTS: c_int = 53;
/// The number of the attribute `source.address`.
pub const SOURCE_ADDRESS: c_int = 24;

/// The level of an informational line of the log.
pub const LOG_INFO: c_int = 2;
/// The level of an error in the log.
pub const LOG_ERROR: c_int = 4;

/// After headers, body or trailers: go on to the next filter.
pub const CONTINUE: c_int = 0;
/// After headers or trailers: stop here, body and trailers still arrive.
pub const STOP: c_int = 1;
/// After headers: stop here, and hold what follows, as much as the connection's buffer.
pub const STOP_ALL_AND_WATERMARK: c_int = 4;
/// After a piece of body: hold it with those before.
pub const STOP_AND_BUFFER: c_int = 1;
/// After a piece of body: drop it.
pub const STOP_WITHOUT_BUFFER: c_int = 3;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn atexit(function: extern "C" fn()) -> c_int;
}

/// Finds a symbol of the process.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a null handle means the process and its libraries, and the name ends with a zero.
    let found = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// Calls a function when the process exits, after the host has stopped its work. Returns whether the
/// function will be called.
pub(crate) fn at_exit(function: extern "C" fn()) -> bool {
    // SAFETY: the function does not unwind, and the module is never unloaded.
    unsafe { atexit(function) == 0 }
}

/// A callback of the host that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this Envoy does not export `{}`: the module supports Envoy 1.39 and 1.40",
    .0.to_string_lossy()
)]
pub struct MissingCallback(pub &'static CStr);

/// Defines the table of the host's functions, and finds each by its name.
macro_rules! callbacks {
    ($($(#[$doc:meta])* $field:ident: $name:literal ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the host, by what they do.
        #[derive(Clone, Copy, Debug)]
        pub struct Callbacks {
            $($(#[$doc])* pub $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Callbacks {
            /// The name of every function.
            pub const NAMES: &[&CStr] = &[$($name,)*];

            /// Finds every function in the process.
            ///
            /// # Errors
            /// Returns the first function that the process does not have.
            pub fn find() -> Result<Self, MissingCallback> {
                Ok(Self {
                    $($field: {
                        let found = symbol($name).ok_or(MissingCallback($name))?;
                        type Function = unsafe extern "C" fn($($argument),*) $(-> $result)?;
                        // SAFETY: the host's function of this name has these arguments in Envoy 1.39
                        // and 1.40, and a data pointer has the size of a function pointer here.
                        unsafe { std::mem::transmute::<*mut c_void, Function>(found) }
                    },)*
                })
            }
        }
    };
}

callbacks! {
    /// Writes a line to the host's log.
    log: c"envoy_dynamic_module_callback_log"(c_int, Buffer);
    /// Whether the host only validates its configuration.
    is_validation_mode: c"envoy_dynamic_module_callback_is_validation_mode"() -> bool;
    /// The number of headers of a map.
    headers_size: c"envoy_dynamic_module_callback_http_get_headers_size"(FilterPtr, c_int) -> usize;
    /// Writes the headers of a map to an array that is large enough.
    headers: c"envoy_dynamic_module_callback_http_get_headers"(FilterPtr, c_int, *mut Pair) -> bool;
    /// Adds a header beside others of its name.
    add_header: c"envoy_dynamic_module_callback_http_add_header"(FilterPtr, c_int, Buffer, Buffer) -> bool;
    /// Replaces a header; with a null value, removes it.
    set_header: c"envoy_dynamic_module_callback_http_set_header"(FilterPtr, c_int, Buffer, Buffer) -> bool;
    /// Answers the request with status, headers, body and details.
    send_response: c"envoy_dynamic_module_callback_http_send_response"(FilterPtr, u32, *mut Pair, usize, Buffer, Buffer);
    /// The size of a body in bytes.
    body_size: c"envoy_dynamic_module_callback_http_get_body_size"(FilterPtr, c_int) -> usize;
    /// The number of pieces of a body.
    body_chunks_size: c"envoy_dynamic_module_callback_http_get_body_chunks_size"(FilterPtr, c_int) -> usize;
    /// Writes the pieces of a body to an array that is large enough.
    body_chunks: c"envoy_dynamic_module_callback_http_get_body_chunks"(FilterPtr, c_int, *mut Buffer) -> bool;
    /// Appends bytes to a body.
    append_body: c"envoy_dynamic_module_callback_http_append_body"(FilterPtr, c_int, Buffer) -> bool;
    /// Removes bytes from the front of a body.
    drain_body: c"envoy_dynamic_module_callback_http_drain_body"(FilterPtr, c_int, usize) -> bool;
    /// The number of bytes that the filter may buffer.
    buffer_limit: c"envoy_dynamic_module_callback_http_get_buffer_limit"(FilterPtr) -> u64;
    /// Sets the number of bytes that the filter may buffer.
    set_buffer_limit: c"envoy_dynamic_module_callback_http_set_buffer_limit"(FilterPtr, u64);
    /// Sets texts of the dynamic metadata of a namespace.
    set_metadata: c"envoy_dynamic_module_callback_http_set_dynamic_metadata_string_batch"(FilterPtr, Buffer, *const Pair, usize);
    /// Returns the text of an attribute.
    attribute_text: c"envoy_dynamic_module_callback_http_filter_get_attribute_string"(FilterPtr, c_int, *mut Buffer) -> bool;
    /// Returns the number of an attribute.
    attribute_number: c"envoy_dynamic_module_callback_http_filter_get_attribute_int"(FilterPtr, c_int, *mut u64) -> bool;
    /// Creates a scheduler of a filter.
    scheduler_new: c"envoy_dynamic_module_callback_http_filter_scheduler_new"(FilterPtr) -> SchedulerPtr;
    /// Schedules an event, from any thread.
    scheduler_commit: c"envoy_dynamic_module_callback_http_filter_scheduler_commit"(SchedulerPtr, u64);
    /// Deletes a scheduler of a filter.
    scheduler_delete: c"envoy_dynamic_module_callback_http_filter_scheduler_delete"(SchedulerPtr);
    /// Continues a request that was stopped.
    continue_request: c"envoy_dynamic_module_callback_http_filter_continue_decoding"(FilterPtr);
}

/// A function that Envoy 1.40 exports and Envoy 1.39 does not.
const OF_1_40: &CStr = c"envoy_dynamic_module_callback_http_get_timing_info";

/// The version of the interface, as the host names its own: another one is a warning in its log.
pub(crate) fn version() -> &'static CStr {
    if symbol(OF_1_40).is_some() { c"v0.2.0" } else { c"v0.1.0" }
}
