//! How a model's parameters are named in Hugging Face and PEFT files.
//!
//! The layout that is written is the hub's: `vision_tower.*`, `multi_modal_projector.*`, `language_model.*`, each followed
//! by the component's own name for the parameter. The two other layouts of LLaVA folders are renamed to it.

use super::Vlm;
use crate::checkpoint::Rename;
use crate::models::CausalLm;
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;

pub(super) const TOWER: &str = "vision_tower.";
pub(super) const PROJECTOR: &str = "multi_modal_projector.";
pub(super) const LANGUAGE: &str = "language_model.";
pub(super) const HEAD: &str = "lm_head";
const TABLE: &str = "embed_tokens";
/// The head that yields scores, which stands beside the model in transformers' classes.
pub const SCORE: &str = "score.";
const ORIGINAL_TOWER: &str = "model.vision_tower.vision_tower.";
const ORIGINAL_PROJECTOR: &str = "model.mm_projector.";

/// Whether a model stands alone in its folder or is composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A language model alone: `model.layers.…`.
    Plain,
    /// A LLaVA folder of transformers.
    Composed,
    /// A folder of LLaVA's original code: the language model's own names, the other parts below `model.`.
    Original,
}

/// Renaming rules of one's own.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<(String, String)>);

impl Rules {
    /// The rules as pairs of `&str`; keep them while [`Rename`] is used.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect()
    }

    /// The model's name of a file's tensor.
    pub fn apply(&self, name: &str) -> String {
        Rename(&self.pairs()).apply(name)
    }

    fn push(&mut self, from: String, to: String) {
        self.0.push((from, to));
    }
}

/// Part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The image encoder.
    VisionTower,
    /// The projector.
    Projector,
    /// The language model and its adapter.
    LanguageModel,
}

impl Part {
    /// The part that a parameter of a [`Vlm`] belongs to, by the first field of its path.
    pub fn of(parameter: &str) -> Self {
        match parameter.split('.').next() {
            Some("vision_tower") => Self::VisionTower,
            Some("multi_modal_projector") => Self::Projector,
            _ => Self::LanguageModel,
        }
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
            let outer = if layout == Layout::Original { ORIGINAL_TOWER } else { TOWER };
            return Some(format!("{outer}{}", self.vision_tower.file_key(rest)));
        }
        if let Some(rest) = parameter.strip_prefix(PROJECTOR) {
            return Some(match layout {
                Layout::Original => format!("{ORIGINAL_PROJECTOR}{}", self.multi_modal_projector.original_key(rest)),
                _ => format!("{PROJECTOR}{}", self.multi_modal_projector.file_key(rest)),
            });
        }
        if parameter.starts_with(SCORE) {
            return Some(parameter.to_owned());
        }
        let key = self.language_model.file_key(parameter.strip_prefix(LANGUAGE)?);
        Some(match layout {
            Layout::Plain | Layout::Original => key,
            Layout::Composed => format!("{LANGUAGE}{key}"),
        })
    }

    /// From every layout that LLaVA folders come in to the one that is written.
    pub fn renaming(&self, layout: Layout) -> Rules {
        let mut rules = Rules::default();
        match layout {
            Layout::Plain => return rules,
            Layout::Original => {
                // The tower inside is wrapped twice; some savers dropped the inner wrapper.
                rules.push(ORIGINAL_TOWER.to_owned(), ORIGINAL_TOWER.to_owned());
                rules.push("model.vision_tower.".to_owned(), ORIGINAL_TOWER.to_owned());
                self.single_layer(&mut rules, "model.");
                return rules;
            }
            Layout::Composed => {}
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

    /// From every name that a projector's parameters have in files of their own to the name in a model's folder, of
    /// either layout. What LLaVA's original code trained beside a LoRA loses its wrapper's prefix.
    pub fn projector_renaming(&self) -> Rules {
        let mut rules = Rules::default();
        for outer in ["base_model.model.model.", "base_model.model.", "model.", ""] {
            self.single_layer(&mut rules, outer);
            rules.push(format!("{outer}mm_projector."), ORIGINAL_PROJECTOR.to_owned());
            rules.push(format!("{outer}{PROJECTOR}"), PROJECTOR.to_owned());
        }
        rules.push("base_model.model.".to_owned(), String::new());
        rules
    }

    /// A projector of one layer is saved with and without its place in a sequence.
    fn single_layer(&self, rules: &mut Rules, outer: &str) {
        let parameters = crate::nn::params::list(&self.multi_modal_projector);
        if parameters.iter().any(|p| self.multi_modal_projector.original_key(&p.name) == "weight") {
            rules.push(format!("{outer}mm_projector.0."), ORIGINAL_PROJECTOR.to_owned());
        }
    }

    /// The path of the language model inside transformers' class, to which PEFT's names refer.
    pub fn module_prefix(layout: Layout) -> &'static str {
        match layout {
            Layout::Plain => "model.",
            Layout::Composed | Layout::Original => "model.language_model.",
        }
    }

    /// The name in a PEFT file of a parameter of a module that is saved whole, and the module.
    pub fn peft_module_key(&self, parameter: &str, layout: Layout) -> Option<(String, &'static str)> {
        let module = module_to_save(parameter)?;
        let path = match parameter.strip_prefix(PROJECTOR) {
            Some(rest) => format!("model.{PROJECTOR}{}", self.multi_modal_projector.file_key(rest)),
            None => match parameter.strip_prefix(LANGUAGE) {
                Some(rest) => Self::path(rest, layout),
                None => parameter.to_owned(),
            },
        };
        Some((format!("base_model.model.{path}"), module))
    }

    /// The name under which PEFT writes what [`peft_module_key`](Self::peft_module_key) names: a model with virtual
    /// tokens in front is wrapped once, one whose layers are changed twice.
    pub fn peft_written_key(&self, key: String) -> String {
        match self.virtual_tokens {
            Some(_) => key.replacen("base_model.model.", "base_model.", 1),
            None => key,
        }
    }

    /// The name in a PEFT file of an adapter's matrix on the layer at `path` of the language model.
    pub fn peft_adapter_key(path: &str, matrix: &str, layout: Layout) -> String {
        format!("base_model.model.{}.{matrix}", Self::path(path, layout))
    }

    /// A path inside the language model as one in transformers' class, where the head stands beside the decoder.
    fn path(inside: &str, layout: Layout) -> String {
        let head = inside.split('.').next() == Some(HEAD);
        if head { inside.to_owned() } else { format!("{}{inside}", Self::module_prefix(layout)) }
    }
}

/// The module that a parameter belongs to, by transformers' name, where PEFT could save it whole beside an adapter.
pub fn module_to_save(parameter: &str) -> Option<&'static str> {
    if parameter.contains(".adapter.") {
        return None;
    }
    let field = parameter.strip_prefix(LANGUAGE).unwrap_or(parameter).split('.').next();
    let inside = parameter.starts_with(LANGUAGE);
    [(PROJECTOR.trim_end_matches('.'), false), (SCORE.trim_end_matches('.'), false), (TABLE, true), (HEAD, true)]
        .into_iter()
        .find(|(module, language)| field == Some(*module) && inside == *language)
        .map(|(module, _)| module)
}

/// PEFT names of transformers 4's LLaVA class and of LLaVA's original code, renamed to the current ones.
pub fn peft_rename(layout: Layout) -> Rename<'static> {
    Rename(match layout {
        Layout::Plain => &[("base_model.score.", "base_model.model.score.")],
        Layout::Composed | Layout::Original => &[
            // A model with virtual tokens in front is wrapped once.
            ("base_model.score.", "base_model.model.score."),
            ("base_model.model.language_model.model.", "base_model.model.model.language_model."),
            ("base_model.model.language_model.lm_head.", "base_model.model.lm_head."),
            ("base_model.model.multi_modal_projector.", "base_model.model.model.multi_modal_projector."),
            ("base_model.model.model.layers.", "base_model.model.model.language_model.layers."),
        ],
    })
}
