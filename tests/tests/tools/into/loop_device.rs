//! A file system inside a volume, by a loop device: made, filled, emptied, trimmed and checked. What is trimmed is
//! free at the server.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::loop_device::{LoopDevice, Mounted};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, compare, host, wait};

use super::{ensure_shown, taken};

const MIB: u64 = 1 << 20;
const FILES: u64 = 24;
const FILE_BYTES: u64 = 4 * MIB;

/// How a kind of file system is made and checked.
struct Kind {
    make: &'static [&'static str],
    check: &'static [&'static str],
}

const EXT4: Kind = Kind {
    make: &["mkfs.ext4", "-q"],
    check: &["e2fsck", "-f", "-n"],
};
const XFS: Kind = Kind {
    make: &["mkfs.xfs", "-q"],
    check: &["xfs_repair", "-n"],
};
const BTRFS: Kind = Kind {
    make: &["mkfs.btrfs", "-q"],
    check: &["btrfs", "check", "--readonly"],
};

fn tool(words: &[&str], last: &OsStr) -> Result<()> {
    host::require_programs(&words[..1])?;
    let arguments = words[1..].iter().copied().map(OsStr::new).chain([last]);
    command::tool(words[0], arguments).map(drop)
}

fn lives_in_a_volume(kind: &Kind, options: &[&str]) -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    rig.mount.create("volume")?.set_len(1024 * MIB + 4096)?;
    let device = LoopDevice::attach(&rig.volume("volume"), options)?;
    tool(kind.make, device.path().as_os_str())?;
    let inside = Mounted::mount(device.path(), rig.sandbox.join("inside"), "noatime")?;
    let mut contents = Vec::new();
    for number in 0..FILES {
        let content = Random::new(number).bytes(usize::try_from(FILE_BYTES)?);
        fs::write(inside.path().join(format!("file-{number}")), &content)?;
        contents.push(content);
    }
    tool(&["sync", "--file-system"], inside.path().as_os_str())?;
    let full = taken(&rig, "volume")?;
    ensure!(full >= FILES * FILE_BYTES, "only {full} bytes are at the server");
    // Three of four go; what they took comes back.
    for number in (0..FILES).filter(|number| number % 4 != 0) {
        fs::remove_file(inside.path().join(format!("file-{number}")))?;
    }
    tool(&["sync", "--file-system"], inside.path().as_os_str())?;
    tool(&["fstrim"], inside.path().as_os_str())?;
    // A hole is acknowledged at once, and sent within moments.
    wait::until("the space to be freed", wait::LIMIT, || {
        let freed = full.saturating_sub(taken(&rig, "volume")?);
        Ok(freed >= FILES / 4 * 3 * FILE_BYTES * 9 / 10)
    })?;
    inside.unmount()?;
    tool(kind.check, device.path().as_os_str())?;
    device.detach()?;
    ensure_shown(&rig.volume("volume"), &rig.original("volume"))?;
    // The server's own file is that file system too.
    tool(kind.check, rig.original("volume").as_os_str())?;
    let again = LoopDevice::attach(&rig.volume("volume"), options)?;
    let inside = Mounted::mount(again.path(), rig.sandbox.join("inside"), "ro")?;
    for number in (0..FILES).step_by(4) {
        let found = fs::read(inside.path().join(format!("file-{number}")))?;
        ensure!(
            Some(&found) == contents.get(usize::try_from(number)?),
            "file-{number} differs"
        );
    }
    inside.unmount()?;
    again.detach()
}

#[test]
fn ext4() -> Result<()> {
    lives_in_a_volume(&EXT4, &[])
}

#[test]
fn xfs() -> Result<()> {
    lives_in_a_volume(&XFS, &[])
}

#[test]
fn btrfs() -> Result<()> {
    lives_in_a_volume(&BTRFS, &[])
}

#[test]
fn ext4_with_direct_io() -> Result<()> {
    lives_in_a_volume(&EXT4, &["--direct-io=on"])
}

#[test]
fn xfs_with_direct_io() -> Result<()> {
    lives_in_a_volume(&XFS, &["--direct-io=on"])
}

#[test]
fn btrfs_with_direct_io() -> Result<()> {
    lives_in_a_volume(&BTRFS, &["--direct-io=on"])
}

/// A device call each: discard makes a hole at the server, zeroing makes zeros.
#[test]
fn blkdiscard_and_zeroing_reach_the_server() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let content = Random::new(1).bytes(16 << 20);
    fs::write(rig.volume("volume"), &content)?;
    let device = LoopDevice::read_write(&rig.volume("volume"))?;
    tool(
        &["blkdiscard", "-o", "4194304", "-l", "4194304"],
        device.path().as_os_str(),
    )?;
    tool(
        &["blkdiscard", "-z", "-o", "12582912", "-l", "1048576"],
        device.path().as_os_str(),
    )?;
    let file = File::options().write(true).open(device.path())?;
    file.write_all_at(&[7; 4096], 0)?;
    file.sync_all()?;
    drop(file);
    device.detach()?;
    let mut expected = content;
    expected[..4096].fill(7);
    expected[4 << 20..8 << 20].fill(0);
    expected[12 << 20..13 << 20].fill(0);
    for path in [rig.volume("volume"), rig.original("volume")] {
        ensure!(fs::read(&path)? == expected, "{} differs", path.display());
    }
    let taken = compare::allocated_bytes(&rig.original("volume"))?;
    ensure!(
        taken <= 12 * MIB + (64 << 10),
        "{taken} bytes are taken after a discard of 4 MiB"
    );
    ensure_shown(&rig.volume("volume"), &rig.original("volume"))
}
