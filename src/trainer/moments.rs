//! The optimizer's moments: how they are held, where they wait, and how a checkpoint holds them.

use super::Train;
use super::optimizer::flat;
use crate::checkpoint::{CheckpointError, Dtype, HostTensor, Pending, Shards, TensorView, bridge};
use crate::nn::{
    AdamW8Tensors, AdamWStep, AdamWTensors, BLOCK, CodeMap, MIN_8BIT_ELEMENTS, Moment8, adamw_8bit_step, adamw_step,
};
use burn::tensor::{Device, Tensor};

/// How the optimizer holds its moments: `train.optim`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Optim {
    /// How exactly.
    pub precision: Precision,
    /// Where, between steps.
    pub home: Home,
}

/// How exactly moments are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// In f32.
    #[default]
    Full,
    /// In 8 bits with a scale for each block; those of small parameters in f32.
    Eight,
}

/// Where moments are between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// On the device that computes.
    #[default]
    Device,
    /// In host memory: one parameter's at a time is brought to the device.
    Host,
}

impl Optim {
    /// The values of `train.optim`, which are transformers'.
    pub const NAMES: &'static [&'static str] = &["adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"];

    /// What the settings ask for.
    pub fn of(settings: &Train) -> Self {
        let (precision, home) = match settings.optim.as_str() {
            "adamw_8bit" => (Precision::Eight, Home::Device),
            "paged_adamw_32bit" => (Precision::Full, Home::Host),
            "paged_adamw_8bit" => (Precision::Eight, Home::Host),
            _ => (Precision::Full, Home::Device),
        };
        Self { precision, home }
    }

    /// Bytes that the moments of a parameter of `length` elements take on the device.
    pub fn bytes(self, length: usize) -> usize {
        match (self.home, self.precision_of(length)) {
            (Home::Host, _) => 0,
            (Home::Device, Precision::Full) => 2 * 4 * length,
            (Home::Device, Precision::Eight) => 2 * (length + 4 * length.div_ceil(BLOCK)),
        }
    }

    /// How exactly the moments of a parameter of `length` elements are held.
    fn precision_of(self, length: usize) -> Precision {
        if length < MIN_8BIT_ELEMENTS { Precision::Full } else { self.precision }
    }
}

/// First and second moments of one parameter.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The running means.
    pub held: Held,
    /// Updates made: a parameter without a gradient, such as the projector's in a batch without images, makes none.
    pub steps: usize,
}

/// The running mean of a gradient and that of its square.
#[expect(clippy::large_enum_variant, reason = "one for each parameter: a box would save nothing")]
#[derive(Clone, Debug)]
pub enum Held {
    /// In f32 on the device, flat.
    Full {
        /// Of the gradient.
        first: Tensor<1>,
        /// Of its square.
        second: Tensor<1>,
    },
    /// In f32 in host memory.
    Paged {
        /// Of the gradient.
        first: Vec<f32>,
        /// Of its square.
        second: Vec<f32>,
    },
    /// In 8 bits.
    Eight {
        /// Of the gradient.
        first: Moment8,
        /// Of its square.
        second: Moment8,
        /// Elements.
        length: usize,
    },
}

impl Moments {
    /// Moments before the first step.
    pub fn new(length: usize, optim: Optim, device: &Device) -> Self {
        let zeros = || flat(vec![0.0; length], device);
        let held = match optim.precision_of(length) {
            Precision::Full => Held::Full { first: zeros(), second: zeros() },
            Precision::Eight => Held::Eight {
                first: Moment8::zeros(length, CodeMap::Signed),
                second: Moment8::zeros(length, CodeMap::Unsigned),
                length,
            },
        };
        Self { held, steps: 0 }
    }

    /// Moves `param` by one step; all flat.
    pub fn step(self, param: Tensor<1>, grad: Tensor<1>, update: AdamWStep, home: Home) -> (Tensor<1>, Self) {
        let steps = self.steps + 1;
        let device = param.device();
        let (param, held) = match self.held {
            Held::Full { first, second } => full(param, (first, second), grad, update),
            Held::Paged { first, second } => full(param, (flat(first, &device), flat(second, &device)), grad, update),
            Held::Eight { first, second, length } => {
                let tensors = adamw_8bit_step(AdamW8Tensors { param, m: first, v: second }, grad, update);
                (tensors.param, Held::Eight { first: tensors.m, second: tensors.v, length })
            }
        };
        let held = match home {
            Home::Device => held,
            Home::Host => held.into_host(),
        };
        (param, Self { held, steps })
    }

    /// As a checkpoint holds them, under names that begin with the parameter's.
    pub fn pending(&self, name: &str) -> Vec<Pending<'static>> {
        let mut pending: Vec<Pending<'static>> = match self.held.clone() {
            Held::Full { first, second } => [("first", first), ("second", second)]
                .map(|(which, moment)| Pending::host(format!("{name}/{which}"), bridge::host(moment)))
                .into(),
            Held::Paged { first, second } => [("first", first), ("second", second)]
                .map(|(which, moment)| Pending::host(format!("{name}/{which}"), host(moment)))
                .into(),
            Held::Eight { first, second, length } => {
                let mut parts = Vec::new();
                for (which, moment) in [("first", first), ("second", second)] {
                    let Moment8::Host { codes, scales } = moment.into_host(length) else {
                        unreachable!("it was read back")
                    };
                    parts.push(Pending::owned(format!("{name}/{which}{CODES}"), vec![length], Dtype::U8, codes));
                    parts.push(Pending::host(format!("{name}/{which}{SCALES}"), host(scales)));
                }
                parts
            }
        };
        let steps = (self.steps as u64).to_le_bytes().to_vec();
        pending.push(Pending::owned(format!("{name}/steps"), vec![1], Dtype::U64, steps));
        pending
    }

    /// What [`pending`](Self::pending) wrote, of the parameter that `view` is the first moment of; `None` for any other
    /// tensor.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] where a part is missing, or where the moments are held otherwise than `optim` says.
    pub fn read(
        shards: &Shards,
        view: &TensorView<'_>,
        optim: Optim,
        device: &Device,
    ) -> Result<Option<(String, Self)>, CheckpointError> {
        let full = view.name.strip_suffix("/first");
        let Some(name) = full.or(view.name.strip_suffix(FIRST_CODES)) else {
            return Ok(None);
        };
        let refuse = |reason: String| CheckpointError::tensor(view.file, name, reason);
        let part = |which: &str| {
            let found = shards.get(&format!("{name}/{which}"));
            found.ok_or_else(|| refuse(format!("has a first moment, but no {which}")))
        };
        let length: usize = view.shape.iter().product();
        let (found, asked) =
            (if full.is_some() { Precision::Full } else { Precision::Eight }, optim.precision_of(length));
        if found != asked {
            let bits = |precision| if precision == Precision::Full { "32" } else { "8" };
            return Err(refuse(format!(
                "has moments in {} bits, but train.optim asks for {}; resume with the train.optim that the run began with",
                bits(found),
                bits(asked)
            )));
        }
        let held = match found {
            Precision::Full => {
                Held::Full { first: flat(view.to_f32()?, device), second: flat(part("second")?.to_f32()?, device) }
            }
            Precision::Eight => {
                let moment = |which: &str| -> Result<Moment8, CheckpointError> {
                    let codes = part(&format!("{which}{CODES}"))?.bytes.to_vec();
                    let scales = part(&format!("{which}{SCALES}"))?.to_f32()?;
                    if codes.len() != length || scales.len() != length.div_ceil(BLOCK) {
                        let (codes, scales) = (codes.len(), scales.len());
                        return Err(refuse(format!("has {codes} codes and {scales} scales for {length} elements")));
                    }
                    Ok(Moment8::Host { codes, scales })
                };
                Held::Eight { first: moment("first")?, second: moment("second")?, length }
            }
        };
        let held = if optim.home == Home::Host { held.into_host() } else { held };
        let steps = part("steps")?.bytes.try_into().map(u64::from_le_bytes);
        let steps = steps.map_err(|_| refuse("has a step count that is no number".to_owned()))? as usize;
        Ok(Some((name.to_owned(), Self { held, steps })))
    }
}

const CODES: &str = "_codes";
const SCALES: &str = "_scales";
const FIRST_CODES: &str = "/first_codes";

impl Held {
    fn into_host(self) -> Self {
        match self {
            Self::Full { first, second } => Self::Paged { first: values(first), second: values(second) },
            Self::Paged { .. } => self,
            Self::Eight { first, second, length } => {
                Self::Eight { first: first.into_host(length), second: second.into_host(length), length }
            }
        }
    }
}

fn full(
    param: Tensor<1>,
    (first, second): (Tensor<1>, Tensor<1>),
    grad: Tensor<1>,
    update: AdamWStep,
) -> (Tensor<1>, Held) {
    let AdamWTensors { param, m, v } = adamw_step(AdamWTensors { param, m: first, v: second }, grad, update);
    (param, Held::Full { first: m, second: v })
}

fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn host(values: Vec<f32>) -> HostTensor {
    match HostTensor::from_f32(vec![values.len()], values) {
        Some(tensor) => tensor,
        None => unreachable!("as many values as the shape has"),
    }
}
