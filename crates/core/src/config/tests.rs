use serde::Deserialize;

use super::*;
use crate::time::Span;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    items: Vec<Item>,
    mode: Option<Mode>,
    port: Option<u16>,
    offset: Option<i8>,
    ratio: Option<f64>,
    on: Option<bool>,
    store: Option<Store>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    wait: Span,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Deny,
    Error,
    Allow,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Store {
    Memory(Item),
    Redis(Item),
}

fn lines(errors: &[ConfigError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn read(text: &str) -> Result<File, Vec<String>> {
    let document = Document::parse(text, &|_| None).map_err(|errors| lines(&errors))?;
    document.read().map_err(|errors| lines(&errors))
}

#[test]
fn a_good_file_reads() {
    let file = read(
        "name: x\nitems: [{wait: 5s}]\nmode: error\nport: 65535\noffset: -128\nratio: 1\non: true\n\
         store: { redis: { wait: 1s } }\n",
    )
    .unwrap();
    assert_eq!((file.name.as_str(), file.items[0].wait), ("x", Span::from_secs(5)));
    assert_eq!((file.mode, file.port, file.offset), (Some(Mode::Error), Some(65535), Some(-128)));
    assert_eq!((file.ratio, file.on), (Some(1.0), Some(true)));
    assert!(
        matches!(file.store, Some(Store::Redis(item) | Store::Memory(item)) if item.wait.secs() == 1)
    );
}

#[test]
fn every_error_is_reported_at_once_with_its_line() {
    let text =
        "nam: x\nitems:\n  - wait: 5\n  - wait: 5s\n    wiat: 1\n  - wait: soon\nmode: dney\n";
    let expected = [
        "line 1: nam: unknown key `nam`; did you mean `name`?",
        "line 3: items[0].wait: expected a duration such as `30s`, found the number `5`",
        "line 5: items[1].wiat: unknown key `wiat`; did you mean `wait`?",
        "line 6: items[2].wait: `soon` is not a duration; write an integer and `ms`, `s`, `m`, `h` or `d`, such as `30s`",
        "line 7: mode: unknown value `dney`, expected `deny`, `error` or `allow`",
    ];
    assert_eq!(read(text).unwrap_err(), expected);
}

#[test]
fn types_are_reported_in_words() {
    for (text, expected) in [
        ("name: [x]", "name: expected text, found a list"),
        ("name: 5", "name: expected text, found the number `5`"),
        ("name: { a: 1 }", "name: expected text, found a map"),
        ("name: x\nport: many", "port: expected a number, found text `many`"),
        ("name: x\nport: 70000", "port: expected a number of at most 65535, found `70000`"),
        ("name: x\nport: -1", "port: expected a number of 0 or more, found `-1`"),
        ("name: x\nport: 1.5", "port: expected a whole number, found the number `1.5`"),
        ("name: x\noffset: 200", "offset: expected a number of -128 to 127, found `200`"),
        ("name: x\noffset: -200", "offset: expected a number of -128 to 127, found `-200`"),
        ("name: x\nratio: half", "ratio: expected a number, found text `half`"),
        ("name: x\non: \"yes\"", "on: expected `true` or `false`, found text `yes`"),
        ("name: x\nitems: a", "items: expected a list, found text `a`"),
        ("name: x\nitems: [a]", "items[0]: expected a map (`key: value`), found text"),
        (
            "name: x\nitems:",
            "items: expected a list, found nothing; write a value, or remove the key",
        ),
        ("name: x\nmode: 1", "mode: expected `deny`, `error` or `allow`, found the number `1`"),
        ("name: x\nmode: { deny: 1 }", "mode.deny: `deny` has no value: write `deny` alone"),
        ("name: x\nstore: redis", "store: `redis` needs a value: write `redis: …`"),
        ("name: x\nstore: {}", "store: expected one key, `memory` or `redis`, found none"),
        (
            "name: x\nstore: { memory: {}, redis: {} }",
            "store: expected one key, `memory` or `redis`, found `memory` and `redis`",
        ),
        (
            "name: x\nstore: { rediss: {} }",
            "store: unknown value `rediss`, expected `memory` or `redis`",
        ),
        ("name: x\nstore: { redis: {} }", "store.redis: missing key `wait`"),
        ("[x]", "expected a map (`key: value`), found a list"),
        ("items: []", "missing key `name`"),
    ] {
        let line = text.lines().count();
        assert_eq!(read(text).unwrap_err(), [format!("line {line}: {expected}")], "{text}");
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its errors matter")]
struct Required {
    name: String,
    wait: Span,
    items: Vec<Item>,
    port: u16,
    map: std::collections::BTreeMap<String, u8>,
}

#[test]
fn every_missing_key_is_reported() {
    let errors = |text: &str| {
        lines(&Document::parse(text, &|_| None).unwrap().read::<Required>().unwrap_err())
    };
    // A key whose type accepts none of the assumed values hides those after it.
    assert_eq!(errors("wait: 1s"), ["name", "items", "port", "map"].map(missing));
    assert_eq!(errors("port: 1"), ["name", "wait"].map(missing));
    let expected = [
        missing("items"),
        "line 1: name: expected text, found the number `5`".to_owned(),
        missing("port"),
        missing("map"),
    ];
    let mut found = errors("{ name: 5, wait: 1s }");
    found.sort_by_key(|line| expected.iter().position(|expected| expected == line));
    assert_eq!(found, expected);
}

fn missing(key: &str) -> String {
    format!("line 1: missing key `{key}`")
}

#[test]
fn a_key_that_is_misspelled_is_not_missing_as_well() {
    assert_eq!(
        read("nmae: x").unwrap_err(),
        ["line 1: nmae: unknown key `nmae`; did you mean `name`?"]
    );
}

#[test]
fn yaml_that_two_parsers_could_read_differently_is_refused() {
    for text in [
        "name: a\nname: b\n",
        "name: a\n---\nname: b\n",
        "a: &x 1\nname: *x\n",
        "name: [\n",
        "name:\titems\n\t- x",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn an_empty_value_is_not_an_absent_key() {
    assert!(read("name: x\nitems:\n").is_err());
    assert!(read("name: x\nmode:\n").is_err());
    assert!(read("name: x\n").is_ok());
}

#[test]
fn the_number_of_errors_is_bounded() {
    let text = format!("name: x\nitems: [{}]", "{ wait: 5 }, ".repeat(100));
    assert_eq!(read(&text).unwrap_err().len(), 64);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    ports: Vec<u16>,
}

#[test]
fn parts_of_a_document_know_the_keys_of_each_other() {
    let keys = [keys_of::<Head>(), keys_of::<Tail>()].concat();
    assert_eq!(keys, ["name", "ports"]);
    let document = Document::parse("ports: [1, x]\nname: 5\nother: 1", &|_| None).unwrap();
    let (head, tail) = (document.read_part::<Head>(&keys), document.read_part::<Tail>(&keys));
    assert!(head.value.is_none_or(|head| head.name.is_empty()));
    assert_eq!(tail.value.unwrap().ports, [1]);
    let mut errors = head.errors;
    errors.extend(tail.errors);
    let expected = [
        "line 1: ports[1]: expected a number, found text `x`",
        "line 2: name: expected text, found the number `5`",
        "line 3: other: unknown key `other`; known here: name, ports",
    ];
    assert_eq!(lines(&document.locate(errors)), expected);
}

#[test]
fn an_empty_document_is_known_as_one() {
    for (text, empty) in [("", true), ("# nothing\n", true), ("{}", true), ("a: 1", false)] {
        assert_eq!(Document::parse(text, &|_| None).unwrap().is_empty(), empty, "{text}");
    }
}
