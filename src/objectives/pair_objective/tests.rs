use super::super::pair_testing::{agrees, close, logistic, mean, metric, run, some_pairs, stays_finite, totals, value};
use super::super::{Dpo, Ipo};
use super::*;
use crate::settings::{Component, Resolver, Section, audit};

mod trl;

fn built(settings: &[(&str, Value)]) -> Result<PairObjective, SettingError> {
    settings.iter().fold(PairObjective::given(), |given, (name, value)| given.set(name, value)).build()
}

fn refused(settings: &[(&str, Value)], expected: &str) {
    let error = built(settings).unwrap_err().to_string();
    assert!(error.contains(expected), "{settings:?}: {error}");
}

#[test]
fn every_name_is_a_loss_with_settings_of_its_own() {
    audit::<PairObjective>().unwrap();
    assert_eq!(PairLossName::ALL.len(), 26);
    let table: Vec<&str> = PairObjective::PARAMETERS.iter().map(|row| row.name).collect();
    for (name, text) in PairLossName::EVERY.iter().zip(PairLossName::ALL) {
        assert_eq!(name.to_string(), *text);
        let objective = built(&[("loss", Value::from(*text))]).unwrap();
        assert_eq!(objective.loss, [*name]);
        assert_eq!(objective.needs_margins(), *text == "sigmoid_with_margin");
        stays_finite(&objective);
        // No parameter of a loss is out of reach.
        let missing = name.parameters().iter().find(|row| !table.contains(&row.name));
        assert!(missing.is_none(), "{name}: {missing:?}");
    }
}

#[test]
fn divergences_stay_finite_in_every_loss_that_reads_them() {
    let reads = |name: &&PairLossName| name.parameters().iter().any(|row| row.name == "f_divergence_type");
    let names: Vec<String> = PairLossName::EVERY.iter().filter(reads).map(PairLossName::to_string).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    for name in names {
        for divergence in ["forward_kl", "js_divergence", "alpha_divergence"] {
            let settings = [("loss", Value::from(name.as_str())), ("f_divergence_type", divergence.into())];
            stays_finite(&built(&settings).unwrap());
        }
    }
    stays_finite(&Ipo { sums: true, f_divergence_type: Divergence::ForwardKl, ..Ipo::default() });
    let steep =
        Ipo { f_divergence_type: Divergence::AlphaDivergence, f_alpha_divergence_coef: Some(3.0), ..Ipo::default() };
    stays_finite(&steep);
}

#[test]
fn types_say_of_a_reference_what_the_settings_do() {
    macro_rules! every {
        ($reference:ty, $expected:expr, $($name:ident),+) => {$(
            let compares: fn() -> bool = || <$name as Objective>::compares(&$name::default());
            assert_eq!(compares(), $expected, stringify!($name));
            let _: std::marker::PhantomData<$reference> = std::marker::PhantomData::<<$name as Objective>::Reference>;
        )+};
    }
    use super::super::*;
    every!(Alone, false, Simpo, Orpo, Asft, ChosenSft);
    every!(BySetting, true, Hinge, PairObjective);
    every!(BySetting, false, Cpo, SlicHf);
    every!(Compared, true, Dpo, DpoMargin, RobustDpo, Ipo, KtoPair, ApoZero, ApoDown, Dpop, NcaPair, CalDpo, ExoPair);
    every!(Compared, true, BcoPair, SppoHard, Aot, AotUnpaired, Discopop, SigmoidNorm, DenseDpo, RDpo);
}

#[test]
fn it_is_the_named_loss() {
    let pairs = some_pairs();
    let step = totals(&pairs);
    let ipo = built(&[("loss", "ipo".into()), ("sums", true.into()), ("beta", 0.5.into())]).unwrap();
    let (chosen, chosen_gradient) = run(&ipo, &pairs, &step, &mut State::default());
    let named = Ipo { sums: true, beta: 0.5, ..Ipo::default() };
    let (expected, gradient) = run(&named, &pairs, &step, &mut State::default());
    assert_eq!((value(&chosen), chosen_gradient, &chosen.metrics), (value(&expected), gradient, &expected.metrics));
    assert_eq!((ipo.wants(), chosen.weight), (named.wants(), expected.weight));
    // As it is typed.
    let section = Section::of::<PairObjective>("objective");
    let resolver = Resolver::new(vec![section]).command_line(&["objective.loss=sigmoid"]).unwrap();
    let typed: PairObjective = resolver.finish().section("objective").unwrap();
    assert_eq!(typed, PairObjective::default());
}

#[test]
fn a_list_is_the_weighted_sum() {
    let objective = PairObjective::builder()
        .loss(vec![PairLossName::Sft, PairLossName::Sigmoid, PairLossName::Simpo])
        .loss_weights(LossWeights::from([0.5, 2.0, 0.25]))
        .beta(Some(0.5))
        .build()
        .unwrap();
    let formula = |pairs: &[super::super::pair_testing::Pair]| {
        let nll = -pairs.iter().map(|p| p.pw).sum::<f64>() / pairs.iter().map(|p| p.nw as f64).sum::<f64>();
        let simpo = mean(pairs, |p| logistic(0.5 * (p.pw / p.nw as f64 - p.pl / p.nl as f64) - 1.4));
        0.5 * nll + 2.0 * mean(pairs, |p| logistic(0.5 * p.h())) + 0.25 * simpo
    };
    let pairs = some_pairs();
    agrees(&objective, &pairs, &formula);
    let loss = run(&objective, &pairs, &totals(&pairs), &mut State::default()).0;
    // The first loss that defines rewards says what is logged.
    close(metric(&loss.metrics, "rewards/chosen"), mean(&pairs, |p| 0.5 * p.a()), 1e-6, "rewards");
    assert_eq!(loss.weight, 4.0);
    // Weights come back from the text they are saved as.
    let text = serde_json::to_string(&objective).unwrap();
    assert!(text.contains(r#""loss_weights":["0.5","2","0.25"]"#), "{text}");
    assert_eq!(serde_json::from_str::<PairObjective>(&text).unwrap(), objective);
}

#[test]
fn the_losses_decide_whether_there_is_a_reference() {
    let compares = |settings: &[(&str, Value)]| Objective::compares(&built(settings).unwrap());
    for (name, expected) in [("sigmoid", true), ("simpo", false), ("orpo", false), ("asft", false), ("sft", false)] {
        assert_eq!(compares(&[("loss", name.into())]), expected, "{name}");
    }
    for (name, by_default) in [("hinge", true), ("cpo", false), ("slic_hf", false)] {
        assert_eq!(compares(&[("loss", name.into())]), by_default, "{name}");
        assert_eq!(compares(&[("loss", name.into()), ("norm", (!by_default).into())]), !by_default, "{name}");
    }
    assert!(compares(&[("loss", vec!["sft", "sigmoid"].into())]));
    assert!(Objective::compares(&Dpo::default()));
}

#[test]
fn what_no_loss_reads_is_refused() {
    refused(&[("loss", "ipo".into()), ("label_smoothing", 0.1.into())], "choose among: sigmoid, robust, cpo, simpo");
    refused(&[("loss", "apo_zero".into()), ("gamma", 1.0.into())], "the loss apo_zero does not read it");
    refused(&[("loss", "simpo".into()), ("norm", true.into())], "hinge, slic_hf, cpo");
    refused(&[("loss", "simpo".into()), ("ld_alpha", 0.5.into())], "`ld_alpha` is given");
    refused(&[("loss", "sft".into()), ("beta", 0.5.into())], "does not read it");
    // In a list one reader is enough, but what acts on all losses must be read by all.
    let list = |names: [&str; 2]| ("loss", Value::from(names.to_vec()));
    built(&[list(["ipo", "robust"]), ("label_smoothing", 0.1.into())]).unwrap();
    built(&[list(["sigmoid", "sft"]), ("f_divergence_type", "forward_kl".into())]).unwrap();
    refused(&[list(["sigmoid", "ipo"]), ("average_log_prob", true.into())], "the loss ipo does not read it");
    refused(&[list(["sigmoid", "simpo"]), ("use_weighting", true.into())], "the loss simpo does not read it");
}

#[test]
fn rules_of_lists_and_of_single_losses() {
    refused(&[("loss", Value::Array(Vec::new()))], "name at least one");
    refused(&[("loss", vec!["ipo", "ipo"].into())], "names ipo twice");
    refused(&[("loss", "ipo".into()), ("loss_weights", vec!["1", "2"].into())], "has 2 weights");
    refused(&[("loss", "ipo".into()), ("loss_weights", vec!["much"].into())], "no finite number");
    refused(&[("loss", "ipo".into()), ("loss_weights", vec!["inf"].into())], "no finite number");
    refused(&[("loss", "exo_pair".into()), ("label_smoothing", 0.0.into())], "infinite");
    refused(&[("f_alpha_divergence_coef", 2.0.into())], "only the divergence `alpha_divergence` reads it");
    refused(&[("loss", "dpop".into()), ("lam", (-1.0).into())], "`Dpop`: `lam` takes a number of at least 0");
    refused(
        &[("loss", "hinge".into()), ("norm", false.into()), ("f_divergence_type", "js_divergence".into())],
        "with `norm` false there is none",
    );
}
