//! Preference training, rewards and classes as recipes.

use firebrick::prelude::*;

pub fn all() {
    let _ = experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Dpo<beta: 0.1>,
        data: PairsData,
        reference: AdapterOff,
    };
    let _ = experiment! {
        model: Llama,
        objective: DpoMargin,
        data: PairsMarginData,
        reference: Synced<every: 4, alpha: 0.5>,
    };
    // Pairs with margins are pairs.
    let _ = experiment! { model: Llama, objective: Ipo, data: PairsMarginData, reference: FrozenCopy };
    let _ = experiment! { model: Llama, objective: Simpo, data: PreferenceData };
    let _ = experiment! {
        model: Llama,
        adapter: Ia3,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: PairObjective<loss: ["sigmoid", "sft"]>,
        data: RlhfvData,
        reference: AnyReference,
    };
    let _ =
        experiment! { model: Llama, adapter: PrefixTuning, objective: Kto, data: UnpairedData, reference: AdapterOff };
    let _ = experiment! {
        model: Llama,
        objective: Classification<num_labels: 3>,
        data: ClassificationData,
        train: Train<learning_rate: 1e-4>,
    };
    let _ = experiment! { model: Llama, objective: RewardModelMargin, data: PreferenceMarginData };
    let _ = experiment! { model: Llama, objective: CostModel, data: SafetyData };
    let _ = experiment! { model: Llama, objective: ProcessReward, data: StepsData };
    let _ =
        experiment! { model: Llama, objective: RewardDistillation, data: PreferenceScoresData, reference: FrozenCopy };
    let _ = experiment! { model: Llama, objective: Gkd, data: ChatData, reference: FrozenCopy<from: "teacher"> };
    let _ = experiment! { model: Llama, objective: Dpo, data: PairsData, reference: Stored<path: "reference"> };
}
