//! Which weights are held in 8 or 4 bits, and how they come to be.

use super::RecipeError;
use super::opened::{Opened, VlmOf};
use crate::checkpoint::bnb::{QuantizedFile, QuantizedFolder, Stored, is_skipped};
use crate::checkpoint::bridge::Hold;
use crate::checkpoint::{CheckpointError, TensorView};
use crate::models::{CausalLm, LanguageModel};
use crate::nn::params::ParamInfo;
use crate::nn::{Blocks, Levels, Linear, QuantFormat, Quantized, Weight};
use crate::projector::Projector;
use crate::settings::{Kind, SettingError};
use crate::vision::VisionEncoder;
use burn::module::{Param, ParamId};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// In how many bits frozen weights are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bits {
    /// As the folder has them.
    #[default]
    None,
    /// 8, one scale for each row.
    Int8,
    /// 4, quantiles of a normal distribution.
    Nf4,
    /// 4, small floating-point numbers.
    Fp4,
}

crate::component! {
    /// Quantizes the frozen linear layers while they are loaded, as bitsandbytes does: all of the language model's but the head,
    /// and those of a frozen vision tower and projector. What is trained, tables, norms and biases stay as they are.
    ///
    /// # Source
    /// Dettmers et al. 2023; transformers' `BitsAndBytesConfig`, whose defaults and choice of layers it has.
    pub struct Quantize, QuantizeBuilder {
        /// `int8`, `nf4` or `fp4`.
        pub weights: Bits = Bits::None => Kind::choice(&["none", "int8", "nf4", "fp4"]),
        /// Elements that share a scale, in 4 bits: a power of two.
        pub block_size: usize = 64 => Kind::integer(32, 4096),
        /// Quantizes those scales too, which saves 0.37 bits an element.
        pub double_quant: bool = false => Kind::bool(),
        /// Layers that stay as they are, by the ends of their paths or by modules around them.
        pub skip_modules: Vec<String> = Vec::new() => Kind::list(),
    }
    check = Quantize::check_settings;
}

impl Quantize {
    fn check_settings(&self) -> Result<(), SettingError> {
        if !self.block_size.is_power_of_two() {
            return Err(SettingError::rule(format!("`block_size` is {}, but must be a power of two", self.block_size)));
        }
        let four_bit = matches!(self.weights, Bits::Nf4 | Bits::Fp4);
        let idle = [
            ("block_size", self.block_size != 64 && !four_bit, "weights in 4 bits"),
            ("double_quant", self.double_quant && !four_bit, "weights in 4 bits"),
            ("skip_modules", !self.skip_modules.is_empty() && self.weights == Bits::None, "quantized weights"),
        ];
        match idle.iter().find(|(_, set, _)| *set) {
            None => Ok(()),
            Some((name, _, needs)) => Err(SettingError::rule(format!(
                "`{name}` would do nothing without {needs}: set `weights`, or leave it out"
            ))),
        }
    }

    /// The format; `None` where nothing is quantized.
    pub fn format(&self) -> Option<QuantFormat> {
        let four_bit = |levels| QuantFormat::FourBit { levels, block_size: self.block_size, double: self.double_quant };
        match self.weights {
            Bits::None => None,
            Bits::Int8 => Some(QuantFormat::Int8),
            Bits::Nf4 => Some(four_bit(Levels::Nf4)),
            Bits::Fp4 => Some(four_bit(Levels::Fp4)),
        }
    }
}

/// What becomes of a model's linear layers when they are loaded.
#[derive(Clone, Debug, Default)]
pub(super) struct QuantPlan {
    /// Weights to quantize, by name.
    on_load: BTreeMap<String, QuantFormat>,
    /// Weights that the folder says are quantized, by name.
    stored: BTreeMap<String, QuantFormat>,
    /// Whether those become whole again.
    whole: bool,
}

impl QuantPlan {
    /// The format in which a parameter is held; `None` for one that is held in numbers.
    pub(super) fn format_of(&self, parameter: &str) -> Option<QuantFormat> {
        let stored = self.stored.get(parameter).filter(|_| !self.whole);
        stored.or_else(|| self.on_load.get(parameter)).copied()
    }

    /// Bytes that a parameter takes in memory once it is loaded; `narrow` for one that is held in bf16.
    pub(super) fn bytes_held(&self, parameter: &ParamInfo, narrow: bool) -> usize {
        match (self.format_of(&parameter.name), parameter.shape.as_slice()) {
            (Some(format), &[outputs, inputs]) => format.bytes_held([outputs, inputs]),
            _ => parameter.len() * if narrow { 2 } else { 4 },
        }
    }

    /// What the folder's configuration says of `model`.
    pub(super) fn of_folder<M: LanguageModel, V: VisionEncoder, P: Projector>(
        folder: Option<QuantizedFolder>,
        model: &VlmOf<M, V, P>,
    ) -> Self {
        let Some(QuantizedFolder { format, skip }) = folder else { return Self::default() };
        let mut stored = BTreeMap::new();
        model.clone().visit_all_linears(&mut |path, _| {
            if !is_skipped(path, skip.as_deref().unwrap_or_default()) {
                stored.insert(weight(path), format);
            }
        });
        Self { stored, ..Self::default() }
    }
}

fn weight(path: &str) -> String {
    format!("{path}.weight")
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> Opened<M, V, P> {
    /// Holds frozen layers as the settings say; `trained` says of a parameter's name whether a step changes it.
    ///
    /// # Errors
    /// [`RecipeError::Usage`] where a folder is quantized already, where a layer of a quantized folder would be trained, and
    /// where no layer is left to be quantized.
    pub fn quantize(&mut self, settings: &Quantize, trained: &dyn Fn(&str) -> bool) -> Result<(), RecipeError> {
        let refused = |text: String| Err(RecipeError::Usage(text));
        let dir = self.folder.dir.display();
        if let Some((name, format)) = self.quant.stored.iter().find(|(name, _)| trained(name)) {
            return refused(format!(
                "{name} would be trained, but {dir} holds it in {format}, which cannot be: train an adapter beside it and \
                 set the train.* switch of that part to false, or take an unquantized checkpoint (`convert --dequantize`)"
            ));
        }
        let Some(format) = settings.format() else { return Ok(()) };
        if !self.quant.stored.is_empty() {
            return refused(format!("{dir} is quantized already; leave quantize.weights out"));
        }
        let on_load = &mut self.quant.on_load;
        self.model.clone().visit_all_linears(&mut |path, _| {
            if !trained(&weight(path)) && !is_skipped(path, &settings.skip_modules) {
                on_load.insert(weight(path), format);
            }
        });
        match on_load.is_empty() {
            true => refused(format!(
                "quantize.weights = {format} would do nothing: every linear layer is trained or skipped; add an adapter, \
                 or leave it out"
            )),
            false => Ok(()),
        }
    }

    /// Turns what the folder holds in fewer bits into whole weights.
    pub fn dequantize(&mut self) {
        self.quant.whole = true;
    }

    /// Bytes that a parameter takes in memory once it is loaded; `narrow` for one that is held in bf16.
    pub fn bytes_held(&self, parameter: &ParamInfo, narrow: bool) -> usize {
        self.quant.bytes_held(parameter, narrow)
    }
}

/// What was taken out of a folder.
pub(super) struct Taken {
    /// Parameters that have their values.
    pub(super) parameters: HashSet<String>,
    /// Tensors of the files that belong to them.
    pub(super) tensors: Vec<String>,
}

/// Gives the linear layers whose weights are quantized, in the folder or now, theirs; one after another, so that one whole
/// weight in f32 exists at a time.
///
/// # Errors
/// [`CheckpointError::Tensor`] naming the tensor that is damaged or misshapen.
pub(super) fn take<M: LanguageModel, V: VisionEncoder, P: Projector>(
    model: &mut VlmOf<M, V, P>,
    file: &QuantizedFile<'_>,
    plan: &QuantPlan,
    key: &dyn Fn(&str) -> Option<String>,
    hold: &dyn Fn(&str) -> Hold,
    device: &Device,
) -> Result<Taken, CheckpointError> {
    let mut taken = Taken { parameters: HashSet::new(), tensors: Vec::new() };
    let mut done = Ok(());
    let mut one = |path: &str, linear: &mut Linear, whole: bool| {
        let name = weight(path);
        let Some(key) = key(&name).filter(|_| done.is_ok()) else { return };
        let format = plan.on_load.get(&name).copied();
        if format.is_none() && !file.is_quantized(&key) {
            return;
        }
        match read(file, &key, linear.shape(), format) {
            Ok(Some(blocks)) => {
                linear.weight = match whole {
                    true => Weight::Dense(dense(&blocks, hold(&name) == Hold::Narrow, device)),
                    false => Weight::Quantized(Quantized::on(blocks, device)),
                };
                taken.tensors.extend(file.names(&key).into_iter().map(str::to_owned));
                taken.parameters.insert(name);
            }
            Ok(None) => {}
            Err(error) => done = Err(error),
        }
    };
    model.visit_all_linears(&mut |path, linear| one(path, linear, plan.whole));
    if let Some(head) = model.language_model.head_mut() {
        // The loss multiplies with all of it: a head is held whole whatever the file has.
        one("language_model.lm_head", head, true);
    }
    done.map(|()| taken)
}

fn read(
    file: &QuantizedFile<'_>,
    key: &str,
    shape: [usize; 2],
    format: Option<QuantFormat>,
) -> Result<Option<Blocks>, CheckpointError> {
    Ok(match (file.read(key, shape)?, format) {
        (Some(Stored::Quantized(blocks)), _) => Some(blocks),
        (Some(Stored::Plain(view)), Some(format)) if view.shape == shape => Some(encode(&view, shape, format)?),
        // Whoever loads the others says what is missing or misshapen.
        _ => None,
    })
}

fn encode(view: &TensorView<'_>, shape: [usize; 2], format: QuantFormat) -> Result<Blocks, CheckpointError> {
    let values = view.to_finite_f32()?;
    view.release();
    Ok(Blocks::quantize(&values, shape, format))
}

fn dense(blocks: &Blocks, narrow: bool, device: &Device) -> Param<Tensor<2>> {
    let tensor: Tensor<2> = Tensor::from_data(TensorData::new(blocks.dequantize(), blocks.shape()), device);
    let tensor = if narrow { tensor.cast(FloatDType::BF16) } else { tensor };
    Param::initialized(ParamId::new(), tensor).set_require_grad(true)
}

/// Quantizes what came from other folders: a vision tower's, a projector's.
pub(super) fn take_rest<M: LanguageModel, V: VisionEncoder, P: Projector>(
    model: &mut VlmOf<M, V, P>,
    plan: &QuantPlan,
    device: &Device,
) {
    model.visit_all_linears(&mut |path, linear| {
        if let (Some(format), Some(param)) = (plan.on_load.get(&weight(path)), linear.weight.param()) {
            let values: Vec<f32> = param.val().into_data().iter::<f32>().collect();
            let blocks = Blocks::quantize(&values, linear.shape(), *format);
            linear.weight = Weight::Quantized(Quantized::on(blocks, device));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::audit;

    #[test]
    fn the_table_is_the_struct() {
        audit::<Quantize>().unwrap();
    }

    #[test]
    fn settings_without_effect_are_refused() {
        let nf4 = Quantize { weights: Bits::Nf4, block_size: 128, double_quant: true, ..Quantize::default() };
        assert!(nf4.check_settings().is_ok());
        for (settings, part) in [
            (Quantize { block_size: 48, ..nf4.clone() }, "power of two"),
            (Quantize { weights: Bits::Int8, ..nf4.clone() }, "`block_size` would do nothing"),
            (Quantize { weights: Bits::None, block_size: 64, ..nf4.clone() }, "`double_quant` would do nothing"),
            (
                Quantize { skip_modules: vec!["q_proj".into()], ..Quantize::default() },
                "`skip_modules` would do nothing",
            ),
        ] {
            let error = settings.check_settings().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
