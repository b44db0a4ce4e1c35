//! Measures the cost of a call to an environment program, besides the program's own work.
//!
//! `cargo bench -p polyphony-env --bench process_overhead`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use polyphony_env::Process;
use polyphony_episode::{Environment, JointAction, Response, Task};

/// A program that does no work of its own.
const PROGRAM: &str = r#"
import json, sys
for line in sys.stdin:
    call = json.loads(line)
    if call["call"] == "hello":
        answer = {"protocol": 1, "roles": [{"name": "a"}, {"name": "b"}], "reward_parts": ["x"]}
    else:
        answer = {"reward": {"x": 1.0}, "end": True}
    print(json.dumps({"id": call["id"], **answer}), flush=True)
"#;

fn process_overhead(criterion: &mut Criterion) {
    let program = Process::new(["python3", "-c", PROGRAM]);
    let environment = program.start().expect("the program starts");
    let task = Task::new("Ulm", [("town", "Ulm")]);
    let mut group = criterion.benchmark_group("process_overhead");
    for (name, characters) in [("short", 6), ("long", 2000)] {
        let texts = ["A", "1"].map(|text| text.repeat(characters));
        let action = JointAction::new(texts.map(Response::from_text).into());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                black_box(
                    environment
                        .step(&task, &[], &action)
                        .expect("the action is scored"),
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, process_overhead);
criterion_main!(benches);
