//! What is typed wrongly ends with 2, whatever the program; what is wrong with files with 1.

use super::Program::{Chat, Convert, DryRun, Merge, Score};
use super::program::check_options;

#[test]
fn wrong_options_end_with_2() {
    check_options(DryRun, &["--set", "train.learning_rate=NaN"], 2, &["train.learning_rate", "NaN"]);
    check_options(DryRun, &["--set", "train.learning_rate=1e999"], 2, &["train.learning_rate"]);
    check_options(DryRun, &["--set", "adapter.r=1000000000000"], 2, &["adapter.r", "from 1 to"]);
    check_options(DryRun, &["--set", "=1"], 2, &["--set"]);
    check_options(DryRun, &["--max-steps", "99999999999999999999"], 2, &["--max-steps"]);
    check_options(DryRun, &["--config", "nowhere.json"], 2, &["nowhere.json"]);
    for program in [Score, Chat, Convert, Merge] {
        check_options(program, &["--nonsense"], 2, &["--nonsense"]);
    }
    for program in [Score, Chat, Merge] {
        check_options(program, &["--device", "tpu"], 2, &["tpu", "cuda"]);
    }
    for program in [Score, Chat] {
        check_options(program, &["--template", "nonsense"], 2, &["nonsense", "v1"]);
    }
    check_options(Merge, &["--template", "v1"], 2, &["--template v1", "would do nothing"]);
}

#[test]
fn wrong_files_end_with_1() {
    check_options(DryRun, &["--model", "nowhere"], 1, &["nowhere", "no such folder"]);
    check_options(Score, &["--model", "model/config.json"], 1, &["config.json", "is not a folder"]);
    check_options(Score, &["--images", "nowhere"], 1, &["nowhere"]);
    check_options(Score, &["--output", "no/such/folder/out.jsonl"], 1, &["no/such/folder"]);
    check_options(Score, &["--adapter", "nowhere"], 1, &["nowhere"]);
    check_options(Convert, &["--output", "model"], 1, &["model", "holds something already", "name another place"]);
    check_options(Merge, &["--output", "adapter"], 1, &["adapter", "holds something already", "name another place"]);
}
