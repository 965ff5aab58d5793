//! The folder of a run: which files it will have, and what says so.

use super::options::DataOptions;
use crate::checkpoint::{RunLock, place_file, write_file};
use crate::pipelines::infer::Shard;
use crate::recipe::RecipeError;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Where a run keeps what is not finished: journals, and the lock that keeps a second process out.
const UNFINISHED: &str = ".unfinished";

/// A run's folder.
pub(super) struct Folder {
    dir: PathBuf,
    unfinished: PathBuf,
    info: PathBuf,
    /// What tells this run from others, in one word.
    run: String,
    /// Whether nothing had been begun.
    fresh: bool,
    _lock: RunLock,
}

impl Folder {
    /// Begins a run, or goes on with one: `info` is what is written of it, of which `settings` may not change.
    pub(super) fn open(options: &DataOptions, files: &[String], info: &Value) -> Result<Self, RecipeError> {
        let dir = options.output.clone();
        let unfinished = dir.join(named(UNFINISHED, options.shard, ""));
        let path = dir.join(named("info", options.shard, ".json"));
        let before = match std::fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(RecipeError::io(&path)(error)),
        };
        match before {
            Some(_) if !options.resume => return Err(RecipeError::OutputNotEmpty(dir)),
            Some(bytes) => unchanged(&dir, &path, &bytes, info)?,
            None => free(&dir, options.shard, files)?,
        }
        let fresh = !path.exists();
        let lock = RunLock::acquire(&unfinished)?;
        if fresh {
            // Made in there, so that nothing half-written is left beside the files.
            let draft = unfinished.join("info.json");
            write_file(&draft, format!("{info:#}\n").as_bytes())?;
            place_file(&draft, &path)?;
        }
        let sum = Sha256::digest(info["settings"].to_string());
        let run = sum.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { dir, unfinished, run, fresh, info: path, _lock: lock })
    }

    pub(super) fn output(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub(super) fn journal(&self, file: &str) -> PathBuf {
        self.unfinished.join(format!("{file}.journal"))
    }

    /// What a file's journal says that it is of.
    pub(super) fn run(&self, file: &str) -> String {
        format!("{}-{file}", self.run).replace(char::is_whitespace, "_")
    }

    /// Takes back what [`open`](Self::open) wrote, where nothing came of the run.
    pub(super) fn abandon(self) {
        if self.fresh {
            // Whoever gives up has an error of its own to tell.
            let _ = std::fs::remove_dir_all(&self.unfinished);
            let _ = std::fs::remove_file(&self.info);
            let _ = std::fs::remove_dir(&self.dir);
        }
    }

    /// Removes what was kept for a run that is killed.
    pub(super) fn finish(self) -> Result<(), RecipeError> {
        std::fs::remove_dir_all(&self.unfinished).map_err(RecipeError::io(&self.unfinished))
    }
}

fn named(stem: &str, shard: Shard, end: &str) -> String {
    match shard.is_whole() {
        true => format!("{stem}{end}"),
        false => format!("{stem}.{}{end}", shard.suffix()),
    }
}

/// Refuses to write beside or over anything: a folder with anything in it, but for the parts of other machines.
fn free(dir: &Path, shard: Shard, files: &[String]) -> Result<(), RecipeError> {
    if dir.exists() && !dir.is_dir() {
        return Err(RecipeError::OutputTaken(dir.to_owned()));
    }
    if let Some(taken) = files.iter().map(|file| dir.join(file)).find(|path| path.exists()) {
        return Err(RecipeError::OutputTaken(taken));
    }
    let unfinished = |name: &str| name.starts_with(UNFINISHED);
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let occupied = entries.map(|entry| entry.file_name()).any(|name| !unfinished(&name.to_string_lossy()));
    match occupied && shard.is_whole() {
        true => Err(RecipeError::OutputNotEmpty(dir.to_owned())),
        false => Ok(()),
    }
}

/// Refuses to go on with other settings or data.
fn unchanged(dir: &Path, path: &Path, before: &[u8], info: &Value) -> Result<(), RecipeError> {
    let before: Value = serde_json::from_slice(before).map_err(|error| RecipeError::Structure {
        dir: path.to_owned(),
        problem: format!("is no JSON ({error})"),
        advice: "start a new run in another --output".to_owned(),
    })?;
    let mut changes = Vec::new();
    differences("", &before["settings"], &info["settings"], &mut changes);
    match changes.is_empty() {
        true => Ok(()),
        false => Err(RecipeError::Changed { run: dir.to_owned(), changes: changes.join("\n") }),
    }
}

/// A line for each value that differs, by its path.
fn differences(path: &str, before: &Value, now: &Value, changes: &mut Vec<String>) {
    if before == now {
        return;
    }
    if let (Value::Object(a), Value::Object(b)) = (before, now) {
        let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
        for name in names {
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let value = |all: &serde_json::Map<String, Value>| all.get(name).cloned().unwrap_or(Value::Null);
            differences(&inner, &value(a), &value(b), changes);
        }
        return;
    }
    if let (Value::Array(a), Value::Array(b)) = (before, now)
        && a.len() == b.len()
    {
        for (i, (before, now)) in a.iter().zip(b).enumerate() {
            differences(&format!("{path}[{i}]"), before, now, changes);
        }
        return;
    }
    changes.push(format!("  {path}: was {before}, is {now}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(dir: &Path, resume: bool, shard: &str) -> DataOptions {
        use crate::pipelines::infer::BadRecord;
        let (data, images, output, shard) = (Vec::new(), Vec::new(), dir.to_owned(), shard.parse().unwrap());
        DataOptions { data, images, output, resume, shard, bad_record: BadRecord::Error, save_every: None, preview: 0 }
    }

    #[test]
    fn what_changed_is_named() {
        let mut changes = Vec::new();
        let before = json!({"generation": {"a": {"temperature": 0.5, "seed": 1}}, "data": "x", "ways": [{"k": 1}]});
        let now =
            json!({"generation": {"a": {"temperature": 0.7, "seed": 1}, "b": {}}, "data": "x", "ways": [{"k": 2}]});
        differences("", &before, &now, &mut changes);
        let expected =
            ["generation.a.temperature: was 0.5, is 0.7", "generation.b: was null, is {}", "ways[0].k: was 1, is 2"];
        assert_eq!(changes.iter().map(|change| change.trim()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_occupied_folder_is_refused_and_a_run_goes_on_with_the_same_settings_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["model.jsonl".to_owned()];
        let info = |seed: u64| json!({"settings": {"seed": seed}, "bad_record": "error"});
        let open = |resume, shard, info: Value| {
            Folder::open(&options(dir.path(), resume, shard), &files, &info).map_err(|error| error.to_string())
        };
        std::fs::write(dir.path().join("notes.txt"), "").unwrap();
        assert!(open(false, "1/1", info(1)).err().unwrap().contains("not empty"));
        // Beside other machines' files a part has its place.
        drop(open(false, "1/2", info(1)).unwrap());
        drop(open(false, "2/2", info(1)).unwrap());
        assert!(open(false, "2/2", info(1)).err().unwrap().contains("--resume"));
        drop(open(true, "2/2", info(1)).unwrap());
        let error = open(true, "2/2", info(2)).err().unwrap();
        assert!(error.contains("seed: was 1, is 2"), "{error}");
        open(true, "1/2", info(1)).unwrap().abandon();
        assert!(dir.path().join("info.1-of-2.json").exists(), "what was begun before is not given up");
        open(false, "1/4", info(1)).unwrap().abandon();
        assert!(!dir.path().join("info.1-of-4.json").exists());
        open(true, "2/2", info(1)).unwrap().finish().unwrap();
        let left: Vec<String> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.contains(&"info.2-of-2.json".to_owned()) && !left.contains(&".unfinished.2-of-2".to_owned()));
    }
}
