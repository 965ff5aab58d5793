//! What a recipe says about one component, before defaults, files and the command line.

use std::marker::PhantomData;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Component, SettingError};

/// The parameters of `C` that were given, and no others.
///
/// Values are checked when they are used, by [`build`](Self::build) or by a
/// [`Resolver`](super::Resolver), not when they are set.
#[derive(Clone, Debug, PartialEq)]
pub struct Given<C> {
    values: Map<String, Value>,
    /// The first value that JSON cannot hold, with the reason.
    unusable: Option<(String, String)>,
    component: PhantomData<fn() -> C>,
}

// No bound on `C` here: a type that is no component must be refused by the check of its slot, whose
// text says what to write instead, not by "method `new` exists but its bounds are not satisfied".
impl<C> Given<C> {
    /// Nothing is given: every parameter keeps its default.
    pub fn new() -> Self {
        Self { values: Map::new(), unusable: None, component: PhantomData }
    }

    /// Gives one parameter.
    pub fn set(mut self, name: &str, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.values.insert(name.to_owned(), value);
            }
            Err(error) => self.unusable = Some((name.to_owned(), error.to_string())),
        }
        self
    }

    /// What was given, under the parameters' names.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The same parameters, given for a component that has those of `C`.
    pub(crate) fn cast<T>(self) -> Given<T> {
        Given { values: self.values, unusable: self.unusable, component: PhantomData }
    }

    /// Gives every field of `fields`, a struct that serializes only the fields that are set.
    #[doc(hidden)]
    pub fn from_fields(fields: &impl Serialize) -> Self {
        let mut given = Self::new();
        match serde_json::to_value(fields) {
            Ok(Value::Object(values)) => given.values = values,
            Ok(_) => given.unusable = Some((String::new(), "it is not a struct".to_owned())),
            Err(error) => given.unusable = Some((String::new(), error.to_string())),
        }
        given
    }
}

impl<C: Component> Given<C> {
    /// The parameters in which `settings` differs from the default.
    #[doc(hidden)]
    pub fn from_settings(settings: &C) -> Self {
        let mut given = Self::from_fields(settings);
        let defaults = Self::from_fields(&C::default());
        given.values.retain(|name, value| defaults.values.get(name) != Some(value));
        given
    }

    /// Gives one parameter as it is typed after `--set NAME=`.
    ///
    /// # Errors
    /// A parameter that `C` does not have, or a value that it does not take.
    pub fn set_text(self, name: &str, text: &str) -> Result<Self, SettingError> {
        let origin = format!("--set {name}={text}");
        let parameter = super::resolve::lookup(C::NAME, C::PARAMETERS, name, name, &origin)?;
        match parameter.kind.parse(text) {
            Some(value) => Ok(self.set(name, value)),
            None => Err(SettingError::Refused {
                key: name.to_owned(),
                value: if text.is_empty() { "nothing".to_owned() } else { format!("`{text}`") },
                allowed: parameter.kind.to_string(),
                origin,
            }),
        }
    }

    /// Fills in the defaults and checks every value.
    ///
    /// # Errors
    /// The parameter, its value and what is allowed.
    pub fn build(&self) -> Result<C, SettingError> {
        let origin = format!("`{}`", C::NAME);
        self.usable(&origin)?;
        let mut fields = Self::from_fields(&C::default()).values;
        for (name, value) in &self.values {
            let value = super::resolve::admit(C::NAME, C::PARAMETERS, name, name, value, &origin)?;
            fields.insert(name.clone(), value);
        }
        assemble(fields)
    }

    /// Refuses values that JSON cannot hold.
    pub(super) fn usable(&self, origin: &str) -> Result<(), SettingError> {
        match &self.unusable {
            None => Ok(()),
            Some((name, reason)) => Err(SettingError::rule(format!(
                "{origin}: the value of `{name}` cannot be written as JSON ({reason}); give a \
                 number, a text, a bool or a list of texts"
            ))),
        }
    }
}

impl<C> Default for Given<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes the component of values that the table has admitted.
///
/// # Errors
/// A rule between fields, or a struct whose types contradict its table.
pub(super) fn assemble<C: Component>(fields: Map<String, Value>) -> Result<C, SettingError> {
    let settings: C = serde_json::from_value(Value::Object(fields))
        .map_err(|error| SettingError::rule(format!("`{}`: {error}", C::NAME)))?;
    settings.check()?;
    Ok(settings)
}
