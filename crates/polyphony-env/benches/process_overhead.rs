//! What a call of a program costs beside the program's own work.
//!
//! `cargo bench -p polyphony-env --bench process_overhead`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use polyphony_env::Process;
use polyphony_episode::{Environment, JointAction, Response, Split};

const NUMBER_PLATE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/examples/process/number_plate.py"
);

fn process_overhead(criterion: &mut Criterion) {
    let program = Process::new(["python3", NUMBER_PLATE]);
    let game = program.start().expect("the example starts");
    let task = &game.tasks(Split::Train).expect("the example has tasks")[0];
    let mut group = criterion.benchmark_group("process_overhead");
    for (name, characters) in [("short", 6), ("long", 2000)] {
        let texts = ["A", "1"].map(|text| text.repeat(characters));
        let action = JointAction::new(texts.map(Response::from_text).into());
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(game.step(task, &[], &action).expect("the game is scored")));
        });
    }
    group.finish();
}

criterion_group!(benches, process_overhead);
criterion_main!(benches);
