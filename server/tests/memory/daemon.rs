//! A real `lacunad`, whose memory is measured, and which ends with the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lacuna_transport::quic::identity::KeyId;

pub(crate) struct Daemon {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) key: KeyId,
}

impl Daemon {
    pub(crate) fn start(dir: &Path, state: &Path, memory: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lacunad"))
            .args(["serve", "--listen", "127.0.0.1:0", "--memory", memory, "--state"])
            .arg(state)
            .arg(dir)
            .env("LACUNA_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .expect("lacunad starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let (rest, key) = line
            .trim()
            .rsplit_once(", identity ")
            .unwrap_or_else(|| panic!("not ready: {line}"));
        let (_, address) = rest.rsplit_once(" on ").expect("an address");
        Self {
            child,
            address: address.parse().expect("an address"),
            key: key.parse().expect("a key"),
        }
    }

    /// Admits a client.
    pub(crate) fn allow(&self, state: &Path, key: KeyId) {
        let allowed = Command::new(env!("CARGO_BIN_EXE_lacunad"))
            .args(["allow", &key.to_string(), "--state"])
            .arg(state)
            .output()
            .expect("lacunad allow runs");
        assert!(allowed.status.success(), "{allowed:?}");
    }

    /// The most memory it had so far, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The memory it has now, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("lacunad lives");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("KiB") << 10
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its own child: it cannot be another process by now.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
