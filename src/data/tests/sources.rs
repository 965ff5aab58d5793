//! Lists of sources: what is taken, what is refused, what is said of it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Folder, encoder, record};
use crate::data::{
    Check, DataError, DataKind, Dataset, Expanded, LlavaData, Overlong, Place, Row, Sample, SourceReport, TextOnly,
    check,
};
use crate::example::Supervised;
use crate::settings::{Component, Parameter};
use crate::text::Role;

const GOOD: &str = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;

/// A folder with `a.jsonl` of 10 records, ids from 0, and `b.json` of 4, ids from 100.
fn folder() -> Folder {
    let folder = Folder::new();
    let rows = |ids: std::ops::Range<usize>| ids.map(|id| record(id, &[], "q", "a"));
    let lines: Vec<String> = rows(0..10).map(|row| row.to_string()).collect();
    folder.write("a.jsonl", lines.join("\n"));
    folder.write("b.json", Value::from_iter(rows(100..104)).to_string());
    folder
}

fn open(folder: &Folder, sources: Value, seed: u64) -> Result<Dataset<LlavaData>, DataError> {
    let list = folder.write("list.json", json!({"sources": sources}).to_string());
    Dataset::open_with(LlavaData::default(), &[list], &[], seed)
}

fn ids(data: &Dataset<LlavaData>) -> Vec<String> {
    (0..data.len()).map(|i| data.sample(i).expect("a sample").id).collect()
}

#[test]
fn sources_are_mixed_in_their_order_and_counted() {
    let folder = folder();
    let sources = json!([
        {"name": "few", "records_path": "a.jsonl", "num_samples": 3},
        {"records_path": "b.json", "offset": 1, "n_rows": 2},
        {"name": "own", "records": [record(200, &[], "q", "a"), record(201, &[], "q", "a")]},
        {"name": "half", "records_path": folder.path("a.jsonl"), "offset": 2, "sample_rate": 0.5},
    ]);
    let data = open(&folder, sources.clone(), 7).expect("a data set");
    let all = ids(&data);
    assert_eq!(all.len(), 3 + 2 + 2 + 4);
    assert_eq!(all[3..7], ["101", "102", "200", "201"]);
    assert_eq!((data.source_of(2), data.source_of(3), data.source_of(10)), (0, 1, 3));
    let numbers: Vec<usize> = all[7..].iter().map(|id| id.parse().expect("a number")).collect();
    assert!(numbers.is_sorted() && numbers.iter().all(|id| (2..10).contains(id)), "{numbers:?}");

    assert_eq!(ids(&open(&folder, sources.clone(), 7).expect("a data set")), all, "a seed draws the same again");
    let draws: std::collections::BTreeSet<_> =
        (0..20).map(|seed| ids(&open(&folder, sources.clone(), seed).expect("a data set"))).collect();
    assert!(draws.len() > 15, "other seeds draw others");

    let reports: Vec<&SourceReport> = data.sources().collect();
    let numbers: Vec<_> = reports.iter().map(|report| (report.rows, report.records)).collect();
    assert_eq!(numbers, [(10, 3), (4, 2), (2, 2), (10, 4)]);
    assert_eq!(reports[3].left_out, [("outside offset and n_rows", 2), ("sampled out", 4)].into());
    assert_eq!(data.left_out(), [("outside offset and n_rows", 4), ("sampled out", 11)].into());
    let lines = data.source_lines();
    assert!(
        lines[0].starts_with("source few (") && lines[0].ends_with("3 records of 10 rows; left out: 7 sampled out")
    );
    assert_eq!(lines.len(), 4);

    let plain = Dataset::open(LlavaData::default(), &[folder.path("b.json")], &[]).expect("a data set");
    assert_eq!(plain.source_lines(), [""; 0]);
    let checked = check(&data, &encoder(500, Overlong::Error), &Check::default(), |_| ());
    assert_eq!((checked.ok, checked.ok_by_source), (11, vec![3, 2, 2, 4]));
}

#[test]
fn a_system_prompt_is_for_records_without_one() {
    let folder = folder();
    let own = json!({"conversations": [{"from": "system", "value": "Own."}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]});
    let sources = json!([
        {"records": [own, record(1, &[], "q", "a")], "system_prompt": "Be brief."},
        {"records": [record(2, &[], "q", "a")]},
    ]);
    let data = open(&folder, sources, 0).expect("a data set");
    let first = |i: usize| {
        let message = data.sample(i).expect("a sample").conversation.messages.swap_remove(0);
        (message.role, message.words())
    };
    assert_eq!(first(0), (Role::System, "Own.".to_owned()));
    assert_eq!(first(1), (Role::System, "Be brief.".to_owned()));
    assert_eq!(first(2).0, Role::User);
    assert_eq!(data.sample(1).expect("a sample").conversation.messages.len(), 3);
}

#[test]
fn the_fingerprint_covers_what_was_taken() {
    let folder = folder();
    let print = |source: Value, seed| open(&folder, json!([source]), seed).expect("a data set").fingerprint();
    let whole = Dataset::open(LlavaData::default(), &[folder.path("a.jsonl")], &[]).expect("a data set").fingerprint();
    let path = json!({"records_path": "a.jsonl"});
    let with = |key: &str, value: Value| {
        let mut source = path.clone();
        source[key] = value;
        source
    };
    assert_eq!(print(path.clone(), 0), whole, "a list of one whole file is that file");
    assert_eq!(print(with("name", json!("x")), 5), whole);
    assert_eq!(print(with("num_samples", json!(10)), 5), whole);
    let prints = [
        whole.clone(),
        print(with("num_samples", json!(5)), 0),
        print(with("num_samples", json!(5)), 1),
        print(with("offset", json!(1)), 0),
        print(with("n_rows", json!(1)), 0),
        print(with("system_prompt", json!("Be brief.")), 0),
        print(with("system_prompt", json!("Be long.")), 0),
    ];
    let different: std::collections::BTreeSet<_> = prints.iter().collect();
    assert_eq!(different.len(), prints.len());
}

fn check_refusal(folder: &Folder, list: impl AsRef<[u8]>, expected: &[&str]) {
    let path = folder.write("list.json", list);
    let message = Dataset::open(LlavaData::default(), &[path], &[]).expect_err("a bad list was accepted").to_string();
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn bad_lists_are_refused_with_line_and_source() {
    let folder = folder();
    let one = |source: Value, expected: &[&str]| {
        let list = format!("{{\"sources\": [\n{{\"records_path\": \"b.json\"}},\n{source}]}}");
        check_refusal(&folder, list, &[&["list.json:3: source 2"], expected].concat());
    };
    let path = |key: &str, value: Value| json!({"name": "n", "records_path": "a.jsonl", key: value});
    one(json!(7), &["must be an object, not `7`"]);
    one(json!({"name": "n"}), &["(\"n\")", "`records_path` or `records`"]);
    one(json!({"records_path": "a.jsonl", "records": []}), &["both"]);
    one(json!({"records": []}), &["`records` is empty"]);
    one(json!({"records": {}}), &["a list of records"]);
    one(json!({"records_path": 5}), &["`records_path`", "not `5`"]);
    one(path("num_sample", json!(3)), &["`num_sample` is not known (did you mean `num_samples`?)", "sample_rate"]);
    one(path("records_data", json!([])), &["`records_data` is not known"]);
    one(path("num_samples", json!(11)), &["is 11", "10 rows"]);
    one(path("num_samples", json!(-1)), &["`num_samples`", "not `-1`"]);
    one(path("num_samples", json!(1.5)), &["`num_samples`", "not `1.5`"]);
    one(path("num_samples", json!(0)), &["`num_samples` is 0"]);
    one(path("sample_rate", json!(0)), &["above 0"]);
    one(path("sample_rate", json!(1.01)), &["at most 1, not 1.01"]);
    one(path("sample_rate", json!("half")), &["`sample_rate`", "`\"half\"`"]);
    one(json!({"records_path": "a.jsonl", "sample_rate": 0.5, "num_samples": 2}), &["both", "leave one out"]);
    one(path("offset", json!(10)), &["`offset` is 10", "10 rows"]);
    one(json!({"records_path": "a.jsonl", "offset": 5, "n_rows": 6}), &["end at row 11", "10 rows"]);
    one(path("n_rows", json!(0)), &["`n_rows` is 0"]);
    one(path("system_prompt", json!(["x"])), &["`system_prompt` must be a text"]);
    one(json!({"records_path": "no.jsonl"}), &["no.jsonl: cannot be read"]);
    one(json!({"records_path": "a.csv"}), &["a.csv"]);
    one(json!({"records_path": "list.json"}), &["list.json is this very list of sources"]);
    folder.write("other.json", json!({"sources": []}).to_string());
    one(json!({"records_path": "other.json"}), &["other.json is a list of sources"]);
}

#[test]
fn bad_lists_as_a_whole() {
    let folder = folder();
    check_refusal(&folder, r#"{"sources": []}"#, &["list.json:1", "empty"]);
    check_refusal(&folder, r#"{"sources": {}}"#, &["list.json:1", "a list of objects"]);
    check_refusal(&folder, r#"{"sources": null}"#, &["a list of objects"]);
    check_refusal(&folder, r#"{"source": []}"#, &["list.json:1", "begins with an object", "`sources`"]);
    check_refusal(&folder, r#"{"sources": [], "seed": 1}"#, &["`seed` is not known"]);
    check_refusal(&folder, "{\"sources\": [\n{\"records_path\": \"a.jsonl\"\n", &["list.json:3", "EOF"]);
    check_refusal(&folder, "{\"sources\": [\n{\"records_path\" \"a.jsonl\"}]}", &["list.json:2", "malformed JSON"]);
    check_refusal(&folder, format!("{GOOD}\n{{\"sources\": []}}"), &["begins with an object", ".jsonl"]);
    check_refusal(&folder, format!("{{\"id\": {{\"sources\": 1}}}}\n{GOOD}"), &["begins with an object"]);
    check_refusal(&folder, "\u{feff}{\"sources\": [1]}", &["list.json:1: source 1"]);
}

#[test]
fn a_mistake_in_a_record_of_the_list_has_its_line() {
    let folder = folder();
    let list = format!("{{\n \"sources\": [\n  {{\"records\": [\n   {GOOD},\n\n   {{\"id\": 1}}, 7]}}]}}");
    let file = folder.write("list.json", list);
    let data = Dataset::open(LlavaData::default(), &[file], &[]).expect("a data set");
    assert!(data.place(0).to_string().ends_with("list.json:4"));
    let message = |i: usize| data.sample(i).expect_err("a bad record").to_string();
    assert!(message(1).contains("list.json:6: the record has no `conversations`"), "{}", message(1));
    assert!(message(2).contains("list.json:6: a record is an object"), "{}", message(2));
}

/// A kind whose rows hold as many records as their `n` says; a negative number is a row that drops that many.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Many;

impl Component for Many {
    const NAME: &'static str = "Many";
    const PARAMETERS: &'static [Parameter] = &[];
}

impl DataKind for Many {
    type Media = TextOnly;
    type Shape = Supervised;
    const FIELDS: &'static [&'static str] = &["n"];
    const EXPANDS: bool = true;

    fn expand(&self, row: Row, place: &Place) -> Result<Expanded, DataError> {
        let number = row.get("n").and_then(Value::as_i64);
        let number = number.ok_or_else(|| crate::data::row::missing(place, "n", "a whole number"))?;
        let mut expanded = Expanded::default();
        (number..0).for_each(|_| expanded.drop("tie"));
        expanded.rows =
            (0..number).map(|part| Row::from_iter([("id".into(), json!(format!("{number}.{part}")))])).collect();
        Ok(expanded)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        let good = record(0, &[], "q", "a");
        let sample = LlavaData::default().parse(good.as_object().expect("an object"), place)?;
        Ok(Sample { id: row["id"].as_str().expect("a text").to_owned(), ..sample })
    }
}

fn many(folder: &Folder, rows: &str) -> Result<Dataset<Many>, DataError> {
    let file: PathBuf = folder.write("many.jsonl", rows);
    Dataset::open(Many, &[file], &[])
}

#[test]
fn a_row_may_hold_several_records_or_none() {
    let folder = Folder::new();
    let data = many(&folder, "{\"n\": 2}\n{\"n\": -3}\n{\"n\": 0}\n{\"x\": 1}\n{nope\n{\"n\": 1}").expect("a data set");
    let ids: Vec<Result<String, &str>> =
        (0..data.len()).map(|i| data.sample(i).map(|sample| sample.id).map_err(|error| error.reason())).collect();
    let ok = |id: &str| Ok(id.to_owned());
    assert_eq!(ids, [ok("2.0"), ok("2.1"), Err("missing field"), Err("malformed JSON"), ok("1.0")]);
    assert_eq!((data.part(1), data.place(1).line, data.place(4).line), (1, 1, 6));
    assert_eq!(data.left_out(), [("tie", 3)].into());
    assert!(data.source_lines()[0].ends_with("5 records of 6 rows; left out: 3 tie"), "{:?}", data.source_lines());
    let checked = check(&data, &encoder(500, Overlong::Error), &Check::default(), |_| ());
    assert_eq!((checked.ok, checked.refused()), (3, 2));
    assert_eq!(checked.ignored_fields, [("x".to_owned(), 1)].into());

    let message = many(&folder, "{\"n\": -2}\n{\"n\": 0}").expect_err("nothing left").to_string();
    assert!(message.contains("many.jsonl: none of the 2 rows gives a record: 2 tie"), "{message}");
}

#[test]
fn names_of_files_say_what_is_in_them() {
    let place = |file: &str| Place::new(Path::new(file), 3).to_string();
    assert_eq!(place("a.jsonl"), "a.jsonl:3");
    assert_eq!(place("a.PARQUET"), "a.PARQUET:row 3");
}
