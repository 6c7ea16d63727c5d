//! `tar -x` of a sparse archive into the mount.

use std::path::Path;

use anyhow::{Context, Result};
use lacuna_tests::compare::Space;
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, samples};

use super::ensure_arrived;

fn extract(sample: &Path) -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let name = sample.file_name().context("no name")?;
    let folder = sample.parent().context("no folder")?;
    let archive = rig.sandbox.join("archive.tar");
    let create = [
        "-cSf".as_ref(),
        archive.as_os_str(),
        "-C".as_ref(),
        folder.as_os_str(),
        name,
    ];
    command::tool("tar", create)?;
    let extract = [
        "-xSf".as_ref(),
        archive.as_os_str(),
        "-C".as_ref(),
        rig.mount.path().as_os_str(),
    ];
    command::tool("tar", extract)?;
    ensure_arrived(&rig, sample, name, Space::Same)
}

#[test]
fn random_extents() -> Result<()> {
    extract(&samples::random_extents()?)
}

#[test]
fn huge() -> Result<()> {
    extract(&samples::huge()?)
}

#[test]
fn edges() -> Result<()> {
    samples::edges()?.iter().try_for_each(|sample| extract(sample))
}
