//! The binary `lacunad`: what it prints, refuses and leaves behind.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

fn lacunad(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacunad"));
    command
        .args(arguments)
        .env_remove("LACUNA_LOG")
        .env_remove("NOTIFY_SOCKET")
        .env("LACUNA_STATE", state);
    command
}

fn run(state: &Path, arguments: &[&str]) -> Output {
    lacunad(state, arguments).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of a refusal, in which `word` must be.
fn assert_refused(output: &Output, word: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("lacunad: ") && last.contains(word),
        "no {word:?} in {text}"
    );
    assert!(!text.contains("panicked"), "{text}");
}

struct Daemon {
    child: Child,
    line: String,
}

impl Daemon {
    fn start(state: &Path, dir: &Path) -> Self {
        let mut child = lacunad(
            state,
            &["serve", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"],
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self { child, line }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail if the test has waited for it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folders() -> (TempDir, TempDir) {
    (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
}

const KEY: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn it_says_where_it_serves_and_ends_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let (state, dir) = folders();
        let identity = printed(&run(state.path(), &["key"]));
        let mut daemon = Daemon::start(state.path(), dir.path());
        let dir = dir.path().canonicalize().unwrap();
        let (before, after) = daemon.line.trim_end().split_once(" on 127.0.0.1:").unwrap();
        assert_eq!(before, format!("lacunad: serving {}", dir.display()));
        let (port, shown) = after.split_once(", identity ").unwrap();
        assert!(port.parse::<u16>().unwrap() > 0);
        assert_eq!(shown, identity.trim_end());
        daemon.signal(signal);
        assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
        assert!(!state.path().join("control.sock").exists());
    }
}

#[test]
fn the_key_is_made_once_for_its_owner_only() {
    let (above, _) = folders();
    let state = above.path().join("new/state");
    let first = printed(&run(&state, &["key"]));
    assert!(
        first.starts_with("sha256:") && first.len() == 7 + 64 + 1,
        "{first}"
    );
    assert_eq!(printed(&run(&state, &["key"])), first);
    assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn clients_come_and_go_with_and_without_a_daemon() {
    let (state, dir) = folders();
    for running in [false, true] {
        let _daemon = running.then(|| Daemon::start(state.path(), dir.path()));
        printed(&run(
            state.path(),
            &["allow", KEY, "--name", "one", "--read-only"],
        ));
        let report: serde_json::Value =
            serde_json::from_str(&printed(&run(state.path(), &["clients", "--json"]))).unwrap();
        assert_eq!(report["running"], running);
        assert_eq!(report["clients"][0]["key"], KEY);
        assert_eq!(report["clients"][0]["access"], "ro");
        assert_eq!(report["clients"][0]["sessions"], serde_json::json!([]));
        assert!(printed(&run(state.path(), &["clients"])).contains("one ro sha256:0011"));
        assert!(printed(&run(state.path(), &["revoke", "one"])).contains(KEY));
        assert_refused(&run(state.path(), &["revoke", "one"]), "lacunad clients");
    }
}

#[test]
fn bad_usage_is_2() {
    let (state, _) = folders();
    for arguments in [
        &["allow", "sha256:12"][..],
        &["serve"],
        &["nonsense"],
        &[],
        &["serve", "/", "--listen", "x"],
    ] {
        let output = run(state.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    assert!(printed(&run(state.path(), &["--help"])).contains("serve"));
}

#[test]
fn what_cannot_be_served_is_refused_with_advice() {
    let (state, dir) = folders();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "").unwrap();
    assert_refused(&run(state.path(), &["serve", &at("missing")]), "does not exist");
    assert_refused(&run(state.path(), &["serve", &at("file")]), "not a folder");
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_refused(
        &run(state.path(), &["serve", &at(""), "--listen", &address]),
        "in use",
    );
    assert_refused(
        &run(state.path(), &["serve", &at(""), "--listen", "192.0.2.1:0"]),
        "no such address",
    );
}

#[test]
fn the_key_of_the_server_is_never_served() {
    let (_, dir) = folders();
    let state = dir.path().join("a/state");
    let output = run(
        &state,
        &["serve", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"],
    );
    assert_refused(&output, "lies in it");
}

#[test]
fn two_daemons_do_not_share_a_state_folder_and_a_crash_leaves_it_usable() {
    let (state, dir) = folders();
    let mut daemon = Daemon::start(state.path(), dir.path());
    let second = || {
        run(
            state.path(),
            &["serve", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"],
        )
    };
    assert_refused(&second(), "another lacunad");
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
    assert!(
        state.path().join("control.sock").exists(),
        "the crash left its socket"
    );
    printed(&run(state.path(), &["allow", KEY]));
    let again = Daemon::start(state.path(), dir.path());
    assert!(again.line.starts_with("lacunad: serving"));
    let report = printed(&run(state.path(), &["clients", "--json"]));
    assert!(report.contains("\"running\": true"), "{report}");
}

#[test]
fn corrupt_files_are_named_and_stay() {
    let (state, dir) = folders();
    printed(&run(state.path(), &["key"]));
    let serve = ["serve", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let allow = state.path().join("allow");
    std::fs::write(&allow, "nonsense\n").unwrap();
    for arguments in [&serve[..], &["allow", KEY], &["revoke", "x"], &["clients"]] {
        assert_refused(&run(state.path(), arguments), "allow, line 1");
    }
    assert_eq!(std::fs::read_to_string(&allow).unwrap(), "nonsense\n");
    std::fs::remove_file(&allow).unwrap();

    let key = std::fs::read_dir(state.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let key = key
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "key"))
        .unwrap();
    std::fs::write(&key, "nonsense").unwrap();
    for arguments in [&serve[..], &["key"]] {
        assert_refused(&run(state.path(), arguments), key.to_str().unwrap());
    }
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "nonsense");
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let (_, dir) = folders();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let state = dir.path().join("file/state");
    assert_refused(&run(&state, &["key"]), "file/state");
}

#[test]
fn a_corrupt_journal_is_refused_and_left_alone() {
    let (state, dir) = folders();
    let path = state.path().join("operations");
    std::fs::write(&path, "not what we wrote").unwrap();
    let output = run(
        state.path(),
        &["serve", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"],
    );
    assert_refused(&output, "operations");
    assert_eq!(std::fs::read(&path).unwrap(), b"not what we wrote");
}
