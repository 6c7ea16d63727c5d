//! `written_bytes` and `dirty_bytes` of `lacuna status`, and the bound that `-o dirty=` sets.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use lacuna_tests::rig::Rig;
use lacuna_tests::wait;
use rustix::process::Signal;

use crate::{MIB, bytes, empty};

#[test]
fn written_bytes_are_those_of_the_application() -> Result<()> {
    let rig = Rig::filled_with(&["compress=none"], |_| Ok(()))?;
    let volume = rig.mount.create("volume")?;
    let before = rig.mount.status()?;
    volume.write_all_at(&bytes(1, 100_000)?, 0)?;
    volume.write_all_at(&bytes(2, 1)?, MIB)?;
    let written = rig.mount.status()?;
    assert_eq!(written.written_bytes - before.written_bytes, 100_001);
    volume.sync_all()?;
    let flushed = rig.mount.status()?;
    assert_eq!(flushed.written_bytes, written.written_bytes);
    assert_eq!(flushed.dirty_bytes, 0);
    ensure!(
        flushed.bytes_sent - before.bytes_sent >= 100_001,
        "less was sent than written"
    );
    Ok(())
}

/// With the server stopped, dirty bytes are counted, and grow no further than allowed: the writer waits.
///
/// The writer is another program: one that asks for the status would close a copy of its descriptor when it
/// starts `lacuna`, and a close waits for the server.
#[test]
fn dirty_bytes_stay_within_their_bound() -> Result<()> {
    let rig = Rig::filled_with(&["dirty=4M"], |_| Ok(()))?;
    let content = bytes(1, 32 * MIB)?;
    let mut target = OsString::from("of=");
    target.push(rig.volume("volume"));
    let mut writer = rig
        .sandbox
        .command("dd")
        .arg(target)
        .args(["bs=64k", "iflag=fullblock", "conv=fsync", "status=none"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = writer.stdin.take().context("dd has no input")?;
    let (first, rest) = content.split_at(64 << 10);
    input.write_all(first)?;
    wait::until("the writer to have begun", wait::LIMIT, || {
        Ok(rig.mount.status()?.written_bytes > 0)
    })?;
    rig.server.process()?.send(Signal::STOP)?;
    let rest = rest.to_vec();
    let feeder = thread::spawn(move || input.write_all(&rest));
    let (mut last, mut same) = (0, 0);
    let outcome = wait::until("the writer to wait for room", wait::LIMIT, || {
        let dirty = rig.mount.status()?.dirty_bytes;
        ensure!(dirty <= 4 * MIB, "{dirty} dirty bytes, 4 MiB allowed");
        same = if dirty == last && dirty > 3 * MIB {
            same + 1
        } else {
            0
        };
        last = dirty;
        Ok(same >= 10)
    });
    rig.server.process()?.send(Signal::CONT)?;
    let ended = wait::until("the writer to end", wait::LIMIT, || {
        Ok(writer.try_wait()?.is_some())
    });
    outcome.and(ended)?;
    feeder.join().map_err(|_| anyhow!("the feeder panicked"))??;
    ensure!(writer.wait()?.success(), "dd failed");
    ensure!(
        std::fs::read(rig.original("volume"))? == content,
        "the server's file differs"
    );
    Ok(())
}

/// What is dirty is sent by itself, without fsync or close.
#[test]
fn dirty_bytes_go_to_the_server_by_themselves() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    let content = bytes(1, 3 * MIB)?;
    volume.write_all_at(&content, 0)?;
    wait::until("dirty bytes to be sent", wait::LIMIT, || {
        Ok(std::fs::read(rig.original("volume"))? == content)
    })?;
    drop(volume);
    wait::until("no byte to be dirty", wait::LIMIT, || {
        Ok(rig.mount.status()?.dirty_bytes == 0)
    })
}
