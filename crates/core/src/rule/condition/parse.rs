//! Text becomes an expression: the parser of the `cel` crate, with what it may be asked to do bounded before it is asked.
//!
//! The crate has two parsers. The documented one overflows the stack within some dozens of parentheses and so needs a thread with
//! a large one, which the core does not start; the other counts its recursion, and the rest of what it does grows with the
//! number of tokens, which is bounded here. `stack` below holds both to a small stack.

use cel::parser::{
    Expression, PrattParser,
    pratt_parser::{Lexer, TokenKind},
};

/// How long an expression may be, in bytes.
pub(super) const LENGTH: usize = 2048;
/// How many tokens it may have.
const TOKENS: usize = 256;
/// How deep brackets may nest.
const DEPTH: u16 = 16;

/// Reads an expression.
pub(super) fn parse(text: &str) -> Result<Expression, String> {
    if text.len() > LENGTH {
        return Err(format!("the expression is longer than {LENGTH} bytes"));
    }
    let mut lexer = Lexer::new(text);
    let mut tokens = 0;
    loop {
        match lexer.lex().kind {
            TokenKind::TokEnd => break,
            TokenKind::TokError => {
                let message = lexer
                    .get_error()
                    .map_or("it holds a character that CEL does not have", |error| &error.message);
                return Err(format!("this is not CEL: {message}"));
            }
            TokenKind::TokWhitespace | TokenKind::TokComment => {}
            _ => tokens += 1,
        }
        if tokens > TOKENS {
            return Err(format!(
                "the expression has more than {TOKENS} words and signs; make several conditions of it"
            ));
        }
    }
    PrattParser::new().max_recursion_depth(DEPTH).parse(text).map_err(|errors| {
        match errors.errors.first() {
            Some(error) if error.pos.1 > 0 => {
                format!("this is not CEL: column {}: {}", error.pos.1, error.msg)
            }
            Some(error) => format!("this is not CEL: {}", error.msg),
            None => "this is not CEL".to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nests, opened again and again: with and without an end.
    fn hostile() -> Vec<String> {
        let mut texts = Vec::new();
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("{1:", "}"),
            ("A{a:", "}"),
            ("f(", ")"),
            ("a[", "]"),
            ("x.all(x,", ")"),
            ("has(a.", ")"),
            ("[a].exists(b,", ")"),
            ("a?b:", ""),
            ("a?", ":b"),
            ("!", ""),
            ("-", ""),
            ("!-", ""),
            ("a.", ""),
            ("a.f().", ""),
            ("a+", ""),
            ("a&&", ""),
            ("a||", ""),
            ("a==", ""),
            ("a in ", ""),
            ("-9", ""),
            ("'''", ""),
            ("`", ""),
            (",", ""),
            ("\u{1f600}", ""),
            ("//", ""),
            ("\\", ""),
        ] {
            for times in [1, 8, 15, 16, 17, 32, 60, LENGTH / open.len()] {
                texts.push(format!("{}a{}", open.repeat(times), close.repeat(times)));
                texts.push(open.repeat(times));
            }
        }
        texts
    }

    #[test]
    fn no_expression_needs_a_large_stack() {
        let read = || hostile().iter().filter(|text| parse(text).is_ok()).count();
        let stack = std::thread::Builder::new().stack_size(512 * 1024).spawn(read).unwrap();
        assert!(stack.join().unwrap() > 50, "some of them are expressions");
    }

    #[test]
    fn length_tokens_and_depth_are_bounded() {
        let nested = |times: usize| format!("{}a{}", "f(".repeat(times), ")".repeat(times));
        assert!(parse(&nested(15)).is_ok());
        assert!(parse(&nested(30)).unwrap_err().contains("recursion"));
        let chain = |times: usize| vec!["a"; times].join("+");
        assert!(parse(&chain(128)).is_ok());
        assert!(parse(&chain(129)).unwrap_err().contains("more than 256"));
        assert!(parse(&format!("'{}'", "x".repeat(LENGTH))).unwrap_err().contains("longer"));
    }

    #[test]
    fn an_error_says_where() {
        assert!(parse("a ==").unwrap_err().contains("column 5"));
        assert!(parse("'a").unwrap_err().contains("unterminated"));
        assert!(parse("").is_err());
        assert!(parse("a b").is_err());
    }
}
