//! How a model's parameters are named in Hugging Face and PEFT files.
//!
//! The layout that is written is the hub's: `vision_tower.*`, `multi_modal_projector.*`, `language_model.*`, each followed
//! by the component's own name for the parameter. The two other layouts of LLaVA folders are renamed to it.

use super::Vlm;
use crate::checkpoint::Rename;
use crate::models::CausalLm;
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;

const TOWER: &str = "vision_tower.";
const PROJECTOR: &str = "multi_modal_projector.";
const LANGUAGE: &str = "language_model.";

/// Whether a model stands alone in its folder or is composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A language model alone: `model.layers.…`.
    Plain,
    /// A LLaVA folder.
    Composed,
}

/// Renaming rules of one's own.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<(String, String)>);

impl Rules {
    /// The rules as pairs of `&str`; keep them while [`Rename`] is used.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect()
    }

    fn push(&mut self, from: String, to: String) {
        self.0.push((from, to));
    }
}

/// What a file may hold besides the parameters: buffers that are computed.
pub const IGNORED: &[&str] = &["*.rotary_emb.inv_freq", "*.position_ids"];

impl<L: CausalLm, T: VisionTower, P: ProjectorModel> Vlm<L, T, P> {
    /// The name of a parameter in a checkpoint; `None` for an adapter's.
    pub fn file_key(&self, parameter: &str, layout: Layout) -> Option<String> {
        if parameter.contains(".adapter.") {
            return None;
        }
        if let Some(rest) = parameter.strip_prefix(TOWER) {
            return Some(format!("{TOWER}{}", self.vision_tower.file_key(rest)));
        }
        if let Some(rest) = parameter.strip_prefix(PROJECTOR) {
            return Some(format!("{PROJECTOR}{}", self.multi_modal_projector.file_key(rest)));
        }
        let key = self.language_model.file_key(parameter.strip_prefix(LANGUAGE)?);
        Some(match layout {
            Layout::Plain => key,
            Layout::Composed => format!("{LANGUAGE}{key}"),
        })
    }

    /// From every layout that LLaVA folders come in to the one that is written.
    pub fn renaming(&self, layout: Layout) -> Rules {
        let mut rules = Rules::default();
        if layout == Layout::Plain {
            return rules;
        }
        // A tower's names may have lost the prefix of its own class (`vision_model.`).
        let inner = self.vision_tower.file_key("");
        for outer in ["model.vision_tower.", TOWER] {
            if !inner.is_empty() {
                rules.push(format!("{outer}{inner}"), format!("{TOWER}{inner}"));
            }
            rules.push(outer.to_owned(), format!("{TOWER}{inner}"));
        }
        rules.push(format!("model.{PROJECTOR}"), PROJECTOR.to_owned());
        rules.push(format!("model.{LANGUAGE}"), format!("{LANGUAGE}{}", self.language_model.file_key("")));
        rules.push("lm_head.".to_owned(), format!("{LANGUAGE}lm_head."));
        rules
    }

    /// The path of the language model inside transformers' class, to which PEFT's names refer.
    pub fn module_prefix(layout: Layout) -> &'static str {
        match layout {
            Layout::Plain => "model.",
            Layout::Composed => "model.language_model.",
        }
    }

    /// The name in a PEFT file of a parameter of the projector.
    pub fn peft_projector_key(&self, parameter: &str) -> Option<String> {
        let rest = parameter.strip_prefix(PROJECTOR)?;
        Some(format!("base_model.model.model.{PROJECTOR}{}", self.multi_modal_projector.file_key(rest)))
    }

    /// The name in a PEFT file of an adapter's matrix on the layer at `path` of the language model.
    pub fn peft_adapter_key(path: &str, matrix: &str, layout: Layout) -> String {
        format!("base_model.model.{}{path}.{matrix}", Self::module_prefix(layout))
    }
}

/// PEFT names of transformers 4's LLaVA class, renamed to the current ones.
pub const PEFT_RENAME: Rename<'static> = Rename(&[
    ("base_model.model.language_model.model.", "base_model.model.model.language_model."),
    ("base_model.model.multi_modal_projector.", "base_model.model.model.multi_modal_projector."),
]);
