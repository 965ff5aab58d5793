//! A fixture opened through the library, its reference beside it, and what the checks share.

use burn::tensor::Device;
use firebrick::adapters::Lora;
use firebrick::checkpoint::bridge::Hold;
use firebrick::checkpoint::{Shards, read_json};
use firebrick::data::{
    Batch, Dataset, Encoded, Encoder, ImageEncoding, LlavaData, Outcome, Overlong, PadSide, Padding, Sample, collate,
};
use firebrick::device::{DeviceRequest, choose};
use firebrick::models::{LanguageModel, Llama};
use firebrick::projector::{Mlp2xGelu, NoProjector, Projector};
use firebrick::recipe::{Loaded, Opened, adapter_file};
use firebrick::text::ChatTemplate;
use firebrick::trainer::Policy;
use firebrick::vision::{Clip, NoVision, VisionEncoder};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Log-probabilities and losses on the CPU, in nats. The references themselves lie within 8e-6 of float64.
pub const CPU_NATS: f64 = 1e-4;
/// The same on a GPU, whose compilers may reorder sums and use faster exponentials.
pub const GPU_NATS: f64 = 1e-3;
/// Gradient norms, relative.
pub const GRADIENT: f64 = 1e-3;
/// Values before the head, absolute: they are of order 1 and pass through fewer sums than a log-probability.
pub const STATE: f64 = 1e-4;
/// Pixels, which are computed in 8-bit and then scaled in f32: only the scaling can round differently.
pub const PIXEL: f64 = 1e-6;

/// Checkpoints that hold their own models.
pub const LLAVA: [&str; 3] = ["llava_gqa", "llava_tied", "llava_nested"];

/// The device under test.
pub fn device() -> Device {
    let name = std::env::var("FIREBRICK_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let request: DeviceRequest = name.parse().expect("FIREBRICK_TEST_DEVICE is cpu or wgpu");
    choose(request).expect("the device of FIREBRICK_TEST_DEVICE is there").device
}

/// The tolerance of log-probabilities on the device under test.
pub fn nats() -> f64 {
    let gpu = std::env::var("FIREBRICK_TEST_DEVICE").is_ok_and(|name| name != "cpu");
    if gpu { GPU_NATS } else { CPU_NATS }
}

/// Fails where a model that was saved and loaded scores otherwise than before: in any bit on the CPU, by more than the
/// tolerance on a GPU, whose kernels are chosen by timing.
pub fn assert_same_scores(name: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    let tolerance = if nats() == CPU_NATS { 0.0 } else { GPU_NATS };
    let mut largest = Largest::new(format!("{name}, loaded again"), tolerance);
    assert_eq!(found.len(), expected.len(), "{name}: records");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        largest.check_all(&index, found, expected, 1.0);
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

/// What one checkpoint is compared with.
pub struct Reference {
    pub name: String,
    pub json: Value,
    dir: PathBuf,
    tensors: PathBuf,
}

impl Reference {
    pub fn open(name: &str) -> Self {
        let dir = fixtures().join(name);
        let json = read_json(&dir.join("reference.json")).unwrap();
        let Some(other) = json["same_numbers_as"].as_str() else {
            return Self { name: name.to_owned(), json, tensors: dir.join("reference.safetensors"), dir };
        };
        let mut other = Self::open(other.trim_start_matches("../"));
        if let Some(base) = json.get("base") {
            other.json["base"] = base.clone();
        }
        Self { name: name.to_owned(), dir, ..other }
    }

    /// The model's folder: the fixture's own, or the one its adapter goes on.
    pub fn model_dir(&self) -> PathBuf {
        self.dir.join(self.json["base"].as_str().unwrap_or("model"))
    }

    pub fn adapter_dir(&self) -> Option<PathBuf> {
        self.json.get("base").map(|_| self.dir.join("adapter"))
    }

    /// A tensor of `reference.safetensors`.
    pub fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        Shards::open_file(&self.tensors).unwrap().get(name).map(|view| view.to_f32().unwrap())
    }

    /// Tensors of `reference.safetensors` whose names begin with `prefix`, without it.
    pub fn tensors(&self, prefix: &str) -> Vec<(String, Vec<f32>)> {
        let file = Shards::open_file(&self.tensors).unwrap();
        let found =
            file.iter().filter_map(|view| Some((view.name.strip_prefix(prefix)?.to_owned(), view.to_f32().unwrap())));
        found.collect()
    }

    pub fn records(&self) -> &[Value] {
        self.json["records"].as_array().unwrap()
    }
}

/// A fixture's model with its records, encoded.
pub struct Case<V: VisionEncoder, P: Projector> {
    pub reference: Reference,
    pub adapter: Option<Lora>,
    pub loaded: Loaded<Llama, V, P>,
    pub encoder: Encoder,
    pub samples: Vec<Sample>,
    pub encoded: Vec<Encoded>,
    pub device: Device,
}

pub type LlavaCase = Case<Clip, Mlp2xGelu>;
pub type TextCase = Case<NoVision, NoProjector>;

impl LlavaCase {
    pub fn llava(name: &str, device: &Device) -> Self {
        Self::of(Reference::open(name), Clip::default(), Mlp2xGelu::default(), device)
    }
}

impl TextCase {
    pub fn text(name: &str, device: &Device) -> Self {
        Self::of(Reference::open(name), NoVision::default(), NoProjector::default(), device)
    }
}

impl<V: VisionEncoder, P: Projector> Case<V, P> {
    fn of(reference: Reference, vision: V, projector: P, device: &Device) -> Self {
        let (mut loaded, encoder) = load(&reference.model_dir(), &vision, &projector, device);
        let adapter: Option<Lora> = reference.adapter_dir().map(|dir| adapter_file::read_settings(&dir).unwrap());
        if let (Some(lora), Some(dir)) = (&adapter, reference.adapter_dir()) {
            loaded = adapter_file::load(loaded, lora, &dir, device).unwrap();
        }
        let samples = records(encoder.image.is_some());
        let encoded = encode(&encoder, &samples);
        Self { reference, adapter, loaded, encoder, samples, encoded, device: device.clone() }
    }

    /// All records in one batch.
    pub fn batch(&self, side: PadSide) -> Batch {
        batch(&self.encoded, side)
    }

    /// A parameter's name in the reference.
    pub fn reference_name(&self, parameter: &str) -> String {
        let mut name = parameter
            .replace("adapter.params.0", "lora_A.weight")
            .replace("adapter.params.1", "lora_B.weight")
            .replace("linears.0", "linear_1")
            .replace("linears.1", "linear_2");
        let composed = self.loaded.processor.is_some();
        if let Some(head) = name.strip_prefix("language_model.lm_head") {
            name = format!("lm_head{head}");
        } else {
            name = if composed { format!("model.{name}") } else { name.replace("language_model.", "model.") };
        }
        if self.adapter.is_some() { format!("base_model.model.{name}") } else { name }
    }
}

/// A folder's model and encoder, as a recipe opens them.
pub fn load<V: VisionEncoder, P: Projector>(
    dir: &Path,
    vision: &V,
    projector: &P,
    device: &Device,
) -> (Loaded<Llama, V, P>, Encoder) {
    let opened = Opened::new(dir, &Llama::default(), vision, projector, device).unwrap();
    let encoder = encoder(&opened);
    (opened.load(projector, &|_| Hold::Trained, device).unwrap(), encoder)
}

fn encoder<M: LanguageModel, V: VisionEncoder, P: Projector>(opened: &Opened<M, V, P>) -> Encoder {
    let image = opened.processor.clone().zip(opened.image_token.clone());
    Encoder {
        tokenizer: opened.tokenizer.clone(),
        template: match ChatTemplate::from_tokenizer(&opened.tokenizer) {
            Some(own) => own.unwrap(),
            None => ChatTemplate::llava("v1").unwrap(),
        },
        image: image.map(|(processor, (token, token_id))| ImageEncoding {
            processor,
            tokens_per_image: opened.model.tokens_per_image(),
            token,
            token_id,
            apart: opened.folder.encodes_apart(),
        }),
        max_length: usize::MAX,
        overlong: Overlong::Error,
        options: Default::default(),
    }
}

/// The fixtures' records, with pictures or of text alone.
pub fn records(pictures: bool) -> Vec<Sample> {
    let folder = fixtures().join("records");
    let file = folder.join(if pictures { "data.json" } else { "text.json" });
    let data = Dataset::open(LlavaData::default(), &[file], &[folder.join("images")]).unwrap();
    (0..data.len()).map(|index| data.sample(index).unwrap()).collect()
}

pub fn encode(encoder: &Encoder, samples: &[Sample]) -> Vec<Encoded> {
    let one = |(index, sample): (usize, &Sample)| match encoder.encode(sample, index).unwrap() {
        Outcome::Whole(mut example) => example.rows.remove(0),
        other => panic!("{}: {other:?}", sample.id),
    };
    samples.iter().enumerate().map(one).collect()
}

/// Padding is filled with an id that is also a real token's: it must not matter.
pub fn batch(encoded: &[Encoded], side: PadSide) -> Batch {
    collate(encoded, &Padding { token: 2, side, multiple_of: 1 })
}

/// Log-probabilities of each record's supervised tokens, one record after another.
pub fn log_probs<M: Policy>(model: &M, encoded: &[Encoded], device: &Device) -> Vec<Vec<f32>> {
    let one = |record| model.score(&batch(std::slice::from_ref(record), PadSide::Right), device).log_probs.remove(0);
    encoded.iter().map(one).collect()
}

/// The largest difference seen by one test, printed at its end (`--nocapture` shows it).
pub struct Largest {
    what: String,
    tolerance: f64,
    seen: f64,
}

impl Largest {
    pub fn new(what: impl Into<String>, tolerance: f64) -> Self {
        Self { what: what.into(), tolerance, seen: 0.0 }
    }

    /// Fails where `found` and `expected` differ by more than the tolerance times `scale`.
    pub fn check(&mut self, place: &dyn std::fmt::Display, found: f64, expected: f64, scale: f64) {
        let difference = (found - expected).abs() / scale;
        assert!(
            difference <= self.tolerance,
            "{}, {place}: {found} instead of {expected}, {difference:.2e} > {:.0e}",
            self.what,
            self.tolerance
        );
        self.seen = self.seen.max(difference);
    }

    pub fn check_all(&mut self, place: &dyn std::fmt::Display, found: &[f32], expected: &[f32], scale: f64) {
        assert_eq!(found.len(), expected.len(), "{}, {place}: number of values", self.what);
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            self.check(&format_args!("{place}[{index}]"), f64::from(*found), f64::from(*expected), scale);
        }
    }
}

impl Drop for Largest {
    fn drop(&mut self) {
        println!("{}: largest difference {:.1e}", self.what, self.seen);
    }
}

/// A list of numbers in the reference.
pub fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// One test per checkpoint that has numbers of its own, each handing its case to `$check`.
macro_rules! every_case {
    ($check:path, $device:expr) => {
        $crate::parity::case::every_case!(@ $check, $device, llava: llava_gqa llava_tied llava_nested peft_lora peft_rslora peft_old_prefix);
        $crate::parity::case::every_case!(@ $check, $device, text: llama_text mistral_text qwen2_text);
    };
    (@ $check:path, $device:expr, $kind:ident: $($name:ident)*) => {$(
        #[test]
        fn $name() {
            $check(&$crate::parity::case::Case::$kind(stringify!($name), &$device));
        }
    )*};
}
pub(crate) use every_case;
