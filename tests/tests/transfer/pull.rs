//! `lacuna pull` into regular files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::backing::Backing;
use lacuna_tests::compare::{self, Reading, allocated_bytes};
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{command, samples};

use crate::{MIB, SAMPLE_BYTES, SAMPLE_DATA, Stage, TALK_BYTES, b3sum, moved, same, write_data};

#[test]
fn a_file_has_the_bytes_holes_and_digest_of_the_volume() -> Result<()> {
    let stage = Stage::with_sample()?;
    let copy = stage.local("copy");
    let moved = moved(&mut stage.pull("v", &copy, &["--verify"])?)?;
    same(&stage.original("v"), &copy)?;
    let (ours, theirs) = (SeekMap::of_path(&copy)?, SeekMap::of_path(&stage.original("v"))?);
    ours.ensure_within(&theirs)?;
    ensure!(
        moved.volume == stage.location("v") && moved.action == "pulled",
        "{moved:?}"
    );
    ensure!(moved.bytes == SAMPLE_BYTES && moved.same_bytes == 0, "{moved:?}");
    ensure!(moved.data_bytes == theirs.data_bytes(), "{moved:?}");
    ensure!(moved.digest == Some(b3sum(&copy)?) && moved.verified, "{moved:?}");
    let wire = moved.data_bytes..moved.data_bytes + TALK_BYTES;
    ensure!(wire.contains(&moved.wire_bytes), "{moved:?}");
    Ok(())
}

#[test]
fn a_range_is_pulled_and_a_length_left_out_is_the_rest() -> Result<()> {
    let stage = Stage::with_sample()?;
    let whole = fs::read(stage.original("v"))?;
    let copy = stage.local("copy");
    for (options, start, end) in [
        (&["--offset", "2M", "--length", "9M"][..], 2 * MIB, 11 * MIB),
        (
            &["--offset", "10485861", "--length", "3000"],
            10_485_861,
            10_488_861,
        ),
        (&["--offset", "32769K"], 32769 << 10, SAMPLE_BYTES),
        (&["--length", "1"], 0, 1),
    ] {
        let moved = moved(&mut stage.pull("v", &copy, options)?)?;
        ensure!(moved.bytes == end - start, "{moved:?}");
        let expected = &whole[usize::try_from(start)?..usize::try_from(end)?];
        ensure!(fs::read(&copy)? == expected, "{options:?}: the file differs");
        ensure!(moved.digest == Some(b3sum(&copy)?), "{moved:?}");
    }
    Ok(())
}

/// Old data is neither seen nor kept where the volume has a hole or has ended.
#[test]
fn a_hole_on_old_data_removes_it() -> Result<()> {
    let stage = Stage::with_sample()?;
    for options in [&[][..], &["--resume"], &["--delta"], &["--sparse=always"]] {
        let copy = stage.local("copy");
        let _ = fs::remove_file(&copy);
        write_data(&copy, SAMPLE_BYTES + MIB)?;
        moved(&mut stage.pull("v", &copy, options)?)?;
        same(&stage.original("v"), &copy)?;
    }
    Ok(())
}

#[test]
fn zeros_stay_data_become_holes_or_take_space() -> Result<()> {
    let stage = Stage::with_sample()?;
    let file = File::options().write(true).open(stage.original("v"))?;
    file.write_all_at(&vec![0; 4 << 20], 40 * MIB)?;
    file.sync_all()?;
    let copy = stage.local("copy");
    let mut spaces = Vec::new();
    for how in ["--sparse=always", "--sparse=auto", "--sparse=never"] {
        moved(&mut stage.pull("v", &copy, &[how])?)?;
        compare::same_bytes(&stage.original("v"), &copy, Reading::Everything)?;
        spaces.push(allocated_bytes(&copy)?);
    }
    let data: u64 = SAMPLE_DATA.iter().map(|(start, end)| end - start).sum();
    ensure!(spaces[0] < data + MIB, "{spaces:?}");
    ensure!(
        spaces[1] >= data + 4 * MIB && spaces[1] < data + 5 * MIB,
        "{spaces:?}"
    );
    ensure!(spaces[2] >= SAMPLE_BYTES, "{spaces:?}");
    Ok(())
}

/// Of a copy that differs in one block a delta moves that block, and resuming the unit that it is in.
#[test]
fn only_what_differs_is_moved() -> Result<()> {
    let stage = Stage::with_sample()?;
    let copy = stage.local("copy");
    moved(&mut stage.pull("v", &copy, &[])?)?;
    for (how, most) in [("--delta", 4096), ("--resume", MIB)] {
        File::options()
            .write(true)
            .open(&copy)?
            .write_all_at(&[0xee; 9], MIB)?;
        let moved = moved(&mut stage.pull("v", &copy, &[how, "--verify"])?)?;
        ensure!(
            moved.data_bytes > 0 && moved.data_bytes <= most,
            "{how}: {moved:?}"
        );
        ensure!(moved.wire_bytes <= most + TALK_BYTES, "{how}: {moved:?}");
        ensure!(moved.same_bytes >= 3 * MIB, "{how}: {moved:?}");
        same(&stage.original("v"), &copy)?;
    }
    Ok(())
}

#[test]
fn the_result_is_one_line_and_progress_is_json_on_the_standard_error() -> Result<()> {
    let stage = Stage::with_sample()?;
    let copy = stage.local("copy");
    let ended = command::run(&mut stage.pull("v", &copy, &["--progress=none"])?)?;
    ensure!(
        ended.stderr.is_empty() && ended.text()?.lines().count() == 1,
        "{ended:?}"
    );
    let digest = b3sum(&copy)?;
    for word in [
        "pulled",
        &stage.location("v"),
        "67109864 bytes",
        " data",
        " hole",
        " on the wire",
        &digest,
    ] {
        ensure!(ended.text()?.contains(word), "`{word}` is not in {ended:?}");
    }
    let ended = command::run(&mut stage.pull("v", &copy, &["--progress=json"])?)?;
    let mut last = serde_json::Value::Null;
    for line in ended.stderr.lines() {
        last = serde_json::from_str(line)?;
    }
    ensure!(
        last["bytes"] == SAMPLE_BYTES && last["total_bytes"] == SAMPLE_BYTES,
        "{last}"
    );
    Ok(())
}

/// The largest volume there can be, where the file systems can hold it.
#[test]
fn the_largest_hole_costs_nothing() -> Result<()> {
    const LARGEST: u64 = (1 << 63) - 1;
    let sandbox = Sandbox::new()?;
    let backing = Backing::made_by(&sandbox, 320 * MIB, "mkfs.xfs", &["-q"])?;
    let dir = backing.served().to_owned();
    let stage = Stage::over(sandbox, dir)?;
    samples::write_sparse(&stage.original("v"), LARGEST, 3, [(1 << 40, (1 << 40) + 8192)])?;
    let records = stage.local("records");
    let pulled = moved(&mut stage.pull("v", &records, &["--format=lacuna", "--verify"])?)?;
    ensure!(
        pulled.bytes == LARGEST && pulled.wire_bytes < TALK_BYTES,
        "{pulled:?}"
    );
    ensure!(fs::metadata(&records)?.len() < 16 << 10, "records are long");
    let pushed = moved(&mut stage.push(&records, "copy", &["--format=lacuna", "--verify"])?)?;
    ensure!(
        pushed.digest == pulled.digest && pushed.wire_bytes < TALK_BYTES,
        "{pushed:?}"
    );
    compare::same_bytes(&stage.original("v"), &stage.original("copy"), Reading::Data)?;
    let file = backing.served().join("file");
    moved(&mut stage.pull("v", &file, &[])?)?;
    compare::same_bytes(&stage.original("v"), &file, Reading::Data)?;
    drop(stage);
    drop(backing);
    Ok(())
}
