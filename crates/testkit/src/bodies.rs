//! Bodies that cost a reader more for each byte than text does, and the chat that they are compared
//! with.

use std::fmt::Write as _;

/// A body with a name.
pub type Named = (&'static str, String);

/// The boundary of [`forms`].
pub const BOUNDARY: &str = "b0undary";

const TURNS: &str =
    r#"{"role":"user","content":"And in French?"},{"role":"assistant","content":"Bonjour."}"#;

/// A chat of short turns, which has as much structure as text: about so many bytes.
pub fn turns(bytes: usize) -> String {
    let start = r#"{"model":"Qwen/Qwen2-72B-Instruct","max_tokens":256,"messages":["#;
    format!("{start}{}]}}", list(bytes.saturating_sub(start.len()), TURNS))
}

/// Bodies of about so many bytes: many keys, many objects, depth, many strings, numbers, escapes,
/// space.
pub fn hostile(bytes: usize) -> Vec<Named> {
    let mut bodies: Vec<Named> =
        values().into_iter().map(|(name, value)| (name, content(bytes, &value))).collect();
    let message = |content: &str| format!(r#"{{"role":"user","content":{content}}}"#);
    let tool = format!(
        r#"{{"type":"function","function":{{"name":"f","parameters":{}}}}}"#,
        schema((bytes / 200).max(100))
    );
    let places = [
        ("many messages", "messages", message(r#""""#)),
        ("messages of one part", "messages", message(r#"[{"type":"text","text":"a"}]"#)),
        ("empty messages", "messages", "{}".into()),
        ("messages of numbers", "messages", "1".into()),
        ("calls of tools", "messages", CALL.into()),
        ("results of tools", "messages", RESULT.into()),
        ("results within results", "messages", nested_results()),
        ("tokens", "prompt", "15496".into()),
        ("tokens in lists", "prompt", "[1]".into()),
        ("short prompts", "prompt", r#""a""#.into()),
        ("tools", "tools", tool),
        ("schemas", "response_format", schema(4000)),
        ("another member", "extra", r#"{"a":1}"#.into()),
        ("settings", "options", r#"{"num_predict":1}"#.into()),
        ("metadata", "metadata", r#"{"a":"b"}"#.into()),
    ];
    bodies.extend(places.map(|(name, member, value)| (name, in_member(bytes, member, &value))));
    bodies
}

/// Bodies that are no UTF-8, which is found at their end.
pub fn invalid(bytes: usize) -> Vec<(&'static str, Vec<u8>)> {
    let text = |name, piece: &str| {
        let text = piece.repeat(bytes / piece.len());
        (name, [br#"{"messages":[{"content":""#, text.as_bytes(), b"\xff\"}]}"].concat())
    };
    vec![
        text("invalid UTF-8", "And in French? "),
        text("invalid UTF-8 after letters beyond ASCII", "a\u{e9}"),
        text("invalid UTF-8 after Chinese", "\u{4f60}\u{597d}"),
        text("invalid UTF-8 after emojis", "\u{1f600}"),
    ]
}

/// Forms with the boundary [`BOUNDARY`]: of many parts, of about so many bytes in one part, and of long
/// headers.
pub fn forms(bytes: usize) -> Vec<Named> {
    let filled = |piece: &str| form(1, &field("f"), &piece.repeat(bytes / piece.len()));
    let header = |header: &str| format!("{}\r\n{header}", field("f"));
    let long = |piece: &str| header(&format!("X: {}", piece.repeat(3900 / piece.len())));
    vec![
        ("form with a file", filled("\u{1}RIFF\r\n-")),
        ("form of near boundaries", filled("\r\n--b0undar")),
        ("form of line breaks", filled("\r\n")),
        ("form of dashes", filled("--")),
        ("form of the letters of its boundary", filled("b0b0und")),
        ("form of small parts", form(256, &field("f"), "")),
        ("form of parts of a byte", form(256, &field("\u{e9}"), "a")),
        ("form of short names", form(256, &field("maX"), "1")),
        ("form of files", form(256, &format!("{}; filename=\"a\"", field("f")), "a")),
        ("form of long names", form(256, &field(&"n".repeat(3900)), "")),
        ("form of names beyond ASCII", form(256, &field(&"\u{e9}".repeat(1900)), "")),
        ("form of many headers", form(256, &header(&["a:"; 900].join("\r\n")), "")),
        ("form of long headers", form(256, &long("a"), "")),
        ("form of headers beyond ASCII", form(256, &long("\u{e9}"), "")),
        ("form of parameters", form(256, &format!("{}{}", field("f"), "; size=1".repeat(400)), "")),
        (
            "form of parameters of a type",
            form(256, &header(&format!("Content-Type: text/plain{}", ";a=b".repeat(900))), ""),
        ),
        ("form of short parameters of a type", form(256, &header("Content-Type: a;a=b;c=d"), "")),
    ]
}

/// Values of the content of a message.
fn values() -> Vec<Named> {
    let alike = |length: usize| "k".repeat(length);
    let keys = |member: &dyn Fn(usize) -> String| object(250, member);
    let text = |piece: &str| format!("\"{}\"", piece.repeat(1 + 900 / piece.len()));
    let open_close = |open: &str, close: &str, times: usize| {
        format!("{}1{}", open.repeat(times), close.repeat(times))
    };
    vec![
        ("many keys", keys(&|key| format!(r#""{key:x}":1"#))),
        ("long keys alike", {
            let alike = alike(200);
            keys(&|key| format!(r#""{alike}{key:x}{alike}":1"#))
        }),
        (
            "keys of 20 bytes alike",
            keys(&|key| format!(r#""{}{key:04x}{}":1"#, alike(8), alike(8))),
        ),
        ("keys that begin alike", keys(&|key| format!(r#""{}{key:x}":1"#, alike(40)))),
        ("keys like names", keys(&|key| format!(r#""max_tok{key:03}":1"#))),
        ("keys like long names", keys(&|key| format!(r#""max_completion_tok{key:03}":1"#))),
        ("keys in another case", keys(&|key| format!(r#""TYP{key:03}":1"#))),
        ("keys beyond ASCII", keys(&|key| format!(r#""é{key:x}":1"#))),
        ("longer keys beyond ASCII", keys(&|key| format!(r#""éèéèé{key:x}":1"#))),
        ("keys that fold", keys(&|key| format!("\"{key:x}\u{17f}\":1"))),
        (
            "keys of letters that fold",
            keys(&|key| format!("\"\u{17f}\u{212a}{key:x}\u{17f}\u{212a}\":1")),
        ),
        ("keys that fold like names", keys(&|key| format!("\"ma{key:03}to\u{212a}en\u{17f}\":1"))),
        (
            "long keys that fold like names",
            keys(&|key| format!("\"max_completion{key:03}o\u{212a}en\u{17f}\":1")),
        ),
        ("long keys that fold", keys(&|key| format!("\"an_identifier{key:x}\u{17f}\u{17f}\":1"))),
        ("escaped keys", keys(&|key| format!(r#""\u0061{key:x}":1"#))),
        ("keys with an escape", keys(&|key| format!(r#""{key:x}\n":1"#))),
        ("long escaped keys", keys(&|key| format!(r#""a_long_identifier\n{key:x}":1"#))),
        ("escaped keys beyond ASCII", keys(&|key| format!(r#""\ud83d\ude00{key:x}":1"#))),
        ("keys with space around", keys(&|key| format!(r#" "{key:x}" : 1 "#))),
        ("empty keys", r#"{"":1}"#.into()),
        ("nine keys each", object(9, |key| format!(r#""{key:x}":1"#))),
        ("sixteen keys each", object(16, |key| format!(r#""{key:x}":1"#))),
        ("eight long keys each", object(8, |key| format!(r#""a_long_identifier_{key:x}":1"#))),
        ("many objects", r#"{"a":1}"#.into()),
        ("objects of two", r#"{"a":1,"b":2}"#.into()),
        ("objects of a text", r#"{"a":"b"}"#.into()),
        ("objects of an empty list", r#"{"a":[]}"#.into()),
        ("objects in lists", r#"[{"a":1}]"#.into()),
        ("empty objects", "{}".into()),
        ("depth", open_close(r#"{"a":"#, "}", 50)),
        ("depth of long keys", open_close(r#"{"properties":"#, "}", 50)),
        ("depth with space", open_close("{\r\n  \"a\": ", "\r\n}", 50)),
        ("deep lists", open_close("[", "]", 50)),
        ("deep lists of two", open_close("[1,", "]", 50)),
        ("deep lists of empty lists", open_close("[[],", "]", 50)),
        ("objects and lists", open_close(r#"[{"a":"#, "}]", 25)),
        ("empty lists", "[]".into()),
        ("lists of empty lists", "[[],[]]".into()),
        ("objects of an empty object", r#"{"a":{}}"#.into()),
        ("objects of a word", r#"{"a":null}"#.into()),
        ("lists of objects of lists", r#"[{"a":[{"b":[1]}]}]"#.into()),
        ("words of three kinds", "true,null,false".into()),
        ("numbers of all parts", "-1.5e3".into()),
        ("space between tokens", "[ 1 , 2 ]".into()),
        ("mixed numbers", mix(&["1", "23", "456", "7890", "12345", "678901", "2345678"])),
        ("mixed words", mix(&["true", "false", "null"])),
        ("mixed fractions", mix(&["1", "-2", "0.5", "-12.75", "1e3", "-1.5e-3", "6.02e23"])),
        ("mixed lists", mix(&["[]", "[1]", "[[]]", "[[1],[2]]", "[[],[]]"])),
        ("mixed strings", mix(&[r#""""#, r#""a""#, r#""bc""#, r#""\n""#, r#""defgh""#])),
        ("mixed elements", mix(&["1", "-2.5", r#""a""#, "true", "null", "[]", "{}", "[1]"])),
        ("lists of one", "[1]".into()),
        ("lists of two", "[1,2]".into()),
        ("lists of three", "[1,2,3]".into()),
        ("lists of four", "[1,2,3,4]".into()),
        ("lists of five", "[1,2,3,4,5]".into()),
        ("lists of eight", "[1,2,3,4,5,6,7,8]".into()),
        ("lists of empty strings", r#"["","","",""]"#.into()),
        ("longer exponents", "1.2345678e10".into()),
        ("short strings", r#""a""#.into()),
        ("empty strings", r#""""#.into()),
        ("strings of ten bytes", r#""abcdefghij""#.into()),
        ("strings of an escape", r#""\n""#.into()),
        ("numbers", "1".into()),
        ("negative numbers", "-1".into()),
        ("fractions", "0.5".into()),
        ("exponents", "1e308".into()),
        ("numbers of 12 digits", "123456789012".into()),
        ("numbers of 16 digits", "9007199254740992".into()),
        ("numbers of 128 bytes", "9".repeat(128)),
        ("long numbers", format!("-{}.5e-7", "9".repeat(100))),
        ("words", "null".into()),
        ("true", "true".into()),
        ("spaces", "1 \t\r\n".into()),
        ("indents", format!("1\r\n{}", " ".repeat(30))),
        ("line breaks", format!("1{}", "\r\n".repeat(100))),
        ("escapes", text(r"\n")),
        ("escapes between letters", text(r"a\n")),
        ("escapes of quotes", text(r#"\""#)),
        ("escaped units", text(r"\ud83d\ude00")),
        ("escaped letters", text(r"\u00e9")),
        ("escaped letters between others", text(r"a\u00e9")),
        ("text beyond ASCII", text("a\u{e9}")),
        ("Chinese", text("\u{4f60}\u{597d}")),
        ("parts of a message", r#"{"type":"text","text":"\n"}"#.into()),
        ("parts of no type", r#"{"text":"a"}"#.into()),
        ("unknown parts", r#"{"type":"texts"}"#.into()),
        ("images", r#"{"type":"image_url","image_url":{"url":"data:,"}}"#.into()),
        ("references", r#"{"type":"image_url","image_url":{"url":"x:"}}"#.into()),
        ("images without a type", r#"{"image_url":""}"#.into()),
        (
            "an image",
            format!(
                r#"{{"image_url":{{"url":"data:image/png;base64,{}"}}}}"#,
                "iVBORw0K".repeat(5000)
            ),
        ),
        ("tools in content", r#"{"type":"function","function":{"name":"f"}}"#.into()),
    ]
}

const CALL: &str = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}"#;
const RESULT: &str = r#"{"role":"tool","tool_call_id":"call_1","content":"{\"b\": [1, 2]}"}"#;

/// Results of tools that are the content of each other.
fn nested_results() -> String {
    let open = r#"{"type":"tool_result","content":["#;
    format!(r#"{{"role":"user","content":[{}{}]}}"#, open.repeat(20), "]}".repeat(20))
}

/// A schema of parameters as dense as those of agents' tools, of about so many bytes.
fn schema(bytes: usize) -> String {
    let property = |key: usize| {
        format!(
            r#""p{key}":{{"type":"object","properties":{{"a":{{"type":"string","enum":["b","c"]}},"d":{{"type":["integer","null"],"minimum":0}}}},"required":["a"],"additionalProperties":false}}"#
        )
    };
    let properties = (bytes / property(0).len()).clamp(1, 250);
    format!(r#"{{"type":"object","properties":{}}}"#, object(properties, property))
}

/// An object with so many members.
fn object(members: usize, member: impl Fn(usize) -> String) -> String {
    let members: Vec<String> = (0..members).map(member).collect();
    format!("{{{}}}", members.join(","))
}

/// A value again and again, with commas between.
fn list(bytes: usize, value: &str) -> String {
    let times = (bytes / (value.len() + 1)).max(1);
    let mut text = String::with_capacity(times * (value.len() + 1));
    text.push_str(value);
    for _ in 1..times {
        text.push(',');
        text.push_str(value);
    }
    text
}

/// A chat with a message whose content has this value again and again.
fn content(bytes: usize, value: &str) -> String {
    let values = list(bytes, value);
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{values}]}}]}}"#)
}

/// A document with a member that is a list of this value again and again.
fn in_member(bytes: usize, member: &str, value: &str) -> String {
    format!(r#"{{"model":"m","{member}":[{}]}}"#, list(bytes, value))
}

/// Many of these values in an order without a pattern, which a processor cannot predict.
fn mix(values: &[&str]) -> String {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let at = (state >> 16) as usize % values.len();
        values.get(at).copied().unwrap_or_default()
    };
    let values: Vec<&str> = (0..4000).map(|_| next()).collect();
    values.join(",")
}

/// The headers of a field.
fn field(name: &str) -> String {
    format!("Content-Disposition: form-data; name=\"{name}\"")
}

/// A form with this many parts of these headers and this value.
fn form(parts: usize, head: &str, value: &str) -> String {
    let mut body = String::new();
    for _ in 0..parts {
        let _infallible = write!(body, "--{BOUNDARY}\r\n{head}\r\n\r\n{value}\r\n");
    }
    format!("{body}--{BOUNDARY}--\r\n")
}
