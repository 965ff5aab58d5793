//! Sound files, what damages them, and the programs under limits.

use super::files;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Address space of a program, in KiB: an allocation of an absurd size fails at once and does not trouble the machine.
/// Generous, because every thread and every heap reserves some of it without using it.
const ADDRESS_SPACE_KIB: u64 = 6 << 20;
/// Resident memory that is allowed beside what the input explains; a sound run of these files takes about 60 MB.
const RESIDENT: u64 = 600 << 20;
/// Resident bytes per byte of input: a file, its text, its parsed form and a copy of one of them.
const PER_INPUT_BYTE: u64 = 6;
/// A program takes less than a second for each of these inputs; this many seconds are a hang.
const HANG: Duration = Duration::from_secs(60);

/// How often a running program's memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Which program runs, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `llava_sft --dry-run`: everything but the weights.
    DryRun,
    /// `llava_sft`, one step.
    Train,
    /// `llava_sft --decode`, one step: every picture is decoded before the run begins.
    Decode,
    /// `llava_sft`, one step from the adapter.
    TrainFrom,
    /// `score`.
    Score,
    /// `score` with the adapter.
    ScoreAdapter,
    /// `chat` with an image of the records.
    Chat,
    /// `convert` to LLaVA's original layout.
    Convert,
    /// `merge` of the adapter.
    Merge,
}

/// Folders that are sound until a case damages them.
pub struct Work {
    root: tempfile::TempDir,
}

impl Work {
    fn new() -> Self {
        let work = Self { root: tempfile::tempdir().unwrap() };
        let parity = files::fixture("parity");
        files::copy(&parity.join("llava_gqa/model"), &work.model());
        files::copy(&parity.join("peft_lora/adapter"), &work.adapter());
        files::copy(&parity.join("records"), &work.path("records"));
        work
    }

    /// A path in the folder that the programs run in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The checkpoint.
    pub fn model(&self) -> PathBuf {
        self.path("model")
    }

    /// The adapter.
    pub fn adapter(&self) -> PathBuf {
        self.path("adapter")
    }

    /// The records.
    pub fn data(&self) -> PathBuf {
        self.path("records/data.json")
    }

    /// Their pictures.
    pub fn images(&self) -> PathBuf {
        self.path("records/images")
    }

    fn arguments(&self, program: Program) -> (&'static str, Vec<PathBuf>) {
        let binary = match program {
            Program::DryRun | Program::Train | Program::Decode | Program::TrainFrom => env!("CARGO_BIN_EXE_llava_sft"),
            Program::Score | Program::ScoreAdapter => env!("CARGO_BIN_EXE_score"),
            Program::Chat => env!("CARGO_BIN_EXE_chat"),
            Program::Convert => env!("CARGO_BIN_EXE_convert"),
            Program::Merge => env!("CARGO_BIN_EXE_merge"),
        };
        let mut arguments = vec!["--model".into(), self.model()];
        let adapter = matches!(program, Program::TrainFrom | Program::ScoreAdapter | Program::Merge);
        if adapter {
            arguments.extend(["--adapter".into(), self.adapter()]);
        }
        match program {
            Program::Chat => {
                let picture = self.images().join("ridge.png");
                arguments.extend(["--prompt".into(), "What?".into(), "--image".into(), picture]);
                arguments.extend(["--max-new-tokens".into(), "2".into()]);
            }
            Program::Convert => arguments.extend(["--to".into(), "original".into()]),
            Program::Merge => {}
            _ => arguments.extend(["--data".into(), self.data(), "--images".into(), self.images()]),
        }
        if program != Program::Chat {
            let name = if matches!(program, Program::Score | Program::ScoreAdapter) { "out.jsonl" } else { "out" };
            arguments.extend(["--output".into(), self.path(name)]);
        }
        match program {
            Program::DryRun => arguments.push("--dry-run".into()),
            Program::Train | Program::TrainFrom => arguments.extend(["--max-steps".into(), "1".into()]),
            Program::Decode => arguments.extend(["--max-steps".into(), "1".into(), "--decode".into()]),
            _ => {}
        }
        if program != Program::Convert {
            arguments.extend(["--device".into(), "cpu".into()]);
        }
        (binary, arguments)
    }

    /// Runs `program` with `more` behind its arguments.
    pub fn run(&self, program: Program, more: &[&str]) -> Ran {
        let (binary, mut arguments) = self.arguments(program);
        arguments.extend(more.iter().map(PathBuf::from));
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut command = limited(binary);
        command
            .args(arguments)
            .current_dir(self.root.path())
            .env_remove("FIREBRICK_FAULT_AT")
            .env_remove("FIREBRICK_FAULT_COUNT")
            // Somebody who exports this must not be shown a back-trace for a wrong file.
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(err.try_clone().unwrap());
        let (status, resident) = watch(command);
        Ran { status, resident, stdout: written(out), stderr: written(err) }
    }

    /// Every path below the root.
    fn tree(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path.clone());
                }
                found.insert(path);
            }
        }
        found
    }

    /// Bytes of all files, as long as they say they are.
    fn bytes(&self) -> u64 {
        self.tree().iter().filter_map(|path| path.symlink_metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

/// `binary`, whose address space is limited where the system has `ulimit -v`.
fn limited(binary: &str) -> Command {
    if cfg!(not(target_os = "linux")) {
        return Command::new(binary);
    }
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" \"$@\""), binary]);
    command
}

/// What became of a program; `None` where it had to be stopped.
pub struct Ran {
    status: Option<ExitStatus>,
    resident: u64,
    stdout: String,
    stderr: String,
}

/// Waits for a program; its largest resident memory in bytes is read where the system shows it.
fn watch(mut command: Command) -> (Option<ExitStatus>, u64) {
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    let mut resident = 0;
    loop {
        resident = resident.max(peak(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            return (Some(status), resident);
        }
        if began.elapsed() > HANG {
            child.kill().unwrap();
            child.wait().unwrap();
            return (None, resident);
        }
        std::thread::sleep(LOOK);
    }
}

/// The largest resident memory of a process so far.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

fn written(mut file: File) -> String {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One damage among sound files, and what must be said about it.
pub struct Case {
    /// What is wrong, for the test's own messages.
    pub name: &'static str,
    /// Does the damage.
    pub damage: fn(&Work),
    /// What the message must contain.
    pub says: &'static [&'static str],
}

impl Case {
    fn complaints(&self, program: Program, more: &[&str]) -> Vec<String> {
        let work = Work::new();
        (self.damage)(&work);
        let found = refused(&work, program, more, 1, self.says);
        found.into_iter().map(|complaint| format!("{}, {program:?}: {complaint}", self.name)).collect()
    }
}

/// Each of `programs` refuses each case with exit code 1 and all that the case wants said.
///
/// All cases are tried before the test fails, so that one run shows everything that is wrong.
pub fn check(programs: &[Program], cases: &[Case]) {
    let runs = programs.iter().flat_map(|&program| cases.iter().map(move |case| (program, case)));
    complain(runs.flat_map(|(program, case)| case.complaints(program, &[])).collect());
}

/// As [`check`] for one program on sound files, with its options and its exit code.
pub fn check_options(program: Program, more: &[&str], code: i32, says: &[&str]) {
    let complaints = refused(&Work::new(), program, more, code, says);
    assert!(complaints.is_empty(), "{program:?} {more:?}:\n{}", complaints.join("\n"));
}

/// What is wrong with the way in which `program` refuses what `damage` leaves.
pub fn complaints(damage: impl FnOnce(&Work), program: Program, says: &[&str]) -> Vec<String> {
    let work = Work::new();
    damage(&work);
    refused(&work, program, &[], 1, says)
}

/// As [`check`] for one program with options.
pub fn check_with(program: Program, more: &[&str], cases: &[Case]) {
    complain(cases.iter().flat_map(|case| case.complaints(program, more)).collect());
}

/// Fails where there are any.
pub fn complain(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// Each of `programs` takes each case: what looks hostile and is not must not be refused.
pub fn check_taken(programs: &[Program], cases: &[Case]) {
    for case in cases {
        for &program in programs {
            let work = Work::new();
            (case.damage)(&work);
            let ran = work.run(program, &[]);
            let said = format!("{}{}", ran.stdout, ran.stderr);
            let code = ran.status.and_then(|status| status.code());
            assert_eq!(code, Some(0), "{}, {program:?}: {said}", case.name);
            for needle in case.says {
                assert!(said.contains(needle), "{}, {program:?}: {needle:?} is not in:\n{said}", case.name);
            }
        }
    }
}

/// What is wrong with the way in which `program` refuses `work`.
fn refused(work: &Work, program: Program, more: &[&str], code: i32, says: &[&str]) -> Vec<String> {
    let before = work.tree();
    let ran = work.run(program, more);
    let mut complaints = Vec::new();
    match ran.status {
        None => complaints.push(format!("still ran after {HANG:?}")),
        // What a program says before it does the wrong thing is no message to look at.
        Some(status) if status.code() != Some(code) => {
            complaints.push(format!("ended with {status}, expected {code}: {}", start(&ran.stderr)));
        }
        Some(_) => {
            let missing = says.iter().filter(|needle| !ran.stderr.contains(**needle));
            complaints.extend(missing.map(|needle| format!("{needle:?} is not in: {}", start(&ran.stderr))));
        }
    }
    for sign in ["panicked", "stack backtrace", "RUST_BACKTRACE", "overflowed its stack"] {
        if ran.stderr.contains(sign) || ran.stdout.contains(sign) {
            complaints.push(format!("{sign:?} is in what was said"));
        }
    }
    if ran.stderr.len() > LONGEST_MESSAGE {
        complaints.push(format!("the message has {} bytes", ran.stderr.len()));
    }
    let left: Vec<PathBuf> = work.tree().difference(&before).cloned().collect();
    if !left.is_empty() {
        complaints.push(format!("left on the disk: {left:?}"));
    }
    let allowed = RESIDENT + PER_INPUT_BYTE * work.bytes();
    if ran.resident > allowed {
        complaints.push(format!("took {} bytes of memory, allowed are {allowed}", ran.resident));
    }
    complaints
}

/// A message may quote what is wrong, not all of it.
const LONGEST_MESSAGE: usize = 8000;

/// Enough of what a program said to know what went wrong.
fn start(said: &str) -> String {
    said.chars().take(400).collect()
}
