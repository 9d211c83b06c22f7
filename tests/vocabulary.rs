//! The language of comments, messages and pages, tested against a list of words.
//!
//! The words below come from an earlier private vocabulary. They personify data and programs, or name no
//! subject. Doc comments must consist of at least three words.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Words and phrases that are not used, each with what to write instead.
const BANNED: [(&str, &str); 17] = [
    ("stands", "is, is listed, is stored, means"),
    ("somebody", "a client, a user, an operator"),
    ("nobody", "no client, no user, none"),
    ("everybody", "all clients, all users"),
    ("anybody", "any client, any user"),
    ("whoever", "a client that, a user who"),
    ("anew", "again"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("told", "informed, configured, distinguished"),
    ("says so", "states it, reports it"),
    ("say so", "state it, report it"),
    ("how it does", "its state"),
    ("how a connection does", "the state of a connection"),
    ("that may.", "the permitted item, named"),
    ("to whoever", "to a client that"),
    ("by whoever", "by a client that"),
];

/// The least number of words of a doc comment.
const DOC_WORDS: usize = 3;

/// What is scanned: sources, and the pages for users.
const SCANNED: [&str; 5] = ["crates", "src", "tests", "benches", "docs"];

/// This file lists the words.
const SELF: &str = "tests/vocabulary.rs";

/// A piece of text with the number of its first line.
struct Piece {
    line: usize,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "fixtures") {
                files(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            found.push(path);
        }
    }
}

/// The number of hashes of a raw string, and the text after its opening quote.
fn raw_string(rest: &str) -> Option<(usize, &str)> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let body = after.trim_start_matches('#');
    Some((after.len() - body.len(), body.strip_prefix('"')?))
}

/// Comments and string literals of a Rust source.
fn pieces_of_rust(source: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let bytes = source.as_bytes();
    let line_at = |at: usize| 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        let previous = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
        let start = at;
        if rest.starts_with("//") {
            let length = rest.find('\n').unwrap_or(rest.len());
            pieces.push(Piece { line: line_at(start), text: rest[..length].to_owned() });
            at += length;
        } else if rest.starts_with('"') {
            let mut end = 1;
            while end < rest.len() && rest.as_bytes()[end] != b'"' {
                end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
            }
            let text = rest.get(1..end).unwrap_or_default().to_owned();
            pieces.push(Piece { line: line_at(start), text });
            at += end + 1;
        } else if !(previous.is_ascii_alphanumeric() || previous == b'_')
            && let Some((hashes, body)) = raw_string(rest)
        {
            let close = format!("\"{}", "#".repeat(hashes));
            let length = body.find(&close).unwrap_or(body.len());
            pieces.push(Piece { line: line_at(start), text: body[..length].to_owned() });
            at += rest.len() - body.len() + length + close.len();
        } else if rest.starts_with("'\\") {
            // An escaped character: `'\''`, `'\"'`, `'\u{7f}'`.
            at += 3 + rest[3..].find('\'').unwrap_or(0) + 1;
        } else if rest.starts_with("'\"'") {
            at += 3;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    pieces
}

/// Paragraphs of a page, without code blocks.
fn pieces_of_page(page: &str) -> Vec<Piece> {
    let mut code = false;
    let mut pieces = Vec::new();
    for (number, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            pieces.push(Piece { line: number + 1, text: line.to_owned() });
        }
    }
    pieces
}

/// The text without its code spans, in lower case.
fn prose(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("`").to_lowercase()
}

fn contains_phrase(text: &str, phrase: &str) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.match_indices(phrase).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|before| text.as_bytes().get(before));
        let after = text.as_bytes().get(at + phrase.len());
        !is_word(before) && (phrase.ends_with('.') || !is_word(after))
    })
}

/// Doc comments of a Rust source, one piece for each block.
fn doc_comments(source: &str) -> Vec<Piece> {
    let mut blocks: Vec<Piece> = Vec::new();
    let mut open: Option<&str> = None;
    for (number, line) in source.lines().enumerate() {
        let line = line.trim_start();
        let mark = ["///", "//!"].into_iter().find(|mark| line.starts_with(mark));
        if let Some(mark) = mark {
            let text = line.strip_prefix(mark).unwrap_or_default();
            match blocks.last_mut() {
                Some(block) if open == Some(mark) => {
                    block.text.push(' ');
                    block.text.push_str(text);
                }
                _ => blocks.push(Piece { line: number + 1, text: text.to_owned() }),
            }
        }
        open = mark;
    }
    blocks
}

fn violations(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let is_rust = name.ends_with(".rs");
    let pieces = if is_rust { pieces_of_rust(text) } else { pieces_of_page(text) };
    for Piece { line, text } in pieces {
        let prose = prose(&text);
        for (phrase, instead) in BANNED {
            if contains_phrase(&prose, phrase) {
                found.push(format!("{name}:{line}: `{phrase}`; write: {instead}"));
            }
        }
    }
    if is_rust {
        for Piece { line, text } in doc_comments(text) {
            if text.split_whitespace().count() < DOC_WORDS {
                found
                    .push(format!("{name}:{line}: a doc comment of fewer than three words:{text}"));
            }
        }
    }
    found
}

#[test]
fn comments_messages_and_pages_use_plain_english() {
    let mut found = Vec::new();
    for directory in SCANNED {
        files(&root().join(directory), &mut found);
    }
    let mut wrong = Vec::new();
    for path in found {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        if name != SELF {
            wrong.extend(violations(&name, &fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(wrong.is_empty(), "{} places:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn violations_are_found_in_comments_and_strings_only() {
    let source = r##"
/// Two words.
fn told(stands: &str) -> char {
    // The data stands here.
    let text = "nobody reads \"this\"";
    let quote = '"'; // `whoever` in code is allowed
    let raw = r#"mend "it""#;
    '\''
}
"##;
    let lines: Vec<String> = violations("x.rs", source)
        .iter()
        .map(|found| found.split(": ").next().unwrap().to_owned())
        .collect();
    assert_eq!(lines, ["x.rs:4", "x.rs:5", "x.rs:7", "x.rs:2"]);
    let page = "Nobody reads it.\n\n```sh\ntold\n```\n";
    assert_eq!(violations("x.md", page).len(), 1);
    assert!(violations("x.md", "An understanding of `told`.").is_empty());
}
