//! Answers of other programs: environments, endpoints and confined children.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    num::NonZeroU64,
    path::Path,
    sync::mpsc,
    thread,
};

use polyphony_env::{Draft, Expert, ExpertSettings, Review, read_process_answers};

use crate::check;

/// The output of an environment program: a line for the handshake, and one line for each later call.
pub(super) fn process(_: &Path, bytes: &[u8]) {
    if let Err(failure) = read_process_answers(bytes) {
        check::message(&failure.to_string());
    }
}

/// The messages that a confined child, a judge or a solver, sends to the host: frames with texts in them.
pub(super) fn judge(_: &Path, bytes: &[u8]) {
    #[cfg(target_os = "linux")]
    polyphony_sandbox::read_frames(bytes).unwrap();
    // Elsewhere there is no sandbox.
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

/// A complete HTTP answer of an endpoint that proposes edits: head and body.
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

/// Makes a server answer the next request with these bytes, and returns its port. One server serves all
/// inputs.
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
            // The request fits into one read. Errors do not matter, because the client may have left.
            let _ = stream.read(&mut [0; 1 << 14]);
            let _ = stream.write_all(&answer);
        }
    });
    (port, sender)
}
