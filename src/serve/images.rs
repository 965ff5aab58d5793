//! Pictures of requests: where they may come from, and what their headers say.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::error::ApiError;
use super::settings::Limits;
use crate::engine::ImageSource;
use crate::image::{probe_bytes, without_extras};

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads the pictures of one request.
#[derive(Debug)]
pub(super) struct Pictures<'a> {
    root: Option<&'a Path>,
    limits: Limits,
    pixels: u64,
    /// Of all files together.
    bytes: usize,
    count: usize,
}

impl<'a> Pictures<'a> {
    /// `root` is canonical: a path without links.
    pub fn new(root: Option<&'a Path>, limits: Limits) -> Self {
        Self { root, limits, pixels: 0, bytes: 0, count: 0 }
    }

    /// The picture at `url`, which stands in the field `at`.
    pub fn read(&mut self, url: &str, at: &str) -> Result<ImageSource, ApiError> {
        self.count += 1;
        if self.count > self.limits.images {
            return Err(ApiError::field(at, format!("a request may have {} pictures", self.limits.images)));
        }
        let bytes = match url.strip_prefix("data:") {
            Some(data) => self.data(data, at)?,
            None => self.file(url, at)?,
        };
        let bytes = without_extras(&bytes);
        let (width, height) =
            probe_bytes(&bytes, Path::new("the picture")).map_err(|error| ApiError::field(at, error))?;
        self.pixels = self.pixels.saturating_add(u64::from(width) * u64::from(height));
        if self.pixels > self.limits.pixels {
            let limit = self.limits.pixels;
            let problem = format!("with {width}x{height} pixels the request has more than {limit}; scale it down");
            return Err(ApiError::field(at, problem));
        }
        Ok(ImageSource::Bytes(bytes.into_owned().into()))
    }

    fn data(&self, data: &str, at: &str) -> Result<Vec<u8>, ApiError> {
        let Some((head, encoded)) = data.split_once(',').filter(|(head, _)| head.ends_with(";base64")) else {
            return Err(ApiError::field(at, "a data URL must be data:image/…;base64,…"));
        };
        if !head.starts_with("image/") && !head.starts_with("application/octet-stream") {
            return Err(ApiError::field(at, "the data URL's type is not image/…"));
        }
        if encoded.len() / 4 * 3 > self.limits.image_bytes + 3 {
            return Err(self.too_long(at));
        }
        BASE64.decode(encoded).map_err(|error| ApiError::field(at, format!("the data URL is not base64: {error}")))
    }

    fn file(&mut self, url: &str, at: &str) -> Result<Vec<u8>, ApiError> {
        let path = match url.split_once("://") {
            Some(("file", path)) => path,
            Some(_) => {
                let problem = "pictures are not fetched from elsewhere; send it as a data URL: data:image/png;base64,…";
                return Err(ApiError::field(at, problem));
            }
            None => url,
        };
        let Some(root) = self.root else {
            let problem = "files are not read: the server was started without a folder for images; send a data URL";
            return Err(ApiError::field(at, problem));
        };
        // One answer to all that is wrong with a path, so that nobody learns what else there is.
        let unreadable = || ApiError::field(at, "there is no such picture under the server's folder for images");
        let file = open(root, path).ok_or_else(unreadable)?;
        let mut bytes = Vec::new();
        let left = self.limits.body_bytes.saturating_sub(self.bytes);
        let limit = self.limits.image_bytes;
        file.take(limit.min(left) as u64 + 1).read_to_end(&mut bytes).map_err(|_| unreadable())?;
        self.bytes += bytes.len();
        match bytes.len() {
            length if length > limit => Err(self.too_long(at)),
            length if length > left => {
                let most = self.limits.body_bytes;
                let words =
                    format!("`{at}`: the request's picture files are longer than {most} bytes together; name fewer");
                Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, words))
            }
            _ => Ok(bytes),
        }
    }

    fn too_long(&self, at: &str) -> ApiError {
        let problem = format!("the picture's file is longer than {} bytes; scale it down", self.limits.image_bytes);
        ApiError::field(at, problem)
    }
}

/// Opens a regular file under `root`. Links are followed only as long as they stay under it.
fn open(root: &Path, path: &str) -> Option<File> {
    if path.contains('\0') {
        return None;
    }
    let found = root.join(path).canonicalize().ok()?;
    let inside = found.strip_prefix(root).ok()?;
    let parts: Option<Vec<PathBuf>> = inside
        .components()
        .map(|part| match part {
            Component::Normal(name) => Some(PathBuf::from(name)),
            _ => None,
        })
        .collect();
    let file = open_beneath(root, &parts?)?;
    file.metadata().ok()?.is_file().then_some(file)
}

/// The path has no links; where somebody puts one there meanwhile, it is not followed.
#[cfg(unix)]
fn open_beneath(root: &Path, parts: &[PathBuf]) -> Option<File> {
    use rustix::fs::{Mode, OFlags, open, openat};
    // Not waiting for a pipe's other end.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut at = open(root, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let (name, folders) = parts.split_last()?;
    for folder in folders {
        at = openat(&at, folder, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    }
    Some(File::from(openat(&at, name, flags, Mode::empty()).ok()?))
}

#[cfg(not(unix))]
fn open_beneath(root: &Path, parts: &[PathBuf]) -> Option<File> {
    File::open(parts.iter().fold(root.to_path_buf(), |path, part| path.join(part))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_request_are_bounded_together() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        image::RgbImage::new(2, 2).save(root.join("a.png")).unwrap();
        let size = std::fs::metadata(root.join("a.png")).unwrap().len() as usize;
        let mut pictures = Pictures::new(Some(&root), Limits { body_bytes: 2 * size, ..Limits::default() });
        assert!(pictures.read("a.png", "x").is_ok() && pictures.read("a.png", "x").is_ok());
        let error = pictures.read("a.png", "x").unwrap_err();
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(error.body.message.contains("name fewer"), "{}", error.body.message);
    }
}
