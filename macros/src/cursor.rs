//! The parser's place in the tokens, and its steps.

use proc_macro2::{Delimiter, Ident, Punct, Spacing, TokenStream, TokenTree};

use crate::syntax::{Errors, SLOTS};

/// The tokens, how far they were read, and what was wrong so far.
pub(crate) struct Parser {
    pub(crate) tokens: Vec<TokenTree>,
    pub(crate) position: usize,
    /// Whether the last list of parameters was not closed, so that no comma need follow it.
    pub(crate) unclosed: bool,
    pub(crate) errors: Errors,
}

impl Parser {
    pub(crate) fn new(input: TokenStream) -> Self {
        Self { tokens: flatten(input), position: 0, unclosed: false, errors: Errors::default() }
    }

    pub(crate) fn peek(&self, ahead: usize) -> Option<&TokenTree> {
        self.tokens.get(self.position + ahead)
    }

    pub(crate) fn eat(&mut self, character: char) -> Option<Punct> {
        match self.peek(0) {
            Some(TokenTree::Punct(punct)) if punct.as_char() == character => {
                let punct = punct.clone();
                self.position += 1;
                Some(punct)
            }
            _ => None,
        }
    }

    /// One colon, or two where one was meant.
    pub(crate) fn eat_colon(&mut self) -> bool {
        let Some(colon) = self.eat(':') else {
            return false;
        };
        // `model: ::path::Llama` has a space between the colons, `model::Llama` has none.
        if colon.spacing() == Spacing::Joint && self.peek(0).is_some_and(|t| is(t, ':')) {
            let rest = self.peek(1).is_some_and(|t| is(t, ':'));
            if !rest {
                self.errors.at(colon.span(), "write one colon here");
                self.position += 1;
            }
        }
        true
    }

    pub(crate) fn double_colon(&mut self) -> bool {
        let joint = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ':' && p.spacing() == Spacing::Joint);
        let found = self.peek(0).is_some_and(joint) && self.peek(1).is_some_and(|t| is(t, ':'));
        if found {
            self.position += 2;
        }
        found
    }

    /// Whether `name`, the next token, is followed by a colon and is a slot's.
    pub(crate) fn starts_slot(&self, name: &Ident) -> bool {
        SLOTS.iter().any(|slot| name == slot) && self.peek(1).is_some_and(|t| is(t, ':'))
    }

    /// Whether a `>` comes before any other `<`.
    pub(crate) fn is_closed(&self) -> bool {
        let mut rest = self.tokens[self.position..].iter();
        rest.find(|token| is(token, '<') || is(token, '>')).is_some_and(|token| is(token, '>'))
    }

    pub(crate) fn skip_to_comma(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.peek(0) {
            if is(token, ',') && depth == 0 {
                return;
            } else if is(token, '<') {
                depth += 1;
            } else if is(token, '>') {
                depth = depth.saturating_sub(1);
            }
            self.position += 1;
        }
    }

    pub(crate) fn skip_parameter(&mut self) {
        while self.peek(0).is_some_and(|token| !is(token, ',') && !is(token, '>')) {
            self.position += 1;
        }
    }
}

/// Whether `token` is this punctuation.
pub(crate) fn is(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

/// Takes the invisible parentheses off that `$model:ty` or `$rank:literal` of a `macro_rules!` macro
/// puts around what it stands for. Expressions keep theirs: without them they would need braces.
fn flatten(input: TokenStream) -> Vec<TokenTree> {
    let simple = |token: &TokenTree| match token {
        TokenTree::Punct(punct) => matches!(punct.as_char(), ':' | '-'),
        TokenTree::Group(group) => group.delimiter() == Delimiter::None,
        TokenTree::Ident(_) | TokenTree::Literal(_) => true,
    };
    let mut tokens = Vec::new();
    for token in input {
        match token {
            TokenTree::Group(group)
                if group.delimiter() == Delimiter::None && group.stream().into_iter().all(|token| simple(&token)) =>
            {
                tokens.extend(flatten(group.stream()));
            }
            other => tokens.push(other),
        }
    }
    tokens
}
