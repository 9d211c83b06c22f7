//! Parses the text of an expression with the `cel` crate, after limiting the size of the text.
//!
//! The crate has two parsers. The documented one overflows the stack at some dozens of parentheses,
//! so it needs a thread with a large stack, which the core does not start. The other one counts its
//! recursion; its remaining work grows with the number of tokens, which is limited here. A test
//! below runs it on a small stack.

use cel::parser::{
    Expression, PrattParser,
    pratt_parser::{Lexer, TokenKind},
};

use super::error::ConditionError;

/// The maximum length of an expression in bytes.
pub(super) const LENGTH: usize = 2048;
/// The maximum number of tokens.
const TOKENS: usize = 256;
/// The maximum depth of brackets.
const DEPTH: u16 = 16;

/// Parses an expression.
pub(super) fn parse(text: &str) -> Result<Expression, ConditionError> {
    if text.len() > LENGTH {
        return Err(ConditionError::TooLarge(format!("is longer than {LENGTH} bytes")));
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
                return Err(ConditionError::Syntax(Some(message.to_string())));
            }
            TokenKind::TokWhitespace | TokenKind::TokComment => {}
            _ => tokens += 1,
        }
        if tokens > TOKENS {
            return Err(ConditionError::TooLarge(format!(
                "has more than {TOKENS} words and signs; make several conditions of it"
            )));
        }
    }
    PrattParser::new().max_recursion_depth(DEPTH).parse(text).map_err(|errors| {
        ConditionError::Syntax(errors.errors.first().map(|error| match error.pos.1 {
            column if column > 0 => format!("column {column}: {}", error.msg),
            _ => error.msg.to_string(),
        }))
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
        assert!(parse(&nested(30)).unwrap_err().to_string().contains("recursion"));
        let chain = |times: usize| vec!["a"; times].join("+");
        assert!(parse(&chain(128)).is_ok());
        assert!(parse(&chain(129)).unwrap_err().to_string().contains("more than 256"));
        assert!(
            parse(&format!("'{}'", "x".repeat(LENGTH))).unwrap_err().to_string().contains("longer")
        );
    }

    #[test]
    fn an_error_says_where() {
        assert!(parse("a ==").unwrap_err().to_string().contains("column 5"));
        assert!(parse("'a").unwrap_err().to_string().contains("unterminated"));
        assert!(parse("").is_err());
        assert!(parse("a b").is_err());
    }
}
