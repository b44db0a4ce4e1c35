//! Answers of other programs: environments, endpoints and confined children.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    num::{NonZeroU64, NonZeroUsize},
    path::Path,
    sync::mpsc,
    thread,
};

use polyphony_env::{Draft, Expert, ExpertSettings, Process, Review};
use polyphony_episode::{Environment as _, EnvironmentSettings as _, Split};

use crate::check;

/// The answers of a program that is an environment: a line to the handshake, the others to the next call,
/// whatever they are.
pub(super) fn process(folder: &Path, bytes: &[u8]) {
    let path = folder.join("answers");
    fs::write(&path, bytes).unwrap();
    let program = "read call; head -n 1 \"$0\"; read call && tail -n +2 \"$0\"";
    let settings = Process {
        command: ["sh", "-c", program, path.to_str().unwrap()]
            .map(str::to_owned)
            .into(),
        settings: serde_json::Map::new(),
        workers: NonZeroUsize::MIN,
        start_secs: 0.5,
        step_secs: 0.5,
        max_reply_bytes: NonZeroUsize::new(1 << 16).unwrap(),
        cwd: None,
    };
    let environment = match settings.build() {
        Ok(environment) => environment,
        Err(error) => return check::message(&error.to_string()),
    };
    assert!(!environment.roles().is_empty() && !environment.reward_parts().is_empty());
    for split in [Split::Train, Split::HeldOut] {
        let Some(tasks) = environment.tasks(split) else {
            continue;
        };
        match environment.start(&tasks[0]) {
            Ok(observations) => assert_eq!(observations.len(), environment.roles().len()),
            Err(error) => check::message(&error.to_string()),
        }
    }
}

/// What a confined child, a judge or a solver, sends to the host: frames with texts in them.
pub(super) fn judge(_: &Path, bytes: &[u8]) {
    #[cfg(target_os = "linux")]
    polyphony_sandbox::read_frames(bytes).unwrap();
    // Elsewhere there is no sandbox.
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

/// A whole HTTP answer of an endpoint that proposes edits: its head and its body.
pub(super) fn endpoint(_: &Path, bytes: &[u8]) {
    let drafts = ["helper", "main"].map(|role| Draft {
        role,
        function: "f",
        response: "def f(): pass",
    });
    let review = Review {
        problem: "p",
        drafts: &drafts,
        findings: "none",
    };
    let settings = ExpertSettings {
        base_url: format!("http://127.0.0.1:{}", answer_with(bytes)),
        model: "m".to_owned(),
        key_variable: None,
        timeout_secs: NonZeroU64::new(2).unwrap(),
        retries: 0,
        temperature: None,
        seed: None,
    };
    match Expert::new(&settings).unwrap().suggest(&review) {
        Ok(suggestions) => assert_eq!(suggestions.len(), drafts.len()),
        Err(error) => check::message(&error.to_string()),
    }
}

/// Has a server answer the next request with these bytes; its port. One server serves all inputs.
fn answer_with(bytes: &[u8]) -> u16 {
    thread_local! {
        static SERVER: (u16, mpsc::Sender<Vec<u8>>) = serve();
    }
    SERVER.with(|(port, answers)| {
        answers.send(bytes.to_vec()).unwrap();
        *port
    })
}

fn serve() -> (u16, mpsc::Sender<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, answers) = mpsc::channel::<Vec<u8>>();
    thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            // The request fits into what is read at once; a client that is gone is none of our business.
            let _ = stream.read(&mut [0; 1 << 14]);
            let _ = stream.write_all(&answer);
        }
    });
    (port, sender)
}
