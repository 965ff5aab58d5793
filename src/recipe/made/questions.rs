//! Questions about pictures, their answers, and the folder in LLaVA's format that holds both.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use image::{ExtendedColorType, ImageEncoder, codecs::png};
use rand::{Rng, RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::Value;

use super::pictures::{Colour, Count, SIDE, Scene};
use super::{MadeError, write_file};
use crate::data::{DataKind, Place, Sample};
use crate::example::{Exchange, Shape};
use crate::text::Part;

/// Records that share a picture: the first asks for everything at once, the second for one attribute. Making files is what
/// takes the time, so two questions cost half as much as two pictures.
const PER_PICTURE: usize = 2;

/// What a record asks about its picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    /// Count, colour, shape and position in one answer.
    Describe,
    /// The shape alone.
    Shape,
    /// The colour alone.
    Colour,
    /// The count alone.
    Count,
    /// The position alone.
    Position,
}

impl Question {
    const SINGLE: [Self; 4] = [Self::Shape, Self::Colour, Self::Count, Self::Position];

    /// The question as the human's turn writes it, without the image marker.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Describe => "What is in the picture?",
            Self::Shape => "Which shape do you see?",
            Self::Colour => "Which colour is it?",
            Self::Count => "How many are there?",
            Self::Position => "Where in the picture?",
        }
    }

    /// The one right answer for a picture of `scene`.
    pub fn answer(self, scene: Scene) -> String {
        let noun = if scene.count == Count::One { scene.shape.word() } else { scene.shape.plural() };
        match self {
            Self::Describe => {
                format!("{} {} {noun} {}", scene.count.word(), scene.colour.word(), scene.position.word())
            }
            Self::Shape => scene.shape.word().to_owned(),
            Self::Colour => scene.colour.word().to_owned(),
            Self::Count => scene.count.word().to_owned(),
            Self::Position => scene.position.word().to_owned(),
        }
    }

    /// An answer that is wrong for a picture of `scene`.
    fn wrong(self, scene: Scene, rng: &mut impl Rng) -> String {
        let right = self.answer(scene);
        let scenes = Scene::all();
        loop {
            let other = self.answer(scenes[rng.random_range(0..scenes.len())]);
            if other != right {
                return other;
            }
        }
    }

    /// The question of the `turn`-th record of a picture.
    fn draw(turn: usize, rng: &mut impl Rng) -> Self {
        match turn {
            0 => Self::Describe,
            _ => Self::SINGLE[rng.random_range(0..Self::SINGLE.len())],
        }
    }
}

/// Where [`write_data`] put what it made.
#[derive(Clone, Debug, PartialEq)]
pub struct MadeData {
    /// Records to train on, LLaVA JSON.
    pub train_json: PathBuf,
    /// Held-out records, LLaVA JSON; no scene of theirs occurs in training.
    pub eval_json: PathBuf,
    /// The folder the records' image paths are relative to.
    pub images: PathBuf,
    /// The share of held-out records that would be answered exactly from the picture of another record drawn at random:
    /// what shuffling the images among the records must fall back to.
    pub chance: f64,
}

/// A picture before it is drawn.
#[derive(Clone)]
struct Picture {
    name: String,
    scene: Scene,
    seed: u64,
}

/// A record before it is written.
struct Record {
    id: String,
    picture: Picture,
    question: Question,
}

/// Makes `train` and `eval` records of the given kind under `dir`: `train.json` and `eval.json`, with 64×64 PNGs in `images/`
/// where the recipe sees, else with the pictures in words. Every two records share a picture.
///
/// The same arguments give the same bytes. Held-out records show combinations of shape, colour, count and position that no
/// training record shows ([`Scene::held_out`]); within each part, combinations are as evenly frequent as the number allows.
///
/// # Errors
/// [`MadeError::Io`] with the path that could not be written; [`MadeError::Setting`] when `train` or `eval` is 0;
/// [`MadeError::Kind`] for a kind that writes no rows.
pub fn write_data<K: DataKind>(
    dir: &Path,
    kind: &K,
    seed: u64,
    train: usize,
    eval: usize,
    sees: bool,
) -> Result<MadeData, MadeError> {
    for (field, records) in [("train", train), ("eval", eval)] {
        if records == 0 {
            return Err(MadeError::Setting { field, value: 0, expected: "at least 1 record" });
        }
    }
    let images = if sees { dir.join("images") } else { dir.to_owned() };
    std::fs::create_dir_all(&images).map_err(|source| MadeError::Io { path: images.clone(), source })?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let train = records("train", train, false, &mut rng);
    let eval = records("eval", eval, true, &mut rng);
    let firsts = train.iter().step_by(PER_PICTURE).chain(eval.iter().step_by(PER_PICTURE));
    let pictures: Vec<&Picture> = firsts.map(|record| &record.picture).collect();
    if sees {
        pictures.into_par_iter().try_for_each(|picture| write_picture(dir, picture))?;
    }
    let (train_json, eval_json) = (dir.join("train.json"), dir.join("eval.json"));
    write_records(&train_json, kind, &train, sees)?;
    write_records(&eval_json, kind, &eval, sees)?;
    Ok(MadeData { train_json, eval_json, images: dir.to_owned(), chance: chance(&eval) })
}

fn records(part: &str, count: usize, held_out: bool, rng: &mut ChaCha8Rng) -> Vec<Record> {
    pictures(part, count.div_ceil(PER_PICTURE), held_out, rng)
        .into_iter()
        .flat_map(|picture| std::iter::repeat_n(picture, PER_PICTURE))
        .take(count)
        .enumerate()
        .map(|(index, picture)| Record {
            id: format!("{part}-{index:05}"),
            picture,
            question: Question::draw(index % PER_PICTURE, rng),
        })
        .collect()
}

fn pictures(part: &str, count: usize, held_out: bool, rng: &mut ChaCha8Rng) -> Vec<Picture> {
    let mut scenes: Vec<Scene> = Scene::all().into_iter().filter(|scene| scene.held_out() == held_out).collect();
    (0..count)
        .map(|index| {
            let turn = index % scenes.len();
            if turn == 0 {
                scenes.shuffle(rng);
            }
            let name = format!("images/{part}-{index:05}.png");
            Picture { name, scene: scenes[turn], seed: rng.random() }
        })
        .collect()
}

impl Record {
    fn sample<K: DataKind>(&self, index: usize, sees: bool) -> Sample<K::Shape> {
        let scene = self.picture.scene;
        // A generator of its own: what other shapes need draws nothing from the pictures'.
        let mut rng = ChaCha8Rng::seed_from_u64(self.picture.seed ^ index as u64);
        let class = Colour::ALL.iter().position(|colour| *colour == scene.colour).unwrap_or_default();
        let exchange = Exchange {
            question: self.message(self.question, sees),
            right: self.question.answer(scene),
            wrong: self.question.wrong(scene, &mut rng),
            about: (self.message(Question::Colour, sees), class),
            odd: index % 2 == 1,
        };
        let (conversation, target) = <K::Shape as Shape>::made(&exchange);
        Sample {
            id: self.id.clone(),
            conversation,
            target,
            images: sees.then(|| self.picture.name.clone().into()).into_iter().collect(),
            dropped_leading: 0,
            place: Place::new(Path::new("made"), index + 1),
        }
    }

    /// The user's message: the picture, or its description, and a question about it.
    fn message(&self, question: Question, sees: bool) -> Vec<Part> {
        match sees {
            true => vec![Part::Image, Part::Text(format!("\n{}", question.text()))],
            false => {
                let seen = Question::Describe.answer(self.picture.scene);
                vec![Part::Text(format!("The picture shows {seen}. {}", question.text()))]
            }
        }
    }
}

fn write_picture(dir: &Path, picture: &Picture) -> Result<(), MadeError> {
    let pixels = picture.scene.draw(&mut ChaCha8Rng::seed_from_u64(picture.seed));
    let path = dir.join(&picture.name);
    let mut bytes = Vec::new();
    png::PngEncoder::new_with_quality(&mut bytes, png::CompressionType::Fast, png::FilterType::Sub)
        .write_image(&pixels, SIDE as u32, SIDE as u32, ExtendedColorType::Rgb8)
        .map_err(|source| MadeError::Png { path: path.clone(), source })?;
    write_file(&path, &bytes)
}

fn write_records<K: DataKind>(path: &Path, kind: &K, records: &[Record], sees: bool) -> Result<(), MadeError> {
    let rows: Option<Vec<Value>> = records
        .iter()
        .enumerate()
        .map(|(i, record)| kind.to_row(&record.sample::<K>(i, sees)).map(Value::Object))
        .collect();
    let list = Value::Array(rows.ok_or(MadeError::Kind { name: K::NAME })?);
    write_file(path, format!("{list:#}\n").as_bytes())
}

/// Mean over records of the share of the part's other pictures on which the record's question has the same answer.
fn chance(records: &[Record]) -> f64 {
    let mut scenes: BTreeMap<Scene, usize> = BTreeMap::new();
    for record in records {
        *scenes.entry(record.picture.scene).or_default() += 1;
    }
    let others = records.len().saturating_sub(1).max(1) as f64;
    let mut known: BTreeMap<(Question, Scene), f64> = BTreeMap::new();
    let agreement = |question: Question, scene: Scene| {
        let answer = question.answer(scene);
        let same: usize =
            scenes.iter().filter(|(other, _)| question.answer(**other) == answer).map(|(_, count)| count).sum();
        (same - 1) as f64 / others
    };
    let total: f64 = records
        .iter()
        .map(|record| {
            let key = (record.question, record.picture.scene);
            *known.entry(key).or_insert_with(|| agreement(record.question, record.picture.scene))
        })
        .sum();
    total / records.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::LlavaData;
    use std::collections::HashSet;

    fn scenes_of(part: &str, count: usize, held_out: bool) -> HashSet<Scene> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        records(part, count, held_out, &mut rng).into_iter().map(|record| record.picture.scene).collect()
    }

    fn read(path: &Path) -> Vec<Value> {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn no_held_out_scene_is_trained_on() {
        let train = scenes_of("train", 4000, false);
        let eval = scenes_of("eval", 240, true);
        assert!(train.is_disjoint(&eval));
        assert_eq!((train.len(), eval.len()), (384, 96));
    }

    #[test]
    fn the_folder_is_llava_json_with_a_picture_per_record_and_the_same_every_time() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let made = write_data(first.path(), &LlavaData::default(), 5, 40, 12, true).unwrap();
        let again = write_data(second.path(), &LlavaData::default(), 5, 40, 12, true).unwrap();
        let (train, eval) = (read(&made.train_json), read(&made.eval_json));
        assert_eq!((train.len(), eval.len()), (40, 12));
        for record in train.iter().chain(&eval) {
            let human = record["conversations"][0]["value"].as_str().unwrap();
            assert!(human.starts_with("<image>\n"), "{human}");
            let name = record["image"].as_str().unwrap();
            assert_eq!(image::image_dimensions(made.images.join(name)).unwrap(), (64, 64));
            let bytes = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert_eq!(bytes(&made.images), bytes(&again.images), "{name}");
        }
        assert_eq!(train, read(&again.train_json));
    }

    #[test]
    fn answers_say_what_is_drawn() {
        use super::super::pictures::{Colour, Position, Shape};
        let scene =
            Scene { shape: Shape::Cross, colour: Colour::Red, count: Count::Three, position: Position::TopLeft };
        assert_eq!(Question::Describe.answer(scene), "three red crosses at the top left");
        let one = Scene { count: Count::One, position: Position::Middle, ..scene };
        assert_eq!(Question::Describe.answer(one), "one red cross in the middle");
        assert_eq!(Question::Count.answer(one), "one");
    }

    #[test]
    fn chance_is_the_agreement_with_another_records_picture() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let made = records("eval", 960, true, &mut rng);
        let chance = chance(&made);
        // Half the records ask for everything (about 1/96), the others for one of 4, 6, 4 or 5 values.
        assert!((0.09..0.14).contains(&chance), "{chance}");
    }

    #[test]
    fn an_empty_part_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_data(dir.path(), &LlavaData::default(), 0, 0, 4, true).unwrap_err();
        assert_eq!(error.to_string(), "made data: `train` is 0; it must be at least 1 record");
    }
}
