//! Hub ids, and which text is one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::HubError;
use super::names;

/// The revision that is meant where none is given.
const DEFAULT_REVISION: &str = "main";

/// Longest `owner/name` that the hub gives out.
const LONGEST: usize = 96;

/// `owner/name` or `owner/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    repo: String,
    revision: String,
}

impl HubId {
    /// `owner/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// Branch, tag or commit; `main` where none was given.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Whether the revision is a full commit, whose files never change.
    pub fn is_commit(&self) -> bool {
        names::is_commit(&self.revision)
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if self.revision != DEFAULT_REVISION {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

impl FromStr for HubId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let refuse = |reason| HubError::Id { text: text.to_owned(), reason };
        let (repo, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        if let Some(reason) = no_repo(repo) {
            return Err(refuse(reason));
        }
        match names::no_revision(revision) {
            Some(reason) => Err(refuse(reason)),
            None => Ok(Self { repo: repo.to_owned(), revision: revision.to_owned() }),
        }
    }
}

/// Why `repo` is not the `owner/name` of a repository, by the hub's own rules.
fn no_repo(repo: &str) -> Option<&'static str> {
    let Some((owner, name)) = repo.split_once('/') else {
        return Some("it has no owner in front of a slash");
    };
    if name.contains('/') {
        return Some("it has more than one slash");
    }
    if repo.len() > LONGEST {
        return Some("it is longer than 96 characters");
    }
    for part in [owner, name] {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Some("owner and name have letters, digits and ._- only");
        }
        if part.starts_with(['.', '-']) || part.ends_with(['.', '-']) {
            return Some("owner and name begin and end with none of . and -");
        }
        // `--` stands for the slash in the cache's folders.
        if part.contains("--") || part.contains("..") {
            return Some("owner and name have neither -- nor .. in them");
        }
    }
    name.ends_with(".git").then_some("the name ends with .git")
}

/// What the text given as a model or an adapter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It is on this machine.
    Folder(PathBuf),
    /// It is not, and has the form of a hub id.
    Hub(HubId),
}

impl Place {
    /// Decides between the two; what is there on disk is a path, whatever it looks like.
    ///
    /// # Errors
    /// [`HubError::NoFolder`] for what is neither, [`HubError::Id`] for an id with an impossible
    /// revision.
    pub fn of(text: &Path) -> Result<Self, HubError> {
        if is_there(text) {
            return Ok(Self::Folder(text.to_path_buf()));
        }
        let no_folder = |reason| HubError::NoFolder { path: text.to_path_buf(), reason };
        let Some(id) = text.to_str() else {
            return Err(no_folder("it is not Unicode"));
        };
        let repo = id.split_once('@').map_or(id, |(repo, _)| repo);
        match no_repo(repo) {
            Some(reason) => Err(no_folder(reason)),
            None => id.parse().map(Self::Hub),
        }
    }
}

/// Whether something has this path. What may not be looked at, and a link to nowhere, are there.
fn is_there(path: &Path) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), NotFound | NotADirectory | InvalidInput | InvalidFilename),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_and_written() {
        for (text, repo, revision) in [
            ("a/b", "a/b", "main"),
            ("Owner_1/Name-2.5B", "Owner_1/Name-2.5B", "main"),
            ("a/b@refs/pr/7", "a/b", "refs/pr/7"),
            ("a/b@v1.0", "a/b", "v1.0"),
        ] {
            let id: HubId = text.parse().unwrap();
            assert_eq!((id.repo(), id.revision(), id.to_string().as_str()), (repo, revision, text));
        }
        let commit: HubId = format!("a/b@{}", "0a".repeat(20)).parse().unwrap();
        assert!(commit.is_commit() && !"a/b@0a0a0a0".parse::<HubId>().unwrap().is_commit());
    }

    #[test]
    fn anything_else_is_a_path_and_says_both_readings() {
        for text in [
            "model",
            "",
            "/etc/nothing-here",
            "../x",
            "./x",
            "~/x",
            "a/b/c",
            "a//b",
            "a/",
            "/a",
            "a\\b/c",
            "C:\\models\\x",
            "c:/x",
            "a/b.git",
            "a--b/c",
            "a/..",
            "a/.b",
            "-a/b",
            "a/b-",
            "a b/c",
            "a/b\0",
            "ü/b",
            "a/b:c",
        ] {
            let error = Place::of(Path::new(text)).expect_err(text).to_string();
            assert!(error.contains("no such folder") && error.contains("owner/name"), "{text:?}: {error}");
        }
        assert!(Place::of(Path::new(&format!("a/{}", "x".repeat(95)))).is_err());
        let error = Place::of(Path::new("a/b@../../x")).unwrap_err().to_string();
        assert!(error.contains("\"a/b@../../x\" cannot be a hub id: no part of a revision"), "{error}");
    }

    #[test]
    fn what_is_on_disk_is_a_path() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Place::of(dir.path()).unwrap(), Place::Folder(dir.path().to_path_buf()));
        // Tests run in the package's folder; both have the form of an id.
        assert_eq!(Place::of(Path::new("src/lib.rs")).unwrap(), Place::Folder("src/lib.rs".into()));
        assert_eq!(Place::of(Path::new("src/absent")).unwrap(), Place::Hub("src/absent".parse().unwrap()));
    }
}
