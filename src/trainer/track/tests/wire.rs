//! Our bytes against those of TensorBoard's own writer.

use super::super::event::{Event, Picture, Scalar, Value};
use super::super::records::frame;
use super::{fixture, reader};
use prost::Message;

const WALL_TIME: f64 = 1_760_000_000.25;

/// What `tests/parity/gen/tensorboard_events.py` writes.
fn events() -> Vec<Event> {
    let number = Scalar { number: Some(2e-4), ..Scalar::default() };
    let text = Scalar { text: Some("shuffled".to_owned()), ..Scalar::default() };
    let bool = Scalar { bool: Some(false), ..Scalar::default() };
    let hparams = [("train.sampler", text), ("train.learning_rate", number), ("train.bf16", bool)];
    let hparams = hparams.map(|(key, value)| (key.to_owned(), value)).into();
    let picture = Picture { width: 3, height: 2, encoded: std::fs::read(fixture("picture.png")).unwrap() };
    let summary = |step, values| Event::summary(WALL_TIME, step, values);
    vec![
        Event::version(WALL_TIME),
        Event::session_start(WALL_TIME, 7),
        summary(
            0,
            vec![
                Value::text("settings/text_summary", "| setting |\n|---|\n| größer |\n".to_owned()),
                Value::hparams_start(hparams, "run-1".to_owned(), WALL_TIME),
            ],
        ),
        summary(
            1_000_000,
            vec![
                Value::scalar("train/loss", 1.5),
                Value::scalar("train/zero", 0.0),
                Value::scalar("train/grad_norm", f32::NEG_INFINITY),
            ],
        ),
        summary(3, vec![Value::image("samples/01/picture", picture, "a *caption*".to_owned())]),
        summary(9, vec![Value::hparams_end(1, WALL_TIME)]),
    ]
}

#[test]
fn the_bytes_are_tensorboards_own() {
    let theirs = std::fs::read(fixture("events.tfrecord")).unwrap();
    let (records, rest) = reader::records(&theirs);
    let events = events();
    assert_eq!((records.len(), rest.len()), (events.len(), 0));
    let mut ours = Vec::new();
    for (event, theirs) in events.iter().zip(records) {
        let bytes = event.encode_to_vec();
        assert_eq!(bytes, theirs, "{event:?}");
        assert_eq!(Event::decode(theirs.as_slice()).unwrap(), *event);
        frame(&bytes, &mut ours);
    }
    assert_eq!(ours, theirs);
}
