//! The values a parameter may take. Everything here is `const`: the same code judges a literal
//! while the recipe compiles and a value of `--set` while it runs.

use super::literal::{Literal, Message, same};

/// The values a parameter may take.
///
/// ```
/// use firebrick::settings::Kind;
///
/// const DROPOUT: Kind = Kind::number().at_least(0.0).below(1.0);
/// assert_eq!(DROPOUT.to_string(), "a number from 0 up to but not including 1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// The type of the value and its range.
    pub shape: Shape,
    /// Whether the parameter may also be left open: `None` in Rust, `null` in JSON, `none` on the
    /// command line.
    pub nullable: bool,
}

/// The type of a parameter's value and its range.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Shape {
    /// A whole number; both ends belong to the range, `i64::MIN` and `i64::MAX` mean no limit.
    Integer {
        /// The least value allowed.
        min: i64,
        /// The greatest value allowed.
        max: i64,
    },
    /// A finite number.
    Number {
        /// Where the range starts.
        low: Bound,
        /// Where the range ends.
        high: Bound,
    },
    /// `true` or `false`.
    Bool,
    /// Any text.
    Text,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A list of texts; on the command line they are separated by commas.
    List,
    /// A list of some of these texts.
    Choices(&'static [&'static str]),
    /// A list of texts, or one text that has a meaning of its own (PEFT's `target_modules`).
    ListOrText,
}

/// One end of a range of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// No limit at this end.
    Open,
    /// The limit itself is allowed.
    Inclusive(f64),
    /// The limit itself is not allowed.
    Exclusive(f64),
}

impl Kind {
    /// A whole number from `min` to `max`, both allowed; `i64::MAX` means no upper limit.
    pub const fn integer(min: i64, max: i64) -> Self {
        Self::of(Shape::Integer { min, max })
    }

    /// A whole number of at least 1.
    pub const fn count() -> Self {
        Self::integer(1, i64::MAX)
    }

    /// A finite number; narrow it with [`at_least`](Self::at_least), [`above`](Self::above),
    /// [`at_most`](Self::at_most) and [`below`](Self::below).
    pub const fn number() -> Self {
        Self::of(Shape::Number { low: Bound::Open, high: Bound::Open })
    }

    /// `true` or `false`.
    pub const fn bool() -> Self {
        Self::of(Shape::Bool)
    }

    /// Any text.
    pub const fn text() -> Self {
        Self::of(Shape::Text)
    }

    /// One of these texts.
    pub const fn choice(texts: &'static [&'static str]) -> Self {
        Self::of(Shape::Choice(texts))
    }

    /// A list of some of these texts.
    pub const fn choices(texts: &'static [&'static str]) -> Self {
        Self::of(Shape::Choices(texts))
    }

    /// A list of texts.
    pub const fn list() -> Self {
        Self::of(Shape::List)
    }

    /// A list of texts, or one text that has a meaning of its own.
    pub const fn list_or_text() -> Self {
        Self::of(Shape::ListOrText)
    }

    /// Also allows leaving the parameter open.
    pub const fn or_none(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// The number may be `limit` or more.
    pub const fn at_least(self, limit: f64) -> Self {
        self.with_low(Bound::Inclusive(limit))
    }

    /// The number must be more than `limit`.
    pub const fn above(self, limit: f64) -> Self {
        self.with_low(Bound::Exclusive(limit))
    }

    /// The number may be `limit` or less.
    pub const fn at_most(self, limit: f64) -> Self {
        self.with_high(Bound::Inclusive(limit))
    }

    /// The number must be less than `limit`.
    pub const fn below(self, limit: f64) -> Self {
        self.with_high(Bound::Exclusive(limit))
    }

    const fn of(shape: Shape) -> Self {
        Self { shape, nullable: false }
    }

    const fn with_low(mut self, bound: Bound) -> Self {
        match self.shape {
            Shape::Number { high, .. } => self.shape = Shape::Number { low: bound, high },
            _ => panic!("only `Kind::number()` has such a limit; use `Kind::integer(min, max)`"),
        }
        self
    }

    const fn with_high(mut self, bound: Bound) -> Self {
        match self.shape {
            Shape::Number { low, .. } => self.shape = Shape::Number { low, high: bound },
            _ => panic!("only `Kind::number()` has such a limit; use `Kind::integer(min, max)`"),
        }
        self
    }

    /// Whether `value` has the right type and lies in the range.
    pub const fn accepts(&self, value: &Literal<'_>) -> bool {
        match (self.shape, value) {
            (_, Literal::None) => self.nullable,
            (Shape::Integer { min, max }, Literal::Integer(n)) => min as i128 <= *n && *n <= max as i128,
            (Shape::Number { low, high }, Literal::Integer(n)) => within(low, high, *n as f64),
            (Shape::Number { low, high }, Literal::Number(x)) => within(low, high, *x),
            (Shape::Bool, Literal::Bool(_))
            | (Shape::Text | Shape::ListOrText, Literal::Text(_))
            | (Shape::List | Shape::ListOrText, Literal::Texts(_)) => true,
            (Shape::Choice(texts), Literal::Text(text)) => contains(texts, text),
            (Shape::Choices(texts), Literal::Texts(given)) => {
                let mut i = 0;
                while i < given.len() {
                    if !contains(texts, given[i]) {
                        return false;
                    }
                    i += 1;
                }
                true
            }
            _ => false,
        }
    }

    /// Appends what is allowed, in words: `a whole number of at least 1`.
    pub(super) const fn describe(&self, message: &mut Message) {
        match self.shape {
            Shape::Integer { min, max } => describe_integer(min, max, message),
            Shape::Number { low, high } => describe_number(low, high, message),
            Shape::Bool => message.push("true or false"),
            Shape::Text => message.push("a text"),
            Shape::Choice(texts) => describe_texts("one of ", texts, message),
            Shape::Choices(texts) => describe_texts("a list of ", texts, message),
            Shape::List => message.push("a list of texts"),
            Shape::ListOrText => message.push("a text or a list of texts"),
        }
        if self.nullable {
            message.push(", or none");
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut message = Message::new();
        self.describe(&mut message);
        f.write_str(message.as_str())
    }
}

const fn contains(texts: &[&str], text: &str) -> bool {
    let mut i = 0;
    while i < texts.len() {
        if same(texts[i], text) {
            return true;
        }
        i += 1;
    }
    false
}

const fn describe_texts(before: &str, texts: &[&str], message: &mut Message) {
    message.push(before);
    let mut i = 0;
    while i < texts.len() {
        message.push(if i == 0 { "\"" } else { ", \"" });
        message.push(texts[i]);
        message.push("\"");
        i += 1;
    }
}

const fn within(low: Bound, high: Bound, x: f64) -> bool {
    let above = match low {
        Bound::Open => true,
        Bound::Inclusive(limit) => x >= limit,
        Bound::Exclusive(limit) => x > limit,
    };
    let below = match high {
        Bound::Open => true,
        Bound::Inclusive(limit) => x <= limit,
        Bound::Exclusive(limit) => x < limit,
    };
    x.is_finite() && above && below
}

const fn describe_integer(min: i64, max: i64, message: &mut Message) {
    message.push("a whole number");
    match (min, max) {
        (i64::MIN, i64::MAX) => {}
        (_, i64::MAX) => {
            message.push(" of at least ");
            message.push_integer(min);
        }
        (i64::MIN, _) => {
            message.push(" of at most ");
            message.push_integer(max);
        }
        _ => {
            message.push(" from ");
            message.push_integer(min);
            message.push(" to ");
            message.push_integer(max);
        }
    }
}

const fn describe_number(low: Bound, high: Bound, message: &mut Message) {
    message.push("a number");
    match low {
        Bound::Open => {}
        Bound::Inclusive(limit) => {
            message.push(if matches!(high, Bound::Open) { " of at least " } else { " from " });
            message.push_number(limit);
        }
        Bound::Exclusive(limit) => {
            message.push(" above ");
            message.push_number(limit);
        }
    }
    match (low, high) {
        (_, Bound::Open) => {}
        (Bound::Open, Bound::Inclusive(_)) => message.push(" of at most "),
        (Bound::Open, Bound::Exclusive(_)) => message.push(" below "),
        (Bound::Inclusive(_), Bound::Inclusive(_)) => message.push(" to "),
        (Bound::Inclusive(_), Bound::Exclusive(_)) => message.push(" up to but not including "),
        (Bound::Exclusive(_), Bound::Inclusive(_)) => message.push(" and at most "),
        (Bound::Exclusive(_), Bound::Exclusive(_)) => message.push(" and below "),
    }
    if let Bound::Inclusive(limit) | Bound::Exclusive(limit) = high {
        message.push_number(limit);
    }
}
