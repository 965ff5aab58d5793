//! The trait of everything that can stand in a slot of `experiment!`, and the macro that writes it.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Given, Kind, SettingError};

/// The settings of one part of an experiment: a model family, an adapter, an objective, …
///
/// Write it with [`component!`](crate::component). The trait of a slot (`Adapter`, `Objective`, …)
/// extends this one with what the part does.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a component of an experiment",
    label = "not a component",
    note = "define it with `firebrick::component! {{ pub struct … }}`, then implement the trait of its slot"
)]
pub trait Component: Clone + Debug + Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name it is written with, as messages show it: `Lora`.
    const NAME: &'static str;

    /// Every parameter, in the order of the struct's fields, under the same names.
    const PARAMETERS: &'static [Parameter];

    /// Parameters that have no sensible default: `experiment!` refuses a recipe that leaves one out.
    const REQUIRED: &'static [&'static str] = &[];

    /// The rules between parameters; ranges of single ones are in the table.
    ///
    /// # Errors
    /// [`SettingError::rule`], naming the parameters, their values and what to change.
    fn check(&self) -> Result<(), SettingError> {
        Ok(())
    }

    /// This component with nothing set: `Lora::given().set("r", 8)`.
    fn given() -> Given<Self> {
        Given::new()
    }
}

/// One row of a component's table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// The field's name, which is also the name in `experiment!`, in `--set` and in files.
    pub name: &'static str,
    /// The values it takes.
    pub kind: Kind,
    /// The documentation of the field.
    pub help: &'static str,
}

impl Parameter {
    /// A parameter called `name`.
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, kind, help }
    }
}

/// Compares the table of `C` with the struct itself; for the tests of a component written without
/// [`component!`](crate::component).
///
/// # Errors
/// A sentence about the first difference: a field without a parameter, a parameter without a field,
/// a default that the table or [`Component::check`] refuses.
pub fn audit<C: Component>() -> Result<(), String> {
    let name = C::NAME;
    let defaults = serde_json::to_value(C::default()).map_err(|e| format!("`{name}`: {e}"))?;
    let fields = defaults.as_object().ok_or_else(|| format!("`{name}` is not a struct"))?;
    for field in fields.keys() {
        if !C::PARAMETERS.iter().any(|p| p.name == field) {
            return Err(format!("`{name}.{field}` is not in the table of parameters"));
        }
    }
    for parameter in C::PARAMETERS {
        let Some(value) = fields.get(parameter.name) else {
            return Err(format!("parameter `{}` is not a field of `{name}`", parameter.name));
        };
        if parameter.kind.normalize(value).is_none() {
            return Err(format!(
                "the default of `{name}.{}` is {value}, but it takes {}",
                parameter.name, parameter.kind
            ));
        }
    }
    let whole: C = serde_json::from_value(defaults).map_err(|e| format!("`{name}`: {e}"))?;
    whole.check().map_err(|e| format!("the defaults of `{name}` break its own rule: {e}"))
}

/// Defines a component: the struct, its defaults, its table of parameters and its builder, from
/// one listing.
///
/// Each field is `pub name: Type = default => Kind,` under its documentation, which becomes the
/// help text. The second name is the builder's (made by derive_builder). `check = path;` after the
/// struct names a function `fn(&Self) -> Result<(), SettingError>` for rules between fields, and `required = [field, …];`
/// the parameters that a recipe must give.
///
/// ```
/// use firebrick::settings::{Component, Kind, SettingError};
///
/// firebrick::component! {
///     /// A projector of `depth` layers.
///     pub struct Stack, StackBuilder {
///         /// How many layers.
///         pub depth: usize = 2 => Kind::integer(1, 8),
///         /// Width of the hidden layers; the language model's where it is left open.
///         pub width: Option<usize> = None => Kind::count().or_none(),
///     }
///     check = Stack::check_width;
/// }
///
/// impl Stack {
///     fn check_width(&self) -> Result<(), SettingError> {
///         match self.width {
///             Some(width) if self.depth == 1 => Err(SettingError::rule(format!(
///                 "`width` is {width} but a stack of `depth` 1 has no hidden layer; leave it out"
///             ))),
///             _ => Ok(()),
///         }
///     }
/// }
///
/// assert_eq!(Stack::builder().depth(3).build()?.depth, 3);
/// let error = Stack::builder().depth(0).build().unwrap_err();
/// assert_eq!(error.to_string(), "`Stack`: `depth` takes a whole number from 1 to 8, not 0");
/// # Ok::<(), SettingError>(())
/// ```
#[macro_export]
macro_rules! component {
    (
        $(#[$meta:meta])*
        pub struct $name:ident, $builder:ident {
            $(
                $(#[doc = $help:expr])+
                pub $field:ident: $type:ty = $default:expr => $kind:expr
            ),* $(,)?
        }
        $(check = $check:path;)?
        $(required = [$($required:ident),+];)?
    ) => {
        $(#[$meta])*
        #[derive(
            Clone,
            Debug,
            PartialEq,
            $crate::settings::export::serde::Serialize,
            $crate::settings::export::serde::Deserialize,
            $crate::settings::export::derive_builder::Builder,
        )]
        #[serde(crate = "::firebrick::settings::export::serde", deny_unknown_fields, default)]
        #[builder(
            crate = "::firebrick::settings::export::derive_builder",
            name = $builder,
            pattern = "owned",
            derive(Debug, PartialEq, $crate::settings::export::serde::Serialize),
            build_fn(skip, error = "::firebrick::settings::SettingError")
        )]
        #[builder_struct_attr(serde(crate = "::firebrick::settings::export::serde"))]
        pub struct $name {
            $(
                $(#[doc = $help])+
                #[builder_field_attr(serde(skip_serializing_if = "Option::is_none"))]
                pub $field: $type,
            )*
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::settings::Component for $name {
            const NAME: &'static str = ::std::stringify!($name);
            const PARAMETERS: &'static [$crate::settings::Parameter] = &[$(
                $crate::settings::Parameter::new(
                    ::std::stringify!($field),
                    $kind,
                    ::std::concat!($($help),+),
                ),
            )*];
            $(const REQUIRED: &'static [&'static str] = &[$(::std::stringify!($required)),+];)?
            $(
                fn check(&self) -> ::std::result::Result<(), $crate::settings::SettingError> {
                    $check(self)
                }
            )?
        }

        impl $name {
            /// Starts a builder with nothing set.
            pub fn builder() -> $builder {
                ::std::default::Default::default()
            }
        }

        impl $builder {
            /// Fills in the defaults and checks every value.
            ///
            /// # Errors
            /// The field, its value and what is allowed.
            pub fn build(self) -> ::std::result::Result<$name, $crate::settings::SettingError> {
                $crate::settings::Given::from(self).build()
            }
        }

        impl ::std::convert::From<$builder> for $crate::settings::Given<$name> {
            fn from(builder: $builder) -> Self {
                $crate::settings::Given::from_fields(&builder)
            }
        }

        impl ::std::convert::From<$name> for $crate::settings::Given<$name> {
            fn from(settings: $name) -> Self {
                $crate::settings::Given::from_settings(&settings)
            }
        }
    };
}
