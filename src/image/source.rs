//! Where an encoded picture is.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ImageError, Rgb8, decode, decode_bytes};

/// An encoded picture (PNG, JPEG, WebP, BMP or GIF).
#[derive(Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// Its bytes.
    Bytes(Arc<[u8]>),
    /// The file that holds them.
    File(PathBuf),
}

impl ImageSource {
    /// What errors call a picture that has no file.
    const UNNAMED: &str = "the picture";

    /// The picture.
    ///
    /// # Errors
    /// [`ImageError`] with the file, where there is one, and the reason.
    pub fn decode(&self) -> Result<Rgb8, ImageError> {
        match self {
            Self::Bytes(bytes) => decode_bytes(bytes, Path::new(Self::UNNAMED)),
            Self::File(path) => decode(path),
        }
    }

    /// The encoded bytes.
    ///
    /// # Errors
    /// What the operating system says of the file.
    pub fn bytes(&self) -> std::io::Result<Cow<'_, [u8]>> {
        Ok(match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::File(path) => std::fs::read(path)?.into(),
        })
    }
}

impl From<PathBuf> for ImageSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl std::fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}
