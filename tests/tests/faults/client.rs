//! The client is killed at random moments: what was flushed is there, and a new mount goes on where the last one was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lacuna_tests::compare;
use lacuna_tests::loop_device::{LoopDevice, Mounted};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, mount_table, wait};
use rustix::process::Signal;

use crate::tools::{self, Place, run};
use crate::{MIB, kills, seed};

const BLOCK_BYTES: usize = 64 << 10;

fn block(number: u64) -> Vec<u8> {
    Random::new(number).bytes(BLOCK_BYTES)
}

/// Each block is flushed before the next one; those that were are there after the kill, and whole.
#[test]
fn under_a_writer_that_flushes() -> Result<()> {
    let mut random = Random::new(seed()?);
    let rig = Rig::filled(|_| Ok(()))?;
    for round in 0..kills()? {
        let name = format!("volume-{round}");
        let volume = rig.mount.create(&name)?;
        let flushed = AtomicU64::new(0);
        let daemon = rig.mount.daemon()?;
        thread::scope(|scope| -> Result<()> {
            // Ends with the error that the kill makes.
            let writer = scope.spawn(|| -> Result<()> {
                for number in 0.. {
                    volume.write_all_at(&block(number), number * u64::try_from(BLOCK_BYTES)?)?;
                    volume.sync_data()?;
                    flushed.store(number + 1, Ordering::Release);
                }
                Ok(())
            });
            wait::until("a block to be flushed", wait::LIMIT, || {
                Ok(flushed.load(Ordering::Acquire) > 0)
            })?;
            wait::for_as_long_as(Duration::from_millis(random.between(0, 200)));
            daemon.send(Signal::KILL)?;
            let outcome = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
            ensure!(outcome.is_err(), "the writer ended before the client");
            Ok(())
        })?;
        drop(volume);
        mount_again(&rig)?;
        let found = rig.mount.open(&name)?;
        for number in 0..flushed.load(Ordering::Acquire) {
            let mut bytes = vec![0; BLOCK_BYTES];
            found.read_exact_at(&mut bytes, number * u64::try_from(BLOCK_BYTES)?)?;
            ensure!(
                bytes == block(number),
                "round {round}: block {number} was flushed and differs"
            );
        }
    }
    Ok(())
}

/// A tool that was interrupted by the kill fails; the same one succeeds on the new mount, over what the first one left.
#[test]
fn under_a_copy() -> Result<()> {
    let mut random = Random::new(seed()?);
    let rig = Rig::filled(|_| Ok(()))?;
    let place = Place::of(&rig)?;
    for round in 0..kills()?.div_ceil(2) {
        let daemon = rig.mount.daemon()?;
        thread::scope(|scope| -> Result<()> {
            let copy = scope.spawn(|| tools::rsync(&place));
            wait::at_most(Duration::from_millis(random.between(10, 400)), || {
                copy.is_finished()
            });
            daemon.send(Signal::KILL)?;
            // Whether it failed depends on the moment; that it ends does not.
            let _ = copy.join().map_err(|_| anyhow!("the copy panicked"))?;
            Ok(())
        })?;
        mount_again(&rig)?;
        tools::rsync(&place).with_context(|| format!("round {round}, on the new mount"))?;
    }
    Ok(())
}

/// The file system in a volume is a file system after the kill, with all that had been synced.
#[test]
fn under_an_ext4_on_a_loop_device() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let place = Place::of(&rig)?;
    let image = rig.volume("image");
    rig.mount.create("image")?.set_len(24 * MIB)?;
    {
        let device = LoopDevice::read_write(&image)?;
        tools::make_ext4(device.path())?;
        let inside = Mounted::mount(device.path(), rig.sandbox.join("inside"), "rw")?;
        fill(inside.path(), "synced", 83)?;
        run("sync", ["-f".as_ref(), inside.path().as_os_str()])?;
        fill(inside.path(), "not-synced", 84)?;
        rig.mount.daemon()?.send(Signal::KILL)?;
        // What is dirty inside cannot be written any more.
        drop(inside);
        device.detach()?;
    }
    mount_again(&rig)?;
    let device = LoopDevice::read_write(&image)?;
    // 1: the journal was played and errors were mended.
    let checked = command::finish(
        std::process::Command::new("e2fsck")
            .args(["-f", "-p"])
            .arg(device.path()),
    )?;
    ensure!(matches!(checked.code, Some(0 | 1)), "{checked:?}");
    let inside = Mounted::mount(device.path(), rig.sandbox.join("inside"), "rw")?;
    for number in 0..FILES {
        let found = fs::read(inside.path().join(format!("synced-{number}")))?;
        ensure!(
            found == content(83 + number)?,
            "file {number} was synced and differs"
        );
    }
    inside.unmount()?;
    device.detach()?;
    let served = fs::File::open(place.served.join("image"))?;
    compare::same_range(&served, &rig.mount.open("image")?, 0, 24 * MIB)
}

const FILES: u64 = 5;

fn content(seed: u64) -> Result<Vec<u8>> {
    Ok(Random::new(seed).bytes(usize::try_from(MIB)?))
}

fn fill(dir: &Path, name: &str, seed: u64) -> Result<()> {
    (0..FILES).try_for_each(|number| {
        Ok(fs::write(
            dir.join(format!("{name}-{number}")),
            content(seed + number)?,
        )?)
    })
}

/// The killed client is gone; a new one mounts at the same place.
fn mount_again(rig: &Rig) -> Result<()> {
    wait::until("the client to end", wait::LIMIT, || {
        Ok(rig.mount.daemon().is_err())
    })?;
    mount_table::detach_below(rig.mount.path());
    rig.mount.mount_again(&rig.server, &[])
}
