//! Tools that know nothing of lacuna, run on a mount: their results equal those on the original, and the
//! holes survive. One module per tool; those of `into` write into the mount.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lacuna_tests::compare::{self, Reading, Space};
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{host, samples};

mod cp;
mod dd;
mod into;
mod loop_device;
mod qemu_img;
mod rsync;
mod sha256;
mod tar;

/// One test for each of these samples: it calls `check(rig, name of the volume)`.
macro_rules! on_samples {
    ($check:path: $($sample:ident)*) => {
        $(
            #[test]
            fn $sample() -> anyhow::Result<()> {
                $crate::on(&lacuna_tests::samples::$sample()?, $check)
            }
        )*
    };
}
use on_samples;

/// Mounts the folder of `sample` and checks that sample.
fn on(sample: &Path, check: impl FnOnce(&Rig, &Path) -> Result<()>) -> Result<()> {
    let rig = Rig::over(sample)?;
    check(&rig, Path::new(sample.file_name().context("no name")?))
}

/// Mounts once and checks each of the small samples.
fn on_edges(check: impl Fn(&Rig, &Path) -> Result<()>) -> Result<()> {
    let edges = samples::edges()?;
    let rig = Rig::over(&edges[0])?;
    edges.iter().try_for_each(|path| {
        let name = Path::new(path.file_name().context("no name")?);
        check(&rig, name).with_context(|| format!("{}", name.display()))
    })
}

/// The copy has the bytes of the original and takes its space.
fn ensure_copy(original: &Path, copy: &Path, space: Space) -> Result<()> {
    compare::same_bytes(original, copy, Reading::Data)?;
    compare::same_space(original, copy, space)
}

/// The same, and what was data is data in the copy.
fn ensure_copy_with_map(original: &Path, copy: &Path) -> Result<()> {
    ensure_copy(original, copy, Space::Same)?;
    SeekMap::of_path(original)?.ensure_within(&SeekMap::of_path(copy)?)
}

/// Where a copy of `name` goes: outside the mount, in the sandbox.
fn copy_of(rig: &Rig, name: &Path) -> PathBuf {
    let mut copy = name.as_os_str().to_owned();
    copy.push(".copy");
    rig.sandbox.join(copy)
}

fn require(program: &str) -> Result<()> {
    host::require_programs(&[program])
}
