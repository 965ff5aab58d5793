//! TRL's own numbers, at the level of the sums that its trainers recorded.

use super::super::super::pair_testing::{Pair, close, metric, run_recorded as run, value};
use super::super::super::{Loss, Metric};
use super::*;

/// TRL's sums and ours are f32; some hundred nats keep six digits.
const TOLERANCE: f64 = 1e-5;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/objectives/objectives_pairs.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn recorded(fixture: &Value) -> Vec<Pair> {
    let length = |side: &Value| side["ids"].as_array().unwrap().len() - side["start"].as_u64().unwrap() as usize;
    let pair = |row: &Value| {
        let (w, l) = (&row["chosen"], &row["rejected"]);
        Pair {
            pw: number(&w["policy"]),
            pl: number(&l["policy"]),
            rw: number(&w["reference"]),
            rl: number(&l["reference"]),
            nw: length(w),
            nl: length(l),
            margin: number(&row["margin"]),
        }
    };
    fixture["pairs"].as_array().unwrap().iter().map(pair).collect()
}

/// TRL's settings as ours.
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
            // TRL takes it everywhere and ignores it in these; ours obeys it in sigmoid and refuses it in the others.
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

fn objective(settings: &[(String, Value)]) -> Result<PairObjective, SettingError> {
    settings.iter().fold(PairObjective::given(), |given, (name, value)| given.set(name, value)).build()
}

/// The loss and those of TRL's metrics that can be computed from sums.
fn compare(loss: &Loss, case: &Value, more: &[&str]) {
    let what = case["settings"].to_string();
    close_to(value(loss), number(&case["loss"]), &what);
    let trl = case["metrics"].as_object().unwrap();
    let mut compared = 0;
    for (name, expected) in trl {
        if name.starts_with("rewards/") || name.starts_with("logps/") || more.contains(&name.as_str()) {
            let found: &[Metric] = &loss.metrics;
            close_to(metric(found, name), number(expected), &format!("{what}, {name}"));
            compared += 1;
        }
    }
    assert!(compared >= 6, "{what}: {compared} metrics of {trl:?}");
}

/// Relative where the number is above 0.01: margins are differences of sums of a hundred nats.
fn close_to(found: f64, expected: f64, what: &str) {
    close(found / expected.abs().max(0.01), expected / expected.abs().max(0.01), TOLERANCE, what);
}

#[test]
fn dpo() {
    let fixture = fixture();
    let pairs = recorded(&fixture);
    let mut seen = 0;
    for case in fixture["dpo"].as_array().unwrap() {
        let settings = &case["settings"];
        // These need every token; at α = 1 LD-DPO is DPO.
        if settings.get("use_weighting").is_some() || settings.get("ld_alpha").is_some_and(|a| a.as_f64() != Some(1.0))
        {
            continue;
        }
        let objective = objective(&translated(settings)).unwrap();
        compare(&run(&objective, &pairs, None), case, &[]);
        seen += 1;
    }
    assert_eq!(seen, 48);
}

#[test]
fn settings_that_dpo_refuses() {
    let fixture = fixture();
    for case in fixture["dpo_refused"].as_array().unwrap() {
        let mut settings = translated(&case["settings"]);
        // TRL's default, which it refuses; ours is 0.001.
        if case["settings"]["loss_type"] == "exo_pair" {
            settings.push(("label_smoothing".to_owned(), 0.0.into()));
        }
        assert!(objective(&settings).is_err(), "{case}");
    }
}

#[test]
fn cpo_simpo_and_alpha_po() {
    let fixture = fixture();
    let pairs = recorded(&fixture);
    let cases = fixture["cpo"].as_array().unwrap();
    assert_eq!(cases.len(), 13);
    for case in cases {
        let given = case["settings"].as_object().unwrap();
        let get = |name: &str, default: f64| Value::from(given.get(name).map_or(default, number));
        let kind = given["loss_type"].as_str().unwrap();
        let nll = get("cpo_alpha", if kind == "alphapo" { 0.0 } else { 1.0 });
        let mut settings = vec![("beta", get("beta", 0.1)), ("cpo_alpha", nll.clone())];
        if matches!(kind, "simpo" | "alphapo") {
            settings.extend([
                ("loss", "simpo".into()),
                ("gamma", get("simpo_gamma", 0.5)),
                ("alpha", get("alpha", 0.0)),
            ]);
        } else {
            settings.extend([("loss", "cpo".into()), ("cpo_loss_type", kind.into()), ("trl_nll", true.into())]);
        }
        if let Some(epsilon) = given.get("label_smoothing") {
            settings.push(("label_smoothing", epsilon.clone()));
        }
        let loss = run(&built(&settings).unwrap(), &pairs, None);
        // Without weight TRL does not compute it and logs 0.
        compare(&loss, case, if nll == 0.0 { &[] } else { &["nll_loss"] });
    }
}

#[test]
fn orpo() {
    let fixture = fixture();
    let pairs = recorded(&fixture);
    let cases = fixture["orpo"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let lam = case["settings"].get("beta").cloned().unwrap_or_else(|| 0.1.into());
        let settings = [("loss", "orpo".into()), ("lam", lam), ("trl_nll", true.into())];
        // The first token of a row is not predicted. The prompts' sum is what TRL's likelihood leaves for it.
        let rows = fixture["pairs"].as_array().unwrap();
        let before: Vec<usize> = rows.iter().map(|row| row["chosen"]["start"].as_u64().unwrap() as usize - 1).collect();
        let tokens = before.iter().sum::<usize>() + pairs.iter().map(|p| p.nw).sum::<usize>();
        let nll = number(&case["metrics"]["nll_loss"]);
        let each =
            -(nll * tokens as f64 + pairs.iter().map(|p| p.pw).sum::<f64>()) / before.iter().sum::<usize>() as f64;
        assert!((-8.0..-4.0).contains(&each), "a token of a prompt has {each} nats");
        let loss = run(&built(&settings).unwrap(), &pairs, Some((each, &before)));
        compare(&loss, case, &["nll_loss", "log_odds_ratio", "log_odds_chosen"]);
    }
}
