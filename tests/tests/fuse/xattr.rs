//! Extended attributes: read-only `user.lacuna.*` facts, and errors that do not switch the calls off.

use std::path::Path;

use anyhow::{Result, ensure};
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, listxattr_query, removexattr, setxattr};
use rustix::io::Errno;

use crate::MIB;

fn list(path: &Path) -> Result<Vec<String>> {
    let needed = listxattr_query(path)?;
    let mut bytes = vec![0_u8; needed];
    let length = listxattr(path, &mut bytes[..])?;
    ensure!(
        length == needed,
        "the list has {length} bytes, {needed} were announced"
    );
    let names = bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| Ok(String::from_utf8(name.to_vec())?)).collect()
}

#[test]
fn facts_can_be_listed_and_read() -> Result<()> {
    let rig = Rig::filled(|dir| samples::write_sparse(&dir.join("volume"), 2 * MIB, 1, [(0, MIB)]))?;
    let volume = rig.volume("volume");
    let names = list(&volume)?;
    ensure!(!names.is_empty(), "no attribute is listed");
    for name in &names {
        ensure!(name.starts_with("user.lacuna."), "{name} is listed");
        let needed = getxattr_query(&volume, name.as_str())?;
        let mut value = vec![0_u8; needed];
        ensure!(
            getxattr(&volume, name.as_str(), &mut value[..])? == needed && needed > 0,
            "{name} is empty"
        );
        let mut short = vec![0_u8; needed - 1];
        if !short.is_empty() {
            assert_eq!(
                getxattr(&volume, name.as_str(), &mut short[..]).err(),
                Some(Errno::RANGE),
                "{name}"
            );
        }
    }
    assert_eq!(listxattr(&volume, &mut [0_u8; 1][..]).err(), Some(Errno::RANGE));
    Ok(())
}

#[test]
fn unknown_names_and_changes_are_refused_each_time() -> Result<()> {
    let rig = Rig::filled(|dir| Ok(std::fs::write(dir.join("volume"), "x")?))?;
    let volume = rig.volume("volume");
    let mut value = [0_u8; 64];
    // Twice: an ENOSYS would switch the call off and change the second answer.
    for _ in 0..2 {
        assert_eq!(
            getxattr(&volume, "user.lacuna.nothing", &mut value[..]).err(),
            Some(Errno::NODATA)
        );
        for name in ["user.other", "security.capability", "trusted.x"] {
            let error = getxattr(&volume, name, &mut value[..]).err();
            ensure!(
                matches!(error, Some(Errno::NODATA | Errno::OPNOTSUPP)),
                "{name}: {error:?}"
            );
        }
        let error = setxattr(&volume, "user.lacuna.mine", b"1", XattrFlags::empty()).err();
        ensure!(
            matches!(error, Some(Errno::PERM | Errno::OPNOTSUPP)),
            "setxattr: {error:?}"
        );
        let error = removexattr(&volume, "user.lacuna.mine").err();
        ensure!(
            matches!(error, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NODATA)),
            "removexattr: {error:?}"
        );
        ensure!(!list(&volume)?.is_empty(), "the list is empty after an error");
    }
    Ok(())
}
