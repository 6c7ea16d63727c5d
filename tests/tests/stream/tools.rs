//! Tools that write where they like: file systems are made, filled and checked, disks are partitioned and images
//! converted into them. Without a bound, with a spool that is too tight, and with the one that is then named.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use lacuna_tests::loop_device::{LoopDevice, Mounted};
use lacuna_tests::random::Random;
use lacuna_tests::{command, host, samples};

use crate::{MIB, Stage, ensure_equal, number};

const FILES: u64 = 12;
const FILE_BYTES: u64 = 5 * MIB;

fn content(number: u64) -> Result<Vec<u8>> {
    Ok(Random::new(number).bytes(usize::try_from(FILE_BYTES)?))
}

/// Makes an ext4 on a loop device over the stream and copies files in.
fn fill(stage: &Stage) -> Result<()> {
    host::require_programs(&["mkfs.ext4"])?;
    let device = LoopDevice::read_write(&stage.volume())?;
    command::tool("mkfs.ext4", ["-q".as_ref(), device.path().as_os_str()])?;
    let inside = Mounted::mount(device.path(), stage.sandbox.join("inside"), "noatime")?;
    for number in 0..FILES {
        fs::write(inside.path().join(format!("file-{number}")), content(number)?)?;
    }
    command::tool("sync", ["--file-system".as_ref(), inside.path().as_os_str()])?;
    inside.unmount()?;
    device.detach()
}

/// A clean file system with the files in it.
fn ensure_filled(stage: &Stage, image: &Path) -> Result<()> {
    command::tool("e2fsck", ["-f".as_ref(), "-n".as_ref(), image.as_os_str()])?;
    let device = LoopDevice::read_only(image)?;
    let inside = Mounted::mount(device.path(), stage.sandbox.join("again"), "ro")?;
    for number in 0..FILES {
        let found = fs::read(inside.path().join(format!("file-{number}")))?;
        ensure!(found == content(number)?, "file-{number} differs");
    }
    inside.unmount()?;
    device.detach()
}

#[test]
fn an_ext4_without_a_bound() -> Result<()> {
    let stage = Stage::new("size=256M", &[])?;
    fill(&stage)?;
    let expected = fs::read(stage.volume())?;
    let report = stage.stream()?;
    ensure!(
        report["position"] == 0 && report["refused_bytes"] == 0,
        "{report}"
    );
    let out = stage.finish(stage.reader())?;
    ensure_equal(&out, &expected)?;
    ensure_filled(&stage, &out)
}

#[test]
fn an_ext4_with_the_spool_that_a_tight_one_names() -> Result<()> {
    let enough = {
        let tight = Stage::new("size=256M,spool=40M", &[])?;
        let reader = tight.reader();
        // mkfs writes back to the front at the end: that is too late here, and it says so or the mount does.
        let filled = fill(&tight);
        let report = tight.stream()?;
        ensure!(number(&report["refused_bytes"])? > 0, "{report}, {filled:?}");
        ensure!(
            report["state"] == "open",
            "the stream as a whole failed: {report}"
        );
        tight.finish(reader)?;
        number(&report["enough_bytes"])?
    };
    // What the kernel writes back and when is not the same each time.
    let spool = enough.next_multiple_of(MIB) + 16 * MIB;
    let stage = Stage::new(&format!("size=256M,spool={spool}"), &[])?;
    let reader = stage.reader();
    fill(&stage)?;
    let report = stage.stream()?;
    ensure!(report["refused_bytes"] == 0, "with {spool}: {report}");
    let out = stage.finish(reader)?;
    ensure_filled(&stage, &out)
}

/// A partition table at both ends, then an image between them.
fn partition_and_convert(options: &str) -> Result<()> {
    host::require_programs(&["parted", "qemu-img"])?;
    let image = samples::ext4_image()?;
    let image_bytes = fs::metadata(&image)?.len();
    let size = (image_bytes + 4 * MIB).next_multiple_of(MIB);
    let stage = Stage::new(&format!("size={size}{options}"), &[])?;
    let reader = stage.reader();
    let volume = stage.volume();
    let parted = ["-s", "--align", "optimal"].iter().map(OsStr::new);
    let words = ["mklabel", "gpt", "mkpart", "one", "1MiB", "100%"];
    let words = words.iter().map(OsStr::new);
    command::tool("parted", parted.chain([volume.as_os_str()]).chain(words))?;
    let target = format!(
        "driver=raw,offset={MIB},size={image_bytes},file.driver=file,file.filename={}",
        volume.display()
    );
    let convert = ["convert", "-n", "-f", "raw", "--target-image-opts"].map(OsStr::new);
    let paths = [image.as_os_str(), target.as_ref()];
    command::tool("qemu-img", convert.into_iter().chain(paths))?;
    fs::File::open(&volume)?.sync_all()?;
    let report = stage.stream()?;
    ensure!(report["refused_bytes"] == 0, "{report}");
    let out = stage.finish(reader)?;
    let found = fs::read(&out)?;
    let expected = fs::read(&image)?;
    let inside = &found[1 << 20..][..expected.len()];
    ensure!(inside == expected, "the image is another one");
    let printed = command::tool(
        "parted",
        ["-s", "-m"]
            .map(OsStr::new)
            .into_iter()
            .chain([out.as_os_str(), "print".as_ref()]),
    )?;
    let table = printed.text()?;
    ensure!(
        table.contains(":gpt:") && table.contains("one") && printed.stderr.is_empty(),
        "both ends of the table: {table}{}",
        printed.stderr
    );
    Ok(())
}

#[test]
fn a_partitioned_disk_without_a_bound() -> Result<()> {
    partition_and_convert("")
}

#[test]
fn a_partitioned_disk_with_a_tight_spool() -> Result<()> {
    partition_and_convert(",spool=33M")
}
