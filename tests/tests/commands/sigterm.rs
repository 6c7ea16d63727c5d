//! SIGTERM to a mount saves everything; if that cannot be, the exit code and a line say so.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use lacuna_tests::process::Process;
use lacuna_tests::rig::Rig;
use lacuna_tests::{mount_table, wait};
use rustix::process::Signal;

use crate::{MIB, Stage, data};

#[test]
fn what_is_dirty_is_saved() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let daemon = rig.mount.daemon()?;
    rig.mount.create("volume")?.write_all_at(&data(6 * MIB)?, 0)?;
    daemon.send(Signal::TERM)?;
    wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))?;
    ensure!(!rig.mount.is_mounted()?, "still mounted");
    ensure!(
        fs::read(rig.original("volume"))? == data(6 * MIB)?,
        "the server's file differs"
    );
    Ok(())
}

/// The server dies and comes back twice while the last bytes are on their way.
#[test]
fn the_drain_outlives_restarts_of_the_server() -> Result<()> {
    let mut rig = Rig::filled(|_| Ok(()))?;
    let daemon = rig.mount.daemon()?;
    let volume = rig.mount.create("volume")?;
    volume.sync_all()?;
    volume.write_all_at(&data(6 * MIB)?, 0)?;
    drop(volume);
    let server = rig.server.process()?;
    server.send(Signal::STOP)?;
    daemon.send(Signal::TERM)?;
    wait::until("the unmount", wait::LIMIT, || Ok(!rig.mount.is_mounted()?))?;
    rig.server.kill()?;
    for _ in 0..2 {
        rig.start_server()?;
        rig.server.process()?.send(Signal::STOP)?;
        rig.server.kill()?;
    }
    fs::File::options()
        .write(true)
        .open(rig.original("volume"))?
        .set_len(0)?;
    rig.start_server()?;
    wait::until("the daemon to end", wait::LIMIT * 3, || Ok(!daemon.lives()))?;
    ensure!(
        fs::read(rig.original("volume"))? == data(6 * MIB)?,
        "the server's file differs"
    );
    Ok(())
}

/// A mount in the foreground, whose exit code and last line can be seen.
struct Foreground {
    child: Child,
    mountpoint: std::path::PathBuf,
    stage: Stage,
}

impl Foreground {
    fn new(options: &str) -> Result<Self> {
        lacuna_tests::host::require_fuse()?;
        let stage = Stage::new()?;
        let mountpoint = stage.sandbox.folder("mnt")?;
        let mut line = stage.client.command()?;
        line.args([
            "mount",
            "--foreground",
            "-o",
            options,
            &stage.server.address().to_string(),
        ]);
        line.arg(&mountpoint).stdin(Stdio::null()).stderr(Stdio::piped());
        let child = line.spawn()?;
        wait::until("the mount", wait::LIMIT, || {
            Ok(mount_table::at(&mountpoint)?.is_some())
        })?;
        Ok(Self {
            child,
            mountpoint,
            stage,
        })
    }

    /// Sends SIGTERM; the exit code and what it said.
    fn terminate(&mut self) -> Result<(Option<i32>, String)> {
        let process = i32::try_from(self.child.id()).ok().and_then(Process::new);
        process.context("no process")?.send(Signal::TERM)?;
        let mut ended = None;
        wait::until("the mount to end", wait::LIMIT, || {
            ended = self.child.try_wait()?;
            Ok(ended.is_some())
        })?;
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .context("no output")?
            .read_to_string(&mut said)?;
        ensure!(mount_table::at(&self.mountpoint)?.is_none(), "still mounted");
        Ok((ended.and_then(|status| status.code()), said))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_exit_code_is_0_when_all_is_saved() -> Result<()> {
    let mut mount = Foreground::new("rw")?;
    fs::write(mount.mountpoint.join("volume"), data(MIB)?)?;
    let (code, said) = mount.terminate()?;
    ensure!(code == Some(0) && said.is_empty(), "{code:?} {said}");
    mount.stage.ensure_unchanged(MIB)
}

#[test]
fn the_exit_code_and_a_line_say_what_is_lost() -> Result<()> {
    let mut mount = Foreground::new("timeout=1")?;
    fs::write(mount.mountpoint.join("volume"), data(MIB)?)?;
    mount.stage.server.kill()?;
    let (code, said) = mount.terminate()?;
    ensure!(code == Some(1), "{code:?} {said}");
    let last = said.lines().last().context("not a word")?;
    for word in ["lacuna: ", "1048576 bytes", "not known to be saved"] {
        ensure!(last.contains(word), "`{word}` is not in: {last}");
    }
    Ok(())
}
