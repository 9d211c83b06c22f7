//! HTTP/2 frames as raw bytes, for what no client library sends.

/// The connection preface with empty settings (RFC 9113 section 3.4).
pub(crate) fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat()
}

/// Returns one frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the headers of a request for `path` over http, by its method's index in the static table
/// (RFC 7541 appendix A): 2 for GET, 3 for POST.
pub(crate) fn request_headers(method: u8, path: &str) -> Vec<u8> {
    let (authority, path) = (b"api.example.com", path.as_bytes());
    let literal =
        |index: u8, value: &[u8]| [&[index, u8::try_from(value.len()).unwrap()], value].concat();
    [vec![0x80 | method, 0x86], literal(4, path), literal(1, authority)].concat()
}

/// Requests on odd streams from 1 on, each followed by its reset (CANCEL).
pub(crate) fn cancelled_requests(headers: &[u8], ends: bool, count: u32) -> Vec<u8> {
    let flags = if ends { 5 } else { 4 };
    let request = |stream| {
        [frame(1, flags, stream, headers), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    (0..count).flat_map(|number| request(2 * number + 1)).collect()
}
