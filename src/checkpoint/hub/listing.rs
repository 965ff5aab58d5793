//! What a repository holds at one commit.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::HubError;
use super::id::HubId;
use super::names;
use crate::checkpoint::{CheckpointError, read_json, write_file};

/// The files of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    pub commit: String,
    pub files: BTreeMap<String, Entry>,
}

/// What the hub says about a file; other servers of the same interface may say less.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Bytes.
    pub size: Option<u64>,
    /// Git's hash of a file that is kept in git itself.
    pub git: Option<String>,
    /// SHA-256 of a large file.
    pub sha256: Option<String>,
}

/// Changed when the file's meaning changes; the form is that of the listings that Python's library
/// keeps, which are read too.
const FORMAT: u64 = 1;

impl Listing {
    /// Reads the hub's answer.
    ///
    /// # Errors
    /// What is wrong with it, or [`HubError::UnsafeName`].
    pub fn from_answer(id: &HubId, url: &str, answer: &Value) -> Result<Self, HubError> {
        let wrong = |reason: String| HubError::Answer { url: url.to_owned(), reason };
        let commit = answer["sha"].as_str().unwrap_or_default();
        if !names::is_commit(commit) {
            return Err(wrong(format!("`sha` is {}, expected a commit of 40 digits", brief(&answer["sha"]))));
        }
        if id.is_commit() && id.revision() != commit {
            return Err(wrong(format!("commit {} was asked for and {commit} answered", id.revision())));
        }
        let Some(siblings) = answer["siblings"].as_array() else {
            return Err(wrong(format!("`siblings` is {}, expected a list of files", brief(&answer["siblings"]))));
        };
        let mut files = BTreeMap::new();
        for sibling in siblings {
            let Some(name) = sibling["rfilename"].as_str() else {
                return Err(wrong(format!("`rfilename` is {}, expected a file's name", brief(&sibling["rfilename"]))));
            };
            if let Some(reason) = names::forged(name) {
                return Err(HubError::UnsafeName { id: id.clone(), name: name.to_owned(), reason });
            }
            let large = &sibling["lfs"];
            let sha256 = large["sha256"].as_str().filter(|sum| names::is_sha256(sum));
            let git = sibling["blobId"].as_str().filter(|sum| large.is_null() && names::is_commit(sum));
            files.insert(
                name.to_owned(),
                Entry {
                    size: large["size"].as_u64().or(sibling["size"].as_u64()),
                    git: git.map(str::to_owned),
                    sha256: sha256.map(str::to_owned),
                },
            );
        }
        Ok(Self { commit: commit.to_owned(), files })
    }

    /// Reads a listing that was kept; `None` where there is none that can be used.
    pub fn read(path: &Path, commit: &str) -> Option<Self> {
        let json = read_json(path).ok()?;
        if json["format_version"].as_u64() != Some(FORMAT) {
            return None;
        }
        let mut files = BTreeMap::new();
        for (name, file) in json["files"].as_object()? {
            if names::forged(name).is_some() {
                return None;
            }
            let sha256 = file["lfs_sha256"].as_str().map(str::to_owned);
            let size = file["lfs_size"].as_u64().or(file["size"].as_u64());
            let git = file["blob_id"].as_str().filter(|_| sha256.is_none()).map(str::to_owned);
            files.insert(name.clone(), Entry { size, git, sha256 });
        }
        Some(Self { commit: commit.to_owned(), files })
    }

    /// Keeps the listing.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let entry = |file: &Entry| {
            let mut map = Map::new();
            let mut put = |key: &str, value: Option<Value>| value.map(|value| map.insert(key.to_owned(), value));
            put("size", file.size.map(Value::from));
            put("blob_id", file.git.clone().map(Value::from));
            put("lfs_size", file.size.filter(|_| file.sha256.is_some()).map(Value::from));
            put("lfs_sha256", file.sha256.clone().map(Value::from));
            Value::from(map)
        };
        let files: Map<String, Value> = self.files.iter().map(|(name, file)| (name.clone(), entry(file))).collect();
        write_file(path, format!("{:#}\n", json!({"format_version": FORMAT, "files": files})).as_bytes())
    }
}

/// A value for a message.
fn brief(value: &Value) -> String {
    match value {
        Value::Null => "missing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => names::printable(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &Value) -> Result<Listing, HubError> {
        Listing::from_answer(&"a/b".parse().unwrap(), "http://hub", answer)
    }

    #[test]
    fn an_answer_is_read_and_kept() {
        let (commit, sum) = ("0a".repeat(20), "0b".repeat(32));
        let answer = json!({"sha": commit, "siblings": [
            {"rfilename": "config.json", "size": 3, "blobId": "1c".repeat(20)},
            {"rfilename": "model.safetensors", "size": 9, "blobId": "2c".repeat(20), "lfs": {"sha256": sum, "size": 9}},
            {"rfilename": "x/y.bin"},
        ]});
        let listing = read(&answer).unwrap();
        assert_eq!(listing.files["config.json"].git.as_deref(), Some("1c".repeat(20).as_str()));
        let large = Entry { size: Some(9), git: None, sha256: Some(sum) };
        assert_eq!(listing.files["model.safetensors"], large);
        assert_eq!(listing.files["x/y.bin"], Entry::default());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.json");
        listing.write(&path).unwrap();
        assert_eq!(Listing::read(&path, &commit), Some(listing));
        std::fs::write(&path, r#"{"format_version": 1, "files": {"../x": {}}}"#).unwrap();
        assert_eq!(Listing::read(&path, &commit), None);
    }

    #[test]
    fn an_answer_that_is_no_listing_is_refused() {
        let commit = "0a".repeat(20);
        for (answer, needle) in [
            (json!({"siblings": []}), "`sha` is missing"),
            (json!({"sha": "../..", "siblings": []}), "`sha` is \"../..\""),
            (json!({"sha": commit}), "`siblings` is missing"),
            (json!({"sha": commit, "siblings": {}}), "`siblings` is an object"),
            (json!({"sha": commit, "siblings": [{"rfilename": 3}]}), "`rfilename` is 3"),
            (json!([]), "`sha` is missing"),
        ] {
            let error = read(&answer).unwrap_err().to_string();
            assert!(error.contains(needle) && error.contains("http://hub"), "{error}");
        }
        for name in ["../config.json", "/etc/passwd", "a/../../config.json", "..\\x.json", "config.json\0"] {
            let answer = json!({"sha": commit, "siblings": [{"rfilename": name}]});
            let error = read(&answer).unwrap_err();
            assert!(matches!(error, HubError::UnsafeName { .. }), "{error}");
        }
    }
}
