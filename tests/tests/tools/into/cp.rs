//! cp into the mount, and inside it.

use std::path::Path;

use anyhow::Result;
use lacuna_tests::compare::{self, Reading, Space};
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use lacuna_tests::seek_map::SeekMap;

use super::{ensure_arrived, into_mount, run};

fn auto(sample: &Path) -> Result<()> {
    into_mount(sample, Space::Same, |source, target| {
        run("cp", &["--sparse=auto"], source, target)
    })
}

#[test]
fn random_extents() -> Result<()> {
    auto(&samples::random_extents()?)
}

#[test]
fn many_extents() -> Result<()> {
    auto(&samples::many_extents()?)
}

#[test]
fn huge() -> Result<()> {
    auto(&samples::huge()?)
}

#[test]
fn edges() -> Result<()> {
    super::edges_into_mount(Space::Same, |source, target| {
        run("cp", &["--sparse=auto"], source, target)
    })
}

/// cp punches the zeros that it meets.
#[test]
fn sparse_always() -> Result<()> {
    for sample in [samples::ext4_image()?, samples::random_extents()?] {
        into_mount(&sample, Space::AtMost, |source, target| {
            run("cp", &["--sparse=always"], source, target)
        })?;
    }
    Ok(())
}

/// Over an older volume that is longer and full of other bytes.
#[test]
fn over_an_older_volume() -> Result<()> {
    let sample = samples::random_extents()?;
    let rig = Rig::filled(|dir| samples::write_comb(&dir.join("written"), 600, 128 << 10))?;
    run("cp", &["--sparse=auto"], &sample, &rig.volume("written"))?;
    ensure_arrived(&rig, &sample, "written", Space::Same)
}

/// Inside the mount: cp asks for a clone, which FUSE does not pass on, and copies what lseek finds.
#[test]
fn reflink_inside_the_mount() -> Result<()> {
    let sample = samples::random_extents()?;
    let rig = Rig::filled(|_| Ok(()))?;
    run("cp", &[], &sample, &rig.volume("first"))?;
    run(
        "cp",
        &["--reflink=auto"],
        &rig.volume("first"),
        &rig.volume("second"),
    )?;
    ensure_arrived(&rig, &sample, "second", Space::Same)
}

/// A copy of a copy, and back out: still the same.
#[test]
fn out_again() -> Result<()> {
    let sample = samples::random_extents()?;
    let rig = Rig::filled(|_| Ok(()))?;
    run("cp", &[], &sample, &rig.volume("first"))?;
    let copy = rig.sandbox.join("copy");
    run("cp", &["--sparse=auto"], &rig.volume("first"), &copy)?;
    compare::same_bytes(&sample, &copy, Reading::Data)?;
    compare::same_space(&sample, &copy, Space::Same)?;
    SeekMap::of_path(&sample)?.ensure_within(&SeekMap::of_path(&copy)?)
}
