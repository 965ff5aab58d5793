//! Quantized weights in files: what bitsandbytes leaves beside a `weight`, and what `config.json` says of it.
//!
//! - 4 bits: `weight` holds two codes a byte, `weight.absmax` the blocks' scales, `weight.quant_map` the levels,
//!   `weight.quant_state.bitsandbytes__nf4` (or `…fp4`) a JSON text with shape and block size. With double quantization the
//!   scales are bytes, and `weight.nested_absmax` and `weight.nested_quant_map` say what they stand for.
//! - 8 bits: `weight` holds a signed byte for each element, `SCB` a scale for each row, `weight_format` (0) their order.

use super::config_json::Fields;
use super::error::CheckpointError;
use super::keys::Rename;
use super::shards::{Shards, TensorView};
use super::tensors::Dtype;
use crate::nn::{Blocks, CodeBytes, Levels, NESTED_BLOCK, QuantFormat, Scales};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// What a file's levels may differ from ours by: they are printed with seven digits in places.
const LEVEL_TOLERANCE: f32 = 1e-6;

/// The quantized weights of a folder.
#[derive(Debug)]
pub struct QuantizedFile<'a> {
    held: HashMap<String, TensorView<'a>>,
}

/// A weight as a folder holds it.
#[derive(Debug)]
pub enum Stored<'a> {
    /// As numbers.
    Plain(TensorView<'a>),
    /// Quantized.
    Quantized(Blocks),
}

impl<'a> QuantizedFile<'a> {
    /// The folder's tensors under a model's names.
    pub fn new(shards: &'a Shards, rename: Rename<'_>) -> Self {
        Self { held: shards.iter().map(|view| (rename.apply(view.name), view)).collect() }
    }

    /// Whether anything of the weight `key` is quantized; `key` ends in `.weight`.
    pub fn is_quantized(&self, key: &str) -> bool {
        self.state(key).is_some() || self.held.contains_key(&beside(key, "SCB"))
    }

    /// The names, in the files, of the weight `key` and of what stands beside it for it.
    pub fn names(&self, key: &str) -> Vec<&'a str> {
        let inside = format!("{key}.");
        let outside = [key.to_owned(), beside(key, "SCB"), beside(key, "weight_format")];
        let belongs = |name: &&String| name.starts_with(&inside) || outside.contains(name);
        self.held.keys().filter(belongs).filter_map(|name| self.held.get(name)).map(|view| view.name).collect()
    }

    /// The weight `key` of a linear layer `[out, in]`; `None` where the folder has none.
    ///
    /// Codes stay in the mapped file.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] where its parts do not fit together, or are of a kind that is not implemented.
    pub fn read(&self, key: &str, shape: [usize; 2]) -> Result<Option<Stored<'a>>, CheckpointError> {
        let Some(view) = self.held.get(key) else { return Ok(None) };
        let refused = |reason: String| CheckpointError::tensor(view.file, view.name, reason);
        let (format, scales) = match self.state(key) {
            Some((levels, state)) => self.four_bit(key, levels, &state, shape)?,
            None if self.held.contains_key(&beside(key, "SCB")) => (QuantFormat::Int8, self.int8(key, view)?),
            None => return Ok(Some(Stored::Plain(*view))),
        };
        // The type of what holds the codes of 4 bits is a setting of the writer's; the bytes are the same.
        if format == QuantFormat::Int8 && (view.dtype != Dtype::I8 || view.shape != shape) {
            let (found, expected) = (view.shape, shape);
            return Err(refused(format!("is of type {} and shape {found:?}, expected I8 {expected:?}", view.dtype)));
        }
        let codes: CodeBytes = match view.window() {
            Some(window) => Arc::new(window),
            None => Arc::new(view.bytes.to_vec()),
        };
        let blocks = Blocks::new(format, shape, codes, scales);
        Ok(Some(Stored::Quantized(blocks.map_err(|error| refused(error.to_string()))?)))
    }

    fn state(&self, key: &str) -> Option<(Levels, TensorView<'a>)> {
        [(Levels::Nf4, "nf4"), (Levels::Fp4, "fp4")].into_iter().find_map(|(levels, name)| {
            Some((levels, *self.held.get(&format!("{key}.quant_state.bitsandbytes__{name}"))?))
        })
    }

    fn four_bit(
        &self,
        key: &str,
        levels: Levels,
        state: &TensorView<'_>,
        shape: [usize; 2],
    ) -> Result<(QuantFormat, Scales), CheckpointError> {
        let refused = |reason: String| CheckpointError::tensor(state.file, state.name, reason);
        let described: Value =
            serde_json::from_slice(state.bytes).map_err(|error| refused(format!("is not valid JSON: {error}")))?;
        if described["shape"] != serde_json::json!(shape) {
            return Err(refused(format!("says shape {}, but the model expects {shape:?}", described["shape"])));
        }
        let size = |name: &str| match described[name].as_u64() {
            Some(size) if size.is_power_of_two() && size <= 1 << 20 => Ok(size as usize),
            _ => Err(refused(format!("says {name} {}, expected a power of two", described[name]))),
        };
        let map = self.floats(key, "quant_map")?;
        let same = |(a, b): (&f32, &f32)| (a - b).abs() <= LEVEL_TOLERANCE;
        if map.len() != 16 || !map.iter().zip(levels.table()).all(same) {
            return Err(refused(format!("stands beside a quant_map that is not {levels}'s")));
        }
        let double = self.held.contains_key(&format!("{key}.nested_absmax"));
        let format = QuantFormat::FourBit { levels, block_size: size("blocksize")?, double };
        if !double {
            return Ok((format, Scales::Plain(self.floats(key, "absmax")?)));
        }
        if size("nested_blocksize")? != NESTED_BLOCK {
            return Err(refused(format!("says nested_blocksize {}, expected 256", described["nested_blocksize"])));
        }
        let offset = match described["nested_offset"].as_f64() {
            Some(offset) => offset as f32,
            None => {
                return Err(refused(format!("says nested_offset {}, expected a number", described["nested_offset"])));
            }
        };
        let codes = self.part(key, "absmax")?;
        if codes.dtype != Dtype::U8 {
            let reason = format!("is of type {}, expected U8 beside nested_absmax", codes.dtype);
            return Err(CheckpointError::tensor(codes.file, codes.name, reason));
        }
        let (levels, absmax) = (self.floats(key, "nested_quant_map")?, self.floats(key, "nested_absmax")?);
        Ok((format, Scales::Nested { codes: codes.bytes.to_vec(), levels, absmax, offset }))
    }

    fn int8(&self, key: &str, view: &TensorView<'_>) -> Result<Scales, CheckpointError> {
        if let Some(order) = self.held.get(&beside(key, "weight_format")).filter(|order| order.bytes != [0]) {
            let reason = "says that the codes are ordered for one kind of GPU; save the model anew with bitsandbytes 0.45 \
                          or later, which keeps rows";
            return Err(CheckpointError::tensor(order.file, order.name, reason.to_owned()));
        }
        match self.held.get(&beside(key, "SCB")) {
            Some(scales) => Ok(Scales::Plain(scales.to_finite_f32()?)),
            None => Err(CheckpointError::tensor(view.file, view.name, "has no SCB beside it".to_owned())),
        }
    }

    fn part(&self, key: &str, part: &str) -> Result<TensorView<'a>, CheckpointError> {
        let name = format!("{key}.{part}");
        match (self.held.get(&name), self.held.get(key)) {
            (Some(view), _) => Ok(*view),
            (None, Some(weight)) => {
                Err(CheckpointError::tensor(weight.file, weight.name, format!("has no `{part}` beside it")))
            }
            (None, None) => unreachable!("a part is asked for beside its weight"),
        }
    }

    fn floats(&self, key: &str, part: &str) -> Result<Vec<f32>, CheckpointError> {
        self.part(key, part)?.to_finite_f32()
    }
}

/// `SCB` and `weight_format` stand beside the weight, not below it.
fn beside(key: &str, name: &str) -> String {
    format!("{}{name}", key.strip_suffix("weight").unwrap_or(key))
}

/// What `quantization_config` of a `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedFolder {
    /// How weights are quantized. The block size is bitsandbytes' default, which each weight's own state may replace.
    pub format: QuantFormat,
    /// Modules that are not; `None` for transformers' choice, the head.
    pub skip: Option<Vec<String>>,
}

impl QuantizedFolder {
    /// Reads the field; `None` where it is not there.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] where another library quantized the model, or where its weights were not kept in 4 or 8 bits.
    pub fn read(config: &Fields<'_>) -> Result<Option<Self>, CheckpointError> {
        let Some(fields) = config.opt_object("quantization_config")? else { return Ok(None) };
        let method = fields.string_or("quant_method", "bitsandbytes")?;
        if method != "bitsandbytes" {
            return Err(fields.error("quant_method", "bitsandbytes: load the unquantized checkpoint"));
        }
        if fields.bool_or("llm_int8_has_fp16_weight", false)? {
            return Err(fields.error("llm_int8_has_fp16_weight", "false: load the unquantized checkpoint"));
        }
        let format = match (fields.bool_or("load_in_4bit", false)?, fields.bool_or("load_in_8bit", false)?) {
            (true, _) => {
                let levels = match fields.string_or("bnb_4bit_quant_type", "fp4")?.as_str() {
                    "nf4" => Levels::Nf4,
                    "fp4" => Levels::Fp4,
                    _ => return Err(fields.error("bnb_4bit_quant_type", "nf4 or fp4")),
                };
                let double = fields.bool_or("bnb_4bit_use_double_quant", false)?;
                QuantFormat::FourBit { levels, block_size: 64, double }
            }
            (false, true) => QuantFormat::Int8,
            (false, false) => return Err(fields.error("load_in_4bit", "true, or load_in_8bit")),
        };
        let skip = match fields.has("llm_int8_skip_modules") {
            true => Some(fields.strings_or("llm_int8_skip_modules", Vec::<String>::new())?),
            false => None,
        };
        Ok(Some(Self { format, skip }))
    }
}

/// Whether the module at `path` stays as it is: its path ends in one of `skip`, as transformers has it, or one of them is a part
/// of it between dots.
pub fn is_skipped(path: &str, skip: &[String]) -> bool {
    let dotted = format!(".{path}.");
    skip.iter().any(|name| path.ends_with(name.as_str()) || dotted.contains(&format!(".{name}.")))
}
