//! `lacuna status`: what it says is true to the byte where a test can know it.

use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::command;
use lacuna_tests::mount::Mount;
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use lacuna_tests::status::Status;

use crate::{KIB, MIB, aligned, open_direct};

#[test]
fn a_fresh_mount() -> Result<()> {
    let rig = Rig::filled_with(&["cache=32M"], |_| Ok(()))?;
    let status = rig.mount.status()?;
    ensure!(
        status.server.contains(&rig.server.address().to_string()),
        "server is {}",
        status.server
    );
    ensure!(status.connected, "not connected");
    ensure!(
        status.bytes_sent > 0 && status.bytes_received > 0,
        "nothing was exchanged"
    );
    ensure!(
        status.rtt_us > 0 && status.rtt_us < 1_000_000,
        "rtt is {} us",
        status.rtt_us
    );
    assert_eq!(status.cache_bytes_max, 32 * MIB);
    let untouched = [
        status.hole_bytes_read,
        status.cache_bytes_read,
        status.fetched_bytes,
        status.written_bytes,
        status.dirty_bytes,
        status.cache_bytes,
        status.reconnects,
    ];
    assert_eq!(untouched, [0; 7]);
    Ok(())
}

/// Direct reads reach the daemon as they are: data, hole and both in one.
#[test]
fn counters_are_true_to_the_byte() -> Result<()> {
    let rig = Rig::filled_with(&["compress=none"], |dir| {
        samples::write_sparse(
            &dir.join("volume"),
            32 * MIB,
            31,
            [(0, MIB), (16 * MIB, 17 * MIB)],
        )
    })?;
    let volume = open_direct(&rig.volume("volume"))?;
    let delta = |start: u64, length: u64| -> Result<(Status, Status)> {
        let before = rig.mount.settled()?;
        volume.read_exact_at(&mut aligned(usize::try_from(length)?)?, start)?;
        Ok((before, rig.mount.settled()?))
    };
    let (before, after) = delta(4 * MIB, MIB)?;
    assert_eq!(after.hole_bytes_read - before.hole_bytes_read, MIB);
    assert_eq!(after.fetched_bytes, before.fetched_bytes);
    assert_eq!(after.requests_sent, before.requests_sent);
    // Half of it hole, half of it data.
    let (before, after) = delta(16 * MIB - 64 * KIB, 128 * KIB)?;
    assert_eq!(after.hole_bytes_read - before.hole_bytes_read, 64 * KIB);
    ensure!(
        after.fetched_bytes - before.fetched_bytes >= 64 * KIB,
        "less fetched than read"
    );
    ensure!(
        after.requests_sent > before.requests_sent,
        "data came without a request"
    );
    let received = after.bytes_received - before.bytes_received;
    ensure!(received >= 64 * KIB, "{received} bytes received for 64 KiB");
    assert_eq!(
        (after.written_bytes, after.dirty_bytes, after.reconnects),
        (0, 0, 0)
    );
    Ok(())
}

#[test]
fn all_mounts_of_a_client_are_listed() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let second = rig.sandbox.join("mnt-2");
    let second = Mount::new(rig.mount.client(), &rig.server, "".as_ref(), second, &[])?;
    let list = || -> Result<Vec<serde_json::Value>> {
        let ended = command::run(rig.mount.client().command()?.args(["status", "--json"]))?;
        Ok(serde_json::from_slice(&ended.stdout)?)
    };
    assert_eq!(list()?.len(), 2);
    second.try_unmount(&[])?;
    assert_eq!(list()?.len(), 1);
    Status::parse(&command::run(rig.mount.client().command()?.args(["status", "--json"]))?.stdout)?;
    Ok(())
}

#[test]
fn what_is_not_mounted_has_no_status() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let other = rig.sandbox.folder("not-a-mount")?;
    let ended = command::finish(
        rig.mount
            .client()
            .command()?
            .arg("status")
            .arg(other)
            .arg("--json"),
    )?;
    ensure!(
        !ended.success() && ended.stderr.trim_end().lines().count() == 1,
        "{ended:?}"
    );
    Ok(())
}
