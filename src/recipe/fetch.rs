//! Folders named by a path or by an id of the Hugging Face hub.

use super::{Arguments, RecipeError};
use crate::checkpoint::hub::{self, Place, Wanted, Watch};
use crate::trainer::progress::Progress;
use std::path::{Path, PathBuf};

/// The folder that `text` names, fetched from the hub where it is an id.
///
/// # Errors
/// [`RecipeError::Hub`].
pub(super) fn folder(text: &Path, wanted: Wanted) -> Result<PathBuf, RecipeError> {
    let mut shown = Shown::default();
    Ok(hub::folder(text, wanted, &mut shown)?)
}

/// Command-line arguments whose folders are on this machine.
///
/// # Errors
/// [`RecipeError::Hub`].
pub(super) fn arguments(given: &Arguments) -> Result<Arguments, RecipeError> {
    let mut arguments = given.clone();
    // A dry run reads no weights, and fetches none.
    let model = if given.dry_run { Wanted::ModelWithoutWeights } else { Wanted::Model };
    for (place, wanted) in [(&mut arguments.model, model), (&mut arguments.adapter, Wanted::Adapter)] {
        if let Some(path) = place {
            *path = folder(path, wanted)?;
        }
    }
    Ok(arguments)
}

/// Whether `text` is an id of the hub and not a path.
pub(super) fn is_remote(text: &Path) -> bool {
    matches!(Place::of(text), Ok(Place::Hub(_)))
}

/// Shows a download: one bar over the weights.
#[derive(Default)]
struct Shown {
    bar: Option<Progress>,
    /// Bytes of the current file that the bar has counted.
    counted: u64,
}

impl Watch for Shown {
    fn plan(&mut self, files: usize, bytes: u64) {
        if files > 0 {
            self.bar = Some(Progress::bytes(bytes, "fetching"));
        }
    }

    fn begin(&mut self, _file: &str, _bytes: u64, done: u64) {
        // What is there already was not planned.
        self.counted = done;
    }

    fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(done.saturating_sub(self.counted));
        }
        self.counted = self.counted.max(done);
    }

    fn message(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.message(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
