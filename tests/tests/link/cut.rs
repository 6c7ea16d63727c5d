//! A link that is cut: a short cut costs nothing but time, a long one an error, and all is well when it is mended.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::link::{Conditions, LinkedRig};
use lacuna_tests::random::Random;
use lacuna_tests::{command, samples, wait};
use rustix::io::Errno;

use crate::{KIB, MIB};

/// Long enough for every timer of a session but the one that gives it up.
const SHORT: Duration = Duration::from_secs(5);

fn fill(dir: &Path) -> Result<()> {
    samples::write_sparse(&dir.join("volume"), 16 * MIB, 63, [(MIB, 9 * MIB)])
}

/// So slow that a copy of the volume is under way for seconds.
fn slow() -> Result<Conditions> {
    ["rtt=2ms", "rate=40mbit"]
        .into_iter()
        .try_fold(Conditions::default(), Conditions::with)
}

#[test]
fn a_copy_out_of_the_mount_goes_on_after_a_cut_of_five_seconds() -> Result<()> {
    let LinkedRig { rig, link } = &LinkedRig::filled(slow()?, &[], fill)?;
    let copy = rig.sandbox.join("copy");
    let cp = || command::tool("cp", [&rig.volume("volume"), &copy]);
    std::thread::scope(|scope| -> Result<()> {
        let copying = scope.spawn(cp);
        wait::until("a part to be copied", wait::LIMIT, || {
            Ok(rig.mount.status()?.fetched_bytes > MIB)
        })?;
        link.cut();
        wait::for_as_long_as(SHORT);
        let finished = copying.is_finished();
        link.mend();
        let ended = copying.join().ok().context("the copy panicked")?;
        ensure!(!finished, "the copy ended before the link was mended: {ended:?}");
        ended.map(drop)
    })?;
    compare::same_bytes(&rig.original("volume"), &copy, Reading::Everything)
}

#[test]
fn writes_and_an_fsync_go_on_after_a_cut_of_five_seconds() -> Result<()> {
    let LinkedRig { rig, link } = &LinkedRig::filled(slow()?, &[], |_| Ok(()))?;
    let volume = rig.mount.create("volume")?;
    let content = Random::new(64).bytes(usize::try_from(4 * MIB)?);
    volume.write_all_at(&content, 0)?;
    std::thread::scope(|scope| -> Result<()> {
        let flushing = scope.spawn(|| volume.sync_all());
        wait::until("a part to arrive", wait::LIMIT, || {
            Ok(rig.original("volume").metadata()?.blocks() * 512 > 256 * KIB)
        })?;
        link.cut();
        wait::for_as_long_as(SHORT);
        let finished = flushing.is_finished();
        link.mend();
        let flushed = flushing.join().ok().context("the fsync panicked")?;
        ensure!(
            !finished,
            "the fsync ended before the link was mended: {flushed:?}"
        );
        Ok(flushed?)
    })?;
    ensure!(
        std::fs::read(rig.original("volume"))? == content,
        "the bytes differ"
    );
    Ok(())
}

/// Beyond `timeout=` what needs the server fails with EIO; what is known is answered, and what was written is kept.
#[test]
fn beyond_the_timeout_it_is_eio_and_all_is_well_afterwards() -> Result<()> {
    let LinkedRig { rig, link } = &LinkedRig::filled(Conditions::of(2, 0), &["timeout=2"], fill)?;
    let volume = rig.mount.open_for_writing("volume")?;
    let mut known = vec![0; 4096];
    volume.read_exact_at(&mut known, MIB)?;
    link.cut();
    let far = 8 * MIB;
    ensure_eio(
        volume.read_exact_at(&mut [0; 4096], far),
        "a read of what is not cached",
    )?;
    let mut again = vec![1; 4096];
    volume.read_exact_at(&mut again, MIB)?;
    ensure!(again == known, "cached bytes changed");
    volume.read_exact_at(&mut again, 12 * MIB)?;
    ensure!(again.iter().all(|byte| *byte == 0), "a hole has bytes");
    volume.write_all_at(b"written while it was cut", 2 * MIB)?;
    ensure_eio(volume.sync_all(), "an fsync")?;
    link.mend();
    wait::until("the server to be heard of again", wait::LIMIT, || {
        Ok(volume.sync_all().is_ok())
    })?;
    compare::same_bytes(
        &rig.original("volume"),
        &rig.volume("volume"),
        Reading::Everything,
    )?;
    let mut arrived = [0; 24];
    File::open(rig.original("volume"))?.read_exact_at(&mut arrived, 2 * MIB)?;
    assert_eq!(&arrived, b"written while it was cut");
    Ok(())
}

fn ensure_eio<T: std::fmt::Debug>(outcome: std::io::Result<T>, what: &str) -> Result<()> {
    let error = outcome.as_ref().err().and_then(std::io::Error::raw_os_error);
    ensure!(error == Some(Errno::IO.raw_os_error()), "{what}: {outcome:?}");
    Ok(())
}
