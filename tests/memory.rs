//! The memory plan against what a step takes, counted allocation by allocation.

use burn::tensor::Device;
use firebrick::adapters::{Adapter, Lora};
use firebrick::checkpoint::JsonFile;
use firebrick::data::Batch;
use firebrick::device::{DeviceRequest, choose};
use firebrick::models::{CausalLm, LanguageModel, Llama};
use firebrick::nn::params::{self, ParamInfo};
use firebrick::objectives::{Sft, StepTotals};
use firebrick::projector::{NoProjector, Projector};
use firebrick::recipe::memory::{Batch as Shape, Hints, Known, MemoryPlan};
use firebrick::settings::{Resolver, Section};
use firebrick::trainer::{Anchor, Optim, Others, Stepper, Train};
use firebrick::vision::{NoVision, VisionEncoder};
use firebrick::vlm::Vlm;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;
use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which counts what lives.
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        add(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// By how much of what was counted a prediction may be off: the promise of the plan.
const TOLERANCE: f64 = 0.15;

/// Steps of a case: the moments are there from the second one on.
const STEPS: usize = 2;

/// Set in the process that counts: the counts of another test would join those of this one.
const CHILD: &str = "FIREBRICK_TEST_MEMORY";

#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    width: usize,
    layers: usize,
    vocabulary: usize,
    rows: usize,
    length: usize,
    /// Of each row, the positions that are learned.
    supervised: usize,
    lora: bool,
    micro: usize,
    /// Settings of `train`, as after `--set`.
    set: &'static [&'static str],
}

const FULL: Case = Case {
    name: "full, dense",
    width: 128,
    layers: 3,
    vocabulary: 1000,
    rows: 4,
    length: 256,
    supervised: 255,
    lora: false,
    micro: 1,
    set: &[],
};

const ADAPTER: Case = Case { name: "adapter, dense", lora: true, ..FULL };

const HEAVY: Case = Case {
    name: "full, more weights than tokens",
    width: 256,
    layers: 2,
    vocabulary: 8000,
    rows: 1,
    length: 64,
    supervised: 63,
    ..FULL
};

const AGAIN: &str = "train.gradient_checkpointing=true";

const CASES: &[Case] = &[
    FULL,
    Case { name: "full, sparse", supervised: 16, ..FULL },
    HEAVY,
    Case { name: "full, two micro-batches", rows: 2, length: 128, supervised: 60, micro: 2, ..HEAVY },
    ADAPTER,
    Case {
        name: "adapter, sparse, long",
        layers: 4,
        vocabulary: 4000,
        rows: 1,
        length: 1024,
        supervised: 100,
        ..ADAPTER
    },
    Case { name: "full, blocks run again", layers: 6, set: &[AGAIN], ..FULL },
    Case {
        name: "adapter, every second block run again",
        layers: 6,
        set: &[AGAIN, "train.gradient_checkpointing_every=2"],
        ..ADAPTER
    },
    Case { name: "full, moments in 8 bits", set: &["train.optim=adamw_8bit"], ..HEAVY },
    Case {
        name: "full, optimizer in the backward walk",
        layers: 8,
        vocabulary: 1000,
        set: &[AGAIN, "train.optimizer_in_backward=true", "train.max_grad_norm=0", "train.optim=adamw_8bit"],
        ..HEAVY
    },
];

#[test]
fn a_plan_is_within_its_promise_of_what_is_counted() {
    let Ok(name) = std::env::var(CHILD) else {
        for case in CASES {
            let counted = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "memory::a_plan_is_within_its_promise_of_what_is_counted", "--nocapture"])
                .env(CHILD, case.name)
                .env("RAYON_NUM_THREADS", "2")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&counted.stdout).into_owned();
            println!("{}", text.lines().find(|line| line.contains("counted")).unwrap_or_default());
            assert!(counted.status.success(), "{}: {text}{}", case.name, String::from_utf8_lossy(&counted.stderr));
        }
        return;
    };
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let (planned, counted) = (planned(case), counted(case));
    println!("{}: planned {planned}, counted {counted}, {:.3}", case.name, planned as f64 / counted as f64);
    assert!(
        (planned as f64 / counted as f64 - 1.0).abs() < TOLERANCE,
        "{case:?}: planned {planned}, counted {counted}"
    );
}

type Model =
    Vlm<<Llama as LanguageModel>::Model, <NoVision as VisionEncoder>::Model, <NoProjector as Projector>::Model>;

fn model(case: &Case, device: &Device) -> Model {
    let config = json!({
        "model_type": "llama", "vocab_size": case.vocabulary, "hidden_size": case.width, "head_dim": 32,
        "intermediate_size": case.width * 11 / 4, "num_hidden_layers": case.layers,
        "num_attention_heads": case.width / 32, "num_key_value_heads": case.width / 64,
        "max_position_embeddings": 4096, "tie_word_embeddings": false,
    });
    let file = JsonFile::from_value("config.json", config);
    let fields = file.fields().unwrap();
    let mut language_model = Llama::default().build(&fields, device).unwrap();
    if case.lora {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        language_model = Lora::default().attach(language_model, "model.", &mut rng, device).unwrap();
    }
    Vlm {
        vision_tower: NoVision::default().build(&fields, &fields, device).unwrap(),
        multi_modal_projector: NoProjector::default().build(0, case.width, device).unwrap(),
        language_model,
        score: None,
        virtual_tokens: None,
    }
}

fn trained(case: &Case, name: &str) -> bool {
    !case.lora || name.contains(".adapter.")
}

fn planned(case: &Case) -> usize {
    let model = model(case, &choose(DeviceRequest::Cpu).unwrap().device.autodiff());
    let language_model = &model.language_model;
    let hints = Hints {
        width: language_model.hidden_size(),
        vocabulary: language_model.vocab_size(),
        heads: language_model.num_attention_heads(),
        key_width: language_model.num_key_value_heads() * language_model.head_dim(),
        layers: language_model.num_layers(),
        ..Hints::default()
    };
    let batch =
        Shape { rows: case.rows, length: case.length, supervised: case.rows * case.supervised, ..Shape::default() };
    let settings = settings(case);
    MemoryPlan::new(&Known {
        parameters: &params::list(&model),
        trained: &|name| trained(case, name),
        weight: &|p: &ParamInfo| p.len() * 4,
        hints,
        batch,
        accumulates: case.micro > 1,
        evaluation: None,
        beside: Default::default(),
        optim: Optim::of(&settings),
        recompute: settings.recompute(),
        in_backward: settings.optimizer_in_backward,
        base: 0,
        queued: 0,
        threads: 2,
    })
    .live()
}

/// The most that lived at a time over what was there before.
fn counted(case: &Case) -> usize {
    let device = choose(DeviceRequest::Cpu).unwrap().device.autodiff();
    // What threads keep for their kernels, and tables that are made once, are none of a step's.
    train(case, &device);
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    train(case, &device);
    PEAK.load(Ordering::Relaxed) - before
}

fn train(case: &Case, device: &Device) {
    let model = params::set_trainable(model(case, device), |name| trained(case, name));
    let tokens = case.rows * case.length;
    let batch = Batch {
        rows: case.rows,
        rows_per_example: 1,
        length: case.length,
        input_ids: (0..tokens).map(|i| (i * 7 % case.vocabulary) as i32).collect(),
        supervised: (0..tokens).map(|i| i % case.length >= case.length - case.supervised).collect(),
        starts: vec![0; case.rows],
        ends: vec![case.length; case.rows],
        ..Batch::default()
    };
    let totals = StepTotals {
        examples: case.rows * case.micro,
        tokens: batch.supervised_by_place().iter().map(|tokens| tokens * case.micro).collect(),
        training: true,
    };
    let others = Others { anchor: Anchor::None, observer: None };
    let mut stepper = Stepper::new(Sft::default(), settings(case), model, others, device.clone());
    let batches = vec![batch; case.micro];
    for _ in 0..STEPS {
        stepper = rayon::scope(|_| stepper.step(&batches, &totals, 1.0)).unwrap().0;
    }
    assert_eq!(stepper.done, STEPS);
}

fn settings(case: &Case) -> Train {
    let set: Vec<String> = case.set.iter().map(|setting| (*setting).to_owned()).collect();
    let resolved = Resolver::new(vec![Section::of::<Train>("train")]).command_line(&set).unwrap().finish();
    resolved.section("train").unwrap()
}
