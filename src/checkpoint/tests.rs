//! Run checkpoints under crashes at every fault point and under every kind of damage.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::fault::injected::crash_at;
use super::run::{Content, Found, Latest, latest, list, open, prune, save};
use super::*;

fn write(run: &Path, step: usize, mark: f32) -> Result<(), CheckpointError> {
    let tensor = HostTensor::from_f32(vec![3], vec![mark; 3]).unwrap();
    let files = vec![
        ("model.safetensors".to_owned(), Content::Tensors(vec![Pending::host("w", tensor)])),
        ("optimizer/moments.bin".to_owned(), Content::Bytes(vec![step as u8; 9].into())),
        ("sampler.json".to_owned(), Content::Json(json!({"epoch": step}))),
    ];
    save(run, step, files, &json!({"step": step, "mark": mark})).map(drop)
}

/// The mark a whole checkpoint was written with, after checking that its parts agree.
fn mark(found: &Found) -> f32 {
    let shards = Shards::open(&found.path).unwrap();
    let values = shards.get("w").unwrap().to_f32().unwrap();
    assert_eq!(found.state["mark"].as_f64().unwrap() as f32, values[0]);
    assert_eq!(found.state["step"], json!(found.step));
    values[0]
}

fn reopen(run: &Path) -> Latest {
    crash_at(0, || open(&RunLock::acquire(run).unwrap())).0.unwrap()
}

/// Nothing hidden but the lock stays behind.
fn no_leftovers(run: &Path) {
    let hidden: Vec<_> = fs::read_dir(run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(hidden.iter().all(|name| !name.starts_with('.') || name == RunLock::FILE), "{hidden:?}");
}

/// Prepares a run, then lets `act` die at every one of its fault points in turn (0: at none).
/// `judge` sees the reopened run and whether `act` had returned. Every third case also dies at each
/// point of the recovery, which must then succeed the next time.
fn crash_everywhere(
    prepare: impl Fn(&Path),
    act: impl Fn(&Path) -> Result<(), CheckpointError>,
    judge: impl Fn(&Latest, bool),
) -> u64 {
    let case = |n: u64, m: Option<u64>| {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        crash_at(0, || prepare(run));
        let (result, passed) = crash_at(n, || act(run));
        assert_eq!(result.is_ok(), n == 0 || passed < n, "point {n}");
        let recovery = m.map_or(0, |m| crash_at(m, || open(&RunLock::acquire(run).unwrap())).1);
        judge(&reopen(run), result.is_ok());
        no_leftovers(run);
        crash_at(0, || write(run, 99, 99.0)).0.unwrap();
        assert_eq!(reopen(run).found.map(|found| found.step), Some(99));
        (passed, recovery)
    };
    let total = case(0, None).0;
    for n in 1..=total {
        let points = case(n, Some(0)).1;
        for m in (1..=points).filter(|_| n % 3 == 0) {
            case(n, Some(m));
        }
    }
    total
}

#[test]
fn a_first_checkpoint_is_there_or_not() {
    let points = crash_everywhere(
        |_| {},
        |run| write(run, 4, 1.0),
        |latest, returned| {
            assert_eq!(latest.skipped, []);
            let found = latest.found.as_ref().map(|found| (found.step, mark(found)));
            assert!(found == Some((4, 1.0)) || !returned && found.is_none(), "{found:?}");
        },
    );
    // Five files and two folders, each with points before and after creating, writing and fsyncing.
    assert!(points > 40, "{points} points");
}

#[test]
fn after_any_crash_the_old_or_the_new_checkpoint_is_whole() {
    crash_everywhere(
        |run| (write(run, 2, 0.5).unwrap(), write(run, 4, 1.0).unwrap()).0,
        |run| {
            write(run, 8, 2.0)?;
            prune(run, 1, &[]).map(drop)
        },
        |latest, returned| {
            assert_eq!(latest.skipped, []);
            let found = latest.found.as_ref().unwrap();
            match found.step {
                4 => assert!(!returned && mark(found) == 1.0),
                8 => assert_eq!(mark(found), 2.0),
                other => panic!("step {other}"),
            }
        },
    );
}

#[test]
fn replacing_the_only_checkpoint_never_loses_it() {
    crash_everywhere(
        |run| write(run, 4, 1.0).unwrap(),
        |run| write(run, 4, 2.0),
        |latest, returned| {
            let found = latest.found.as_ref().unwrap();
            assert!(mark(found) == 2.0 || !returned && mark(found) == 1.0);
        },
    );
}

#[test]
fn a_file_is_old_or_new_after_any_crash() {
    for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("best.json");
        write_file(&path, b"old").unwrap();
        let (result, passed) = crash_at(n, || write_file(&path, b"new file"));
        recover(dir.path()).unwrap();
        let text = fs::read(&path).unwrap();
        assert!(text == b"new file" || result.is_err() && text == b"old", "point {n}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "point {n}");
        if n > 0 && result.is_ok() {
            assert!(passed < n && n > 8);
            break;
        }
    }
}

#[test]
fn any_flipped_bit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    write(run, 4, 1.0).unwrap();
    write(run, 8, 2.0).unwrap();
    for name in ["model.safetensors", "optimizer/moments.bin", "sampler.json", "state.json", "manifest.json"] {
        let path = run.join("checkpoint-8").join(name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            let latest = latest(run).unwrap();
            assert_eq!(latest.found.as_ref().map(mark), Some(1.0), "{name}, byte {at}");
            let reason = &latest.skipped[0].reason;
            assert!(name == "manifest.json" || reason.contains(name), "{name}, byte {at}: {reason}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(latest(run).unwrap().found.as_ref().map(mark), Some(2.0));
}

/// Damages `checkpoint-8` beside a whole `checkpoint-4`; the reason must contain `needle`.
fn damaged(damage: impl Fn(&Path), needle: &str) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    write(run, 4, 1.0).unwrap();
    write(run, 8, 2.0).unwrap();
    let newest = run.join("checkpoint-8");
    damage(&newest);
    let latest = reopen(run);
    assert_eq!(latest.found.map(|found| found.step), Some(4));
    let [skipped] = &latest.skipped[..] else { panic!("{:?}", latest.skipped) };
    assert!(skipped.path == newest && skipped.reason.contains(needle), "{skipped:?} lacks {needle:?}");
    // Moved aside, so that it neither counts as the newest nor hinders the resumed run.
    assert!(skipped.moved_to.as_ref().is_some_and(|aside| aside.exists()) && !newest.exists());
    assert_eq!(reopen(run).skipped, []);
    write(run, 8, 3.0).unwrap();
    assert_eq!(prune(run, 1, &[]).unwrap(), [run.join("checkpoint-4")]);
    assert_eq!(reopen(run).found.as_ref().map(mark), Some(3.0));
}

#[test]
fn damage_falls_back_to_the_one_before() {
    damaged(|path| fs::remove_file(path.join("manifest.json")).unwrap(), "it has no manifest.json");
    damaged(|path| fs::remove_file(path.join("state.json")).unwrap(), "state.json is not there");
    damaged(|path| fs::remove_dir_all(path.join("optimizer")).unwrap(), "optimizer/moments.bin is not there");
    damaged(|path| fs::write(path.join("sampler.json"), "{}").unwrap(), "sampler.json has 2 bytes, its manifest says");
    damaged(|path| fs::write(path.join("manifest.json"), "{\n").unwrap(), "manifest.json:2:0: not valid JSON");
    damaged(|path| fs::write(path.join("manifest.json"), r#"{"format": 2}"#).unwrap(), "format is 2, expected 1");
    damaged(
        |path| (fs::remove_dir_all(path).unwrap(), fs::write(path, "a file").unwrap()).1,
        "it has no manifest.json",
    );
    let evil = r#"{"format": 1, "files": [{"name": "../x", "size": 1, "sha256": ""}]}"#;
    damaged(|path| fs::write(path.join("manifest.json"), evil).unwrap(), "expected a path inside the folder");
}

#[test]
fn a_second_damaged_one_of_the_same_step_replaces_the_first() {
    let dir = tempfile::tempdir().unwrap();
    for mark in [1.0, 2.0] {
        write(dir.path(), 8, mark).unwrap();
        fs::remove_file(dir.path().join("checkpoint-8/manifest.json")).unwrap();
        let latest = reopen(dir.path());
        assert!(latest.found.is_none() && latest.skipped.len() == 1);
    }
    let state: Value = read_json(&dir.path().join("checkpoint-8.damaged/state.json")).unwrap();
    assert_eq!(state["mark"], json!(2.0));
}

#[test]
fn pruning_keeps_the_best_and_the_newest() {
    let check = |keep, protect: &[usize], left: &[usize]| {
        let dir = tempfile::tempdir().unwrap();
        for step in [2, 4, 10, 8, 6] {
            write(dir.path(), step, step as f32).unwrap();
        }
        let deleted = prune(dir.path(), keep, protect).unwrap();
        let steps: Vec<usize> = list(dir.path()).unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!((steps.as_slice(), deleted.len()), (left, 5 - left.len()));
    };
    check(2, &[], &[8, 10]);
    check(2, &[4], &[4, 10]);
    check(3, &[4], &[4, 8, 10]);
    check(1, &[2], &[2, 10]);
    check(0, &[], &[10]);
    check(2, &[77, 10], &[8, 10]);
    check(9, &[], &[2, 4, 6, 8, 10]);
}

#[test]
fn a_damaged_newer_one_is_never_counted_as_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 4, 1.0).unwrap();
    write(dir.path(), 8, 2.0).unwrap();
    fs::remove_file(dir.path().join("checkpoint-8/manifest.json")).unwrap();
    assert_eq!(prune(dir.path(), 1, &[]).unwrap(), [] as [std::path::PathBuf; 0]);
    assert_eq!(latest(dir.path()).unwrap().found.as_ref().map(mark), Some(1.0));
}

#[test]
fn leftovers_are_cleared_and_a_users_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    write(run, 4, 1.0).unwrap();
    for name in [".checkpoint-8.tmp-12-0", ".checkpoint-2.trash-12-3", ".checkpoint-4.old-12-1"] {
        fs::create_dir_all(run.join(name).join("sub")).unwrap();
        fs::write(run.join(name).join("sub/x"), "x").unwrap();
    }
    fs::write(run.join(".notes"), "mine").unwrap();
    for name in ["checkpoint-07", "checkpoint-x", "checkpoint-8.damaged"] {
        fs::create_dir(run.join(name)).unwrap();
    }
    let latest = reopen(run);
    assert_eq!((latest.found.as_ref().map(mark), latest.skipped.len()), (Some(1.0), 0));
    fs::remove_file(run.join(".notes")).unwrap();
    no_leftovers(run);
    assert_eq!(list(run).unwrap().len(), 1);
}
