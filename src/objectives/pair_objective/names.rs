//! The losses by their names.

use super::super::*;
use crate::settings::{Component, Given, Parameter, SettingError};
use serde_json::{Map, Value};

macro_rules! losses {
    ($($(#[doc = $doc:expr])+ $variant:ident = $name:literal => $component:ident,)+) => {
        /// A loss over pairs by its name: TRL's where it has one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum PairLossName {
            $(
                $(#[doc = $doc])+
                #[serde(rename = $name)]
                $variant,
            )+
        }

        impl PairLossName {
            /// Every name, as it is written in settings.
            pub const ALL: &'static [&'static str] = &[$($name),+];

            /// Every loss, in the order of [`ALL`](Self::ALL).
            pub const EVERY: &'static [Self] = &[$(Self::$variant),+];

            /// The table of the loss's own parameters.
            pub(super) fn parameters(self) -> &'static [Parameter] {
                match self {
                    $(Self::$variant => <$component as Component>::PARAMETERS,)+
                }
            }

            /// The loss with those of the parameters `given` that it reads.
            pub(super) fn build(self, given: &Map<String, Value>) -> Result<Box<dyn PairLoss>, SettingError> {
                match self {
                    $(Self::$variant => Ok(Box::new(reading::<$component>(given)?)),)+
                }
            }
        }

        impl std::fmt::Display for PairLossName {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $name,)+
                })
            }
        }
    };
}

losses! {
    /// [`Dpo`].
    Sigmoid = "sigmoid" => Dpo,
    /// [`DpoMargin`].
    SigmoidWithMargin = "sigmoid_with_margin" => DpoMargin,
    /// [`RobustDpo`].
    Robust = "robust" => RobustDpo,
    /// [`Hinge`].
    Hinge = "hinge" => Hinge,
    /// [`Ipo`].
    Ipo = "ipo" => Ipo,
    /// [`KtoPair`].
    KtoPair = "kto_pair" => KtoPair,
    /// [`SlicHf`].
    SlicHf = "slic_hf" => SlicHf,
    /// [`Cpo`].
    Cpo = "cpo" => Cpo,
    /// [`Orpo`].
    Orpo = "orpo" => Orpo,
    /// [`Simpo`].
    Simpo = "simpo" => Simpo,
    /// [`Asft`].
    Asft = "asft" => Asft,
    /// [`ApoZero`].
    ApoZero = "apo_zero" => ApoZero,
    /// [`ApoDown`].
    ApoDown = "apo_down" => ApoDown,
    /// [`Dpop`].
    Dpop = "dpop" => Dpop,
    /// [`NcaPair`].
    NcaPair = "nca_pair" => NcaPair,
    /// [`CalDpo`].
    CalDpo = "cal_dpo" => CalDpo,
    /// [`ExoPair`].
    ExoPair = "exo_pair" => ExoPair,
    /// [`BcoPair`].
    BcoPair = "bco_pair" => BcoPair,
    /// [`SppoHard`].
    SppoHard = "sppo_hard" => SppoHard,
    /// [`Aot`].
    Aot = "aot" => Aot,
    /// [`AotUnpaired`].
    AotUnpaired = "aot_unpaired" => AotUnpaired,
    /// [`Discopop`].
    Discopop = "discopop" => Discopop,
    /// [`SigmoidNorm`].
    SigmoidNorm = "sigmoid_norm" => SigmoidNorm,
    /// [`DenseDpo`].
    DenseDpo = "dense_dpo" => DenseDpo,
    /// [`RDpo`].
    RDpo = "r_dpo" => RDpo,
    /// [`ChosenSft`].
    Sft = "sft" => ChosenSft,
}

/// The component with the parameters it has among `given`.
fn reading<C: Component>(given: &Map<String, Value>) -> Result<C, SettingError> {
    let read = C::PARAMETERS.iter().filter_map(|row| Some((row.name, given.get(row.name)?)));
    read.fold(Given::<C>::new(), |settings, (name, value)| settings.set(name, value)).build()
}
