//! What a download tells while it works.

/// Watches a download. Every method has a default that does nothing; `()` watches silently.
pub trait Watch {
    /// The weight files begin: how many are missing, and how many bytes of them.
    fn plan(&mut self, files: usize, bytes: u64) {
        let _ = (files, bytes);
    }

    /// A file begins: its name, its bytes, and how many of them an earlier attempt left.
    fn begin(&mut self, file: &str, bytes: u64, done: u64) {
        let _ = (file, bytes, done);
    }

    /// Bytes of the current file that are here now. It goes back where a server makes us start again.
    fn at(&mut self, done: u64) {
        let _ = done;
    }

    /// The current file is whole.
    fn end(&mut self) {}

    /// Something to tell: a wait, a new attempt, a fallback to the cache.
    fn message(&mut self, text: &str) {
        let _ = text;
    }

    /// Whether to stop. Asked several times a second; what was fetched stays for the next time.
    fn interrupted(&self) -> bool {
        false
    }
}

impl Watch for () {}
