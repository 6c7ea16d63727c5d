//! sha256sum through the mount equals that of the original.

use std::path::Path;

use anyhow::{Context, Result};
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, compare};

use crate::on_edges;

fn same_digest(rig: &Rig, name: &Path) -> Result<()> {
    let ended = command::tool("sha256sum", [rig.volume(name)])?;
    let digest = ended.text()?.split_whitespace().next().context("no digest")?;
    let expected = compare::digest(&rig.original(name))?;
    let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest.trim_start_matches('\\'), expected);
    Ok(())
}

crate::on_samples!(same_digest: ext4_image random_extents many_extents);

#[test]
fn edges() -> Result<()> {
    on_edges(same_digest)
}
