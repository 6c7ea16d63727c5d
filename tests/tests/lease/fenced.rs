//! A host that lost its lease while it had something to save: what becomes of it, and of what the other one wrote.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::mount::Mount;
use lacuna_tests::wait;
use rustix::io::Errno;
use rustix::process::Signal;

use super::{Stage, ensure_errno, log, open_to_write, open_when_allowed, status};

/// The rescue file that status and log name has these bytes here.
fn ensure_rescued(mount: &Mount, bytes: &[u8], offset: u64) -> Result<()> {
    let mut rescued = serde_json::Value::Null;
    wait::until("the rescue file", wait::LIMIT, || {
        rescued = status(mount)?["rescued"].clone();
        Ok(!rescued[0]["file"].is_null())
    })?;
    ensure!(rescued[0]["volume"] == "disk", "{rescued}");
    let file = Path::new(rescued[0]["file"].as_str().context("a name")?);
    ensure!(file.starts_with(mount.client().state()), "{}", file.display());
    let mut found = vec![0; bytes.len()];
    fs::File::open(file)?.read_exact_at(&mut found, offset)?;
    ensure!(found == bytes, "{} has {found:?}", file.display());
    let notes: serde_json::Value = serde_json::from_slice(&fs::read(file.with_extension("json"))?)?;
    ensure!(notes["changes"][0]["start"] == offset, "{notes}");
    let log = log(mount)?;
    ensure!(log.contains(&file.display().to_string()), "{log}");
    Ok(())
}

/// It was stopped; the server was restarted, and another host was faster.
#[test]
fn one_that_comes_back_too_late_changes_nothing() -> Result<()> {
    let mut stage = Stage::new(&["--lease-time", "1"])?;
    let first = open_to_write(&stage.a)?;
    first.write_all_at(b"saved", 0)?;
    first.sync_all()?;
    stage.server.kill()?;
    first.write_all_at(b"late", 4096)?;
    let daemon = stage.a.daemon()?;
    daemon.send(Signal::STOP)?;
    stage.server.start_again()?;
    let second = open_when_allowed(&stage.b)?;
    second.write_all_at(b"other", 4096)?;
    second.sync_all()?;
    daemon.send(Signal::CONT)?;
    ensure_errno(first.sync_all(), Errno::IO, "an fsync of what is lost")?;
    first.sync_all()?;
    ensure_errno(first.write_all_at(b"never", 0), Errno::IO, "a late write")?;
    ensure_rescued(&stage.a, b"late", 4096)?;
    let mut found = [0; 5];
    first.read_exact_at(&mut found, 4096)?;
    ensure!(&found == b"other", "it shows {found:?}");
    ensure_errno(open_to_write(&stage.a), Errno::BUSY, "writing beside the other")?;
    drop(second);
    let anew = open_to_write(&stage.a)?;
    anew.write_all_at(b"again", 0)?;
    anew.sync_all()?;
    ensure_errno(first.set_len(3), Errno::IO, "cutting through the late descriptor")?;
    let original = fs::read(stage.original())?;
    ensure!(original.starts_with(b"again") && original[4096..].starts_with(b"other"));
    drop((first, anew));
    let unmounted = stage.a.try_unmount(&[])?;
    ensure!(!unmounted.success(), "something was lost");
    ensure!(unmounted.stderr.contains("rescue"), "{}", unmounted.stderr);
    Ok(())
}

#[test]
fn a_lease_that_is_broken_goes_to_the_next_at_once() -> Result<()> {
    let stage = Stage::new(&[])?;
    let nobody = stage.lacunad(&["break-lease", "disk"])?;
    ensure!(
        !nobody.success() && nobody.stderr.contains("nobody writes"),
        "{}",
        nobody.stderr
    );
    let first = open_to_write(&stage.a)?;
    first.write_all_at(b"saved", 0)?;
    first.sync_all()?;
    let broken = stage.lacunad(&["break-lease", "disk"])?;
    ensure!(
        broken.success() && broken.text()?.contains("host-a"),
        "{}",
        broken.stderr
    );
    let second = open_to_write(&stage.b)?;
    second.write_all_at(b"other", 0)?;
    second.sync_all()?;
    first.write_all_at(b"late", 8192)?;
    ensure_errno(first.sync_all(), Errno::IO, "an fsync of what is lost")?;
    first.sync_all()?;
    ensure_rescued(&stage.a, b"late", 8192)?;
    let mut found = [0; 5];
    first.read_exact_at(&mut found, 0)?;
    ensure!(&found == b"other", "it shows {found:?}");
    ensure!(
        fs::read(stage.original())?[8192..8196] == [0; 4],
        "late, and at the server"
    );
    Ok(())
}
