use std::path::Path;

use serde_json::json;

use super::*;

crate::component! {
    /// An adapter to test with.
    pub struct Tuner, TunerBuilder {
        /// Rank.
        pub r: usize = 8 => Kind::integer(1, 4096),
        /// Scale.
        pub alpha: f64 = 8.0 => Kind::number().above(0.0),
        /// Share of activations that is dropped.
        pub dropout: f64 = 0.0 => Kind::number().at_least(0.0).below(1.0),
        /// Scale by the square root of `r`.
        pub use_rslora: bool = false => Kind::bool(),
        /// Which modules.
        pub targets: serde_json::Value = json!("all-linear") => Kind::list_or_text(),
        /// Which modules are trained whole.
        pub saved: Vec<String> = Vec::new() => Kind::list(),
        /// Where to start.
        pub init: String = "kaiming".to_owned() => Kind::choice(&["kaiming", "gaussian"]),
        /// A limit.
        pub limit: Option<f64> = Some(1.0) => Kind::number().or_none(),
    }
    check = Tuner::check_limit;
}

impl Tuner {
    fn check_limit(&self) -> Result<(), SettingError> {
        match self.limit {
            Some(limit) if limit > self.alpha => {
                Err(SettingError::rule(format!("`limit` {limit} is above `alpha` {}; raise `alpha`", self.alpha)))
            }
            _ => Ok(()),
        }
    }
}

crate::component! {
    /// A component without parameters.
    pub struct Plain, PlainBuilder {}
}

fn resolver() -> Resolver {
    Resolver::new(vec![Section::of::<Tuner>("adapter"), Section::of::<Plain>("model")])
}

/// Applies one `--set` and expects it to be refused with exactly this text.
fn check_refused(assignment: &str, expected: &str) {
    let error = resolver().command_line(&[assignment]).unwrap_err().to_string();
    assert_eq!(error, expected);
}

#[test]
fn tables_agree_with_structs() {
    audit::<Tuner>().unwrap();
    audit::<Plain>().unwrap();
}

#[test]
fn kinds_are_described_in_words() {
    let check = |kind: Kind, expected: &str| assert_eq!(kind.to_string(), expected);
    check(Kind::integer(i64::MIN, i64::MAX), "a whole number");
    check(Kind::count(), "a whole number of at least 1");
    check(Kind::integer(i64::MIN, -3), "a whole number of at most -3");
    check(Kind::integer(-1, 4096), "a whole number from -1 to 4096");
    check(Kind::number().at_least(0.0), "a number of at least 0");
    check(Kind::number().above(0.0).at_most(1.0), "a number above 0 and at most 1");
    check(Kind::number().below(-0.25).or_none(), "a number below -0.25, or none");
    check(Kind::number().above(1e-6).below(0.1), "a number above 0.000001 and below 0.1");
    check(Kind::number().at_least(0.0).at_most(1.0), "a number from 0 to 1");
    check(Kind::choice(&["a", "b"]), "one of \"a\", \"b\"");
}

#[test]
fn layers_override_each_other() {
    let file = json!({
        "adapter.r": {"value": 2, "origin": "default"},
        "adapter": {"dropout": 0.5, "alpha": 4},
        "adapter.limit": {"value": 3.0, "origin": "derived: from the data"},
    });
    let file = Recorded::from_json(Path::new("c.json"), &file).unwrap();
    let resolved = resolver()
        .recipe("adapter", &Tuner::given().set("r", 4).set("use_rslora", true))
        .unwrap()
        .recorded(&file)
        .unwrap()
        .command_line(&["adapter.dropout=0.25", "adapter.saved=a, b", "adapter.limit=none"])
        .unwrap()
        .finish();
    let tuner: Tuner = resolved.section("adapter").unwrap();
    assert_eq!((tuner.r, tuner.alpha, tuner.dropout), (2, 4.0, 0.25));
    assert!(tuner.use_rslora && tuner.limit.is_none());
    assert_eq!(tuner.saved, ["a", "b"]);
    let origin = |key: &str| resolved.setting(key).unwrap().origin.to_string();
    assert_eq!(origin("adapter.init"), "default");
    assert_eq!(origin("adapter.use_rslora"), "recipe");
    assert_eq!(origin("adapter.r"), "file c.json");
    assert_eq!(origin("adapter.dropout"), "command line");
}

#[test]
fn refusals_name_key_value_and_range() {
    check_refused("adapter.r=0", "--set adapter.r=0: `adapter.r` takes a whole number from 1 to 4096, not `0`");
    check_refused(
        "adapter.dropout=NaN",
        "--set adapter.dropout=NaN: `adapter.dropout` takes a number from 0 up to but not \
         including 1, not `NaN`",
    );
    check_refused(
        "adapter.dropuot=0.1",
        "--set adapter.dropuot=0.1: `adapter.dropuot` is unknown, `Tuner` has no such \
         parameter (did you mean `dropout`?); it takes: r, alpha, dropout, use_rslora, targets, \
         saved, init, limit",
    );
    check_refused("model.r=1", "--set model.r=1: `model.r` is unknown, `Plain` has no such parameter; it takes none");
    check_refused(
        "adaptor.r=1",
        "--set adaptor.r=1: `adaptor.r` is not a setting of this recipe (did you mean \
         `adapter.r`?); its parts are: adapter, model",
    );
    check_refused("adapter.r", "--set adapter.r: write it as `--set key=value`, for example `--set adapter.r=8`");
    check_refused(
        "adapter.init=",
        "--set adapter.init=: `adapter.init` takes one of \"kaiming\", \"gaussian\", not nothing",
    );
    let file = Recorded::from_json(Path::new("c.json"), &json!({"adapter": {"r": "8"}})).unwrap();
    assert_eq!(
        resolver().recorded(&file).unwrap_err().to_string(),
        "c.json: `adapter.r` takes a whole number from 1 to 4096, not \"8\""
    );
}

#[test]
fn lists_and_texts_are_told_apart() {
    let value = |assignment: &str, key: &str| {
        let resolved = resolver().command_line(&[assignment]).unwrap().finish();
        resolved.setting(key).unwrap().value.clone()
    };
    assert_eq!(value("adapter.targets=q_proj", "adapter.targets"), json!("q_proj"));
    assert_eq!(value("adapter.targets=q,v", "adapter.targets"), json!(["q", "v"]));
    assert_eq!(value("adapter.targets=[\"q\"]", "adapter.targets"), json!(["q"]));
    assert_eq!(value("adapter.saved=q", "adapter.saved"), json!(["q"]));
    assert_eq!(value("adapter.saved=", "adapter.saved"), json!([]));
}

#[test]
fn rules_between_parameters_name_the_section() {
    let resolved = resolver().command_line(&["adapter.limit=9"]).unwrap().finish();
    let error = resolved.section::<Tuner>("adapter").unwrap_err();
    assert_eq!(error.to_string(), "adapter: `limit` 9 is above `alpha` 8; raise `alpha`");
}

#[test]
fn builders_give_only_what_was_set() {
    assert!(Given::from(Tuner::builder()).values().is_empty());
    let given = Given::from(Tuner::builder().r(8).limit(None));
    assert_eq!(given, Tuner::given().set("r", 8).set("limit", None::<f64>));
    assert!(Given::from(Tuner::default()).values().is_empty());
    let changed = Given::from(Tuner { r: 3, ..Tuner::default() });
    assert_eq!(changed, Tuner::given().set("r", 3));
    let error = Tuner::builder().dropout(1.5).build().unwrap_err();
    assert_eq!(error.to_string(), "`Tuner`: `dropout` takes a number from 0 up to but not including 1, not 1.5");
    let error = Tuner::given().set("alpha", f64::NAN).build().unwrap_err();
    assert_eq!(error.to_string(), "`Tuner`: `alpha` takes a number above 0, not null");
}

#[test]
fn a_runs_own_file_reproduces_it() {
    let mut run = resolver().command_line(&["adapter.r=3", "adapter.saved=x"]).unwrap().finish();
    run.derive("adapter.alpha", 3.0, "equal to `r`").unwrap();
    let recorded = Recorded::from_json(Path::new("c.json"), &run.to_json()).unwrap();
    assert!(run.differences(&recorded).is_empty());
    let again = resolver().recorded(&recorded).unwrap().finish();
    let differences = again.differences(&recorded);
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].to_string(), "`adapter.alpha` was 3.0 and is 8.0");
}

#[test]
fn a_setting_that_an_earlier_program_did_not_have_is_no_difference_at_its_default() {
    let mut file = resolver().finish().to_json();
    file.as_object_mut().unwrap().remove("adapter.r");
    let recorded = Recorded::from_json(Path::new("c.json"), &file).unwrap();
    assert!(resolver().finish().differences(&recorded).is_empty());
    let given = resolver().command_line(&["adapter.r=3"]).unwrap().finish();
    assert_eq!(given.differences(&recorded).len(), 1);
}

#[test]
fn tables_are_aligned() {
    let table = resolver().command_line(&["adapter.r=16"]).unwrap().finish().table();
    let first: Vec<&str> = table.lines().take(2).collect();
    assert_eq!(first[0], "adapter.r          = 16          (command line)");
    assert_eq!(first[1], "adapter.alpha      = 8.0         (default)");
    assert!(resolver().help().contains("--set adapter.r=8\n      Rank. Takes a whole number"));
}
