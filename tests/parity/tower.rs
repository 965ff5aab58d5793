//! A CLIP that stands alone, whole or as its vision half, at every depth.

use super::case::{Largest, PIXEL, Reference, STATE, device, fixtures, load};
use burn::tensor::{Tensor, TensorData};
use firebrick::image::decode;
use firebrick::projector::Mlp2xGelu;
use firebrick::vision::{Clip, VisionTower};

fn clip(folder: &str) -> Clip {
    let folder = fixtures().join("clip_plain").join(folder);
    Clip { from: Some(folder.display().to_string()), ..Clip::default() }
}

#[test]
fn hidden_states_at_every_depth() {
    let reference = Reference::open("clip_plain");
    let expected = |name: &str| reference.tensor(name).unwrap();
    let picture = decode(&fixtures().join("records/images").join(reference.json["image"].as_str().unwrap())).unwrap();
    let states = reference.json["num_hidden_states"].as_u64().unwrap() as usize;
    for folder in ["model", "model_vision"] {
        let mut largest = Largest::new(format!("clip_plain/{folder}"), STATE);
        for depth in 0..states {
            let vision =
                Clip { select_layer: Some(depth as i64), select_feature: Some("cls_patch".to_owned()), ..clip(folder) };
            let text = fixtures().join("llama_text/model");
            let (loaded, encoder) = load(&text, &vision, &Mlp2xGelu::default(), &device());
            let image = encoder.image.unwrap();
            let pixels = image.processor.preprocess(&picture);
            Largest::new("clip_plain, pixels", PIXEL).check_all(&folder, &pixels, &expected("pixel_values"), 1.0);
            let (h, w) = image.processor.crop_size();
            let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, h, w]), &device());
            let tower = &loaded.model.vision_tower;
            let all = tower.hidden_states(pixels.clone(), depth);
            let wanted = expected(&format!("hidden_states.{depth}"));
            for state in [tower.encode(pixels), all[depth].clone()] {
                largest.check_all(&depth, &state.into_data().iter::<f32>().collect::<Vec<_>>(), &wanted, 1.0);
            }
            assert_eq!(image.tokens_per_image, wanted.len() / tower.width());
        }
    }
}

/// Published checkpoints carry the dropout of their own training; it is no part of what they compute here.
#[test]
fn a_checkpoints_own_dropout_is_no_obstacle() {
    let (from, to) = (fixtures().join("clip_plain/model_vision"), tempfile::tempdir().unwrap());
    for file in std::fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    let path = to.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let changed = config.replace(r#""attention_dropout": 0.0"#, r#""attention_dropout": 0.1"#);
    assert_ne!(changed, config);
    std::fs::write(&path, changed).unwrap();
    let vision = Clip { from: Some(to.path().display().to_string()), ..Clip::default() };
    load(&fixtures().join("llama_text/model"), &vision, &Mlp2xGelu::default(), &device());
}
