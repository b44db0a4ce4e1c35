//! temp
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
use burn::tensor::Device;
use polyphony_model::*;
use std::time::Instant;
fn main() {
    let files = ModelFiles::open(std::path::Path::new(&std::env::args().nth(1).unwrap())).unwrap();
    let device = Device::flex();
    let t = Instant::now();
    let model = LanguageModel::load(&files, &device).unwrap();
    println!("load {:?}", t.elapsed());
    let prompt: Vec<u32> = (0..150).map(|i| 1000 + i * 37).collect();
    for rows in [1usize, 4, 8, 16] {
        let t = Instant::now();
        let config = GenerationConfig { sampling: Sampling::default(), max_new_tokens: 64, stop_tokens: vec![] };
        let mut first = None;
        let out = generate(&model, &[PromptGroup { prompt: &prompt, samples: rows, key: StreamKey::default() }], &config, &mut |_| { first.get_or_insert_with(|| t.elapsed()); }).unwrap();
        let total = t.elapsed();
        let dec = total - first.unwrap();
        println!("rows {rows}: prefill {:?} decode {:?} per pass {:?} tokens/s {:.1}", first.unwrap(), dec, dec / 63, (rows * 63) as f64 / dec.as_secs_f64());
        if rows == 4 || rows == 8 {
            let train = model.trainable();
            let g = PackedGroup::new(&prompt, out[0].iter().map(|o| o.tokens.as_slice()).collect());
            for _ in 0..2 {
            let t = Instant::now();
            let l = score_group(&train, &g, 1.0).unwrap();
            let f = t.elapsed();
            let loss = l.sum();
            let t = Instant::now();
            let _g = loss.backward();
            println!("train rows {rows}: forward {:?} backward {:?}", f, t.elapsed());
            }
        }
    }
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", s.lines().find(|l| l.starts_with("VmHWM")).unwrap());
}
