//! Runs that are killed and go on: every curve has every step once.

use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Steps `from` to `to`, an evaluation at every fourth.
fn steps(trackers: &mut Trackers, from: usize, to: usize) {
    for step in from..=to {
        trackers.row(&train(step)).unwrap();
        if step.is_multiple_of(4) {
            trackers.row(&eval(step)).unwrap();
        }
    }
}

/// Both logs hold what an unbroken run of `last` steps writes, and nothing twice.
fn check(run: &Run, last: usize, context: &str) {
    let mut expected: BTreeMap<(String, i64), f32> = BTreeMap::new();
    for step in 1..=last {
        for row in [Some(train(step)), step.is_multiple_of(4).then(|| eval(step))].into_iter().flatten() {
            expected.extend(points(&row).map(|(name, value)| ((name, step as i64), value as f32)));
        }
    }
    let files = run.tensorboard();
    let scalars: Vec<_> = files.scalars().into_iter().map(|(tag, step, value)| ((tag, step), value)).collect();
    assert_eq!(scalars.len(), expected.len(), "{context}: points in the event files");
    assert_eq!(scalars.into_iter().collect::<BTreeMap<_, _>>(), expected, "{context}");
    let mut tags: Vec<_> = files.all.iter().map(|seen| (seen.tag.clone(), seen.step)).collect();
    let total = tags.len();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), total, "{context}: something stands twice");
    assert_eq!(files.counted.len(), total, "{context}: a restart drops what should count");
    let mut rows = BTreeMap::new();
    for row in run.json().iter().filter(|row| row["type"] == "metrics") {
        for metric in row["metrics"].as_array().unwrap() {
            let key = (metric["key"].as_str().unwrap().to_owned(), metric["step"].as_i64().unwrap());
            let earlier = rows.insert(key, metric["value"].as_f64().unwrap() as f32);
            assert!(earlier.is_none(), "{context}: {metric} stands twice");
        }
    }
    assert_eq!(rows, expected, "{context}: JSON");
}

/// Every file of the logs with its bytes.
fn snapshot(run: &Run) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for folder in ["tensorboard", "tracking"] {
        for entry in fs::read_dir(run.dir.path().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn restore(run: &Run, files: &[(PathBuf, Vec<u8>)]) {
    for folder in ["tensorboard", "tracking"] {
        let _ = fs::remove_dir_all(run.dir.path().join(folder));
        fs::create_dir_all(run.dir.path().join(folder)).unwrap();
    }
    files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
}

#[test]
fn a_run_killed_anywhere_and_resumed_has_each_point_once() {
    let run = Run::new();
    let mut trackers = run.open(None);
    run.samples(&mut trackers, 0);
    steps(&mut trackers, 1, 4);
    trackers.sync().unwrap();
    let safe: Vec<usize> = snapshot(&run).iter().map(|(_, bytes)| bytes.len()).collect();
    steps(&mut trackers, 5, 8);
    drop(trackers);
    let whole = snapshot(&run);
    let longest = whole.iter().zip(&safe).map(|((_, bytes), safe)| bytes.len() - safe).max().unwrap();
    // A stride that meets records at their starts, ends and within; `records` is tested at every byte.
    for lost in (0..=longest).step_by(29) {
        let cut = whole
            .iter()
            .zip(&safe)
            .map(|((path, bytes), &safe)| (path.clone(), bytes[..bytes.len().saturating_sub(lost).max(safe)].to_vec()));
        restore(&run, &cut.collect::<Vec<_>>());
        let mut trackers = run.open(Some(Keep { step: 4, evaluation: true }));
        run.samples(&mut trackers, 0);
        steps(&mut trackers, 5, 9);
        check(&run, 9, &format!("{lost} bytes lost"));
    }
}

#[test]
fn an_evaluation_that_is_done_again_stands_once_and_its_steps_training_row_stays() {
    let run = Run::new();
    let mut trackers = run.open(None);
    steps(&mut trackers, 1, 10);
    drop(trackers);
    let pending = Some(Keep { step: 8, evaluation: false });
    let mut trackers = run.open(pending);
    trackers.row(&eval(8)).unwrap();
    steps(&mut trackers, 9, 10);
    check(&run, 10, "resumed");
    drop(trackers);
    // The same checkpoint again, and then an older one: the row that was moved is moved again, then cut.
    let mut trackers = run.open(pending);
    trackers.row(&eval(8)).unwrap();
    steps(&mut trackers, 9, 12);
    check(&run, 12, "resumed again");
    drop(trackers);
    let mut trackers = run.open(Some(Keep { step: 4, evaluation: true }));
    steps(&mut trackers, 5, 8);
    check(&run, 8, "resumed from an older checkpoint");
}

/// Dying between writing the new file and cutting the old ones leaves what was moved in both.
#[test]
fn a_resume_that_died_half_way_can_be_resumed() {
    let run = Run::new();
    let mut trackers = run.open(None);
    steps(&mut trackers, 1, 10);
    drop(trackers);
    let before = snapshot(&run);
    let pending = Some(Keep { step: 8, evaluation: false });
    drop(run.open(pending));
    for (path, bytes) in &before {
        fs::write(path, bytes).unwrap();
    }
    fs::write(run.dir.path().join("tensorboard/.events.out.tfevents.1.host.1.0.tmp-1-0"), "half").unwrap();
    let mut trackers = run.open(pending);
    trackers.row(&eval(8)).unwrap();
    steps(&mut trackers, 9, 9);
    check(&run, 9, "resumed");
    // The file of the process that died early held nothing but its start.
    assert_eq!(run.tensorboard().files, 2);
}

/// A TensorBoard that has read the older files still has what was cut from them; the new file must tell it.
#[test]
fn a_reader_that_has_read_the_older_files_drops_what_is_written_again() {
    let run = Run::new();
    let mut trackers = run.open(None);
    run.samples(&mut trackers, 0);
    steps(&mut trackers, 1, 10);
    drop(trackers);
    let before = snapshot(&run);
    let mut trackers = run.open(Some(Keep { step: 8, evaluation: false }));
    trackers.row(&eval(8)).unwrap();
    steps(&mut trackers, 9, 12);
    let cut = run.tensorboard();
    for (path, bytes) in before.iter().filter(|(path, _)| path.starts_with(run.dir.path().join("tensorboard"))) {
        fs::write(path, bytes).unwrap();
    }
    let read = run.tensorboard();
    let names = |seen: &[reader::Seen]| seen.iter().map(|seen| (seen.tag.clone(), seen.step)).collect::<Vec<_>>();
    assert!(read.all.len() > cut.all.len());
    assert_eq!(names(&read.counted), names(&cut.all));
}

#[test]
fn a_run_without_a_checkpoint_starts_its_logs_anew() {
    let run = Run::new();
    let mut trackers = run.open(None);
    run.samples(&mut trackers, 0);
    steps(&mut trackers, 1, 3);
    drop(trackers);
    let mut trackers = run.open(None);
    run.samples(&mut trackers, 0);
    steps(&mut trackers, 1, 5);
    check(&run, 5, "anew");
    assert_eq!(run.tensorboard().files, 1);
    assert_eq!(run.json().iter().filter(|row| row["type"] == "run").count(), 1);
}

#[test]
fn how_a_run_ended_is_said_once_and_last() {
    let run = Run::new();
    let mut trackers = run.open(None);
    steps(&mut trackers, 1, 4);
    trackers.end(4, Status::Interrupted).unwrap();
    assert_eq!(run.json().last().unwrap()["status"], "KILLED");
    assert!(run.tensorboard().find("_hparams_/session_end_info", 4).is_none());
    drop(trackers);
    let mut trackers = run.open(Some(Keep { step: 4, evaluation: true }));
    steps(&mut trackers, 5, 8);
    run.samples(&mut trackers, 8);
    trackers.end(8, Status::Finished).unwrap();
    drop(trackers);
    // The process died before the run folder said that the run was finished.
    let mut trackers = run.open(Some(Keep { step: 8, evaluation: true }));
    run.samples(&mut trackers, 8);
    trackers.end(8, Status::Finished).unwrap();
    check(&run, 8, "finished twice");
    let kinds: Vec<String> = run.json().iter().map(|row| row["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "samples").count(), 1);
    assert_eq!(kinds.iter().filter(|kind| *kind == "end").count(), 1);
    assert_eq!(kinds.last().unwrap(), "end");
    assert_eq!(run.json().last().unwrap()["summary"]["train/loss"], loss(8));
}

#[test]
fn logs_that_were_deleted_begin_again_at_the_checkpoint() {
    let run = Run::new();
    let mut trackers = run.open(None);
    steps(&mut trackers, 1, 4);
    drop(trackers);
    let json = run.dir.path().join("tracking/run.jsonl");
    let text = fs::read_to_string(&json).unwrap();
    fs::write(&json, text.split_once('\n').unwrap().1).unwrap();
    fs::remove_dir_all(run.dir.path().join("tensorboard")).unwrap();
    let mut trackers = run.open(Some(Keep { step: 4, evaluation: true }));
    trackers.row(&train(5)).unwrap();
    let kinds: Vec<Value> = run.json().iter().map(|row| row["type"].clone()).collect();
    assert_eq!(kinds, [vec!["run"], vec!["metrics"; 6]].concat());
    let files = run.tensorboard();
    assert!(files.find("settings/text_summary", 0).is_some());
    assert_eq!(files.scalars().iter().map(|(_, step, _)| *step).collect::<Vec<_>>(), [5, 5, 5]);
}

#[test]
fn new_files_sort_behind_old_ones_whatever_the_clock_says() {
    let run = Run::new();
    let dir = run.dir.path().join("tensorboard");
    let files = || {
        let mut names: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    };
    let mut trackers = run.open(None);
    trackers.row(&train(1)).unwrap();
    drop(trackers);
    let later = dir.join("events.out.tfevents.9000000000.host.1.0");
    fs::rename(&files()[0], &later).unwrap();
    for resumed in 1..=3 {
        drop(run.open(Some(Keep { step: resumed, evaluation: true })));
        let newest = files().pop().unwrap();
        let name = newest.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with(&format!("events.out.tfevents.{}.", 9_000_000_000_u64 + resumed as u64)), "{name}");
    }
}
