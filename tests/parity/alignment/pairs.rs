//! Objectives over pairs: TRL's DPO, CPO and ORPO trainers.

use super::super::case::device;
use super::chain::{Compared, Text, batch, moved, number, plain, recorded, sequence, setting, step};
use burn::module::Module;
use firebrick::data::{Batch, Example};
use firebrick::example::Facts;
use firebrick::objectives::{PairObjective, State};
use firebrick::settings::Given;
use firebrick::trainer::anchor::Anchor;
use serde_json::Value;

/// The recorded pairs.
pub fn examples(fixture: &Value) -> Vec<Example> {
    let example = |pair: &Value| Example {
        rows: vec![sequence(&pair["chosen"]), sequence(&pair["rejected"])],
        facts: Facts { margin: pair["margin"].as_f64(), ..Facts::default() },
    };
    fixture["pairs"].as_array().unwrap().iter().map(example).collect()
}

struct Bench {
    fixture: Value,
    policy: Text,
    anchor: Anchor<Text>,
    batches: [Batch; 1],
}

impl Bench {
    fn new() -> Self {
        let (fixture, device) = (recorded("objectives_pairs.json"), device().autodiff());
        let batches = [batch(&examples(&fixture))];
        assert_eq!(batches[0].length as u64, fixture["batch_width"].as_u64().unwrap());
        let anchor = Anchor::Model(moved(&device).valid(), None);
        Self { fixture, policy: plain(&device), anchor, batches }
    }

    fn cases(&self, name: &str) -> &[Value] {
        self.fixture[name].as_array().unwrap()
    }

    fn check(&self, compared: &mut Compared, settings: &[(String, Value)], case: &Value, but: &[&str]) {
        let set = |given: Given<PairObjective>, (name, value): &(String, Value)| given.set(name, value);
        let objective = settings.iter().fold(Given::new(), set).build().unwrap();
        let found = step(&objective, &self.policy, &self.anchor, &self.batches, &mut State::default());
        if let Some(tokens) = case["metrics"]["num_tokens"].as_u64() {
            assert_eq!(self.batches[0].num_tokens() as u64, tokens);
        }
        compared.step(&case["settings"].to_string(), &found, case, but);
    }
}

/// TRL's settings of its DPO trainer as ours.
fn translated(settings: &Value) -> Vec<(String, Value)> {
    let smooths = ["exo_pair", "robust", "aot", "aot_unpaired"];
    let losses = match &settings["loss_type"] {
        Value::Array(names) => names.clone(),
        name => vec![name.clone()],
    };
    let mut ours = vec![("loss".to_owned(), Value::from(losses.clone()))];
    for (name, value) in settings.as_object().unwrap() {
        match name.as_str() {
            "loss_type" => {}
            // TRL takes it everywhere and ignores it in all but these, the plain sigmoid among them; ours obeys it there, so
            // that the number to be had is the one without.
            "label_smoothing" if !losses.iter().any(|loss| smooths.contains(&loss.as_str().unwrap())) => {}
            "loss_weights" => {
                let texts = value.as_array().unwrap().iter().map(Value::to_string);
                ours.push((name.clone(), Value::from_iter(texts)));
            }
            _ => ours.push((name.clone(), value.clone())),
        }
    }
    ours
}

const REWARDS: [&str; 4] = ["rewards/accuracies", "rewards/chosen", "rewards/margins", "rewards/rejected"];

#[test]
fn dpo() {
    let (bench, mut compared) = (Bench::new(), Compared::new("DPO"));
    assert_eq!(bench.cases("dpo").len(), 55);
    for case in bench.cases("dpo") {
        // The likelihood of the chosen answers alone is compared with nothing here: there is no reference, and no reward.
        let but: &[&str] = if case["settings"]["loss_type"] == "sft" { &REWARDS } else { &[] };
        bench.check(&mut compared, &translated(&case["settings"]), case, but);
    }
}

/// They are over every position here, prompt and padding too; ours are DPO's.
const OVER_ALL_POSITIONS: [&str; 2] = ["logits/chosen", "logits/rejected"];

#[test]
fn cpo_simpo_and_alpha_po() {
    let (bench, mut compared) = (Bench::new(), Compared::new("CPO, SimPO, AlphaPO"));
    assert_eq!(bench.cases("cpo").len(), 13);
    for case in bench.cases("cpo") {
        let kind = case["settings"]["loss_type"].as_str().unwrap();
        let likelihood = setting(case, "cpo_alpha", if kind == "alphapo" { 0.0 } else { 1.0 });
        let mut settings: Vec<(&str, Value)> =
            vec![("beta", setting(case, "beta", 0.1).into()), ("cpo_alpha", likelihood.into())];
        match kind {
            "simpo" | "alphapo" => settings.extend([
                ("loss", "simpo".into()),
                ("gamma", setting(case, "simpo_gamma", 0.5).into()),
                ("alpha", setting(case, "alpha", 0.0).into()),
            ]),
            _ => settings.extend([("loss", "cpo".into()), ("cpo_loss_type", kind.into()), ("trl_nll", true.into())]),
        }
        if let Some(smoothing) = case["settings"].get("label_smoothing") {
            settings.push(("label_smoothing", smoothing.clone()));
        }
        let settings: Vec<_> = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        // Without weight TRL does not compute the likelihood and logs 0.
        let [chosen, rejected] = OVER_ALL_POSITIONS;
        let but: &[&str] = if likelihood == 0.0 { &[chosen, rejected, "nll_loss"] } else { &[chosen, rejected] };
        bench.check(&mut compared, &settings, case, but);
    }
}

#[test]
fn orpo() {
    let (bench, mut compared) = (Bench::new(), Compared::new("ORPO"));
    assert_eq!(bench.cases("orpo").len(), 3);
    for case in bench.cases("orpo") {
        let lam = case["settings"].get("beta").map_or(0.1, number);
        let settings = [("loss", "orpo".into()), ("lam", lam.into()), ("trl_nll", Value::from(true))];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        bench.check(&mut compared, &settings, case, &OVER_ALL_POSITIONS);
    }
}
