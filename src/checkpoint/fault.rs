//! Fault points: places before and after every change of the disk at which a test can end the
//! process.
//!
//! Set `FIREBRICK_FAULT_COUNT=<file>` and every point passed appends a line to that file (`17
//! before rename runs/a/checkpoint-4`); its last line says how many there are. Then
//! `FIREBRICK_FAULT_AT=<n>` aborts the process at the n-th point, without running a destructor, as
//! a power cut would. Neither set, a point costs an atomic addition.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// A kind of change of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Making a file or folder.
    Create,
    /// Writing bytes or cutting a file.
    Write,
    /// Forcing a file or folder onto the disk.
    Fsync,
    /// Renaming.
    Rename,
    /// Deleting a file, or a folder with all that is in it.
    Remove,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Write => "write",
            Self::Fsync => "fsync",
            Self::Rename => "rename",
            Self::Remove => "remove",
        }
    }
}

/// Runs one change of the disk between its two fault points. Everything that a run writes passes
/// through here.
///
/// # Errors
/// Those of `act`; [`io::ErrorKind::InvalidInput`] where `FIREBRICK_FAULT_AT` is not a number.
pub fn around<T>(op: Op, path: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    point("before", op, path)?;
    let done = act()?;
    #[cfg(test)]
    injected::note(op, path);
    point("after", op, path)?;
    Ok(done)
}

static PASSED: AtomicU64 = AtomicU64::new(0);

/// How many points this process has passed.
pub fn points_passed() -> u64 {
    PASSED.load(Ordering::Relaxed)
}

struct Settings {
    at: Option<u64>,
    log: Option<Mutex<PathBuf>>,
}

static SETTINGS: OnceLock<Result<Settings, String>> = OnceLock::new();

fn settings() -> Result<Settings, String> {
    let at = match std::env::var("FIREBRICK_FAULT_AT") {
        Err(_) => None,
        Ok(text) => Some(text.parse().map_err(|_| format!("FIREBRICK_FAULT_AT is {text:?}, expected a whole number"))?),
    };
    Ok(Settings { at, log: std::env::var_os("FIREBRICK_FAULT_COUNT").map(|file| Mutex::new(file.into())) })
}

fn point(when: &'static str, op: Op, path: &Path) -> io::Result<()> {
    #[cfg(test)]
    injected::point()?;
    let n = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    let settings = match SETTINGS.get_or_init(settings) {
        Ok(settings) => settings,
        Err(message) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message.as_str()));
        }
    };
    if let Some(log) = &settings.log {
        let log = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&*log)?;
        writeln!(file, "{n} {when} {} {}", op.name(), path.display())?;
    }
    if settings.at == Some(n) {
        std::process::abort();
    }
    Ok(())
}

/// The same in one process, for this module's tests: from the chosen point on every change of the
/// disk fails, which is what a process that has been killed does, and files that were written and
/// not fsynced lose half their bytes, as in a power cut.
#[cfg(test)]
pub(super) mod injected {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct State {
        at: u64,
        passed: u64,
        unsynced: Vec<PathBuf>,
    }

    thread_local! {
        static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
    }

    /// Runs `act` with a crash at the `at`-th point (from 1; 0 is never) and returns its result and
    /// the points passed.
    pub fn crash_at<T>(at: u64, act: impl FnOnce() -> T) -> (T, u64) {
        STATE.set(Some(State { at, ..State::default() }));
        let result = act();
        let state = STATE.take().unwrap();
        (result, state.passed)
    }

    /// Whether a simulation runs on this thread.
    pub fn active() -> bool {
        STATE.with_borrow(Option::is_some)
    }

    pub(super) fn point() -> io::Result<()> {
        STATE.with_borrow_mut(|state| {
            let Some(state) = state else {
                return Ok(());
            };
            state.passed += 1;
            if state.at == 0 || state.passed < state.at {
                return Ok(());
            }
            for path in state.unsynced.drain(..) {
                // Renamed or removed since; nothing to cut then.
                if let Ok(file) = std::fs::OpenOptions::new().write(true).open(&path) {
                    let length = file.metadata().unwrap().len();
                    file.set_len(length / 2).unwrap();
                }
            }
            Err(io::Error::other("injected crash"))
        })
    }

    pub(super) fn note(op: Op, path: &Path) {
        STATE.with_borrow_mut(|state| match (state, op) {
            (Some(state), Op::Write) => state.unsynced.push(path.to_path_buf()),
            (Some(state), Op::Fsync) => state.unsynced.retain(|one| one != path),
            (Some(state), Op::Rename) => {
                // `path` is the new name. What is renamed unsynced stays unsynced, so it has to be
                // forbidden here.
                let inside: Vec<_> = state.unsynced.iter().collect();
                assert!(inside.is_empty(), "{inside:?} not fsynced before the rename to {}", path.display());
            }
            (Some(state), Op::Remove) => state.unsynced.retain(|one| !one.starts_with(path)),
            _ => {}
        });
    }
}
