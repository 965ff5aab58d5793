//! Helpers of this module's tests: a folder with pictures, data files and a small tokenizer.

mod batches;
mod encoding;
mod expanding;
mod forms;
mod loading;
mod options;
mod reading;
mod sources;
mod tables;
mod trl;
mod truncation;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Dataset, Encoder, ImageEncoding, LlavaData, Overlong, Place, Sample, TextOptions};
use crate::example::Shape;
use crate::image::ImageProcessor;
use crate::text::{ChatTemplate, Conversation, Tokenizer};

/// Id of `<image>` in the fixture's tokenizer.
const IMAGE_ID: u32 = 3;
const TOKENS_PER_IMAGE: usize = 4;

/// A temporary folder for data files and pictures.
struct Folder(TempDir);

impl Folder {
    /// With the pictures `a.png` and `b.png`.
    fn new() -> Self {
        let folder = Self(TempDir::new().expect("a temporary folder"));
        for (name, colour) in [("a.png", [250, 20, 30]), ("b.png", [10, 200, 40])] {
            let picture = ::image::RgbImage::from_pixel(6, 5, ::image::Rgb(colour));
            picture.save(folder.path(name)).expect("a picture");
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).expect("a file");
        self.path(name)
    }

    /// A data set of these records, one a line.
    fn llava(&self, records: &[Value]) -> Dataset<LlavaData> {
        let lines: Vec<String> = records.iter().map(Value::to_string).collect();
        let file = self.write("data.jsonl", lines.join("\n"));
        Dataset::open(LlavaData::default(), &[file], &[]).expect("a data set")
    }
}

/// A record of one question and one answer about `images`.
fn record(id: usize, images: &[&str], question: &str, answer: &str) -> Value {
    let markers = "<image>\n".repeat(images.len());
    json!({"id": id, "image": images, "conversations": [
        {"from": "human", "value": format!("{markers}{question}")},
        {"from": "gpt", "value": answer},
    ]})
}

fn tokenizer() -> Tokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/tokenizer");
    Tokenizer::from_dir(&dir).expect("the fixture's tokenizer")
}

fn encoder(max_length: usize, overlong: Overlong) -> Encoder {
    Encoder {
        tokenizer: tokenizer(),
        template: ChatTemplate::llava("v1").expect("a template"),
        image: Some(ImageEncoding {
            processor: ImageProcessor::clip(4),
            tokens_per_image: TOKENS_PER_IMAGE,
            token: "<image>".into(),
            token_id: IMAGE_ID,
            apart: false,
        }),
        max_length,
        overlong,
        options: TextOptions::default(),
    }
}

/// For text, without a limit.
fn text_encoder(template: ChatTemplate) -> Encoder {
    Encoder { template, image: None, ..encoder(usize::MAX, Overlong::Error) }
}

fn place() -> Place {
    Place { file: Path::new("made.jsonl").into(), line: 1 }
}

/// A record that comes from no file.
fn sample<S: Shape>(conversation: Conversation, target: S::Target, images: &[PathBuf]) -> Sample<S> {
    let images = images.to_vec();
    Sample { id: "0".into(), conversation, target, images, dropped_leading: 0, place: place() }
}
