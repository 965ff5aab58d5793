//! What an invocation says, as far as it could be understood.

use proc_macro2::{Ident, Span, TokenStream};

/// Every slot, in the order in which messages list them.
pub(crate) const SLOTS: [&str; 8] =
    ["model", "adapter", "vision", "projector", "objective", "data", "reference", "train"];

/// A whole invocation, and everything that is wrong with its form.
pub(crate) struct Recipe {
    pub(crate) slots: Vec<Slot>,
    /// Names that are no slot's, for an editor to complete.
    pub(crate) unknown: Vec<Ident>,
    pub(crate) errors: Errors,
}

/// `adapter: Lora<r: 8>`; the component is missing while it is being typed.
pub(crate) struct Slot {
    pub(crate) name: Ident,
    pub(crate) component: Option<Component>,
}

/// `Lora<r: 8>`
pub(crate) struct Component {
    pub(crate) path: TokenStream,
    /// The last segment of the path.
    pub(crate) last: Ident,
    pub(crate) parameters: Vec<Parameter>,
}

/// `r: 8`; the value is missing while it is being typed.
pub(crate) struct Parameter {
    pub(crate) name: Ident,
    pub(crate) value: Option<Value>,
}

/// The value of a parameter.
pub(crate) struct Value {
    /// The expression, with a type where the literal leaves it open.
    pub(crate) tokens: TokenStream,
    /// As it was written.
    pub(crate) source: String,
    /// What the compiler checks, where the value is a literal.
    pub(crate) literal: Option<Literal>,
    /// First and last token.
    pub(crate) span: (Span, Span),
}

/// A value that is known while the recipe compiles.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Integer(i128),
    Number(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    None,
}

/// Messages, each on the tokens it is about.
#[derive(Default)]
pub(crate) struct Errors(pub(crate) Vec<syn::Error>);

impl Errors {
    pub(crate) fn at(&mut self, span: Span, message: impl std::fmt::Display) {
        self.0.push(syn::Error::new(span, message));
    }
}

/// The one of `known` that was probably meant by `name`.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Below this similarity a suggestion is more often wrong than right.
    const CLOSE: f64 = 0.7;
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(similarity, _)| *similarity >= CLOSE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
