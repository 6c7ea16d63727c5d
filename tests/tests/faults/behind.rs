//! A volume that is deleted or cut at the server while it is open and being written: no hang, no wrong bytes, clear
//! errors, and the daemons live.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::wait;

use crate::MIB;

const BLOCK_BYTES: usize = 64 << 10;
const BLOCKS: u64 = 64;

fn block(number: u64) -> Vec<u8> {
    Random::new(number + 90).bytes(BLOCK_BYTES)
}

fn write(volume: &File, number: u64) -> Result<()> {
    Ok(volume.write_all_at(&block(number), number * u64::try_from(BLOCK_BYTES)?)?)
}

/// A rig, and a volume of whole blocks that is open for writing.
fn written() -> Result<(Rig, File)> {
    let rig = Rig::filled(|_| Ok(()))?;
    let volume = rig.mount.create("volume")?;
    for number in 0..BLOCKS {
        write(&volume, number)?;
    }
    volume.sync_all()?;
    Ok((rig, volume))
}

/// Writing and flushing go on into what has no name any more; a new volume of that name is another one.
#[test]
fn deleted_while_it_is_written() -> Result<()> {
    let (rig, volume) = written()?;
    for number in 0..BLOCKS {
        if number == BLOCKS / 2 {
            fs::remove_file(rig.original("volume"))?;
        }
        write(&volume, number + 1)?;
    }
    volume.sync_all()?;
    for number in 1..=BLOCKS {
        let mut found = vec![0; BLOCK_BYTES];
        volume.read_exact_at(&mut found, number * u64::try_from(BLOCK_BYTES)?)?;
        ensure!(found == block(number), "block {number} differs");
    }
    wait::until("the name to be gone", wait::LIMIT, || {
        Ok(!rig.volume("volume").exists())
    })?;
    let again = rig.mount.create("volume")?;
    again.write_all_at(b"another one", 0)?;
    again.sync_all()?;
    drop(volume);
    assert_eq!(fs::read(rig.original("volume"))?, b"another one");
    ensure!(
        rig.mount.status()?.connected && rig.server.lives()?,
        "a daemon is gone"
    );
    Ok(())
}

/// Bytes beyond the cut are gone: what is read there is zeros or the end, or what was written since; all others stay.
#[test]
fn cut_while_it_is_written() -> Result<()> {
    let (rig, volume) = written()?;
    let original = File::options().write(true).open(rig.original("volume"))?;
    let (cut, last) = (BLOCKS / 4, BLOCKS - 1);
    original.set_len(cut * u64::try_from(BLOCK_BYTES)?)?;
    // Written again: below the cut, and far beyond it.
    write(&volume, 1)?;
    write(&volume, last)?;
    volume.sync_all()?;
    let expected = |number: u64| match number {
        _ if number < cut || number == last => block(number),
        _ => vec![0; BLOCK_BYTES],
    };
    wait::until("the cut to be seen", wait::LIMIT, || {
        let mut found = vec![0; BLOCK_BYTES];
        volume.read_exact_at(&mut found, cut * u64::try_from(BLOCK_BYTES)?)?;
        Ok(found == expected(cut))
    })?;
    volume.sync_all()?;
    let opened = rig.mount.open("volume")?;
    let original = File::open(rig.original("volume"))?;
    ensure!(
        original.metadata()?.len() == 4 * MIB,
        "{} bytes",
        original.metadata()?.len()
    );
    for file in [&volume, &opened, &original] {
        for number in 0..BLOCKS {
            let mut found = vec![0; BLOCK_BYTES];
            file.read_exact_at(&mut found, number * u64::try_from(BLOCK_BYTES)?)?;
            ensure!(found == expected(number), "block {number} differs");
        }
    }
    Ok(())
}
