//! Keeps two processes from writing one run folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;

/// The right to write a run folder, held until it is dropped or the process dies, however it dies.
///
/// It is the operating system's advisory lock on the file [`FILE`](Self::FILE), which also holds
/// the owner's process id for the message. The lock dies with its process, so a file that a killed
/// run left behind is simply taken over.
#[derive(Debug)]
pub struct RunLock {
    run_dir: PathBuf,
    /// Holds the lock.
    file: File,
}

impl RunLock {
    /// The lock file's name in the run folder. It stays when the run ends: removing it would let a
    /// third process lock a file that a second one still holds open.
    pub const FILE: &'static str = ".lock";

    /// Locks a run folder, which is made where there is none.
    ///
    /// # Errors
    /// [`CheckpointError::Locked`] with the other process's id, [`CheckpointError::Io`].
    pub fn acquire(run_dir: &Path) -> Result<Self, CheckpointError> {
        fs::create_dir_all(run_dir).map_err(CheckpointError::io(run_dir, "creating the folder"))?;
        let path = run_dir.join(Self::FILE);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(CheckpointError::io(&path, "opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                return Err(CheckpointError::Locked { run: run_dir.to_path_buf(), pid });
            }
            // Some network file systems have no locks. A run must be possible there; it is then the
            // user who keeps order.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => {
                return Err(CheckpointError::io(&path, "locking")(error));
            }
        }
        let note = |file: &mut File| {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())
        };
        note(&mut file).map_err(CheckpointError::io(&path, "writing"))?;
        Ok(Self { run_dir: run_dir.to_path_buf(), file })
    }

    /// The run folder.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }
}

impl Drop for RunLock {
    /// Unlocks, instead of only closing the file: a process that another thread is just starting has
    /// a copy of every open file until it runs its own program, and would keep the lock until then.
    fn drop(&mut self) {
        // Where this fails, closing the file unlocks it.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn one_at_a_time_and_a_leftover_file_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("runs/a");
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join(RunLock::FILE), "4194304999\n").unwrap();
        let lock = RunLock::acquire(&run).unwrap();
        let error = RunLock::acquire(&run).unwrap_err();
        let pid = std::process::id();
        assert!(error.to_string().contains(&format!("process {pid} is writing this run")), "{error}");
        drop(lock);
        RunLock::acquire(&run).unwrap();
    }

    /// Another thread may start a process at any moment; what it inherits must not keep the lock.
    #[test]
    fn a_copy_of_the_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RunLock::acquire(dir.path()).unwrap();
        let _inherited = lock.file.try_clone().unwrap();
        drop(lock);
        RunLock::acquire(dir.path()).unwrap();
    }

    /// This test runs itself in a second process, which takes the lock and is killed.
    #[test]
    fn a_killed_process_gives_its_lock_back() {
        const RUN: &str = "FIREBRICK_TEST_LOCKED_RUN";
        if let Some(run) = std::env::var_os(RUN) {
            let _lock = RunLock::acquire(Path::new(&run)).unwrap();
            println!("\nlocked");
            // Until it is killed; should the first process die, its end of the pipe closes and this
            // one ends too.
            std::io::stdin().read_line(&mut String::new()).unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (_, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::a_killed_process_gives_its_lock_back");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", name.as_str(), "--nocapture"])
            .env(RUN, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let locked = lines.map_while(Result::ok).any(|line| line == "locked");
        let refused = RunLock::acquire(dir.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(locked, "the second process took no lock");
        match refused {
            Err(CheckpointError::Locked { pid, .. }) => assert_eq!(pid, Some(child.id())),
            other => panic!("{other:?}"),
        }
        RunLock::acquire(dir.path()).unwrap();
    }
}
