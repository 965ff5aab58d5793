//! Every loss over pairs in one component: what the `dpo` recipe's `--set objective.loss=…` chooses from.

mod names;
mod weights;

use super::{
    BySetting, CpoLoss, Divergence, Inputs, Loss, Modifiers, Objective, PairLoss, State, StepTotals, TokenLogProbs,
    Wants, pair_loss, pair_wants,
};
use crate::example::{Facts, Pairs};
use crate::settings::{Given, Kind, SettingError};
use serde_json::{Map, Value};

pub use names::PairLossName;
pub use weights::LossWeights;

/// Parameters that act on all losses of a list at once.
const SHARED: [&str; 5] =
    ["f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "use_weighting", "average_log_prob"];

/// Parameters of the list itself.
const OWN: [&str; 2] = ["loss", "loss_weights"];

/// A loss and its weight.
type Weighted = (f64, Box<dyn PairLoss>);

crate::component! {
    /// One loss over pairs or a weighted list of several, chosen by name when the recipe starts.
    ///
    /// A parameter that is left open has the default of each loss that reads it; one that no chosen loss reads is refused.
    ///
    /// # Source
    /// TRL's `DPOConfig` (`loss_type`, `loss_weights` and the rest under its names).
    pub struct PairObjective, PairObjectiveBuilder {
        /// The loss, or several.
        pub loss: Vec<PairLossName> = vec![PairLossName::Sigmoid] => Kind::choices(PairLossName::ALL),
        /// The weight of each loss of a list; 1 each where it is left empty.
        pub loss_weights: LossWeights = LossWeights::default() => Kind::list(),
        /// How dearly a distance from the reference is paid.
        pub beta: Option<f64> = None => Kind::number().above(0.0).or_none(),
        /// ε: the share of pairs that are taken to be judged the wrong way round.
        pub label_smoothing: Option<f64> = None => Kind::number().at_least(0.0).below(0.5).or_none(),
        /// Whether hinge, slic_hf and cpo compare with a reference.
        pub norm: Option<bool> = None => Kind::bool().or_none(),
        /// ipo: sums over the answers' tokens instead of means.
        pub sums: Option<bool> = None => Kind::bool().or_none(),
        /// slic_hf: how far apart the answers are to be.
        pub delta: Option<f64> = None => Kind::number().or_none(),
        /// λ of slic_hf, dpop, orpo and asft.
        pub lam: Option<f64> = None => Kind::number().or_none(),
        /// orpo, asft: the weight of the chosen answers' likelihood.
        pub nll_weight: Option<f64> = None => Kind::number().at_least(0.0).or_none(),
        /// cpo, simpo: the weight of the chosen answers' likelihood.
        pub cpo_alpha: Option<f64> = None => Kind::number().at_least(0.0).or_none(),
        /// cpo, orpo: the likelihood as TRL takes it.
        pub trl_nll: Option<bool> = None => Kind::bool().or_none(),
        /// cpo: the preference's form.
        pub cpo_loss_type: Option<CpoLoss> = None => Kind::choice(&["sigmoid", "hinge", "ipo"]).or_none(),
        /// simpo: by how much the chosen answer's reward is to exceed the other's.
        pub gamma: Option<f64> = None => Kind::number().or_none(),
        /// simpo: whether β scales γ too.
        pub scaled_gamma: Option<bool> = None => Kind::bool().or_none(),
        /// simpo: α of AlphaPO's reward.
        pub alpha: Option<f64> = None => Kind::number().or_none(),
        /// bco_pair: whether rewards are compared with the mean of all rewards so far.
        pub running_mean: Option<bool> = None => Kind::bool().or_none(),
        /// discopop: how sharply the one form gives way to the other.
        pub discopop_tau: Option<f64> = None => Kind::number().above(0.0).at_most(1.0).or_none(),
        /// dense_dpo: shorter common runs count as different.
        pub min_match: Option<usize> = None => Kind::count().or_none(),
        /// r_dpo: the price of one token, in the units of the implicit reward.
        pub length_penalty: Option<f64> = None => Kind::number().or_none(),
        /// The divergence from the reference that is held small.
        pub f_divergence_type: Option<Divergence> = None =>
            Kind::choice(&["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]).or_none(),
        /// α of the α-divergence; 0.5 where it is left open.
        pub f_alpha_divergence_coef: Option<f64> = None => Kind::number().or_none(),
        /// LD-DPO: the weight of the tokens beyond the shorter answer's length, in policy and reference.
        pub ld_alpha: Option<f64> = None => Kind::number().at_least(0.0).at_most(1.0).or_none(),
        /// WPO: each pair's loss is weighted by how likely its answers are under the policy.
        pub use_weighting: Option<bool> = None => Kind::bool().or_none(),
        /// Means over the answers' tokens instead of sums, for policy and reference.
        pub average_log_prob: Option<bool> = None => Kind::bool().or_none(),
    }
    check = PairObjective::check_losses;
}

impl PairObjective {
    /// Whether a chosen loss needs a margin of every record; data without them is to be refused before the run.
    pub fn needs_margins(&self) -> bool {
        self.loss.contains(&PairLossName::SigmoidWithMargin)
    }

    fn check_losses(&self) -> Result<(), SettingError> {
        if self.loss.is_empty() {
            return Err(SettingError::rule("`loss` is empty; name at least one loss"));
        }
        let twice = self.loss.iter().enumerate().find(|(at, name)| self.loss[..*at].contains(name));
        if let Some((_, name)) = twice {
            return Err(SettingError::rule(format!(
                "`loss` names {name} twice; give it once with the sum of the weights"
            )));
        }
        if !self.loss_weights.is_empty() && self.loss_weights.len() != self.loss.len() {
            return Err(SettingError::rule(format!(
                "`loss` names {} losses, but `loss_weights` has {} weights; give one each, or none",
                self.loss.len(),
                self.loss_weights.len()
            )));
        }
        self.set().keys().try_for_each(|name| self.check_read(name))?;
        self.modifiers().check()?;
        self.parts().map(drop)
    }

    /// Refuses a parameter that is given and not read.
    fn check_read(&self, parameter: &str) -> Result<(), SettingError> {
        if OWN.contains(&parameter) {
            return Ok(());
        }
        let reads = |name: &PairLossName| name.parameters().iter().any(|row| row.name == parameter);
        // What acts on all at once must not pass one by; the likelihood of the chosen answers is as it is.
        let deaf = match SHARED.contains(&parameter) {
            true => self.loss.iter().find(|name| !reads(name) && **name != PairLossName::Sft),
            false => None,
        };
        if deaf.is_none() && self.loss.iter().any(reads) {
            return Ok(());
        }
        let readers: Vec<String> =
            PairLossName::EVERY.iter().filter(|name| reads(name)).map(PairLossName::to_string).collect();
        let chosen: Vec<String> = match deaf {
            Some(name) => vec![name.to_string()],
            None => self.loss.iter().map(PairLossName::to_string).collect(),
        };
        Err(SettingError::rule(format!(
            "`{parameter}` is given, but the loss {} does not read it; leave it out or choose among: {}",
            chosen.join(", "),
            readers.join(", ")
        )))
    }

    /// The parameters that are set.
    fn set(&self) -> Map<String, Value> {
        let mut values = Given::<Self>::from_fields(self).values().clone();
        values.retain(|_, value| !value.is_null());
        values
    }

    /// The losses with their weights, each with the parameters it reads.
    fn parts(&self) -> Result<Vec<Weighted>, SettingError> {
        let given = self.set();
        let part = |(at, name): (usize, &PairLossName)| Ok((self.loss_weights.get(at), name.build(&given)?));
        self.loss.iter().enumerate().map(part).collect()
    }

    fn built(&self) -> Vec<Weighted> {
        self.parts().expect("the settings were checked when the recipe was assembled")
    }

    fn modifiers(&self) -> Modifiers {
        Modifiers {
            f_divergence_type: self.f_divergence_type.unwrap_or_default(),
            f_alpha_divergence_coef: self.f_alpha_divergence_coef,
            ld_alpha: self.ld_alpha,
            use_weighting: self.use_weighting.unwrap_or_default(),
            average_log_prob: self.average_log_prob.unwrap_or_default(),
        }
    }
}

impl Objective for PairObjective {
    type Example = Pairs;
    type Signal = TokenLogProbs;
    type Reference = BySetting;

    fn wants(&self) -> Wants {
        let parts = self.built();
        pair_wants(parts.iter().map(|(_, part)| part.as_ref()), &self.modifiers())
    }

    fn accepts(&self, facts: &Facts) -> Result<(), String> {
        match facts.margin {
            None if self.needs_margins() => Err(
                "the record has no margin, which sigmoid_with_margin compares with; take a data kind with margins, or \
                     another loss"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    fn compares(&self) -> bool {
        self.built().iter().any(|(_, part)| part.with_reference())
    }

    fn mixes_examples(&self) -> bool {
        self.built().iter().any(|(_, part)| part.mixes_pairs())
    }

    fn loss(&self, inputs: Inputs<'_, TokenLogProbs>, step: &StepTotals, state: &mut State) -> Loss {
        let parts = self.built();
        let parts: Vec<(f64, &dyn PairLoss)> = parts.iter().map(|(weight, part)| (*weight, part.as_ref())).collect();
        pair_loss(&parts, self.modifiers(), inputs, step, state)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
