//! What is written to the mount, and what comes out of the pipe.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::mount::{Client, Mount};
use lacuna_tests::random::Random;
use rustix::io::Errno;

use crate::{MIB, Stage, ensure_equal, number};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

const EIO: i32 = Errno::IO.raw_os_error();

#[test]
fn it_comes_out_once_and_in_order() -> Result<()> {
    let stage = Stage::new("size=5000001", &[])?;
    let mut expected = vec![0; 5_000_001];
    let mut random = Random::new(1);
    let file = stage.mount.open_for_writing("disk")?;
    for _ in 0..200 {
        let start = usize::try_from(random.below(5_000_001))?;
        let length = usize::try_from(random.between(1, 20_000))?.min(expected.len() - start);
        let bytes = random.bytes(length);
        file.write_all_at(&bytes, u64::try_from(start)?)?;
        expected[start..start + length].copy_from_slice(&bytes);
    }
    file.sync_all()?;
    let report = stage.stream()?;
    ensure!(report["state"] == "open" && report["position"] == 0, "{report}");
    ensure!(fs::read(stage.volume())? == expected, "the volume is another one");
    let out = stage.finish(stage.reader())?;
    ensure_equal(&out, &expected)?;
    ensure!(!stage.spool().exists(), "the spool is left behind");
    // Too late for anything, and said so.
    file.write_all_at(b"x", 0)?;
    ensure!(
        errno(file.sync_all()) == Some(EIO),
        "a write after the end is lost in silence"
    );
    drop(file);
    let report = stage.stream()?;
    ensure!(report["state"] == "finished", "{report}");
    Ok(())
}

#[test]
fn what_was_never_written_reads_zero_and_takes_no_space() -> Result<()> {
    let stage = Stage::new("size=1T", &[])?;
    let file = stage.mount.open_for_writing("disk")?;
    file.write_all_at(b"end", (1 << 40) - 3)?;
    file.sync_all()?;
    let mut bytes = [1; 4096];
    file.read_exact_at(&mut bytes, 1 << 39)?;
    ensure!(bytes == [0; 4096], "zeros are something else");
    let held = number(&stage.stream()?["held_bytes"])?;
    ensure!(held == 4096, "{held} bytes are held");
    Ok(())
}

#[test]
fn what_comes_too_late_fails_alone_and_the_spool_that_is_enough_is_named() -> Result<()> {
    let (size, written) = (96 * MIB, 80 * MIB);
    let stage = Stage::new("size=96M,spool=40M,window=4M", &[])?;
    let reader = stage.reader();
    let mut expected = Random::new(2).bytes(usize::try_from(written)?);
    expected.resize(usize::try_from(size)?, 0);
    let file = stage.mount.open_for_writing("disk")?;
    let mut at = 0;
    for piece in expected[..usize::try_from(written)?].chunks(1 << 20) {
        file.write_all_at(piece, at)?;
        at += MIB;
    }
    file.sync_all().context("writing in order")?;
    let before = stage.stream()?;
    let position = number(&before["position"])?;
    ensure!((40 * MIB..=48 * MIB).contains(&position), "{before}");
    ensure!(before["refused_bytes"] == 0, "{before}");
    // One that is too late between two that are not.
    file.write_all_at(&[1; 4096], 79 * MIB)?;
    file.write_all_at(&[2; 4096], 10 * MIB)?;
    file.write_all_at(&[3; 4096], 85 * MIB)?;
    ensure!(errno(file.sync_all()) == Some(EIO), "nobody was told");
    file.sync_all().context("told twice")?;
    file.write_all_at(&[4; 4096], 86 * MIB)?;
    file.sync_all().context("a later write")?;
    for (byte, at) in [(1, 79 * MIB), (3, 85 * MIB), (4, 86 * MIB)] {
        let at = usize::try_from(at)?;
        expected[at..at + 4096].fill(byte);
    }
    let report = stage.stream()?;
    ensure!(report["refused_bytes"] == 4096, "{report}");
    let enough = number(&report["enough_bytes"])?;
    ensure!((74 * MIB..=80 * MIB).contains(&enough), "{report}");
    let log = stage.server.log();
    ensure!(
        log.contains(&format!("spool={enough} would have been enough")),
        "{log}"
    );
    drop(file);

    // Somebody who has nothing in memory: the window is readable, what is before it is not.
    let other = Client::new(&stage.sandbox, "other")?;
    stage.server.allow(&stage.sandbox, &other.key()?)?;
    other.trust(&stage.server)?;
    let mount = Mount::new(
        &other,
        &stage.server,
        OsStr::new(""),
        stage.sandbox.join("other-mnt"),
        &[],
    )?;
    let looked = mount.open("disk")?;
    let position = number(&report["position"])?;
    let mut found = [0; 4096];
    looked.read_exact_at(&mut found, position - 4 * MIB)?;
    let from = usize::try_from(position - 4 * MIB)?;
    ensure!(found == expected[from..from + 4096], "the window is another one");
    ensure!(
        errno(looked.read_exact_at(&mut found, 0)) == Some(EIO),
        "what is gone was read"
    );
    drop(looked);

    let out = stage.finish(reader)?;
    ensure_equal(&out, &expected)
}

#[test]
fn its_size_stays() -> Result<()> {
    let stage = Stage::new("size=1M", &[])?;
    let truncated = File::options().write(true).truncate(true).open(stage.volume());
    ensure!(
        errno(truncated) == Some(Errno::INVAL.raw_os_error()),
        "it was cut"
    );
    ensure!(fs::metadata(stage.volume())?.len() == MIB, "another size");
    let file = stage.mount.open_for_writing("disk")?;
    ensure!(
        errno(file.write_all_at(&[1; 10], MIB - 5)) == Some(Errno::NOSPC.raw_os_error()),
        "a write beyond the end is lost in silence"
    );
    file.write_all_at(&[2; 10], 0)?;
    file.sync_all().context("a write after that")?;
    ensure!(fs::metadata(stage.volume())?.len() == MIB, "it has grown");
    Ok(())
}
