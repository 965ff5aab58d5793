//! A whole snapshot: from the hub where it answers, from the cache where it must.

use std::path::PathBuf;

use super::cache::{RepoCache, has};
use super::client::{Client, Remote};
use super::download::{self, Sum, Task};
use super::error::HubError;
use super::id::HubId;
use super::listing::{Entry, Listing};
use super::names;
use super::retry::{Backoff, Failure, Retries};
use super::select::{self, Wanted, Weights};
use super::settings::HubSettings;
use super::watch::Watch;

/// A Hugging Face hub and its cache on this machine.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: HubSettings,
}

impl Hub {
    /// The hub that the environment names.
    ///
    /// # Errors
    /// As [`HubSettings::from_env`].
    pub fn from_env() -> Result<Self, HubError> {
        Ok(Self::new(HubSettings::from_env()?))
    }

    /// A hub by its settings.
    pub fn new(settings: HubSettings) -> Self {
        Self { settings }
    }

    /// Fetches what is `wanted` of a repository and returns the snapshot's folder.
    ///
    /// Files that are in the cache are not fetched again. A commit whose files are all there is not
    /// even asked for. Where the hub cannot be reached, the cache stands in for it, and `watch` is
    /// told; offline, it alone is asked.
    ///
    /// # Errors
    /// [`HubError`]; what was fetched stays, and is resumed the next time.
    pub fn fetch(&self, id: &HubId, wanted: Wanted, watch: &mut dyn Watch) -> Result<PathBuf, HubError> {
        let session = Session { settings: &self.settings, id, wanted, cache: RepoCache::new(&self.settings, id) };
        if self.settings.offline {
            return session.cached().map_err(|missing| session.not_cached(missing));
        }
        let listed = id.is_commit() && session.cache.listing(id.revision()).is_some();
        if let (true, Ok(snapshot)) = (listed, session.cached()) {
            return Ok(snapshot);
        }
        let client = Client::new(&self.settings, id)?;
        let fallback = session.cached().ok();
        let mut retries = self.settings.retries;
        if fallback.is_some() {
            // Whoever has all files should not wait a minute for a hub that is out of reach.
            retries.attempts = retries.attempts.min(2);
        }
        let listing = match session.retrying(retries, watch, || client.listing()) {
            Ok(listing) => listing,
            Err(error) if error.is_absence() => {
                let Some(snapshot) = fallback else {
                    return Err(HubError::Unreachable { id: id.clone(), last: Box::new(error) });
                };
                watch.message(&format!("{error}; going on with what the cache has, {}", snapshot.display()));
                return Ok(snapshot);
            }
            Err(error) => return Err(error),
        };
        session.download(&client, &listing, watch)
    }
}

/// One call of [`Hub::fetch`].
struct Session<'a> {
    settings: &'a HubSettings,
    id: &'a HubId,
    wanted: Wanted,
    cache: RepoCache,
}

impl Session<'_> {
    /// The snapshot in the cache, if it is complete; otherwise what it lacks, in words.
    fn cached(&self) -> Result<PathBuf, String> {
        let Some(commit) = self.cache.commit(self.id) else {
            return Err(format!("the revision {:?}", self.id.revision()));
        };
        // Without a listing, what was fetched must be enough: the configuration, the index and its
        // shards say whether it is.
        let listing = self.cache.listing(&commit).unwrap_or_else(|| {
            let entry = |name| (name, Entry::default());
            Listing { commit: commit.clone(), files: self.cache.names(&commit).into_iter().map(entry).collect() }
        });
        if listing.files.is_empty() {
            return Err(format!("all files of the commit {commit}"));
        }
        let missing = self.missing(&listing)?;
        match missing.is_empty() {
            true => Ok(self.cache.snapshot(&commit)),
            false => Err(format!("{} of the commit {commit}", missing.join(", "))),
        }
    }

    /// What the snapshot lacks; an error, in words, where the index cannot say.
    fn missing(&self, listing: &Listing) -> Result<Vec<String>, String> {
        let names = || listing.files.keys().map(String::as_str);
        let mut needed: Vec<String> = select::small(names()).into_iter().map(str::to_owned).collect();
        if !names().any(|name| name == self.wanted.config()) {
            needed.push(self.wanted.config().to_owned());
        }
        match select::weights(names(), self.wanted) {
            Weights::Files(files) => needed.extend(files.into_iter().map(str::to_owned)),
            Weights::None(_) => needed.push("weights".to_owned()),
            Weights::Index(index, files) => {
                needed.extend(files.into_iter().chain([index]).map(str::to_owned));
                let path = self.cache.snapshot(&listing.commit).join(index);
                if path.is_file() {
                    needed.extend(select::shards(&path).map_err(|error| format!("a sound index ({error})"))?);
                }
            }
        }
        let size = |name: &str| listing.files.get(name).and_then(|entry| entry.size);
        needed.retain(|name| !self.cache.holds(&listing.commit, name, size(name)));
        Ok(needed)
    }

    fn not_cached(&self, missing: String) -> HubError {
        HubError::NotCached { id: self.id.clone(), cache: self.settings.cache.clone(), missing }
    }

    /// Fetches the small files, then the weights that they lead to.
    fn download(&self, client: &Client<'_>, listing: &Listing, watch: &mut dyn Watch) -> Result<PathBuf, HubError> {
        let names = || listing.files.keys().map(String::as_str);
        let weights = select::weights(names(), self.wanted);
        self.check_suitable(listing, &weights)?;
        let snapshot = self.cache.snapshot(&listing.commit);
        if self.missing(listing).is_ok_and(|missing| missing.is_empty()) {
            // Many share a cache that they may only read; it need not be written to be used.
            let _ = self.cache.write_listing(listing).and_then(|()| self.cache.write_commit(self.id, &listing.commit));
            return Ok(snapshot);
        }
        self.cache.write_listing(listing)?;
        for name in select::small(names()) {
            self.file(client, listing, name, watch)?;
        }
        let mut files: Vec<String> = Vec::new();
        match weights {
            Weights::None(_) => {}
            Weights::Files(found) => files.extend(found.into_iter().map(str::to_owned)),
            Weights::Index(index, beside) => {
                self.file(client, listing, index, watch)?;
                files.extend(select::shards(&snapshot.join(index))?);
                if let Some(shard) = files.iter().find(|shard| !listing.files.contains_key(*shard)) {
                    let reason = format!("{index} names the shard {shard}, which the repository does not have");
                    return Err(self.not_suitable(reason));
                }
                files.extend(beside.into_iter().map(str::to_owned));
            }
        }
        self.plan(listing, &files, watch)?;
        for name in &files {
            self.file(client, listing, name, watch)?;
        }
        // Last, so that the revision never stands for a commit that is not there.
        self.cache.write_commit(self.id, &listing.commit)?;
        Ok(snapshot)
    }

    fn check_suitable(&self, listing: &Listing, weights: &Weights<'_>) -> Result<(), HubError> {
        let config = self.wanted.config();
        if !listing.files.contains_key(config) {
            let other = match self.wanted {
                Wanted::Adapter if listing.files.contains_key("config.json") => "; it is a model, not an adapter",
                Wanted::Model | Wanted::ModelWithoutWeights if listing.files.contains_key("adapter_config.json") => {
                    "; it is an adapter: give it as --adapter, beside its base model"
                }
                _ => "",
            };
            let count = listing.files.len();
            return Err(self.not_suitable(format!("the repository has no {config} among its {count} files{other}")));
        }
        if let Weights::None(found) = weights {
            let there = if found.is_empty() { "no weights at all".to_owned() } else { found.join(", ") };
            let there = names::printable(&there);
            return Err(self.not_suitable(format!("its weights are in no form that is read here; it has {there}")));
        }
        Ok(())
    }

    fn not_suitable(&self, reason: String) -> HubError {
        HubError::NotSuitable { id: self.id.clone(), reason }
    }

    /// Tells how much is missing, and refuses to begin where it cannot end.
    fn plan(&self, listing: &Listing, files: &[String], watch: &mut dyn Watch) -> Result<(), HubError> {
        let size = |name: &String| listing.files.get(name).and_then(|entry| entry.size);
        let missing: Vec<&String> =
            files.iter().filter(|name| !self.cache.holds(&listing.commit, name, size(name))).collect();
        let bytes = missing.iter().filter_map(|name| size(name)).fold(0_u64, u64::saturating_add);
        // What an interrupted download left counts against what is needed.
        let sums = missing.iter().filter_map(|name| listing.files.get(*name)?.sha256.as_deref());
        let begun = sums.filter_map(|sum| Some(self.cache.partial(sum).metadata().ok()?.len()));
        let needed = bytes.saturating_sub(begun.sum());
        if let Some(free) = self.cache.free().filter(|free| *free < needed) {
            return Err(HubError::NoSpace { path: self.cache.dir().to_path_buf(), needed, free: Some(free) });
        }
        if !missing.is_empty() {
            watch.plan(missing.len(), bytes);
        }
        Ok(())
    }

    /// Sees to it that the snapshot has a file.
    fn file(&self, client: &Client<'_>, listing: &Listing, name: &str, watch: &mut dyn Watch) -> Result<(), HubError> {
        if let Some(reason) = names::unportable(name) {
            return Err(HubError::UnsafeName { id: self.id.clone(), name: name.to_owned(), reason });
        }
        let commit = &listing.commit;
        let entry = listing.files.get(name).cloned().unwrap_or_default();
        if self.cache.holds(commit, name, entry.size) {
            return Ok(());
        }
        let remote = self.retrying(self.settings.retries, watch, || client.head(commit, name))?;
        let size = self.agreed_size(client, name, &remote, &entry, commit)?;
        let _lock = self.cache.lock(self.id, &remote.etag, watch)?;
        // Another process may have brought it while we waited.
        if self.cache.holds(commit, name, Some(size)) {
            return Ok(());
        }
        let there = has(&self.cache.blob(&remote.etag), Some(size));
        if !there {
            let sum = Sum::new(&remote, &entry);
            let task = Task { id: self.id, commit, file: name, etag: &remote.etag, size, sum };
            download::fetch(client, &self.cache, &task, self.settings.retries, watch)?;
        }
        Ok(self.cache.link(commit, name, &remote.etag, !there)?)
    }

    /// The size and the sum that listing and file agree on.
    fn agreed_size(
        &self,
        client: &Client<'_>,
        name: &str,
        remote: &Remote,
        entry: &Entry,
        commit: &str,
    ) -> Result<u64, HubError> {
        let wrong = |reason: String| HubError::Answer { url: client.address(commit, name), reason };
        if let Some(sum) = entry.sha256.as_ref().filter(|sum| names::is_sha256(&remote.etag) && **sum != remote.etag) {
            return Err(wrong(format!("the listing has the SHA-256 sum {sum}, the file {}", remote.etag)));
        }
        match (entry.size, remote.size) {
            (Some(listed), Some(sent)) if listed != sent => {
                Err(wrong(format!("the listing has {listed} bytes, the file {sent}")))
            }
            (Some(size), _) | (None, Some(size)) => Ok(size),
            (None, None) => Err(wrong("neither the listing nor the file says how many bytes it has".to_owned())),
        }
    }

    fn retrying<T>(
        &self,
        retries: Retries,
        watch: &mut dyn Watch,
        mut request: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut backoff = Backoff::new(retries, self.id);
        loop {
            if watch.interrupted() {
                return Err(HubError::Interrupted { id: self.id.clone() });
            }
            match request() {
                Ok(answer) => return Ok(answer),
                Err(failure) => backoff.failed(failure, watch)?,
            }
        }
    }
}
