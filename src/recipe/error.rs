//! What can be wrong before training begins.

use crate::adapters::AdapterError;
use crate::adapters::lora::CombineError;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::hub::HubError;
use crate::data::DataError;
use crate::device::DeviceError;
use crate::image::ImageError;
use crate::projector::ProjectorError;
use crate::settings::SettingError;
use crate::text::TextError;
use crate::trainer::TrainError;
use std::path::PathBuf;

/// A recipe that cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// A setting that is unknown or out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A device that cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A checkpoint that does not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A hub id that cannot be fetched.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A projector that does not fit.
    #[error(transparent)]
    Projector(#[from] ProjectorError),
    /// An adapter that cannot be attached or read.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A tokenizer or template that does not fit.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An image processor that does not fit.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A record that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A run that does not fit.
    #[error("{plan}\n{advice}")]
    Memory {
        /// What takes the memory, and how much there is.
        plan: String,
        /// What to change.
        advice: String,
    },
    /// A made model or data set that could not be written.
    #[error(transparent)]
    Made(#[from] super::made::MadeError),
    /// A run that cannot go on.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Stored log-probabilities of a reference that cannot be used.
    #[error(transparent)]
    Stored(#[from] crate::trainer::anchor::StoredError),
    /// A checkpoint of another family than the recipe's.
    #[error("{}: model_type is {found}, but `{slot}: {component}` reads {reads}; {advice}", file.display())]
    Family {
        /// The configuration.
        file: PathBuf,
        /// The recipe's slot.
        slot: &'static str,
        /// What the recipe has in it.
        component: &'static str,
        /// What the file says.
        found: String,
        /// What the component reads.
        reads: String,
        /// What to write instead.
        advice: String,
    },
    /// A folder whose structure is not the recipe's.
    #[error("{}: {problem}; {advice}", dir.display())]
    Structure {
        /// The folder.
        dir: PathBuf,
        /// What does not agree.
        problem: String,
        /// What to do.
        advice: String,
    },
    /// Records that were refused.
    #[error("{count} of {total} records cannot be used:\n{listed}\n{advice}")]
    Records {
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
        /// The first of them, a line each.
        listed: String,
        /// What to do.
        advice: &'static str,
    },
    /// An adapter's folder that does not suit the model or the recipe.
    #[error("{}: the adapter does not suit this model and recipe: {source}", dir.display())]
    AdapterFolder {
        /// The adapter's folder.
        dir: PathBuf,
        /// Why.
        source: AdapterError,
    },
    /// Adapters that have no weighted sum.
    #[error("{layer}: {source}")]
    Combine {
        /// The layer in which they differ.
        layer: String,
        /// Why.
        source: CombineError,
    },
    /// An option that does not go with another, or lacks one.
    #[error("{0}")]
    Usage(String),
    /// Something stands where a tool would write.
    #[error("{}: holds something already; name another place to write to", .0.display())]
    OutputTaken(PathBuf),
    /// An output folder that holds something.
    #[error("{}: the folder is not empty; choose another --output, or continue its run with --resume", .0.display())]
    OutputNotEmpty(PathBuf),
    /// A resumed run whose settings or data changed.
    #[error("{}: the run cannot be continued, because it was started with other settings or data:\n{changes}\nuse the former values, or start a new run in another --output", run.display())]
    Changed {
        /// The run folder.
        run: PathBuf,
        /// A line per difference.
        changes: String,
    },
    /// A file that could not be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

impl From<crate::trainer::AnswerError> for RecipeError {
    fn from(error: crate::trainer::AnswerError) -> Self {
        Self::Train(error.into())
    }
}

impl RecipeError {
    /// 2 for what was typed wrongly, 1 for the rest.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Setting(_) | Self::Usage(_) => 2,
            _ => 1,
        }
    }

    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
