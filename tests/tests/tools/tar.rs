//! `tar -S` stores the map of holes, and extracting makes them again.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, compare};

use crate::{copy_of, ensure_copy_with_map, on_edges};

fn create_and_extract(rig: &Rig, name: &Path) -> Result<()> {
    let archive = copy_of(rig, name);
    let create = [
        "-cSf".as_ref(),
        archive.as_os_str(),
        "-C".as_ref(),
        rig.mount.path().as_os_str(),
        name.as_os_str(),
    ];
    command::tool("tar", create)?;
    let (packed, taken) = (
        fs::metadata(&archive)?.len(),
        compare::allocated_bytes(&rig.original(name))?,
    );
    // Each extent takes a note of 24 bytes, and the archive is padded to 10 KiB.
    ensure!(
        packed <= taken + taken / 50 + (64 << 10),
        "the archive has {packed} bytes for {taken} of data"
    );
    let out = rig.sandbox.join("extracted");
    fs::create_dir_all(&out)?;
    command::tool(
        "tar",
        [
            "-xSf".as_ref(),
            archive.as_os_str(),
            "-C".as_ref(),
            out.as_os_str(),
        ],
    )?;
    ensure_copy_with_map(&rig.original(name), &out.join(name))
}

crate::on_samples!(create_and_extract: ext4_image random_extents many_extents huge);

#[test]
fn edges() -> Result<()> {
    on_edges(create_and_extract)
}
