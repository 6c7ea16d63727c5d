//! One end of a link: a network namespace without a name, and a TUN device in it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::fs::OFlags;
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::command;
use crate::namespace::Namespace;

/// Room for packets of 6,500 bytes, the largest that lacuna sends, and their headers.
const MTU_BYTES: &str = "9000";

/// Packets that wait in a device: more than any sender of ours has under way, for they must not be lost there.
const QUEUE_PACKETS: &str = "20000";

const DEVICE: &str = "link0";

/// Of a side; both are in one network.
const PREFIX_BITS: u8 = 24;

/// IP packets without a header of the driver (linux/if_tun.h: IFF_TUN, IFF_NO_PI).
const TUN_WITHOUT_HEADER: u16 = 0x0001 | 0x1000;

/// linux/if_tun.h: `TUNSETIFF`, defined with the size of an int.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// linux/if.h: `struct ifreq`, of which TUNSETIFF reads the name and the flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// See the module.
#[derive(Debug)]
pub struct Side {
    device: File,
    namespace: File,
    address: Ipv4Addr,
}

impl Side {
    pub(super) fn new(address: Ipv4Addr) -> Result<Self> {
        // A thread of its own enters the new namespace; the descriptors outlive it.
        let made = thread::spawn(move || Self::make(address)).join();
        made.map_err(|_| anyhow!("the thread of a namespace panicked"))?
    }

    fn make(address: Ipv4Addr) -> Result<Self> {
        // SAFETY: only the network of this thread changes; it goes on to share descriptors with all others.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .context("cannot make a network namespace: run this as root")?;
        let device = tun()?;
        let namespace = File::open("/proc/thread-self/ns/net").context("cannot hold a network namespace")?;
        let side = Self {
            device,
            namespace,
            address,
        };
        side.ip(&["link", "set", "lo", "up"])?;
        // Without addresses of its own making, the kernel sends nothing that nobody asked for.
        side.ip(&["link", "set", DEVICE, "addrgenmode", "none"])?;
        side.ip(&[
            "link",
            "set",
            DEVICE,
            "mtu",
            MTU_BYTES,
            "txqueuelen",
            QUEUE_PACKETS,
            "up",
        ])?;
        side.ip(&["addr", "add", &side.network(), "dev", DEVICE])?;
        Ok(side)
    }

    /// Takes this side's address away and gives it another one of the same network.
    pub fn change_address(&mut self, address: Ipv4Addr) -> Result<()> {
        self.ip(&["addr", "del", &self.network(), "dev", DEVICE])?;
        self.address = address;
        self.ip(&["addr", "add", &self.network(), "dev", DEVICE])
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// For other processes, as long as this side lives.
    pub fn namespace(&self) -> Namespace {
        Namespace::new(PathBuf::from(format!(
            "/proc/{}/fd/{}",
            process::id(),
            self.namespace.as_raw_fd()
        )))
    }

    /// A socket of this process on this side.
    pub fn socket(&self) -> Result<UdpSocket> {
        // A thread of its own enters the namespace; a socket stays where it was made.
        let make = || -> Result<UdpSocket> {
            move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(UdpSocket::bind((self.address, 0))?)
        };
        let made = thread::scope(|scope| scope.spawn(make).join());
        made.map_err(|_| anyhow!("the thread of a socket panicked"))?
    }

    /// Packets of this side.
    pub(super) fn device(&self) -> io::Result<File> {
        self.device.try_clone()
    }

    fn network(&self) -> String {
        format!("{}/{PREFIX_BITS}", self.address)
    }

    fn ip(&self, words: &[&str]) -> Result<()> {
        command::run(self.namespace().command("ip").args(words)).map(drop)
    }
}

/// A new TUN device in the network namespace of this thread; it goes when the last descriptor does.
fn tun() -> Result<File> {
    let mut name = [0; 16];
    name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    let request = InterfaceRequest {
        name,
        flags: TUN_WITHOUT_HEADER,
        rest: [0; 22],
    };
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/net/tun", flags, rustix::fs::Mode::empty()).context(
        "cannot open /dev/net/tun: `modprobe tun`, or start the container with `--device /dev/net/tun`",
    )?;
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which `InterfaceRequest` has the layout and the size of.
    unsafe { ioctl(&device, Setter::<TUNSETIFF, _>::new(request)) }.context("cannot make a TUN device")?;
    Ok(File::from(device))
}
