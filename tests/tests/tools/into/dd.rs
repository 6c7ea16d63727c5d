//! dd into the mount: it seeks over zeros, flushes, and writes with O_DIRECT.

use std::fs;

use anyhow::Result;
use lacuna_tests::compare::Space;
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, samples};

use super::{edges_into_mount, ensure_arrived, into_mount, operand};

#[test]
fn sparse() -> Result<()> {
    into_mount(&samples::random_extents()?, Space::AtMost, |source, target| {
        let words = [
            operand("if=", source),
            operand("of=", target),
            "bs=4k".into(),
            "conv=sparse,fsync".into(),
        ];
        command::tool("dd", words).map(drop)
    })
}

#[test]
fn edges() -> Result<()> {
    edges_into_mount(Space::AtMost, |source, target| {
        let words = [
            operand("if=", source),
            operand("of=", target),
            "bs=4k".into(),
            "conv=sparse".into(),
        ];
        command::tool("dd", words).map(drop)
    })
}

/// Small blocks over the whole of an older volume, in place.
#[test]
fn in_place_over_an_older_volume() -> Result<()> {
    let sample = &samples::edges()?[4];
    let length = usize::try_from(fs::metadata(sample)?.len())?;
    let rig = Rig::filled(|dir| Ok(fs::write(dir.join("written"), vec![0xaa; length])?))?;
    let words = [
        operand("if=", sample),
        operand("of=", &rig.volume("written")),
        "bs=1000".into(),
        "conv=notrunc".into(),
    ];
    command::tool("dd", words)?;
    ensure_arrived(&rig, sample, "written", Space::Same)
}

#[test]
fn direct() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let source = super::local(
        &rig,
        "source",
        &lacuna_tests::random::Random::new(1).bytes(8 << 20),
    )?;
    for flag in ["oflag=direct", "oflag=sync", "oflag=direct,dsync"] {
        let words = [
            operand("if=", &source),
            operand("of=", &rig.volume("written")),
            "bs=256k".into(),
            flag.into(),
        ];
        command::tool("dd", words)?;
        ensure_arrived(&rig, &source, "written", Space::Same)?;
    }
    Ok(())
}
