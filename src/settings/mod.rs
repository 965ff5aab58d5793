//! What a component can be told, and how what it was told is checked.
//!
//! A *component* (a model, an adapter, an objective, the training loop …) is a small struct of
//! settings. Its [table of parameters](Component::PARAMETERS) is written once, by
//! [`component!`](crate::component), and used three times: by the compiler, for the literals inside
//! `experiment!` ([`check_parameter`], [`check_value`]); at run time, for recipes written with
//! builders, for `--config` files and for `--set` ([`Resolver`]); and for `--help`
//! ([`Resolver::help`]).
//!
//! Nothing here knows a particular component, and nothing here is imported from the rest of the
//! library.

mod component;
mod error;
mod file;
mod given;
mod kind;
mod literal;
mod resolve;
mod setting;
mod show;
mod value;

pub use component::{Component, Parameter, audit};
pub use error::SettingError;
pub(crate) use error::hint;
pub use file::Recorded;
pub use given::Given;
pub use kind::{Bound, Kind, Shape};
pub use literal::{Literal, check_parameter, check_required, check_value};
pub use resolve::{Resolved, Resolver};
pub use setting::{Difference, Origin, Section, Setting};

/// Crates that the expansion of [`component!`](crate::component) needs, wherever it is used.
#[doc(hidden)]
pub mod export {
    pub use derive_builder;
    pub use serde;
}

#[cfg(test)]
mod tests;
