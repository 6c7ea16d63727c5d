//! A network namespace that another process can enter.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names a descriptor of the process that holds the namespace: good as long as that is open.
#[derive(Clone, Debug)]
pub struct Namespace(PathBuf);

impl Namespace {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What `nsenter --net=` takes.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `program` inside. nsenter becomes it, so its number is that of the process that is started.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut net = std::ffi::OsString::from("--net=");
        net.push(&self.0);
        let mut command = Command::new("nsenter");
        command.arg(net).arg("--").arg(program);
        command
    }
}
