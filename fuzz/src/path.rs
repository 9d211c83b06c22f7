//! A path as the most lenient server sees it.

/// `%XX` decoded; what is no encoding stays.
pub fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.filter(|_| *byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Decoded until nothing changes, cut at whatever ends a path somewhere, backslashes as slashes, parameters cut, empty segments
/// merged, dot segments resolved, with space around them too.
pub fn resolved(target: &str) -> String {
    let mut path = target.to_owned();
    loop {
        let decoded = percent_decoded(&path);
        if decoded == path {
            break;
        }
        path = decoded;
    }
    let path =
        path.split(['?', '#', '\0', '\r', '\n']).next().unwrap_or_default().replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        match name.trim() {
            "." => {}
            ".." => drop(segments.pop()),
            _ if name.is_empty() => {}
            _ => segments.push(name),
        }
    }
    format!("/{}", segments.join("/"))
}
