//! `lacuna push` from regular files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::compare::{self, Reading, allocated_bytes};

use crate::{MIB, SAMPLE_BYTES, Stage, TALK_BYTES, b3sum, moved, same, write_data, write_sample};

#[test]
fn a_new_volume_has_the_bytes_holes_and_digest_of_the_file() -> Result<()> {
    let stage = Stage::new()?;
    let source = stage.local("source");
    write_sample(&source, 2)?;
    let moved = moved(&mut stage.push(&source, "v", &["--verify"])?)?;
    same(&source, &stage.original("v"))?;
    ensure!(
        moved.action == "pushed" && moved.bytes == SAMPLE_BYTES,
        "{moved:?}"
    );
    ensure!(
        moved.digest == Some(b3sum(&source)?) && moved.verified,
        "{moved:?}"
    );
    ensure!(moved.wire_bytes <= moved.data_bytes + TALK_BYTES, "{moved:?}");
    Ok(())
}

/// Holes free what was there; nothing outside of the range changes, and the size neither.
#[test]
fn a_range_of_a_volume_is_replaced_and_nothing_else() -> Result<()> {
    let stage = Stage::new()?;
    write_data(&stage.original("v"), 80 * MIB)?;
    let before = allocated_bytes(&stage.original("v"))?;
    let mut expected = fs::read(stage.original("v"))?;
    let source = stage.local("source");
    write_sample(&source, 2)?;
    let new = fs::read(&source)?;
    for (offset, length) in [(5 * MIB, 20 * MIB), (77, 4000), (79 * MIB, MIB)] {
        let (offset_word, length_word) = (offset.to_string(), length.to_string());
        let options = ["--offset", &offset_word, "--length", &length_word, "--verify"];
        let moved = moved(&mut stage.push(&source, "v", &options)?)?;
        ensure!(moved.bytes == length, "{moved:?}");
        let (start, len) = (usize::try_from(offset)?, usize::try_from(length)?);
        expected[start..start + len].copy_from_slice(&new[..len]);
        ensure!(
            fs::read(stage.original("v"))? == expected,
            "{offset}+{length} differs"
        );
    }
    let freed = before - allocated_bytes(&stage.original("v"))?;
    ensure!(freed > 15 * MIB, "holes freed {freed} bytes");
    Ok(())
}

#[test]
fn the_size_changes_only_if_that_is_said() -> Result<()> {
    let stage = Stage::new()?;
    write_data(&stage.original("v"), 2 * MIB)?;
    let source = stage.local("source");
    write_data(&source, MIB)?;
    moved(&mut stage.push(&source, "v", &[])?)?;
    ensure!(fs::metadata(stage.original("v"))?.len() == 2 * MIB, "cut");
    moved(&mut stage.push(&source, "v", &["--resize", "--offset", "3M"])?)?;
    ensure!(fs::metadata(stage.original("v"))?.len() == 4 * MIB, "not grown");
    moved(&mut stage.push(&source, "v", &["--resize"])?)?;
    same(&source, &stage.original("v"))
}

#[test]
fn zeros_in_a_file_stay_are_found_or_take_space() -> Result<()> {
    let stage = Stage::new()?;
    let source = stage.local("source");
    write_sample(&source, 2)?;
    let file = File::options().write(true).open(&source)?;
    file.write_all_at(&vec![0; 8 << 20], 40 * MIB)?;
    file.sync_all()?;
    let allocated = allocated_bytes(&source)?;
    let mut spaces = Vec::new();
    for (number, how) in [
        "--sparse=auto",
        "--sparse=always",
        "--detect-zeroes",
        "--sparse=never",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("v{number}");
        let moved = moved(&mut stage.push(&source, &name, &[how])?)?;
        compare::same_bytes(&source, &stage.original(&name), Reading::Everything)?;
        ensure!(
            moved.wire_bytes <= moved.data_bytes + TALK_BYTES,
            "{how}: {moved:?}"
        );
        spaces.push(allocated_bytes(&stage.original(&name))?);
    }
    ensure!(
        spaces[0] + MIB > allocated && spaces[0] < allocated + MIB,
        "{allocated} {spaces:?}"
    );
    ensure!(
        spaces[1] < allocated - 7 * MIB && spaces[2] < allocated - 7 * MIB,
        "{allocated} {spaces:?}"
    );
    ensure!(spaces[3] >= SAMPLE_BYTES, "{spaces:?}");
    Ok(())
}

#[test]
fn only_what_differs_is_moved() -> Result<()> {
    let stage = Stage::new()?;
    let source = stage.local("source");
    write_sample(&source, 2)?;
    moved(&mut stage.push(&source, "v", &[])?)?;
    for (how, most) in [("--delta", 4096), ("--resume", MIB)] {
        let file = File::options().write(true).open(stage.original("v"))?;
        file.write_all_at(&[0xee; 9], MIB)?;
        let moved = moved(&mut stage.push(&source, "v", &[how, "--verify"])?)?;
        ensure!(
            moved.data_bytes > 0 && moved.data_bytes <= most,
            "{how}: {moved:?}"
        );
        ensure!(moved.wire_bytes <= most + TALK_BYTES, "{how}: {moved:?}");
        same(&source, &stage.original("v"))?;
    }
    Ok(())
}
