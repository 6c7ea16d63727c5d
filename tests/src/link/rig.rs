//! One server and one client that has mounted it, with a link between them.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use super::{Conditions, Link};
use crate::host;
use crate::mount::{Client, Mount};
use crate::rig::Rig;
use crate::sandbox::Sandbox;
use crate::server::Server;

/// Which packets a test loses: the same in each run, as far as the daemons send the same.
const SEED: u64 = 11;

/// The fields end in this order: a client that unmounts needs the link.
#[derive(Debug)]
pub struct LinkedRig {
    pub rig: Rig,
    pub link: Link,
}

impl LinkedRig {
    /// Serves and mounts, with these options, a new folder that `fill` has filled.
    pub fn filled(
        conditions: Conditions,
        options: &[&str],
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        host::require_fuse()?;
        host::require_programs(&["ip", "nsenter"])?;
        let sandbox = Sandbox::new()?;
        let dir = sandbox.folder("served")?;
        fill(&dir)?;
        let link = Link::new(conditions, SEED)?;
        let [of_server, of_client] = link.namespaces();
        let listen = SocketAddr::from((link.server().address(), 0));
        let server = Server::start_inside(&of_server, &sandbox, &dir, listen, &[])?;
        let client = Client::admitted(&sandbox, &server)?.inside(of_client);
        let mount = Mount::new(&client, &server, OsStr::new(""), sandbox.join("mnt"), options)?;
        let rig = Rig {
            mount,
            server,
            sandbox,
            dir,
        };
        Ok(Self { rig, link })
    }
}
