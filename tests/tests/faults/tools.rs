//! Tools at work in a mount, each of which checks what it did and cleans up, so that it can be run again and again.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::loop_device::{LoopDevice, Mounted};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, host, samples};

use crate::{KIB, MIB};

/// Where a tool works: what must stay while daemons come and go.
#[derive(Debug)]
pub(crate) struct Place {
    /// The mount.
    pub(crate) mount: PathBuf,
    /// The same folder at the server.
    pub(crate) served: PathBuf,
    /// A folder that is neither.
    local: PathBuf,
}

/// Below `local`: a dense file, a sparse one, and a folder of small ones.
const SOURCE: &str = "source";
const SMALL_FILES: u64 = 12;

impl Place {
    pub(crate) fn of(rig: &Rig) -> Result<Self> {
        host::require_programs(&["cp", "rsync", "fio", "qemu-img", "mkfs.ext4", "e2fsck", "losetup"])?;
        let place = Self {
            mount: rig.mount.path().to_owned(),
            served: rig.dir.clone(),
            local: rig.sandbox.folder("local")?,
        };
        let source = place.local.join(SOURCE);
        fs::create_dir_all(source.join("small"))?;
        samples::write_sparse(&source.join("dense"), 3 * MIB + 5, 81, [(0, 3 * MIB + 5)])?;
        let extents = (0..20).map(|i| (i * 3 * MIB + 4096, i * 3 * MIB + 100 * KIB));
        samples::write_sparse(&source.join("sparse"), 64 * MIB, 82, extents)?;
        for number in 0..SMALL_FILES {
            let content = Random::new(number).bytes(usize::try_from(number * 3000)?);
            fs::write(source.join(format!("small/{number}")), content)?;
        }
        Ok(place)
    }

    fn source(&self) -> PathBuf {
        self.local.join(SOURCE)
    }

    /// The folder `name` has all that the source has, through the mount and at the server.
    fn ensure_copied(&self, name: &str) -> Result<()> {
        let names = (0..SMALL_FILES).map(|number| format!("small/{number}"));
        for file in names.chain(["dense".to_owned(), "sparse".to_owned()]) {
            for copy in [self.mount.join(name), self.served.join(name)] {
                compare::same_bytes(&self.source().join(&file), &copy.join(&file), Reading::Data)
                    .with_context(|| format!("{} below {}", file, copy.display()))?;
            }
        }
        Ok(())
    }
}

/// A tool in a [`Place`].
pub(crate) type Tool = fn(&Place) -> Result<()>;

/// Copies into the mount, and out of it.
pub(crate) fn cp(place: &Place) -> Result<()> {
    let (copy, back) = (place.mount.join("cp"), place.local.join("back"));
    run(
        "cp",
        ["-a".as_ref(), place.source().as_os_str(), copy.as_os_str()],
    )?;
    place.ensure_copied("cp")?;
    run("cp", [copy.join("sparse").as_os_str(), back.as_os_str()])?;
    compare::same_bytes(&place.source().join("sparse"), &back, Reading::Data)?;
    fs::remove_file(back)?;
    Ok(fs::remove_dir_all(copy)?)
}

/// Copies, then compares by checksum: a second run finds nothing to do.
pub(crate) fn rsync(place: &Place) -> Result<()> {
    let mut from = place.source().into_os_string();
    from.push("/");
    let copy = place.mount.join("rsync");
    run("rsync", ["-aS".as_ref(), from.as_os_str(), copy.as_os_str()])?;
    let again = ["-aSc", "--itemize-changes"].map(OsStr::new);
    let ended = command::tool(
        "rsync",
        again.into_iter().chain([from.as_os_str(), copy.as_os_str()]),
    )?;
    ensure!(
        ended.text()?.is_empty(),
        "rsync found differences: {:?}",
        ended.text()
    );
    place.ensure_copied("rsync")?;
    Ok(fs::remove_dir_all(copy)?)
}

/// Writes blocks at random that carry their own checksums, and reads them all.
pub(crate) fn fio(place: &Place) -> Result<()> {
    let file = place.mount.join("fio");
    let mut filename = std::ffi::OsString::from("--filename=");
    filename.push(&file);
    let words = [
        "--name=verify",
        "--size=8M",
        "--rw=randwrite",
        "--bsrange=4k-64k",
        "--ioengine=psync",
        "--fsync=16",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--allow_file_create=1",
    ];
    run(
        "fio",
        words.map(OsStr::new).into_iter().chain([filename.as_os_str()]),
    )?;
    Ok(fs::remove_file(file)?)
}

/// Converts to raw and to qcow2, and compares.
pub(crate) fn qemu_img(place: &Place) -> Result<()> {
    let source = place.source().join("sparse");
    for format in ["raw", "qcow2"] {
        let image = place.mount.join(format);
        let convert = ["convert", "-f", "raw", "-O", format].map(OsStr::new);
        run(
            "qemu-img",
            convert.into_iter().chain([source.as_os_str(), image.as_os_str()]),
        )?;
        let compare = ["compare", "-f", "raw", "-F", format].map(OsStr::new);
        run(
            "qemu-img",
            compare.into_iter().chain([source.as_os_str(), image.as_os_str()]),
        )?;
        fs::remove_file(image)?;
    }
    Ok(())
}

/// A file system in a volume: made, filled, checked, and read again.
pub(crate) fn ext4(place: &Place) -> Result<()> {
    let image = place.mount.join("ext4");
    fs::File::create_new(&image)?.set_len(24 * MIB)?;
    let device = LoopDevice::read_write(&image)?;
    make_ext4(device.path())?;
    let inside = Mounted::mount(device.path(), place.local.join("inside"), "rw")?;
    run(
        "cp",
        [
            "-a".as_ref(),
            place.source().as_os_str(),
            inside.path().as_os_str(),
        ],
    )?;
    run("sync", ["-f".as_ref(), inside.path().as_os_str()])?;
    inside.unmount()?;
    run(
        "e2fsck",
        ["-f".as_ref(), "-n".as_ref(), device.path().as_os_str()],
    )?;
    device.detach()?;
    let device = LoopDevice::read_only(&image)?;
    let inside = Mounted::mount(device.path(), place.local.join("inside"), "ro")?;
    for file in ["dense", "sparse", "small/7"] {
        let copy = inside.path().join(SOURCE).join(file);
        compare::same_bytes(&place.source().join(file), &copy, Reading::Data)?;
    }
    inside.unmount()?;
    device.detach()?;
    Ok(fs::remove_file(image)?)
}

pub(crate) fn make_ext4(device: &Path) -> Result<()> {
    run("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), device.as_os_str()])
}

pub(crate) fn run<'a>(program: &str, words: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    command::tool(program, words).map(drop)
}
