//! The list of a checkpoint's files with their sizes and SHA-256 sums, by which damage is found.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::config_json::{Fields, JsonFile};
use super::error::CheckpointError;

/// The manifest's name in its folder.
pub(super) const MANIFEST: &str = "manifest.json";

/// Changed when the manifest's meaning changes.
const FORMAT: usize = 1;

/// One file as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Path inside the folder, with `/`.
    pub name: String,
    pub size: u64,
    pub sha256: String,
}

pub(super) fn to_json(files: &[Listed]) -> Value {
    let files: Vec<Value> =
        files.iter().map(|file| json!({"name": file.name, "size": file.size, "sha256": file.sha256})).collect();
    json!({"format": FORMAT, "files": files})
}

/// Checks that a checkpoint's folder holds every file of its manifest with the size and SHA-256 sum
/// it was written with.
///
/// # Errors
/// [`CheckpointError::Damaged`] with the first difference.
pub fn verify(dir: &Path) -> Result<(), CheckpointError> {
    let files = check_sizes(dir)?;
    files.par_iter().try_for_each(|file| {
        let path = dir.join(&file.name);
        let (_, found) =
            hash(&path).map_err(|error| CheckpointError::damaged(dir, format!("{}: {error}", file.name)))?;
        if found != file.sha256 {
            let reason = format!("{} has the SHA-256 sum {found}, its manifest says {}", file.name, file.sha256);
            return Err(CheckpointError::damaged(dir, reason));
        }
        Ok(())
    })
}

/// The cheap half of [`verify`]: the manifest is there and the files have their sizes.
pub(super) fn check_sizes(dir: &Path) -> Result<Vec<Listed>, CheckpointError> {
    let files = read(dir)?;
    for file in &files {
        let path = dir.join(&file.name);
        let found = match path.metadata() {
            Ok(found) if found.is_file() => found.len(),
            _ => {
                return Err(CheckpointError::damaged(dir, format!("{} is not there", file.name)));
            }
        };
        if found != file.size {
            let reason = format!("{} has {found} bytes, its manifest says {}", file.name, file.size);
            return Err(CheckpointError::damaged(dir, reason));
        }
    }
    Ok(files)
}

fn read(dir: &Path) -> Result<Vec<Listed>, CheckpointError> {
    let path = dir.join(MANIFEST);
    if !path.is_file() {
        return Err(CheckpointError::damaged(dir, format!("it has no {MANIFEST}, so it was not written to its end")));
    }
    let parse = || {
        let json = JsonFile::read(&path)?;
        let fields = json.fields()?;
        if fields.usize("format")? != FORMAT {
            return Err(fields.error("format", &format!("{FORMAT}, the one this version knows")));
        }
        let files =
            fields.get("files").and_then(Value::as_array).ok_or_else(|| fields.error("files", "a list of files"))?;
        files.iter().map(|file| listed(&path, file)).collect()
    };
    parse().map_err(|error: CheckpointError| CheckpointError::damaged(dir, error.to_string()))
}

fn listed(path: &Path, value: &Value) -> Result<Listed, CheckpointError> {
    let file = JsonFile::from_value(path, value.clone());
    let fields: Fields<'_> = file.fields()?;
    let name = fields.string("name")?;
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(fields.error("name", "a path inside the folder"));
    }
    Ok(Listed { name, size: fields.usize("size")? as u64, sha256: fields.string("sha256")? })
}

/// Size and SHA-256 sum of a file, read in pieces.
pub(super) fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut sum = Sha256::new();
    let mut piece = vec![0u8; 1 << 20];
    let mut size = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((size, hex(&sum.finalize())));
        }
        sum.update(&piece[..read]);
        size += read as u64;
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
