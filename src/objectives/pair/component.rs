//! The macro that makes an objective of a loss over pairs.

/// Defines a component as [`component!`](crate::component) does, adds the fields of its modifiers, and implements
/// [`Objective`](crate::objectives::Objective) by its [`PairLoss`](crate::objectives::PairLoss).
///
/// After the struct: the shape of its examples, whether it compares with a reference, and its group of modifiers:
/// `scores` (all; its formula is one of the scores' difference), `averages` (as `scores`, but it divides by the answers'
/// lengths itself), `sums` (no divergence), `whole` (it looks at the whole batch: no weights of pairs either), `weights`
/// (weights only) or `none`.
///
/// A macro and not an implementation for every `PairLoss`: that would forbid other crates to implement `Objective`.
macro_rules! pair_component {
    ($(#[$meta:meta])* pub struct $name:ident, $builder:ident { $($field:tt)* } $example:ty, $reference:ident, scores) => {
        pair_component! { @divergence [$(#[$meta])*] $name, $builder, [
            $($field)*
            /// Means over the answers' tokens instead of sums, for policy and reference (turbo-alignment's option).
            pub average_log_prob: bool = false => $crate::settings::Kind::bool(),
        ] [average_log_prob] $example, $reference }
    };
    ($(#[$meta:meta])* pub struct $name:ident, $builder:ident { $($field:tt)* } $example:ty, $reference:ident, averages) => {
        pair_component! { @divergence [$(#[$meta])*] $name, $builder, [$($field)*] [] $example, $reference }
    };
    (@divergence [$($meta:tt)*] $name:ident, $builder:ident, [$($field:tt)*] [$($used:ident)*] $example:ty, $reference:ident) => {
        pair_component! { @weights [$($meta)*] $name, $builder, [
            $($field)*
            /// The divergence from the reference that is held small.
            pub f_divergence_type: $crate::objectives::Divergence = $crate::objectives::Divergence::ReverseKl =>
                $crate::settings::Kind::choice(&["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]),
            /// α of the α-divergence; 0.5 where it is left open.
            pub f_alpha_divergence_coef: Option<f64> = None => $crate::settings::Kind::number().or_none(),
            /// LD-DPO: the weight of the tokens beyond the shorter answer's length, in policy and reference.
            pub ld_alpha: Option<f64> = None => $crate::settings::Kind::number().at_least(0.0).at_most(1.0).or_none(),
        ] [$($used)* f_divergence_type f_alpha_divergence_coef ld_alpha] $example, $reference }
    };
    ($(#[$meta:meta])* pub struct $name:ident, $builder:ident { $($field:tt)* } $example:ty, $reference:ident, sums) => {
        pair_component! { @weights [$(#[$meta])*] $name, $builder, [
            $($field)*
            /// Means over the answers' tokens instead of sums, for policy and reference (turbo-alignment's option).
            pub average_log_prob: bool = false => $crate::settings::Kind::bool(),
            /// LD-DPO: the weight of the tokens beyond the shorter answer's length, in policy and reference.
            pub ld_alpha: Option<f64> = None => $crate::settings::Kind::number().at_least(0.0).at_most(1.0).or_none(),
        ] [average_log_prob ld_alpha] $example, $reference }
    };
    ($(#[$meta:meta])* pub struct $name:ident, $builder:ident { $($field:tt)* } $example:ty, $reference:ident, whole) => {
        pair_component! { @emit [$(#[$meta])*] $name, $builder, [
            $($field)*
            /// Means over the answers' tokens instead of sums, for policy and reference (turbo-alignment's option).
            pub average_log_prob: bool = false => $crate::settings::Kind::bool(),
            /// LD-DPO: the weight of the tokens beyond the shorter answer's length, in policy and reference.
            pub ld_alpha: Option<f64> = None => $crate::settings::Kind::number().at_least(0.0).at_most(1.0).or_none(),
        ] [average_log_prob ld_alpha] $example, $reference }
    };
    ($(#[$meta:meta])* pub struct $name:ident, $builder:ident { $($field:tt)* } $example:ty, $reference:ident, weights) => {
        pair_component! { @weights [$(#[$meta])*] $name, $builder, [$($field)*] [] $example, $reference }
    };
    ($(#[$meta:meta])* pub struct $name:ident, $builder:ident { $($field:tt)* } $example:ty, $reference:ident, none) => {
        pair_component! { @emit [$(#[$meta])*] $name, $builder, [$($field)*] [] $example, $reference }
    };
    (@weights [$($meta:tt)*] $name:ident, $builder:ident, [$($field:tt)*] [$($used:ident)*] $example:ty, $reference:ident) => {
        pair_component! { @emit [$($meta)*] $name, $builder, [
            $($field)*
            /// WPO: each pair's loss is weighted by how likely its answers are under the policy.
            pub use_weighting: bool = false => $crate::settings::Kind::bool(),
        ] [$($used)* use_weighting] $example, $reference }
    };
    (@emit [$($meta:tt)*] $name:ident, $builder:ident, [$($field:tt)*] [$($used:ident)*] $example:ty, $reference:ident) => {
        $crate::component! {
            $($meta)*
            pub struct $name, $builder { $($field)* }
            check = $name::check_settings;
        }

        impl $name {
            fn check_settings(&self) -> Result<(), $crate::settings::SettingError> {
                self.modifiers().check()?;
                $crate::objectives::PairLoss::rules(self)
            }

            fn modifiers(&self) -> $crate::objectives::Modifiers {
                #[allow(clippy::needless_update, reason = "a group of modifiers may name all or none of them")]
                $crate::objectives::Modifiers { $($used: self.$used,)* ..Default::default() }
            }
        }

        impl $crate::objectives::Objective for $name {
            type Example = $example;
            type Signal = $crate::objectives::TokenLogProbs;
            type Reference = $reference;

            fn wants(&self) -> $crate::objectives::Wants {
                $crate::objectives::pair_wants([self as &dyn $crate::objectives::PairLoss], &self.modifiers())
            }

            fn compares(&self) -> bool {
                $crate::objectives::PairLoss::with_reference(self)
            }

            fn mixes_examples(&self) -> bool {
                $crate::objectives::PairLoss::mixes_pairs(self)
            }

            fn loss(
                &self,
                inputs: $crate::objectives::Inputs<'_, $crate::objectives::TokenLogProbs>,
                step: &$crate::objectives::StepTotals,
                state: &mut $crate::objectives::State,
            ) -> $crate::objectives::Loss {
                $crate::objectives::pair_loss(&[(1.0, self)], self.modifiers(), inputs, step, state)
            }
        }
    };
}

pub(crate) use pair_component;
