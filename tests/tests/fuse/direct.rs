//! O_DIRECT: right bytes at aligned places, in holes, across edges and at the end.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;

use crate::{MIB, aligned, open_direct};

#[test]
fn direct_reads_equal_the_original() -> Result<()> {
    let path = samples::random_extents()?;
    let rig = Rig::over(&path)?;
    let volume = open_direct(&rig.volume(path.file_name().context("no name")?))?;
    let original = File::open(&path)?;
    let size = original.metadata()?.len();
    let mut random = Random::new(11);
    let mut places: Vec<_> = (0..500)
        .map(|_| (random.below(size / 4096) * 4096, random.between(1, 256) * 4096))
        .collect();
    // The last, partial block, and past the end.
    places.extend([
        (size / 4096 * 4096, 4096),
        (size / MIB * MIB, 2 * MIB),
        (size.next_multiple_of(4096), 4096),
    ]);
    for (start, length) in places {
        let length = usize::try_from(length)?;
        let (mut ours, mut theirs) = (aligned(length)?, vec![0; length]);
        let read = volume.read_at(&mut ours, start)?;
        let expected = read_full(&original, &mut theirs, start)?;
        ensure!(
            read == expected,
            "{length} bytes at {start}: {read}, not {expected}"
        );
        ensure!(
            ours[..read] == theirs[..read],
            "bytes differ in {length} at {start}"
        );
    }
    Ok(())
}

fn read_full(file: &File, bytes: &mut [u8], start: u64) -> Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], start + u64::try_from(done)?)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}
