//! Volumes that the command line names: `--device NAME=/dev/X`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use lacuna_transport::path::NodeName;

use crate::backend::device::Device;
use crate::backend::export::NamedVolume;

/// `NAME=PATH`: the name is all before the first `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPath {
    pub(super) name: NodeName,
    pub(super) path: PathBuf,
}

impl FromStr for NamedPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, path) = text
            .split_once('=')
            .filter(|(_, path)| !path.is_empty())
            .ok_or("write NAME=DEVICE, like disk=/dev/sdb")?;
        let name = NodeName::new(name.as_bytes()).map_err(|error| format!("'{name}' is no name: {error}"))?;
        let path = path.into();
        Ok(Self { name, path })
    }
}

/// Opens the devices.
pub(super) fn open(asked: &[NamedPath], read_only: bool) -> anyhow::Result<BTreeMap<NodeName, Device>> {
    let mut volumes = BTreeMap::new();
    let mut names_by_number = BTreeMap::new();
    for NamedPath { name, path } in asked {
        anyhow::ensure!(
            !volumes.contains_key(name),
            "cannot serve {} as '{name}': another volume has that name; choose another",
            path.display()
        );
        // Before it is opened again, which would say that somebody has it: it is us.
        if let Some(other) = Device::number_at(path).and_then(|number| names_by_number.insert(number, name)) {
            anyhow::bail!(
                "cannot serve {} as '{name}': it is served as '{other}' already; name it once",
                path.display()
            );
        }
        let device = Device::open(name, path, read_only)?;
        tracing::info!(volume = %name, device = %path.display(), "serving a device");
        volumes.insert(name.clone(), device);
    }
    Ok(volumes)
}

/// Starts to look for the zeros of the devices.
pub(super) fn search(
    devices: BTreeMap<NodeName, Device>,
) -> anyhow::Result<BTreeMap<NodeName, Arc<dyn NamedVolume>>> {
    let mut volumes: BTreeMap<NodeName, Arc<dyn NamedVolume>> = BTreeMap::new();
    for (name, mut device) in devices {
        device.search_in_background()?;
        volumes.insert(name, Arc::new(device));
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_path() {
        let parsed: NamedPath = "disk=/dev/disk/by-id/a=b".parse().unwrap();
        assert_eq!(parsed.name.as_bytes(), b"disk");
        assert_eq!(parsed.path, PathBuf::from("/dev/disk/by-id/a=b"));
    }

    #[test]
    fn what_is_neither_is_refused_with_advice() {
        for text in ["/dev/sdb", "disk=", "", "="] {
            let error = text.parse::<NamedPath>().unwrap_err();
            assert!(error.contains("NAME=DEVICE"), "{text}: {error}");
        }
        for text in ["a/b=/dev/sdb", "..=/dev/sdb", "=/dev/sdb"] {
            let error = text.parse::<NamedPath>().unwrap_err();
            assert!(error.contains("is no name"), "{text}: {error}");
        }
    }
}
