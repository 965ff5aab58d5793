//! P-tuning: embeddings in front of every row, made by a small trained network; file-compatible with PEFT.

mod rule;

use super::prompt_learning::{self, Drawing, MOST, Reader};
use super::{Adapter, AdapterError, PeftContext, Start};
use crate::models::CausalLm;
use crate::nn::{VirtualPlace, VirtualTokens};
use crate::settings::{Component, Kind, SettingError};
use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use rule::{Lstm, Mlp};
use serde_json::Value;

crate::component! {
    /// Embeddings of `num_virtual_tokens` tokens that come out of a network over a trained table.
    ///
    /// What is saved are the embeddings: a saved folder is trained on without the network that made them.
    ///
    /// # Source
    /// Liu et al. 2021; `peft.PromptEncoderConfig`, whose names and initialisation it has. Virtual tokens stand behind the
    /// padding of a left-padded row, where PEFT puts them before it and computes other numbers than for the row alone.
    pub struct PTuning, PTuningBuilder {
        /// How many virtual tokens stand in front of a row.
        pub num_virtual_tokens: usize = 20 => Kind::integer(1, MOST),
        /// The network: `MLP`, three layers with ReLU between them, or `LSTM`, in both directions and two layers behind it.
        pub encoder_reparameterization_type: String = "MLP".to_owned() => Kind::choice(&["MLP", "LSTM"]),
        /// Width inside the network; left open, that of the embeddings.
        pub encoder_hidden_size: Option<usize> = None => Kind::count().or_none(),
        /// Layers of the LSTM.
        pub encoder_num_layers: usize = 2 => Kind::integer(1, 64),
        /// Share of what passes between two layers of the LSTM that is zeroed in training.
        pub encoder_dropout: f64 = 0.0 => Kind::number().at_least(0.0).below(1.0),
        /// Modules that are trained whole and saved with the adapter: `multi_modal_projector`.
        pub modules_to_save: Vec<String> = Vec::new() => Kind::list(),
    }
    check = PTuning::check_settings;
}

const TYPE: &str = "P_TUNING";

impl PTuning {
    fn is_lstm(&self) -> bool {
        self.encoder_reparameterization_type == "LSTM"
    }

    fn check_settings(&self) -> Result<(), SettingError> {
        super::check_modules(&self.modules_to_save)?;
        let (layers, dropout) = (self.encoder_num_layers, self.encoder_dropout);
        if !self.is_lstm() && layers != 2 {
            return Err(SettingError::rule(format!(
                "`encoder_num_layers` is {layers}, but the MLP always has the same layers; leave it out, or set \
                 `encoder_reparameterization_type` to \"LSTM\""
            )));
        }
        if dropout > 0.0 && (!self.is_lstm() || layers == 1) {
            return Err(SettingError::rule(format!(
                "`encoder_dropout` is {dropout}, but it acts between layers of an LSTM only, and here are none; leave it out"
            )));
        }
        Ok(())
    }
}

impl crate::adapters::Removable for PTuning {}

impl Adapter for PTuning {
    const FREEZES_LANGUAGE_MODEL: bool = true;
    const MERGES: bool = false;
    const IN_FRONT: bool = true;

    fn attach<M: CausalLm>(&self, model: M, _: &str, _: &mut ChaCha8Rng, _: &Device) -> Result<M, AdapterError> {
        Ok(model)
    }

    fn virtual_tokens<M: CausalLm>(
        &self,
        model: &M,
        start: Start<'_>,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Option<VirtualTokens>, AdapterError> {
        let (n, width, place) = (self.num_virtual_tokens, model.hidden_size(), VirtualPlace::Embeddings);
        if matches!(start, Start::Saved) {
            return Ok(Some(VirtualTokens::plain([n, width], place, device)));
        }
        let hidden = self.encoder_hidden_size.unwrap_or(width);
        let mut drawing = Drawing::new(rng, device);
        drawing.table([n, width]);
        if !self.is_lstm() {
            drawing.linear(width, hidden);
            drawing.linear(hidden, hidden);
            drawing.linear(hidden, width);
            return Ok(Some(drawing.finish(Mlp, place)));
        }
        let lstm = Lstm { layers: self.encoder_num_layers, dropout: self.encoder_dropout };
        lstm.draw(&mut drawing, width, hidden);
        drawing.linear(2 * hidden, 2 * hidden);
        drawing.linear(2 * hidden, width);
        Ok(Some(drawing.finish(lstm, place)))
    }

    fn peft_config(&self, context: &PeftContext) -> Option<Value> {
        let (width, heads) = (context.sizes.hidden_size, context.sizes.num_attention_heads);
        let mut config = prompt_learning::write(TYPE, self.num_virtual_tokens, width, heads, context);
        config["encoder_reparameterization_type"] = self.encoder_reparameterization_type.clone().into();
        config["encoder_hidden_size"] = self.encoder_hidden_size.unwrap_or(width).into();
        config["encoder_num_layers"] = self.encoder_num_layers.into();
        config["encoder_dropout"] = self.encoder_dropout.into();
        Some(config)
    }

    fn modules_to_save(&self) -> Option<&[String]> {
        Some(&self.modules_to_save)
    }

    fn from_peft_config(config: &Value) -> Result<Self, AdapterError> {
        let file = Reader::new(config, TYPE, Self::NAME)?;
        let kind = file.choice("encoder_reparameterization_type", &["MLP", "LSTM"], "MLP or LSTM")?;
        let lstm = kind == "LSTM";
        // PEFT writes layers and dropout of networks that have none, too.
        let layers = file.opt_count("encoder_num_layers")?.filter(|_| lstm).unwrap_or(2);
        let dropout = file.number("encoder_dropout")?;
        Ok(Self {
            num_virtual_tokens: file.count()?,
            encoder_reparameterization_type: kind,
            encoder_hidden_size: file.opt_count("encoder_hidden_size")?,
            encoder_num_layers: layers,
            encoder_dropout: if lstm && layers > 1 { dropout } else { 0.0 },
            modules_to_save: file.modules()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_would_do_nothing_are_refused() {
        let lstm = || PTuning::builder().encoder_reparameterization_type("LSTM".to_owned());
        let refused = |builder: PTuningBuilder| builder.build().unwrap_err().to_string();
        assert!(refused(PTuning::builder().encoder_num_layers(3)).contains("`encoder_num_layers` is 3"));
        assert!(refused(PTuning::builder().encoder_dropout(0.1)).contains("`encoder_dropout` is 0.1"));
        assert!(refused(lstm().encoder_dropout(0.1).encoder_num_layers(1)).contains("between layers"));
        lstm().encoder_dropout(0.1).encoder_num_layers(3).build().unwrap();
    }

    #[test]
    fn what_is_written_is_read_back() {
        let kind = "LSTM".to_owned();
        let encoder_hidden_size = Some(6);
        let tuner = PTuning {
            encoder_reparameterization_type: kind,
            encoder_hidden_size,
            encoder_num_layers: 3,
            encoder_dropout: 0.25,
            ..PTuning::default()
        };
        let file = tuner.peft_config(&PeftContext::default()).unwrap();
        assert_eq!(PTuning::from_peft_config(&file).unwrap(), tuner);
    }
}
