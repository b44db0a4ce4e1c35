//! Removes the layers one by one, and checks that a certain attack succeeds each time.
//!
//! The layers overlap. Therefore each test uses only the layer under test and the few others that it names.
//! With all of these the attack is refused, and with the others alone it succeeds.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    process::{Child, Command, Stdio},
};

use super::{
    engine::Engine,
    interpreter,
    layers::{Layer, Layers},
};
use crate::{Limits, Program, SandboxConfig, Tests, Tier, Verdict};

/// The targets of the attacks.
struct Targets {
    folder: tempfile::TempDir,
    bystander: Child,
    server: TcpListener,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Targets {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = |name: &str, mode: u32| {
            let path = folder.path().join(name);
            let mut file = fs::File::create(&path).unwrap();
            file.write_all(b"secret").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        file("public", 0o644);
        let private = file("private", 0o600);
        if is_root() {
            // Another owner, so that reading it needs the capability to override permissions.
            chown(private, Some(12_345), Some(12_345)).unwrap();
        }
        Self {
            folder,
            bystander: Command::new("sleep")
                .arg("600")
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
            server: TcpListener::bind(("127.0.0.1", 0)).unwrap(),
        }
    }

    fn names(&self) -> String {
        format!(
            "FOLDER, BYSTANDER, PORT = {:?}, {}, {}\n",
            self.folder.path().to_str().unwrap(),
            self.bystander.id(),
            self.server.local_addr().unwrap().port(),
        )
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.bystander.kill().unwrap();
        self.bystander.wait().unwrap();
    }
}

/// The verdict and the error of an attack under these layers. If the attack succeeds, it is passed.
fn attack(targets: &Targets, body: &str, layers: &[Layer]) -> (Verdict, String) {
    let settings = SandboxConfig {
        workers: Some(1),
        limits: Limits {
            wall_secs: 20,
            cpu_secs: 10,
            ..Limits::default()
        },
        ..SandboxConfig::default()
    };
    let installation = interpreter::find(None).unwrap();
    // With `Tier::Off` the self-test runs no attacks. Complete tiers are tested elsewhere.
    let layers = Layers::only(layers);
    let engine = Engine::start_in(&settings, &installation, Tier::Off, &layers).unwrap();
    let program = Program {
        source: format!("{}def f():\n    {body}\n", targets.names()),
        entry_point: "f".to_owned(),
    };
    let tests = Tests {
        setup: String::new(),
        source: "def check(candidate):\n    assert candidate() == 'through'\n".to_owned(),
    };
    let result = engine.run(&program, &tests).unwrap();
    let error = result.asserts[0].error.clone();
    (result.verdict, error.unwrap_or_default())
}

/// Checks that the attack is refused with `other_layers` and `layer`, and succeeds without `layer`.
fn check(layer: Layer, other_layers: &[Layer], body: &str, refusal: &str) {
    let targets = Targets::new();
    let (verdict, error) = attack(&targets, body, &[other_layers, &[layer]].concat());
    assert_ne!(verdict, Verdict::Passed, "{layer:?} does not stop it");
    assert!(error.contains(refusal), "{layer:?}: {error}");
    let (verdict, error) = attack(&targets, body, other_layers);
    assert_eq!(verdict, Verdict::Passed, "without {layer:?}: {error}");
}

#[test]
fn without_namespaces_a_program_connects_to_the_hosts_servers() {
    check(
        Layer::Namespaces,
        &[Layer::Privileges, Layer::ResourceLimits],
        "import socket\n    socket.create_connection(('127.0.0.1', PORT)).close()\n    \
         return 'through'",
        "Network is unreachable",
    );
}

#[test]
fn without_namespaces_a_program_finds_the_hosts_processes() {
    check(
        Layer::Namespaces,
        &[Layer::Privileges, Layer::ResourceLimits],
        "import os\n    os.getsid(BYSTANDER)\n    return 'through'",
        "No such process",
    );
}

#[test]
fn without_a_private_root_a_program_reads_the_hosts_files() {
    check(
        Layer::Root,
        &[Layer::Namespaces, Layer::Privileges, Layer::ResourceLimits],
        "open(FOLDER + '/public').read()\n    return 'through'",
        "No such file or directory",
    );
}

#[test]
fn without_landlock_a_program_reads_the_hosts_files() {
    check(
        Layer::Landlock,
        &[Layer::Privileges, Layer::ResourceLimits, Layer::Seccomp],
        "open(FOLDER + '/public').read()\n    return 'through'",
        "Permission denied",
    );
}

#[test]
fn without_dropped_privileges_a_program_reads_what_only_root_may() {
    // Other users have no privileges to drop. CI runs as root.
    if !is_root() {
        return;
    }
    check(
        Layer::Privileges,
        &[Layer::ResourceLimits],
        "open(FOLDER + '/private').read()\n    return 'through'",
        "Permission denied",
    );
}

#[test]
fn without_seccomp_a_program_forks() {
    check(
        Layer::Seccomp,
        &[
            Layer::Namespaces,
            Layer::Root,
            Layer::Privileges,
            Layer::Landlock,
            Layer::ResourceLimits,
        ],
        "import os\n    if os.fork() == 0:\n        os._exit(0)\n    return 'through'",
        "Operation not permitted",
    );
}

#[test]
fn without_resource_limits_a_program_takes_the_memory() {
    check(
        Layer::ResourceLimits,
        &[
            Layer::Namespaces,
            Layer::Root,
            Layer::Privileges,
            Layer::Landlock,
            Layer::Seccomp,
        ],
        "x = bytearray(400 << 20)\n    return 'through'",
        "MemoryError",
    );
}

#[test]
fn a_tier_has_all_its_layers() {
    let rows: [(Tier, &[Layer]); 3] = [
        (
            Tier::Full,
            &[
                Layer::Namespaces,
                Layer::Root,
                Layer::Privileges,
                Layer::Landlock,
                Layer::ResourceLimits,
                Layer::Seccomp,
            ],
        ),
        (
            Tier::Landlock,
            &[
                Layer::Privileges,
                Layer::Landlock,
                Layer::ResourceLimits,
                Layer::Seccomp,
            ],
        ),
        (Tier::Off, &[Layer::ResourceLimits]),
    ];
    for (tier, layers) in rows {
        assert_eq!(Layers::of(tier), Layers::only(layers));
    }
}
