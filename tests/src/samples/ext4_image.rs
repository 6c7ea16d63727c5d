//! A disk image with an ext4 file system and files in it, made by mkfs and mount.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{MIB, sample};
use crate::loop_device::Mounted;
use crate::random::Random;
use crate::{command, compare, host};

/// 512 divides it and 4096 does not.
const SIZE: u64 = 1536 * MIB + 512;
const FOLDERS: u64 = 12;
const FILES: u64 = 240;

/// The image.
///
/// mkfs reserves space that it never writes. Whether lseek calls that data depends on what the kernel has
/// cached of it at the moment; a copy without reservations has one answer only.
pub fn ext4_image() -> Result<PathBuf> {
    sample("ext4.img", |path| {
        host::require_programs(&["mkfs.ext4", "mount", "losetup"])?;
        let draft = path.with_extension("draft");
        make(&draft)?;
        command::tool(
            "cp",
            ["--sparse=auto".as_ref(), draft.as_os_str(), path.as_os_str()],
        )?;
        fs::remove_file(draft)?;
        File::open(path)?.sync_all()?;
        Ok(())
    })
}

fn make(path: &Path) -> Result<()> {
    let image = File::create(path)?;
    image.set_len(SIZE)?;
    command::tool("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), path.as_os_str()])?;
    let inside = Mounted::mount(path, path.with_extension("mnt"), "loop")?;
    let filled = fill(inside.path());
    let mountpoint = inside.path().to_owned();
    inside.unmount()?;
    fs::remove_dir(mountpoint)?;
    filled?;
    Ok(image.sync_all()?)
}

/// Each file below `dir`, with its digest; symbolic links are left out.
pub fn ext4_manifest(dir: &Path) -> Result<BTreeMap<PathBuf, [u8; 32]>> {
    let mut manifest = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                manifest.insert(path.strip_prefix(dir)?.to_owned(), compare::digest(&path)?);
            }
        }
    }
    Ok(manifest)
}

/// A few hundred files, most of them small; some are removed again, so that free space holds old data.
fn fill(dir: &Path) -> Result<()> {
    let mut random = Random::new(1);
    for number in 0..FOLDERS {
        fs::create_dir(dir.join(format!("folder-{number}")))?;
    }
    let mut paths = Vec::new();
    for number in 0..FILES {
        let path = dir.join(format!("folder-{}/file-{number}", number % FOLDERS));
        let length = if number % 40 == 0 {
            random.below(8 * MIB)
        } else {
            random.below(MIB / 4)
        };
        fs::write(&path, random.bytes(usize::try_from(length)?))?;
        paths.push(path);
    }
    for path in paths.iter().step_by(7) {
        fs::remove_file(path)?;
    }
    let sparse = File::create(dir.join("sparse inside"))?;
    sparse.set_len(256 * MIB)?;
    sparse.write_all_at(b"in the middle", 100 * MIB)?;
    std::os::unix::fs::symlink("folder-0", dir.join("link"))?;
    Ok(())
}
