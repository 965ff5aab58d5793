//! The checks that run while a recipe compiles.
//!
//! `experiment!` emits one free `const _: () = check_…(…)` per parameter: a failing one is an error
//! under `cargo check` too, which an inline `const {}` block or an associated constant of a generic
//! type is not. The functions are `#[track_caller]`, so that the error is shown on the tokens of
//! the call, and those carry the user's own spans.

use super::Component;

/// A value as it is written, before the parameter it is meant for is known.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Literal<'a> {
    /// `8`
    Integer(i128),
    /// `2e-4`
    Number(f64),
    /// `true`
    Bool(bool),
    /// `"v1"`
    Text(&'a str),
    /// `["q_proj", "v_proj"]`
    Texts(&'a [&'a str]),
    /// `None`, or JSON's `null`
    None,
    /// Something that no parameter takes, such as a JSON object.
    Other,
}

/// Fails to compile where `C` has no parameter `name`.
///
/// # Panics
/// At compile time, with the list of the parameters that `C` has.
#[track_caller]
pub const fn check_parameter<C: Component>(name: &str) {
    if find::<C>(name).is_some() {
        return;
    }
    let mut message = Message::new();
    message.push("`");
    message.push(C::NAME);
    message.push("` has no parameter `");
    message.push(name);
    message.push("`");
    let table = C::PARAMETERS;
    let mut i = 0;
    while i < table.len() {
        message.push(if i == 0 { "; it takes: " } else { ", " });
        message.push(table[i].name);
        i += 1;
    }
    if table.is_empty() {
        message.push("; it takes none");
    }
    panic!("{}", message.as_str())
}

/// Fails to compile where `given` leaves out a parameter that `C` cannot do without.
///
/// # Panics
/// At compile time, with the parameter's name.
#[track_caller]
pub const fn check_required<C: Component>(given: &[&str]) {
    let required = C::REQUIRED;
    let mut i = 0;
    while i < required.len() {
        let mut j = 0;
        while j < given.len() && !same(given[j], required[i]) {
            j += 1;
        }
        if j == given.len() {
            let mut message = Message::new();
            message.push("`");
            message.push(C::NAME);
            message.push("` needs `");
            message.push(required[i]);
            message.push("`: write `");
            message.push(C::NAME);
            message.push("<");
            message.push(required[i]);
            message.push(": …>`");
            panic!("{}", message.as_str())
        }
        i += 1;
    }
}

/// Fails to compile where parameter `name` of `C` does not take `value`, written as `source`.
///
/// Does nothing where `C` has no such parameter: [`check_parameter`] says so, on the name.
///
/// # Panics
/// At compile time, with the values that the parameter takes.
#[track_caller]
pub const fn check_value<C: Component>(name: &str, value: Literal<'_>, source: &str) {
    let Some(index) = find::<C>(name) else { return };
    let kind = &C::PARAMETERS[index].kind;
    if kind.accepts(&value) {
        return;
    }
    let mut message = Message::new();
    message.push("`");
    message.push(name);
    message.push("` takes ");
    kind.describe(&mut message);
    message.push(match value {
        Literal::Text(_) => ", not the text ",
        Literal::Texts(_) => ", not the list ",
        _ => ", not ",
    });
    message.push(source);
    panic!("{}", message.as_str())
}

const fn find<C: Component>(name: &str) -> Option<usize> {
    let table = C::PARAMETERS;
    let mut i = 0;
    while i < table.len() {
        if same(table[i].name, name) {
            return Some(i);
        }
        i += 1;
    }
    None
}

/// `a == b`, which is not `const` for strings.
pub(super) const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// A text that can be put together at compile time, where there is no heap.
pub(super) struct Message {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Message {
    /// Room for the longest list of parameter names; a piece that does not fit is left out.
    const CAPACITY: usize = 4096;

    pub(super) const fn new() -> Self {
        Self { bytes: [0; Self::CAPACITY], length: 0 }
    }

    pub(super) const fn push(&mut self, piece: &str) {
        let piece = piece.as_bytes();
        if self.length + piece.len() > Self::CAPACITY {
            return;
        }
        let mut i = 0;
        while i < piece.len() {
            self.bytes[self.length + i] = piece[i];
            i += 1;
        }
        self.length += piece.len();
    }

    pub(super) const fn push_integer(&mut self, value: i64) {
        if value < 0 {
            self.push("-");
        }
        let mut rest = value.unsigned_abs();
        // An `i64` has at most 19 digits.
        let mut digits = [0_u8; 19];
        let mut start = digits.len();
        while rest > 0 || start == digits.len() {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        if let Ok(text) = std::str::from_utf8(digits.split_at(start).1) {
            self.push(text);
        }
    }

    /// Writes a limit of a range: plain decimals with as many digits as it needs, at most nine.
    pub(super) const fn push_number(&mut self, value: f64) {
        const DECIMALS: u32 = 9;
        if value < 0.0 {
            self.push("-");
        }
        let scale = 10_i64.pow(DECIMALS);
        let magnitude = value.abs();
        let whole = magnitude as i64;
        let mut fraction = ((magnitude - whole as f64) * scale as f64 + 0.5) as i64;
        self.push_integer(whole);
        if fraction == 0 {
            return;
        }
        self.push(".");
        let mut unit = scale / 10;
        while fraction > 0 {
            self.push_integer(fraction / unit);
            fraction %= unit;
            unit /= 10;
        }
    }

    pub(super) const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.length).0) {
            Ok(text) => text,
            Err(_) => "",
        }
    }
}
