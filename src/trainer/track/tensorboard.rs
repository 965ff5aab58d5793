//! `tensorboard/events.out.tfevents.…`: a run as TensorBoard reads it.
//!
//! Each process writes a file of its own. A resumed one first writes its file, whose first events say from which step on
//! what was read before no longer counts, for a TensorBoard that has read it already; then it cuts the older files, for
//! one that has not, and for readers that know no such event. What stays of the steps in question moves into the new file.

use super::event::{Event, HPARAMS_END, Picture, Scalar, Value};
use super::markdown::{table, table_of};
use super::records::{Records, frame};
use super::{About, Keep, Sample, Status, Tracker, Written, first_again, plain, points, since_epoch, step_of, typed};
use crate::checkpoint::fault::{Op, around};
use crate::checkpoint::{CheckpointError, DurableFile, recover, write_file};
use crate::trainer::shown::Table;
use image::{ImageFormat, ImageReader};
use prost::Message;
use serde_json::Map;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What every event file's name starts with.
const PREFIX: &str = "events.out.tfevents.";
/// The group of cards that shows records and answers.
const SAMPLES: &str = "samples/";
/// What the tags of an evaluation's tables end with, as PyTorch's writer names texts.
const TEXT: &str = "/text_summary";
/// What the tags of an evaluation's tables begin with.
const TABLES: &str = "tables/";

/// The event file that one process writes.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: DurableFile,
    /// Tags of samples that are in the files, with their last step.
    sampled: BTreeMap<String, i64>,
}

impl TensorBoard {
    /// Starts an event file in `run`'s folder `tensorboard`, and cuts those that are there to what `keep` lets stay.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn open(run: &Path, about: &About<'_>, keep: Option<Keep>) -> Result<Self, CheckpointError> {
        let dir = run.join("tensorboard");
        std::fs::create_dir_all(&dir).map_err(CheckpointError::io(&dir, "creating the folder"))?;
        recover(&dir)?;
        let earlier = event_files(&dir)?;
        let mut kept = Kept::default();
        for path in &earlier {
            kept.scan(path, keep)?;
        }
        let now = wall_time();
        let mut bytes = Vec::new();
        put(&Event::version(now), &mut bytes);
        // A run's first file has one as well: TensorBoard takes the first that it meets for the start, not for a restart.
        put(&Event::session_start(now, first_again(keep) as i64), &mut bytes);
        for event in &kept.moved {
            put(event, &mut bytes);
        }
        if !kept.any {
            put(&Event::summary(now, 0, settings(about)), &mut bytes);
        }
        let path = dir.join(file_name(&earlier));
        write_file(&path, &bytes)?;
        for (path, length) in &kept.lengths {
            cut(path, *length)?;
        }
        let file = DurableFile::open_at(&path, bytes.len() as u64)?;
        Ok(Self { path, file, sampled: kept.sampled })
    }

    /// Appends events, for whoever follows the file.
    fn write(&mut self, events: &[Event]) -> Result<(), CheckpointError> {
        let mut bytes = Vec::new();
        for event in events {
            put(event, &mut bytes);
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        written.map_err(CheckpointError::io(&self.path, "writing"))
    }

    /// Pictures are written once, answers at every step.
    fn sample(&self, number: usize, step: i64, sample: &Sample<'_>) -> Vec<Value> {
        let tag = format!("{SAMPLES}{number:02}");
        let mut values = Vec::new();
        for (n, (_, bytes)) in sample.images.iter().enumerate() {
            let tag = if n == 0 { format!("{tag}/picture") } else { format!("{tag}/picture_{}", n + 1) };
            if self.sampled.contains_key(&tag) {
                continue;
            }
            let caption = table(["question", "expected"], [[sample.question.to_owned(), sample.expected.to_owned()]]);
            values.extend(picture(bytes).map(|picture| Value::image(tag, picture, caption)));
        }
        let tag = format!("{tag}/text_summary");
        if self.sampled.get(&tag).is_none_or(|&last| last < step) {
            let cells = [sample.question, sample.expected, sample.generated].map(str::to_owned);
            values.push(Value::text(tag, table(["question", "expected", "generated"], [cells])));
        }
        values
    }
}

impl Tracker for TensorBoard {
    fn row(&mut self, row: &Map<String, serde_json::Value>) -> Result<(), CheckpointError> {
        // A curve's points are single precision, as in every writer that TensorBoard comes with.
        let values = points(row).map(|(tag, value)| Value::scalar(tag, value as f32)).collect();
        self.write(&[Event::summary(wall_time(), step_of(row) as i64, values)])
    }

    fn samples(&mut self, step: usize, samples: &[Sample<'_>]) -> Result<(), CheckpointError> {
        let (step, now) = (step as i64, wall_time());
        // An event per record, so that none is large.
        for (n, sample) in samples.iter().enumerate() {
            let values = self.sample(n + 1, step, sample);
            if values.is_empty() {
                continue;
            }
            let event = Event::summary(now, step, values);
            self.write(std::slice::from_ref(&event))?;
            self.sampled.extend(event.tags().map(|tag| (tag.to_owned(), step)));
        }
        Ok(())
    }

    fn table(&mut self, step: usize, name: &str, table: &Table) -> Result<(), CheckpointError> {
        let value = Value::text(format!("{TABLES}{name}{TEXT}"), table_of(table));
        self.write(&[Event::summary(wall_time(), step as i64, vec![value])])
    }

    fn sync(&mut self) -> Result<(), CheckpointError> {
        self.file.sync()
    }

    fn end(&mut self, step: usize, status: Status) -> Result<(), CheckpointError> {
        // The states of TensorBoard's `Status`; none says that a run may go on, so an interrupted one is left running.
        let status = match status {
            Status::Finished => Some(1),
            Status::Failed => Some(2),
            Status::Interrupted => None,
        };
        if let Some(status) = status {
            let now = wall_time();
            self.write(&[Event::summary(now, step as i64, vec![Value::hparams_end(status, now)])])?;
        }
        self.sync()
    }
}

/// What stays of the files of earlier processes.
#[derive(Debug, Default)]
struct Kept {
    /// Each file with the length it keeps; 0 for one of which nothing stays.
    lengths: Vec<(PathBuf, u64)>,
    /// Events that stay although they come after one that does not.
    moved: Vec<Event>,
    sampled: BTreeMap<String, i64>,
    /// Whether any value stays.
    any: bool,
}

impl Kept {
    fn scan(&mut self, path: &Path, keep: Option<Keep>) -> Result<(), CheckpointError> {
        let io = |action| CheckpointError::io(path, action);
        let file = File::open(path).map_err(io("opening"))?;
        let length = file.metadata().map_err(io("reading the length"))?.len();
        let mut records = Records::new(BufReader::new(file), length);
        let (mut end, mut empty, mut cutting) = (0, true, false);
        while let Some(payload) = records.next().map_err(io("reading"))? {
            // Whole, and yet no event: nothing of ours, and nothing that a reader would get past.
            let Ok(event) = Event::decode(payload.as_slice()) else { break };
            if event.is_session_start() {
                // A process that died before it cut its predecessors has moved these itself.
                self.moved.retain(|earlier| earlier.step < event.step);
            }
            let stays = stays(keep, &event);
            cutting |= !stays || event.step >= first_again(keep) as i64;
            if !cutting {
                end = records.offset();
                empty &= event.summary.is_none();
                self.note(&event);
            } else if stays && event.summary.is_some() {
                self.moved.push(event);
            }
        }
        self.lengths.push((path.to_owned(), if empty { 0 } else { end }));
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        for tag in event.tags() {
            self.any = true;
            if tag.starts_with(SAMPLES) {
                self.sampled.insert(tag.to_owned(), event.step);
            }
        }
    }
}

fn stays(keep: Option<Keep>, event: &Event) -> bool {
    let step = u64::try_from(event.step).unwrap_or(0);
    let evaluated = |tag: &str| ["eval/", SAMPLES, TABLES].iter().any(|start| tag.starts_with(start));
    let written = if event.tags().any(|tag| tag == HPARAMS_END) {
        Written::AtTheEnd
    } else if event.tags().any(evaluated) {
        Written::InEvaluation
    } else {
        Written::InTraining
    };
    written.stays(keep, step)
}

/// Cuts a file to `length` bytes and makes that last, or removes it.
fn cut(path: &Path, length: u64) -> Result<(), CheckpointError> {
    if length == 0 {
        return around(Op::Remove, path, || std::fs::remove_file(path)).map_err(CheckpointError::io(path, "removing"));
    }
    let found = path.metadata().map_err(CheckpointError::io(path, "reading the length"))?.len();
    if found > length {
        DurableFile::open_at(path, length)?.sync()?;
    }
    Ok(())
}

/// The folder's event files in the order in which TensorBoard reads them.
fn event_files(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let io = || CheckpointError::io(dir, "reading the folder");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io())? {
        let entry = entry.map_err(io())?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// A name that sorts behind those of `earlier`, even where the clock went back or stands within the same second.
fn file_name(earlier: &[PathBuf]) -> String {
    let seconds = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok();
    let after = earlier.iter().filter_map(seconds).max().map_or(0, |last: u64| last.saturating_add(1));
    let seconds = since_epoch(SystemTime::now()).as_secs().max(after);
    let host: String = gethostname::gethostname()
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' })
        .take(64)
        .collect();
    format!("{PREFIX}{seconds:010}.{host}.{}.0", std::process::id())
}

/// The settings as a table and, with their types, for TensorBoard's comparison of runs.
fn settings(about: &About<'_>) -> Vec<Value> {
    let facts = [("run", about.name), ("command", about.command), ("device", about.device)];
    let facts = facts.into_iter().map(|(name, value)| [name.to_owned(), value.to_owned(), String::new()]);
    let rows = about.settings.iter().map(|s| [s.key.clone(), plain(s), s.origin.clone()]);
    let text = table(["setting", "value", "set by"], facts.chain(rows));
    let hparams = about.settings.iter().map(|s| (s.key.clone(), scalar(&typed(s))));
    let started = since_epoch(about.started).as_secs_f64();
    vec![
        Value::text("settings/text_summary", text),
        Value::hparams_start(hparams.collect(), about.name.to_owned(), started),
    ]
}

fn scalar(value: &serde_json::Value) -> Scalar {
    match value {
        serde_json::Value::Bool(value) => Scalar { bool: Some(*value), ..Scalar::default() },
        serde_json::Value::Number(value) => Scalar { number: value.as_f64(), ..Scalar::default() },
        serde_json::Value::String(text) => Scalar { text: Some(text.clone()), ..Scalar::default() },
        other => Scalar { text: Some(other.to_string()), ..Scalar::default() },
    }
}

/// A picture that TensorBoard shows; one that cannot be read is left out, because training has told so already.
fn picture(bytes: &[u8]) -> Option<Picture> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    let encoded = match reader.format()? {
        ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif | ImageFormat::Bmp => bytes.to_vec(),
        // TensorBoard serves other formats under a media type that browsers do not show.
        _ => {
            let mut png = Vec::new();
            image::load_from_memory(bytes).ok()?.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).ok()?;
            png
        }
    };
    let (width, height) = reader.into_dimensions().ok()?;
    Some(Picture { width, height, encoded })
}

fn put(event: &Event, bytes: &mut Vec<u8>) {
    frame(&event.encode_to_vec(), bytes);
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    since_epoch(SystemTime::now()).as_secs_f64()
}
