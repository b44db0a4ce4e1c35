//! Tests of recipes: which are read, which are refused, and with which messages.

use std::collections::BTreeSet;

use polyphony_marl::{AlgorithmSettings, LongPrompts};
use polyphony_model::LoraConfig;
use polyphony_runner::{Choice, Recipe, RegisteredRecipe, TeamModels};

use crate::standard::registry;

fn shipped() -> Vec<RegisteredRecipe> {
    registry().recipes().collect()
}

fn text() -> &'static str {
    shipped()[0].text
}

fn load(overrides: &[&str]) -> Result<Recipe, String> {
    let overrides: Vec<String> = overrides.iter().map(|&change| change.to_owned()).collect();
    Recipe::load(&registry(), None, &overrides).map_err(|error| format!("{error:#}"))
}

fn algorithm(recipe: &Recipe) -> Box<dyn AlgorithmSettings> {
    let resolved = registry().read_algorithm(&recipe.algorithm);
    resolved.unwrap().settings
}

/// The error for the default recipe's text with `from` replaced by `to`, read from a file.
fn refused(from: &str, to: &str) -> String {
    assert!(text().contains(from), "the default recipe has no `{from}`");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.ron");
    std::fs::write(&path, text().replacen(from, to, 1)).unwrap();
    let error = Recipe::load(&registry(), path.to_str(), &[]).unwrap_err();
    format!("{error:#}").replace(path.to_str().unwrap(), "mine.ron")
}

#[test]
fn shipped_recipes_load_and_survive_being_written_and_read() {
    assert_eq!(shipped()[0].name, "tldr-smollm2");
    for recipe in shipped() {
        let loaded = Recipe::load(&registry(), Some(recipe.name), &[]).unwrap();
        assert_eq!(
            Recipe::from_ron(&registry(), &loaded.to_ron()).unwrap(),
            loaded,
            "{}",
            recipe.name
        );
        for source in [loaded.train, loaded.held_out].into_iter().flatten() {
            // Other data sets are files that the user has to download.
            if source.name() == "Embedded" {
                let tasks = registry().read_source(&source).unwrap().settings.load();
                assert!(!tasks.unwrap().is_empty());
            }
        }
    }
}

#[test]
fn errors_in_a_file_name_the_place_and_the_way_out() {
    let line = |needle: &str| {
        1 + text()
            .lines()
            .position(|line| line.contains(needle))
            .unwrap()
    };
    let rows = [
        (
            ("samples: 8", "sampels: 8"),
            format!(
                "reading mine.ron: line {}, column 9: there is no key `sampels` in Magrpo; did \
                 you mean `samples`? Known here: samples, joint_mode, ",
                line("samples: 8")
            ),
        ),
        (
            ("    steps: ", "    step: "),
            format!(
                "reading mine.ron: line {}, column 5: there is no key `step` in a recipe; did you \
                 mean `steps`? Known here: seed, environment, ",
                line("    steps: ")
            ),
        ),
        (
            ("environment: Tldr", "environment: TLDR"),
            format!(
                "reading mine.ron: line {}, column 18: this program has no environment `TLDR`; did you mean \
                 `Tldr`? Known here: Tldr, Arxiv, Coding, Process, SingleAgent",
                line("environment: ")
            ),
        ),
        (
            ("\"smollm2-135m\"", "smollm2"),
            format!(
                "reading mine.ron: line {}, column 18: expected a text in double quotes, such as \
                 \"smollm2-135m\"",
                line("team: ")
            ),
        ),
        (
            ("samples: 8", "samples: 2.5"),
            format!(
                "reading mine.ron: line {}, column 19: expected a whole number",
                line("samples: 8")
            ),
        ),
        (
            (
                "team: Copies(\"smollm2-135m\")",
                "team: Each([\"smollm2-135m\")",
            ),
            "expected a comma or a closing bracket here; texts need double quotes".to_owned(),
        ),
        (
            ("samples: 8", "samples: many"),
            format!("reading mine.ron: line {}, column 18: ", line("samples: 8")),
        ),
        (
            ("environment: Tldr,", ""),
            "the key `environment` is missing".to_owned(),
        ),
        (
            ("seed: 1,", "seed: 1, seed: 2,"),
            "the key `seed` is given twice".to_owned(),
        ),
        (
            ("samples: 8", "samples: 1"),
            "checking mine.ron: `algorithm.samples` is 1, but must be from 2 to 4096, since a \
             response is compared with the others of its group (1 only with `baseline: Zero`)"
                .to_owned(),
        ),
    ];
    for ((from, to), expected) in rows {
        let message = refused(from, to);
        assert!(
            message.contains(&expected),
            "{to}: {message}\nlacks: {expected}"
        );
    }
}

#[test]
fn a_comment_does_not_mislead_the_place_of_a_choice() {
    let rows = [
        // The text to replace, its replacement, and the error: lines below the start of the text, column, message.
        (
            "environment: Tldr,",
            "// environment: TLDR,\n    /* TLDR */ environment: /* TLDR */ TLDR,",
            (1, 40, "this program has no environment `TLDR`"),
        ),
        (
            "environment: Tldr,",
            "environment: SingleAgent( // So is not Tldr\n        So),",
            (1, 9, "this program has no environment `So`"),
        ),
        (
            "held_out: Embedded(TldrHeldOut),",
            "held_out: /* Embeded(TldrHeldOut) */ Embeded(TldrHeldOut),",
            (0, 42, "this program has no kind of data set `Embeded`"),
        ),
        (
            "held_out: Embedded(TldrHeldOut),",
            "// Embedded(Tldr)\n    held_out: Embedded(/* (Tldr) */ Tldr),",
            (1, 37, "there is no choice `Tldr`"),
        ),
        (
            "held_out: Embedded(TldrHeldOut),",
            "held_out: File,",
            (0, 15, "the key `path` is missing"),
        ),
        (
            "environment: Tldr,",
            "// Process(comand: 1)\n    environment: Process(/* comand */ command: [\"comand\"], comand: 1),",
            (1, 60, "there is no key `comand` in Process"),
        ),
    ];
    for (from, to, (below, column, reason)) in rows {
        let before = text().split(from).next().unwrap();
        let line = 1 + before.matches('\n').count() + below;
        let message = refused(from, to);
        let expected = format!("reading mine.ron: line {line}, column {column}: {reason}");
        assert!(
            message.starts_with(&expected),
            "{to}: {message}\nlacks: {expected}"
        );
    }
}

#[test]
fn an_unknown_recipe_lists_the_names_that_exist() {
    let error = Recipe::load(&registry(), Some("tldr"), &[])
        .unwrap_err()
        .to_string();
    let start = "`tldr` is neither a recipe that ships with this program (tldr-smollm2, tldr-smollm2-single-agent, ";
    assert!(error.starts_with(start), "{error}");
    let end = ") nor a file that exists; did you mean `tldr-qwen3`?";
    assert!(error.ends_with(end), "{error}");
    assert!(
        shipped().iter().all(|recipe| error.contains(recipe.name)),
        "{error}"
    );
    let renamed = Recipe::load(&registry(), Some("tldr-qwen3-solo"), &[]);
    let error = renamed.unwrap_err().to_string();
    let end = "did you mean `tldr-qwen3-single-agent`?";
    assert!(error.ends_with(end), "{error}");
}

#[test]
fn values_out_of_range_name_their_path_and_the_range() {
    let rows = [
        (
            "algorithm.samples=1",
            "`algorithm.samples` is 1, but must be from 2 to 4096",
        ),
        (
            "algorithm.discount=1.5",
            "`algorithm.discount` is 1.5, but must be from 0 to 1",
        ),
        (
            "updates.learning_rate=-1e-5",
            "`updates.learning_rate` is -0.00001, but must be above 0",
        ),
        (
            "updates.minibatch=0",
            "`updates.minibatch` is 0, but must be at least 1",
        ),
        (
            "sampling.top_p=1.5",
            "`sampling.top_p` is 1.5, but must be above 0 and at most 1",
        ),
        (
            "sampling.temperature=-1",
            "`sampling.temperature` is -1, but must be 0 (greedy) or",
        ),
        (
            "sampling.top_k=0",
            "`sampling.top_k` is 0, but must be at least 1",
        ),
        (
            "max_new_tokens=0",
            "`max_new_tokens` is 0, but must be from 1 to 16777216",
        ),
        ("steps=0", "`steps` is 0, but must be from 1 to 4294967294"),
        (
            "evaluation.tasks=0",
            "`evaluation.tasks` is 0, but must be at least 1",
        ),
        (
            "evaluation.samples=0",
            "`evaluation.samples` is 0, but must be from 1 to 4096",
        ),
        (
            "evaluation.samples=18446744073709551615",
            "`evaluation.samples` is 18446744073709551615, but must be from 1 to 4096",
        ),
        (
            "fine_tuning=Lora(rank: 0)",
            "`fine_tuning.rank` is 0, but must be at least 1",
        ),
        ("team=Copies(\"\")", "`team` holds an empty name"),
    ];
    for (change, expected) in rows {
        let message = load(&[change]).unwrap_err();
        let checked = format!("checking recipe `tldr-smollm2` with --set {change}: ");
        assert!(message.starts_with(&checked), "{message}");
        assert!(
            message.contains(expected),
            "{change}: {message}\nlacks: {expected}"
        );
    }
}

#[test]
fn a_mismatch_with_the_environment_is_refused_before_models_are_searched() {
    let rows = [
        (
            "team=Each([\"a\"])",
            "`team` lists 1 model, but must list 2, one for each role of tldr: summarizer, elaborator",
        ),
        (
            "devices=Each([Cpu])",
            "`devices` lists 1 device, but must list 2, one for each role of tldr: summarizer, elaborator",
        ),
        (
            "algorithm.samples=300",
            "`algorithm.samples` is 300 with `joint_mode: Cross` for 2 roles and 1 turns, but must be",
        ),
        (
            "updates.learning_rates={\"writer\": 1e-5}",
            "`updates.learning_rates` names `writer`, but the agents are called summarizer, elaborator",
        ),
    ];
    for (change, expected) in rows {
        let recipe = Recipe::load(&registry(), None, &[change.to_owned()]).unwrap();
        let environment = registry().build_environment(&recipe.environment).unwrap();
        let outcome = recipe.validate_for(
            &registry(),
            algorithm(&recipe).as_ref(),
            environment.as_ref(),
        );
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }
}

#[test]
fn overrides_change_what_they_name_and_nothing_else() {
    let default = load(&[]).unwrap();
    type Row<'a> = (&'a [&'a str], fn(&mut Recipe));
    let rows: &[Row] = &[
        (&["steps=5"], |recipe| recipe.steps = 5),
        (&["updates.learning_rate=2e-6"], |recipe| {
            recipe.updates.learning_rate = 2e-6
        }),
        (&["sampling.top_k=50"], |recipe| {
            recipe.sampling.top_k = Some(50)
        }),
        (&["sampling.top_k=Some(7)"], |recipe| {
            recipe.sampling.top_k = Some(7)
        }),
        (&["updates.weight_decay=1"], |recipe| {
            recipe.updates.weight_decay = 1.0
        }),
        (&["long_prompts=Skip", " seed = 9 "], |recipe| {
            recipe.long_prompts = LongPrompts::Skip;
            recipe.seed = 9;
        }),
        (&["team=Each([\"a\", \"./b\"])"], |recipe| {
            recipe.team = TeamModels::Each(vec!["a".into(), "./b".into()]);
        }),
        (
            &[
                "train=File(path: \"a.jsonl\", fields: {\"post\": \"body\"})",
                "train.path=\"b.jsonl\"",
            ],
            |recipe| {
                let file = "File(path: \"b.jsonl\", fields: {\"post\": \"body\"})";
                let file = registry().read_source(&Choice::from_ron(file).unwrap());
                recipe.train = Some(file.unwrap().choice);
            },
        ),
    ];
    for (overrides, change) in rows {
        let mut expected = default.clone();
        change(&mut expected);
        assert_eq!(load(overrides).unwrap(), expected, "{overrides:?}");
    }
}

#[test]
fn a_setting_of_the_environment_is_found_by_its_last_name() {
    for name in ["coop-smollm2", "coop-smollm2-single-agent"] {
        let error = Recipe::load(&registry(), Some(name), &["turns=2".to_owned()]).unwrap_err();
        let message = format!("{error:#}");
        let expected = "there is no key `turns`; did you mean `environment.settings.turns`?";
        assert!(message.ends_with(expected), "{message}");
    }
}

#[test]
fn a_wrong_override_is_named_with_what_would_be_right() {
    let rows = [
        ("steps", "--set steps: expected path=value, such as"),
        (
            "algorithm.sampels=4",
            "--set algorithm.sampels=4: there is no key `sampels` in `algorithm`; did you mean \
             `samples`? Known here: samples, joint_mode",
        ),
        (
            "updates.max_gradient_norm=2.0",
            "there is no key `max_gradient_norm` in `updates`; it is now called `max_grad_norm`. Known here: ",
        ),
        (
            "updates.max_nonfinite=2",
            "there is no key `max_nonfinite` in `updates`; it is now called `max_skipped_updates`.",
        ),
        (
            "rollout_weights=Full",
            "there is no key `rollout_weights`; it is now called `precision`.",
        ),
        (
            "environment=Solo(Tldr)",
            "this program has no environment `Solo`; it is now called `SingleAgent`. Known here: ",
        ),
        (
            "algoritm.samples=4",
            "there is no key `algoritm`; did you mean `algorithm`?",
        ),
        (
            "learning_rate=4",
            "there is no key `learning_rate`; did you mean `updates.learning_rate`?",
        ),
        (
            "seed=-1",
            "`seed` cannot be -1: expected a whole number that is neither below 0 nor too large",
        ),
        (
            "algorithm.objective=Clipped",
            "expected round brackets with `key: value` pairs; docs/recipes.md lists the keys",
        ),
        (
            "algorithm.kl=0.1",
            "`algorithm.kl` cannot be 0.1: expected the name of a choice",
        ),
        (
            "fine_tuning=Lora(rank=8)",
            "`Lora(rank=8)` is not a RON value: line 1, column 10: expected a comma or a closing bracket",
        ),
        (
            "evaluation=(tasks: 33",
            "`(tasks: 33` is not a RON value: line 1, column 11: expected a comma or a closing bracket",
        ),
        (
            "train=posts.jsonl",
            "`posts.jsonl` is not a RON value: texts need double quotes",
        ),
        (
            "devices=cuda:1",
            "`cuda:1` is not a RON value: texts need double quotes, and numbers of devices need brackets, as in \
             team=Copies(\"my-model\") and devices=Same(Cuda(1))",
        ),
        (
            "team=Copies(smollm2-135m)",
            "expected a comma or a closing bracket here; texts need double quotes",
        ),
        (
            "samples=4",
            "there is no key `samples`; did you mean `algorithm.samples` or `evaluation.samples`?",
        ),
        (
            "seed.start=4",
            "`seed` is 1, which has no keys: set `seed` as a whole",
        ),
        (
            "train.path=\"x\"",
            "`train` is Embedded(TldrTrain), which has no keys",
        ),
        (
            "environment=Coding(settings: (turns: 0))",
            "found 0, but it must be at least 1",
        ),
        (
            "algorithm.samples=-4",
            "--set algorithm.samples=-4: `algorithm.samples` cannot be -4: ",
        ),
        (
            "algorithm.samples=2.5",
            "`algorithm.samples` cannot be 2.5: expected a whole number",
        ),
        (
            "steps=1.5",
            "`steps` cannot be 1.5: expected a whole number",
        ),
        (
            "evaluation=(smaples: 3)",
            "there is no key `smaples` in `evaluation`; did you mean `samples`?",
        ),
        (
            "algorithm.samples=eight",
            "`algorithm.samples` cannot be eight: expected a whole number",
        ),
        (
            "updates.learning_rate=fast",
            "`updates.learning_rate` cannot be fast: expected a number",
        ),
        (
            "algorithm.mask_truncated=1",
            "`algorithm.mask_truncated` cannot be 1: expected true or false",
        ),
        (
            "team=\"smollm2-135m\"",
            "expected the name of a choice or of a key, without quotes, as in Copies(\"smollm2-135m\") and \
             Linear(last: 0.0); docs/recipes.md lists them",
        ),
        (
            "updates.schedule=Linear(0.0)",
            "expected the name of a choice or of a key",
        ),
        (
            "environment=Coding(settings: (feedback: ExpertEdits(base_url: \"x\")))",
            "expected another pair of round brackets here, as in ExpertEdits((…))",
        ),
        (
            "algorithm.advantage_scale=StandardDeviation",
            "expected round brackets with `key: value` pairs",
        ),
        (
            "algorithm.wombats=4",
            "there is no key `wombats` in `algorithm`; known here: samples",
        ),
        (
            "algorithm.samples=4, discount: 0.5",
            "`4, discount: 0.5` is not a RON value",
        ),
        (
            "environment=Tdlr",
            "this program has no environment `Tdlr`; did you mean `Tldr`?",
        ),
        ("team=Copies(smollm2)", "expected a text in double quotes"),
        (
            "algorithm=Magrpo(sampels: 3)",
            "there is no key `sampels` in Magrpo; did you mean `samples`?",
        ),
    ];
    for (change, expected) in rows {
        let message = load(&[change]).unwrap_err();
        assert!(
            message.contains(expected),
            "{change}: {message}\nlacks: {expected}"
        );
    }
}

#[test]
fn the_keys_of_a_map_are_set_one_by_one_and_added() {
    let file = "train=File(path: \"a.jsonl\", fields: {\"post\": \"body\"})";
    let recipe = load(&[file, "train.fields.post=\"text\""]).unwrap();
    let train = recipe.train.unwrap().to_string();
    assert!(train.contains("\"post\": \"text\""), "{train}");

    let environment = "environment=Process(command: [\"a\"], settings: {\"bonus\": 1, \"word\": {\"length\": 3}})";
    let changes = [
        environment,
        "environment.settings.bonus=3",
        "environment.settings.word.length=4",
        "environment.settings.new=\"b\"",
    ];
    let settings = polyphony_report::settings(&load(&changes).unwrap().to_ron());
    for (path, expected) in [
        ("environment.settings.bonus", "3"),
        ("environment.settings.word.length", "4"),
        ("environment.settings.new", "\"b\""),
    ] {
        assert_eq!(settings[path], expected, "{path}");
    }
    let rows = [
        (
            "environment.settings.wrod.length=4",
            "there is no key `wrod` in `environment.settings`: set `environment.settings.wrod` as a whole",
        ),
        (
            "environment.settings.bonus.x=4",
            "`environment.settings.bonus` is 1, which has no keys",
        ),
        ("bonus=3", "did you mean `environment.settings.bonus`?"),
    ];
    for (change, expected) in rows {
        let message = load(&[environment, change]).unwrap_err();
        assert!(message.contains(expected), "{change}: {message}");
    }
}

#[test]
fn a_shared_model_runs_on_one_device() {
    let shared = ["team=Shared(\"a\")", "devices=Each([Cpu, Cpu])"];
    let message = load(&shared).unwrap_err();
    assert!(message.contains("give `devices: Same(…)`"), "{message}");
    assert!(load(&shared[..1]).is_ok());
}

#[test]
fn only_training_needs_a_temperature_above_0() {
    let recipe = load(&["sampling.temperature=0"]).unwrap();
    let message = recipe
        .validate_for_training(algorithm(&recipe).as_ref())
        .unwrap_err()
        .to_string();
    let expected = "`sampling.temperature` is 0, but must be above 0 for training";
    assert!(message.starts_with(expected), "{message}");
    let single_sample = [
        "sampling.temperature=0",
        "algorithm.samples=1",
        "algorithm.baseline=Zero",
    ];
    let recipe = load(&single_sample).unwrap();
    recipe
        .validate_for_training(algorithm(&recipe).as_ref())
        .unwrap();
}

#[test]
fn only_the_cpu_trains_with_8_bit_moments() {
    let validate = |devices: &str| {
        let recipe = load(&["updates.moments=Int8", &format!("devices={devices}")]).unwrap();
        recipe.validate_for_training(algorithm(&recipe).as_ref())
    };
    assert!(validate("Same(Cpu)").is_ok() && validate("Each([Cpu, Cpu])").is_ok());
    for (devices, device) in [("Same(Wgpu)", "wgpu"), ("Each([Cpu, Cuda(1)])", "cuda:1")] {
        let expected = format!(
            "`updates.moments` is Int8, but must be F32 on {device}: only the CPU can train with 8-bit \
             moments"
        );
        assert_eq!(validate(devices).unwrap_err().to_string(), expected);
    }
}

#[test]
fn settings_of_adapters_have_defaults() {
    let recipe = load(&["fine_tuning=Lora(alpha: 4)"]).unwrap();
    let expected = LoraConfig {
        alpha: 4.0,
        ..LoraConfig::default()
    };
    assert_eq!(recipe.fine_tuning.lora(), Some(expected));
    assert_eq!(
        Recipe::from_ron(&registry(), &recipe.to_ron()).unwrap(),
        recipe
    );
}

/// The paths of all keys in a recipe that is written out. Inside a choice, such as `File(…)`, paths start
/// anew.
fn keys(ron: &str) -> BTreeSet<String> {
    // In `inside`, `None` stands for a choice, and `Some` for a section.
    let (mut keys, mut inside) = (BTreeSet::new(), Vec::new());
    let lines = ron.lines().map(str::trim);
    for line in lines.filter(|line| !line.starts_with("//")) {
        match line.split_once(": ") {
            Some((section, "(")) => inside.push(Some(section)),
            // The settings of the algorithm are a separate section.
            Some((section @ "algorithm", _)) => {
                keys.insert(section.to_owned());
                inside.push(Some(section));
            }
            Some((key, value)) => {
                let sections = inside.rsplit(Option::is_none).next().unwrap_or_default();
                let path: Vec<&str> = sections.iter().flatten().copied().chain([key]).collect();
                keys.insert(path.join("."));
                if value.ends_with('(') {
                    inside.push(None);
                }
            }
            // A closing bracket ends the innermost section or choice.
            None if line.starts_with(')') => {
                inside.pop();
            }
            None => {}
        }
    }
    keys
}

/// The paths of all keys in the tables of `docs/recipes.md`.
fn documented_keys() -> BTreeSet<String> {
    let documentation = include_str!("../../../docs/recipes.md");
    let (mut keys, mut section) = (BTreeSet::new(), None);
    for line in documentation.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let name = title
                .strip_prefix('`')
                .and_then(|rest| rest.split_once('`'));
            section = match (title, name) {
                ("The run", _) => Some(String::new()),
                (_, Some((name, _))) => {
                    let (name, _) = name.split_once(':').unwrap_or((name, ""));
                    Some(format!("{name}."))
                }
                _ => None,
            };
        }
        let key = line.strip_prefix("| `").and_then(|row| row.split_once('`'));
        if let (Some(section), Some((key, _))) = (&section, key) {
            keys.insert(format!("{section}{key}"));
        }
    }
    keys
}

#[test]
fn the_documentation_describes_every_key_and_no_other() {
    let keys: BTreeSet<String> = shipped()
        .iter()
        .flat_map(|recipe| {
            keys(
                &Recipe::load(&registry(), Some(recipe.name), &[])
                    .unwrap()
                    .to_ron(),
            )
        })
        // Keys inside the choice of a data set or a schedule are described with that choice.
        .filter(|key| !["path", "skip", "limit", "fields", "id", "last"].contains(&key.as_str()))
        .filter(|key| !key.starts_with('"'))
        .collect();
    assert!(keys.contains("updates.logprob_tolerance"), "{keys:?}");
    assert_eq!(keys, documented_keys());
}

#[test]
fn the_shipped_recipes_spell_every_key_out() {
    for recipe in shipped() {
        let written: BTreeSet<String> = keys(recipe.text);
        let resolved = keys(&Recipe::from_ron(&registry(), recipe.text).unwrap().to_ron());
        assert_eq!(written, resolved, "{}", recipe.name);
    }
}

#[test]
fn the_keys_of_a_wrapped_environment_can_be_overridden() {
    let changes = ["environment.settings.turns=3".to_owned()];
    let recipe = Recipe::load(
        &registry(),
        Some("humaneval-qwen-coder-single-agent"),
        &changes,
    )
    .unwrap();
    let settings = registry()
        .inner_environment(&recipe.environment)
        .unwrap()
        .to_string();
    assert!(settings.contains("turns: 3"), "{settings}");
    let changes = ["environment.turns=3".to_owned()];
    let error = Recipe::load(&registry(), Some("tldr-qwen3-single-agent"), &changes).unwrap_err();
    let message = format!("{error:#}");
    assert!(
        message.contains("`environment` is SingleAgent(Tldr), which has no keys"),
        "{message}"
    );
    let changes = ["environment=SingleAgent(SingleAgent(Tldr))".to_owned()];
    let error = Recipe::load(&registry(), Some("tldr-qwen3-single-agent"), &changes).unwrap_err();
    let message = format!("{error:#}");
    assert!(
        message.contains("a SingleAgent of a SingleAgent"),
        "{message}"
    );
}
