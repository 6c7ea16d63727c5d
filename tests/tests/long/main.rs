//! What takes minutes each; scripts/long.sh runs these. Tools that read all 100 GiB of the volume that has 16 MiB of
//! data, because they look at every byte and know nothing of holes, and a copy of a million extents.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lacuna_tests::comb;
use lacuna_tests::compare::{self, Reading, Space};
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, samples};

const LIMIT: Duration = Duration::from_secs(3600);

/// What all of them may receive: the data and a map of 64 extents.
const RECEIVED_BYTES_MAX: u64 = (17 << 20) + (64 << 10);

/// Runs the command that `words` makes of the volume and the place of a copy, checks the copy and the bytes that
/// crossed the network, and prints the time.
fn run(words: impl FnOnce(&Path, &Path) -> Vec<OsString>) -> Result<()> {
    let original = samples::huge()?;
    let rig = Rig::over(&original)?;
    let (volume, copy) = (
        rig.volume(original.file_name().context("no name")?),
        rig.sandbox.join("copy"),
    );
    let words = words(&volume, &copy);
    let (program, arguments) = words.split_first().context("no command")?;
    let start = Instant::now();
    let ended = command::finish_within(LIMIT, Command::new(program).args(arguments))?;
    let elapsed = start.elapsed();
    ensure!(ended.success(), "{ended:?}");
    let received = rig.mount.settled()?.bytes_received;
    eprintln!("{}: {elapsed:.1?}, {received} bytes received", program.display());
    ensure!(received < RECEIVED_BYTES_MAX, "{received} bytes received");
    if copy.exists() {
        compare::same_bytes(&original, &copy, Reading::Data)?;
        compare::same_space(&original, &copy, Space::AtMost)?;
    } else {
        let expected = compare::digest(&original)?;
        let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(
            ended.text()?.starts_with(&expected),
            "the digest differs: {ended:?}"
        );
    }
    Ok(())
}

fn words(list: &[&str], volume: &Path, copy: &Path) -> Vec<OsString> {
    list.iter()
        .map(OsString::from)
        .chain([volume.into(), copy.into()])
        .collect()
}

#[test]
fn sha256sum() -> Result<()> {
    run(|volume, _| vec!["sha256sum".into(), volume.into()])
}

#[test]
fn dd_conv_sparse() -> Result<()> {
    run(|volume, copy| {
        let operand = |key: &str, path: &Path| {
            let mut operand = OsString::from(key);
            operand.push(path);
            operand
        };
        vec![
            "dd".into(),
            operand("if=", volume),
            operand("of=", copy),
            "bs=64k".into(),
            "conv=sparse".into(),
        ]
    })
}

#[test]
fn rsync() -> Result<()> {
    run(|volume, copy| words(&["rsync", "-S"], volume, copy))
}

#[test]
fn rsync_in_place() -> Result<()> {
    run(|volume, copy| words(&["rsync", "-S", "--inplace"], volume, copy))
}

#[test]
fn a_million_extents_are_copied() -> Result<()> {
    comb::with_extents(1_000_000, |rig, copy| {
        let (original, volume) = (rig.original("volume"), rig.volume("volume"));
        let arguments = ["--sparse=auto".as_ref(), volume.as_os_str(), copy.as_os_str()];
        let ended = command::finish_within(LIMIT, Command::new("cp").args(arguments))?;
        ensure!(ended.success(), "{ended:?}");
        compare::same_bytes(&original, copy, Reading::Data)?;
        compare::same_space(&original, copy, Space::Same)
    })
}
