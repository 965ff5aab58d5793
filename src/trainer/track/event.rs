//! The protobuf messages of an event file, as far as they are written here.
//!
//! The members of a `oneof` are plain optional fields: on the wire it is the same, and only one of them is ever set.
//!
//! # Source
//! TensorBoard 2.21: `event.proto`, `summary.proto`, `tensor.proto`, `plugins/hparams/plugin_data.proto`.

use prost::Message;
use std::collections::BTreeMap;

/// What a file's first event says it holds.
pub(super) const FILE_VERSION: &str = "brain.Event:2";
/// `SessionLog.SessionStatus.START`: readers drop what they have of this step and later ones.
const START: i32 = 1;
/// `DataType.DT_FLOAT`
const DT_FLOAT: i32 = 1;
/// `DataType.DT_STRING`
const DT_STRING: i32 = 7;
/// `DataClass.DATA_CLASS_TENSOR`
const CLASS_TENSOR: i32 = 2;
/// `DataClass.DATA_CLASS_BLOB_SEQUENCE`
const CLASS_BLOBS: i32 = 3;
/// Where the plugin of hyperparameters looks for a run's.
pub(super) const HPARAMS_START: &str = "_hparams_/session_start_info";
/// Where it looks for how the run ended.
pub(super) const HPARAMS_END: &str = "_hparams_/session_end_info";

/// One record of the file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    pub session_log: Option<SessionLog>,
    #[prost(message, optional, tag = "10")]
    pub source_metadata: Option<SourceMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SourceMetadata {
    #[prost(string, tag = "1")]
    pub writer: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionLog {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

/// `Summary.Value`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    pub tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<SummaryMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    pub plugin_data: Option<PluginData>,
    /// Markdown, shown beside the card; readers keep that of a tag's first event.
    #[prost(string, tag = "3")]
    pub summary_description: String,
    #[prost(int32, tag = "4")]
    pub data_class: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PluginData {
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub content: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorProto {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub string_val: Vec<Vec<u8>>,
}

/// Empty for a tensor of rank 0.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dim {
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// The content of the plugin `hparams`.
#[derive(Clone, PartialEq, Message)]
struct HParams {
    #[prost(message, optional, tag = "3")]
    start: Option<SessionStart>,
    #[prost(message, optional, tag = "4")]
    end: Option<SessionEnd>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, Scalar>,
    #[prost(string, tag = "4")]
    group_name: String,
    #[prost(double, tag = "5")]
    start_time_secs: f64,
}

#[derive(Clone, PartialEq, Message)]
struct SessionEnd {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time_secs: f64,
}

/// `google.protobuf.Value`, without its lists and objects.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Scalar {
    #[prost(double, optional, tag = "2")]
    pub number: Option<f64>,
    #[prost(string, optional, tag = "3")]
    pub text: Option<String>,
    #[prost(bool, optional, tag = "4")]
    pub bool: Option<bool>,
}

/// A picture file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The file's bytes.
    pub encoded: Vec<u8>,
}

impl Event {
    /// The first event of a file.
    pub fn version(wall_time: f64) -> Self {
        let source = SourceMetadata { writer: "firebrick".to_owned() };
        let version = Some(FILE_VERSION.to_owned());
        Self { wall_time, file_version: version, source_metadata: Some(source), ..Self::default() }
    }

    /// Says that the run goes on at `step`: what was read of it and of later steps no longer counts.
    pub fn session_start(wall_time: f64, step: i64) -> Self {
        Self { wall_time, step, session_log: Some(SessionLog { status: START }), ..Self::default() }
    }

    /// Values of one step.
    pub fn summary(wall_time: f64, step: i64, value: Vec<Value>) -> Self {
        Self { wall_time, step, summary: Some(Summary { value }), ..Self::default() }
    }

    /// Whether this is [`session_start`](Self::session_start).
    pub fn is_session_start(&self) -> bool {
        self.session_log.as_ref().is_some_and(|log| log.status == START)
    }

    /// The tags of its values.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.summary.iter().flat_map(|summary| summary.value.iter().map(|value| value.tag.as_str()))
    }
}

impl Value {
    /// A point of a curve.
    pub fn scalar(tag: impl Into<String>, value: f32) -> Self {
        Self { tag: tag.into(), simple_value: Some(value), ..Self::default() }
    }

    /// Markdown.
    pub fn text(tag: impl Into<String>, markdown: String) -> Self {
        let tensor = TensorProto {
            dtype: DT_STRING,
            tensor_shape: Some(TensorShape::default()),
            string_val: vec![markdown.into_bytes()],
        };
        let metadata = SummaryMetadata::plugin("text", Vec::new(), CLASS_TENSOR);
        Self { tag: tag.into(), tensor: Some(tensor), metadata: Some(metadata), ..Self::default() }
    }

    /// A picture, as the bytes of its file, with a Markdown text beside it.
    pub fn image(tag: impl Into<String>, picture: Picture, description: String) -> Self {
        // As a tensor, and not in the older form that has fields of its own: TensorBoard's fast loader drops the text there.
        let Picture { width, height, encoded } = picture;
        let tensor = TensorProto {
            dtype: DT_STRING,
            tensor_shape: Some(TensorShape { dim: vec![Dim { size: 3 }] }),
            string_val: vec![width.to_string().into_bytes(), height.to_string().into_bytes(), encoded],
        };
        let metadata = SummaryMetadata::plugin("images", Vec::new(), CLASS_BLOBS);
        let metadata = SummaryMetadata { summary_description: description, ..metadata };
        Self { tag: tag.into(), tensor: Some(tensor), metadata: Some(metadata), ..Self::default() }
    }

    /// The settings of a run, for comparing runs.
    pub fn hparams_start(hparams: BTreeMap<String, Scalar>, group_name: String, start_time_secs: f64) -> Self {
        let start = SessionStart { hparams, group_name, start_time_secs };
        Self::hparams(HPARAMS_START, HParams { start: Some(start), end: None })
    }

    /// How a run ended: `status` 1 well, 2 badly.
    pub fn hparams_end(status: i32, end_time_secs: f64) -> Self {
        Self::hparams(HPARAMS_END, HParams { start: None, end: Some(SessionEnd { status, end_time_secs }) })
    }

    /// The content stands in the metadata; the value is a list of no numbers.
    fn hparams(tag: &str, content: HParams) -> Self {
        let shape = Some(TensorShape { dim: vec![Dim { size: 0 }] });
        let null = TensorProto { dtype: DT_FLOAT, tensor_shape: shape, string_val: Vec::new() };
        let metadata = SummaryMetadata::plugin("hparams", content.encode_to_vec(), CLASS_TENSOR);
        Self { tag: tag.to_owned(), tensor: Some(null), metadata: Some(metadata), ..Self::default() }
    }
}

impl SummaryMetadata {
    fn plugin(name: &str, content: Vec<u8>, data_class: i32) -> Self {
        let plugin = PluginData { plugin_name: name.to_owned(), content };
        Self { plugin_data: Some(plugin), data_class, ..Self::default() }
    }
}
