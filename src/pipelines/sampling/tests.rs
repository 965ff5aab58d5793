//! The rules of choosing and pairing.

use super::*;
use crate::data::{Dataset, PairsData, PairsMarginData};
use std::collections::BTreeMap;
use std::path::Path;

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// A record whose answers are called 0, 1, … and have these words and rewards.
fn record(id: &str, answers: &[(&str, f64)]) -> Prediction {
    let answer = |(i, (words, _)): (usize, &(&str, f64))| PredictedAnswer {
        id: i.to_string(),
        content: (*words).to_owned(),
        ..PredictedAnswer::default()
    };
    Prediction {
        id: id.to_owned(),
        dataset_name: "made".to_owned(),
        messages: vec![json!({"role": "user", "content": "What?"})],
        answers: answers.iter().enumerate().map(answer).collect(),
        rewards: Some(answers.iter().enumerate().map(|(i, (_, reward))| (i.to_string(), *reward)).collect()),
        ..Prediction::default()
    }
}

fn five() -> Prediction {
    record("5", &[("a", 0.1), ("b", 0.9), ("c", -3.0), ("d", 0.5), ("e", 0.2)])
}

fn sampling(choice: Choice) -> Sampling {
    Sampling { choice, pairing: None, unique: false, few: Few::Error, min_margin: 0.0, seed: 1 }
}

fn place() -> Place {
    Place::new(Path::new("p.jsonl"), 4)
}

fn chosen(choice: Choice) -> String {
    let drawn = sampling(choice).draw(five(), &place()).unwrap().unwrap();
    let words: Vec<&str> = drawn.record.answers.iter().map(|answer| answer.content.as_str()).collect();
    let rewards = drawn.record.rewards.unwrap();
    assert!(drawn.record.answers.iter().all(|answer| rewards.contains_key(&answer.id)) && rewards.len() == words.len());
    words.concat()
}

fn pairs(sampling: &Sampling, record: Prediction) -> (Vec<String>, LeftOut) {
    let drawn = sampling.draw(record, &place()).unwrap().unwrap();
    let words = |pair: &Value, key: &str| pair[key]["content"].as_str().unwrap().to_owned();
    (drawn.pairs.iter().map(|pair| words(pair, "answer_w") + &words(pair, "answer_l")).collect(), drawn.left_out)
}

#[test]
fn rewards_choose_from_either_end() {
    for (choice, expected) in [
        (Choice::Best(count(2)), "bd"),
        (Choice::Worst(count(2)), "ac"),
        (Choice::BestAndWorst(count(2)), "bc"),
        (Choice::BestAndWorst(count(3)), "bdc"),
        (Choice::BestAndWorst(count(5)), "bdeac"),
        (Choice::BestAndNth(count(3)), "be"),
        (Choice::BestAndNth(count(1)), "b"),
        (Choice::Random(count(5)), "abcde"),
    ] {
        assert_eq!(chosen(choice), expected, "{choice:?}");
    }
}

#[test]
fn chance_takes_every_answer_as_often() {
    let mut seen = BTreeMap::new();
    for seed in 0..3000 {
        let one = Sampling { seed, ..sampling(Choice::Random(count(2))) };
        for answer in one.draw(five(), &place()).unwrap().unwrap().record.answers {
            *seen.entry(answer.content).or_insert(0) += 1;
        }
    }
    // 1200 each are expected, with a standard deviation of 27.
    assert!(seen.len() == 5 && seen.values().all(|n| (1090..1310).contains(n)), "{seen:?}");
}

#[test]
fn rejection_is_the_paper_s_algorithm() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sampling/rejection.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let numbers =
        |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
    let places = |value: &Value| -> Vec<usize> { numbers(value).iter().map(|&v| v as usize).collect() };
    for run in file["runs"].as_array().unwrap() {
        let mut uniforms = numbers(&run["uniforms"]).into_iter();
        let (wanted, beta) = (run["count"].as_u64().unwrap() as usize, run["beta"].as_f64().unwrap());
        let accepted = rejection(&numbers(&run["rewards"]), wanted, beta, &mut || uniforms.next().unwrap());
        assert_eq!(accepted, places(&run["accepted"]), "{run}");
        assert_eq!(uniforms.next(), None, "as many draws: {run}");
    }
    // What is drawn with a seed of its own for each record follows the exact chances.
    const DRAWS: usize = 20_000;
    for case in file["chances"].as_array().unwrap() {
        let rewards = numbers(&case["rewards"]);
        let words: Vec<String> = (0..rewards.len()).map(|i| format!("answer {i}")).collect();
        let answers: Vec<(&str, f64)> = words.iter().map(String::as_str).zip(rewards).collect();
        let choice = Choice::Rejection {
            count: count(case["count"].as_u64().unwrap() as usize),
            beta: case["beta"].as_f64().unwrap(),
        };
        let mut seen: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        for n in 0..DRAWS {
            let drawn = sampling(choice).draw(record(&n.to_string(), &answers), &place()).unwrap().unwrap();
            let ids = drawn.record.answers.iter().map(|answer| answer.id.parse().unwrap()).collect();
            *seen.entry(ids).or_insert(0) += 1;
        }
        let mut total = 0;
        for outcome in case["outcomes"].as_array().unwrap() {
            let chance = outcome["chance"].as_f64().unwrap();
            let found = seen.get(&places(&outcome["accepted"])).copied().unwrap_or(0);
            let (expected, deviation) = (DRAWS as f64 * chance, (DRAWS as f64 * chance * (1.0 - chance)).sqrt());
            assert!((found as f64 - expected).abs() <= 4.5 * deviation, "{outcome}: {found}, expected {expected}");
            total += found;
        }
        assert_eq!(total, DRAWS, "outcomes that cannot be: {seen:?}");
    }
}

#[test]
fn a_draw_depends_on_the_seed_and_the_record_alone() {
    let rejection = Choice::Rejection { count: count(4), beta: 2.0 };
    let one = Sampling { pairing: Some(Pairing::Tournament), ..sampling(rejection) };
    let first = one.draw(five(), &place()).unwrap();
    assert_eq!(one.draw(five(), &Place::new(Path::new("other.jsonl"), 900)).unwrap(), first);
    let differs = |other: &Sampling, record: Prediction| {
        let drawn = |one: &Sampling, record: Prediction| one.draw(record, &place()).unwrap().unwrap().record.answers;
        drawn(other, record) != drawn(&one, five())
    };
    assert!((2..20).any(|seed| differs(&Sampling { seed, ..one }, five())));
    assert!((0..20).any(|id| differs(&one, Prediction { id: id.to_string(), ..five() })));
    assert!((0..20).any(|n| differs(&one, Prediction { dataset_name: n.to_string(), ..five() })));
}

#[test]
fn pairs_put_the_higher_reward_first() {
    let with = |pairing| Sampling { pairing: Some(pairing), ..sampling(Choice::Best(count(5))) };
    assert_eq!(pairs(&with(Pairing::Opposite), five()).0, ["bc", "da"]);
    assert_eq!(pairs(&with(Pairing::All), five()).0, ["bd", "be", "ba", "bc", "de", "da", "dc", "ea", "ec", "ac"]);
    let better = |pair: &String| {
        let place = |c: char| "bdeac".find(c).unwrap();
        let mut two = pair.chars().map(place);
        two.next() < two.next()
    };
    for seed in 0..50 {
        let (first, _) = pairs(&Sampling { seed, ..with(Pairing::FirstRound) }, five());
        let mut all: Vec<char> = first.concat().chars().collect();
        all.sort_unstable();
        all.dedup();
        assert!(first.len() == 2 && all.len() == 4 && first.iter().all(better), "{first:?}");
        // Of five: two pairs, then one with the fifth left over, then the last.
        let (tournament, _) = pairs(&Sampling { seed, ..with(Pairing::Tournament) }, five());
        assert!(tournament.len() == 4 && tournament.iter().all(better), "{tournament:?}");
        assert!(tournament[3].starts_with('b'), "the best wins: {tournament:?}");
    }
}

#[test]
fn what_is_no_pair_is_left_out_and_counted() {
    let all = Sampling { pairing: Some(Pairing::All), few: Few::Keep, ..sampling(Choice::Best(count(4))) };
    let twins = || record("1", &[("yes", 1.0), (" yes\n", 0.5), ("no", 0.5), ("", 0.0)]);
    let (found, left_out) = pairs(&all, twins());
    assert_eq!(found, ["yesno"]);
    assert_eq!(left_out, LeftOut { same_words: 1, empty: 3, close: 1 });
    assert_eq!(left_out.total(), 5);
    let (found, left_out) = pairs(&Sampling { unique: true, ..all }, twins());
    assert_eq!((found.as_slice(), left_out), (&["yesno".to_owned()][..], LeftOut { empty: 2, ..LeftOut::default() }));
    let (found, left_out) = pairs(&Sampling { min_margin: 0.6, unique: true, ..all }, twins());
    assert_eq!((found.len(), left_out.close), (0, 1));
}

#[test]
fn what_cannot_be_chosen_from_is_named() {
    let refused = |sampling: &Sampling, record: Prediction, says: &str| {
        let said = sampling.draw(record, &place()).unwrap_err().to_string();
        assert!(said.starts_with("p.jsonl:4, record `5`: ") && said.contains(says), "{said}");
    };
    let best = sampling(Choice::Best(count(2)));
    let mut without = five();
    without.rewards.as_mut().unwrap().remove("2");
    refused(&best, without, "none for the answer `2`");
    let mut more = five();
    more.rewards.as_mut().unwrap().insert("9".into(), 1.0);
    refused(&best, more, "no answer is called so");
    refused(&best, Prediction { rewards: None, ..five() }, "no `rewards`");
    let mut twice = five();
    twice.answers[3].id = "0".into();
    refused(&sampling(Choice::Random(count(1))), twice, "two answers are called `0`");
    refused(&sampling(Choice::Best(count(6))), five(), "answers to choose from: 5, wanted: 6");
    let same = record("5", &[("x", 1.0), ("x ", 2.0)]);
    refused(
        &Sampling { unique: true, ..best },
        same.clone(),
        "answers to choose from: 1 (different ones of 2), wanted: 2",
    );
    assert_eq!(Sampling { unique: true, few: Few::Skip, ..best }.draw(same.clone(), &place()).unwrap(), None);
    let kept = Sampling { unique: true, few: Few::Keep, ..best }.draw(same, &place()).unwrap().unwrap();
    assert_eq!(kept.record.answers.len(), 1);
    let silent = Sampling { few: Few::Keep, ..best }.draw(record("5", &[]), &place()).unwrap();
    assert_eq!(silent, None);
    // Chance alone reads no rewards.
    let without = Prediction { rewards: None, ..five() };
    assert!(sampling(Choice::Random(count(2))).draw(without.clone(), &place()).unwrap().is_some());
    let paired = Sampling { pairing: Some(Pairing::FirstRound), ..sampling(Choice::Random(count(2))) };
    refused(&paired, without, "no `rewards`");
}

#[test]
fn pairs_are_read_by_the_data_kinds_of_pairs() {
    let paired = Sampling { pairing: Some(Pairing::Opposite), ..sampling(Choice::Best(count(4))) };
    let mut seen = five();
    seen.messages = vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "path": "a.png"}]}),
    ];
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.png"), "").unwrap();
    let mut lines = String::new();
    for record in [five(), seen] {
        for pair in paired.draw(record, &place()).unwrap().unwrap().pairs {
            lines += &format!("{pair}\n");
        }
    }
    let file = folder.path().join("pairs.jsonl");
    std::fs::write(&file, lines).unwrap();
    let read = Dataset::open(PairsData::default(), std::slice::from_ref(&file), &[]).unwrap();
    let samples: Vec<_> = (0..read.len()).map(|i| read.sample(i).unwrap()).collect();
    let ids: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["5-0", "5-1", "5-0", "5-1"]);
    assert_eq!((samples[0].target.chosen[0].words(), samples[0].target.rejected[0].words()), ("b".into(), "a".into()));
    assert_eq!((samples[2].images.len(), samples[2].conversation.messages.len()), (1, 2));
    let margins = Dataset::open(PairsMarginData::default(), &[file], &[]).unwrap();
    assert!((margins.sample(0).unwrap().target.extra.0 - 0.8).abs() < 1e-12);
}
