//! Hosts without /dev/fuse, and users who may not use it. Each runs in a mount namespace of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use lacuna_tests::{binaries, command};

use crate::Stage;

/// Replaces /dev by one with only what any program needs, then `$1` prepares it and the rest runs.
const OTHER_DEV: &str = r#"
set -eu
mount -t tmpfs none "$1"
for node in null zero random urandom; do
    touch "$1/$node"
    mount --bind "/dev/$node" "$1/$node"
done
if [ "$2" = private ]; then
    mknod -m 600 "$1/fuse" c 10 229
fi
mount --move "$1" /dev
shift 2
exec "$@"
"#;

/// `lacuna mount` where /dev holds no fuse, or one (`private`) that only root may open.
fn mount_with_dev(stage: &Stage, dev: &str, user: &[&str]) -> Result<command::Ended> {
    let state = stage.client.state();
    // The target folder may lie where only root can go.
    let lacuna = stage.sandbox.join("lacuna");
    fs::copy(binaries::lacuna()?, &lacuna)?;
    let mut command = stage.sandbox.command("unshare");
    command.env("LACUNA_STATE", state).args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        OTHER_DEV,
        "sh",
    ]);
    command.arg(stage.sandbox.folder("dev")?).arg(dev).args(user);
    command::finish(
        command
            .arg(lacuna)
            .args(["mount", &stage.spec()])
            .arg(&stage.mountpoint),
    )
}

#[test]
fn without_dev_fuse() -> Result<()> {
    let stage = Stage::new()?;
    let ended = mount_with_dev(&stage, "none", &[])?;
    stage.ensure_refused(&ended, &["/dev/fuse"])
}

#[test]
fn without_permission() -> Result<()> {
    let stage = Stage::new()?;
    // The folders above must let the user pass, or the test would be about them.
    for dir in stage
        .mountpoint
        .ancestors()
        .take_while(|dir| dir.starts_with(stage.sandbox.path()))
    {
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    command::tool(
        "chown",
        [
            "-R".as_ref(),
            "65534:65534".as_ref(),
            stage.client.state().as_os_str(),
        ],
    )?;
    command::tool("chown", ["65534:65534".as_ref(), stage.mountpoint.as_os_str()])?;
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let ended = mount_with_dev(&stage, "private", &user)?;
    stage.ensure_refused(&ended, &[])
}
