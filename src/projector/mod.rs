//! Projectors from image features to the language model's width: one folder each.

pub mod identity;
pub mod linear;
pub mod mlp;

use crate::nn;
use crate::settings::Component;
use crate::vision::{FeatureKind, NoFeatures};
use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};

pub use identity::Identity;
pub use linear::Linear;
pub use mlp::{Mlp, Mlp2xGelu};

/// What stands in a recipe's `projector` slot.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a projector",
    label = "the slot `projector` takes a projector, for example `Mlp2xGelu`",
    note = "write `projector: Mlp2xGelu`, `Mlp<depth: 3>`, `Linear` or `Identity`, or implement \
            `firebrick::projector::Projector` for `{Self}`"
)]
pub trait Projector: Component {
    /// The module that holds its weights.
    type Model: ProjectorModel;

    /// A fresh projector from features of width `from` to width `to`.
    ///
    /// # Errors
    /// A [`ProjectorError`] where the widths do not suit it.
    fn build(&self, from: usize, to: usize, device: &Device) -> Result<Self::Model, ProjectorError>;

    /// The file or folder that the projector's weights come from, where they are not those of the model's folder: LLaVA's
    /// second stage starts with the projector of the first.
    fn source(&self) -> Option<std::path::PathBuf> {
        None
    }

    /// The projector as a LLaVA `config.json` describes it, given the keys that the checkpoint has for it: `Err` says
    /// what to write instead where the recipe's projector and the checkpoint's disagree.
    ///
    /// # Errors
    /// [`ProjectorError::Mismatch`].
    fn check_keys(&self, keys: &[String]) -> Result<(), ProjectorError>;
}

/// Says that a projector understands a kind of features.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a projector that accepts features of the kind `{F}`",
    label = "does not fit the encoder in the slot `vision`",
    note = "write a projector that accepts the encoder's features; `Mlp2xGelu`, `Mlp<depth: n>`, `Linear` and `Identity` \
            accept `Patches`",
    note = "a projector of your own accepts `{F}` with `impl firebrick::projector::Accepts<{F}> for {Self} {{}}`"
)]
pub trait Accepts<F: FeatureKind>: Projector {}

/// The weights of a projector.
pub trait ProjectorModel: Module + ModuleDisplay + Sync {
    /// # Shapes
    /// `[n, tokens, from]` to `[n, tokens', to]`.
    fn forward(&self, features_ntd: Tensor<3>) -> Tensor<3>;

    /// Every linear layer, with its path inside the projector: what can be held in fewer bits while it is frozen. None, where
    /// nothing else is said.
    fn visit_linears(&mut self, _visit: &mut dyn FnMut(&str, &mut nn::Linear)) {}

    /// How many tokens an image has after projection, given how many the encoder yields.
    fn tokens(&self, encoder_tokens: usize) -> usize {
        encoder_tokens
    }

    /// The key of a parameter below `multi_modal_projector.` in a Hugging Face checkpoint.
    fn file_key(&self, parameter: &str) -> String;

    /// The key of a parameter below `model.mm_projector.` in a checkpoint of LLaVA's original code.
    fn original_key(&self, parameter: &str) -> String {
        self.file_key(parameter)
    }
}

/// A projector that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectorError {
    /// `Identity` between different widths.
    #[error(
        "the projector `Identity` needs equal widths, but the encoder yields {from} and the language model takes {to}; use \
         `projector: Linear` or `Mlp2xGelu`"
    )]
    Widths {
        /// Width of the encoder's features.
        from: usize,
        /// Width of the language model.
        to: usize,
    },
    /// The checkpoint holds another projector than the recipe names.
    #[error("the recipe says `projector: {recipe}` but the checkpoint holds {found}; write `projector: {instead}`")]
    Mismatch {
        /// The recipe's projector.
        recipe: String,
        /// What the checkpoint's keys show.
        found: String,
        /// The slot's value that would fit.
        instead: String,
    },
}

crate::component! {
    /// The empty `projector` slot of a language model alone.
    pub struct NoProjector, NoProjectorBuilder {}
}

impl Projector for NoProjector {
    type Model = identity::IdentityModel;

    fn build(&self, _from: usize, _to: usize, _device: &Device) -> Result<Self::Model, ProjectorError> {
        Ok(identity::IdentityModel {})
    }

    fn check_keys(&self, _keys: &[String]) -> Result<(), ProjectorError> {
        Ok(())
    }
}

impl Accepts<NoFeatures> for NoProjector {}

/// How many linear layers a checkpoint's projector keys (`linear_1.weight`, …) show.
pub(crate) fn depth_of(keys: &[String]) -> usize {
    keys.iter().filter(|k| k.ends_with(".weight")).count()
}

/// The error for a projector of `depth` linear layers under a recipe that names another.
pub(crate) fn mismatch(recipe: String, depth: usize) -> ProjectorError {
    let instead = match depth {
        0 => "Identity".to_owned(),
        1 => "Linear".to_owned(),
        2 => "Mlp2xGelu".to_owned(),
        n => format!("Mlp<depth: {n}>"),
    };
    ProjectorError::Mismatch { recipe, found: format!("{depth} linear layers"), instead }
}
