//! Compiles an expression to a [`Term`].
//!
//! Every name is looked up and every type is checked when the file is read. Only what a request
//! determines is left for the evaluation: whether a claim exists, and its type.

use std::collections::BTreeSet;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, SelectExpr, operators as op},
};

use super::{
    clock::{self, ClockError, DatePart},
    error::ConditionError,
    term::{Arithmetic, Relation, Search, Term, Variable},
};
use crate::{
    network::Network,
    rule::automaton::{Automaton, AutomatonError, Pattern, too_large},
    time::zone::zone as parse_zone,
};

/// The maximum depth of terms.
const DEPTH: usize = 32;
/// The maximum depth of nested `all` and `exists`.
const LOOPS: usize = 2;

/// The type of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    Bool,
    Int,
    Text,
    Time,
    List(Box<Type>),
    /// The value of a claim, whose type depends on the token.
    Claim,
}

impl Type {
    fn description(&self) -> String {
        match self {
            Self::Bool => "a truth value".into(),
            Self::Int => "an integer".into(),
            Self::Text => "text".into(),
            Self::Time => "a timestamp".into(),
            Self::List(kind) if **kind == Self::Text => "a list of texts".into(),
            Self::List(kind) if **kind == Self::Int => "a list of integers".into(),
            Self::List(_) => "a list".into(),
            Self::Claim => "a claim".into(),
        }
    }

    /// Whether a value of this type is allowed where one of the other is expected.
    fn fits(&self, other: &Self) -> bool {
        *self == Self::Claim || *other == Self::Claim || self == other
    }
}

type TypedTerm = Result<(Term, Type), ConditionError>;

/// The properties of a route that determine which variables its expressions may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route<'a> {
    /// Whether the route requires no credential.
    pub(crate) public: bool,
    /// Whether the route has a model.
    pub(crate) model: bool,
    /// The names of the captures of each path.
    pub(crate) captures: &'a [Vec<String>],
}

/// Compiles an expression. Adds the names of the claims that it reads to `claims`.
pub(super) fn compile(
    expression: &IdedExpr,
    route: Route<'_>,
    claims: &mut BTreeSet<String>,
) -> Result<Term, ConditionError> {
    let mut compiler = Compiler { route, claims, locals: Vec::new(), depth: 0 };
    compiler.expect(expression, &Type::Bool, "a condition")
}

/// Compiles a pattern for `matches`. Boxed here: its size would be part of every frame of the
/// recursion over an expression.
fn pattern(text: &str) -> Result<Box<Automaton>, ConditionError> {
    let built = Pattern::parse(text).and_then(|pattern| Automaton::build(&[pattern]));
    built.map(Box::new).map_err(|error| match error {
        AutomatonError::TooLarge => too_large(text).into(),
        _ => error.to_string().into(),
    })
}

struct Compiler<'a, 'c> {
    route: Route<'a>,
    claims: &'c mut BTreeSet<String>,
    /// The variables of the enclosing loops, innermost last.
    locals: Vec<(String, Type)>,
    depth: usize,
}

impl Compiler<'_, '_> {
    /// Compiles an expression of the type `wanted`, which `what` requires.
    fn expect(
        &mut self,
        expression: &IdedExpr,
        wanted: &Type,
        what: &str,
    ) -> Result<Term, ConditionError> {
        let (term, kind) = self.typed(expression)?;
        if kind.fits(wanted) {
            Ok(term)
        } else {
            Err(format!(
                "{what} needs {}, and this is {}",
                wanted.description(),
                kind.description()
            )
            .into())
        }
    }

    fn expect_boxed(
        &mut self,
        expression: &IdedExpr,
        wanted: &Type,
        what: &str,
    ) -> Result<Box<Term>, ConditionError> {
        self.expect(expression, wanted, what).map(Box::new)
    }

    fn typed(&mut self, expression: &IdedExpr) -> TypedTerm {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!(
                "the expression nests more than {DEPTH} levels; make several conditions of it"
            )
            .into());
        }
        let typed = match &expression.expr {
            Expr::Literal(literal) => self::literal(literal),
            Expr::Ident(_) | Expr::Select(_) => self.select(&expression.expr),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                let mut kind = None;
                for element in &list.elements {
                    let (term, found) = self.typed(element)?;
                    if !matches!(found, Type::Text | Type::Int)
                        || kind.as_ref().is_some_and(|kind| *kind != found)
                    {
                        return Err("a list holds either texts or integers".into());
                    }
                    kind = Some(found);
                    items.push(term);
                }
                let kind = kind.ok_or("a list holds at least one element")?;
                Ok((Term::List(items), Type::List(Box::new(kind))))
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.for_each(comprehension),
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                Err("`{}` is not supported in a condition".into())
            }
        };
        self.depth -= 1;
        typed
    }

    /// Returns the path of names that an expression consists of, such as `principal.claims["a"].b`.
    fn names<'e>(&self, expression: &'e Expr) -> Option<Vec<&'e str>> {
        let mut names = Vec::new();
        let mut at = expression;
        loop {
            match at {
                Expr::Ident(name) if self.locals.iter().any(|(local, _)| local == name) => {
                    return None;
                }
                Expr::Ident(name) => {
                    names.push(name.as_str());
                    names.reverse();
                    return Some(names);
                }
                Expr::Select(select) if !select.test => {
                    names.push(select.field.as_str());
                    at = &select.operand.expr;
                }
                Expr::Call(call) if call.func_name == op::INDEX => {
                    let [operand, index] = call.args.as_slice() else { return None };
                    let Expr::Literal(LiteralValue::String(name)) = &index.expr else {
                        return None;
                    };
                    names.push(name.inner());
                    at = &operand.expr;
                }
                _ => return None,
            }
        }
    }

    fn select(&mut self, expression: &Expr) -> TypedTerm {
        if let Expr::Select(select) = expression
            && select.test
        {
            return self.has(select);
        }
        if let Expr::Ident(name) = expression
            && let Some(at) = self.locals.iter().position(|(local, _)| local == name)
        {
            let kind = self.locals.get(at).map_or(Type::Claim, |(_, kind)| kind.clone());
            return Ok((Term::Local(at), kind));
        }
        match (self.names(expression), expression) {
            (Some(names), _) => self.variable(&names),
            (None, Expr::Select(select)) => {
                let (object, kind) = self.typed(&select.operand)?;
                member(object, &kind, &select.field)
            }
            (None, _) => Err("this is not supported in a condition".into()),
        }
    }

    /// Compiles the variable that a path of names denotes.
    fn variable(&mut self, names: &[&str]) -> TypedTerm {
        const REQUEST: &str = "method, host, path, segments, address, headers";
        const PRINCIPAL: &str = "issuer, subject, tenant, client, roles, scopes, claims";
        let texts = || Type::List(Box::new(Type::Text));
        let (variable, kind, rest) = match names {
            ["principal", ..] if self.route.public => {
                return Err("the route is public: there is no `principal`".into());
            }
            ["now", rest @ ..] => (Variable::Now, Type::Time, rest),
            ["model", ..] if !self.route.model => return Err("the route has no `model`".into()),
            ["model", rest @ ..] => (Variable::Model, Type::Text, rest),
            ["request", "method", rest @ ..] => (Variable::Method, Type::Text, rest),
            ["request", "host", rest @ ..] => (Variable::Host, Type::Text, rest),
            ["request", "path", rest @ ..] => (Variable::Path, Type::Text, rest),
            ["request", "segments", rest @ ..] => (Variable::Segments, texts(), rest),
            ["request", "address", rest @ ..] => (Variable::Address, Type::Text, rest),
            ["request", "headers", name, rest @ ..] => {
                (Variable::Header(header(name)?), Type::Text, rest)
            }
            ["request", "headers"] => {
                return Err("name one header: `request.headers[\"x-team\"]`".into());
            }
            ["request", name, ..] => {
                return Err(format!("there is no `request.{name}`; a request has {REQUEST}").into());
            }
            ["principal", "issuer", rest @ ..] => (Variable::Issuer, Type::Text, rest),
            ["principal", "subject", rest @ ..] => (Variable::Subject, Type::Text, rest),
            ["principal", "tenant", rest @ ..] => (Variable::Tenant, Type::Text, rest),
            ["principal", "client", rest @ ..] => (Variable::Client, Type::Text, rest),
            ["principal", "roles", rest @ ..] => (Variable::Roles, texts(), rest),
            ["principal", "scopes", rest @ ..] => (Variable::Scopes, texts(), rest),
            ["principal", "claims", name, rest @ ..] => {
                self.claims.insert((*name).to_owned());
                (Variable::Claim((*name).to_owned()), Type::Claim, rest)
            }
            ["principal", "claims"] => {
                return Err("name one claim: `principal.claims.department`".into());
            }
            ["principal", name, ..] => {
                return Err(
                    format!("there is no `principal.{name}`; a principal has {PRINCIPAL}").into()
                );
            }
            ["captures", name, rest @ ..]
                if self
                    .route
                    .captures
                    .iter()
                    .all(|names| names.iter().any(|known| known == name)) =>
            {
                (Variable::Capture((*name).to_owned()), Type::Text, rest)
            }
            ["captures", name, ..] => {
                return Err(
                    format!("not every path of this route has a capture `{{{name}}}`").into()
                );
            }
            ["request" | "principal" | "captures"] => {
                return Err(
                    format!("`{}` has no value of its own; name a member", names.concat()).into()
                );
            }
            _ => {
                let name = names.first().copied().unwrap_or_default();
                return Err(format!(
                    "`{name}` is not known; there are request, principal, model, captures and now"
                )
                .into());
            }
        };
        match rest {
            [] => Ok((Term::Variable(variable), kind)),
            rest if kind == Type::Claim => {
                let inside =
                    |object, name: &&str| Term::Member(Box::new(object), (*name).to_owned());
                Ok((rest.iter().fold(Term::Variable(variable), inside), kind))
            }
            [name, ..] => Err(format!("{} has no member `{name}`", kind.description()).into()),
        }
    }

    fn has(&mut self, select: &SelectExpr) -> TypedTerm {
        let names = self.names(&select.operand.expr).map(|mut names| {
            names.push(&select.field);
            names
        });
        let (term, _) = match names {
            Some(names) => self.variable(&names)?,
            None => {
                let (object, kind) = self.typed(&select.operand)?;
                member(object, &kind, &select.field)?
            }
        };
        let may_be_absent = matches!(
            &term,
            Term::Variable(
                Variable::Subject
                    | Variable::Tenant
                    | Variable::Client
                    | Variable::Address
                    | Variable::Header(_)
                    | Variable::Claim(_)
            ) | Term::Member(..)
        );
        if may_be_absent {
            Ok((Term::Has(Box::new(term)), Type::Bool))
        } else {
            Err(format!("`{}` is always there; remove `has`", select.field).into())
        }
    }

    fn call(&mut self, call: &CallExpr) -> TypedTerm {
        let name = call.func_name.as_str();
        // `f(a, b)` and `a.f(b)` are equal; the first has no target.
        let args: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let method = call.target.is_some();
        match (name, args.as_slice()) {
            (op::LOGICAL_AND, [left, right]) => Ok((
                Term::And(
                    self.expect_boxed(left, &Type::Bool, "`&&`")?,
                    self.expect_boxed(right, &Type::Bool, "`&&`")?,
                ),
                Type::Bool,
            )),
            (op::LOGICAL_OR, [left, right]) => Ok((
                Term::Or(
                    self.expect_boxed(left, &Type::Bool, "`||`")?,
                    self.expect_boxed(right, &Type::Bool, "`||`")?,
                ),
                Type::Bool,
            )),
            (op::LOGICAL_NOT, [inner]) => {
                Ok((Term::Not(self.expect_boxed(inner, &Type::Bool, "`!`")?), Type::Bool))
            }
            (op::NEGATE, [inner]) => {
                Ok((Term::Negative(self.expect_boxed(inner, &Type::Int, "`-`")?), Type::Int))
            }
            (op::CONDITIONAL, [test, then, otherwise]) => {
                let test = self.expect(test, &Type::Bool, "`?`")?;
                let (then, kind) = self.typed(then)?;
                let (otherwise, other) = self.typed(otherwise)?;
                if !kind.fits(&other) {
                    return Err(format!(
                        "`?` needs the same on both sides, and has {} and {}",
                        kind.description(),
                        other.description()
                    )
                    .into());
                }
                let kind = if kind == Type::Claim { other } else { kind };
                Ok((Term::If(Box::new([test, then, otherwise])), kind))
            }
            (
                op::EQUALS
                | op::NOT_EQUALS
                | op::LESS
                | op::LESS_EQUALS
                | op::GREATER
                | op::GREATER_EQUALS,
                [left, right],
            ) => self.compare(name, left, right),
            (op::IN, [item, list]) => self.is_in(item, list),
            (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [left, right]) => {
                self.arithmetic(name, left, right)
            }
            (op::INDEX, [list, index]) => self.index(list, index),
            ("startsWith" | "endsWith" | "contains", [text, sought]) if method => {
                let search = match name {
                    "startsWith" => Search::StartsWith,
                    "endsWith" => Search::EndsWith,
                    _ => Search::Contains,
                };
                let text = self.expect_boxed(text, &Type::Text, &format!("`{name}`"))?;
                Ok((
                    Term::Search(
                        search,
                        text,
                        self.expect_boxed(sought, &Type::Text, &format!("`{name}`"))?,
                    ),
                    Type::Bool,
                ))
            }
            ("matches", [text, sought]) => {
                let pattern = pattern(
                    string_literal(sought).ok_or("the pattern of `matches` must be written out")?,
                )?;
                let text = self.expect_boxed(text, &Type::Text, "`matches`")?;
                Ok((Term::Matches(text, pattern), Type::Bool))
            }
            ("size", [inner]) => match self.typed(inner)? {
                (term, Type::Text | Type::List(_) | Type::Claim) => {
                    Ok((Term::Size(Box::new(term)), Type::Int))
                }
                (_, kind) => {
                    Err(format!("`size` needs text or a list, and this is {}", kind.description())
                        .into())
                }
            },
            ("int", [moment]) if !method => {
                Ok((Term::Seconds(self.expect_boxed(moment, &Type::Time, "`int`")?), Type::Int))
            }
            ("timestamp", [text]) if !method => {
                let text =
                    string_literal(text).ok_or("the moment of `timestamp` must be written out")?;
                Ok((Term::Time(clock::timestamp(text)?), Type::Time))
            }
            ("containsIP", [network, address]) if method => {
                let written = match &network.expr {
                    Expr::Call(call) if call.func_name == "cidr" && call.target.is_none() => {
                        call.args.first().and_then(string_literal)
                    }
                    _ => None,
                };
                let network = Network::parse(
                    written.ok_or("write `cidr(\"10.0.0.0/8\").containsIP(request.address)`")?,
                )?;
                Ok((
                    Term::InNetwork(
                        network,
                        self.expect_boxed(address, &Type::Text, "`containsIP`")?,
                    ),
                    Type::Bool,
                ))
            }
            (name, [moment, zone @ ..])
                if method && zone.len() < 2 && DatePart::of(name).is_some() =>
            {
                let zone = match zone {
                    [zone] => {
                        parse_zone(string_literal(zone).ok_or("the time zone must be written out")?)
                            .map_err(ClockError::from)?
                    }
                    _ => jiff::tz::TimeZone::UTC,
                };
                let part = DatePart::of(name).ok_or("this is no part of a timestamp")?;
                Ok((
                    Term::DatePart(
                        part,
                        self.expect_boxed(moment, &Type::Time, &format!("`{name}`"))?,
                        zone,
                    ),
                    Type::Int,
                ))
            }
            _ => Err(unknown(name).into()),
        }
    }

    fn compare(&mut self, name: &str, left: &IdedExpr, right: &IdedExpr) -> TypedTerm {
        let relation = match name {
            op::EQUALS => Relation::Equal,
            op::NOT_EQUALS => Relation::NotEqual,
            op::LESS => Relation::Less,
            op::LESS_EQUALS => Relation::LessOrEqual,
            op::GREATER => Relation::Greater,
            _ => Relation::GreaterOrEqual,
        };
        let ((left, kind), (right, other)) = (self.typed(left)?, self.typed(right)?);
        let sign = name.trim_matches('_');
        for kind in [&kind, &other] {
            let ordered = matches!(kind, Type::Int | Type::Time | Type::Claim);
            let equal = matches!(relation, Relation::Equal | Relation::NotEqual)
                && matches!(kind, Type::Bool | Type::Text);
            if !ordered && !equal {
                return Err(format!("`{sign}` does not compare {}", kind.description()).into());
            }
        }
        if !kind.fits(&other) {
            return Err(format!(
                "`{sign}` compares {} with {}, which are never equal",
                kind.description(),
                other.description()
            )
            .into());
        }
        Ok((Term::Compare(relation, Box::new(left), Box::new(right)), Type::Bool))
    }

    fn is_in(&mut self, item: &IdedExpr, list: &IdedExpr) -> TypedTerm {
        // `"x-team" in request.headers` tests for the header.
        if self
            .names(&list.expr)
            .is_some_and(|names| matches!(names.as_slice(), ["request", "headers"]))
        {
            let name = string_literal(item).ok_or("the name of a header must be written out")?;
            return Ok((
                Term::Has(Box::new(Term::Variable(Variable::Header(header(name)?)))),
                Type::Bool,
            ));
        }
        if self
            .names(&list.expr)
            .is_some_and(|names| matches!(names.as_slice(), ["principal", "claims"]))
        {
            let (claim, _) = self.variable(&[
                "principal",
                "claims",
                string_literal(item).ok_or("the name of a claim must be written out")?,
            ])?;
            return Ok((Term::Has(Box::new(claim)), Type::Bool));
        }
        let ((item, kind), (list, listed)) = (self.typed(item)?, self.typed(list)?);
        let fits = match &listed {
            Type::Claim => matches!(kind, Type::Text | Type::Int | Type::Claim),
            Type::List(element) => {
                kind.fits(element) && matches!(kind, Type::Text | Type::Int | Type::Claim)
            }
            _ => false,
        };
        if fits {
            Ok((Term::In(Box::new(item), Box::new(list)), Type::Bool))
        } else {
            Err(format!("`in` looks for {} in {}", kind.description(), listed.description()).into())
        }
    }

    fn arithmetic(&mut self, name: &str, left: &IdedExpr, right: &IdedExpr) -> TypedTerm {
        let operator = match name {
            op::ADD => Arithmetic::Add,
            op::SUBSTRACT => Arithmetic::Subtract,
            op::MULTIPLY => Arithmetic::Multiply,
            op::DIVIDE => Arithmetic::Divide,
            _ => Arithmetic::Remainder,
        };
        let ((left, kind), (right, other)) = (self.typed(left)?, self.typed(right)?);
        let result = match (&kind, &other) {
            (Type::Text, Type::Text | Type::Claim) | (Type::Claim, Type::Text)
                if operator == Arithmetic::Add =>
            {
                Type::Text
            }
            (Type::Int, Type::Int | Type::Claim) | (Type::Claim, Type::Int) => Type::Int,
            (Type::Claim, Type::Claim) => Type::Claim,
            _ => {
                return Err(format!(
                    "`{}` does not join {} and {}",
                    name.trim_matches('_'),
                    kind.description(),
                    other.description()
                )
                .into());
            }
        };
        Ok((Term::Arithmetic(operator, Box::new(left), Box::new(right)), result))
    }

    fn index(&mut self, list: &IdedExpr, index: &IdedExpr) -> TypedTerm {
        let call = CallExpr {
            func_name: op::INDEX.to_owned(),
            target: None,
            args: vec![list.clone(), index.clone()],
        };
        if let Some(names) = self.names(&Expr::Call(call)) {
            return self.variable(&names);
        }
        let (term, kind) = self.typed(list)?;
        match (kind, string_literal(index)) {
            (Type::Claim, Some(name)) => member(term, &Type::Claim, name),
            (Type::Claim, None) => Ok((
                Term::Element(Box::new(term), self.expect_boxed(index, &Type::Int, "an index")?),
                Type::Claim,
            )),
            (Type::List(element), None) => Ok((
                Term::Element(Box::new(term), self.expect_boxed(index, &Type::Int, "an index")?),
                *element,
            )),
            (kind, _) => Err(format!("{} has no elements by that name", kind.description()).into()),
        }
    }

    /// Compiles `all` and `exists`, as expanded by the parser.
    fn for_each(&mut self, loop_: &ComprehensionExpr) -> TypedTerm {
        let all = match &loop_.accu_init.expr {
            Expr::Literal(LiteralValue::Boolean(all)) => *all.inner(),
            _ => return Err("of the macros, only `has`, `all` and `exists` are supported".into()),
        };
        let body = match &loop_.loop_step.expr {
            Expr::Call(call)
                if call.func_name == if all { op::LOGICAL_AND } else { op::LOGICAL_OR } =>
            {
                call.args.get(1)
            }
            _ => None,
        };
        let body = body
            .filter(|_| loop_.iter_var2.is_none())
            .ok_or("of the macros, only `has`, `all` and `exists` are supported")?;
        let variable = &loop_.iter_var;
        if ["request", "principal", "captures", "model", "now"].contains(&variable.as_str())
            || self.locals.iter().any(|(local, _)| local == variable)
        {
            return Err(format!("`{variable}` already means something; choose another name").into());
        }
        if self.locals.len() >= LOOPS {
            return Err(format!("more than {LOOPS} of `all` and `exists` are nested").into());
        }
        let element = match self.typed(&loop_.iter_range)? {
            (list, Type::List(element)) => (list, *element),
            (list, Type::Claim) => (list, Type::Claim),
            (_, kind) => {
                return Err(format!(
                    "`all` and `exists` need a list, and this is {}",
                    kind.description()
                )
                .into());
            }
        };
        let (list, kind) = element;
        self.locals.push((variable.clone(), kind));
        let body = self.expect(body, &Type::Bool, if all { "`all`" } else { "`exists`" });
        self.locals.pop();
        Ok((Term::ForEach(all, Box::new(list), Box::new(body?)), Type::Bool))
    }
}

fn literal(literal: &LiteralValue) -> TypedTerm {
    match literal {
        LiteralValue::Boolean(value) => Ok((Term::Bool(*value.inner()), Type::Bool)),
        LiteralValue::Int(value) => Ok((Term::Int(*value.inner()), Type::Int)),
        LiteralValue::String(value) => Ok((Term::Text(value.inner().to_owned()), Type::Text)),
        LiteralValue::Null => {
            Err("`null` is not supported; ask with `has` whether something is there".into())
        }
        LiteralValue::Double(_) | LiteralValue::UInt(_) => {
            Err("of numbers, only integers are supported".into())
        }
        LiteralValue::Bytes(_) => Err("bytes are not supported; write text".into()),
    }
}

/// Compiles the member of a claim's value.
fn member(object: Term, kind: &Type, name: &str) -> TypedTerm {
    match kind {
        Type::Claim => Ok((Term::Member(Box::new(object), name.to_owned()), Type::Claim)),
        _ => Err(format!("{} has no member `{name}`", kind.description()).into()),
    }
}

/// Returns the text of a string literal.
fn string_literal(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// Checks the name of a header that an expression reads.
fn header(name: &str) -> Result<String, ConditionError> {
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if !plain {
        return Err(format!("`{name}` is no name of a header; write it in lower case").into());
    }
    if is_credential(name) {
        return Err(format!("`{name}` holds a credential; a condition cannot look at it").into());
    }
    Ok(name.to_owned())
}

/// Whether a header, named in lower case, contains a credential.
pub(in crate::rule) fn is_credential(name: &str) -> bool {
    ["authorization", "proxy-authorization", "cookie"].contains(&name)
}

fn unknown(name: &str) -> String {
    format!(
        "there is no function `{name}` with these arguments; there are startsWith, endsWith, contains, matches, size, int, timestamp, \
         cidr(...).containsIP, the get* methods of timestamps, has, all and exists"
    )
}
