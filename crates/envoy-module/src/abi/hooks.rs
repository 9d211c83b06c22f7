//! The functions that Envoy calls. Envoy loads no module that lacks one of them, also of those that
//! this filter has no use for.
//!
//! No panic leaves a hook: it would end Envoy. A request whose hook panicked is answered with 503.

use std::{
    ffi::{c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    rc::Rc,
    sync::Arc,
};

use super::{
    Buffer, CONTINUE, ConfigPtr, FilterPtr, Pair, STOP, STOP_ALL_AND_WATERMARK, STOP_AND_BUFFER,
    STOP_WITHOUT_BUFFER,
};
use crate::{
    effect::grpc_status,
    filter::{Filter, Progress},
    host::{self, Stream},
    shell::{self, Shell},
};

/// The configuration of a filter: its engine, or none where Envoy only validates.
#[derive(Debug)]
struct Config {
    shell: Option<Arc<Shell>>,
}

/// Returns the pointer that Envoy keeps for a configuration with this engine.
#[doc(hidden)]
pub fn config_of(shell: Option<Arc<Shell>>) -> *const c_void {
    Box::into_raw(Box::new(Config { shell })).cast_const().cast()
}

/// Runs a hook without a request.
fn guarded<T>(on_panic: T, hook: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(hook)).unwrap_or(on_panic)
}

/// Runs the hook of a request.
///
/// # Safety
/// `filter` was returned by [`envoy_dynamic_module_on_http_filter_new`] and is not destroyed, and
/// `stream` is what Envoy passes with it.
unsafe fn with<T>(
    stream: FilterPtr,
    filter: *const c_void,
    on_panic: T,
    hook: impl FnOnce(&Filter, &mut Stream) -> T,
) -> T {
    let filter: *const Filter = filter.cast();
    // SAFETY: the filter has a count for Envoy, and this hook gets its own: Envoy may destroy the
    // filter while the hook calls Envoy.
    unsafe { Rc::increment_strong_count(filter) };
    // SAFETY: the count was taken above.
    let filter = unsafe { Rc::from_raw(filter) };
    // SAFETY: the stream is used in this hook only.
    let Some(mut stream) = (unsafe { Stream::of(stream) }) else { return on_panic };
    let run = AssertUnwindSafe(|| hook(&filter, &mut stream));
    if let Ok(result) = catch_unwind(run) {
        return result;
    }
    let answer = AssertUnwindSafe(|| filter.on_panic(&mut stream));
    if catch_unwind(answer).is_err() {
        // Without a status of its own, a call of gRPC would be answered with success.
        let status = (&b"grpc-status"[..], grpc_status(503));
        stream.respond(503, std::iter::once(status), b"", "internal");
    }
    on_panic
}

/// Finds the functions of the host. Returns the version of the interface, or null for a host that
/// is not supported.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    guarded(ptr::null(), || match host::connect() {
        Ok(()) => super::version().as_ptr(),
        Err(missing) => {
            host::log_error(&format!("tollgate: {missing}"));
            ptr::null()
        }
    })
}

/// Opens the engine of the policy file that the configuration names.
///
/// # Safety
/// Envoy calls it with buffers that are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    _envoy: ConfigPtr,
    _name: Buffer,
    config: Buffer,
) -> *const c_void {
    // SAFETY: Envoy lends the configuration for the call.
    let config = unsafe { bytes_of(config) };
    guarded(ptr::null(), || {
        let opened = shell::policy_path(config).and_then(|path| {
            if host::is_validation_mode() {
                shell::load(&path).map(|_| None)
            } else {
                Shell::open(&path).map(Some)
            }
        });
        match opened {
            Ok(shell) => config_of(shell),
            Err(error) => {
                error.to_string().lines().for_each(|line| {
                    host::log_error(&format!("tollgate: {line}"));
                });
                ptr::null()
            }
        }
    })
}

/// The bytes of a configuration.
///
/// # Safety
/// The buffer is null or valid for `'c`.
unsafe fn bytes_of<'c>(config: Buffer) -> &'c [u8] {
    if config.ptr.is_null() {
        return &[];
    }
    // SAFETY: the caller vouches for the buffer.
    unsafe { std::slice::from_raw_parts(config.ptr, config.length) }
}

/// Drops a configuration. Its engine is kept.
///
/// # Safety
/// Envoy calls it once, with what the hook for a new configuration returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const c_void) {
    let config: *mut Config = config.cast_mut().cast();
    // SAFETY: the pointer is from `config_of`, and no filter of it is left.
    let config = unsafe { Box::from_raw(config) };
    guarded((), || drop(config));
}

/// Creates the filter of a request.
///
/// # Safety
/// Envoy calls it with what the hook for a new configuration returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(
    config: *const c_void,
    _stream: FilterPtr,
) -> *const c_void {
    let config: *const Config = config.cast();
    // SAFETY: the configuration outlives its filters.
    let config = unsafe { &*config };
    guarded(ptr::null(), || match &config.shell {
        Some(shell) => Rc::into_raw(Filter::new(Arc::clone(shell))).cast(),
        None => ptr::null(),
    })
}

/// Ends a request.
///
/// # Safety
/// Envoy calls it once, with what the hook for a new filter returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(filter: *const c_void) {
    let filter: *const Filter = filter.cast();
    // SAFETY: this is the count of Envoy.
    let filter = unsafe { Rc::from_raw(filter) };
    guarded((), || filter.on_destroy());
}

/// Decides on the head of a request.
///
/// # Safety
/// Envoy calls it with a filter of this module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    stream: FilterPtr,
    filter: *const c_void,
    is_end: bool,
) -> c_int {
    // SAFETY: as Envoy promises.
    unsafe {
        with(stream, filter, STOP, |filter, stream| {
            match filter.on_request_headers(stream, is_end) {
                Progress::Continue => CONTINUE,
                Progress::NeedsBody | Progress::Answered => STOP,
                Progress::Waits => STOP_ALL_AND_WATERMARK,
            }
        })
    }
}

/// Takes a piece of the body of a request.
///
/// # Safety
/// Envoy calls it with a filter of this module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    stream: FilterPtr,
    filter: *const c_void,
    is_end: bool,
) -> c_int {
    // SAFETY: as Envoy promises.
    unsafe {
        with(stream, filter, STOP_WITHOUT_BUFFER, |filter, stream| {
            match filter.on_request_body(stream, is_end) {
                Progress::Continue => CONTINUE,
                Progress::NeedsBody | Progress::Waits => STOP_AND_BUFFER,
                Progress::Answered => STOP_WITHOUT_BUFFER,
            }
        })
    }
}

/// Takes the trailers of a request, which end its body.
///
/// # Safety
/// Envoy calls it with a filter of this module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(
    stream: FilterPtr,
    filter: *const c_void,
) -> c_int {
    // SAFETY: as Envoy promises.
    unsafe {
        with(stream, filter, STOP, |filter, stream| match filter.on_request_trailers(stream) {
            Progress::Continue => CONTINUE,
            Progress::NeedsBody | Progress::Waits | Progress::Answered => STOP,
        })
    }
}

/// Writes the headers of a response.
///
/// # Safety
/// Envoy calls it with a filter of this module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    stream: FilterPtr,
    filter: *const c_void,
    _is_end: bool,
) -> c_int {
    // SAFETY: as Envoy promises.
    unsafe {
        with(stream, filter, CONTINUE, |filter, stream| {
            filter.on_response_headers(stream);
            CONTINUE
        })
    }
}

/// Takes a piece of the body of a response.
///
/// # Safety
/// Envoy calls it with a filter of this module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_body(
    stream: FilterPtr,
    filter: *const c_void,
    _is_end: bool,
) -> c_int {
    // SAFETY: as Envoy promises.
    unsafe {
        with(stream, filter, CONTINUE, |filter, stream| {
            filter.on_response_body(stream);
            CONTINUE
        })
    }
}

/// Takes the trailers of a response.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_response_trailers(
    _stream: FilterPtr,
    _filter: *const c_void,
) -> c_int {
    CONTINUE
}

/// Settles a request when it and its response have ended.
///
/// # Safety
/// Envoy calls it with a filter of this module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(
    stream: FilterPtr,
    filter: *const c_void,
) {
    // SAFETY: as Envoy promises.
    unsafe { with(stream, filter, (), |filter, stream| filter.on_complete(stream)) }
}

/// Carries out a decision of another thread.
///
/// # Safety
/// Envoy calls it with a filter of this module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(
    stream: FilterPtr,
    filter: *const c_void,
    _event: u64,
) {
    // SAFETY: as Envoy promises.
    unsafe { with(stream, filter, (), |filter, stream| filter.on_scheduled(stream)) }
}

/// A call of the filter over HTTP has ended; there is none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_callout_done(
    _stream: FilterPtr,
    _filter: *const c_void,
    _call: u64,
    _result: c_int,
    _headers: *const Pair,
    _headers_size: usize,
    _pieces: *const Buffer,
    _pieces_size: usize,
) {
}

/// Headers of a stream of the filter; there is none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_headers(
    _stream: FilterPtr,
    _filter: *const c_void,
    _call: u64,
    _headers: *const Pair,
    _headers_size: usize,
    _is_end: bool,
) {
}

/// Data of a stream of the filter; there is none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_data(
    _stream: FilterPtr,
    _filter: *const c_void,
    _call: u64,
    _pieces: *const Buffer,
    _pieces_size: usize,
    _is_end: bool,
) {
}

/// Trailers of a stream of the filter; there is none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_trailers(
    _stream: FilterPtr,
    _filter: *const c_void,
    _call: u64,
    _trailers: *const Pair,
    _trailers_size: usize,
) {
}

/// The end of a stream of the filter; there is none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_complete(
    _stream: FilterPtr,
    _filter: *const c_void,
    _call: u64,
) {
}

/// The reset of a stream of the filter; there is none.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_reset(
    _stream: FilterPtr,
    _filter: *const c_void,
    _call: u64,
    _reason: c_int,
) {
}

/// The client reads more slowly than the response arrives; Envoy holds it back by itself.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(
    _stream: FilterPtr,
    _filter: *const c_void,
) {
}

/// The client has caught up with the response.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(
    _stream: FilterPtr,
    _filter: *const c_void,
) {
}
