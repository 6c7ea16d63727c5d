//! `lacuna umount`: everything is saved first, or it says what is not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use lacuna_tests::command::{self, Ended};
use lacuna_tests::process::{self, Process};
use lacuna_tests::rig::Rig;
use lacuna_tests::wait;

use crate::{MIB, data};

/// How much longer than its --timeout a command may take here.
const SLACK: Duration = Duration::from_secs(5);

/// A mount with a closed volume whose 6 MiB the server took and lost before it had flushed them, and no server.
fn unsaved(options: &[&str]) -> Result<Rig> {
    let rig = Rig::filled_with(options, |_| Ok(()))?;
    let volume = rig.mount.create("volume")?;
    volume.sync_all()?;
    volume.write_all_at(&data(6 * MIB)?, 0)?;
    drop(volume);
    rig.server.kill()?;
    assert_eq!(
        rig.mount.status()?.dirty_bytes,
        6 * MIB,
        "flushed by itself already"
    );
    File::options()
        .write(true)
        .open(rig.original("volume"))?
        .set_len(0)?;
    Ok(rig)
}

fn ended_with_an_error(ended: &Ended, words: &[&str]) -> Result<()> {
    ensure!(ended.code == Some(1) && ended.stdout.is_empty(), "{ended:?}");
    for word in words {
        ensure!(
            ended.stderr.contains(word),
            "`{word}` is not in: {}",
            ended.stderr
        );
    }
    Ok(())
}

fn ensure_gone(rig: &Rig, daemon: Process) -> Result<()> {
    ensure!(!rig.mount.is_mounted()?, "still mounted");
    wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))
}

fn ensure_saved(rig: &Rig) -> Result<()> {
    ensure!(
        fs::read(rig.original("volume"))? == data(6 * MIB)?,
        "the server's file differs"
    );
    Ok(())
}

/// When it returns, all is there: nothing was fsynced before, and the volume is written through two ends.
#[test]
fn what_is_dirty_is_saved() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let daemon = rig.mount.daemon()?;
    rig.mount.create("volume")?.write_all_at(&data(6 * MIB)?, 0)?;
    fs::write(rig.volume("other"), data(MIB)?)?;
    let ended = rig.mount.try_unmount(&[])?;
    ensure!(ended.success(), "{ended:?}");
    ensure_saved(&rig)?;
    ensure!(
        fs::read(rig.original("other"))? == data(MIB)?,
        "the other differs"
    );
    ensure_gone(&rig, daemon)
}

/// It waits for a server that comes back, and says once that it has to.
#[test]
fn it_waits_for_the_server() -> Result<()> {
    let mut rig = unsaved(&[])?;
    let daemon = rig.mount.daemon()?;
    let mut line = rig.mount.client().command()?;
    line.arg("umount").arg(rig.mount.path());
    let umount = std::thread::spawn(move || command::finish(&mut line));
    wait::until("the command to run", wait::LIMIT, || {
        Ok(process::of_sandbox(rig.sandbox.path()).len() > 1)
    })?;
    rig.start_server()?;
    let ended = umount.join().map_err(|_| anyhow!("it panicked"))??;
    ensure!(ended.success(), "{ended:?}");
    ensure!(ended.stderr.lines().count() <= 1, "{}", ended.stderr);
    ensure_saved(&rig)?;
    ensure_gone(&rig, daemon)
}

/// In time it ends, says what is left, and keeps the mount: nothing is lost when the server comes back.
#[test]
fn without_a_server_the_mount_stays() -> Result<()> {
    let mut rig = unsaved(&[])?;
    let begun = Instant::now();
    let ended = rig.mount.try_unmount(&["--timeout", "3"])?;
    ensure!(
        begun.elapsed() < Duration::from_secs(3) + SLACK,
        "it took {:?}",
        begun.elapsed()
    );
    let words = [
        "6291456 bytes",
        "saved",
        "stays mounted",
        "goes on trying",
        "6 MiB left",
    ];
    ended_with_an_error(&ended, &words)?;
    ensure!(rig.mount.is_mounted()?, "no longer mounted");
    rig.start_server()?;
    let ended = rig.mount.try_unmount(&[])?;
    ensure!(ended.success(), "{ended:?}");
    ensure_saved(&rig)
}

/// The daemon's own deadline comes first: its reason is told.
#[test]
fn the_reason_is_told() -> Result<()> {
    let rig = unsaved(&["timeout=1"])?;
    let ended = rig.mount.try_unmount(&["--timeout", "20"])?;
    let words = [
        "6291456 bytes",
        "not known to be saved",
        "no answer",
        "stays mounted",
    ];
    ended_with_an_error(&ended, &words)?;
    ensure!(rig.mount.is_mounted()?, "no longer mounted");
    Ok(())
}

/// Who does not care unmounts; what is lost is said all the same.
#[test]
fn by_force_what_is_lost_is_told() -> Result<()> {
    let rig = unsaved(&["timeout=1"])?;
    let daemon = rig.mount.daemon()?;
    let ended = rig.mount.try_unmount(&["--force"])?;
    ended_with_an_error(&ended, &["6291456 bytes", "not known to be saved", "no answer"])?;
    ensure_gone(&rig, daemon)
}

/// By force, with a time-out that is over before the daemon gives up: it goes on.
#[test]
fn a_daemon_goes_on_after_the_time_is_over() -> Result<()> {
    let mut rig = unsaved(&[])?;
    let daemon = rig.mount.daemon()?;
    let ended = rig.mount.try_unmount(&["--force", "--timeout", "2"])?;
    ended_with_an_error(&ended, &["is unmounted, but", "6291456 bytes", "goes on trying"])?;
    ensure!(!rig.mount.is_mounted()?, "still mounted");
    ensure!(daemon.lives(), "the daemon ended");
    let status = rig.mount.status()?;
    assert_eq!(status.dirty_bytes, 6 * MIB, "it is not shown any more");
    rig.start_server()?;
    ensure_gone(&rig, daemon)?;
    ensure_saved(&rig)
}

/// What was lost before is told at the end: the volume was removed at the server.
#[test]
fn what_was_lost_before_is_told() -> Result<()> {
    let mut rig = unsaved(&[])?;
    let daemon = rig.mount.daemon()?;
    fs::remove_file(rig.original("volume"))?;
    rig.start_server()?;
    wait::until("the volume to be missed", wait::LIMIT, || {
        Ok(rig.mount.status()?.dirty_bytes == 0)
    })?;
    let ended = rig.mount.try_unmount(&[])?;
    ended_with_an_error(&ended, &["6291456 bytes", "not known to be saved", "'volume'"])?;
    ensure_gone(&rig, daemon)
}
