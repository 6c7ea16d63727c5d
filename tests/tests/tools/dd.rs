//! `dd conv=sparse` reads every byte and seeks over blocks of zeros.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use lacuna_tests::command;
use lacuna_tests::compare::Space;
use lacuna_tests::rig::Rig;

use crate::{copy_of, ensure_copy, on_edges};

fn operand(key: &str, path: &Path) -> OsString {
    let mut operand = OsString::from(key);
    operand.push(path);
    operand
}

fn sparse(rig: &Rig, name: &Path) -> Result<()> {
    let copy = copy_of(rig, name);
    let (input, output) = (operand("if=", &rig.volume(name)), operand("of=", &copy));
    // The block size is the unit in which zeros are found: that of the file system below.
    command::tool(
        "dd",
        [
            input,
            output,
            "bs=4096".into(),
            "conv=sparse".into(),
            "status=none".into(),
        ],
    )?;
    ensure_copy(&rig.original(name), &copy, Space::AtMost)
}

crate::on_samples!(sparse: random_extents many_extents);

#[test]
fn edges() -> Result<()> {
    on_edges(sparse)
}
