//! Sections, their values, and where the values came from.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Component, Given, Parameter};

/// One part of a recipe whose settings are written `name.parameter`.
#[derive(Clone, Debug)]
pub struct Section {
    pub(super) name: &'static str,
    pub(super) component: &'static str,
    pub(super) parameters: &'static [Parameter],
    pub(super) defaults: Map<String, Value>,
}

impl Section {
    /// The settings of `C` under `name`, which is usually the slot: `adapter`.
    pub fn of<C: Component>(name: &'static str) -> Self {
        let mut defaults = Map::new();
        let given = Given::<C>::from_fields(&C::default());
        for parameter in C::PARAMETERS {
            let value = given.values().get(parameter.name).unwrap_or(&Value::Null);
            let value = parameter.kind.normalize(value).unwrap_or_else(|| value.clone());
            defaults.insert(parameter.name.to_owned(), value);
        }
        Self { name, component: C::NAME, parameters: C::PARAMETERS, defaults }
    }

    /// What stands before the dot.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The component's own name.
    pub fn component(&self) -> &'static str {
        self.component
    }

    /// The table of the component.
    pub fn parameters(&self) -> &'static [Parameter] {
        self.parameters
    }

    /// The default of one of the [`parameters`](Self::parameters).
    pub fn default_of(&self, name: &str) -> Option<&Value> {
        self.defaults.get(name)
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The component's own default.
    Default,
    /// The recipe's source code.
    Recipe,
    /// `--config FILE`.
    File(PathBuf),
    /// `--set key=value`, or an option that stands for it.
    CommandLine,
    /// Computed by the run, for this reason.
    Derived(String),
}

impl Origin {
    pub(super) const DERIVED: &'static str = "derived";
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Recipe => f.write_str("recipe"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::CommandLine => f.write_str("command line"),
            Self::Derived(reason) => write!(f, "{}: {reason}", Self::DERIVED),
        }
    }
}

/// One value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// `section.parameter`
    pub key: String,
    /// As JSON; it has passed the table.
    pub value: Value,
    /// The layer that set it last.
    pub origin: Origin,
}

/// A setting that an earlier run had otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// `section.parameter`
    pub key: String,
    /// What the earlier run had; nothing where it had no such setting.
    pub earlier: Option<Value>,
    /// What this run has; nothing where it has no such setting.
    pub now: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| match value {
            Some(value) => value.to_string(),
            None => "nothing".to_owned(),
        };
        write!(f, "`{}` was {} and is {}", self.key, shown(&self.earlier), shown(&self.now))
    }
}
