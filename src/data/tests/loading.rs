//! Worker threads: order, skipping, errors, panics, stopping.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Folder, encoder, record};
use crate::data::{
    BadRecord, DataError, DataKind, Dataset, Lines, LlavaData, LoadedBatch, Loader, LoaderSettings, Overlong, PadSide,
    Padding, Place, Row, Sample, Sampler, TextOnly,
};
use crate::settings::{Component, Parameter};

fn settings(workers: usize, prefetch: usize, bad_record: BadRecord) -> LoaderSettings {
    let padding = Padding { token: 4, side: PadSide::Right, multiple_of: 8 };
    LoaderSettings { workers, prefetch, bad_record, padding, mismatched: false }
}

fn mixed(folder: &Folder, records: usize) -> Dataset<LlavaData> {
    let rows: Vec<_> = (0..records)
        .map(|i| match i % 3 {
            0 => record(i, &["a.png"], "What is it ?", &"cat ".repeat(i + 1)),
            1 => record(i, &["a.png", "b.png"], "two circles ?", "yes"),
            _ => record(i, &[], "Is it red ?", &"no ".repeat(i)),
        })
        .collect();
    folder.llava(&rows)
}

#[test]
fn batches_do_not_depend_on_the_number_of_workers() {
    let folder = Folder::new();
    let data = Arc::new(mixed(&folder, 30));
    let encoder = Arc::new(encoder(500, Overlong::Error));
    let order = Sampler::Shuffled.epoch(1, 0, &[1; 30], 4, 1);
    let load = |workers, prefetch, start_at| -> Vec<LoadedBatch> {
        let settings = settings(workers, prefetch, BadRecord::Error);
        Loader::new(data.clone(), encoder.clone(), order.clone(), start_at, settings)
            .expect("a loader")
            .collect::<Result<_, _>>()
            .expect("batches")
    };
    let one = load(1, 1, 0);
    assert_eq!(one.iter().map(|loaded| loaded.position).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    let indices: Vec<Vec<usize>> =
        one.iter().filter_map(|loaded| loaded.batch.as_ref().map(|b| b.indices.clone())).collect();
    assert_eq!(indices, order);
    for (workers, prefetch) in [(0, 0), (1, 5), (3, 2), (4, 50)] {
        assert_eq!(load(workers, prefetch, 0), one);
    }
    assert_eq!(load(3, 3, 5), one[5..], "a resumed epoch goes on where it was");
    assert!(load(2, 2, 8).is_empty());
}

#[test]
fn bad_and_long_records_are_skipped_and_said() {
    let folder = Folder::new();
    folder.write("text.png", "this is not a picture");
    let data = Arc::new(folder.llava(&[
        record(0, &["a.png"], "What is it ?", "a cat"),
        record(1, &["text.png"], "What is it ?", "a cat"),
        record(2, &[], &"red ".repeat(200), "no"),
        record(3, &[], "Is it red ?", &"no ".repeat(200)),
        json!({"conversations": [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
    ]));
    let encoder = Arc::new(encoder(100, Overlong::Truncate));
    let order = vec![vec![0, 1], vec![2], vec![3, 4]];
    let load = |bad_record| {
        let loader = Loader::new(data.clone(), encoder.clone(), order.clone(), 0, settings(2, 4, bad_record));
        loader.expect("a loader").collect::<Vec<_>>()
    };
    let skipping: Vec<LoadedBatch> = load(BadRecord::Skip).into_iter().collect::<Result<_, _>>().expect("batches");
    assert_eq!(skipping[0].batch.as_ref().map(|b| b.indices.clone()), Some(vec![0]));
    assert_eq!((skipping[0].skipped[0].index, skipping[0].skipped[0].reason), (1, "unreadable image"));
    assert!(skipping[0].skipped[0].message.contains("data.jsonl:2, image 1"));
    assert!(skipping[1].batch.is_none());
    assert!(skipping[1].skipped[0].message.contains("data.jsonl:3: too long"));
    assert_eq!((skipping[2].truncated, skipping[2].dropped_leading), (1, 1));

    let strict = load(BadRecord::Error);
    assert!(matches!(strict[..], [Err(DataError::Image { number: 1, .. })]), "it ends with the error");
}

#[test]
fn records_of_a_line_share_it_and_skipped_ones_leave_no_gap() {
    let folder = Folder::new();
    let data = Arc::new(folder.llava(&[
        record(0, &[], "Is it red ?", "no"),
        record(1, &[], &"red ".repeat(200), "no"),
        record(2, &[], "Is it red ?", "yes"),
        record(3, &[], &"red ".repeat(200), "yes"),
        record(4, &[], "Is it ?", "no"),
    ]));
    let encoder = Arc::new(encoder(100, Overlong::Skip));
    let order = vec![Lines(vec![vec![0, 1, 2], vec![3], vec![4]]), Lines(vec![vec![1, 3]])];
    for workers in [1, 3] {
        let loader =
            Loader::new(data.clone(), encoder.clone(), order.clone(), 0, settings(workers, 4, BadRecord::Error));
        let loaded: Vec<LoadedBatch> = loader.expect("a loader").collect::<Result<_, _>>().expect("batches");
        let batch = loaded[0].batch.as_ref().expect("a batch");
        assert_eq!((&batch.indices[..], &batch.line_of[..], batch.lines()), (&[0, 2, 4][..], &[0, 0, 1][..], 2));
        assert_eq!(batch.starts, [0, batch.ends[0], 0]);
        assert_eq!(loaded[0].skipped.iter().map(|skipped| skipped.index).collect::<Vec<_>>(), [1, 3]);
        assert!(loaded[1].batch.is_none() && loaded[1].skipped.len() == 2);
    }
}

/// A data kind that panics at one id and takes its time at all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Fragile {
    panics_at: i64,
    takes: Duration,
}

impl Component for Fragile {
    const NAME: &'static str = "Fragile";
    const PARAMETERS: &'static [Parameter] = &[];
}

impl DataKind for Fragile {
    type Media = TextOnly;
    type Shape = crate::example::Supervised;
    const FIELDS: &'static [&'static str] = &["id"];

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        std::thread::sleep(self.takes);
        assert!(row["id"].as_i64() != Some(self.panics_at), "a defect of the data kind");
        LlavaData::default().parse(row, place)
    }
}

fn fragile(folder: &Folder, kind: Fragile, records: usize) -> Arc<Dataset<Fragile>> {
    let rows: Vec<_> = (0..records).map(|i| record(i, &[], "q", "a").to_string()).collect();
    let file = folder.write("f.jsonl", rows.join("\n"));
    Arc::new(Dataset::open(kind, &[file], &[]).expect("a data set"))
}

#[test]
fn a_panic_in_a_worker_is_an_error_and_not_a_hang() {
    let folder = Folder::new();
    let data = fragile(&folder, Fragile { panics_at: 5, takes: Duration::ZERO }, 12);
    let order = Sampler::Sequential.epoch(0, 0, &[1; 12], 2, 1);
    let encoder = Arc::new(encoder(500, Overlong::Error));
    for workers in [1, 3] {
        let settings = settings(workers, 2, BadRecord::Skip);
        let loader = Loader::new(data.clone(), encoder.clone(), order.clone(), 0, settings);
        let results: Vec<_> = loader.expect("a loader").collect();
        assert_eq!(results.len(), 3, "two batches, then the error, then the end");
        let message = results[2].as_ref().expect_err("a panic").to_string();
        assert!(message.contains("batch 2") && message.contains("f.jsonl:5"), "{message}");
        assert!(message.contains("a defect of the data kind"), "{message}");
    }
}

#[test]
fn dropping_a_loader_stops_its_threads_at_once() {
    let folder = Folder::new();
    let data = fragile(&folder, Fragile { panics_at: -1, takes: Duration::from_millis(20) }, 2000);
    let order = Sampler::Sequential.epoch(0, 0, &[1; 2000], 500, 1);
    let encoder = Arc::new(encoder(500, Overlong::Error));
    let loader = Loader::new(data.clone(), encoder, order, 0, settings(2, 4, BadRecord::Error));
    let loader = loader.expect("a loader");
    std::thread::sleep(Duration::from_millis(30));
    let start = Instant::now();
    drop(loader);
    // All four batches would take 20 s on two threads.
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(Arc::strong_count(&data), 1, "no thread holds the data set");
}
