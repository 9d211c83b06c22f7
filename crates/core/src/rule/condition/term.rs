//! Compiled expressions and their evaluation.
//!
//! Only `all` and `exists` loop, over lists whose size the request limits, and every step is
//! counted.

use std::{borrow::Cow, cmp::Ordering, net::IpAddr};

use jiff::tz::TimeZone;
use thiserror::Error;

use super::{activation::Activation, clock::DatePart};
use crate::{json::Json, network::Network, rule::automaton::Automaton, time::Timestamp};

/// The maximum number of steps of one evaluation. A term is one step, and so are some bytes of
/// text.
const STEPS: usize = 50_000;
/// Bytes of text that are compared in one step.
const COMPARED: usize = 64;
/// Bytes of text that a pattern is matched against in one step.
const MATCHED: usize = 16;
/// The maximum length of a concatenated text.
const TEXT: usize = 16 * 1024;

/// The reason why a condition has no value. The request is denied in every case.
///
/// The message never contains the value of a claim or a header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvaluationError {
    /// The request or the credential lacks a value.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A list has no element at an index.
    #[error("a list has no element {0}")]
    NoElement(i64),
    /// A header is repeated, and it is unknown which value the upstream takes.
    #[error("`request.headers.{0}` occurs more than once")]
    Repeated(String),
    /// A claim or a part of a claim has another type, or a header is not text.
    #[error("a value is not of the type that it is used as")]
    WrongType,
    /// An integer is out of range, or the divisor is zero.
    #[error("a number is out of bounds")]
    Number,
    /// The evaluation takes too many steps.
    #[error("it takes too many steps")]
    TooLong,
}

/// A variable that is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Method,
    Host,
    Path,
    Segments,
    Address,
    Header(String),
    Issuer,
    Subject,
    Tenant,
    Client,
    Roles,
    Scopes,
    Claim(String),
    Model,
    Capture(String),
    Now,
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// An arithmetic operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// A way to search a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    StartsWith,
    EndsWith,
    Contains,
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub(super) enum Term {
    Bool(bool),
    Int(i64),
    Text(String),
    Time(Timestamp),
    List(Vec<Term>),
    Variable(Variable),
    /// A variable of `all` or `exists`, by the number of enclosing ones.
    Local(usize),
    Member(Box<Term>, String),
    Element(Box<Term>, Box<Term>),
    Has(Box<Term>),
    Not(Box<Term>),
    Negative(Box<Term>),
    And(Box<Term>, Box<Term>),
    Or(Box<Term>, Box<Term>),
    If(Box<[Term; 3]>),
    Compare(Relation, Box<Term>, Box<Term>),
    In(Box<Term>, Box<Term>),
    Arithmetic(Arithmetic, Box<Term>, Box<Term>),
    Search(Search, Box<Term>, Box<Term>),
    Matches(Box<Term>, Box<Automaton>),
    Size(Box<Term>),
    DatePart(DatePart, Box<Term>, TimeZone),
    Seconds(Box<Term>),
    InNetwork(Network, Box<Term>),
    /// `all` (true) or `exists` (false).
    ForEach(bool, Box<Term>, Box<Term>),
}

/// The value of a term.
#[derive(Clone, Debug)]
enum Value<'a> {
    Bool(bool),
    Int(i64),
    /// A number of a claim that is not an integer.
    Number(f64),
    Text(Cow<'a, str>),
    Time(Timestamp),
    Texts(&'a [String]),
    Terms(&'a [Term]),
    /// A list or an object of a claim.
    Json(&'a Json),
}

impl<'a> Value<'a> {
    fn of(json: &'a Json) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the magnitude is at most 2^53, as checked here"
        )]
        let integer = |number: f64| {
            (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0)
                .then_some(number as i64)
        };
        Some(match json {
            Json::Null => return None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Integer(number) => Self::Int(*number),
            Json::Number(number) => integer(*number).map_or(Self::Number(*number), Self::Int),
            Json::Text(text) => Self::Text(Cow::Borrowed(text)),
            Json::List(_) | Json::Map(_) => Self::Json(json),
        })
    }
}

/// Evaluates the condition `term`.
pub(super) fn holds(term: &Term, activation: &Activation<'_>) -> Result<bool, EvaluationError> {
    Evaluation { activation, locals: Vec::new(), steps: STEPS }.bool(term)
}

struct Evaluation<'a> {
    activation: &'a Activation<'a>,
    locals: Vec<Value<'a>>,
    steps: usize,
}

impl<'a> Evaluation<'a> {
    fn spend(&mut self, steps: usize) -> Result<(), EvaluationError> {
        self.steps = self.steps.checked_sub(steps).ok_or(EvaluationError::TooLong)?;
        Ok(())
    }

    fn bool(&mut self, term: &'a Term) -> Result<bool, EvaluationError> {
        match self.value(term)? {
            Value::Bool(value) => Ok(value),
            _ => Err(EvaluationError::WrongType),
        }
    }

    fn int(&mut self, term: &'a Term) -> Result<i64, EvaluationError> {
        match self.value(term)? {
            Value::Int(value) => Ok(value),
            _ => Err(EvaluationError::WrongType),
        }
    }

    fn text(&mut self, term: &'a Term) -> Result<Cow<'a, str>, EvaluationError> {
        match self.value(term)? {
            Value::Text(value) => Ok(value),
            _ => Err(EvaluationError::WrongType),
        }
    }

    fn time(&mut self, term: &'a Term) -> Result<Timestamp, EvaluationError> {
        match self.value(term)? {
            Value::Time(value) => Ok(value),
            _ => Err(EvaluationError::WrongType),
        }
    }

    fn value(&mut self, term: &'a Term) -> Result<Value<'a>, EvaluationError> {
        self.spend(1)?;
        Ok(match term {
            Term::Bool(value) => Value::Bool(*value),
            Term::Int(value) => Value::Int(*value),
            Term::Text(value) => Value::Text(Cow::Borrowed(value)),
            Term::Time(value) => Value::Time(*value),
            Term::List(items) => Value::Terms(items),
            Term::Variable(variable) => return self.variable(variable),
            Term::Local(index) => {
                self.locals.get(*index).cloned().ok_or(EvaluationError::WrongType)?
            }
            Term::Member(object, name) => return self.member(object, name),
            Term::Element(list, index) => return self.element(list, index),
            Term::Has(inner) => Value::Bool(match self.value(inner) {
                Ok(_) => true,
                Err(EvaluationError::Missing(_)) => false,
                Err(error) => return Err(error),
            }),
            Term::Not(inner) => Value::Bool(!self.bool(inner)?),
            Term::Negative(inner) => {
                Value::Int(self.int(inner)?.checked_neg().ok_or(EvaluationError::Number)?)
            }
            // In CEL, `error || true` is true. Here an operand that was evaluated and failed is an
            // error, which admits fewer requests and never more.
            Term::And(left, right) => Value::Bool(self.bool(left)? && self.bool(right)?),
            Term::Or(left, right) => Value::Bool(self.bool(left)? || self.bool(right)?),
            Term::If(parts) => {
                let [test, then, otherwise] = parts.as_ref();
                let branch = if self.bool(test)? { then } else { otherwise };
                return self.value(branch);
            }
            Term::Compare(relation, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                Value::Bool(self.compare(*relation, &left, &right)?)
            }
            Term::In(item, list) => Value::Bool(self.is_in(item, list)?),
            Term::Arithmetic(operator, left, right) => {
                return self.arithmetic(*operator, left, right);
            }
            Term::Search(search, text, sought) => {
                let (text, sought) = (self.text(text)?, self.text(sought)?);
                self.spend(text.len() / COMPARED)?;
                Value::Bool(match search {
                    Search::StartsWith => text.starts_with(&*sought),
                    Search::EndsWith => text.ends_with(&*sought),
                    Search::Contains => text.contains(&*sought),
                })
            }
            Term::Matches(text, pattern) => {
                let text = self.text(text)?;
                self.spend(text.len() / MATCHED)?;
                Value::Bool(pattern.is_match(&text))
            }
            Term::Size(inner) => {
                let size = match self.value(inner)? {
                    Value::Text(text) => {
                        self.spend(text.len() / COMPARED)?;
                        text.chars().count()
                    }
                    Value::Json(Json::Map(members)) => members.len(),
                    list => length(&list)?,
                };
                Value::Int(i64::try_from(size).map_err(|_| EvaluationError::Number)?)
            }
            Term::DatePart(part, moment, zone) => {
                Value::Int(part.at(self.time(moment)?, zone).ok_or(EvaluationError::Number)?)
            }
            Term::Seconds(moment) => Value::Int(
                i64::try_from(self.time(moment)?.secs()).map_err(|_| EvaluationError::Number)?,
            ),
            Term::InNetwork(network, address) => {
                let address: IpAddr =
                    self.text(address)?.parse().map_err(|_| EvaluationError::WrongType)?;
                Value::Bool(network.contains(address))
            }
            Term::ForEach(all, list, body) => Value::Bool(self.for_each(*all, list, body)?),
        })
    }

    fn variable(&self, variable: &Variable) -> Result<Value<'a>, EvaluationError> {
        let Activation { request, captures, now, principal, model, .. } = self.activation;
        let text = |text: &'a str| Ok(Value::Text(Cow::Borrowed(text)));
        let missing = |name: &str| EvaluationError::Missing(name.to_owned());
        let who = principal.as_ref().ok_or_else(|| missing("principal"));
        match variable {
            Variable::Method => text(request.method),
            Variable::Host => text(request.host.as_str()),
            Variable::Path => text(request.path.decoded()),
            Variable::Segments => Ok(Value::Texts(self.activation.segments())),
            Variable::Address => {
                let address = request.address.ok_or_else(|| missing("request.address"))?;
                Ok(Value::Text(Cow::Owned(address.to_canonical().to_string())))
            }
            Variable::Header(name) => {
                let value = request
                    .headers
                    .one(name)
                    .map_err(|_| EvaluationError::Repeated(name.clone()))?;
                let value = value
                    .ok_or_else(|| EvaluationError::Missing(format!("request.headers.{name}")))?;
                text(std::str::from_utf8(value).map_err(|_| EvaluationError::WrongType)?)
            }
            Variable::Issuer => text(who?.issuer()),
            // A client may choose the name of a user as its id.
            Variable::Subject => {
                let who = who?;
                if who.is_subject_client() {
                    return Err(missing("principal.subject"));
                }
                text(who.subject())
            }
            Variable::Tenant => text(who?.tenant().ok_or_else(|| missing("principal.tenant"))?),
            Variable::Client => text(who?.client().ok_or_else(|| missing("principal.client"))?),
            Variable::Roles => Ok(Value::Texts(self.activation.roles(who?))),
            Variable::Scopes => Ok(Value::Texts(self.activation.scopes(who?))),
            Variable::Claim(name) => {
                let claim = who?.claim(name).and_then(Value::of);
                claim.ok_or_else(|| EvaluationError::Missing(format!("principal.claims.{name}")))
            }
            Variable::Model => text(model.ok_or_else(|| missing("model"))?),
            Variable::Capture(name) => text(
                captures
                    .get(name)
                    .ok_or_else(|| EvaluationError::Missing(format!("captures.{name}")))?,
            ),
            Variable::Now => Ok(Value::Time(*now)),
        }
    }

    fn member(&mut self, object: &'a Term, name: &str) -> Result<Value<'a>, EvaluationError> {
        match self.value(object)? {
            Value::Json(json @ Json::Map(_)) => json
                .get(name)
                .and_then(Value::of)
                .ok_or_else(|| EvaluationError::Missing(name.to_owned())),
            _ => Err(EvaluationError::WrongType),
        }
    }

    fn element(&mut self, list: &'a Term, index: &'a Term) -> Result<Value<'a>, EvaluationError> {
        let (list, index) = (self.value(list)?, self.int(index)?);
        length(&list)?;
        let at = usize::try_from(index).map_err(|_| EvaluationError::NoElement(index))?;
        self.item(&list, at)?.ok_or(EvaluationError::NoElement(index))
    }

    /// Returns the element `at` of a list; `None` after its end.
    fn item(&mut self, list: &Value<'a>, at: usize) -> Result<Option<Value<'a>>, EvaluationError> {
        Ok(match list {
            Value::Texts(texts) => texts.get(at).map(|text| Value::Text(Cow::Borrowed(text))),
            Value::Terms(terms) => terms.get(at).map(|term| self.value(term)).transpose()?,
            Value::Json(Json::List(items)) => match items.get(at) {
                None => None,
                Some(item) => Some(Value::of(item).ok_or(EvaluationError::WrongType)?),
            },
            _ => return Err(EvaluationError::WrongType),
        })
    }

    fn compare(
        &mut self,
        relation: Relation,
        left: &Value<'_>,
        right: &Value<'_>,
    ) -> Result<bool, EvaluationError> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "as CEL compares an integer with a fraction"
        )]
        let float = |integer: &i64| *integer as f64;
        let order = match (left, right) {
            (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
            (Value::Int(left), Value::Int(right)) => Some(left.cmp(right)),
            (Value::Int(left), Value::Number(right)) => float(left).partial_cmp(right),
            (Value::Number(left), Value::Int(right)) => left.partial_cmp(&float(right)),
            (Value::Number(left), Value::Number(right)) => left.partial_cmp(right),
            (Value::Time(left), Value::Time(right)) => Some(left.cmp(right)),
            (Value::Text(left), Value::Text(right)) => {
                self.spend(left.len().min(right.len()) / COMPARED)?;
                Some(left.cmp(right))
            }
            _ => None,
        };
        let order = order.ok_or(EvaluationError::WrongType)?;
        Ok(match relation {
            Relation::Equal => order == Ordering::Equal,
            Relation::NotEqual => order != Ordering::Equal,
            Relation::Less => order == Ordering::Less,
            Relation::LessOrEqual => order != Ordering::Greater,
            Relation::Greater => order == Ordering::Greater,
            Relation::GreaterOrEqual => order != Ordering::Less,
        })
    }

    /// Whether a list contains an element, or an object of a claim a member.
    fn is_in(&mut self, item: &'a Term, list: &'a Term) -> Result<bool, EvaluationError> {
        let (item, list) = (self.value(item)?, self.value(list)?);
        if let (Value::Text(name), Value::Json(json @ Json::Map(members))) = (&item, &list) {
            self.spend(members.len())?;
            return Ok(json.get(name).is_some_and(|value| *value != Json::Null));
        }
        for at in 0..length(&list)? {
            self.spend(1)?;
            if let Some(element) = self.item(&list, at)?
                && self.compare(Relation::Equal, &item, &element)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn arithmetic(
        &mut self,
        operator: Arithmetic,
        left: &'a Term,
        right: &'a Term,
    ) -> Result<Value<'a>, EvaluationError> {
        let result = match (self.value(left)?, self.value(right)?) {
            (Value::Text(left), Value::Text(right)) if operator == Arithmetic::Add => {
                self.spend((left.len() + right.len()) / COMPARED)?;
                if left.len() + right.len() > TEXT {
                    return Err(EvaluationError::TooLong);
                }
                return Ok(Value::Text(Cow::Owned([left, right].concat())));
            }
            (Value::Int(left), Value::Int(right)) => match operator {
                Arithmetic::Add => left.checked_add(right),
                Arithmetic::Subtract => left.checked_sub(right),
                Arithmetic::Multiply => left.checked_mul(right),
                Arithmetic::Divide => left.checked_div(right),
                Arithmetic::Remainder => left.checked_rem(right),
            },
            _ => return Err(EvaluationError::WrongType),
        };
        result.map(Value::Int).ok_or(EvaluationError::Number)
    }

    fn for_each(
        &mut self,
        all: bool,
        list: &'a Term,
        body: &'a Term,
    ) -> Result<bool, EvaluationError> {
        let list = self.value(list)?;
        for at in 0..length(&list)? {
            let Some(item) = self.item(&list, at)? else { break };
            self.locals.push(item);
            let holds = self.bool(body)?;
            self.locals.pop();
            if holds != all {
                return Ok(holds);
            }
        }
        Ok(all)
    }
}

/// Returns the number of elements of a list.
fn length(list: &Value<'_>) -> Result<usize, EvaluationError> {
    match list {
        Value::Texts(texts) => Ok(texts.len()),
        Value::Terms(terms) => Ok(terms.len()),
        Value::Json(Json::List(items)) => Ok(items.len()),
        _ => Err(EvaluationError::WrongType),
    }
}
