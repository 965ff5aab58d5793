//! JSON lines out, and readings of this process's memory.

use anyhow::Context;
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// JSON lines to standard output and perhaps a file.
pub struct Lines(Option<std::fs::File>);

impl Lines {
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let create = |p: &Path| std::fs::File::create(p).with_context(|| p.display().to_string());
        Ok(Self(path.map(create).transpose()?))
    }

    pub fn write(&mut self, value: &Value) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{value}")?;
        out.flush()?;
        if let Some(file) = &mut self.0 {
            writeln!(file, "{value}")?;
        }
        Ok(())
    }
}

/// A line of `/proc/self/status` in bytes; 0 where there is no such file.
pub fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
