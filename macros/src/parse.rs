//! A parser that never gives up: what it does not understand becomes a message, and it goes on with
//! the next slot, so that an unfinished recipe still expands to nearly everything an editor needs.

use proc_macro2::{Delimiter, Ident, Punct, TokenStream, TokenTree};

use quote::ToTokens;

use crate::cursor::{Parser, is};
use crate::syntax::{Component, Literal, Parameter, Recipe, SLOTS, Slot, Value};

/// Parses `slot: Component<name: value, …>, …`.
pub(crate) fn recipe(input: TokenStream) -> Recipe {
    let mut parser = Parser::new(input);
    let mut slots = Vec::new();
    while let Some(token) = parser.peek(0) {
        match token {
            TokenTree::Ident(name) => {
                let name = name.clone();
                parser.position += 1;
                if let Some(slot) = parser.slot(name) {
                    slots.push(slot);
                }
            }
            other => {
                let span = other.span();
                parser.errors.at(span, "a slot starts with its name, for example `model: Llama`");
                parser.skip_to_comma();
            }
        }
        parser.separator();
    }
    Recipe { slots, unknown: Vec::new(), errors: parser.errors }
}

impl Parser {
    /// After the slot's name.
    fn slot(&mut self, name: Ident) -> Option<Slot> {
        if self.eat('=').is_some() {
            self.errors.at(name.span(), format!("write `{name}:` instead of `{name} =`"));
        } else if !self.eat_colon() {
            // Of a name that is no slot's, that is the message, and it comes later.
            if SLOTS.iter().any(|slot| name == slot) {
                let example = example(&name.to_string());
                self.errors.at(name.span(), format!("write a slot as `{example}`"));
            }
            self.skip_to_comma();
            return Some(Slot { name, component: None });
        }
        let component = self.component(&name);
        Some(Slot { name, component })
    }

    /// After `slot:`.
    fn component(&mut self, slot: &Ident) -> Option<Component> {
        let Some((path, last)) = self.path() else {
            let example = example(&slot.to_string());
            let span = self.peek(0).filter(|token| !is(token, ',')).map(TokenTree::span);
            let message = format!("`{slot}:` needs the name of a type, for example `{example}`");
            self.errors.at(span.unwrap_or(slot.span()), message);
            self.skip_to_comma();
            return None;
        };
        let parameters = match self.eat('<') {
            Some(open) => self.parameters(&open, &last),
            None => Vec::new(),
        };
        Some(Component { path, last, parameters })
    }

    /// `a::b::C`, with `::` in front or not; a path that ends in `::` is kept without it.
    fn path(&mut self) -> Option<(TokenStream, Ident)> {
        let start = self.position;
        let leading = self.double_colon();
        let Some(TokenTree::Ident(first)) = self.peek(0).cloned() else {
            self.position = start;
            return None;
        };
        self.position += 1;
        let mut tokens = TokenStream::new();
        if leading {
            tokens.extend(self.tokens[start..start + 2].iter().cloned());
        }
        tokens.extend([TokenTree::from(first.clone())]);
        let mut last = first;
        loop {
            let colons = self.position;
            if !self.double_colon() {
                break;
            }
            let Some(TokenTree::Ident(segment)) = self.peek(0).cloned() else {
                // `Lora::<r: 8>`, or a path that is still being typed.
                if !self.peek(0).is_some_and(|token| is(token, '<')) {
                    self.errors.at(last.span(), format!("write a name after `{last}::`"));
                }
                break;
            };
            self.position += 1;
            tokens.extend(self.tokens[colons..self.position].iter().cloned());
            last = segment;
        }
        Some((tokens, last))
    }

    /// After `<`, up to and with `>`.
    fn parameters(&mut self, open: &Punct, component: &Ident) -> Vec<Parameter> {
        let closed = self.is_closed();
        let before = self.errors.0.len();
        let mut parameters = Vec::new();
        loop {
            match self.peek(0).cloned() {
                Some(token) if is(&token, '>') => {
                    self.position += 1;
                    return parameters;
                }
                Some(token) if is(&token, ',') => {
                    self.position += 1;
                    continue;
                }
                // The next slot: the list was never closed.
                Some(TokenTree::Ident(name)) if !closed && self.starts_slot(&name) => break,
                Some(TokenTree::Ident(name)) => {
                    self.position += 1;
                    parameters.push(self.parameter(name, component, closed));
                }
                Some(other) => {
                    let message = format!("write parameters as `{component}<name: value>`");
                    self.errors.at(other.span(), message);
                    self.skip_parameter();
                }
                None => break,
            }
        }
        self.unclosed = true;
        if self.errors.0.len() == before {
            let message = format!("this `<` is not closed; write `{component}<name: value>`");
            self.errors.at(open.span(), message);
        }
        parameters
    }

    /// After the parameter's name.
    fn parameter(&mut self, name: Ident, component: &Ident, closed: bool) -> Parameter {
        let missing = |name: Ident| Parameter { name, value: None };
        if let Some(equals) = self.eat('=') {
            self.errors.at(equals.span(), format!("write `{name}: value`, with a colon"));
        } else if !self.eat_colon() {
            self.errors.at(
                name.span(),
                format!(
                    "write a parameter as `{name}: value`; a type with parameters of its own needs \
                     an alias: `type Mine = {component}<…>;`"
                ),
            );
            self.skip_parameter();
            return missing(name);
        }
        let Some(value) = self.value(&name) else {
            self.skip_parameter();
            return missing(name);
        };
        match self.peek(0) {
            None => {}
            Some(token) if is(token, ',') || is(token, '>') => {}
            // The next slot; that the list is not closed is said about its `<`.
            Some(TokenTree::Ident(next)) if !closed && self.starts_slot(next) => {}
            Some(TokenTree::Ident(next)) if self.peek(1).is_some_and(|t| is(t, ':')) => {
                let message = format!("write a comma before `{next}`");
                let span = next.span();
                self.errors.at(span, message);
            }
            Some(token) => {
                let span = token.span();
                let message = format!("put an expression in braces: `{name}: {{ … }}`");
                self.errors.at(span, message);
                self.skip_parameter();
            }
        }
        Parameter { name, value: Some(value) }
    }

    /// After `name:`.
    fn value(&mut self, name: &Ident) -> Option<Value> {
        let start = self.position;
        let literal = match self.peek(0).cloned() {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
                self.position += 1;
                texts(group.stream())
            }
            Some(TokenTree::Group(_)) => {
                self.position += 1;
                None
            }
            Some(TokenTree::Literal(literal)) => {
                self.position += 1;
                self.literal(&literal, false)
            }
            Some(token) if is(&token, '-') => {
                self.position += 1;
                let Some(TokenTree::Literal(literal)) = self.peek(0).cloned() else {
                    let message = format!("put an expression in braces: `{name}: {{ … }}`");
                    self.errors.at(token.span(), message);
                    return None;
                };
                self.position += 1;
                self.literal(&literal, true)
            }
            Some(token @ (TokenTree::Ident(_) | TokenTree::Punct(_))) => {
                let Some((path, _)) = self.path() else {
                    return self.no_value(name, &token);
                };
                match path.to_string().as_str() {
                    "true" => Some(Literal::Bool(true)),
                    "false" => Some(Literal::Bool(false)),
                    "None" => Some(Literal::None),
                    _ => None,
                }
            }
            None => {
                self.errors.at(name.span(), format!("`{name}:` needs a value"));
                return None;
            }
        };
        let mut tokens = &self.tokens[start..self.position];
        while let [rest @ .., last] = tokens
            && is(last, ':')
        {
            tokens = rest;
        }
        let span = (tokens.first()?.span(), tokens.last()?.span());
        // `-1` is two tokens, which print with a space between them.
        let source = TokenStream::from_iter(tokens.iter().cloned()).to_string().replace("- ", "-");
        let tokens = match &literal {
            // A bare `None` and `[]` have no type to serialize.
            Some(Literal::None) => quote::quote!(::core::option::Option::<bool>::None),
            // Without a suffix it would have to fit in an `i32`.
            Some(Literal::Integer(value)) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => proc_macro2::Literal::i64_suffixed(value).into_token_stream(),
                (_, Ok(value)) => proc_macro2::Literal::u64_suffixed(value).into_token_stream(),
                _ => tokens.iter().cloned().collect(),
            },
            Some(Literal::Texts(texts)) => {
                quote::quote!((&[#(#texts),*] as &[&::core::primitive::str]))
            }
            _ => tokens.iter().cloned().collect(),
        };
        Some(Value { tokens, source, literal, span })
    }

    fn no_value(&mut self, name: &Ident, token: &TokenTree) -> Option<Value> {
        let span = if is(token, ',') || is(token, '>') { name.span() } else { token.span() };
        self.errors.at(span, format!("`{name}:` needs a value"));
        None
    }

    fn literal(&mut self, literal: &proc_macro2::Literal, negative: bool) -> Option<Literal> {
        let sign = if negative { "-" } else { "" };
        let read = match syn::Lit::new(literal.clone()) {
            syn::Lit::Int(int) => format!("{sign}{}", int.base10_digits()).parse().ok().map(Literal::Integer),
            syn::Lit::Float(float) => format!("{sign}{}", float.base10_digits()).parse().ok().map(Literal::Number),
            syn::Lit::Str(text) if !negative => Some(Literal::Text(text.value())),
            _ => None,
        };
        if read.is_none() {
            self.errors.at(literal.span(), "a value is a number, a text, `true`, `false`, `None` or a list of texts");
        }
        read
    }

    /// Between two slots.
    fn separator(&mut self) {
        if std::mem::take(&mut self.unclosed) {
            return;
        }
        match self.peek(0).cloned() {
            None => {}
            Some(token) if is(&token, ',') => self.position += 1,
            Some(TokenTree::Ident(next)) if self.starts_slot(&next) => {
                self.errors.at(next.span(), format!("write a comma before `{next}`"));
            }
            Some(token) => {
                self.errors.at(token.span(), "expected a comma and the next slot");
                self.skip_to_comma();
                self.eat(',');
            }
        }
    }
}

/// How a slot is written.
pub(crate) fn example(slot: &str) -> &'static str {
    match slot {
        "adapter" => "adapter: Lora<r: 8>",
        "vision" => "vision: Clip",
        "projector" => "projector: Mlp2xGelu",
        "objective" => "objective: Sft",
        "data" => "data: LlavaData",
        "reference" => "reference: NoReference",
        "train" => "train: Train<learning_rate: 2e-4>",
        _ => "model: Llama",
    }
}

/// The texts of `["a", "b"]`; nothing where an item is not a text, so that the list is an expression.
fn texts(items: TokenStream) -> Option<Literal> {
    use syn::parse::Parser as _;
    let parse = syn::punctuated::Punctuated::<syn::LitStr, syn::Token![,]>::parse_terminated;
    let items = parse.parse2(items).ok()?;
    Some(Literal::Texts(items.iter().map(syn::LitStr::value).collect()))
}
