//! Fetching from a hub on this machine, which also fails.

mod failures;
mod server;
mod snapshots;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Hub, HubError, HubId, HubSettings, Retries, Wanted, Watch};
use server::Server;

/// A model in a few small files, and much that is not wanted.
const MODEL: &[(&str, &[u8])] = &[
    ("config.json", b"{\"model_type\": \"small\"}"),
    ("generation_config.json", b"{}"),
    ("tokenizer.json", b"{\"version\": \"1.0\"}"),
    ("tokenizer_config.json", b""),
    ("additional_chat_templates/tools.jinja", b"{{ tools }}"),
    ("model.safetensors", &[7; 100_000]),
    ("pytorch_model.bin", &[8; 1000]),
    ("README.md", b"# A model"),
    ("original/params.json", b"{}"),
];

/// What of it is fetched, in this order.
const FETCHED: [&str; 6] = [
    "additional_chat_templates/tools.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
];

/// A cache of its own, and a hub that is asked quickly.
struct Site {
    dir: tempfile::TempDir,
    settings: HubSettings,
}

impl Site {
    fn new(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = HubSettings {
            endpoint: server.url.clone(),
            cache: dir.path().join("hub"),
            token: None,
            offline: false,
            symlinks: true,
            answer_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(1),
            retries: Retries { attempts: 3, first: Duration::from_millis(1), longest: Duration::from_millis(20) },
            certificates: None,
        };
        Self { dir, settings }
    }

    fn fetch(&self, id: &str, watch: &mut dyn Watch) -> Result<PathBuf, HubError> {
        self.fetch_as(id, Wanted::Model, watch)
    }

    fn fetch_as(&self, id: &str, wanted: Wanted, watch: &mut dyn Watch) -> Result<PathBuf, HubError> {
        let id: HubId = id.parse().unwrap();
        Hub::new(self.settings.clone()).fetch(&id, wanted, watch)
    }

    /// The error of fetching `a/b`, which must say all of `needles`.
    fn refused(&self, needles: &[&str]) -> HubError {
        let error = self.fetch("a/b", &mut ()).expect_err(needles[0]);
        let text = error.to_string();
        for needle in needles {
            assert!(text.contains(needle), "{text:?} lacks {needle:?}");
        }
        error
    }

    fn repo(&self) -> PathBuf {
        self.settings.cache.join("models--a--b")
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.repo().join("blobs").join(etag)
    }

    /// Whether the weights are nowhere under a final name.
    fn has_no_weights(&self, etag: &str) -> bool {
        !self.blob(etag).exists() && !self.repo().join("snapshots").join(server::commit(1)).join(WEIGHTS).exists()
    }
}

const WEIGHTS: &str = "model.safetensors";

/// Notes what is told; stops once it has seen `stop_at` bytes of a file.
#[derive(Default)]
struct Told {
    messages: Vec<String>,
    begun: Vec<(String, u64, u64)>,
    ended: usize,
    planned: Vec<(usize, u64)>,
    at: u64,
    stop_at: Option<u64>,
}

impl Watch for Told {
    fn plan(&mut self, files: usize, bytes: u64) {
        self.planned.push((files, bytes));
    }

    fn begin(&mut self, file: &str, bytes: u64, done: u64) {
        self.begun.push((file.to_owned(), bytes, done));
        self.at = done;
    }

    fn at(&mut self, done: u64) {
        self.at = done;
    }

    fn end(&mut self) {
        self.ended += 1;
    }

    fn message(&mut self, text: &str) {
        self.messages.push(text.to_owned());
    }

    fn interrupted(&self) -> bool {
        self.stop_at.is_some_and(|stop| self.at >= stop)
    }
}

/// All files below a folder, by their path with `/`, with their contents.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().components();
                let name: Vec<_> = name.map(|part| part.as_os_str().to_string_lossy()).collect();
                found.push((name.join("/"), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}
