//! Tools that write into the mount. After each: the bytes through the mount and in the server's file, the map of
//! both, and the space that the server's file takes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lacuna_tests::compare::{self, Reading, Space};
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{command, samples};

mod cp;
mod dd;
mod fallocate;
mod loop_device;
mod qemu;
mod rsync;
mod sqlite;
mod tar;

/// The name of what is written.
const NAME: &str = "written";

/// Runs `write SOURCE TARGET` for the sample, into a fresh mount, and looks at what arrived.
fn into_mount(sample: &Path, space: Space, write: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    write(sample, &rig.volume(NAME))?;
    ensure_arrived(&rig, sample, NAME, space)
}

/// The same for each of the small samples, into one mount.
fn edges_into_mount(space: Space, write: impl Fn(&Path, &Path) -> Result<()>) -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    for sample in samples::edges()? {
        let name = sample.file_name().context("no name")?;
        write(&sample, &rig.volume(name))
            .and_then(|()| ensure_arrived(&rig, &sample, name, space))
            .with_context(|| format!("{}", name.display()))?;
    }
    Ok(())
}

/// The volume `name`, closed, is the same as `source`, here and at the server.
fn ensure_arrived(rig: &Rig, source: &Path, name: impl AsRef<Path>, space: Space) -> Result<()> {
    let (volume, original) = (rig.volume(name.as_ref()), rig.original(name.as_ref()));
    compare::same_bytes(source, &original, Reading::Data).context("the server's file")?;
    compare::same_space(source, &original, space).context("the server's file")?;
    ensure_shown(&volume, &original)?;
    if space == Space::Same {
        SeekMap::of_path(source)?
            .ensure_within(&SeekMap::of_path(&volume)?)
            .context("the source's map in the volume's")?;
    }
    Ok(())
}

/// The mount shows what the server has: bytes, map and space.
fn ensure_shown(volume: &Path, original: &Path) -> Result<()> {
    compare::same_bytes(original, volume, Reading::Data).context("the volume through the mount")?;
    // ext4 calls reserved space data once it was read ahead: what the mount calls a hole there has to be zeros.
    let beyond = SeekMap::of_path(original)?.data_beyond(&SeekMap::of_path(volume)?);
    let file = File::open(original)?;
    for range in beyond {
        let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
        file.read_exact_at(&mut bytes, range.start)?;
        ensure!(
            bytes.iter().all(|byte| *byte == 0),
            "the volume has a hole where the server has data, in {range:?}"
        );
    }
    compare::same_space(original, volume, Space::Same).context("st_blocks of the volume")
}

/// Runs `program OPTIONS SOURCE TARGET`.
fn run(program: &str, options: &[&str], source: &Path, target: &Path) -> Result<()> {
    let words = options.iter().copied().map(OsStr::new);
    command::tool(program, words.chain([source.as_os_str(), target.as_os_str()])).map(drop)
}

/// `KEY=PATH` or an option that ends in a path.
fn operand(key: &str, path: &Path) -> OsString {
    let mut operand = OsString::from(key);
    operand.push(path);
    operand
}

/// Bytes of space that the server's file takes.
fn taken(rig: &Rig, name: &str) -> Result<u64> {
    compare::allocated_bytes(&rig.original(name))
}

/// A local file beside the mount with these bytes.
fn local(rig: &Rig, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = rig.sandbox.join(name);
    fs::write(&path, bytes)?;
    Ok(path)
}
