//! Each test gives things up in a thread of its own, which is all that it holds for.

use std::fs::File;
use std::process::Command;
use std::thread;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketType};

use super::*;

/// Runs `work` in a thread that cannot make the calls a daemon of this role has no use for.
fn confined<T: Send>(role: Role, work: impl FnOnce() -> T + Send) -> T {
    let confine = || -> io::Result<()> {
        refuse_new_privileges()?;
        refuse_calls(role, Threads::Calling)
    };
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            confine().unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn mount() -> rustix::io::Result<()> {
    rustix::mount::mount("none", "/not-there", "tmpfs", MountFlags::empty(), None)
}

#[test]
fn no_program_can_be_started() {
    let start = || Command::new("true").status();
    assert!(start().unwrap().success());
    for role in [Role::Server, Role::Mount] {
        let error = confined(role, start).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{role:?}: {error}");
    }
    assert!(start().unwrap().success(), "it holds for one thread");
}

#[test]
fn the_machine_cannot_be_changed() {
    let chroot = || rustix::process::chroot("/not-there");
    let unmount = || rustix::mount::unmount("/not-there", UnmountFlags::empty());
    assert_eq!(chroot(), Err(Errno::NOENT));
    for role in [Role::Server, Role::Mount] {
        assert_eq!(confined(role, mount), Err(Errno::PERM), "{role:?}");
        assert_eq!(confined(role, chroot), Err(Errno::PERM), "{role:?}");
    }
    assert_eq!(confined(Role::Server, unmount), Err(Errno::PERM));
    if rustix::process::geteuid().is_root() {
        assert_eq!(mount(), Err(Errno::NOENT));
        assert_eq!(
            confined(Role::Mount, unmount),
            Err(Errno::NOENT),
            "it may unmount"
        );
    }
}

#[test]
fn a_server_talks_over_what_it_needs() {
    let socket = |family| move || rustix::net::socket(family, SocketType::DGRAM, None).map(drop);
    for family in [AddressFamily::UNIX, AddressFamily::INET, AddressFamily::INET6] {
        assert_eq!(
            confined(Role::Server, socket(family)),
            socket(family)(),
            "{family:?}"
        );
    }
    let other = AddressFamily::NETLINK;
    assert_eq!(confined(Role::Server, socket(other)), Err(Errno::PERM));
    assert_eq!(confined(Role::Mount, socket(other)), Ok(()));
}

#[test]
fn ordinary_work_goes_on() {
    confined(Role::Server, || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create_new(&path).unwrap().sync_all().unwrap();
        std::fs::rename(&path, folder.path().join("renamed")).unwrap();
        assert_eq!(thread::spawn(|| 1).join().unwrap(), 1, "threads start");
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    });
}

#[test]
fn the_threads_of_a_confined_thread_are_confined() {
    let inner = || thread::spawn(mount).join().unwrap();
    assert_eq!(confined(Role::Server, inner), Err(Errno::PERM));
}

/// As a program would that knows of the filter: by the numbers of the other interface.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_second_number_of_a_call_is_refused() {
    let rules = Rules::from([(libc::SYS_mount, Vec::new())]);
    let program = compile(rules, 1, TargetArch::x86_64).unwrap();
    let refuse = u32::from(SeccompAction::Errno(1));
    let allow = u32::from(SeccompAction::Allow);
    let number = |call: i64| u32::try_from(call).unwrap();
    assert_eq!(run(&program, number(libc::SYS_mount)), refuse);
    assert_eq!(run(&program, number(libc::SYS_read)), allow);
    assert_eq!(run(&program, 0x4000_0000 | number(libc::SYS_mount)), refuse);
    assert_eq!(run(&program, 0x4000_0000 | number(libc::SYS_read)), refuse);
}

/// What the kernel would make of a call of x86-64: as much of its interpreter as these programs use.
#[cfg(target_arch = "x86_64")]
fn run(program: &[sock_filter], call: u32) -> u32 {
    /// AUDIT_ARCH_X86_64 of linux/audit.h.
    const X86_64: u32 = 0xc000_003e;
    let (mut at, mut value) = (0, 0);
    loop {
        let step = &program[at];
        let jump = |taken| usize::from(if taken { step.jt } else { step.jf });
        at += 1;
        match step.code {
            0x20 => value = if step.k == 0 { call } else { X86_64 },
            0x15 => at += jump(value == step.k),
            0x35 => at += jump(value >= step.k),
            0x05 => at += usize::try_from(step.k).unwrap(),
            0x06 => return step.k,
            other => panic!("a step of code {other:#x}"),
        }
    }
}

#[test]
fn capabilities_that_are_not_kept_are_gone() {
    thread::spawn(|| {
        let before = rustix::thread::capabilities(None).unwrap();
        keep_capabilities(CapabilitySet::CHOWN).unwrap();
        let after = rustix::thread::capabilities(None).unwrap();
        assert_eq!(after.effective, before.effective & CapabilitySet::CHOWN);
        assert_eq!(after.permitted, before.permitted & CapabilitySet::CHOWN);
        let refused = rustix::thread::set_capabilities(None, before);
        assert_eq!(
            refused.is_err(),
            before.permitted != after.permitted,
            "taken back"
        );
    })
    .join()
    .unwrap();
}
