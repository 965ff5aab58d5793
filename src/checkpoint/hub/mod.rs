//! Models and adapters by their Hugging Face hub id.
//!
//! [`folder`] turns what the command line says into a folder on this machine:
//! 1. What is there on disk is a path, whatever it looks like.
//! 2. Otherwise `owner/name` or `owner/name@revision` is a hub id; the revision is a branch, a tag
//!    or a commit, `main` where it is left out. The files are fetched into the hub's cache.
//! 3. Anything else is a path too, and as it is not there the error says both readings.
//!
//! # Cache
//! The cache is the one of Python's `huggingface_hub`, file for file (`blobs`, `snapshots`, `refs`,
//! `.locks`), so each finds what the other fetched. Beside these a repository's folder gets
//! `listings/<commit>.json`, which says without the hub whether a snapshot has all that is needed.
//! A blob is written under `<etag>.incomplete`, resumed there after an interruption, compared with
//! its size and its SHA-256 sum (small files: their git hash), fsynced, and only then renamed.
//!
//! # Environment
//! As Python's library reads them: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`; `HF_TOKEN`,
//! `HF_TOKEN_PATH`, the file that `hf auth login` leaves, `HF_HUB_DISABLE_IMPLICIT_TOKEN`;
//! `HF_ENDPOINT`; `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`; `HF_HUB_DOWNLOAD_TIMEOUT`,
//! `HF_HUB_ETAG_TIMEOUT`; `HF_HUB_DISABLE_SYMLINKS`; `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`; and the
//! usual proxy variables.
//!
//! # Why not the crate `hf-hub`
//! Its version 1 needs tokio, reqwest and xet. The last blocking one, 0.5, knows neither offline
//! use nor the token's variables, compares no hash, and takes the names of a listing as they come.
//! The cache's layout and four kinds of requests are what remains, over `ureq`.

mod cache;
mod client;
mod download;
mod error;
mod fetch;
mod id;
mod listing;
mod names;
mod retry;
mod select;
mod settings;
mod watch;

use std::path::{Path, PathBuf};

pub use error::HubError;
pub use fetch::Hub;
pub use id::{HubId, Place};
pub use retry::Retries;
pub use select::Wanted;
pub use settings::{HubSettings, Token};
pub use watch::Watch;

/// The folder that `text` names: itself where it is on this machine, otherwise the snapshot of the
/// hub id that it is.
///
/// ```no_run
/// use firebrick::checkpoint::hub::{self, Wanted};
/// let folder = hub::folder("someone/small-model@v1.0".as_ref(), Wanted::Model, &mut ())?;
/// # Ok::<(), hub::HubError>(())
/// ```
///
/// # Errors
/// [`HubError`]; nothing is ever left half-written under its final name.
pub fn folder(text: &Path, wanted: Wanted, watch: &mut dyn Watch) -> Result<PathBuf, HubError> {
    match Place::of(text)? {
        Place::Folder(path) => Ok(path),
        Place::Hub(id) => Hub::from_env()?.fetch(&id, wanted, watch),
    }
}

#[cfg(test)]
mod tests;
