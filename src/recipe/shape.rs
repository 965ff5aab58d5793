//! How weights are written: element type and size of the files.

use super::RecipeError;
use super::folder::ModelFolder;
use crate::checkpoint::{CheckpointError, Dtype, Shards};
use std::path::Path;

/// How weights are written.
#[derive(Clone, Copy, Debug, PartialEq, clap::Args)]
pub struct Shape {
    /// Largest weight file; more are written where the weights are larger (5GB, 500MB; GiB and MiB too)
    #[arg(long, value_name = "SIZE", default_value = "50GB", value_parser = parse_size)]
    pub max_shard_size: u64,
    /// Element type; left out, that of the checkpoint's own weights
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<WeightType>,
    /// Turn the 4- or 8-bit weights of a quantized checkpoint into whole ones, which alone can be written
    #[arg(long)]
    pub dequantize: bool,
}

/// Element types of weights in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightType {
    /// IEEE single precision.
    Float32,
    /// IEEE half precision: 11 bits of precision, at most 65504.
    Float16,
    /// The upper half of single precision.
    Bfloat16,
}

impl Shape {
    /// As training leaves a model: in f32, files of at most 50 GB as Hugging Face's default has it since transformers 5.
    pub const TRAINED: Self =
        Self { max_shard_size: 50_000_000_000, dtype: Some(WeightType::Float32), dequantize: false };

    /// Refuses a quantized folder without `--dequantize`, and that without one.
    pub(super) fn check(&self, folder: &ModelFolder) -> Result<(), RecipeError> {
        match (folder.quantized()?.is_some(), self.dequantize) {
            (true, false) => Err(RecipeError::Usage(format!(
                "{} holds quantized weights, which are not written: add --dequantize for a whole checkpoint",
                folder.dir.display()
            ))),
            (false, true) => Err(RecipeError::Usage(format!(
                "--dequantize would do nothing: the weights of {} are whole; leave it out",
                folder.dir.display()
            ))),
            _ => Ok(()),
        }
    }

    /// With the element type of a folder's weights where none is asked for.
    pub(super) fn like(self, folder: &Path) -> Result<(u64, WeightType), CheckpointError> {
        let dtype = match self.dtype {
            Some(dtype) => dtype,
            None => WeightType::of(Shards::open(folder)?.iter().next().map(|view| view.dtype)),
        };
        Ok((self.max_shard_size, dtype))
    }
}

impl WeightType {
    fn of(dtype: Option<Dtype>) -> Self {
        match dtype {
            Some(Dtype::F16) => Self::Float16,
            Some(Dtype::BF16) => Self::Bfloat16,
            _ => Self::Float32,
        }
    }

    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::F32,
            Self::Float16 => Dtype::F16,
            Self::Bfloat16 => Dtype::BF16,
        }
    }

    /// PyTorch's name, as `config.json` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

/// `5GB`, `500MB`, `1GiB` or a plain number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return Err("write a number of bytes, or one with KB, MB, GB, KiB, MiB or GiB".to_owned()),
    };
    let size = digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    size.ok_or_else(|| "write a number above 0, for example 5GB".to_owned())
}
