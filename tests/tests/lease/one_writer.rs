//! Who may write, who has to wait and is told for whom, and when it is over.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::mount::Mount;
use lacuna_tests::wait;
use rustix::io::Errno;
use rustix::process::Signal;

use super::{Stage, ensure_errno, log, open_to_write, open_when_allowed, status};

#[test]
fn the_second_host_is_refused_and_told_who_writes() -> Result<()> {
    let stage = Stage::new(&[])?;
    let first = open_to_write(&stage.a)?;
    first.write_all_at(b"from a", 0)?;
    first.sync_all()?;
    for _ in 0..3 {
        ensure_errno(open_to_write(&stage.b), Errno::BUSY, "a second writer")?;
    }
    ensure_errno(
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(stage.b.join("disk")),
        Errno::BUSY,
        "truncating under a writer",
    )?;
    ensure_errno(
        fs::remove_file(stage.b.join("disk")),
        Errno::BUSY,
        "removing under a writer",
    )?;
    let refused = status(&stage.b)?["refused_opens"].clone();
    ensure!(refused[0]["volume"] == "disk", "{refused}");
    ensure!(
        refused[0]["why"]
            .as_str()
            .is_some_and(|why| why.contains("host-a")),
        "{refused}"
    );
    let log = log(&stage.b)?;
    ensure!(log.contains("host-a"), "{log}");
    let leases = stage.leases()?;
    ensure!(
        leases[0]["volume"] == "disk" && leases[0]["name"] == "host-a",
        "{leases}"
    );
    ensure!(leases[0]["lingers_secs"].is_null(), "{leases}");
    let resized = stage.lacuna(&stage.b, "resize", &["2M"])?;
    ensure!(
        !resized.success() && resized.stderr.contains("host-a"),
        "{}",
        resized.stderr
    );
    ensure!(
        fs::read(stage.b.join("disk"))?.starts_with(b"from a"),
        "readers are admitted"
    );

    // Closed and not flushed: it is asked for, saved and given back.
    first.write_all_at(b"closed", 100)?;
    drop(first);
    let second = open_to_write(&stage.b)?;
    let mut found = [0; 6];
    second.read_exact_at(&mut found, 100)?;
    ensure!(&found == b"closed");
    ensure!(status(&stage.b)?["refused_opens"] == serde_json::json!([]));
    second.write_all_at(b"from b", 0)?;
    drop(second);
    // A command is a client of its own, and ends with its goodbye.
    let resized = stage.lacuna(&stage.b, "resize", &["2M"])?;
    ensure!(resized.success(), "{}", resized.stderr);
    ensure!(open_to_write(&stage.a)?.metadata()?.len() == 2 << 20);
    ensure!(fs::read(stage.a.join("disk"))?.starts_with(b"from b"));
    Ok(())
}

/// Writes, flushes, and dies with the volume open.
fn flush_and_kill(mount: &Mount) -> Result<()> {
    let volume = open_to_write(mount)?;
    volume.write_all_at(b"flushed", 0)?;
    volume.sync_all()?;
    let daemon = mount.daemon()?;
    daemon.send(Signal::KILL)?;
    wait::until("the client to end", wait::LIMIT, || Ok(!daemon.lives()))
}

#[test]
fn what_a_killed_host_wrote_to_is_free_after_its_time() -> Result<()> {
    let stage = Stage::new(&["--lease-time", "1"])?;
    flush_and_kill(&stage.a)?;
    ensure_errno(
        open_to_write(&stage.b),
        Errno::BUSY,
        "writing beside one that may come back",
    )?;
    let second = open_when_allowed(&stage.b)?;
    second.write_all_at(b"b", 0)?;
    second.sync_all()?;
    ensure!(fs::read(stage.original())?.starts_with(b"blushed"));
    Ok(())
}

#[test]
fn a_mount_that_is_made_again_after_a_kill_writes_at_once() -> Result<()> {
    let stage = Stage::new(&["--lease-time", "3600"])?;
    flush_and_kill(&stage.a)?;
    lacuna_tests::mount_table::detach_below(stage.a.path());
    stage.a.mount_again(&stage.server, &[])?;
    open_to_write(&stage.a)?.write_all_at(b"b", 0)?;
    open_to_write(&stage.b)?.write_all_at(b"a", 1)?;
    ensure!(fs::read(stage.a.join("disk"))?.starts_with(b"baushed"));
    Ok(())
}

#[test]
fn a_server_that_is_killed_knows_who_writes() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let first = open_to_write(&stage.a)?;
    first.write_all_at(b"before", 0)?;
    stage.server.kill()?;
    first.write_all_at(b"while it was dead", 1000)?;
    stage.server.start_again()?;
    // Whoever is faster.
    ensure_errno(
        open_to_write(&stage.b),
        Errno::BUSY,
        "a second writer after a restart",
    )?;
    first.sync_all()?;
    let original = fs::read(stage.original())?;
    ensure!(original.starts_with(b"before") && original[1000..].starts_with(b"while it was dead"));
    drop(first);
    open_to_write(&stage.b)?.write_all_at(b"b", 0)?;
    Ok(())
}
