//! One file from the hub into the cache: resumed, compared, and whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::cache::RepoCache;
use super::client::{Client, Remote, broke_off, header};
use super::error::HubError;
use super::id::HubId;
use super::listing::Entry;
use super::names;
use super::retry::{Backoff, Failure, Retries};
use super::watch::Watch;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::leftovers::{rename, sync_parent};

/// Bytes read at once; between two reads the user may stop the download.
const CHUNK: usize = 1 << 18;
/// Contents that twice do not fit their sum never will.
const DAMAGED: u32 = 2;

/// A file to be fetched.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub id: &'a HubId,
    pub commit: &'a str,
    pub file: &'a str,
    pub etag: &'a str,
    pub size: u64,
    pub sum: Sum,
}

/// What the contents are compared with, in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sum {
    /// Of the contents.
    Sha256(String),
    /// Git's: SHA-1 of `blob `, the length, a zero byte, and the contents.
    Git(String),
    /// The server has none, and the length must do.
    Unknown,
}

impl Sum {
    /// What ETag and listing say together.
    pub fn new(remote: &Remote, entry: &Entry) -> Self {
        match (&entry.sha256, &entry.git) {
            (Some(sum), _) => Self::Sha256(sum.clone()),
            _ if names::is_sha256(&remote.etag) => Self::Sha256(remote.etag.clone()),
            (_, Some(sum)) => Self::Git(sum.clone()),
            _ => Self::Unknown,
        }
    }
}

/// Fetches the contents into the blob of the task's ETag, whose lock is held.
///
/// # Errors
/// [`HubError`]; what came so far stays under its own name for the next time.
pub(super) fn fetch(
    client: &Client<'_>,
    cache: &RepoCache,
    task: &Task<'_>,
    retries: Retries,
    watch: &mut dyn Watch,
) -> Result<(), HubError> {
    cache.prepare()?;
    let mut partial = Partial::open(cache.partial(task.etag), task)?;
    let left = task.size - partial.length;
    if let Some(free) = cache.free().filter(|free| *free < left) {
        return Err(HubError::NoSpace { path: cache.dir().to_path_buf(), needed: left, free: Some(free) });
    }
    watch.begin(task.file, task.size, partial.length);
    let mut backoff = Backoff::new(retries, task.id);
    let (mut furthest, mut damaged) = (partial.length, 0);
    loop {
        let failure = match partial.fill(client, task, watch).and_then(|()| partial.compare(task)) {
            Ok(()) => break,
            Err(failure) => failure,
        };
        if matches!(&failure, Failure::Again { error: HubError::Corrupt { .. }, .. }) {
            partial.restart(task)?;
            damaged += 1;
            if let (DAMAGED.., Failure::Again { error, .. }) = (damaged, failure) {
                partial.discard();
                return Err(error);
            }
            continue;
        }
        if partial.length > furthest {
            furthest = partial.length;
            backoff.progressed();
        }
        backoff.failed(failure, watch)?;
    }
    partial.finish(&cache.blob(task.etag))?;
    watch.end();
    Ok(())
}

/// The contents so far.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    sum: Running,
}

/// A sum that is computed while the bytes come.
enum Running {
    Sha256(Sha256),
    Git(Sha1),
    Unknown,
}

impl Running {
    fn new(sum: &Sum, size: u64) -> Self {
        match sum {
            Sum::Sha256(_) => Self::Sha256(Sha256::new()),
            Sum::Git(_) => Self::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
            Sum::Unknown => Self::Unknown,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Git(sum) => sum.update(bytes),
            Self::Unknown => {}
        }
    }

    fn finish(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(sum) => hex(&sum.clone().finalize()),
            Self::Git(sum) => hex(&sum.clone().finalize()),
            Self::Unknown => String::new(),
        }
    }
}

impl Partial {
    /// Opens what an earlier attempt left, and sums it up.
    fn open(path: PathBuf, task: &Task<'_>) -> Result<Self, HubError> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(CheckpointError::io(&path, "opening"))?;
        let mut sum = Running::new(&task.sum, task.size);
        let mut length = file.metadata().map_err(CheckpointError::io(&path, "reading the length"))?.len();
        if length > task.size {
            file.set_len(0).map_err(CheckpointError::io(&path, "cutting"))?;
            length = 0;
        }
        let mut buffer = vec![0; CHUNK];
        let mut left = length;
        while left > 0 {
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut buffer[..part]).map_err(CheckpointError::io(&path, "reading"))?;
            sum.update(&buffer[..part]);
            left -= part as u64;
        }
        Ok(Self { path, file, length, sum })
    }

    /// Fetches what is missing.
    fn fill(&mut self, client: &Client<'_>, task: &Task<'_>, watch: &mut dyn Watch) -> Result<(), Failure> {
        if self.length == task.size {
            return Ok(());
        }
        let answer = client.open(task.commit, task.file, self.length)?;
        let url = client.address(task.commit, task.file);
        if !self.continues(&answer, task) {
            self.restart(task)?;
            watch.at(0);
            if answer.status() != 200 {
                let reason = format!("asked to go on, the server answered {} for other bytes", answer.status());
                return Err(Failure::again(HubError::Network { url, reason }));
            }
        }
        let left = task.size - self.length;
        let announced = header(answer.headers(), "content-length").and_then(|length| length.parse::<u64>().ok());
        if let Some(announced) = announced.filter(|announced| *announced != left) {
            let found = format!("the server announces {announced} where {left} are missing");
            return Err(Failure::again(task.length(found)));
        }
        // One byte more than expected is enough to see that there are more.
        let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader().take(left + 1);
        let mut buffer = vec![0; CHUNK];
        loop {
            if watch.interrupted() {
                return Err(HubError::Interrupted { id: task.id.clone() }.into());
            }
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broke_off(&url, &error)),
            };
            let more = self.length + count as u64;
            if more > task.size {
                self.restart(task)?;
                return Err(Failure::again(task.length("more come".to_owned())));
            }
            self.put(&buffer[..count], task)?;
            watch.at(self.length);
        }
        match self.length == task.size {
            true => Ok(()),
            false => Err(Failure::again(task.length(format!("{} came", self.length)))),
        }
    }

    /// Whether an answer goes on where we are.
    fn continues(&self, answer: &Response<Body>, task: &Task<'_>) -> bool {
        if self.length == 0 {
            return answer.status() == 200;
        }
        let range = header(answer.headers(), "content-range").unwrap_or_default();
        let range = range.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
        let from = range.and_then(|(span, _)| span.split_once('-')).and_then(|(from, _)| from.parse::<u64>().ok());
        let total = range.map_or("", |(_, total)| total);
        answer.status() == 206 && from == Some(self.length) && (total == "*" || total == task.size.to_string())
    }

    fn put(&mut self, bytes: &[u8], task: &Task<'_>) -> Result<(), HubError> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                HubError::NoSpace { path: self.path.clone(), needed: task.size - self.length, free: None }
            }
            _ => CheckpointError::io(&self.path, "writing")(error).into(),
        })?;
        self.sum.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Compares the whole contents with their sum.
    fn compare(&self, task: &Task<'_>) -> Result<(), Failure> {
        let (kind, expected) = match &task.sum {
            Sum::Sha256(expected) => ("SHA-256", expected),
            Sum::Git(expected) => ("git", expected),
            Sum::Unknown => return Ok(()),
        };
        let found = self.sum.finish();
        if found == *expected {
            return Ok(());
        }
        Err(Failure::again(HubError::Corrupt {
            id: task.id.clone(),
            file: task.file.to_owned(),
            kind,
            expected: expected.clone(),
            found,
        }))
    }

    /// Throws the contents away.
    fn restart(&mut self, task: &Task<'_>) -> Result<(), HubError> {
        let cut = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cut.map_err(CheckpointError::io(&self.path, "cutting"))?;
        self.length = 0;
        self.sum = Running::new(&task.sum, task.size);
        Ok(())
    }

    /// Removes the file; nothing of it is worth keeping.
    fn discard(self) {
        drop(self.file);
        // The error that brought us here is the one to report, and the file is empty.
        let _ = fs::remove_file(&self.path);
    }

    /// Gives the contents their final name.
    fn finish(self, blob: &Path) -> Result<(), CheckpointError> {
        self.file.sync_all().map_err(CheckpointError::io(&self.path, "fsync"))?;
        drop(self.file);
        rename(&self.path, blob)?;
        sync_parent(blob)
    }
}

impl Task<'_> {
    fn length(&self, found: String) -> HubError {
        HubError::Length { id: self.id.clone(), file: self.file.to_owned(), expected: self.size, found }
    }
}
