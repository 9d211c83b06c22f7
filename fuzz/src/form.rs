//! A form as a lenient parser sees it: lines that may end in a bare line feed, names in any quoting, folded headers, parts behind the
//! end. Whatever some parser takes for a field is one here.

/// A field: every name that its part may be taken to have, and its value.
#[derive(Debug)]
pub struct Field {
    /// The names, decoded, trimmed, in lower case.
    pub names: Vec<String>,
    /// The value.
    pub value: Vec<u8>,
}

/// The boundary of a content type, wherever it stands.
pub fn boundary(content_type: &str) -> String {
    let lower = content_type.to_ascii_lowercase();
    let value = lower
        .find("boundary=")
        .and_then(|at| content_type.get(at + "boundary=".len()..))
        .unwrap_or_default();
    match value.strip_prefix('"').and_then(|value| value.split_once('"')) {
        Some((quoted, _)) => quoted.to_owned(),
        None => value.split([';', ',']).next().unwrap_or_default().trim().to_owned(),
    }
}

/// Every field.
pub fn fields(body: &[u8], boundary: &str) -> Vec<Field> {
    let delimiter = format!("--{boundary}");
    let mut parts: Vec<Vec<&[u8]>> = Vec::new();
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.trim_ascii_start().starts_with(delimiter.as_bytes()) {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(line);
        }
    }
    parts.iter().filter_map(|lines| field(lines)).collect()
}

fn field(lines: &[&[u8]]) -> Option<Field> {
    let end = lines.iter().position(|line| line.trim_ascii().is_empty())?;
    let mut headers: Vec<String> = Vec::new();
    for line in &lines[..end] {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']);
        match headers.last_mut() {
            Some(before) if text.starts_with([' ', '\t']) => before.push_str(text),
            _ => headers.push(text.to_owned()),
        }
    }
    let disposition = |header: &String| {
        let (name, value) = header.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then(|| value.to_owned())
    };
    let names: Vec<String> =
        headers.iter().filter_map(disposition).flat_map(|value| names(&value)).collect();
    let value = lines[end + 1..].concat();
    let value = value.strip_suffix(b"\n").unwrap_or(&value);
    let value = value.strip_suffix(b"\r").unwrap_or(value).to_vec();
    (!names.is_empty()).then_some(Field { names, value })
}

/// What `name` and `name*` say among the parameters of a header.
fn names(header: &str) -> Vec<String> {
    let mut names = Vec::new();
    for parameter in parameters(header) {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        let key = key.trim().to_ascii_lowercase();
        let value = unescaped(unquoted(value.trim()));
        if key == "name" {
            names.push(value);
        } else if key.starts_with("name*") {
            names.push(value.rsplit('\'').next().unwrap_or_default().to_owned());
        }
    }
    names
}

/// The parts of a header between semicolons outside of quotes.
fn parameters(header: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in header.chars() {
        match c {
            ';' if !quoted => parts.push(String::new()),
            _ => {
                quoted ^= c == '"' && !escaped;
                parts.last_mut().expect("one at least").push(c);
            }
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

/// Without one pair of quotes of either kind, or one that is not closed.
fn unquoted(text: &str) -> &str {
    let inner =
        |quote: char| text.strip_prefix(quote).map(|rest| rest.strip_suffix(quote).unwrap_or(rest));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// Without backslashes, with `%XX` decoded, trimmed and in lower case.
fn unescaped(text: &str) -> String {
    let text = text.replace('\\', "");
    crate::path::percent_decoded(&text).trim().to_ascii_lowercase()
}
