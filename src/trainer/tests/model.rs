//! A small model of both towers, and a batch with an image, a text-only row and padding.

use crate::adapters::{Adapter, ChaCha8Rng, Start};
use crate::checkpoint::JsonFile;
use crate::data::{Batch, ImageSlot};
use crate::models::{LanguageModel, Llama, llama::LlamaForCausalLm};
use crate::nn::params::{self, NamedMapper, NamedVisitor};
use crate::projector::{Mlp2xGelu, Projector};
use crate::text::Tokenizer;
use crate::vision::{Clip, VisionEncoder};
use crate::vlm::Vlm;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;
use std::collections::BTreeMap;

pub(super) type Small = Vlm<LlamaForCausalLm, <Clip as VisionEncoder>::Model, <Mlp2xGelu as Projector>::Model>;

pub(super) fn device() -> Device {
    Device::flex().autodiff()
}

/// Four blocks behind a tower of three; token table and head are one where `tied`.
pub(super) fn small(tied: bool) -> Small {
    let device = device();
    let root = JsonFile::from_value(
        "config.json",
        json!({
            "model_type": "llava", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
            "text_config": {
                "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
                "num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 160, "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0, "tie_word_embeddings": tied, "hidden_act": "silu", "max_position_embeddings": 64
            },
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 40, "image_size": 28,
                "patch_size": 14, "num_attention_heads": 2, "num_hidden_layers": 3, "layer_norm_eps": 1e-5,
                "hidden_act": "quick_gelu"
            }
        }),
    );
    let root = root.fields().unwrap();
    let text = root.object("text_config").unwrap();
    let vision = root.object("vision_config").unwrap();
    let language_model = Llama::default().build(&text, &device).unwrap();
    let vision_tower = Clip::default().build(&vision, &root, &device).unwrap();
    let model = Vlm {
        vision_tower,
        multi_modal_projector: Mlp2xGelu::default().build(24, 32, &device).unwrap(),
        language_model,
        score: None,
        virtual_tokens: None,
    };
    params::map(model, &mut Fill(|_: &str| true))
}

/// Gives parameters values that follow from their names: a generator is shared with other tests' threads.
struct Fill<F>(F);

impl<F: Fn(&str) -> bool> NamedMapper for Fill<F> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !(self.0)(name) {
            return param;
        }
        let shape: [usize; D] = param.lazy_shape().dims();
        let mut state = name
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
        let middle = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            middle + ((state >> 40) as f32 / (1u32 << 24) as f32 - 0.5) * 0.3
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        let tensor = Tensor::from_data(TensorData::new(values, shape), &device());
        Param::initialized(param.id, tensor).set_require_grad(true)
    }
}

/// With an adapter, whose matrices are drawn so that none is zero; all of the base is frozen but the projector.
pub(super) fn tuned<A: Adapter>(adapter: &A, tied: bool) -> Small {
    let (mut model, device) = (small(tied), device());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    model.language_model = adapter.attach(model.language_model, "model.", &mut rng, &device).unwrap();
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/data/tokenizer");
    let tokenizer = Tokenizer::from_dir(tokenizer.as_ref()).unwrap();
    let start = Start::Fresh(&tokenizer);
    model.virtual_tokens = adapter.virtual_tokens(&model.language_model, start, &mut rng, &device).unwrap();
    // LoRA's B begins with zeros, which would leave A without a gradient.
    let model = params::map(model, &mut Fill(|name: &str| name.ends_with(".adapter.params.1")));
    params::set_trainable(model, |name| {
        (name.contains(".adapter.") && !name.contains(crate::nn::FIXED)) || name.starts_with("multi_modal_projector")
    })
}

/// Three rows: one with an image, one of text, one that is padded.
pub(super) fn batch() -> Batch {
    let (rows, length) = (3, 14);
    let at = |row: usize, position: usize| (row * 31 + position * 17) % 160;
    let ids = (0..rows).flat_map(|row| (0..length).map(move |position| at(row, position) as i32)).collect();
    let ends = vec![14, 14, 9];
    let supervised = (0..rows * length).map(|flat| flat % length >= 7 && flat % length < ends[flat / length]).collect();
    Batch {
        rows,
        rows_per_example: 1,
        line_of: Vec::new(),
        length,
        input_ids: ids,
        supervised,
        starts: vec![0; rows],
        ends,
        images: vec![ImageSlot { row: 0, start: 1, length: 5, image: 0 }],
        pixel_values: (0..3 * 28 * 28).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect(),
        image_size: (28, 28),
        places: Vec::new(),
        ids: vec![String::new(); rows],
        indices: vec![0; rows],
        facts: Vec::new(),
        mismatched: None,
    }
}

/// Every trained weight.
pub(super) fn weights(model: &Small) -> BTreeMap<String, Vec<f32>> {
    struct Collect(BTreeMap<String, Vec<f32>>);
    impl NamedVisitor for Collect {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.insert(name.to_owned(), param.val().into_data().try_to_vec().unwrap());
            }
        }
    }
    let mut collect = Collect(BTreeMap::new());
    params::visit(model, &mut collect);
    collect.0
}
