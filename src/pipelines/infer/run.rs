//! One file of predictions.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{BadRecord, InferError, Journal, Plan, Record, Records, Spent, Task};
use crate::checkpoint::{DurableFile, place_file};
use crate::pipelines::Prediction;

/// A file that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct File<'p> {
    /// The file.
    pub output: &'p Path,
    /// Where its journal is until then.
    pub journal: &'p Path,
    /// Of which run it is: one word.
    pub run: &'p str,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// Records in the file.
    pub records: usize,
    /// Of these, records with an error.
    pub errors: usize,
    /// Records that an earlier, killed run had done.
    pub resumed: usize,
    /// What the others took.
    pub spent: Spent,
    /// And how long.
    pub took: Duration,
}

/// Is told how many further records are done, and what was written since.
pub type Watch<'w> = dyn FnMut(usize, Spent) + 'w;

/// Writes one file of predictions, one line for each record of the plan, in the order of the records. A journal that is there
/// is gone on with; it is removed once the file is whole.
///
/// # Errors
/// [`InferError`]; what was done is kept in the journal, but for [`InferError::AllFailed`], after which nothing is left.
pub fn run(
    file: File<'_>,
    records: &dyn Records,
    plan: &Plan,
    task: &dyn Task,
    watch: &mut Watch<'_>,
) -> Result<Done, InferError> {
    let mut done = Done { records: plan.len(), ..Done::default() };
    let mut journal = Journal::open(file.journal, file.run, &plan.fingerprint())?;
    let resumed = journal.chunks();
    if resumed > plan.chunks.len() {
        let reason = format!("it has {resumed} chunks, but the run has {}; take another --output", plan.chunks.len());
        return Err(InferError::Journal { path: file.journal.to_owned(), reason });
    }
    done.resumed = plan.chunks[..resumed].iter().map(Vec::len).sum();
    watch(done.resumed + plan.unread.len(), Spent::default());
    let begun = Instant::now();
    for chunk in &plan.chunks[resumed..] {
        let mut spent = Spent::default();
        journal.add(&lines(records, chunk, plan.bad, task, &mut spent)?)?;
        done.spent.prompt_tokens += spent.prompt_tokens;
        done.spent.completion_tokens += spent.completion_tokens;
        watch(chunk.len(), spent);
    }
    done.took = begun.elapsed();
    done.errors = put_in_order(file, records, plan, &journal)?;
    drop(journal);
    std::fs::remove_file(file.journal).map_err(InferError::io(file.journal))?;
    Ok(done)
}

/// The lines of one chunk.
fn lines(
    records: &dyn Records,
    chunk: &[usize],
    bad: BadRecord,
    task: &dyn Task,
    spent: &mut Spent,
) -> Result<Vec<(usize, String)>, InferError> {
    let read: Result<Vec<Record>, _> = chunk.iter().map(|&index| records.record(index)).collect();
    // All of them were read before, when the run was planned.
    let read = read.map_err(InferError::Data)?;
    let mut lines = Vec::new();
    for (record, prediction) in read.iter().zip(task.work(&read, spent)) {
        let prediction = match (prediction.map_err(InferError::of_record), bad) {
            (Ok(prediction), _) => prediction,
            (Err(InferError::Refused(error)), BadRecord::Skip) => failed(record.prediction.clone(), &error.to_string()),
            (Err(error), _) => return Err(error),
        };
        lines.push((record.index, line(&prediction)?));
    }
    Ok(lines)
}

/// Writes the journal's lines in the order of the records; returns how many are of records that failed.
fn put_in_order(file: File<'_>, records: &dyn Records, plan: &Plan, journal: &Journal) -> Result<usize, InferError> {
    let part = file.journal.with_extension("part");
    if part.exists() {
        // Of a run that died while it wrote.
        std::fs::remove_file(&part).map_err(InferError::io(&part))?;
    }
    let (mut errors, mut first) = (0, None);
    let mut whole = DurableFile::create(&part)?;
    let mut put = |index: usize, found: Option<&[u8]>| {
        let unread;
        let line = match found {
            Some(line) => line,
            None => {
                let reason = plan.unread.get(&index).ok_or_else(|| InferError::Journal {
                    path: file.journal.to_owned(),
                    reason: format!("record {index} (counted from 0) was not answered; take another --output"),
                })?;
                unread = line(&failed(records.named(index), reason))?;
                unread.as_bytes()
            }
        };
        if let Some(error) = error_of(line) {
            errors += 1;
            first.get_or_insert(error);
        }
        whole.write_all(line).and_then(|()| whole.write_all(b"\n")).map_err(InferError::io(&part))
    };
    journal.read(plan.range.clone(), &mut put)?;
    whole.sync()?;
    drop(whole);
    if let (Some(first), true) = (first, errors == plan.len()) {
        // Such a file is of no use. Without its journal the records are asked again.
        for path in [&part, file.journal] {
            std::fs::remove_file(path).map_err(InferError::io(path))?;
        }
        return Err(InferError::AllFailed { path: file.output.to_owned(), first });
    }
    place_file(&part, file.output)?;
    Ok(errors)
}

fn failed(mut prediction: Prediction, error: &str) -> Prediction {
    prediction.rest.insert("error".to_owned(), error.into());
    prediction
}

fn error_of(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        error: Option<String>,
    }
    serde_json::from_slice::<Line>(line).ok()?.error
}

fn line(prediction: &Prediction) -> Result<String, InferError> {
    serde_json::to_string(prediction).map_err(|error| {
        let reason = format!("a record cannot be written as JSON ({error})");
        InferError::Journal { path: prediction.id.clone().into(), reason }
    })
}
