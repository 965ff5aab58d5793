//! The recipe as a program: `cargo run --release --bin pictures -- --model LLAMA --set vision.from=TOWER --data FILE`.

fn main() -> anyhow::Result<()> {
    firebrick_external::recipe().main()
}
